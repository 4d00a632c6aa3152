"""The family of metrics: what a member is, and the table of members. Floor 2.

A metric is a function of *weighted* rows, evaluated for many weightings at once. Weights of one give the value, weights
drawn at random give its bootstrap interval, and whole-number weights mean repeated rows. scikit-learn's functions take
one weighting per call; a thousand calls per metric take seconds to minutes instead of milliseconds. Hence own files,
and laws that hold each member to scikit-learn's value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from headstart._intervals import Better, Metric, bootstrap, wilson
from headstart._registry import Family
from headstart._typing import Array, Float, Task

METRICS = Family(
    "metrics",
    {
        "accuracy": "headstart.metrics.accuracy:accuracy",
        "balanced_accuracy": "headstart.metrics.recall:balanced_accuracy",
        "brier": "headstart.metrics.calibration:brier",
        "cer": "headstart.metrics.transcription:cer",
        "ece": "headstart.metrics.calibration:ece",
        "few_shot_recall": "headstart.metrics.recall:few_shot_recall",
        "log_loss": "headstart.metrics.calibration:log_loss",
        "macro_f1": "headstart.metrics.f1:macro_f1",
        "mae": "headstart.metrics.regression:mae",
        "many_shot_recall": "headstart.metrics.recall:many_shot_recall",
        "mean_average_precision": "headstart.metrics.ranked:mean_average_precision",
        "medium_shot_recall": "headstart.metrics.recall:medium_shot_recall",
        "micro_f1": "headstart.metrics.f1:micro_f1",
        "r2": "headstart.metrics.regression:r2",
        "rmse": "headstart.metrics.regression:rmse",
        "rouge1": "headstart.metrics.rouge:rouge1",
        "rouge2": "headstart.metrics.rouge:rouge2",
        "rougeL": "headstart.metrics.rouge:rouge_l",
        "rougeLsum": "headstart.metrics.rouge:rouge_lsum",
        "top5": "headstart.metrics.accuracy:top5",
        "wer": "headstart.metrics.transcription:wer",
        "worst_class_recall": "headstart.metrics.recall:worst_class_recall",
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
    """What a metric sees: aligned rows without missing truth.

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
    return float(parts.mean()), *wilson(parts.sum(), len(parts))


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
        """Whether it is the plain mean of one score per row: then two results can be compared row by row."""
        return self.value is mean


def sums(parts: Any, weights: Float) -> Float:
    """Weighted sums of the columns. Shapes: parts (n, k) dense or sparse, weights (b, n) → (b, k)."""
    return np.asarray((parts.T @ weights.T).T, float)


def mean(parts: Array, weights: Float) -> Float:
    """Weighted mean. Shapes: parts (n,), weights (b, n) → (b,)."""
    return np.asarray(weights @ parts / weights.sum(1))


def ratio(parts: Array, weights: Float) -> Float:
    """Weighted sum of the first column over that of the second. Shapes: parts (n, 2), weights (b, n) → (b,)."""
    top, bottom = sums(parts, weights).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, math.nan)
