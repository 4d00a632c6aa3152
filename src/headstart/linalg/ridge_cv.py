"""Held-out ridge predictions of every row, for all penalties and folds, from one decomposition.

With U the principal directions of the rows, a penalty shrinks by g = s²/(s² + α). The hat matrix is
H = √w√wᵀ/Σw + U·g·Uᵀ, and the residuals of rows f that were left out of the fit are **exactly**

.. math:: E_f = (I − H_{ff})^{-1} R_f,

one small solve per fold and penalty and no second fit. Where a fold has about as many rows as there are features the
same numbers come from the normal equations without the fold. Left-out rows change the explained cross-products
D = Tᵀ X (S + α)⁻¹ Xᵀ T by R_fᵀ E_f, from which discriminant analysis follows (:func:`discriminants`).

References
----------
Cook & Weisberg (1982), Residuals and Influence in Regression (deletion of groups); Hastie, Buja & Tibshirani (1995),
Penalized discriminant analysis (scores of LDA from those of regression).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headstart._base.typing import Array, Float, Ints
from headstart.errors import NumericsError


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """One fold left out, at one penalty.

    Attributes
    ----------
    rows : (m,) array
        Which rows were left out.
    scores : (m, t) array
        What the ridge fitted on all others predicts for them.
    explained : (t, t) array
        Tᵀ X (S + α)⁻¹ Xᵀ T of the others, centred.
    """

    rows: Ints
    scores: Float
    explained: Float


@dataclass(frozen=True, eq=False)
class FoldRidge:
    """Ridge on rows in principal coordinates, ready to leave folds out.

    Attributes
    ----------
    rows : (n, r) array
        Principal coordinates, centred by the weighted mean.
    values : (r,) array
        Their weighted scatter.
    targets : (n, t) array
    weights : (n,) array
        Positive.
    """

    rows: Float
    values: Float
    targets: Float
    weights: Float

    def left_out(self, members: list[Ints], penalties: Float) -> Iterator[list[FoldPrediction]]:
        """For each penalty, every fold of ``members`` left out in turn.

        Cost: n·r·t + n·r·m + n·m² per penalty for folds of m ≤ 0.8 r rows, else n·r·t, and r³ per penalty and fold.
        """
        order = np.concatenate(members)  # each fold in one piece, gathered once for all penalties
        rest = np.setdiff1d(np.arange(len(self.rows)), order)
        fit = self.full_fit.take(np.concatenate([order, rest]))
        ends = np.cumsum([0, *map(len, members)])
        folds = [slice(start, end) for start, end in itertools.pairwise(ends)]
        is_large = [5 * len(fold) > 4 * len(self.values) for fold in members]  # where the other way costs less
        normal = [_NormalEquations.of(fit, fold) if m else None for fold, m in zip(folds, is_large, strict=True)]
        for penalty in penalties:
            full = fit.at(float(penalty))
            predictions = [
                full.leave_out_by_hat(fold) if equations is None else equations.at(float(penalty))
                for fold, equations in zip(folds, normal, strict=True)
            ]
            yield [FoldPrediction(fold, *left) for fold, left in zip(members, predictions, strict=True)]

    @cached_property
    def full_fit(self) -> _FullFit:
        """Shared by all penalties and folds. Cost: n·r·t; memory: n·r."""
        sqrt_weights = np.sqrt(self.weights)
        mean = self.weights @ self.targets / self.weights.sum()
        centered_targets = sqrt_weights[:, None] * (self.targets - mean)
        U = self.rows * sqrt_weights[:, None]
        U /= np.sqrt(self.values)
        return _FullFit(self.values, mean, U.T @ centered_targets, sqrt_weights, centered_targets, U)


@dataclass(frozen=True, eq=False)
class _FullFit:
    """Everything that does not depend on the penalty."""

    values: Float  # (r,)
    mean: Float  # of the targets (t,)
    Ut_y: Float  # Uᵀ away (r, t)
    sqrt_weights: Float  # √w (n,)
    centered_targets: Float  # √w (T − mean) (n, t)
    U: Float  # (n, r), orthonormal columns

    def take(self, order: Ints) -> _FullFit:
        """The same with its rows in another order."""
        return replace(
            self, sqrt_weights=self.sqrt_weights[order], centered_targets=self.centered_targets[order], U=self.U[order]
        )

    def at(self, penalty: float) -> _FoldFit:
        shrink = self.values / (self.values + penalty)
        shrunk = shrink[:, None] * self.Ut_y
        residual = self.centered_targets - self.U @ shrunk
        return _FoldFit(self, shrink, residual, self.Ut_y.T @ shrunk)


@dataclass(frozen=True, eq=False)
class _NormalEquations:
    """The normal equations without one fold: coordinates and intercept, but for the penalty."""

    gram: Float  # (r + 1, r + 1)
    right: Float  # (r + 1, t)
    inside: Float  # the fold's coordinates, and 1 (m, r + 1)
    mean: Float  # of the targets (t,)

    @classmethod
    def of(cls, full: _FullFit, fold: slice) -> _NormalEquations:
        lengths = np.append(np.sqrt(full.values), 1.0)
        weighted = np.column_stack([full.U[fold], full.sqrt_weights[fold]]) * lengths
        gram = np.diag(np.append(full.values, full.sqrt_weights @ full.sqrt_weights)) - weighted.T @ weighted
        right = -(weighted.T @ full.centered_targets[fold])
        right[:-1] += lengths[:-1, None] * full.Ut_y
        return cls(gram, right, weighted / full.sqrt_weights[fold, None], full.mean)

    def at(self, penalty: float) -> tuple[Float, Float]:
        """Leave out a fold of many rows: solve for the others. (scores, explained) of the fold."""
        matrix = self.gram.copy()
        inner = np.arange(len(matrix) - 1)
        matrix[inner, inner] += penalty
        solved = _solve(matrix, self.right)
        explained = self.right.T @ solved - np.outer(self.right[-1], self.right[-1]) / self.gram[-1, -1]
        return self.inside @ solved + self.mean, _symmetrize(explained)


@dataclass(frozen=True, eq=False)
class _FoldFit:
    """The fit on all rows at one penalty."""

    full_fit: _FullFit
    shrink: Float  # (r,)
    residual: Float  # √w-weighted (n, t)
    explained: Float  # (t, t)

    def leave_out_by_hat(self, fold: slice) -> tuple[Float, Float]:
        """Leave out a fold of few rows: solve with I − H. (scores, explained) of the fold."""
        full = self.full_fit
        sqrt_weights, centered_targets, residual = (
            full.sqrt_weights[fold],
            full.centered_targets[fold],
            self.residual[fold],
        )
        total = full.sqrt_weights @ full.sqrt_weights
        half = full.U[fold] * np.sqrt(self.shrink)
        matrix = -(half @ half.T)
        matrix -= np.outer(sqrt_weights, sqrt_weights) / total
        matrix[np.diag_indices_from(matrix)] += 1.0
        error = _solve(matrix, residual)
        scores = (centered_targets - error) / sqrt_weights[:, None] + full.mean
        # Tᵀ T of the others about their own mean, less what their fit leaves over
        outside = sqrt_weights @ centered_targets
        scatter = -(centered_targets.T @ centered_targets) - np.outer(outside, outside) / (
            total - sqrt_weights @ sqrt_weights
        )
        return scores, _symmetrize(self.explained + scatter + residual.T @ error)


def _solve(matrix: Float, right: Float) -> Float:
    # numpy's own LAPACK: scipy brings a second BLAS, whose threads and numpy's spin against each other in a loop
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise NumericsError(
            f"A {len(matrix)} × {len(matrix)} system is singular when a fold is left out: the penalty is too small for "
            "these features. Raise alpha, or leave it to be chosen (alpha=None)."
        ) from error


def _symmetrize(matrix: Float) -> Float:
    return (matrix + matrix.T) / 2


def lda_scores(folds: Sequence[FoldPrediction], means: Float, counts: Float) -> list[tuple[Float, Float]]:
    """Scores of discriminant analysis with within-class scatter S_W + α, from those of ridge at the same α.

    Parameters
    ----------
    folds : sequence of k FoldPrediction
        Ridge on one-hot targets.
    means : (k, t) array
        Mean of the others' targets, fold by fold.
    counts : (k, t) array
        (Weighted) rows of each class among the others, all positive; of a class without rows any number will do.

    Returns
    -------
    linear : (m, t) array
        (x − μ)ᵀ Q (μ_c − μ) with Q = (S_W + α)⁻¹; for each fold.
    norm : (t,) array
        (μ_c − μ)ᵀ Q (μ_c − μ). With covariance (S_W + α)/κ the score of class c is κ·(linear − norm / 2) + log prior.

    Notes
    -----
    With M the class means, A = S + α and N = diag(counts): (S_W + α)⁻¹M = A⁻¹M (I − N MᵀA⁻¹M)⁻¹.
    """
    explained = np.stack([fold.explained for fold in folds]) / counts[:, None]
    try:
        turns = np.linalg.inv(np.eye(counts.shape[1]) - explained)
    except np.linalg.LinAlgError as error:
        raise NumericsError("Some class has no spread of its own and no shrinkage is left. Raise shrinkage.") from error
    norms = np.einsum("kab,kba->ka", explained / counts[:, :, None], turns)
    together = zip(folds, means, counts, turns, norms, strict=True)
    return [(((fold.scores - mean) / count) @ turn, norm) for fold, mean, count, turn, norm in together]


# --- the same from the n × n side: features enter only as the products of the rows ---


def centered_gram(X: Array, *, standard: bool) -> Float:
    """Products (n, n) of the centred rows; ``standard`` divides features by their standard deviation first."""
    rows = np.asarray(X, dtype=np.float64)
    rows = rows - rows.mean(axis=0)
    if standard:
        deviation = rows.std(axis=0)
        rows /= np.where(deviation > 1e-9 * max(float(deviation.max(initial=0.0)), 1e-300), deviation, np.inf)
    return np.asarray(rows @ rows.T)


def kernel_out_of_fold(K: Float, T: Float, folds: Sequence[Ints], penalty: float) -> Float:
    """Predictions (n, t) of every row by the ridge that was fitted without its fold.

    Parameters
    ----------
    K : (n, n) array
        Products of the rows.
    T : (n, t) array
    folds : sequence of (m,) arrays
        The rows of each fold.
    penalty : float
        Positive.

    Notes
    -----
    Cost: one n × n inverse, n²·t, and m³ + m²·t per fold.
    """
    n = len(K)
    matrix = K.copy()
    matrix[np.diag_indices(n)] += penalty
    try:
        inverse = np.linalg.inv(matrix)
        column_sums = inverse.sum(axis=0)
        inverse -= np.outer(column_sums, column_sums) / column_sums.sum()
        duals = inverse @ T
        scores = np.empty_like(duals)
        for fold in folds:
            scores[fold] = T[fold] - np.linalg.solve(inverse[np.ix_(fold, fold)], duals[fold])
    except np.linalg.LinAlgError as error:
        raise NumericsError("The penalty is too small for these features. Raise it.") from error
    return scores
