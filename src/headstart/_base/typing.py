"""Types shared by every floor. Floor 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Float: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
RandomState: TypeAlias = int | np.integer[Any] | np.random.Generator | np.random.RandomState | None
Modality: TypeAlias = Literal["image", "text", "audio", "vector"]
Task: TypeAlias = Literal["classification", "multilabel", "regression", "transcription", "summarization"]

MODALITIES: tuple[Modality, ...] = ("image", "text", "audio", "vector")
TASKS: tuple[Task, ...] = ("classification", "multilabel", "regression", "transcription", "summarization")


@dataclass(frozen=True)
class SkippedItem:
    """An item that was left out: what it is, the short cause, and its index in the dataset where that is known."""

    item: Any
    reason: str
    index: int | None = None

    @property
    def position(self) -> int:
        """The index, to sort by; items whose index is not known come first."""
        return -1 if self.index is None else self.index

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"
