"""F1 over classes or labels: the plain mean (macro) and the pooled one (micro). Cost: O(n + t), multilabel O(n t).

Macro-F1 averages over the classes that occur, in the truth or among the predictions, as scikit-learn does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from headstart._typing import Float
from headstart.metrics.base import Measure, MetricInputs, sums

BOTH = frozenset({"classification", "multilabel"})


def _indicator(values: Float, t: int) -> sparse.csr_array:
    if values.ndim == 2:
        return sparse.csr_array(values.astype(float))
    n = len(values)
    return sparse.csr_array((np.ones(n), (np.arange(n), values)), shape=(n, t))


def _hits(rows: MetricInputs) -> sparse.csr_array:
    """Shapes: (n, 3 t): hit, true, predicted."""
    truth, predicted = (_indicator(values, len(rows.classes)) for values in (rows.truth, rows.predicted))
    return sparse.csr_array(sparse.hstack([truth * predicted, truth, predicted]))


def _macro(parts: sparse.csr_array, weights: Float) -> Float:
    hit, true, predicted = np.split(sums(parts, weights), 3, axis=1)
    there = true + predicted > 0
    f1 = np.where(there, 2 * hit / np.where(there, true + predicted, 1), 0)
    return np.asarray(f1.sum(1) / np.where(there.any(1), there.sum(1), math.nan))


def _micro(parts: sparse.csr_array, weights: Float) -> Float:
    hit, true, predicted = (part.sum(1) for part in np.split(sums(parts, weights), 3, axis=1))
    there = true + predicted > 0
    return np.where(there, 2 * hit / np.where(there, true + predicted, 1), math.nan)


macro_f1 = Measure("macro_f1", BOTH, _hits, _macro)
# With one class per row micro-F1 is the accuracy, which has a sharper interval.
micro_f1 = Measure("micro_f1", frozenset({"multilabel"}), _hits, _micro)
