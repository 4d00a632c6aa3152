"""L-BFGS for many smooth convex problems at once, each with its own diagonal preconditioner. Floor 1.

The problems share their data matrix (folds of one data set, labels of one item), so one matrix product serves all of
them. Each keeps its own curvature pairs, step and stopping time; one that is done leaves the batch. No randomness.

References
----------
Nocedal & Wright (2006), Numerical Optimization, algorithms 7.4 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headstart._typing import Float, Ints

_MEMORY = 10
_ARMIJO = 1e-4
_BACKTRACKS = 25
_LAST_BIT = 2e-16
_ROUNDING = 1e-13  # changes of f below this share of |f| are noise

# values x (p, b, t) of the problems numbered (b,) → f (b,), gradient (p, b, t)
Objective: TypeAlias = Callable[[Float, Ints], tuple[Float, Float]]
Pair: TypeAlias = tuple[Float, Float, Float]  # step (p, b, t), change of gradient (p, b, t), 1 / their product (b,)


@dataclass(frozen=True, eq=False)
class Minima:
    """Where a batch stopped: ``x (p, b, t)``, ``value (b,)``, ``steps (b,)``, and which ``converged (b,)``."""

    x: Float
    value: Float
    steps: Ints
    converged: NDArray[np.bool_]


def minimise(objective: Objective, start: Float, inverse: Float, *, tolerance: float, max_steps: int) -> Minima:
    """Minimise a batch of convex functions.

    Parameters
    ----------
    objective : callable
        (values (p, b, t), numbers of the problems (b,)) → (f (b,), gradient (p, b, t)).
    start : (p, b, t) array
    inverse : (p, b, t) array
        Positive preconditioner: about the inverse of the diagonal of the Hessian.
    tolerance : float
        A problem is done when gᵀHg, about twice its distance from the minimum, is below this; H is the preconditioner
        and the inverse Hessian learned so far, whichever says more.
        Below the last bit of f nothing can be told, and it is done whatever the tolerance.
    max_steps : int

    Notes
    -----
    Cost: one call of ``objective`` per step, seldom two; memory of 20 more arrays like ``start``.
    """
    active = np.arange(start.shape[1])
    value, gradient = objective(start, active)
    batch = _LineSearchBatch(active, start, value, gradient, inverse)
    x, best = start.copy(), value.copy()
    steps, converged = np.full(len(active), max_steps), np.zeros(len(active), dtype=bool)
    for step in range(max_steps):
        batch.aim()
        distance = np.maximum(-batch.slope, _dot(batch.gradient, batch.inverse * batch.gradient))
        near = distance <= np.maximum(tolerance, _LAST_BIT * np.abs(batch.value))
        done = near | batch.stuck
        if done.any():
            out = batch.active[done]
            x[:, out], best[out], steps[out], converged[out] = batch.x[:, done], batch.value[done], step, near[done]
            batch.keep(~done)
            if not len(batch.active):
                return Minima(x, best, steps, converged)
        batch.advance(objective)
    x[:, batch.active], best[batch.active] = batch.x, batch.value
    return Minima(x, best, steps, converged)


@dataclass
class _LineSearchBatch:
    """The problems that are still moving."""

    active: Ints
    x: Float
    value: Float
    gradient: Float
    inverse: Float
    pairs: list[Pair] = field(default_factory=list)
    stuck: NDArray[np.bool_] = field(init=False)
    direction: Float = field(init=False)
    slope: Float = field(init=False)

    def __post_init__(self) -> None:
        self.stuck = np.zeros(len(self.active), dtype=bool)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Go on with some of the problems only."""
        self.active, self.value, self.stuck = self.active[mask], self.value[mask], self.stuck[mask]
        self.x, self.gradient, self.inverse = self.x[:, mask], self.gradient[:, mask], self.inverse[:, mask]
        self.direction, self.slope = self.direction[:, mask], self.slope[mask]
        self.pairs = [(s[:, mask], y[:, mask], rho[mask]) for s, y, rho in self.pairs]

    def aim(self) -> None:
        """Where to go next, and how steeply the values fall that way."""
        self.direction = self._quasi_newton()
        self.slope = _dot(self.gradient, self.direction)
        uphill = self.slope > 0  # only by rounding: the memory of a convex problem is positive definite
        if uphill.any():
            self.direction[:, uphill] = -(self.inverse * self.gradient)[:, uphill]
            self.slope = _dot(self.gradient, self.direction)

    def advance(self, objective: Objective) -> None:
        """One step of every problem, shortened until its value falls enough."""
        x, value, gradient = self._line_search(objective, self.direction, self.slope)
        step, change = x - self.x, gradient - self.gradient
        curvature = _dot(step, change)
        sound = curvature > _ROUNDING * np.sqrt(_dot(step, step) * _dot(change, change))
        rho = np.where(sound, 1.0 / np.where(sound, curvature, 1.0), 0.0)  # 0 leaves the pair without effect
        self.pairs = [*self.pairs[1 - _MEMORY :], (step, change, rho)]
        self.x, self.value, self.gradient = x, value, gradient

    def _quasi_newton(self) -> Float:
        """−H·g by the two-loop recursion."""
        q = self.gradient.copy()
        weights = []
        for step, change, rho in reversed(self.pairs):
            weight = rho * _dot(step, q)
            weights.append(weight)
            q -= weight[:, None] * change
        q *= self.inverse
        if self.pairs:
            _, change, rho = self.pairs[-1]
            size = rho * _dot(change, self.inverse * change)
            q *= np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), 1.0)[:, None]
        for (step, change, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            q += (weight - rho * _dot(change, q))[:, None] * step
        return -q

    def _line_search(self, objective: Objective, direction: Float, slope: Float) -> tuple[Float, Float, Float]:
        """Backtrack by quadratic interpolation; a problem whose value does not fall at all is stuck at rounding."""
        size = np.ones(len(self.active))
        x = self.x + direction
        value, gradient = objective(x, self.active)
        for _ in range(_BACKTRACKS):
            high = self._too_high(value, size, slope)
            if not len(high):
                return x, value, gradient
            now = size[high]
            with np.errstate(all="ignore"):
                vertex = -slope[high] * now**2 / (2 * (value[high] - self.value[high] - slope[high] * now))
            size[high] = np.clip(np.where(np.isfinite(vertex), vertex, now / 2), now / 10, now / 2)
            x[:, high] = self.x[:, high] + size[high, None] * direction[:, high]
            value[high], gradient[:, high] = objective(x[:, high], self.active[high])
        high = self._too_high(value, size, slope)
        x[:, high], value[high], gradient[:, high] = self.x[:, high], self.value[high], self.gradient[:, high]
        self.stuck[high] = True
        return x, value, gradient

    def _too_high(self, value: Float, size: Float, slope: Float) -> Ints:
        allowed = self.value + _ARMIJO * size * slope + _ROUNDING * np.abs(self.value)
        return np.flatnonzero(~(value <= allowed))


def _dot(a: Float, b: Float) -> Float:
    return np.asarray(np.einsum("pbt,pbt->b", a, b))
