"""Which features to keep: the group lasso, one group per feature, from centred products alone. Floor 1.

.. math:: \\min_W\\; ½⟨W, SW⟩ − ⟨C, W⟩ + λ·Σ_j ‖w_j‖

with S the scatter of the features, C their products with the targets and w_j the weights (t,) of feature j. Along a
path of falling λ each solution starts from the one before; features that the strong rule leaves out are looked at once
afterwards. Features enter and leave by exact coordinate steps; on those that are in, where the objective is smooth,
Newton's method with conjugate gradients takes over.

References
----------
Yuan & Lin (2006), Model selection and estimation in regression with grouped variables. Tibshirani et al. (2012), Strong
rules for discarding predictors in lasso-type problems. Roth & Fischer (2008), The group-lasso for generalized linear
models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import Array, Float, Ints

_TOLERANCE = 1e-8  # of the optimality conditions, relative to the penalty
_ROUGHLY = 1e-2
_RELAXED = 0.1  # of a Newton step may be left unsolved far from the solution
_NEAR = 0.9  # what pulls less than this share of the penalty is looked at afterwards: it seldom comes in
_STEPS = 200
_INNER = 60
_HALVINGS = 6
_ROUNDING = 1e-13  # of the objective
_JITTER = 1e-10  # of the mean scatter: keeps what only preconditions from being singular


class Products(Protocol):
    """What the objective is made of."""

    @property
    def cross(self) -> Float:
        """Products of features and targets (d, t)."""

    def block(self, kept: Ints) -> Float:
        """Scatter of some features (s, s)."""

    def pull(self, kept: Ints, coef: Float) -> Float:
        """Products of all features with what some of them predict (d, t)."""


@dataclass(frozen=True, eq=False)
class OfScatter:
    """Products from the scatter (d, d) and the cross-products (d, t)."""

    scatter: Float
    cross: Float

    def block(self, kept: Ints) -> Float:
        """Scatter of some features. Cost: s²."""
        return self.scatter[np.ix_(kept, kept)]

    def pull(self, kept: Ints, coef: Float) -> Float:
        """Scatter times weights. Cost: d·s·t."""
        return np.asarray(coef.T @ self.scatter[kept]).T


@dataclass(frozen=True, eq=False)
class OfRows:
    """Products from centred rows (n, d) and targets (n, t), without anything of size d × d."""

    rows: Float
    targets: Float

    @cached_property
    def cross(self) -> Float:
        """Products of features and targets (d, t)."""
        return np.asarray(self.rows.T @ self.targets)

    def block(self, kept: Ints) -> Float:
        """Scatter of some features. Cost: n·s²."""
        some = self.rows[:, kept]
        return np.asarray(some.T @ some)

    def pull(self, kept: Ints, coef: Float) -> Float:
        """Scatter times weights. Cost: n·d·t."""
        return np.asarray(self.rows.T @ (self.rows[:, kept] @ coef))


@dataclass(frozen=True, eq=False)
class Kept:
    """A solution: the features whose weights are not 0.

    Attributes
    ----------
    features : (s,) array of int
        In rising order.
    coef : (s, t) array
    """

    features: Ints
    coef: Float


def largest(products: Products) -> float:
    """The penalty from which on nothing is kept."""
    return float(_norms(products.cross).max(initial=0.0))


def path(
    products: Products, penalties: Sequence[float], starts: Sequence[Kept] | None = None, *, exact: bool = True
) -> Iterator[Kept]:
    """Solutions at falling penalties, each when it is asked for.

    Parameters
    ----------
    products : Products
    penalties : sequence of float
        Falling, positive.
    starts : sequence of Kept, optional
        Solutions of a similar problem at the same penalties, to start from.
    exact : bool
        False stops at about a hundredth of the penalty: enough to see how many features are kept.

    Notes
    -----
    Cost: per penalty about ten solves of s × s systems with t columns, and a look at all features.
    """
    cross = products.cross
    tolerance = _TOLERANCE if exact else _ROUGHLY
    now = Kept(np.zeros(0, dtype=np.int64), np.zeros((0, cross.shape[1])))
    slope, before = -cross, largest(products)
    for place, penalty in enumerate(penalties):
        start = now if starts is None else starts[place]
        likely = _likely(slope, penalty, before)
        likely[start.features] = True
        while True:
            now = _solved(products, np.flatnonzero(likely), start, penalty, tolerance=tolerance)
            slope = products.pull(now.features, now.coef) - cross
            wrong = (_norms(slope) > penalty * (1 + tolerance)) & ~likely
            if not wrong.any():
                break
            likely |= wrong
            start = now
        before = penalty
        yield now


def _likely(slope: Float, penalty: float, before: float) -> Array:
    """The strong rule: what may be kept, if no feature's pull changes faster than the penalty; of that the nearest."""
    return np.asarray(_norms(slope) >= max(2 * penalty - before, _NEAR * penalty))


