"""Cross-entropy with an L2 penalty, softmax or sigmoid, for many weightings of the same rows at once. Floor 1.

For weights w (n, b), one column per problem (a fold is a column of zeros and ones):

.. math:: f_b(W, c) = Σ_i w_{ib}\\,\\mathrm{CE}(y_i, z_i W + c) + ½ λ ‖W‖²

The rows are given in principal coordinates, where the diagonal of the Hessian is known beforehand: scatter × curvature
p(1−p). That preconditioner makes the number of L-BFGS steps nearly independent of the features' conditioning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from headstart._base.typing import Float, Ints

# --- L-BFGS for many smooth convex problems at once, each with its own diagonal preconditioner ---


_MEMORY = 10
_ARMIJO = 1e-4
_BACKTRACKS = 25
_LAST_BIT = 2e-16
_ROUNDING = 1e-13  # changes of f below this share of |f| are noise

# values x (p, b, t) of the problems numbered (b,) → f (b,), gradient (p, b, t)
BatchObjective: TypeAlias = Callable[[Float, Ints], tuple[Float, Float]]
CurvaturePair: TypeAlias = tuple[
    Float, Float, Float
]  # step (p, b, t), change of gradient (p, b, t), 1 / their product (b,)


@dataclass(frozen=True, eq=False)
class BatchMinimum:
    """The end of a batch: ``x (p, b, t)``, ``value (b,)``, ``steps (b,)``, and which ``converged (b,)``."""

    x: Float
    value: Float
    steps: Ints
    converged: NDArray[np.bool_]


def minimize_batch(
    objective: BatchObjective, start: Float, inverse: Float, *, tolerance: float, max_steps: int
) -> BatchMinimum:
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
        distance = np.maximum(-batch.directional_derivative, _dot(batch.gradient, batch.inverse * batch.gradient))
        near = distance <= np.maximum(tolerance, _LAST_BIT * np.abs(batch.value))
        done = near | batch.stuck
        if done.any():
            out = batch.active[done]
            x[:, out], best[out], steps[out], converged[out] = batch.x[:, done], batch.value[done], step, near[done]
            batch.keep(~done)
            if not len(batch.active):
                return BatchMinimum(x, best, steps, converged)
        batch.advance(objective)
    x[:, batch.active], best[batch.active] = batch.x, batch.value
    return BatchMinimum(x, best, steps, converged)


@dataclass
class _LineSearchBatch:
    """The problems that are still moving."""

    active: Ints
    x: Float
    value: Float
    gradient: Float
    inverse: Float
    pairs: list[CurvaturePair] = field(default_factory=list)
    stuck: NDArray[np.bool_] = field(init=False)
    direction: Float = field(init=False)
    directional_derivative: Float = field(init=False)

    def __post_init__(self) -> None:
        self.stuck = np.zeros(len(self.active), dtype=bool)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Go on with some of the problems only."""
        self.active, self.value, self.stuck = self.active[mask], self.value[mask], self.stuck[mask]
        self.x, self.gradient, self.inverse = self.x[:, mask], self.gradient[:, mask], self.inverse[:, mask]
        self.direction, self.directional_derivative = self.direction[:, mask], self.directional_derivative[mask]
        self.pairs = [(s[:, mask], y[:, mask], rho[mask]) for s, y, rho in self.pairs]

    def aim(self) -> None:
        """Set the search direction, and the directional derivative along it."""
        self.direction = self._quasi_newton()
        self.directional_derivative = _dot(self.gradient, self.direction)
        uphill = (
            self.directional_derivative > 0
        )  # only by rounding: the memory of a convex problem is positive definite
        if uphill.any():
            self.direction[:, uphill] = -(self.inverse * self.gradient)[:, uphill]
            self.directional_derivative = _dot(self.gradient, self.direction)

    def advance(self, objective: BatchObjective) -> None:
        """One step of every problem, shortened until its value falls enough."""
        x, value, gradient = self._line_search(objective, self.direction, self.directional_derivative)
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

    def _line_search(
        self, objective: BatchObjective, direction: Float, derivative: Float
    ) -> tuple[Float, Float, Float]:
        """Backtrack by quadratic interpolation; a problem whose value does not fall at all is stuck at rounding."""
        size = np.ones(len(self.active))
        x = self.x + direction
        value, gradient = objective(x, self.active)
        for _ in range(_BACKTRACKS):
            high = self._too_high(value, size, derivative)
            if not len(high):
                return x, value, gradient
            now = size[high]
            with np.errstate(all="ignore"):
                vertex = -derivative[high] * now**2 / (2 * (value[high] - self.value[high] - derivative[high] * now))
            size[high] = np.clip(np.where(np.isfinite(vertex), vertex, now / 2), now / 10, now / 2)
            x[:, high] = self.x[:, high] + size[high, None] * direction[:, high]
            value[high], gradient[:, high] = objective(x[:, high], self.active[high])
        high = self._too_high(value, size, derivative)
        x[:, high], value[high], gradient[:, high] = self.x[:, high], self.value[high], self.gradient[:, high]
        self.stuck[high] = True
        return x, value, gradient

    def _too_high(self, value: Float, size: Float, derivative: Float) -> Ints:
        allowed = self.value + _ARMIJO * size * derivative + _ROUNDING * np.abs(self.value)
        return np.flatnonzero(~(value <= allowed))


def _dot(a: Float, b: Float) -> Float:
    return np.asarray(np.einsum("pbt,pbt->b", a, b))


