"""What a predictor knows about one target column. The table task → kind of answer, and what every kind decides.

Each task is one class in its own file and one line in :data:`ANSWERS`: which features of which layers it reads and how
items are divided before that (a document into sentences), what it says about items, how that is held against the
truth, and which plain data and arrays are saved with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from headstart._base.registry import Family
from headstart._base.typing import Task
from headstart.dataset.targets import Target
from headstart.extraction.features import FeatureSet, FeatureSpec, Segments
from headstart.result.result import Result

TARGET_MODELS = Family(
    "answers",
    {
        "classification": "headstart.predictor.head_models:Classification",
        "multilabel": "headstart.predictor.head_models:Multilabel",
        "regression": "headstart.predictor.head_models:Regression",
        "summarization": "headstart.predictor.summarization:Summarization",
        "transcription": "headstart.predictor.transcription:Transcription",
    },
)


@dataclass(frozen=True, eq=False)
class TargetModel(ABC):
    """A target column's features, and how they become what is predicted.

    Attributes
    ----------
    target : str
    parts : tuple of Part
        Layers of sources that it reads, and how each is pooled.
    divide : callable, optional
        Dataset → :class:`Division` where the sources are run on pieces of the items; None: on the items themselves.
    gives : mapping of str to callable
        ``"decision"`` and ``"proba"`` where it has numbers per class: (answer, rows) → (n, width).
    """

    task: ClassVar[Task]
    gives: ClassVar[Mapping[str, Callable[[Any, FeatureSet], np.ndarray]]] = MappingProxyType({})
    divide: ClassVar[Callable[[Any], Segments] | None] = None

    target: str
    parts: tuple[FeatureSpec, ...]

    @property
    @abstractmethod
    def classes(self) -> tuple[Any, ...] | None:
        """The classes in the order of the decisions; None where there are none."""

    @property
    @abstractmethod
    def solver(self) -> Any:
        """What was fitted on the features: a head."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Decision values per item; 0 where there are none."""

    @abstractmethod
    def labels(self, rows: FeatureSet) -> Sequence[Any]:
        """What is predicted, one per item that could be read."""

    @abstractmethod
    def truth(self, column: Target) -> list[Any]:
        """The column's values in the predictor's own terms, None where the label is missing.

        Raises
        ------
        DataError
            When the column does not hold what this answer predicts.
        """

    @abstractmethod
    def assessed(self, truth: list[Any], rows: FeatureSet) -> Result:
        """Predictions against the truth, with intervals. Items without a truth are left out."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Plain data that, with :meth:`arrays`, rebuilds it; target, task and parts are saved by the caller."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything learned."""

    @classmethod
    @abstractmethod
    def rebuilt(
        cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, target: str, parts: tuple[FeatureSpec, ...]
    ) -> Self:
        """From what was saved. Whatever is not as it was written is a ValueError, KeyError or TypeError here, so that
        nothing fails only when it predicts."""
