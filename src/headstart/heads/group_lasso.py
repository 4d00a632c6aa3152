"""Group lasso: squared error on the targets with few features; the weights of all others are exactly 0.

.. math:: \\min_W\\; \\frac{1}{2n}‖Y − XW‖² + α·Σ_j ‖w_j‖

says which features to keep, with one group per feature: its weights for all targets. The objective, and so α, is that
of scikit-learn's ``MultiTaskLasso``. It shrinks what it keeps, so a ridge is fitted on the kept features afterwards
(the relaxed lasso). α and the ridge's strength are chosen by cross-validation in ``fit(head="group_lasso")``; alone,
both by generalised cross-validation, which moments allow. Layers side by side need comparable units:
``scale="standard"``.

Rotations mix features, and so what is kept changes with them. **Cost**: O(n·d·min(n, d)) and, per strength and fold,
some solves of s × s systems for s kept features. **Moments**: exact; a prior needs per-class moments.

References
----------
Yuan & Lin (2006), Model selection and estimation in regression with grouped variables. Meinshausen (2007), Relaxed
lasso. Chen & Chen (2008), Extended Bayesian information criteria (what choosing costs). Evci et al. (2022), Head2Toe:
utilizing intermediate representations for better transfer learning (norms of weights as the relevance of features).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from scipy.special import betaln

from headstart._base.constraints import Allow, Interval
from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError
from headstart.heads.base import SCALES, LinearHead, decomposition_flops, rows_by_fold
from headstart.heads.problem import Problem
from headstart.linalg.multitask_lasso import Kept, OfRows, OfScatter, largest, path
from headstart.linalg.pca import center_and_scale, symmetric_eig

_SHARES = 10.0 ** (-0.15 * np.arange(1, 13))  # of the strength from which on nothing is kept
_SMALL = 200  # rows up to which the number of kept features is found exactly: where they are few it hangs on rounding
_DEAD = 1e-9  # of the largest pull
_FEW = 10  # features that may be kept however few there are
_SAME = 1e-7  # relative: what two errors that are equal may differ by
_DECADES = (1.0, 0.0, -1.0, -2.0)  # of the ridge's strengths, about the mean scatter of a feature


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
    kept_ : (s,) array of int
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
        fit = _PathFit.of(problem)
        self.alpha_, kept = fit.kept([self.alpha])[0]
        self.refit_, some = fit.refitted(kept, [self.refit])[0]
        coef = np.zeros((problem.features, len(problem.target_mean)))
        coef[kept.features] = some
        offset = problem.target_mean - (0.5 if problem.task == "multilabel" else 0.0)
        self.coef_, self.intercept_ = problem.to_input_space(coef, offset)

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """Strengths of both kinds from the strongest down."""
        alphas = _PathFit.of(problem).alphas()
        level = problem.trace / problem.features
        refits = [float(level * 10.0**decade) for decade in _DECADES]
        return [{"alpha": float(alpha), "refit": refit} for alpha in alphas for refit in refits]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """The path of every fold from the moments of the others: those of all rows without the fold's own."""
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        alphas = list(dict.fromkeys(setting.get("alpha") for setting in grid))
        for repeat, parts in enumerate(rows_by_fold(folds)):
            for fold in parts:
                fit = _PathFit.without(problem, fold)
                rows = center_and_scale(problem.rows[fold], problem.mean, problem.feature_scale) - fit.shift
                for alpha, (_, kept) in zip(alphas, fit.kept(alphas), strict=True):
                    places = [i for i, setting in enumerate(grid) if setting.get("alpha") == alpha]
                    found = fit.refitted(kept, [grid[i].get("refit") for i in places])
                    for place, (_, coef) in zip(places, found, strict=True):
                        out[place, repeat, fold] = rows[:, kept.features] @ coef
                out[:, repeat, fold] += problem.target_mean + fit.target_shift
        return out - 0.5 if problem.task == "multilabel" else out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """For every fold and strength some solves with part of the features."""
        runs = folds.size / len(problem.rows) * len(np.unique(folds)) * len(_SHARES)
        return decomposition_flops(problem, per_side=10 + 2 * runs, per_value=2.0 * runs)


