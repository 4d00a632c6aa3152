"""The problem that a head solves: features and targets, from rows or moments, prepared once for every solver.

From fewer rows than features nothing of size d × d is ever formed. All statistics are centred, in float64, and of the
*scaled* features; :meth:`Problem.to_input_space` brings weights back to the features as they were given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import DataError, NumericsError, OptionError
from headstart.linalg.pca import (
    PrincipalCoordinates,
    center_and_scale,
    feature_scale,
    pca_of_rows,
    pca_of_scatter,
    row_blocks,
    unscale_coef,
)
from headstart.linalg.ridge_cv import FoldRidge
from headstart.moments.centred import Centred
from headstart.moments.moments import Moments

# --- checks of a fit's inputs: shapes, kinds and numbers ---


def check_rows(X: Array, T: Array, task: str) -> tuple[Array, Float]:
    """Features and targets whose shapes, kinds and numbers suit the task; targets as float64."""
    X, T = np.asanyarray(X), np.asarray(T)
    problems = [
        f"{name} must be {wish}; got shape {array.shape}, dtype {array.dtype}."
        for name, array, wish in (("X", X, "(n, d) real features"), ("T", T, "(n, t) real targets"))
        if array.ndim != 2 or array.dtype.kind not in "fiub"
    ]
    if T.ndim == 1:
        problems.append("For classes give T = np.eye(number_of_classes)[labels]; for one column of values, T[:, None].")
    if not problems and (len(X) != len(T) or not X.size or not T.size):
        problems.append(f"X is {X.shape} and T {T.shape}; they need one row per item, and at least one.")
    if problems:
        raise DataError("\n".join(problems))
    _check_finite(X, T)
    targets = T.astype(np.float64)
    _check_target_values(targets, task)
    return X, targets


def _check_finite(X: Array, T: Array) -> None:
    bad = sum(int((~np.isfinite(X[part]).all(axis=1)).sum()) for part in row_blocks(*X.shape))
    if bad:
        raise NumericsError(
            f"{bad:,} of {len(X):,} rows of features are not finite (NaN or inf). "
            "Leave them out, with their targets: keep = np.isfinite(X).all(axis=1)."
        )
    bad = int((~np.isfinite(T).all(axis=1)).sum())
    if bad:
        raise NumericsError(
            f"{bad:,} of {len(T):,} rows of targets are missing or not finite. "
            "Leave them out, with their features: keep = np.isfinite(T).all(axis=1)."
        )


def _check_target_values(T: Float, task: str) -> None:
    if task == "regression":
        return
    if not ((T == 0) | (T == 1)).all():
        raise DataError(f"Targets of {task} must be 0 or 1; use task='regression' for values.")
    if task == "classification" and not (T.sum(axis=1) == 1).all():
        raise DataError("Each row must be of exactly one class (one-hot); use task='multilabel' for several labels.")


def check_weights(weights: Array | None, rows: int) -> Float | None:
    """Row weights as float64: finite, not negative, not all 0."""
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise OptionError(f"sample_weight must be {rows:,} finite numbers ≥ 0, not all 0; got shape {weights.shape}.")
    return weights


def check_two_classes(counts: Float) -> None:
    """Refuse rows that are all of one class."""
    if np.count_nonzero(counts > 0) < 2:
        raise NumericsError(
            "All rows are of one class: there is nothing to tell apart. Give rows of at least two classes."
        )


def check_prior(prior: Array | None, task: str, columns: int) -> Float | None:
    """Shares of the classes to predict for: positive, of classification; they sum to 1 afterwards."""
    if prior is None:
        return None
    if task != "classification":
        raise OptionError(f"prior= is for classification; this task is {task!r}.")
    shares = np.asarray(prior, dtype=np.float64)
    if shares.shape != (columns,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise OptionError(f"prior must be {columns} positive numbers, one per class; got {prior!r}.")
    return np.asarray(shares / shares.sum())


@dataclass(frozen=True, eq=False)
class Problem:
    """Features and targets of one fit.

    Attributes
    ----------
    task : str
    scale : {"none", "standard"}
        Whether features are divided by their standard deviation.
    X : (n, d) array or None
        Rows as given; None when only moments are known.
    T : (n, t) array or None
    weights : (n,) array or None
        Of the rows; None is 1 each.
    moments : Moments or None
        Given instead of rows.
    precomputed : Centred or None
        Statistics that are known already.
    columns : (t,) array of bool or None
        The target columns of the moments that this problem is about.
    """

    task: str
    scale: str = "none"
    X: Array | None = None
    T: Float | None = None
    weights: Float | None = None
    moments: Moments | None = None
    precomputed: Centred | None = None
    columns: Array | None = None

    @property
    def rows(self) -> Array:
        """The rows; OptionError where there are only moments."""
        if self.X is None:
            raise OptionError("This needs feature rows, and only moments were given. Fit on rows: fit(X, T).")
        return self.X

    @property
    def targets(self) -> Float:
        """The targets (n, t) of the rows."""
        if self.T is None:
            raise OptionError(
                "This needs the targets of the rows, and only moments were given. Fit on rows: fit(X, T)."
            )
        return self.T

    @property
    def features(self) -> int:
        """Number of features d."""
        return len(self.mean)

    @property
    def wide(self) -> bool:
        """True with no more rows than features: then the n × n side is solved."""
        return self.X is not None and len(self.X) <= self.X.shape[1]

    @cached_property
    def row_weights(self) -> Float:
        """Weights (n,) of the rows, none of them 0: a row of weight 0 gets a weight that no digit shows."""
        if self.weights is None:
            return np.ones(len(self.rows))
        return np.asarray(np.maximum(self.weights, 1e-12 * self.weights.max()))

    @cached_property
    def stats(self) -> Centred:
        """Count, means and centred products of the unscaled features; the scatter is left out of wide problems."""
        if self.precomputed is not None:
            return self.precomputed
        return _centered_moments(self.rows, self.targets, self.row_weights, scatter=not self.wide)

    @property
    def count(self) -> float:
        """Number of rows, or the sum of their weights."""
        return float(self.stats.count)

    @property
    def mean(self) -> Float:
        """Mean of the features (d,)."""
        return self.stats.mean

    @property
    def target_mean(self) -> Float:
        """Mean of the targets (t,)."""
        return self.stats.target_mean

    @property
    def target_scatter(self) -> Float:
        """Σ (y−ȳ)² (t,)."""
        return self.stats.target_scatter

    @cached_property
    def counts(self) -> Float:
        """Rows of each class, or their weights (t,)."""
        return self.count * self.target_mean

    @cached_property
    def feature_scale(self) -> Float | None:
        """Divisor of each feature, or None."""
        if self.scale == "none":
            return None
        return feature_scale(self._variance, self.mean, self.scale)

    @cached_property
    def _variance(self) -> Float:
        if not self.wide:
            return np.asarray(self.stats.scatter.diagonal() / self.count)
        centered = center_and_scale(self.rows, self.mean, None)
        return np.asarray(np.einsum("n,nd,nd->d", self.row_weights, centered, centered) / self.count)

    @cached_property
    def centered(self) -> Float:
        """√w·(x−μ)/spread of a wide problem (n, d)."""
        return np.sqrt(self.row_weights)[:, None] * center_and_scale(self.rows, self.mean, self.feature_scale)

    @cached_property
    def centered_targets(self) -> Float:
        """√w·(y−ȳ) of the rows (n, t)."""
        return np.sqrt(self.row_weights)[:, None] * (self.targets - self.target_mean)

    @cached_property
    def scatter(self) -> Float:
        """Scatter of the scaled features (d, d); not for wide problems."""
        return (
            self.stats.scatter
            if self.feature_scale is None
            else self.stats.scatter / np.outer(self.feature_scale, self.feature_scale)
        )

    @cached_property
    def trace(self) -> float:
        """Trace of the scatter of the scaled features."""
        return float(np.einsum("nd,nd->", self.centered, self.centered)) if self.wide else float(np.trace(self.scatter))

    @cached_property
    def cross(self) -> Float:
        """Σ (x−μ)(y−ȳ)ᵀ of the scaled features (d, t)."""
        if self.wide:
            return np.asarray(self.centered.T @ self.centered_targets)
        return self.stats.cross if self.feature_scale is None else self.stats.cross / self.feature_scale[:, None]

    @cached_property
    def principal(self) -> PrincipalCoordinates:
        """Principal coordinates of the scaled features. Cost: O(min(n, d)³ + n·d·min(n, d))."""
        if self.wide:
            return pca_of_rows(self.centered, self.mean, self.feature_scale)
        return pca_of_scatter(self.mean, self.stats.scatter, self.feature_scale)

    @cached_property
    def coordinates(self) -> Float:
        """The rows in principal coordinates (n, r)."""
        return self.principal.coordinates(self.rows)

    @cached_property
    def ridge_cv(self) -> FoldRidge:
        """Ridge of the rows, ready to leave folds out."""
        return FoldRidge(self.coordinates, self.principal.values, self.targets, self.row_weights)

    def scaled(self, scale: str) -> Problem:
        """The same rows with another scaling; what does not depend on it is not computed again."""
        return self if scale == self.scale else replace(self, scale=scale, precomputed=self.stats)

    def select_targets(self, mask: Array) -> Problem:
        """The same problem for some of the target columns only."""
        if mask.all():
            return self
        T = None if self.T is None else self.T[:, mask]
        return replace(self, T=T, precomputed=_select_targets(self.stats, mask), columns=mask)

    def to_input_space(self, coef: Float, offset: Float) -> tuple[Float, Float]:
        """Weights (d, t) of scaled features and offsets at their mean, as (coef, intercept) of plain features."""
        return unscale_coef(coef, offset, self.mean, self.feature_scale)

    def reweighted(self, factors: Float) -> Problem:
        """The same problem with every row of class c counted ``factors[c]`` times.

        From moments it needs each class's own scatter (``per_class=True``).
        """
        if self.moments is None:
            return replace(self, weights=self.row_weights * (self.targets @ factors), precomputed=None)
        columns = np.ones(self.moments.targets, dtype=bool) if self.columns is None else self.columns
        class_factors = np.zeros(len(columns))
        class_factors[columns] = factors
        return replace(self, precomputed=_select_targets(self.moments.weighted(class_factors), columns))


def _select_targets(stats: Centred, mask: Array) -> Centred:
    return replace(
        stats,
        target_mean=stats.target_mean[mask],
        cross=stats.cross[:, mask],
        target_scatter=stats.target_scatter[mask],
    )


def _centered_moments(X: Array, T: Float, weights: Float, *, scatter: bool) -> Centred:
    """Two passes over the rows: means, then centred products; blocks of rows are raised to float64."""
    total = float(weights.sum())
    origin = np.asarray(X[0], dtype=np.float64)
    mean = np.zeros(X.shape[1])
    for part in row_blocks(*X.shape):
        mean += weights[part] @ np.subtract(X[part], origin, dtype=np.float64)
    mean = origin + mean / total
    target_mean = weights @ T / total
    centered_targets = T - target_mean
    square = np.zeros((X.shape[1], X.shape[1])) if scatter else np.zeros((0, 0))
    cross = np.zeros((X.shape[1], T.shape[1]))
    root = np.sqrt(weights)[:, None]
    for part in row_blocks(*X.shape):
        rows = root[part] * center_and_scale(X[part], mean, None)
        if scatter:
            square += rows.T @ rows
        cross += rows.T @ (root[part] * centered_targets[part])
    return Centred(
        total, mean, square, target_mean, cross, np.einsum("n,nt,nt->t", weights, centered_targets, centered_targets)
    )


def make_problem(X: Array | Moments, T: Array | None, *, task: str, scale: str, sample_weight: Array | None) -> Problem:
    """Check what was given and make a problem of it.

    Raises
    ------
    DataError
        When shapes or kinds do not fit the task.
    NumericsError
        When features or targets are not finite, or there is a single class.
    """
    if isinstance(X, Moments):
        problem = _from_moments(X, T, task=task, scale=scale, sample_weight=sample_weight)
    else:
        problem = _from_rows(X, T, task=task, scale=scale, sample_weight=sample_weight)
    if task == "classification":
        check_two_classes(problem.counts)
    return problem


def _from_moments(m: Moments, T: Array | None, *, task: str, scale: str, sample_weight: Array | None) -> Problem:
    if T is not None or sample_weight is not None:
        raise OptionError("Moments hold their targets and know no rows: give fit(moments) without T or sample_weight.")
    if not m.count or not m.targets:
        raise DataError(f"A head needs rows with targets; got {m!r}. Use Moments.from_rows(X, T).")
    if task == "classification" and not m.is_one_hot:
        raise DataError("These moments do not hold one-hot targets. Use T = np.eye(classes)[labels], or another task.")
    if task == "multilabel" and not m.is_binary:
        raise DataError("These moments hold targets other than 0 and 1. Use task='regression' for values.")
    return Problem(task, scale, moments=m, precomputed=m.centred)


def _from_rows(X: Array, T: Array | None, *, task: str, scale: str, sample_weight: Array | None) -> Problem:
    if T is None:
        raise DataError("fit(X, T) needs targets T (n, t): one-hot classes, 0 and 1 labels, or values.")
    X, targets = check_rows(X, T, task)
    return Problem(task, scale, X, targets, check_weights(sample_weight, len(X)))
