"""Target models: what a predictor knows about one target column.

A target model names the features it reads (:class:`FeatureSpec`), turns their rows into predictions, compares
predictions with labels, and can be saved. Each task is one final class: :class:`Classification`,
:class:`Multilabel` and :class:`Regression` apply a head to one row of features per item (:class:`HeadModel`);
summarization and transcription predict a text per item (:class:`TextModel`) and stand in files of their own.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from headstart._base.constraints import check_saved
from headstart._base.typing import Array, Float, Task
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError
from headstart.extraction.features import FeatureSet, FeatureSpec, LayerKey, Segments
from headstart.heads.base import HEADS, Head, probabilities
from headstart.imbalance import log_adjustment
from headstart.metrics.evaluate import assess
from headstart.moments.exact_sums import ExactSums
from headstart.predictor.predictions import TargetPredictions
from headstart.result.result import Result

if TYPE_CHECKING:
    from headstart.speech_heads.base import CtcHead

_LISTED = 5  # labels that a message names


class SpecRecord(BaseModel):
    """A :class:`FeatureSpec` as it is saved."""

    model_config = ConfigDict(strict=True, extra="forbid")

    source: int = Field(ge=0)
    layer: str
    pooling: str


class TargetRecord(BaseModel):
    """What every target model saves; the rest of its config is the task's own."""

    model_config = ConfigDict(strict=True, extra="allow")

    target: str
    task: str
    parts: list[SpecRecord]

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """The features that the model reads."""
        return tuple(FeatureSpec(part.source, part.layer, part.pooling) for part in self.parts)


class HeadRecord(BaseModel):
    """A head as it is saved: its name, its fields, and the names of its arrays."""

    model_config = ConfigDict(strict=True)

    name: str
    fields: dict[str, Any]
    arrays: list[str] = Field(default_factory=list)  # summaries save their head without this list

    def build(self, state: Mapping[str, Array]) -> Head:
        """Rebuild the fitted head."""
        head: Head = HEADS[self.name].from_config(self.fields, state)
        return head


class HeadModelRecord(BaseModel):
    """Config of a :class:`HeadModel`, as version 0.1 writes it."""

    model_config = ConfigDict(strict=True)

    head: HeadRecord
    classes: list[StrictStr | StrictInt | StrictFloat | StrictBool] | None
    counts: list[Any] | None  # pairs of a label and a number
    ledger: dict[str, Any] | None = None  # config of ExactSums


@dataclass(frozen=True, eq=False)
class TargetModel(ABC):
    """Features of one target column, and how they become predictions.

    Attributes
    ----------
    task : str
        The task that it is for.
    outputs : frozenset of str
        Numbers that it has beside labels: ``"decision"`` and ``"proba"``.
    divide : callable, optional
        Cuts items into the segments that the sources run on (documents into sentences): data → Segments. None where
        the sources run on the items themselves.
    head : Head or CtcHead
        What was fitted on the features.
    target : str
        Name of the column.
    specs : tuple of FeatureSpec
        The features that it reads.
    """

    task: ClassVar[Task]
    outputs: ClassVar[frozenset[str]] = frozenset()
    divide: ClassVar[Callable[[Dataset], Segments] | None] = None

    target: str
    specs: tuple[FeatureSpec, ...]

    if TYPE_CHECKING:  # a field of some models and a property of others, so that neither can be declared for all

        @property
        def head(self) -> Head | CtcHead:
            """The fitted head."""
            raise NotImplementedError

    @property
    @abstractmethod
    def classes(self) -> tuple[Any, ...] | None:
        """The classes in the order of the decisions; None where there are none."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of decision values per item; 0 where there are none."""

    @abstractmethod
    def infer(self, features: FeatureSet) -> TargetPredictions:
        """Predict for every item whose features were read."""

    @abstractmethod
    def parse_labels(self, column: Target) -> list[Any]:
        """Return the column's values in the predictor's own terms, None where the label is missing.

        Raises
        ------
        DataError
            When the column does not hold what this model predicts.
        """

    @abstractmethod
    def evaluate(self, labels: list[Any], features: FeatureSet) -> Result:
        """Compare predictions with labels, with intervals. Items without a label are left out."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Return everything learned, as named arrays."""

    def config(self) -> dict[str, Any]:
        """Return the plain data that, with :meth:`state`, rebuilds the model."""
        specs = [dataclasses.asdict(spec) for spec in self.specs]
        return {**self._task_config(), "target": self.target, "task": self.task, "parts": specs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], state: Mapping[str, Array]) -> Self:
        """Rebuild the model from :meth:`config` and :meth:`state`.

        Raises
        ------
        ValueError, KeyError, TypeError
            For whatever is not as it was written, so that nothing fails only when it predicts.
        """
        record = TargetRecord.model_validate(config)
        check_saved(record.task == cls.task, "a task")
        return cls._from_task_config(config, state, target=record.target, specs=record.specs)

    @abstractmethod
    def _task_config(self) -> dict[str, Any]:
        """Return the part of :meth:`config` that is the task's own."""

    @classmethod
    @abstractmethod
    def _from_task_config(
        cls, config: Mapping[str, Any], state: Mapping[str, Array], *, target: str, specs: tuple[FeatureSpec, ...]
    ) -> Self:
        """Rebuild the model; target and specs are checked already."""


