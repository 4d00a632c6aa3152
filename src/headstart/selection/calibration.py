"""Temperature scaling: the one number that makes held-out decisions the best probabilities.

References
----------
Guo et al. (2017), On calibration of modern neural networks. Platt (1999), Probabilistic outputs for support vector
machines (smoothed targets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy.special import expit

from headstart._base.typing import Float

Derivatives: TypeAlias = Callable[[float], tuple[float, float]]  # beta → gradient and curvature of the log-loss
_MAX_STEPS = 60
_TOLERANCE = 1e-6  # of the temperature, relative


def fit_temperature(decisions: Float, T: Float, task: str, weights: Float | None = None) -> float:
    """Fit the temperature that minimises the log-loss of held-out decisions; 1 for values.

    Log-loss is convex in beta = 1 / temperature. Targets are smoothed by one row's worth, spread over the classes,
    which keeps the temperature of perfectly separated rows finite.

    Parameters
    ----------
    decisions : (…, n, t) array
        Of the same n rows, by any number of fits.
    T : (n, t) array
        One-hot classes, or labels of 0 and 1.
    task : {"classification", "multilabel", "regression"}
    weights : (n,) array, optional
        Of the rows.
    """
    if task == "regression":
        return 1.0
    stacked = decisions.reshape(-1, *decisions.shape[-2:])
    spread = float(np.abs(stacked - stacked.mean(axis=-1, keepdims=True)).mean())
    size = spread or float(np.abs(stacked).mean()) or 1.0
    smoothing = 1.0 / (len(T) + 1.0)
    uniform = 1.0 / T.shape[1] if task == "classification" else 0.5
    smoothed = T * (1 - smoothing) + smoothing * uniform
    sample_weight = np.ones(len(T)) if weights is None else weights
    derivatives_of = _softmax_derivatives if task == "classification" else _sigmoid_derivatives
    return 1.0 / _minimize(derivatives_of(stacked, smoothed, sample_weight), 1e-4 / size, 1e4 / size)


def _softmax_derivatives(decisions: Float, T: Float, sample_weight: Float) -> Derivatives:
    """Gradient and curvature of the log-loss in beta; classes first, so that sums run along memory."""
    logits = np.ascontiguousarray(np.moveaxis(decisions, -1, 0))
    logits = logits - logits.max(axis=0)
    of_truth = np.einsum("trn,nt->rn", logits, T)

    def derivatives(beta: float) -> tuple[float, float]:
        proba = np.exp(beta * logits)
        proba /= proba.sum(axis=0)
        weighted = proba * logits
        mean = weighted.sum(axis=0)
        curvature = (weighted * logits).sum(axis=0) - mean**2
        return float(((mean - of_truth) @ sample_weight).sum()), float((curvature @ sample_weight).sum())

    return derivatives


def _sigmoid_derivatives(decisions: Float, T: Float, sample_weight: Float) -> Derivatives:
    def derivatives(beta: float) -> tuple[float, float]:
        proba = expit(beta * decisions)
        gradient, curvature = (proba - T) * decisions, proba * (1 - proba) * decisions**2
        return float((sample_weight[:, None] * gradient).sum()), float((sample_weight[:, None] * curvature).sum())

    return derivatives


def _minimize(derivatives: Derivatives, low: float, high: float) -> float:
    """Find where the gradient is 0, or the nearer end, by Newton's method in log(beta), within a bracket.

    scipy's brentq finds the same to 1e-12 with twice the evaluations (it uses no curvature). Each is a pass over all
    held-out decisions, and every setting of every head has its temperature: 0.87 instead of 0.55 s for 3 × 2,000 rows
    of 80 classes.
    """
    beta = float(np.sqrt(low * high))
    for _ in range(_MAX_STEPS):
        gradient, curvature = derivatives(beta)
        low, high = (low, beta) if gradient > 0 else (beta, high)
        convex = curvature * beta + gradient > 0  # in log(beta); elsewhere bisect
        step = gradient * beta / max(curvature * beta * beta + gradient * beta, 1e-300)
        proposal = beta * np.exp(-np.clip(step, -3, 3)) if convex else np.sqrt(low * high)
        if not low < proposal < high:
            proposal = np.sqrt(low * high)
        if abs(proposal / beta - 1) < _TOLERANCE or high / low < 1 + _TOLERANCE:
            return float(proposal)
        beta = proposal
    return float(beta)
