"""Logistic regression with an L2 penalty: softmax for classes, one sigmoid per label for multilabel.

.. math:: \\min_{W,b}\\; C·Σ_i w_i\\,\\mathrm{CE}(y_i, W^T x_i + b) + ½‖W‖²

The objective, and so C, is scikit-learn's; two classes are one sigmoid, as there. The penalty does not see rotations:
the rows are solved in principal coordinates, at most n − 1 of them, where the Hessian's diagonal is known, and all
strengths, folds and labels share one batch of preconditioned L-BFGS, each strength started from the one before.
Deterministic. **Cost**: one decomposition, then about 10 to 60 passes of O(n·r·t). **Moments**: no, it needs rows.

References
----------
Nocedal & Wright (2006), Numerical Optimization. Böhning (1992), Multinomial logistic regression algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from headstart._base.constraints import Interval
from headstart._base.progress import note
from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError
from headstart.heads.base import SCALES, LinearHead, decomposition_flops, rows_by_fold
from headstart.heads.problem import Problem
from headstart.linalg.softmax_regression import CrossEntropyBatch

_CV_TOLERANCE = (
    1e-6  # error of the mean loss; at 1e-5 separable classes of new speakers scored 10 points above the true fit
)
_DECADES = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(eq=False)
class Logistic(LinearHead):
    """Logistic regression with an L2 penalty.

    Parameters
    ----------
    C : float
        Inverse strength of the penalty, as in scikit-learn.
    scale : {"none", "standard"}
        "standard" divides each feature by its standard deviation first; the weights are folded back.
    tol : float
        Error of the mean loss at which the solver stops.
    max_iter : int

    Attributes
    ----------
    n_iter_ : int
        Steps of the solver.
    """

    C: Annotated[float, Interval(0, None, closed="neither")] = 1.0
    scale: Annotated[str, SCALES] = "none"
    tol: Annotated[float, Interval(0, None, closed="neither")] = 1e-7
    max_iter: Annotated[int, Interval(1, None, integer=True)] = 1000

    name = "logistic"
    tasks = frozenset({"classification", "multilabel"})
    few_shot_tasks = frozenset({"classification", "multilabel"})
    from_moments = False
    n_iter_: int = field(init=False, repr=False)

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        if not problem.trace > 0:
            raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
        batch = _make_batch(problem, problem.row_weights[:, None])
        solution = batch.solve(1.0 / self.C, tolerance=self.tol, max_steps=self.max_iter)
        self.n_iter_ = int(solution.steps.max())
        if not solution.converged.all() and self.n_iter_ >= self.max_iter:
            note(f"Logistic stopped after max_iter={self.max_iter} steps; raise max_iter or tol, or lower C.")
        columns = _as_columns(solution.x[:, None], problem)[:, 0]
        coef, offset = columns[:-1], columns[-1]
        if prior is not None:
            offset = offset + np.log(prior) - np.log(problem.counts / problem.count)
        self.coef_, self.intercept_ = problem.principal.to_input_space(coef, offset)

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """C = 1, and strengths about the size of the features, from the strongest down."""
        size = problem.trace / problem.count  # mean squared distance of a row from the mean
        around = {float(f"{10**decade / size:.3g}") for decade in _DECADES}
        return [{"C": value} for value in sorted({1.0, *around})]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """All folds as one batch, along the path of strengths, each started where the one before ended."""
        parts = [(repeat, fold) for repeat, group in enumerate(rows_by_fold(folds)) for fold in group]
        weights = np.repeat(problem.row_weights[:, None], len(parts), axis=1)
        for column, (_, fold) in enumerate(parts):
            weights[fold, column] = 0.0
        batch = _make_batch(problem, weights)
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        start = None
        for i in np.argsort([setting["C"] for setting in grid], kind="stable"):
            solution = batch.solve(1.0 / grid[i]["C"], start, tolerance=_CV_TOLERANCE)
            start = solution.x
            scores = _as_columns(
                batch.scores(solution.x).reshape(len(weights), -1, solution.x.shape[2]), problem, len(parts)
            )
            for column, (repeat, fold) in enumerate(parts):
                out[i, repeat, fold] = scores[fold, column]
        return out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """Some 20 passes per strength over the rows, for every fold."""
        return decomposition_flops(problem, per_side=10, per_value=4.0 * 20 * len(_DECADES) * 5 * len(folds))


def _make_batch(problem: Problem, weights: Float) -> CrossEntropyBatch:
    """The batch: one problem per column of weights, and per label for multilabel."""
    rows = np.column_stack([problem.coordinates, np.ones(len(problem.targets))])
    targets = problem.targets
    if problem.task == "multilabel":
        labels = np.repeat(targets, weights.shape[1], axis=1)[:, :, None]
        return CrossEntropyBatch(rows, labels, np.tile(weights, targets.shape[1]), "sigmoid")
    if targets.shape[1] == 2:
        return CrossEntropyBatch(rows, targets[:, None, 1:], weights, "sigmoid")
    return CrossEntropyBatch(rows, targets[:, None, :], weights, "softmax")


def _as_columns(x: Float, problem: Problem, batch: int = 1) -> Float:
    """Solutions (p, b·labels, …) as one column per class or label (p, b, t)."""
    if problem.task == "multilabel":
        return np.moveaxis(x.reshape(len(x), -1, batch), 1, 2)
    x = x.reshape(len(x), batch, -1)
    return x if x.shape[2] > 1 else np.concatenate([-x / 2, x / 2], axis=2)