@dataclass(frozen=True, eq=False)
class HeadModel(TargetModel):
    """A head on one row of features per item.

    Attributes
    ----------
    head : Head
    classes : tuple or None
    log_ratio : (t,) array or None
        The logit adjustment for uneven classes, where there is one; the head's intercept contains it already.
    counts : mapping, optional
        Training examples per class.
    exact_sums : ExactSums, optional
        The sums that the head was solved from, where items can be forgotten.
    """

    outputs = frozenset({"decision", "proba"})
    label_types: ClassVar[tuple[type, ...]]

    head: Head
    classes: tuple[Any, ...] | None = None
    log_ratio: Array | None = None
    counts: Mapping[Any, int] | None = None
    exact_sums: ExactSums | None = None

    @property
    def width(self) -> int:
        """One decision per class, label or output."""
        return len(self.head.intercept_)

    def solve(self, exact_sums: ExactSums) -> Self:
        """Solve the head again from exact sums; its fields and temperature stay, class frequencies are the sums'."""
        head = type(self.head)(**self.head.config()).fit(exact_sums.moments, task=self.task)
        head.temperature_, log_ratio, counts = self.head.temperature_, self.log_ratio, self.counts
        per_class = exact_sums.targets.sum(axis=0)
        if log_ratio is not None:
            log_ratio = log_adjustment(per_class)
            head.adjust(log_ratio)
        if counts is not None:
            counts = dict(zip(counts, per_class.astype(int).tolist(), strict=True))
        return dataclasses.replace(self, head=head, log_ratio=log_ratio, counts=counts, exact_sums=exact_sums)

    def features(self, rows: Mapping[LayerKey, Array]) -> Array:
        """Concatenate the layers that the head reads: (n, d) float32. ``rows`` has every (source, layer)."""
        if len(self.specs) == 1:
            return rows[self.specs[0].source, self.specs[0].layer]
        return np.concatenate([rows[spec.source, spec.layer] for spec in self.specs], axis=1)

    def infer_rows(self, X: Array) -> TargetPredictions:
        """Predict from features (n, d). Labels and probabilities both follow from one computation of the decisions."""
        decisions = self.head.decision(X)
        chances = None
        if "proba" in self.outputs:
            chances = probabilities(decisions, self.head.task_, self.head.temperature_)
        return TargetPredictions(self._labels(decisions), chances, decisions)

    def infer(self, features: FeatureSet) -> TargetPredictions:
        """Labels, decisions and, but for regression, probabilities."""
        return self.infer_rows(self.features(features.rows))

    def parse_labels(self, column: Target) -> list[Any]:
        """Return the column's labels, checked against the task and the classes."""
        present = [value for value in column.values if value is not None]
        wrong = [value for value in present if not isinstance(value, self.label_types)]
        if wrong:
            raise DataError(
                f"The predictor does {self.task}, but the labels of {column.name!r} are {column.task}, "
                f"e.g. {wrong[0]!r}. Give them as the predictor was trained, or say task={self.task!r}."
            )
        return self._parse(column)

    def evaluate(self, labels: list[Any], features: FeatureSet) -> Result:
        """Return the metrics of the task."""
        return self._evaluate(labels, self.infer(features))

    def state(self) -> dict[str, Array]:
        """Arrays of the head, and the logit adjustment and the exact sums where there are some."""
        state = dict(self.head.state())
        if self.log_ratio is not None:
            state["log_ratio"] = self.log_ratio
        if self.exact_sums is not None:
            state |= self.exact_sums.state()
        return state

    def _task_config(self) -> dict[str, Any]:
        head = self.head
        return {
            "classes": None if self.classes is None else list(self.classes),
            "counts": None if self.counts is None else [[label, int(n)] for label, n in self.counts.items()],
            "head": {"name": head.name, "fields": head.config(), "arrays": sorted(head.state())},
            "ledger": None if self.exact_sums is None else self.exact_sums.config(),
        }

    @classmethod
    def _from_task_config(
        cls, config: Mapping[str, Any], state: Mapping[str, Array], *, target: str, specs: tuple[FeatureSpec, ...]
    ) -> Self:
        check_saved(len(specs) > 0, "a layer")
        record = HeadModelRecord.model_validate(config)
        head = record.head.build({name: state[name] for name in record.head.arrays})
        classes = None if record.classes is None else tuple(record.classes)
        log_ratio = state.get("log_ratio")
        cls._check(head, classes, log_ratio)
        counts = None if record.counts is None else {label: int(n) for label, n in record.counts}
        shape = (head._features, len(head.intercept_))
        exact_sums = ExactSums.from_config(record.ledger, state, task=cls.task, shape=shape)
        return cls(target, specs, head, classes, log_ratio, counts, exact_sums)

    @classmethod
    def _check(cls, head: Head, classes: tuple[Any, ...] | None, log_ratio: Array | None) -> None:
        """Try the head on one row: what is wrong with it would otherwise show only when it predicts."""
        check_saved(head.task_ == cls.task and head.intercept_.ndim == 1 and math.isfinite(head.temperature_), "a head")
        width = len(head.intercept_)
        check_saved(gives_numbers(head, width) and head.temperature_ > 0, "a head")
        check_saved(log_ratio is None or log_ratio.shape == (width,), "a logit adjustment")
        if cls.task == "regression":
            check_saved(classes is None, "the classes")
        else:
            check_saved(classes is not None and len(classes) == width, "the classes")

    @abstractmethod
    def _labels(self, decisions: Float) -> list[Any]:
        """Return the labels that belong to decisions (n, t)."""

    @abstractmethod
    def _parse(self, column: Target) -> list[Any]:
        """Return labels of an allowed type in the predictor's terms."""

    @abstractmethod
    def _evaluate(self, labels: list[Any], predictions: TargetPredictions) -> Result:
        """Return the metrics."""


