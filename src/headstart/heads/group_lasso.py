"""Group lasso: squared error on the targets with few features; the weights of all others are exactly 0.

.. math:: \\min_W\\; \\frac{1}{2n}‖Y − XW‖² + α·Σ_j ‖w_j‖

says which features to keep, with one group per feature: its weights for all targets. The objective, and so α, is that
of scikit-learn's ``MultiTaskLasso``, whose coordinate descent solves it: from moments with scatter S and cross-products
C on the rows S^½ and targets S^−½ C, which have the same objective. It shrinks what it keeps, so a ridge is fitted on
the kept features afterwards (the relaxed lasso). α and the ridge's strength are chosen by cross-validation in
``fit(head="group_lasso")``; alone, both by generalised cross-validation, which moments allow. Layers side by side need
comparable units: ``scale="standard"``.

Rotations mix features, and so what is kept changes with them. **Cost**: O(n·d·min(n, d)) and, per strength and fold,
some solves of s × s systems for s kept features. **Moments**: exact; a prior needs per-class moments.

References
----------
Yuan & Lin (2006), Model selection and estimation in regression with grouped variables. Meinshausen (2007), Relaxed
lasso. Chen & Chen (2008), Extended Bayesian information criteria (what choosing costs). Evci et al. (2022), Head2Toe:
utilizing intermediate representations for better transfer learning (norms of weights as the relevance of features).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from scipy.special import betaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lasso_path

from headstart._base.constraints import Allow, Interval
from headstart._base.progress import note
from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError
from headstart.heads.base import SCALES, LinearHead, Setting, decomposition_flops, rows_by_fold
from headstart.heads.problem import Problem
from headstart.linalg.pca import center_and_scale, symmetric_eig

_SHARES = 10.0 ** (-0.15 * np.arange(1, 13))  # of the penalty from which on all weights are 0
_SMALL = 200  # rows up to which the features are counted exactly: where they are few the number hangs on rounding
_ROUGH_TOLERANCE = 1e-4  # enough to see how many features have weights
_MAX_SWEEPS = 10_000
_RANK = 1e-12  # of the largest eigenvalue: less is rounding
_DEAD = 1e-9  # of the largest correlation
_MIN_FEATURES = 10  # that may have weights however few there are
_SAME = 1e-7  # relative: the difference of two errors that are equal
_DECADES = (1.0, 0.0, -1.0, -2.0)  # of the ridge's penalties, about the mean scatter of a feature


@dataclass(eq=False)
class GroupLasso(LinearHead):
    """Ridge on the features that a group lasso keeps.

    Parameters
    ----------
    alpha : float or None
        Strength of the penalty that selects; None chooses one.
    refit : float or None
        Strength of the ridge on what was kept; None chooses one.
    scale : {"none", "standard"}
        "standard" divides each feature by its standard deviation first; the weights are folded back.

    Attributes
    ----------
    alpha_, refit_ : float
        The strengths used.
    selected_features_ : (s,) array of int
        The features with weights.
    """

    alpha: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None
    refit: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None
    scale: Annotated[str, SCALES] = "none"

    name = "group_lasso"
    tasks = frozenset({"classification", "multilabel", "regression"})
    few_shot_tasks = frozenset()
    from_moments = True
    rotation_invariant = False
    selects_features = True
    in_auto = False
    alpha_: float = field(init=False, repr=False)
    refit_: float = field(init=False, repr=False)

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        if prior is not None:
            problem = problem.reweighted(prior * problem.count / problem.counts)
        if not problem.trace > 0:
            raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
        fit = _LassoPath.of(problem)
        self.alpha_, lasso = fit.solutions([self.alpha])[0]
        self.refit_, ridge_coef = fit.refit(lasso.features, [self.refit])[0]
        coef = np.zeros((problem.features, len(problem.target_mean)))
        coef[lasso.features] = ridge_coef
        offset = problem.target_mean - (0.5 if problem.task == "multilabel" else 0.0)
        self.coef_, self.intercept_ = problem.to_input_space(coef, offset)

    @property
    def kept_(self) -> Ints:
        """The name of ``selected_features_`` in version 0.1."""
        return self.selected_features_

    @classmethod
    def grid(cls, problem: Problem) -> list[Setting]:
        """Penalties of both kinds from the strongest down."""
        alphas = _LassoPath.of(problem).alphas()
        level = problem.trace / problem.features
        refits = [float(level * 10.0**decade) for decade in _DECADES]
        return [{"alpha": float(alpha), "refit": refit} for alpha in alphas for refit in refits]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[Setting]) -> Float:
        """The path of every fold from the moments of the others: those of all rows without the fold's."""
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        alphas = list(dict.fromkeys(setting.get("alpha") for setting in grid))
        for repeat, parts in enumerate(rows_by_fold(folds)):
            for fold in parts:
                fit = _LassoPath.without(problem, fold)
                rows = center_and_scale(problem.rows[fold], problem.mean, problem.feature_scale) - fit.shift
                for alpha, (_, lasso) in zip(alphas, fit.solutions(alphas), strict=True):
                    index = [i for i, setting in enumerate(grid) if setting.get("alpha") == alpha]
                    refits = fit.refit(lasso.features, [grid[i].get("refit") for i in index])
                    for i, (_, coef) in zip(index, refits, strict=True):
                        out[i, repeat, fold] = rows[:, lasso.features] @ coef
                out[:, repeat, fold] += problem.target_mean + fit.target_shift
        return out - 0.5 if problem.task == "multilabel" else out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """For every fold and penalty some sweeps over the features."""
        runs = folds.size / len(problem.rows) * len(np.unique(folds)) * len(_SHARES)
        return decomposition_flops(problem, per_side=10 + 2 * runs, per_value=2.0 * runs)


