"""The family of metrics: what a member is, and the table of members. Floor 2.

A metric is a function of *weighted* rows, evaluated for many weightings at once. Weights of one give the value, weights
drawn at random give its bootstrap interval, and whole-number weights mean repeated rows. scikit-learn's functions take
one weighting per call; a thousand calls per metric take seconds to minutes instead of milliseconds. Hence own files,
and laws that hold each member to scikit-learn's value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from headstart._base.intervals import Better, Metric, bootstrap
from headstart._base.registry import Family, unknown_name
from headstart._base.typing import TASKS, Array, Float, Task
from headstart.dataset.targets import LARGEST
from headstart.errors import DataError, UnknownName
from headstart.metrics.kernels import share_with_interval, weighted_sums

METRICS = Family(
    "metrics",
    {
        "accuracy": "headstart.metrics.classification:accuracy",
        "balanced_accuracy": "headstart.metrics.classification:balanced_accuracy",
        "brier": "headstart.metrics.classification:brier",
        "cer": "headstart.metrics.text:cer",
        "ece": "headstart.metrics.classification:ece",
        "few_shot_recall": "headstart.metrics.classification:few_shot_recall",
        "log_loss": "headstart.metrics.classification:log_loss",
        "macro_f1": "headstart.metrics.classification:macro_f1",
        "mae": "headstart.metrics.regression:mae",
        "many_shot_recall": "headstart.metrics.classification:many_shot_recall",
        "mean_average_precision": "headstart.metrics.classification:mean_average_precision",
        "medium_shot_recall": "headstart.metrics.classification:medium_shot_recall",
        "micro_f1": "headstart.metrics.classification:micro_f1",
        "r2": "headstart.metrics.regression:r2",
        "rmse": "headstart.metrics.regression:rmse",
        "rouge1": "headstart.metrics.text:rouge1",
        "rouge2": "headstart.metrics.text:rouge2",
        "rougeL": "headstart.metrics.text:rouge_l",
        "rougeLsum": "headstart.metrics.text:rouge_lsum",
        "top5": "headstart.metrics.classification:top5",
        "wer": "headstart.metrics.text:wer",
        "worst_class_recall": "headstart.metrics.classification:worst_class_recall",
    },
)

HEADLINE: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "multilabel": ("mean_average_precision", "micro_f1"),
    "regression": ("r2",),
    "transcription": ("wer",),
    "summarization": ("rouge1",),
}
"""The metric each task is judged by: the first that applies (mean average precision needs scores)."""


@dataclass(frozen=True)
class MetricInputs:
    """Input of a metric: aligned rows without missing truth.

    Attributes
    ----------
    task : Task
    truth, predicted : array or tuple
        Classification: (n,) indices into ``classes``; multilabel: (n, t) of 0 and 1; regression: (n, t) float64;
        transcription and summarization: tuples of texts.
    proba : array (n, t) or None
        Class probabilities (rows sum to 1), or scores per label for multilabel.
    classes : tuple
    train_counts : array (t,) or None
        Training rows per class.
    memo : dict
        What several metrics share and is dear to compute.
    """

    task: Task
    truth: Any
    predicted: Any
    proba: Float | None = None
    classes: tuple[Any, ...] = ()
    train_counts: Float | None = None
    memo: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.truth)


Interval: TypeAlias = Callable[["Measure", Any, int], tuple[float, float, float]]


def always(rows: MetricInputs) -> bool:
    """Every evaluation of the task has this metric."""
    return True


def with_proba(rows: MetricInputs) -> bool:
    """Only evaluations with probabilities or scores have this metric."""
    return rows.proba is not None


def bootstrapped(measure: Measure, parts: Any, random_state: int) -> tuple[float, float, float]:
    """Value and BCa bootstrap interval: 1,000 resamples of the rows, seeded."""
    return bootstrap(measure.value, parts, bounds=measure.bounds, random_state=random_state)


def wilson_share(measure: Measure, parts: Array, random_state: int) -> tuple[float, float, float]:
    """Value and Wilson interval of a share of rows. Shapes: parts (n,) of 0 and 1."""
    return share_with_interval(parts)


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes
    ----------
    name : str
        As in ``Result.metrics``.
    tasks : frozenset of str
        Tasks it belongs to.
    parts : callable
        Rows → array or sparse matrix (n, …): what it needs of each row. Row i depends on row i only.
    value : callable
        (parts, weights (b, n)) → (b,) values.
    better : {"higher", "lower"}
    bounds : (float, float)
        Least and greatest possible value.
    applies : callable
        Rows → whether it is defined for them.
    interval : callable
        (measure, parts, random_state) → (value, low, high).

    Notes
    -----
    Cost: that of ``parts`` once, and 1,000 times that of ``value`` where the interval is bootstrapped.
    """

    name: str
    tasks: frozenset[str]
    parts: Callable[[MetricInputs], Any]
    value: Callable[[Any, Float], Float]
    better: Better = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)
    applies: Callable[[MetricInputs], bool] = always
    interval: Interval = bootstrapped

    def __call__(self, rows: MetricInputs, random_state: int = 0) -> Metric:
        """The metric of these rows, with its interval."""
        return Metric(*self.interval(self, self.parts(rows), random_state), better=self.better)

    @property
    def by_row(self) -> bool:
        """True for the plain mean of one score per row: then two results can be compared row by row."""
        return self.value is mean


