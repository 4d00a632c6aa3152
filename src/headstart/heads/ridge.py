"""Ridge regression on the targets, one-hot for classes: W = (XᶜᵀXᶜ + α I)⁻¹ XᶜᵀYᶜ, intercept free of penalty.

The strength α is that of scikit-learn's ``Ridge``. All strengths come from one decomposition of the smaller side.
Classes are predicted by the largest value; values are no log-odds until a temperature is fitted. Labels (multilabel)
are decided at ½, which the intercept takes off, so that 0 is the border.

**Cost**: O(n·d·min(n, d) + min(n, d)³), plus O(d·t) per strength. **Moments**: exact; a prior needs per-class moments.

References
----------
Hoerl & Kennard (1970), Ridge regression. Golub, Heath & Wahba (1979), Generalized cross-validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from headstart._base.constraints import Allow, Interval, Options
from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError, OptionError
from headstart.heads.base import SCALES, LinearHead, decomposition_flops, rows_by_fold
from headstart.heads.problem import Problem
from headstart.moments.moments import Moments

_DECADES = np.linspace(-3.0, 1.0, 9)  # of the strengths tried, about the mean scatter of a feature; see strengths()


@dataclass(eq=False)
class Ridge(LinearHead):
    """Ridge regression on the targets.

    Parameters
    ----------
    alpha : float or None
        Strength of the penalty α‖W‖²; None chooses one by ``select``.
    scale : {"none", "standard"}
        "standard" divides each feature by its standard deviation first; the weights are folded back.
    select : {"gcv", "loo"}
        What chooses alpha when it is None: generalised cross-validation, which moments allow, or the exact
        leave-one-out squared error, which needs rows.

    Attributes
    ----------
    alpha_ : float
        The strength used.
    """

    alpha: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None
    scale: Annotated[str, SCALES] = "none"
    select: Annotated[str, Options("gcv", "loo")] = "gcv"

    name = "ridge"
    tasks = frozenset({"classification", "multilabel", "regression"})
    few_shot_tasks = frozenset({"regression", "multilabel"})
    from_moments = True
    alpha_: float = field(init=False, repr=False)

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        if prior is not None:
            problem = problem.reweighted(prior * problem.count / problem.counts)
        self.alpha_ = float(self.alpha) if self.alpha is not None else _select_alpha(problem, self.select)
        coef = _coef(problem, self.alpha_, decomposed=self.alpha is None)
        offset = problem.target_mean - (0.5 if problem.task == "multilabel" else 0.0)
        self.coef_, self.intercept_ = problem.to_input_space(coef, offset)

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """Strengths from the strongest down."""
        return [{"alpha": float(alpha)} for alpha in alpha_grid(problem)[::-1]]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """All strengths and folds from one decomposition, exactly as if each had been fitted."""
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        # a head asked for without a strength chooses it once, from all rows: one number, as the best of a grid would be
        chosen = {
            select: _select_alpha(problem, select)
            for select in {s.get("select", "gcv") for s in grid if s["alpha"] is None}
        }
        alphas = np.array([s["alpha"] or chosen[s.get("select", "gcv")] for s in grid])
        for repeat, parts in enumerate(rows_by_fold(folds)):
            for scores_at_alpha, left_out in zip(out, problem.ridge_cv.left_out(parts, alphas), strict=True):
                for left in left_out:
                    scores_at_alpha[repeat, left.rows] = left.scores
        return out - 0.5 if problem.task == "multilabel" else out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """A decomposition, and a solve per fold and strength."""
        return decomposition_flops(
            problem, per_side=10 + folds.size / len(problem.rows) * 40, per_value=2.0 * len(_DECADES)
        )


def alpha_grid(problem: Problem) -> Float:
    """Strengths worth trying, weakest first: from 1e-3 to 10 times the mean scatter of a feature.

    With n < d they go on to 10 times that of a direction: few are left, each with much of the scatter.

    The weakest keeps n < d from running towards no penalty at all, where leave-one-out and GCV are blind.
    """
    if not problem.trace > 0:
        raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
    level = problem.trace / problem.features
    rank = min(problem.features, max(problem.count - 1.0, 1.0))
    reach = _DECADES[-1] + np.log10(problem.features / rank)
    return np.asarray(level * np.logspace(_DECADES[0], reach, 1 + round(2 * (reach - _DECADES[0]))))


def _coef(problem: Problem, alpha: float, *, decomposed: bool) -> Float:
    """Weights of the scaled features, by the smaller side."""
    if decomposed:  # the decomposition is there already
        basis = problem.principal
        return basis.vectors @ ((basis.vectors.T @ problem.cross) / (basis.values + alpha)[:, None])
    try:
        if problem.wide:
            gram = problem.centered @ problem.centered.T
            gram[np.diag_indices_from(gram)] += alpha
            coef = problem.centered.T @ np.linalg.solve(gram, problem.centered_targets)
        else:
            coef = np.linalg.solve(problem.scatter + alpha * np.eye(problem.features), problem.cross)
    except np.linalg.LinAlgError as error:
        raise NumericsError(f"alpha={alpha:g} is too small for these features ({error}). Raise it.") from error
    return np.asarray(coef)


def _select_alpha(problem: Problem, select: str) -> float:
    alphas = alpha_grid(problem)
    errors = gcv(problem, alphas) if select == "gcv" else loo(problem, alphas)
    return float(alphas[len(alphas) - 1 - np.argmin(errors[::-1])])  # of equals, the strongest


def gcv(problem: Problem, alphas: Float) -> Float:
    """Generalised cross-validation, the error at each strength (a,): an exact function of moments."""
    values = problem.principal.values
    projected = (problem.principal.vectors.T @ problem.cross) ** 2 / values[:, None]
    explained = projected.sum(axis=1)
    total = float(problem.target_scatter.sum())
    residual_factor = alphas[:, None] / (values + alphas[:, None])
    residual = np.maximum(total - explained.sum(), 0.0) + residual_factor**2 @ explained
    residual_dof = problem.count - 1.0 - (1.0 - residual_factor).sum(axis=1)
    return np.asarray(problem.count * residual / np.maximum(residual_dof, 1e-9 * problem.count) ** 2)


def loo(problem: Problem, alphas: Float) -> Float:
    """Exact leave-one-out squared error at each strength (a,), e_i / (1 − h_ii). Cost: O(n·(r + t)) each."""
    basis, weights = problem.principal, problem.row_weights
    U = np.sqrt(weights)[:, None] * problem.coordinates / np.sqrt(basis.values)
    Ut_y = U.T @ problem.centered_targets
    square, mean_leverage = U**2, weights / problem.count
    errors = np.empty(len(alphas))
    for i, alpha in enumerate(alphas):
        shrink = basis.values / (basis.values + alpha)
        residual = problem.centered_targets - U @ (shrink[:, None] * Ut_y)
        errors[i] = float(((residual / (1.0 - square @ shrink - mean_leverage)[:, None]) ** 2).sum())
    return errors


def cv_error(parts: Sequence[Moments], alphas: Sequence[float]) -> Float:
    """Held-out squared error of ridge from the moments of the folds alone, with no second pass over rows.

    Parameters
    ----------
    parts : sequence of Moments
        One per fold, e.g. ``bank.summarise(layer, data, by="fold").values()``.
    alphas : sequence of float

    Returns
    -------
    (k, a, t) array
        Sum of squared errors of each fold under the fit on all others, at each alpha, for each target column.

    Notes
    -----
    With the fold's mean m and centred products S_f, C_f about it, and the prediction error b at m:
    SSE = tr(Y_fᵀY_f) − 2⟨W, C_f⟩ + ⟨W, S_f W⟩ + n_f b². Cost: one d × d decomposition per fold.
    """
    if len(parts) < 2:
        raise OptionError(f"Cross-validation needs the moments of two folds or more; got {len(parts)}.")
    total = sum(parts[1:], parts[0])
    return np.stack([_fold_error(total - part, part, np.asarray(alphas, dtype=np.float64)) for part in parts])


def _fold_error(train: Moments, part: Moments, alphas: Float) -> Float:
    problem = Problem("regression", moments=train, precomputed=train.centred)
    basis = problem.principal
    projected = basis.vectors.T @ problem.cross
    errors = np.empty((len(alphas), train.targets))
    for i, alpha in enumerate(alphas):
        coef = basis.vectors @ (projected / (basis.values + alpha)[:, None])
        bias = train.target_mean - part.target_mean + (part.mean - train.mean) @ coef
        inside = np.einsum("dt,dt->t", coef, part.scatter @ coef - 2 * part.cross)
        errors[i] = part.target_scatter + inside + part.count * bias**2
    return errors
