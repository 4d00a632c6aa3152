"""Types shared by every floor. Floor 0."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Float: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Modality: TypeAlias = Literal["image", "text", "audio", "vector"]
Task: TypeAlias = Literal["classification", "multilabel", "regression", "transcription", "summarization"]

MODALITIES: tuple[Modality, ...] = ("image", "text", "audio", "vector")
TASKS: tuple[Task, ...] = ("classification", "multilabel", "regression", "transcription", "summarization")
