"""Cross-entropy with an L2 penalty, softmax or sigmoid, for many weightings of the same rows at once. Floor 1.

For weights w (n, b), one column per problem (a fold is a column of zeros and ones):

.. math:: f_b(W, c) = Σ_i w_{ib}\\,\\mathrm{CE}(y_i, z_i W + c) + ½ λ ‖W‖²

The rows are given in principal coordinates, where the diagonal of the Hessian is known beforehand: scatter × curvature
p(1−p). That preconditioner makes the number of L-BFGS steps nearly independent of the features' conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart._solve.lbfgs import Minima, minimise
from headstart._typing import Float, Ints

_LEAST_CURVATURE = 1e-6
_SHARP = 1e-5
_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Entropy:
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
    ) -> Minima:
        """Minimise all problems for one penalty λ, from ``start`` (r + 1, b, t) or from the class shares.

        ``tolerance`` is the error of the mean loss at which a problem is done. Where classes come apart the curvature
        falls by orders on the way, and what looked done at the first curvature may not be: a sharp tolerance is asked
        again with the curvature there.
        """
        size = tolerance * float(self.weights.sum(axis=0).max())
        found = self._descend(penalty, self.initial() if start is None else start, tolerance=size, max_steps=max_steps)
        for _ in range(_ROUNDS if tolerance < _SHARP else 0):
            if found.steps.max() >= max_steps:
                break
            more = self._descend(penalty, found.x, tolerance=size, max_steps=max_steps)
            found = Minima(more.x, more.value, found.steps + more.steps, more.converged)
            if not more.steps.any():
                break
        return found

    def _descend(self, penalty: float, start: Float, *, tolerance: float, max_steps: int) -> Minima:
        inverse = self._inverse_diagonal(start, penalty)
        return minimise(
            lambda x, which: self.value(x, which, penalty), start, inverse, tolerance=tolerance, max_steps=max_steps
        )

    def initial(self) -> Float:
        """No weights, and intercepts that give the class shares."""
        mass = np.maximum(self.weights.sum(axis=0), 1e-300)
        share = np.einsum("nb,nbt->bt", self.weights, np.broadcast_to(self.targets, self._shape())) / mass[:, None]
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
        chance = self.scores(x)
        _softmax(chance, np.zeros((1, 1, 1))) if self.link == "softmax" else _sigmoid(chance, np.zeros((1, 1, 1)))
        mass = self.weights.sum(axis=0)
        bend = np.einsum("nb,nbt->bt", self.weights, chance * (1 - chance))
        bend = np.maximum(bend, _LEAST_CURVATURE * np.maximum(mass, 1e-300)[:, None])
        scatter = np.einsum("np,np->p", self.rows[:, :-1], self.rows[:, :-1]) / len(self.rows)
        diagonal = np.empty_like(x)
        diagonal[:-1] = scatter[:, None, None] * bend + penalty
        diagonal[-1] = bend
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