@dataclass(frozen=True, eq=False)
class Classification(HeadModel):
    """One class per item: that of the greatest decision."""

    task = "classification"
    label_types = (str, int, float, bool)

    def _labels(self, decisions: Float) -> list[Any]:
        assert self.classes is not None
        return [self.classes[i] for i in decisions.argmax(1)]

    def _parse(self, column: Target) -> list[Any]:
        present = {value: None for value in column.values if value is not None}  # a set that keeps the order
        classes = self.classes or ()
        if present and not set(classes) & set(present):
            raise DataError(
                f"None of the labels of {column.name!r} is a class of this predictor. It knows {first_few(classes)}; "
                f"the data has {first_few(present)}."
            )
        return list(column.values)

    def _evaluate(self, labels: list[Any], predictions: TargetPredictions) -> Result:
        classes = self.classes or ()
        return assess(
            "classification",
            labels,
            predictions.labels,
            proba=predictions.probabilities,
            classes=classes,
            train_counts=dict(self.counts) if self.counts else None,
            notes=_note_unseen(_unseen(labels, classes)),
        )


@dataclass(frozen=True, eq=False)
class Multilabel(HeadModel):
    """Any number of labels per item: a tuple of those whose decision is above zero."""

    task = "multilabel"
    label_types = (tuple, str, int, bool)

    def _labels(self, decisions: Float) -> list[Any]:
        assert self.classes is not None
        return [tuple(c for c, decision in zip(self.classes, row) if decision > 0) for row in decisions]

    def _parse(self, column: Target) -> list[Any]:
        return [value if value is None or isinstance(value, tuple) else (value,) for value in column.values]

    def _evaluate(self, labels: list[Any], predictions: TargetPredictions) -> Result:
        classes = self.classes or ()
        unseen = _unseen([label for value in labels if value is not None for label in value], classes)
        assert predictions.probabilities is not None
        # A label that only the test set has is never predicted.
        zeros = np.zeros((len(predictions.probabilities), len(unseen)))
        return assess(
            "multilabel",
            labels,
            predictions.labels,
            proba=np.hstack([predictions.probabilities, zeros]),
            classes=(*classes, *unseen),
            train_counts=dict(self.counts) if self.counts else None,
            notes=_note_unseen(unseen),
        )


