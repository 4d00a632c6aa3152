"""Answers that a head gives on one row of features per item: what classification, multilabel and regression share."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from headstart._base.constraints import check_saved
from headstart.dataset.targets import Target
from headstart.errors import DataError
from headstart.extraction.features import FeatureSet, FeatureSpec, LayerKey
from headstart.heads.base import HEADS, Head
from headstart.imbalance import log_adjustment
from headstart.metrics.evaluate import assess
from headstart.moments.exact_sums import ExactSums
from headstart.predictor.target_model import TargetModel
from headstart.result.result import Result

_SHOWN = 5


def _decision(answer: HeadModel, rows: FeatureSet) -> np.ndarray:
    return answer.decision(answer.features(rows.at))


def _proba(answer: HeadModel, rows: FeatureSet) -> np.ndarray:
    return answer.proba(answer.features(rows.at))


@dataclass(frozen=True, eq=False)
class HeadModel(TargetModel):
    """A head on features.

    Attributes
    ----------
    head : Head
    classes : tuple or None
    log_ratio : (t,) array or None
        The logit adjustment for uneven classes, where there is one; the head has taken it in already.
    counts : mapping, optional
        Training examples per class.
    ledger : Ledger, optional
        What the head was solved from, where items can be forgotten.
    """

    gives = MappingProxyType({"decision": _decision, "proba": _proba})
    allowed: ClassVar[tuple[type, ...]]

    head: Head
    classes: tuple[Any, ...] | None = None
    log_ratio: np.ndarray | None = None
    counts: Mapping[Any, int] | None = None
    ledger: ExactSums | None = None

    @property
    def solver(self) -> Any:
        """The head."""
        return self.head

    @property
    def width(self) -> int:
        """One decision per class, label or output."""
        return len(self.head.intercept_)

    def solved(self, ledger: ExactSums) -> Self:
        """The head solved from a ledger; its fields and temperature stay, class frequencies are the ledger's."""
        head = type(self.head)(**self.head.config()).fit(ledger.moments, task=self.task)
        head.temperature_, log_ratio, counts = self.head.temperature_, self.log_ratio, self.counts
        numbers = ledger.targets.sum(axis=0)
        if log_ratio is not None:
            log_ratio = log_adjustment(numbers)
            head.adjust(log_ratio)
        if counts is not None:
            counts = dict(zip(counts, numbers.astype(int).tolist(), strict=True))
        return dataclasses.replace(self, head=head, log_ratio=log_ratio, counts=counts, ledger=ledger)

    def features(self, rows: Mapping[LayerKey, np.ndarray]) -> np.ndarray:
        """(n, d) float32: the parts side by side. ``rows`` has every (source, layer)."""
        return joined(rows, self.parts)

    def decision(self, X: np.ndarray) -> np.ndarray:
        """(n, t) decision values."""
        return self.head.decision(X)

    def proba(self, X: np.ndarray) -> np.ndarray:
        """(n, t) probabilities."""
        return self.head.proba(X)

    def labels(self, rows: FeatureSet) -> Sequence[Any]:
        """One label per item."""
        return self._named(self.features(rows.at))

    def truth(self, column: Target) -> list[Any]:
        """The column's labels, checked."""
        given = [value for value in column.values if value is not None]
        strange = [value for value in given if not isinstance(value, self.allowed)]
        if strange:
            raise DataError(
                f"The predictor does {self.task}, but the labels of {column.name!r} are {column.task}, "
                f"e.g. {strange[0]!r}. Give them as the predictor was trained, or say task={self.task!r}."
            )
        return self._known(column)

    def assessed(self, truth: list[Any], rows: FeatureSet) -> Result:
        """Metrics of the task."""
        X = self.features(rows.at)
        return self._compared(truth, self._named(X), X)

    def record(self) -> dict[str, Any]:
        """Head, classes and counts as plain data."""
        return {
            "classes": None if self.classes is None else list(self.classes),
            "counts": None if self.counts is None else [[label, int(n)] for label, n in self.counts.items()],
            "head": {"name": self.head.name, "fields": self.head.config(), "arrays": sorted(self.head.state())},
            "ledger": None if self.ledger is None else self.ledger.config(),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The head's state, and the logit adjustment and the ledger where there is one."""
        extra = {} if self.log_ratio is None else {"log_ratio": self.log_ratio}
        return {**self.head.state(), **extra, **({} if self.ledger is None else self.ledger.state())}

    @classmethod
    def rebuilt(
        cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, target: str, parts: tuple[FeatureSpec, ...]
    ) -> Self:
        """From what was saved; the head is tried on one row."""
        check_saved(len(parts) > 0, "a layer")
        saved, classes = record["head"], record["classes"]
        head = HEADS[saved["name"]].from_config(saved["fields"], {name: arrays[name] for name in saved["arrays"]})
        log_ratio = arrays.get("log_ratio")
        cls._check(head, classes, log_ratio)
        counts = None if record["counts"] is None else {label: int(n) for label, n in record["counts"]}
        shape = (head._features, len(head.intercept_))
        ledger = ExactSums.from_config(record.get("ledger"), arrays, task=cls.task, shape=shape)
        return cls(target, parts, head, None if classes is None else tuple(classes), log_ratio, counts, ledger)

    @classmethod
    def _check(cls, head: Head, classes: Any, log_ratio: np.ndarray | None) -> None:
        """The head gives one finite decision per class: what else is wrong would show only when it predicts."""
        check_saved(head.task_ == cls.task and head.intercept_.ndim == 1 and math.isfinite(head.temperature_), "a head")
        shape = (1, len(head.intercept_))
        found = head.decision(np.zeros((1, head._features), dtype=np.float32))
        check_saved(found.shape == shape and not np.isnan(found).any() and head.temperature_ > 0, "a head")
        check_saved(log_ratio is None or log_ratio.shape == shape[1:], "a logit adjustment")
        if cls.task == "regression":
            check_saved(classes is None, "the classes")
            return
        plain = isinstance(classes, list) and all(isinstance(c, (str, int, float, bool)) for c in classes)
        check_saved(plain and len(classes) == shape[1], "the classes")

    @abstractmethod
    def _named(self, X: np.ndarray) -> list[Any]:
        """Features → labels."""

    @abstractmethod
    def _known(self, column: Target) -> list[Any]:
        """Labels of an allowed type in the predictor's terms."""

    @abstractmethod
    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        """The metrics."""


def joined(rows: Mapping[LayerKey, np.ndarray], parts: Sequence[FeatureSpec]) -> np.ndarray:
    """Parts side by side, (n, d) float32."""
    if len(parts) == 1:
        return rows[parts[0].source, parts[0].layer]
    return np.concatenate([rows[p.source, p.layer] for p in parts], axis=1)


def known_labels(column: Target, classes: Sequence[Any] | None) -> list[Any]:
    """The column's labels; some of them at least must be among the classes."""
    given = [value for value in column.values if value is not None]
    if given and not set(classes or ()) & set(given):
        raise DataError(
            f"None of the labels of {column.name!r} is a class of this predictor. It knows {some(classes)}; "
            f"the data has {some(dict.fromkeys(given))}."
        )
    return list(column.values)


def some(values: Any) -> str:
    """The first few, for a message."""
    names = list(map(repr, values))
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def never_seen(truth: Sequence[Any], known: Sequence[Any], *, several: bool) -> tuple[list[Any], tuple[str, ...]]:
    """Labels that the training data had not, and the sentence about them."""
    given = [label for value in truth if value is not None for label in (value if several else (value,))]
    strange = sorted(set(given) - set(known), key=lambda label: (type(label).__name__, repr(label)))
    note = f"The labels {some(strange)} were not in the training data: never predicted, counted as errors."
    return strange, ((note,) if strange else ())


# ---- One class per item. ----


@dataclass(frozen=True, eq=False)
class Classification(HeadModel):
    """The class of the greatest decision."""

    task = "classification"
    allowed = (str, int, float, bool)

    def _named(self, X: np.ndarray) -> list[Any]:
        assert self.classes is not None
        return [self.classes[i] for i in self.decision(X).argmax(1)]

    def _known(self, column: Target) -> list[Any]:
        return known_labels(column, self.classes)

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        known = tuple(self.classes or ())
        counts = dict(self.counts) if self.counts else None
        _, notes = never_seen(truth, known, several=False)
        scores: dict[str, Any] = {"proba": self.proba(X), "classes": known, "train_counts": counts}
        return assess("classification", truth, predicted, **scores, notes=notes)


# ---- Any number of labels per item. ----


@dataclass(frozen=True, eq=False)
class Multilabel(HeadModel):
    """The labels whose decision is above zero, as a tuple."""

    task = "multilabel"
    allowed = (tuple, str, int, bool)

    def _named(self, X: np.ndarray) -> list[Any]:
        assert self.classes is not None
        chosen = self.head.predict(X) > 0
        return [tuple(c for c, on in zip(self.classes, row) if on) for row in chosen]

    def _known(self, column: Target) -> list[Any]:
        return [value if value is None or isinstance(value, tuple) else (value,) for value in column.values]

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        known = tuple(self.classes or ())
        counts = dict(self.counts) if self.counts else None
        strange, notes = never_seen(truth, known, several=True)
        # a label that only the test has is never predicted
        proba = np.hstack([self.proba(X), np.zeros((len(X), len(strange)))])
        scores: dict[str, Any] = {"proba": proba, "classes": (*known, *strange), "train_counts": counts}
        return assess("multilabel", truth, predicted, **scores, notes=notes)


# ---- A number, or several, per item. ----


@dataclass(frozen=True, eq=False)
class Regression(HeadModel):
    """The head's values: a float, or a tuple of several outputs."""

    task = "regression"
    gives = MappingProxyType({"decision": HeadModel.gives["decision"]})
    allowed = (int, float, tuple)

    def _named(self, X: np.ndarray) -> list[Any]:
        values = np.asarray(self.head.predict(X), dtype=np.float64)
        return [float(row[0]) if len(row) == 1 else tuple(map(float, row)) for row in values.reshape(len(X), -1)]

    def _known(self, column: Target) -> list[Any]:
        return list(column.values)

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        return assess("regression", truth, predicted)
