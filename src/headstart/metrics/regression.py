"""Errors of numbers: R², mean absolute error, root mean squared error. Cost: O(n t).

With several outputs: R² and the root mean squared error per output, then their mean; the absolute error over all.
Units: mae and rmse have the target's unit. A constant truth gives R² = 1 when met exactly, else 0, as in
scikit-learn.
"""

from __future__ import annotations

import math

import numpy as np

from headstart._base.typing import Float
from headstart.metrics.base import Measure, MetricInputs, mean
from headstart.metrics.kernels import r_squared, r_squared_parts, weighted_sums

REGRESSION = frozenset({"regression"})
_ANY = (0.0, math.inf)


def _absolute(rows: MetricInputs) -> Float:
    return np.asarray(np.abs(rows.truth - rows.predicted).mean(1))


def _squares(rows: MetricInputs) -> Float:
    return np.asarray((rows.truth - rows.predicted) ** 2)


def _root(parts: Float, weights: Float) -> Float:
    return np.asarray(np.sqrt(weighted_sums(parts, weights) / weights.sum(1, keepdims=True)).mean(1))


def _moments(rows: MetricInputs) -> Float:
    return r_squared_parts(rows.predicted, rows.truth)


r2 = Measure("r2", REGRESSION, _moments, r_squared, bounds=(-math.inf, 1.0))
mae = Measure("mae", REGRESSION, _absolute, mean, better="lower", bounds=_ANY)
rmse = Measure("rmse", REGRESSION, _squares, _root, better="lower", bounds=_ANY)