@dataclass(frozen=True, eq=False)
class Regression(HeadModel):
    """The head's values: a float per item, or a tuple of several outputs."""

    task = "regression"
    outputs = frozenset({"decision"})
    label_types = (int, float, tuple)

    def _labels(self, decisions: Float) -> list[Any]:
        values = np.asarray(decisions, dtype=np.float64)
        if values.shape[1] == 1:
            return [float(row[0]) for row in values]
        return [tuple(map(float, row)) for row in values]

    def _parse(self, column: Target) -> list[Any]:
        return list(column.values)

    def _evaluate(self, labels: list[Any], predictions: TargetPredictions) -> Result:
        return assess("regression", labels, predictions.labels)


HEAD_MODELS: Mapping[str, type[HeadModel]] = {model.task: model for model in (Classification, Multilabel, Regression)}


@dataclass(frozen=True, eq=False)
class TextModel(TargetModel):
    """A text per item: no classes, no numbers.

    Attributes
    ----------
    expected : str
        What the column to compare with must hold, to complete "Give …".
    """

    expected: ClassVar[str]

    @property
    def classes(self) -> None:
        """None: texts have none."""
        return None

    @property
    def width(self) -> int:
        """0: there are no decision values."""
        return 0

    def parse_labels(self, column: Target) -> list[Any]:
        """Return the column's texts."""
        wrong = [value for value in column.values if value is not None and not isinstance(value, str)]
        if wrong:
            raise DataError(
                f"The predictor does {self.task}, but {column.name!r} is {column.task}, e.g. {wrong[0]!r}. "
                f"Give {self.expected}, and say task={self.task!r}."
            )
        return list(column.values)


def gives_numbers(head: Head, width: int) -> bool:
    """Check that a head gives ``width`` decisions for a row, none of them NaN."""
    decision = head.decision(np.zeros((1, head._features), dtype=np.float32))
    return decision.shape == (1, width) and not np.isnan(decision).any()


def first_few(values: Iterable[Any]) -> str:
    """List the first few values for a message."""
    names = [repr(value) for value in values]
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def _unseen(labels: Sequence[Any], classes: Sequence[Any]) -> list[Any]:
    """Labels that the training data did not have, in a fixed order."""
    present = {label for label in labels if label is not None}
    return sorted(present - set(classes), key=lambda label: (type(label).__name__, repr(label)))


def _note_unseen(unseen: Sequence[Any]) -> tuple[str, ...]:
    if not unseen:
        return ()
    return (f"The labels {first_few(unseen)} were not in the training data: never predicted, counted as errors.",)
