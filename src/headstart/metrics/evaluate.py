"""The verbs of the family: all metrics of a task, one row per class, the confusion table, a whole Result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart._base.hashing import fingerprint
from headstart._base.intervals import Metric, wilson
from headstart._base.typing import Array, Float, Task
from headstart.errors import OptionError
from headstart.metrics.base import HEADLINE, METRICS, Measure, MetricInputs, align_rows
from headstart.result.result import ClassRow, Confusion, Result

MAX_CONFUSION = 1000  # classes: a bigger table helps nobody and fills the memory


def evaluate(
    task: Task,
    truth: Any,
    predicted: Any,
    *,
    proba: Any = None,
    classes: Sequence[Any] | None = None,
    train_counts: Mapping[Any, int] | None = None,
    only: Sequence[str] | None = None,
    random_state: int = 0,
) -> dict[str, Metric]:
    """Every metric of a task, with intervals; the headline (``HEADLINE``) comes first.

    Parameters
    ----------
    task : str
        ``"classification"``, ``"multilabel"``, ``"regression"``, ``"transcription"`` or ``"summarization"``.
    truth, predicted : sequences of n
        Labels; collections of labels or 0/1 matrices (n, t); numbers (n,) or (n, t); texts. Rows whose truth is missing
        (None, NaN) are left out.
    proba : array (n, t), optional
        Class probabilities in the order of ``classes``; any scores for multilabel.
    classes : sequence, optional
        Needed with ``proba`` unless every class occurs; a true class that is not among them counts as an error.
    train_counts : mapping of class to int, optional
        Training rows per class: adds the recall of classes with many (> 100), medium and few (< 20).
    only : sequence of str, optional
        Names of the metrics wanted (those of other tasks are refused).
    random_state : int
        Seed of the bootstrap.

    Returns
    -------
    dict of str to Metric

    Raises
    ------
    DataError
        When rows do not align, nothing is left, or numbers are not finite.
    OptionError
        When the task is unknown, or a metric of ``only`` does not apply.
    MissingPackage
        When ``rouge-score`` or ``jiwer`` is needed and missing.

    Notes
    -----
    Wilson intervals for shares of rows and classes, BCa bootstrap for the rest (``headstart._base.intervals``). Cost:
    seconds for any n once rows are prepared (ROUGE takes about 0.1 s per long document).

    Examples
    --------
    >>> found = evaluate("classification", ["cat", "dog", "dog", "cat"], ["cat", "dog", "cat", "cat"])
    >>> found["accuracy"]
    0.750 [0.301, 0.954]
    """
    rows = align_rows(task, truth, predicted, proba=proba, classes=classes, train_counts=train_counts)
    return {m.name: m(rows, random_state) for m in _chosen(rows, only)}


def _chosen(rows: MetricInputs, only: Sequence[str] | None) -> list[Measure]:
    fitting = [m for m in METRICS.values() if rows.task in m.tasks and m.applies(rows)]
    by_name = {m.name: m for m in fitting}
    if only is not None:
        wrong = [name for name in only if name not in by_name]
        if wrong:
            applicable = ", ".join(by_name)
            raise OptionError(f"{wrong} cannot be computed for these {rows.task} rows; these can: {applicable}.")
        return [by_name[name] for name in only]
    first = next((name for name in HEADLINE[rows.task] if name in by_name), None)
    return sorted(fitting, key=lambda m: (m.name != first, m.name))


def per_class(
    truth: Any,
    predicted: Any,
    classes: Sequence[Any] | None = None,
    *,
    task: Task = "classification",
    train_counts: Mapping[Any, int] | None = None,
) -> tuple[ClassRow, ...]:
    """Precision, recall and F1 of every class or label, with intervals. Cost: O(n + t)."""
    return _class_rows(align_rows(task, truth, predicted, classes=classes), train_counts)


def _class_rows(rows: MetricInputs, train_counts: Mapping[Any, int] | None) -> tuple[ClassRow, ...]:
    if rows.task == "multilabel":
        hit, true, predicted = ((rows.truth * rows.predicted).sum(0), rows.truth.sum(0), rows.predicted.sum(0))
    else:
        right = rows.truth[rows.truth == rows.predicted]
        hit, true, predicted = (
            np.bincount(v, minlength=len(rows.classes)) for v in (right, rows.truth, rows.predicted)
        )
    precision, recall = _shares(hit, predicted), _shares(hit, true)
    # F1 is 2 J / (1 + J) of the share J of hits among all rows that are or were said to be of the class.
    f1 = [Metric(*(2 * x / (1 + x) for x in (j, j.low, j.high))) for j in _shares(hit, true + predicted - hit)]
    return tuple(
        ClassRow(label, int(true[i]), precision[i], recall[i], f1[i], _trained(label, train_counts))
        for i, label in enumerate(rows.classes)
    )


def _trained(label: Any, train_counts: Mapping[Any, int] | None) -> int | None:
    return None if train_counts is None else int(train_counts.get(label, 0))


def _shares(hits: Float, of: Float) -> list[Any]:
    low, high = wilson(hits, of)
    return [Metric(h / n, a, b) if n else Metric(np.nan, 0.0, 1.0) for h, n, a, b in zip(hits, of, low, high)]


def confusion(truth: Any, predicted: Any, classes: Sequence[Any] | None = None) -> Confusion:
    """Counts of (true class, predicted class). Cost: O(n + t²)."""
    rows = align_rows("classification", truth, predicted, classes=classes)
    return Confusion(rows.classes, _table(rows))


def _table(rows: MetricInputs) -> Array:
    t = len(rows.classes)
    return np.bincount(rows.truth * t + rows.predicted, minlength=t * t).reshape(t, t)


def assess(
    task: Task,
    truth: Any,
    predicted: Any,
    *,
    proba: Any = None,
    classes: Sequence[Any] | None = None,
    train_counts: Mapping[Any, int] | None = None,
    random_state: int = 0,
    **fields: Any,
) -> Result:
    """:func:`evaluate`, per class, confusion and row scores as one Result; ``fields`` (cost, notes, …) go into it."""
    rows = align_rows(task, truth, predicted, proba=proba, classes=classes, train_counts=train_counts)
    chosen = _chosen(rows, None)
    several = rows.task in ("classification", "multilabel")
    small = len(rows.classes) <= MAX_CONFUSION
    provenance = {"seed": random_state, "data": fingerprint([repr(value) for value in truth])}
    return Result(
        {m.name: m(rows, random_state) for m in chosen},
        task=task,
        per_class=_class_rows(rows, train_counts) if several else (),
        confusion=Confusion(rows.classes, _table(rows)) if task == "classification" and small else None,
        row_scores={m.name: m.parts(rows) for m in chosen if m.by_row},
        **{**fields, "provenance": {**provenance, **fields.get("provenance", {})}},
    )
