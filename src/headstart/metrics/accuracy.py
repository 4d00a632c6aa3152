"""Accuracy and top-5 accuracy: shares of rows, with Wilson intervals. Cost: O(n), top-5 O(n t)."""

from __future__ import annotations

import numpy as np

from headstart._typing import Float
from headstart.metrics.base import Measure, MetricInputs, mean, wilson_share

CLASSIFICATION = frozenset({"classification"})
MANY_CLASSES = 5


def _right(rows: MetricInputs) -> Float:
    return np.asarray(rows.truth == rows.predicted, float)


def _in_first_five(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    own = rows.proba[np.arange(len(rows)), rows.truth]
    # Classes of equal probability count against the row: a constant predictor earns nothing.
    ahead = (rows.proba >= own[:, None]).sum(1) - 1
    return np.asarray(ahead < MANY_CLASSES, float)


def _more_than_five(rows: MetricInputs) -> bool:
    return rows.proba is not None and rows.proba.shape[1] > MANY_CLASSES


accuracy = Measure("accuracy", CLASSIFICATION, _right, mean, interval=wilson_share)
top5 = Measure("top5", CLASSIFICATION, _in_first_five, mean, interval=wilson_share, applies=_more_than_five)