@dataclass(frozen=True, eq=False)
class SparseCoef:
    """A solution: the features (s,) with weights, in rising order, and their weights (s, t)."""

    features: Ints
    coef: Float


def largest_penalty(rows: Float, targets: Float) -> float:
    """The penalty from which on all weights are 0."""
    return float(np.linalg.norm(rows.T @ targets, axis=1).max(initial=0.0))


def lasso_solutions(
    rows: Float, targets: Float, penalties: Sequence[float], *, tolerance: float = 1e-7
) -> Iterator[SparseCoef]:
    """Solve ½‖Y − XW‖² + λ·Σ_j ‖w_j‖ at falling penalties λ, each when it is asked for, from the one before.

    Parameters
    ----------
    rows, targets : (m, d), (m, t) arrays
        Centred.
    penalties : sequence of float
        Falling, positive.
    tolerance : float
        Of the dual gap, relative to ‖Y‖².
    """
    # scikit-learn's loss is divided by the number of rows
    X, Y = np.asfortranarray(rows), np.asfortranarray(targets)
    coef = np.zeros((Y.shape[1], X.shape[1]))
    for penalty in penalties:
        options = {"coef_init": coef, "tol": tolerance, "max_iter": _MAX_SWEEPS}
        with warnings.catch_warnings():  # not converged: said below, as every other note is
            warnings.simplefilter("ignore", ConvergenceWarning)
            _, path, gaps = lasso_path(X, Y, alphas=[penalty / len(X)], **options)
        if gaps[0] * len(X) > tolerance * float(np.vdot(Y, Y)):
            note(f"Selecting features stopped after {_MAX_SWEEPS} sweeps; standardise them.")
        coef = path[:, :, 0]
        features = np.flatnonzero(coef.any(axis=0))
        yield SparseCoef(features, coef[:, features].T)


