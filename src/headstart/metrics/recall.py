"""Recall over classes: balanced accuracy, the worst class, and classes with many, some and few training rows.

Shares of each class's own rows, so intervals come from Wilson's per class; their mean adds the squared arms (MOVER).
Classes without test rows are left out. "Many" is over 100 training rows, "few" under 20, as on ImageNet-LT.
Cost: O(n + t).

References
----------
Liu et al. 2019, arXiv:1904.05160 (many, medium, few); Zou & Donner 2008 (MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse

from headstart._intervals import mover_mean, wilson
from headstart._typing import Float
from headstart.metrics.base import Measure, MetricInputs, sums

MANY, FEW = 100, 20


def _class_table(rows: MetricInputs, keep: Float | None = None) -> sparse.csr_array:
    """Shapes: (n, 2 t): right in the class, of the class. Rows of classes not kept are empty."""
    n, t = len(rows), len(rows.classes)
    kept = np.ones(n, bool) if keep is None else keep[rows.truth] > 0
    index = np.flatnonzero(kept)
    right = index[rows.truth[index] == rows.predicted[index]]
    at = np.concatenate([right, index]), np.concatenate([rows.truth[right], t + rows.truth[index]])
    return sparse.csr_array((np.ones(len(at[0])), at), shape=(n, 2 * t))


def _recalls(parts: sparse.csr_array, weights: Float) -> Float:
    right, there = np.split(sums(parts, weights), 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(there > 0, right / there, math.nan))


def _average(parts: sparse.csr_array, weights: Float) -> Float:
    recalls = _recalls(parts, weights)
    seen = np.isfinite(recalls)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, recalls, 0).sum(1) / np.where(seen.any(1), seen.sum(1), math.nan))


def _least(parts: sparse.csr_array, weights: Float) -> Float:
    recalls = _recalls(parts, weights)
    return np.where(np.isfinite(recalls).any(1), np.where(np.isfinite(recalls), recalls, math.inf).min(1), math.nan)


def _counts(parts: sparse.csr_array) -> tuple[Float, Float]:
    right, there = np.split(np.asarray(parts.sum(0)).ravel(), 2)
    return right[there > 0], there[there > 0]


def _average_interval(measure: Measure, parts: sparse.csr_array, random_state: int) -> tuple[float, float, float]:
    right, there = _counts(parts)
    low, high = mover_mean(right / there, *wilson(right, there))
    return float(np.mean(right / there)), low, high


def _least_interval(measure: Measure, parts: sparse.csr_array, random_state: int) -> tuple[float, float, float]:
    """The worst class's own value, and the least of all classes' lower and upper ends: any of them may be the worst."""
    right, there = _counts(parts)
    low, high = wilson(right, there)
    return float(np.min(right / there)), float(np.min(low)), float(np.min(high))


def _group(
    low: float, high: float
) -> tuple[Callable[[MetricInputs], sparse.csr_array], Callable[[MetricInputs], bool]]:
    """Parts and condition for the classes whose number of training rows is at least ``low`` and at most ``high``."""

    def kept(rows: MetricInputs) -> Float:
        counts = np.zeros(0) if rows.train_counts is None else rows.train_counts
        return np.asarray((counts >= low) & (counts <= high), float)

    def parts(rows: MetricInputs) -> sparse.csr_array:
        return _class_table(rows, kept(rows))

    def applies(rows: MetricInputs) -> bool:
        return rows.train_counts is not None and bool(kept(rows)[rows.truth].any())

    return parts, applies


def _grouped(name: str, low: float, high: float) -> Measure:
    parts, applies = _group(low, high)
    return Measure(name, CLASSIFICATION, parts, _average, applies=applies, interval=_average_interval)


balanced_accuracy = Measure("balanced_accuracy", CLASSIFICATION, _class_table, _average, interval=_average_interval)
worst_class_recall = Measure("worst_class_recall", CLASSIFICATION, _class_table, _least, interval=_least_interval)
many_shot_recall = _grouped("many_shot_recall", MANY + 1, math.inf)
medium_shot_recall = _grouped("medium_shot_recall", FEW, MANY)
few_shot_recall = _grouped("few_shot_recall", 0, FEW - 1)