_LEAST_CURVATURE = 1e-6
_SHARP = 1e-5
_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class CrossEntropyBatch:
    """The objective of a batch of penalised problems over the same rows.

    Attributes
    ----------
    rows : (n, r + 1) array
        Principal coordinates and a last column of ones.
    targets : (n, b, t) or (n, 1, t) array
        One-hot or shares for ``softmax``; 0 and 1, with t = 1, for ``sigmoid``.
    weights : (n, b) array
    link : {"softmax", "sigmoid"}
    """

    rows: Float
    targets: Float
    weights: Float
    link: str

    def solve(
        self, penalty: float, start: Float | None = None, *, tolerance: float = 1e-8, max_steps: int = 500
    ) -> BatchMinimum:
        """Minimise all problems for one penalty λ, from ``start`` (r + 1, b, t) or from the class shares.

        ``tolerance`` is the error of the mean loss at which a problem is done. Where classes come apart the curvature
        falls by orders on the way, and what looked done at the first curvature may not be: a sharp tolerance is asked
        again with the curvature there.
        """
        size = tolerance * float(self.weights.sum(axis=0).max())
        result = self._descend(penalty, self.initial() if start is None else start, tolerance=size, max_steps=max_steps)
        for _ in range(_ROUNDS if tolerance < _SHARP else 0):
            if result.steps.max() >= max_steps:
                break
            more = self._descend(penalty, result.x, tolerance=size, max_steps=max_steps)
            result = BatchMinimum(more.x, more.value, result.steps + more.steps, more.converged)
            if not more.steps.any():
                break
        return result

    def _descend(self, penalty: float, start: Float, *, tolerance: float, max_steps: int) -> BatchMinimum:
        inverse = self._inverse_diagonal(start, penalty)
        return minimize_batch(
            lambda x, which: self.value(x, which, penalty), start, inverse, tolerance=tolerance, max_steps=max_steps
        )

    def initial(self) -> Float:
        """No weights, and intercepts that give the class shares."""
        total_weight = np.maximum(self.weights.sum(axis=0), 1e-300)
        share = (
            np.einsum("nb,nbt->bt", self.weights, np.broadcast_to(self.targets, self._shape())) / total_weight[:, None]
        )
        share = np.clip(share, 1e-9, 1 - 1e-9)
        start = np.zeros((self.rows.shape[1], *share.shape))
        start[-1] = np.log(share) if self.link == "softmax" else np.log(share / (1 - share))
        return start

    def scores(self, x: Float) -> Float:
        """Values z·W + c (n, b, t) of all rows."""
        p, b, t = x.shape
        return np.asarray((self.rows @ x.reshape(p, b * t)).reshape(-1, b, t))

    def value(self, x: Float, which: Ints, penalty: float) -> tuple[Float, Float]:
        """Objective (b,) and gradient (p, b, t) of the problems numbered ``which``."""
        scores = self.scores(x)
        weights = self.weights[:, which]
        targets = self.targets if self.targets.shape[1] == 1 else self.targets[:, which]
        loss = _softmax(scores, targets) if self.link == "softmax" else _sigmoid(scores, targets)
        scores *= weights[:, :, None]
        gradient = (self.rows.T @ scores.reshape(len(scores), -1)).reshape(x.shape)
        gradient[:-1] += penalty * x[:-1]
        norm = np.einsum("pbt,pbt->b", x[:-1], x[:-1])
        return np.einsum("nb,nb->b", weights, loss) + 0.5 * penalty * norm, gradient

    def _shape(self) -> tuple[int, int, int]:
        return len(self.rows), self.weights.shape[1], self.targets.shape[2]

    def _inverse_diagonal(self, x: Float, penalty: float) -> Float:
        proba = self.scores(x)
        _softmax(proba, np.zeros((1, 1, 1))) if self.link == "softmax" else _sigmoid(proba, np.zeros((1, 1, 1)))
        total_weight = self.weights.sum(axis=0)
        curvature = np.einsum("nb,nbt->bt", self.weights, proba * (1 - proba))
        curvature = np.maximum(curvature, _LEAST_CURVATURE * np.maximum(total_weight, 1e-300)[:, None])
        scatter = np.einsum("np,np->p", self.rows[:, :-1], self.rows[:, :-1]) / len(self.rows)
        diagonal = np.empty_like(x)
        diagonal[:-1] = scatter[:, None, None] * curvature + penalty
        diagonal[-1] = curvature
        return 1.0 / diagonal


def _softmax(scores: Float, targets: Float) -> Float:
    """Loss (n, b); ``scores`` becomes p − y."""
    scores -= scores.max(axis=2, keepdims=True)
    hit = np.einsum("nbt,nbt->nb", scores, np.broadcast_to(targets, scores.shape))
    np.exp(scores, out=scores)
    total = scores.sum(axis=2)
    scores /= total[:, :, None]
    scores -= targets
    return np.asarray(np.log(total) - hit)


def _sigmoid(scores: Float, targets: Float) -> Float:
    """Loss (n, b) of single columns; ``scores`` becomes p − y."""
    z = scores[:, :, 0]
    loss = np.logaddexp(0.0, z) - targets[:, :, 0] * z
    np.negative(scores, out=scores)
    with np.errstate(over="ignore"):
        np.exp(scores, out=scores)
    scores += 1.0
    np.reciprocal(scores, out=scores)
    scores -= targets
    return np.asarray(loss)