@dataclass(frozen=True, eq=False)
class _LassoPath:
    """The centred rows that one fit sees of a problem, in its scaled features.

    Attributes
    ----------
    rows, targets : (m, d), (m, t) arrays
        Rows, or roots of the moments, with the same scatter and the same cross-products.
    count : float
        Number of rows behind them, or the sum of their weights.
    target_scatter : float
        Σ (y−ȳ)² over rows and targets.
    shift, target_shift : (d,), (t,) arrays
        Means of the rows it sees about those of the problem.
    """

    rows: Float
    targets: Float
    count: float
    target_scatter: float
    shift: Float
    target_shift: Float

    @classmethod
    def of(cls, problem: Problem) -> _LassoPath:
        """All rows of a problem."""
        if problem.wide:
            rows, targets = problem.centered, problem.centered_targets
        else:
            rows, targets = _roots(problem.scatter, problem.cross)
        no_shift = np.zeros(problem.features), np.zeros(len(problem.target_mean))
        return cls(rows, targets, problem.count, float(problem.target_scatter.sum()), *no_shift)

    @classmethod
    def without(cls, problem: Problem, fold: Ints) -> _LassoPath:
        """All rows but those of a fold: its moments are subtracted, or where rows are few it is left out of them."""
        sqrt_weights, all_targets = np.sqrt(problem.row_weights), problem.centered_targets
        weights = sqrt_weights[fold]
        fold_rows = weights[:, None] * center_and_scale(problem.rows[fold], problem.mean, problem.feature_scale)
        fold_targets = all_targets[fold]
        count = problem.count - float(weights @ weights)
        shift, target_shift = -(weights @ fold_rows) / count, -(weights @ fold_targets) / count
        if problem.wide:
            others = np.setdiff1d(np.arange(len(all_targets)), fold, assume_unique=True)
            rows = problem.centered[others] - np.outer(sqrt_weights[others], shift)
            targets = all_targets[others] - np.outer(sqrt_weights[others], target_shift)
            return cls(rows, targets, count, float((targets**2).sum()), shift, target_shift)
        scatter = problem.scatter - fold_rows.T @ fold_rows - count * np.outer(shift, shift)
        cross = problem.cross - fold_rows.T @ fold_targets - count * np.outer(shift, target_shift)
        target_scatter = problem.target_scatter.sum() - (fold_targets**2).sum() - count * (target_shift @ target_shift)
        return cls(*_roots(scatter, cross), count, max(float(target_scatter), 0.0), shift, target_shift)

    @cached_property
    def cross(self) -> Float:
        """Products of features and targets (d, t)."""
        return np.asarray(self.rows.T @ self.targets)

    @cached_property
    def n_varying(self) -> int:
        """Number of features that are not constant."""
        norms = np.linalg.norm(self.cross, axis=1)
        return int(np.count_nonzero(norms > _DEAD * norms.max()))

    def alphas(self) -> Float:
        """Penalties worth trying, strongest first: until a quarter of the features is in, or half as many as rows.

        Beyond that selecting costs much and leaves little out.
        """
        limit = min(max(_MIN_FEATURES, self.n_varying / 4), self.count / 2)
        # where no feature is correlated with a target any penalty gives no weights
        strongest = largest_penalty(self.rows, self.targets) or 1.0
        penalties = np.asarray(strongest * _SHARES, dtype=np.float64)
        tolerance = 1e-7 if self.count <= _SMALL else _ROUGH_TOLERANCE
        rough = lasso_solutions(self.rows, self.targets, list(penalties), tolerance=tolerance)
        n_useful = next((i for i, lasso in enumerate(rough) if len(lasso.features) > limit), len(penalties))
        return np.asarray(penalties[: max(n_useful, 2)] / self.count)

    def solutions(self, alphas: Sequence[float | None]) -> list[tuple[float, SparseCoef]]:
        """Penalty and solution for each penalty that is asked for; None is chosen by GCV."""
        falling = sorted({alpha for alpha in alphas if alpha is not None}, reverse=True)
        path = lasso_solutions(self.rows, self.targets, [self.count * alpha for alpha in falling])
        by_alpha = dict(zip(falling, path, strict=True))
        return [self._best() if alpha is None else (alpha, by_alpha[alpha]) for alpha in alphas]

    def _best(self) -> tuple[float, SparseCoef]:
        """The penalty whose refit has the least GCV, of equals the strongest.

        Having chosen s of d features counts as log C(d, s) degrees of freedom, as in an extended information criterion:
        without it noise would be selected. With less than two rows per target, or where every penalty takes all degrees
        of freedom, nothing can be judged: the weakest.
        """
        alphas = self.alphas()
        path = lasso_solutions(self.rows, self.targets, list(self.count * alphas))
        solved = list(zip(alphas.tolist(), path, strict=True))
        d, t = self.n_varying, self.targets.shape[1]
        if self.count < 2 * t:
            return solved[-1]
        errors = []
        for _, lasso in solved:
            _, residual, dof = self._ridge(lasso.features)
            s = len(lasso.features)
            n_subsets = betaln(s + 1, d - s + 1) + np.log(d + 1)  # −log C(d, s)
            errors.append(_gcv(residual, dof - n_subsets / t, self.count))
        return solved[_first_least(errors)] if np.isfinite(errors).any() else solved[-1]

    def refit(self, features: Ints, penalties: Sequence[float | None]) -> list[tuple[float, Float]]:
        """Penalty and weights (s, t) of the ridge on some features, for each penalty; None is chosen by GCV."""
        gram, cross = self._gram(features), self.cross[features]
        resolved = [self._ridge(features)[0] if penalty is None else penalty for penalty in penalties]
        identity = np.eye(len(gram))
        return [(p, np.asarray(np.linalg.solve(gram + p * identity, cross), dtype=np.float64)) for p in resolved]

    def _ridge(self, features: Ints) -> tuple[float, float, float]:
        """The ridge of least GCV on some features: penalty, residual sum of squares, degrees of freedom per target."""
        gram = self._gram(features)
        if not len(gram):
            return 1.0, self.target_scatter, 0.0
        values, vectors = symmetric_eig(gram)
        values = np.maximum(values, 0.0)
        projected = ((vectors.T @ self.cross[features]) ** 2).sum(axis=1)
        fits = []
        for penalty in values.mean() * 10.0 ** np.arange(_DECADES[0], _DECADES[-1] - 0.1, -0.5):
            shrunk = values + penalty
            residual = self.target_scatter - float((projected * (values + 2 * penalty) / shrunk**2).sum())
            fits.append((float(penalty), residual, float((values / shrunk).sum())))
        return fits[_first_least([_gcv(residual, dof, self.count) for _, residual, dof in fits])]

    def _gram(self, features: Ints) -> Float:
        rows = self.rows[:, features]
        return np.asarray(rows.T @ rows)


def _roots(scatter: Float, cross: Float) -> tuple[Float, Float]:
    """Rows (r, d) and targets (r, t) whose scatter and cross-products these are: S^½ and S^−½ C, rotated."""
    values, vectors = symmetric_eig(scatter)
    positive = values > _RANK * max(float(values[-1]), 0.0)
    root, vectors = np.sqrt(values[positive])[:, None], vectors[:, positive]
    return root * vectors.T, (vectors.T @ cross) / root


def _first_least(errors: Sequence[float]) -> int:
    """Index of the least error; of those that differ by rounding alone, the first, which is the strongest penalty."""
    return int(np.flatnonzero(np.asarray(errors) <= min(errors) * (1 + _SAME) + _SAME)[0])


def _gcv(residual: float, dof: float, count: float) -> float:
    """Generalised cross-validation from the residual sum of squares and the degrees of freedom."""
    remaining = count - 1.0 - dof
    return count * max(residual, 0.0) / remaining**2 if remaining > 1e-9 * count else np.inf