@dataclass(frozen=True, eq=False)
class _PathFit:
    """What one fit sees of a problem, in the problem's scaled features.

    Attributes
    ----------
    products : OfScatter or OfRows
    count : float
    target_scatter : float
        Σ (y−ȳ)² over rows and targets.
    shift, target_shift : (d,), (t,) arrays
        Means of the rows it sees about those of the problem.
    """

    products: OfScatter | OfRows
    count: float
    target_scatter: float
    shift: Float
    target_shift: Float

    @classmethod
    def of(cls, problem: Problem) -> _PathFit:
        """All of a problem."""
        products: OfScatter | OfRows = (
            OfScatter(problem.scatter, problem.cross)
            if not problem.wide
            else (OfRows(problem.centered, problem.centered_targets))
        )
        still = np.zeros(problem.features), np.zeros(len(problem.target_mean))
        return cls(products, problem.count, float(problem.target_scatter.sum()), *still)

    @classmethod
    def without(cls, problem: Problem, fold: Ints) -> _PathFit:
        """All rows but those of a fold: its moments are subtracted, or where rows are few it is left out of them."""
        root, away = np.sqrt(problem.row_weights), problem.centered_targets
        inside = root[fold, None] * center_and_scale(problem.rows[fold], problem.mean, problem.feature_scale)
        count = problem.count - float(root[fold] @ root[fold])
        shift, target_shift = -(root[fold] @ inside) / count, -(root[fold] @ away[fold]) / count
        if problem.wide:
            others = np.setdiff1d(np.arange(len(away)), fold, assume_unique=True)
            rows = problem.centered[others] - np.outer(root[others], shift)
            targets = away[others] - np.outer(root[others], target_shift)
            return cls(OfRows(rows, targets), count, float((targets**2).sum()), shift, target_shift)
        scatter = problem.scatter - inside.T @ inside - count * np.outer(shift, shift)
        cross = problem.cross - inside.T @ away[fold] - count * np.outer(shift, target_shift)
        left = float(problem.target_scatter.sum() - (away[fold] ** 2).sum() - count * (target_shift @ target_shift))
        return cls(OfScatter(scatter, cross), count, max(left, 0.0), shift, target_shift)

    @cached_property
    def alive(self) -> int:
        """Number of features that say anything: those that are constant are none."""
        pulls = np.linalg.norm(self.products.cross, axis=1)
        return int(np.count_nonzero(pulls > _DEAD * pulls.max()))

    def alphas(self) -> Float:
        """Strengths worth trying, strongest first: until a quarter of the features is kept, or half as many as rows.

        Beyond that selecting costs much and leaves little out.
        """
        most = min(max(_FEW, self.alive / 4), self.count / 2)
        reach = largest(self.products) or 1.0  # where nothing pulls at the targets any strength keeps nothing
        penalties = np.asarray(reach * _SHARES, dtype=np.float64)
        rough = path(self.products, list(penalties), exact=self.count <= _SMALL)
        last = next((place for place, kept in enumerate(rough) if len(kept.features) > most), len(penalties))
        return np.asarray(penalties[: max(last, 2)] / self.count)

    def kept(self, alphas: Sequence[float | None]) -> list[tuple[float, Kept]]:
        """Strength and solution for each strength that is asked for; None is chosen by GCV."""
        known = sorted({alpha for alpha in alphas if alpha is not None}, reverse=True)
        found = dict(zip(known, path(self.products, [self.count * alpha for alpha in known]), strict=True))
        return [(alpha, found[alpha]) if alpha is not None else self._best() for alpha in alphas]

    def _best(self) -> tuple[float, Kept]:
        """The strength whose refit has the least GCV, of equals the strongest.

        Having chosen s of d features counts as log C(d, s) degrees of freedom, as in an extended information criterion:
        without it noise would be kept. With less than two rows per target, or where every strength takes all degrees of
        freedom, nothing can be judged: the weakest.
        """
        alphas = self.alphas()
        solved = list(zip(alphas.tolist(), path(self.products, list(self.count * alphas)), strict=True))
        d, t = self.alive, self.products.cross.shape[1]
        if self.count < 2 * t:
            return solved[-1]
        errors = []
        for _, kept in solved:
            _, left, free = self._strength(kept)
            s = len(kept.features)
            errors.append(_gcv(left, free - (betaln(s + 1, d - s + 1) + np.log(d + 1)) / t, self.count))
        return solved[_least(errors)] if np.isfinite(errors).any() else solved[-1]

    def refitted(self, kept: Kept, refits: Sequence[float | None]) -> list[tuple[float, Float]]:
        """Strength and weights (s, t) of the ridge on the kept features, for each strength; None is chosen by GCV."""
        block, cross = self.products.block(kept.features), self.products.cross[kept.features]
        strengths = [self._strength(kept)[0] if refit is None else refit for refit in refits]
        whole = np.eye(len(block))
        return [(one, np.asarray(np.linalg.solve(block + one * whole, cross), dtype=np.float64)) for one in strengths]

    def _strength(self, kept: Kept) -> tuple[float, float, float]:
        """The ridge of least GCV on the kept features: strength, squared error left, degrees of freedom per target."""
        block = self.products.block(kept.features)
        if not len(block):
            return 1.0, self.target_scatter, 0.0
        values, vectors = symmetric_eig(block)
        values = np.maximum(values, 0.0)
        pulled = ((vectors.T @ self.products.cross[kept.features]) ** 2).sum(axis=1)
        found = []
        for strength in values.mean() * 10.0 ** np.arange(_DECADES[0], _DECADES[-1] - 0.1, -0.5):
            shrunk = values + strength
            left = self.target_scatter - float((pulled * (values + 2 * strength) / shrunk**2).sum())
            found.append((float(strength), left, float((values / shrunk).sum())))
        return found[_least([_gcv(left, free, self.count) for _, left, free in found])]


def _least(errors: Sequence[float]) -> int:
    """The place of the least error; of those that differ by rounding alone, the first, which is the strongest."""
    return int(np.flatnonzero(np.asarray(errors) <= min(errors) * (1 + _SAME) + _SAME)[0])


def _gcv(left: float, free: float, count: float) -> float:
    """Generalised cross-validation: what is left over, and the degrees of freedom that it took."""
    rest = count - 1.0 - free
    return count * max(left, 0.0) / rest**2 if rest > 1e-9 * count else np.inf
