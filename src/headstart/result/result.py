"""Result: what an evaluation found; and reading any of the three records back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from headstart._base.intervals import Metric
from headstart._base.printing import blocks, clean, listing, paragraph, seconds, table
from headstart._base.typing import SkippedItem
from headstart.errors import DataError
from headstart.result.proof import Proof
from headstart.result.ranking import Ranking
from headstart.result.record import (
    Comparison,
    CountsField,
    MetricField,
    Record,
    ScoresField,
    compare,
    frozen,
    plain,
)


@dataclass(frozen=True)
class ClassRow:
    """How one class fared.

    Attributes
    ----------
    label : object
        The class; ``column`` names the target column when there are several.
    n : int
        Test rows of that class.
    precision, recall, f1 : Metric
        With Wilson intervals (of F1: through TP / (TP + FP + FN)); NaN where nothing was predicted, or was there.
    n_train : int or None
        Training rows of that class, when known.
    """

    label: Any
    n: int
    precision: MetricField
    recall: MetricField
    f1: MetricField
    n_train: int | None = None
    column: str | None = None


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of (true class, predicted class). Shapes: counts (k, k), rows are the truth."""

    labels: tuple[Any, ...]
    counts: CountsField

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "counts", frozen(np.asarray(self.counts, np.int64)))

    def __str__(self) -> str:
        names = [clean(label) for label in self.labels]
        body = [[name, *map(int, row)] for name, row in zip(names, self.counts)]
        return table(["true \\ predicted", *names], body)

    def mistakes(self, limit: int = 5) -> list[tuple[Any, Any, int]]:
        """The most frequent confusions: (true, predicted, how often), most frequent first."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = (np.unravel_index(i, wrong.shape) for i in order)
        return [(self.labels[i], self.labels[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


@dataclass(frozen=True, eq=False)
class Result(Record):
    """What an evaluation found, what it cost, and under which seed and versions.

    Attributes
    ----------
    metrics : mapping of str to Metric
        The headline first. With several target columns names are prefixed: ``"digit.accuracy"``.
    task : str or None
        The task, or None for several columns.
    per_class : tuple of ClassRow
        Classification and multilabel only.
    skipped : tuple
        Records with ``.item`` and ``.reason`` of what could not be read.
    cost : mapping
        Seconds per stage (keys ending with ``_seconds`` or named ``seconds``), rows computed, and so on.
    provenance : mapping
        ``seed``, ``versions``, ``source``, ``data`` (fingerprints), ``test_reads``.
    notes : tuple of str
        Sentences worth knowing.
    confusion : Confusion, mapping of str to Confusion, or None
        A mapping when there are several target columns.
    row_scores : mapping of str to array (n,)
        For metrics that are means over rows, the score of each row: it makes comparisons paired.
    """

    metrics: Mapping[str, MetricField]
    _: KW_ONLY
    task: str | None = None
    per_class: tuple[ClassRow, ...] = ()
    skipped: tuple[SkippedItem, ...] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    confusion: Confusion | Mapping[str, Confusion] | None = None
    row_scores: Mapping[str, ScoresField] = field(default_factory=dict)

    def __post_init__(self) -> None:
        metrics = {k: v if isinstance(v, Metric) else Metric(v) for k, v in self.metrics.items()}
        object.__setattr__(self, "metrics", MappingProxyType(metrics))
        rows = {k: frozen(np.asarray(v, float)) for k, v in self.row_scores.items()}
        object.__setattr__(self, "row_scores", MappingProxyType(rows))
        self._freeze("per_class", "skipped", "cost", "provenance", "notes")
        if isinstance(self.confusion, Mapping):
            self._freeze("confusion")

    @property
    def headline(self) -> str:
        """Name of the metric that the task is judged by: the first one."""
        return next(iter(self.metrics), "")

    def compare(self, other: Result) -> Comparison:
        """Which shared metrics differ by more than chance.

        Paired row by row where both results kept the scores of the same data (equal ``provenance["data"]``): far
        sharper than comparing two intervals.
        """
        return compare(self, other)

    @classmethod
    def of_columns(cls, parts: Mapping[str, Result], **fields: Any) -> Result:
        """One result for several target columns; ``fields`` (cost, provenance, …) are those of the whole."""
        rows = [ClassRow(**{**vars(row), "column": name}) for name, part in parts.items() for row in part.per_class]
        confusions = {name: part.confusion for name, part in parts.items() if isinstance(part.confusion, Confusion)}
        notes = [f"{name}: {note}" for name, part in parts.items() for note in part.notes]
        gathered: dict[str, Any] = {
            "metrics": {f"{name}.{m}": value for name, part in parts.items() for m, value in part.metrics.items()},
            "row_scores": {f"{name}.{m}": r for name, part in parts.items() for m, r in part.row_scores.items()},
            "per_class": tuple(rows),
            "confusion": confusions or None,
        }
        return cls(**{**gathered, **fields, "notes": (*notes, *fields.get("notes", ()))})

    def to_dict(self, rows: bool = True) -> dict[str, Any]:
        """Plain data for JSON (NaN becomes null); ``rows=False`` leaves the scores of single rows out."""
        out = super().to_dict()
        if not rows:
            out.pop("row_scores")
        return out

    def __str__(self) -> str:
        title = " · ".join(filter(None, ["Result", self.task, self.headline and f"{self.headline} {self._first()!r}"]))
        rows = [[name, *_cells(m), m.better] for name, m in self.metrics.items()]
        metrics = table(["metric", "value", "95 % interval", "better"], rows, "lrrl")
        return blocks(
            paragraph(title),
            metrics,
            self._classes(),
            listing(f"{len(self.skipped)} left out:", [f"{s.item}: {s.reason}" for s in self.skipped]),
            listing("Notes:", self.notes, limit=20),
            _facts("cost", self.cost),
            _facts("provenance", self.provenance),
        )

    def _first(self) -> Metric:
        return self.metrics[self.headline]

    def _classes(self, limit: int = 30) -> str:
        if not self.per_class:
            return ""
        worst = sorted(self.per_class, key=lambda r: float(r.recall) if r.recall == r.recall else 2.0)
        rows = self.per_class if len(self.per_class) <= limit else worst[:limit]
        body = [[*_named(r), r.n, r.n_train, repr(r.precision), repr(r.recall), f"{r.f1:.3f}"] for r in rows]
        several = ["column"] if rows[0].column is not None else []
        headers = [*several, "class", "n", "n train", "precision", "recall", "f1"]
        if all(r.n_train is None for r in rows):
            at = headers.index("n train")
            headers.pop(at)
            body = [row[:at] + row[at + 1 :] for row in body]
        left = f"the {limit} classes of least recall, of {len(self.per_class)}" * (len(rows) < len(self.per_class))
        return "\n".join(filter(None, [table(headers, body, "l" * (len(several) + 1) + "r"), left]))


def _named(row: ClassRow) -> list[Any]:
    return [row.label] if row.column is None else [row.column, row.label]


def _cells(metric: Metric) -> tuple[str, str | None]:
    value, _, interval = repr(metric).partition(" ")
    return value, interval or None


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    shown = []
    for name, value in plain(facts).items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        timed = isinstance(value, (int, float)) and name.endswith("seconds")
        shown.append([name, seconds(value) if timed else f"{value:.4g}" if isinstance(value, float) else value])
    return table([title, ""], shown, "ll") if shown else ""


_KINDS: dict[str, type[Record]] = {"Result": Result, "Ranking": Ranking, "Proof": Proof}


def read_record(data: Mapping[str, Any]) -> Record:
    """The Result, Ranking or Proof that ``to_dict`` turned into plain data.

    Raises
    ------
    DataError
        When the data is none of them.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(kind, (str, type(None))):
        raise DataError(f"This is no {kind!r} that can be read: kind must be text.")
    if kind not in _KINDS:
        raise DataError(f"This is not a saved record: its kind is {kind!r}; known kinds are {', '.join(_KINDS)}.")
    return _KINDS[kind].from_dict(data)