def mean(parts: Array, weights: Float) -> Float:
    """Weighted mean. Shapes: parts (n,), weights (b, n) → (b,)."""
    return np.asarray(weights @ parts / weights.sum(1))


def ratio(parts: Array, weights: Float) -> Float:
    """Weighted sum of the first column over that of the second. Shapes: parts (n, 2), weights (b, n) → (b,)."""
    top, bottom = weighted_sums(parts, weights).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, math.nan)


# --- alignment: from labels, matrices and texts to rows ---


def align_rows(
    task: Task,
    truth: Any,
    predicted: Any,
    *,
    proba: Any = None,
    classes: Sequence[Any] | None = None,
    train_counts: Mapping[Any, int] | None = None,
) -> MetricInputs:
    """Rows without those whose truth is missing (None or NaN). See :func:`headstart.metrics.evaluate`."""
    if task not in TASKS:
        raise UnknownName(unknown_name("tasks", task, list(TASKS)))
    n = len(truth)
    sizes = {"truth": n, "predicted": len(predicted), **({} if proba is None else {"proba": len(proba)})}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise DataError(f"Rows do not align: {counts}. Evaluate with one prediction per row (skipped items left out).")
    has_truth = np.array([not _missing(value) for value in truth], bool)
    if not has_truth.any():
        raise DataError(f"There is nothing to evaluate: none of the {n} rows has a known truth.")
    truth, predicted = (_pick(values, has_truth) for values in (truth, predicted))
    scores = None if proba is None else _matrix(np.asarray(proba, float)[has_truth], "proba")
    if task == "classification":
        return _align_classes(truth, predicted, scores, classes=classes, train_counts=train_counts)
    if task == "multilabel":
        return _align_labels(truth, predicted, scores, classes)
    if task == "regression":
        return _align_values(truth, predicted)
    return MetricInputs(task, tuple(map(str, truth)), tuple(map(str, predicted)))


def _align_values(truth: Any, predicted: Any) -> MetricInputs:
    true, estimate = _matrix(np.asarray(truth, float), "truth"), _matrix(np.asarray(predicted, float), "predictions")
    if true.shape != estimate.shape:
        raise DataError(f"Truth has shape {true.shape} and predictions {estimate.shape}; they must agree.")
    if max(np.abs(true).max(initial=0.0), np.abs(estimate).max(initial=0.0)) > LARGEST:
        raise DataError(f"Errors are squared: numbers beyond {LARGEST:g} need another unit.")
    return MetricInputs("regression", true, estimate)


def _missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return bool(np.isnan(value).any())
    return isinstance(value, (tuple, list)) and any(map(_missing, value))


def _pick(values: Any, mask: Array) -> Any:
    if isinstance(values, np.ndarray):
        return values[mask]
    return [value for value, keep in zip(values, mask) if keep]


def _matrix(values: Float, name: str) -> Float:
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise DataError(f"The {name} must be one or two dimensional; got shape {values.shape}.")
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise DataError(f"{bad.sum()} of {len(values)} rows of the {name} hold numbers that are not finite.")
    return values


