"""Types shared by every floor. Floor 0."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class RuntimeConfig:
    """The way one source is run on one machine: chosen once, remembered, and written into every recipe.

    Attributes
    ----------
    engine, precision : str
    device : str
    batch_size : int
    cosine : float
        Least cosine between these features and fp32's, over the rows measured.
    speed : float
        Items per second measured when it was chosen; 0 when it was given, not measured.
    """

    engine: str
    precision: str
    device: str = "cpu"
    batch_size: int = 16
    cosine: float = 1.0
    speed: float = 0.0

    def recipe(self) -> dict[str, Any]:
        """The part that changes numbers."""
        return {"engine": self.engine, "precision": self.precision, "device": self.device.partition(":")[0]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.engine} {self.precision} on {self.device}, {self.batch_size} at a time"
