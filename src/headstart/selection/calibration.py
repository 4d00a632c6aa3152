"""The temperature that makes held-out decisions the best probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from headstart._base.typing import Float

Derivatives = Callable[[float], tuple[float, float]]


def fit_temperature(decisions: Float, T: Float, task: str, weights: Float | None = None) -> float:
    """The temperature that makes held-out decisions (…, n, t) the best probabilities; 1 for values.

    Log-loss is convex in 1 / temperature: Newton's method with a bracket. One row's worth of doubt, spread over the
    classes, keeps the temperature of perfectly separated rows finite (Platt 1999).
    """
    if task == "regression":
        return 1.0
    many = decisions.reshape(-1, *decisions.shape[-2:])
    size = float(np.abs(many - many.mean(axis=-1, keepdims=True)).mean()) or float(np.abs(many).mean()) or 1.0
    doubt = 1.0 / (len(T) + 1.0)
    wished = T * (1 - doubt) + doubt * (1.0 / T.shape[1] if task == "classification" else 0.5)
    mass = np.ones(len(T)) if weights is None else weights
    slopes = (_softmax_slopes if task == "classification" else _sigmoid_slopes)(many, wished, mass)
    return 1.0 / _root(slopes, 1e-4 / size, 1e4 / size)


def _softmax_slopes(decisions: Float, T: Float, mass: Float) -> Derivatives:
    """Slope and curvature of the log-loss in 1 / temperature; classes first, so that sums run along memory."""
    logits = np.ascontiguousarray(np.moveaxis(decisions, -1, 0))
    logits = logits - logits.max(axis=0)
    given = np.einsum("trn,nt->rn", logits, T)

    def slopes(beta: float) -> tuple[float, float]:
        chance = np.exp(beta * logits)
        chance /= chance.sum(axis=0)
        weighted = chance * logits
        mean = weighted.sum(axis=0)
        bend = (weighted * logits).sum(axis=0) - mean**2
        return float(((mean - given) @ mass).sum()), float((bend @ mass).sum())

    return slopes


def _sigmoid_slopes(decisions: Float, T: Float, mass: Float) -> Derivatives:
    def slopes(beta: float) -> tuple[float, float]:
        chance = expit(beta * decisions)
        slope, bend = (chance - T) * decisions, chance * (1 - chance) * decisions**2
        return float((mass[:, None] * slope).sum()), float((mass[:, None] * bend).sum())

    return slopes


def _root(slopes: Derivatives, low: float, high: float) -> float:
    """Where the first of (slope, curvature) is 0, or the nearer end, by Newton in the logarithm, kept in a bracket."""
    at = float(np.sqrt(low * high))
    for _ in range(60):
        slope, bend = slopes(at)
        low, high = (low, at) if slope > 0 else (at, high)
        step = slope * at / max(bend * at * at + slope * at, 1e-300)
        new = at * np.exp(-np.clip(step, -3, 3)) if bend * at + slope > 0 else np.sqrt(low * high)
        if not low < new < high:
            new = np.sqrt(low * high)
        if abs(new / at - 1) < 1e-6 or high / low < 1 + 1e-6:
            return float(new)
        at = new
    return float(at)
