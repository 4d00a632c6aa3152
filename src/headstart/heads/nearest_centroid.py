"""The nearest class mean: the head for one to four examples per class, where nothing else can be estimated.

.. math:: δ_c(x) = (x^T μ_c − ½‖μ_c‖²)/σ² \\;(+ \\log π_c), \\qquad σ² = \\mathrm{tr}(Σ_W)/d

Without a prior all classes count alike, which makes it robust to imbalance. With one, it is the Gaussian rule with
covariance σ²I. **Cost**: O(n·d). **Moments**: exact.

References
----------
Tibshirani et al. (2002), Diagnosis of multiple cancer types by shrunken centroids. Kang et al. (2020), Decoupling
representation and classifier (nearest class mean under imbalance).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError
from headstart.heads.base import ABSENT_CLASS_SCORE, SCALES, LinearHead, decomposition_flops
from headstart.heads.problem import Problem

_SMALLEST = 1e-300  # rows that are all the same
_DEGENERATE = 1e-10  # within-class scatter below this share of the whole is rounding


@dataclass(eq=False)
class NearestCentroid(LinearHead):
    """The nearest class mean.

    Parameters
    ----------
    scale : {"none", "standard"}
        "standard" measures distances in standard deviations of each feature; the weights are folded back.
    """

    scale: Annotated[str, SCALES] = "none"

    name = "nearest_centroid"
    tasks = frozenset({"classification"})
    few_shot_tasks = frozenset({"classification"})
    from_moments = True
    learns_prior = False

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        if not problem.trace > 0:
            raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
        means = problem.cross / problem.counts
        norms = np.einsum("dt,dt->t", means, means)
        within = problem.trace - float(norms @ problem.counts)
        variance = _variance(within, problem.trace, problem.count * problem.features)
        offset = -0.5 * norms / variance
        self.coef_, self.intercept_ = problem.to_input_space(
            means / variance, offset if prior is None else offset + np.log(prior)
        )

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """There is nothing to set."""
        return [{}]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """Class means without the fold: sums less the fold's. Cost: O(n·r) per fold."""
        rows, weights = problem.coordinates, problem.row_weights
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        norms = np.einsum("nr,nr->n", rows, rows)
        for repeat, assignment in enumerate(folds):
            for fold in np.unique(assignment):
                held_out = assignment == fold
                others = np.where(held_out, 0.0, weights)
                counts = others @ problem.targets
                present = counts > 0
                means = (problem.targets[:, present].T @ (others[:, None] * rows)) / counts[present, None]
                sizes = np.einsum("tr,tr->t", means, means)
                total = float(others @ norms)
                variance = _variance(total - float(sizes @ counts[present]), total, others.sum() * problem.features)
                out[:, repeat, held_out] = ABSENT_CLASS_SCORE
                out[:, repeat, np.flatnonzero(held_out)[:, None], np.flatnonzero(present)] = (
                    rows[held_out] @ means.T - sizes / 2
                ) / variance
        return out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """Two products per fold, in principal coordinates."""
        return decomposition_flops(problem, per_side=10, per_value=20.0 * len(folds))


def _variance(within: float, total: float, size: float) -> float:
    """σ²; where every row is its class mean, that of all rows."""
    return max(within if within > _DEGENERATE * total else total, _SMALLEST) / size
