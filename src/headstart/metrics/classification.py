"""Metrics of classes and labels: accuracy, recall over classes, F1, average precision, calibration.

Shares of rows and classes have Wilson intervals, the others bootstrap ones. **Cost**: O(n), of probabilities O(n·t).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse

from headstart._base.intervals import wilson
from headstart._base.typing import Array, Float
from headstart.metrics import kernels
from headstart.metrics.base import Measure, MetricInputs, mean, wilson_share, with_proba
from headstart.metrics.kernels import mean_recall_with_interval, weighted_sums

CLASSIFICATION = frozenset({"classification"})
MANY_CLASSES = 5


def _right(rows: MetricInputs) -> Float:
    return np.asarray(rows.truth == rows.predicted, float)


def _in_first_five(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    proba_of_truth = rows.proba[np.arange(len(rows)), rows.truth]
    # Classes of equal probability count against the row: a constant predictor earns nothing.
    ahead = (rows.proba >= proba_of_truth[:, None]).sum(1) - 1
    return np.asarray(ahead < MANY_CLASSES, float)


def _more_than_five(rows: MetricInputs) -> bool:
    return rows.proba is not None and rows.proba.shape[1] > MANY_CLASSES


accuracy = Measure("accuracy", CLASSIFICATION, _right, mean, interval=wilson_share)
top5 = Measure("top5", CLASSIFICATION, _in_first_five, mean, interval=wilson_share, applies=_more_than_five)


# --- recall over classes: balanced accuracy, the worst class, classes by their number of training rows ---


MANY, FEW = 100, 20


def _class_table(rows: MetricInputs, classes: Float | None = None) -> sparse.csr_array:
    """Shapes: (n, 2 t): right in the class, of the class. Rows of classes not kept are empty."""
    n, t = len(rows), len(rows.classes)
    mask = np.ones(n, bool) if classes is None else classes[rows.truth] > 0
    index = np.flatnonzero(mask)
    right = index[rows.truth[index] == rows.predicted[index]]
    at = np.concatenate([right, index]), np.concatenate([rows.truth[right], t + rows.truth[index]])
    return sparse.csr_array((np.ones(len(at[0])), at), shape=(n, 2 * t))


def _recalls(parts: sparse.csr_array, weights: Float) -> Float:
    right, counts = np.split(weighted_sums(parts, weights), 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(counts > 0, right / counts, math.nan))


def _average(parts: sparse.csr_array, weights: Float) -> Float:
    recalls = _recalls(parts, weights)
    seen = np.isfinite(recalls)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(seen, recalls, 0).sum(1) / np.where(seen.any(1), seen.sum(1), math.nan))


def _least(parts: sparse.csr_array, weights: Float) -> Float:
    recalls = _recalls(parts, weights)
    return np.where(np.isfinite(recalls).any(1), np.where(np.isfinite(recalls), recalls, math.inf).min(1), math.nan)


def _counts(parts: sparse.csr_array) -> tuple[Float, Float]:
    right, counts = np.split(np.asarray(parts.sum(0)).ravel(), 2)
    return right[counts > 0], counts[counts > 0]


def _average_interval(measure: Measure, parts: sparse.csr_array, random_state: int) -> tuple[float, float, float]:
    return mean_recall_with_interval(*_counts(parts))


def _least_interval(measure: Measure, parts: sparse.csr_array, random_state: int) -> tuple[float, float, float]:
    """The worst class's own value, and the least of all classes' lower and upper ends: any of them may be the worst."""
    right, counts = _counts(parts)
    low, high = wilson(right, counts)
    return float(np.min(right / counts)), float(np.min(low)), float(np.min(high))


def _group(
    low: float, high: float
) -> tuple[Callable[[MetricInputs], sparse.csr_array], Callable[[MetricInputs], bool]]:
    """Parts and condition for the classes whose number of training rows is at least ``low`` and at most ``high``."""

    def in_group(rows: MetricInputs) -> Float:
        counts = np.zeros(0) if rows.train_counts is None else rows.train_counts
        return np.asarray((counts >= low) & (counts <= high), float)

    def parts(rows: MetricInputs) -> sparse.csr_array:
        return _class_table(rows, in_group(rows))

    def applies(rows: MetricInputs) -> bool:
        return rows.train_counts is not None and bool(in_group(rows)[rows.truth].any())

    return parts, applies


def _grouped(name: str, low: float, high: float) -> Measure:
    parts, applies = _group(low, high)
    return Measure(name, CLASSIFICATION, parts, _average, applies=applies, interval=_average_interval)


balanced_accuracy = Measure("balanced_accuracy", CLASSIFICATION, _class_table, _average, interval=_average_interval)
worst_class_recall = Measure("worst_class_recall", CLASSIFICATION, _class_table, _least, interval=_least_interval)
many_shot_recall = _grouped("many_shot_recall", MANY + 1, math.inf)
medium_shot_recall = _grouped("medium_shot_recall", FEW, MANY)
few_shot_recall = _grouped("few_shot_recall", 0, FEW - 1)


# F1 over classes or labels: the plain mean (macro) and the pooled one (micro). Cost: O(n + t), multilabel O(n
# t).


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
    hit, true, predicted = np.split(weighted_sums(parts, weights), 3, axis=1)
    occurs = true + predicted > 0
    f1 = np.where(occurs, 2 * hit / np.where(occurs, true + predicted, 1), 0)
    return np.asarray(f1.sum(1) / np.where(occurs.any(1), occurs.sum(1), math.nan))


def _micro(parts: sparse.csr_array, weights: Float) -> Float:
    hit, true, predicted = (part.sum(1) for part in np.split(weighted_sums(parts, weights), 3, axis=1))
    occurs = true + predicted > 0
    return np.where(occurs, 2 * hit / np.where(occurs, true + predicted, 1), math.nan)


macro_f1 = Measure("macro_f1", BOTH, _hits, _macro)
# With one class per row micro-F1 is the accuracy, which has a sharper interval.
micro_f1 = Measure("micro_f1", frozenset({"multilabel"}), _hits, _micro)


# Mean average precision: per label, the mean precision at the rank of each true row; then the mean over labels.


def _scored(rows: MetricInputs) -> Array:
    """Shapes: (n, t, 2): score, truth."""
    return np.stack([np.asarray(rows.proba, float), np.asarray(rows.truth, float)], axis=2)


def _mean_over_labels(parts: Array, weights: Float) -> Float:
    return kernels.mean_average_precision(parts[:, :, 0], parts[:, :, 1], weights)


mean_average_precision = Measure(
    "mean_average_precision", frozenset({"multilabel"}), _scored, _mean_over_labels, applies=with_proba
)


# --- probabilities: log-loss, Brier score, expected calibration error. Cost: O(n·t) ---


BINS = 15
_EPS = float(np.finfo(np.float64).eps)


def _surprise(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    proba_of_truth = rows.proba[np.arange(len(rows)), rows.truth]
    return np.asarray(-np.log(np.clip(proba_of_truth, _EPS, 1.0)))


def _square(rows: MetricInputs) -> Float:
    assert rows.proba is not None
    proba_of_truth = rows.proba[np.arange(len(rows)), rows.truth]
    square = (rows.proba**2).sum(1) - 2 * proba_of_truth + 1
    return np.asarray(np.clip(square, 0, 2) / (2 if rows.proba.shape[1] == 2 else 1))


def _gaps(rows: MetricInputs) -> sparse.csr_array:
    """Shapes: (n, bins): right or wrong minus the confidence, in the row's bin."""
    assert rows.proba is not None
    n, confidence = len(rows), rows.proba.max(1)
    right = rows.proba.argmax(1) == rows.truth
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return sparse.csr_array((right - confidence, (np.arange(n), bins)), shape=(n, BINS))


def _gap(parts: sparse.csr_array, weights: Float) -> Float:
    return np.asarray(np.abs(weighted_sums(parts, weights)).sum(1) / weights.sum(1))


log_loss = Measure(
    "log_loss", CLASSIFICATION, _surprise, mean, better="lower", bounds=(0, -math.log(_EPS)), applies=with_proba
)
brier = Measure("brier", CLASSIFICATION, _square, mean, better="lower", bounds=(0, 2), applies=with_proba)
ece = Measure("ece", CLASSIFICATION, _gaps, _gap, better="lower", applies=with_proba)
