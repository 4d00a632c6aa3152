"""Mean average precision: per label, the mean precision at the rank of each true row; then the mean over labels.

Labels without a true row are left out. Rows of equal score share one rank, so their order does not matter.
Cost: O(t n log n) for the ranks, O(t n) per resample.
"""

from __future__ import annotations

import math

import numpy as np

from headstart._typing import Array, Float
from headstart.metrics.base import Measure, MetricInputs, with_proba


def _scored(rows: MetricInputs) -> Array:
    """Shapes: (n, t, 2): score, truth."""
    return np.stack([np.asarray(rows.proba, float), np.asarray(rows.truth, float)], axis=2)


def _average_precision(scores: Float, truth: Float, weights: Float) -> Float:
    """Shapes: scores (n,), truth (n,), weights (b, n) → (b,); NaN where no true row has weight."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    weights = weights[:, order]
    seen = np.cumsum(weights, axis=1)[:, last]
    hits = np.cumsum(weights * truth[order], axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0.0)
    precision = hits / np.maximum(seen, np.finfo(float).tiny)
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * gained).sum(1) / np.where(hits[:, -1] > 0, hits[:, -1], math.nan))


def _mean_over_labels(parts: Array, weights: Float) -> Float:
    values = np.stack(
        [_average_precision(parts[:, j, 0], parts[:, j, 1], weights) for j in range(parts.shape[1])], axis=1
    )
    seen = np.isfinite(values)
    return np.asarray(np.where(seen, values, 0).sum(1) / np.where(seen.any(1), seen.sum(1), math.nan))


mean_average_precision = Measure(
    "mean_average_precision", frozenset({"multilabel"}), _scored, _mean_over_labels, applies=with_proba
)