def _solved(products: Products, likely: Ints, start: Kept, penalty: float, *, tolerance: float) -> Kept:
    coef = np.zeros((len(likely), products.cross.shape[1]))
    coef[np.searchsorted(likely, start.features)] = start.coef
    if len(likely):
        coef = _ActiveSet(products.block(likely), products.cross[likely], penalty).solve(coef, tolerance)
    on = coef.any(axis=1)
    return Kept(likely[on], coef[on])


@dataclass(frozen=True, eq=False)
class _ActiveSet:
    """One problem at one penalty, on the features that are likely to be kept."""

    scatter: Float
    cross: Float
    penalty: float

    def solve(self, coef: Float, tolerance: float) -> Float:
        """From a start (s, t) to the solution."""
        for _ in range(_STEPS):
            slope = self.slope(coef)
            gaps, doubtful = self._gaps(coef, slope)
            gap = float(gaps.max()) / self.penalty
            if gap <= tolerance:
                return coef
            places = np.flatnonzero(doubtful)
            self._enter(coef, slope, places[np.argsort(-gaps[places], kind="stable")])
            if not self._newton(coef, slope, min(gap, _RELAXED)):
                self._enter(coef, slope, np.flatnonzero(coef.any(axis=1)))
        note(f"Selecting features stopped after {_STEPS} steps, {gap:.1g} off; standardise them.")
        return coef

    def slope(self, coef: Float) -> Float:
        """Gradient of the smooth part."""
        on = coef.any(axis=1)
        return np.asarray(coef[on].T @ self.scatter[on]).T - self.cross

    def _gaps(self, coef: Float, slope: Float) -> tuple[Float, Array]:
        """How far each feature is from optimal, and which of them ought to change sides."""
        sizes = _norms(coef)
        on = sizes > 0
        toward = self.scatter.diagonal()[:, None] * coef - slope
        steep = _norms(slope)
        inside = _norms(slope + self.penalty * coef / np.where(on, sizes, 1.0)[:, None])
        gaps = np.where(on, inside, np.maximum(steep - self.penalty, 0.0))
        return gaps, np.where(on, _norms(toward) <= self.penalty, steep > self.penalty)

    def _enter(self, coef: Float, slope: Float, places: Ints) -> None:
        """Exact steps in one feature after another, in place."""
        for j in places:
            own = self.scatter[j, j]
            toward = own * coef[j] - slope[j]
            size = float(np.sqrt(toward @ toward))
            new = toward * ((1 - self.penalty / size) / own) if size > self.penalty and own > 0 else 0.0 * toward
            slope += np.outer(self.scatter[j], new - coef[j])
            coef[j] = new

    def _newton(self, coef: Float, slope: Float, left: float) -> bool:
        """One step among the features that are in, in place, solved up to a share ``left``; False if it failed.

        Features that would turn round leave.
        """
        on = np.flatnonzero(coef.any(axis=1))
        if not len(on):
            return True
        W, scatter, cross = coef[on], self.scatter[np.ix_(on, on)], self.cross[on]
        sizes = _norms(W)
        unit = W / sizes[:, None]
        down = -(slope[on] + self.penalty * unit)
        step = _conjugate(scatter, self.penalty / sizes, unit, down, left=left)
        value = self._value(W, slope[on], cross)
        for halving in range(_HALVINGS):
            new = W + step * 0.5**halving
            new[(new * unit).sum(axis=1) <= 0] = 0.0
            after = self._value(new, scatter @ new - cross, cross)
            if after <= value + _ROUNDING * abs(float(np.vdot(W, cross))):
                coef[on] = new
                slope += np.asarray((new - W).T @ self.scatter[on]).T
                return True
        return False

    def _value(self, W: Float, slope: Float, cross: Float) -> float:
        return float(0.5 * np.vdot(W, slope - cross) + self.penalty * _norms(W).sum())


def _conjugate(scatter: Float, bend: Float, unit: Float, right: Float, *, left: float) -> Float:
    """Solve S V + bend·(V − u(u·V)) = right by preconditioned conjugate gradients, up to a share ``left``."""
    s, t = right.shape
    near = scatter.copy()
    near[np.diag_indices(s)] += bend * (t - 1) / t + _JITTER * np.trace(scatter) / s
    inverse = np.linalg.inv(near)
    found, rest = np.zeros_like(right), right.copy()
    ahead = inverse @ rest
    move, energy = ahead, float(np.vdot(rest, ahead))
    wanted = left * float(np.linalg.norm(right))
    for _ in range(_INNER):
        push = scatter @ move + bend[:, None] * (move - unit * (unit * move).sum(axis=1, keepdims=True))
        curve = float(np.vdot(move, push))
        if curve <= 0:
            break
        found += (energy / curve) * move
        rest -= (energy / curve) * push
        if np.linalg.norm(rest) <= wanted:
            break
        ahead = inverse @ rest
        energy, last = float(np.vdot(rest, ahead)), energy
        move = ahead + (energy / last) * move
    return found


def _norms(rows: Float) -> Float:
    return np.asarray(np.sqrt(np.einsum("dt,dt->d", rows, rows)))
