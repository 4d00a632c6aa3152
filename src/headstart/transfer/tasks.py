"""Which function fits which task. The table, and what it is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart._base.registry import Family
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.engines.base import RuntimeConfig
from headstart.heads.base import Head
from headstart.predictor.target_model import TargetModel
from headstart.sources.base import Source

FITTERS = Family(
    "fitters",
    {
        "classification": "headstart.transfer.task_heads:FITTER",
        "multilabel": "headstart.transfer.task_heads:FITTER",
        "regression": "headstart.transfer.task_heads:FITTER",
        "summarization": "headstart.transfer.summarization:FITTER",
        "transcription": "headstart.transfer.transcription:FITTER",
    },
)


@dataclass(frozen=True)
class FitConfig:
    """What :func:`headstart.fit` was asked for: its arguments, sources loaded, the seed drawn.

    Attributes
    ----------
    how : mapping
        ``engine``, ``precision``, ``on_error`` and ``device``, for :func:`headstart.extract`.
    length : of summaries, as it was written; None: as the references
    exact : whether heads are solved from exact moments, which are kept
    """

    sources: tuple[Source, ...]
    data: Dataset
    layers: str | tuple[str, ...]
    head: str | Head
    pooling: str
    balance: str
    budget: float | None
    seed: int
    store: str | Path | None
    checkpoint: Path | None
    extract_options: Mapping[str, Any]
    length: Any = None
    exact: bool = False


@dataclass(frozen=True)
class FitResult:
    """What a fitter found for the columns of its tasks.

    Attributes
    ----------
    answers : one per column
    tables : mapping column → what was chosen, and from what, as plain data
    data : the items that could be read
    choices : how each source was run
    seconds : per stage
    history : of what was trained
    candidates : rows to fine-tune from, where the task can be fine-tuned
    """

    targets: tuple[TargetModel, ...]
    tables: Mapping[str, Any]
    data: Dataset
    choices: tuple[RuntimeConfig, ...]
    seconds: Mapping[str, float]
    history: Mapping[str, Any] = field(default_factory=dict)
    candidates: Any = None


@dataclass(frozen=True)
class TaskFitter:
    """How a task is fitted.

    Attributes
    ----------
    check : callable
        (job, columns): refuses what can be refused before any feature is computed.
    fit : callable
        (job, columns) → :class:`Fitted`.
    tunes : bool
        Whether the source can be fine-tuned for it.
    """

    check: Callable[[FitConfig, Sequence[Target]], None]
    fit: Callable[[FitConfig, Sequence[Target]], FitResult]
    supports_finetuning: bool = False
