"""Linear discriminant analysis: one Gaussian per class with a common, shrunken covariance.

.. math:: δ_c(x) = x^T P μ_c − ½ μ_c^T P μ_c + ½ \\mathrm{tr}(PΣ)/n_c + \\log π_c

with P the inverse of the shrunken pooled covariance. The third term undoes a bias: E[μ̂ᵀPμ̂] = μᵀPμ + tr(PΣ)/n_c, so
that the plain rule pushes rare classes down by half of it. Decisions are log-odds.

**Cost**: O(n·d·min(n, d) + min(n, d)³). **Moments**: exact, for any prior.

References
----------
Chen et al. (2010), Shrinkage algorithms for MMSE covariance estimation ("oas"). Kubokawa & Srivastava (2008),
Estimation of the precision matrix of a singular Wishart distribution ("eb"). Wang & Jiang (2018), On the dimension
effect of regularized linear discriminant analysis (the bias term).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from headstart._base.constraints import Interval, Options
from headstart._base.typing import Array, Float, Ints
from headstart.errors import NumericsError
from headstart.heads.base import ABSENT_CLASS_SCORE, SCALES, LinearHead, decomposition_flops, rows_by_fold
from headstart.heads.problem import Problem
from headstart.linalg.ridge_cv import FoldPrediction, lda_scores
from headstart.moments.centred import oas_share

_GRID = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001)
_MOST = 1 - 1e-9  # left-out scores come from a finite penalty
_DEGENERATE = 1e-10  # within-class scatter below this share of the whole is rounding


@dataclass(eq=False)
class Lda(LinearHead):
    """Linear discriminant analysis with shrinkage.

    Parameters
    ----------
    shrinkage : float, "oas" or "eb"
        ρ in (1−ρ)·Σ + ρ·tr(Σ)/d·I; "oas" estimates it, "eb" is the empirical-Bayes ridge Σ + tr(Σ)/n·I.
    scale : {"none", "standard"}
        "standard" divides each feature by its standard deviation first; the weights are folded back.
    correction : bool
        Whether rare classes get back the ½·tr(PΣ)/n_c that estimating their mean costs them.

    Attributes
    ----------
    shrinkage_ : float
        ρ as used.
    """

    shrinkage: Annotated[float | str, Interval(0, 1, closed="right"), Options("oas", "eb")] = "oas"
    scale: Annotated[str, SCALES] = "none"
    correction: bool = True

    name = "lda"
    tasks = frozenset({"classification"})
    few_shot_tasks = frozenset({"classification"})
    from_moments = True
    shrinkage_: float = field(init=False, repr=False)

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        basis = problem.principal
        counts, n = problem.counts, problem.count
        means = (basis.vectors.T @ problem.cross) / counts  # of the classes about the whole, (r, t)
        within = np.diag(basis.values) - (means * counts) @ means.T
        trace = float(np.trace(within))
        if not problem.trace > 0:
            raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
        if trace <= _DEGENERATE * problem.trace:  # every row is its class mean: what is left is the nearest mean
            within, trace = np.zeros_like(within), problem.trace
        self.shrinkage_ = _shrinkage(self.shrinkage, within, n, problem.features)
        level = trace / (n * problem.features)
        covariance = (1 - self.shrinkage_) * within / n + self.shrinkage_ * level * np.eye(len(within))
        try:
            solved = np.asarray(np.linalg.solve(covariance, np.column_stack([means, within / n])), dtype=np.float64)
        except np.linalg.LinAlgError as error:
            raise NumericsError(f"shrinkage={self.shrinkage} is too small for these features ({error}).") from error
        coef, precision_within = solved[:, : len(counts)], solved[:, len(counts) :]
        offset = np.log(counts / n if prior is None else prior) - 0.5 * np.einsum("rt,rt->t", means, coef)
        if self.correction:
            offset += 0.5 * np.trace(precision_within) / counts
        self.coef_, self.intercept_ = basis.to_input_space(coef, offset)

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """Shrinkages from the strongest down."""
        return [{"shrinkage": value} for value in _GRID]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """Discriminant scores from left-out ridge at the same strengths: one decomposition for everything.

        The shrinkage of a fold is met by its strength on average: left-out ridge has one strength for all folds.
        """
        within = _within_trace(problem)
        shrinkages = np.array([min(_resolve_shrinkage(setting["shrinkage"], problem), _MOST) for setting in grid])
        share = np.mean([1.0 - 1.0 / len(np.unique(row)) for row in folds])  # of the rows that a fit sees
        alphas = shrinkages / (1 - shrinkages) * within * share / problem.features
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        for repeat, parts in enumerate(rows_by_fold(folds)):
            training = _TrainingClasses.without(problem, parts)
            for scores_at_alpha, alpha, left_out in zip(
                out, alphas, problem.ridge_cv.left_out(parts, alphas), strict=True
            ):
                for fold, scores in zip(left_out, _fold_scores(problem, left_out, training, alpha), strict=True):
                    scores_at_alpha[repeat, fold.rows] = scores
        return out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """A decomposition, and a solve per fold and strength."""
        return decomposition_flops(
            problem, per_side=10 + folds.size / len(problem.rows) * 40, per_value=2.0 * len(_GRID)
        )


@dataclass(frozen=True, eq=False)
class _TrainingClasses:
    """Classes and spread of the rows that are not left out, for each of k folds."""

    seen: Array  # which classes have rows (k, t)
    counts: Float  # (k, t)
    traces: Float  # of the within-class scatter (k,)

    @classmethod
    def without(cls, problem: Problem, folds: Sequence[Ints]) -> _TrainingClasses:
        rows, T = problem.coordinates, problem.targets
        weighted = problem.row_weights[:, None] * T
        sums, squares = weighted.T @ rows, problem.row_weights * np.einsum("nr,nr->n", rows, rows)
        seen = np.stack([T.sum(axis=0) - T[fold].sum(axis=0) > 0 for fold in folds])
        counts = np.where(seen, np.stack([problem.counts - weighted[fold].sum(axis=0) for fold in folds]), 1.0)
        lengths = np.stack([((sums - weighted[fold].T @ rows[fold]) ** 2).sum(axis=1) for fold in folds])
        square = squares.sum() - np.array([squares[fold].sum() for fold in folds])
        traces = square - np.where(seen, lengths / counts, 0.0).sum(axis=1)
        return cls(seen, counts, np.maximum(traces, _DEGENERATE * square))


def _fold_scores(
    problem: Problem, left: Sequence[FoldPrediction], others: _TrainingClasses, alpha: float
) -> list[Float]:
    """Decisions (m, t) of every fold."""
    counts = np.where(others.seen, others.counts, 0.0)
    n = counts.sum(axis=1, keepdims=True)
    scores_and_norms = lda_scores(left, counts / n, others.counts)
    scale = n + alpha * problem.features * n / others.traces[:, None]  # n / (1 − ρ)
    values = problem.principal.values
    spread = float((values / (values + alpha)).sum()) * scale / n  # tr(PΣ), of all rows and without their classes
    offsets = np.log(others.counts / n) + 0.5 * spread / others.counts
    folds = zip(scores_and_norms, scale, offsets, others.seen, strict=True)
    return [
        np.where(seen, s * (linear - norm / 2) + offset, ABSENT_CLASS_SCORE)
        for (linear, norm), s, offset, seen in folds
    ]


def _within_trace(problem: Problem) -> float:
    between = float((np.einsum("dt,dt->t", problem.cross, problem.cross) / problem.counts).sum())
    trace = problem.trace - between
    return trace if trace > _DEGENERATE * problem.trace else problem.trace


def _resolve_shrinkage(shrinkage: float | str, problem: Problem) -> float:
    if not isinstance(shrinkage, str):
        return float(shrinkage)
    basis = problem.principal
    means = (basis.vectors.T @ problem.cross) / problem.counts
    within = np.diag(basis.values) - (means * problem.counts) @ means.T
    return _shrinkage(shrinkage, within, problem.count, problem.features)


def _shrinkage(shrinkage: float | str, within: Float, n: float, features: int) -> float:
    """ρ, from the pooled within-class scatter in principal coordinates (the rest of its d × d is 0)."""
    if not isinstance(shrinkage, str):
        return float(shrinkage)
    trace = float(np.trace(within))
    if not trace > 0:
        return 1.0
    if shrinkage == "eb":  # Σ + tr(Σ)/n·I is (1−ρ)Σ + ρ·tr(Σ)/d·I up to a factor
        ratio = features / n
        return ratio / (1 + ratio)
    return oas_share(trace / n, float((within**2).sum()) / n**2, rows=n, features=features)
