"""How far probabilities can be trusted: log-loss, Brier score, expected calibration error. Cost: O(n t).

* log-loss: mean of -log p(true class), natural logarithm, p clipped at the smallest step of float64;
* Brier: mean over rows of Σ_c (p_c - [c is true])²; half of it for two classes, as scikit-learn does;
* expected calibration error: 15 equal-width bins of the highest probability, Σ share · |accuracy - confidence|.
  Biased upwards for few rows: compare it only between evaluations of the same size.

References
----------
Brier 1950; Guo et al. 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from headstart._typing import Float
from headstart.metrics.base import Measure, MetricInputs, mean, sums, with_proba

BINS = 15
_EPS = float(np.finfo(np.float64).eps)


def _surprise(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    own = rows.proba[np.arange(len(rows)), rows.truth]
    return np.asarray(-np.log(np.clip(own, _EPS, 1.0)))


def _square(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    own = rows.proba[np.arange(len(rows)), rows.truth]
    square = (rows.proba**2).sum(1) - 2 * own + 1
    return np.asarray(np.clip(square, 0, 2) / (2 if rows.proba.shape[1] == 2 else 1))


def _gaps(rows: MetricInputs) -> sparse.csr_array:
    """Shapes: (n, bins): right or wrong minus the confidence, in the row's bin."""
    assert rows.proba is not None
    n, confidence = len(rows), rows.proba.max(1)
    right = rows.proba.argmax(1) == rows.truth
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return sparse.csr_array((right - confidence, (np.arange(n), bins)), shape=(n, BINS))


def _gap(parts: sparse.csr_array, weights: Float) -> Float:
    return np.asarray(np.abs(sums(parts, weights)).sum(1) / weights.sum(1))


log_loss = Measure(
    "log_loss", CLASSIFICATION, _surprise, mean, better="lower", bounds=(0, -math.log(_EPS)), applies=with_proba
)
brier = Measure("brier", CLASSIFICATION, _square, mean, better="lower", bounds=(0, 2), applies=with_proba)
ece = Measure("ece", CLASSIFICATION, _gaps, _gap, better="lower", applies=with_proba)