def _align_classes(
    truth: Any,
    predicted: Any,
    proba: Float | None,
    *,
    classes: Sequence[Any] | None,
    train_counts: Mapping[Any, int] | None,
) -> MetricInputs:
    truth, predicted = ([v.item() if isinstance(v, np.generic) else v for v in values] for values in (truth, predicted))
    class_order = [c.item() if isinstance(c, np.generic) else c for c in classes or ()]
    # A class that only the test rows have stays an error that counts: it comes after those the predictor knows.
    all_classes = class_order + _sorted({*truth, *predicted} - set(class_order))
    index = {label: i for i, label in enumerate(all_classes)}
    if proba is not None:
        proba = _distribution(proba, class_order, all_classes)
    counts = None
    if train_counts is not None:
        counts = np.array([float(train_counts.get(label, 0)) for label in all_classes])
    true, estimate = (np.array([index[label] for label in values], np.int64) for values in (truth, predicted))
    return MetricInputs("classification", true, estimate, proba=proba, classes=tuple(all_classes), train_counts=counts)


def _sorted(labels: set[Any]) -> list[Any]:
    try:
        return sorted(labels)
    except TypeError:  # labels of several types
        return sorted(labels, key=lambda label: (type(label).__name__, repr(label)))


def _distribution(proba: Float, class_order: list[Any], all_classes: list[Any]) -> Float:
    columns = class_order or all_classes
    if proba.shape[1] != len(columns):
        raise DataError(
            f"proba has {proba.shape[1]} columns for {len(columns)} classes ({', '.join(map(repr, columns[:8]))}…). "
            "Give classes= in the order of the columns."
        )
    total = proba.sum(1, keepdims=True)
    if (proba < -1e-6).any() or (np.abs(total - 1) > 1e-3).any():
        raise DataError("proba must hold probabilities: 0 or more, each row adding up to 1. Did you pass decisions?")
    padding = np.zeros((len(proba), len(all_classes) - len(columns)))
    return np.hstack([np.clip(proba, 0, None) / total, padding])


def _align_labels(truth: Any, predicted: Any, scores: Float | None, classes: Sequence[Any] | None) -> MetricInputs:
    labels = list(classes) if classes is not None else _label_names(truth, predicted)
    true, estimate = _indicator(truth, labels, "truth"), _indicator(predicted, labels, "predictions")
    shapes = {true.shape, estimate.shape, *([] if scores is None else [scores.shape])}
    if shapes != {(len(true), len(labels))}:
        shown = " and ".join(map(str, sorted(shapes)))
        raise DataError(f"Multilabel rows must have one column for each of the {len(labels)} labels; got {shown}.")
    return MetricInputs("multilabel", true, estimate, proba=scores, classes=tuple(labels))


def _label_names(truth: Any, predicted: Any) -> list[Any]:
    if _is_matrix(truth):
        return list(range(np.asarray(truth).shape[1]))
    return _sorted({label for row in [*truth, *predicted] for label in row})


def _is_matrix(values: Any) -> bool:
    """Tell whether rows are given as 0 and 1 in aligned columns, and not as collections of label names."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return True
    return len(values) > 0 and all(isinstance(row, np.ndarray) for row in values)


def _indicator(values: Any, labels: list[Any], name: str) -> Float:
    if _is_matrix(values):
        matrix = _matrix(np.asarray(values, float), name)
        if not np.isin(matrix, (0, 1)).all():
            raise DataError(f"The {name} of a multilabel task must be 0 or 1; scores go into proba=.")
        return matrix
    index = {label: j for j, label in enumerate(labels)}
    matrix = np.zeros((len(values), len(labels)))
    for i, row in enumerate(values):
        if isinstance(row, str) or not isinstance(row, Collection):
            raise DataError(f"Row {i} of the {name} is {row!r}; a multilabel row is a collection of labels.")
        if strange := [label for label in row if label not in index]:
            raise DataError(f"Row {i} of the {name} has labels that are not among the classes: {strange[:5]}.")
        matrix[i, [index[label] for label in row]] = 1.0
    return matrix
