"""Errors of numbers: R², mean absolute error, root mean squared error. Cost: O(n t).

With several outputs: R² and the root mean squared error per output, then their mean; the absolute error over all.
Units: mae and rmse have the target's unit. A constant truth gives R² = 1 when met exactly, else 0, as in
scikit-learn.
"""

from __future__ import annotations

import math

import numpy as np

from headstart._base.typing import Float
from headstart.metrics.base import Measure, MetricInputs, mean, sums

REGRESSION = frozenset({"regression"})
_ANY = (0.0, math.inf)


def _absolute(rows: MetricInputs) -> Float:
    return np.asarray(np.abs(rows.truth - rows.predicted).mean(1))


def _squares(rows: MetricInputs) -> Float:
    return np.asarray((rows.truth - rows.predicted) ** 2)


def _root(parts: Float, weights: Float) -> Float:
    return np.asarray(np.sqrt(sums(parts, weights) / weights.sum(1, keepdims=True)).mean(1))


def _moments(rows: MetricInputs) -> Float:
    """Shapes: (n, 3 t): truth around its mean, its square, squared error. The centre keeps big offsets exact."""
    centred = rows.truth - rows.truth.mean(0)
    return np.hstack([centred, centred**2, _squares(rows)])


def _explained(parts: Float, weights: Float) -> Float:
    first, second, error = np.split(sums(parts, weights), 3, axis=1)
    total = second - first**2 / weights.sum(1, keepdims=True)
    varies = total > 1e-12 * np.maximum(second, np.finfo(float).tiny)
    r2 = np.where(varies, 1 - error / np.where(varies, total, 1), np.where(error > 0, 0.0, 1.0))
    return np.asarray(r2.mean(1))


r2 = Measure("r2", REGRESSION, _moments, _explained, bounds=(-math.inf, 1.0))
mae = Measure("mae", REGRESSION, _absolute, mean, better="lower", bounds=_ANY)
rmse = Measure("rmse", REGRESSION, _squares, _root, better="lower", bounds=_ANY)
