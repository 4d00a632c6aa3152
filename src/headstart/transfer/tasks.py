"""Records between :func:`headstart.fit` and the fitters of the tasks: what is asked for, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError
from headstart.extraction.features import TOO_LONG, FeatureSet
from headstart.heads.base import Head
from headstart.predictor.target_model import TargetModel
from headstart.sources.base import Source
from headstart.speech_heads.base import CtcHead


@dataclass(frozen=True)
class FitConfig:
    """Arguments of :func:`headstart.fit`, with sources loaded and the seed drawn.

    Attributes
    ----------
    engine, precision, on_error, device
        For :func:`headstart.extract`.
    length : float, str or None
        Of summaries, as it was written; None: as the references.
    exact : bool
        True solves heads from exact moments, which are kept.
    runtimes : tuple of RuntimeConfig, optional
        One per source, once it has been run for a first task: the other tasks run it in the same way.
    """

    sources: tuple[Source, ...]
    data: Dataset
    layers: str | tuple[str, ...]
    head: str | Head | CtcHead
    pooling: str
    balance: str
    budget: float | None
    seed: int
    store: str | Path | None
    checkpoint: Path | None
    engine: str = "auto"
    precision: str = "auto"
    on_error: str | None = None
    device: str = "auto"
    length: float | str | None = None
    exact: bool = False
    runtimes: tuple[RuntimeConfig, ...] | None = None

    def extract_options(self, source: int) -> dict[str, Any]:
        """Keyword arguments of :func:`headstart.extract` for a source, by its number."""
        options: dict[str, Any] = {"on_error": self.on_error, "device": self.device}
        if self.runtimes is None:
            return {**options, "engine": self.engine, "precision": self.precision}
        runtime = self.runtimes[source]
        fixed = {"engine": runtime.engine, "precision": runtime.precision, "batch_size": runtime.batch_size}
        return {**options, **fixed}


def check_any_left(features: FeatureSet, n_items: int) -> None:
    """Note how many of the items could not be read.

    Raises
    ------
    DataError
        When none is left.
    """
    n_left = len(features.data)
    if not n_left:
        cut_short = any(item.reason == TOO_LONG for item in features.skipped)
        raise DataError("None of the items can be read whole." if cut_short else "None of the items can be read.")
    if n_left < n_items:
        note(f"{n_items - n_left} of {n_items} items are left out of training.")


@dataclass(frozen=True)
class FitResult:
    """What a fitter found for the columns of its task.

    Attributes
    ----------
    targets : tuple of TargetModel
        One per column.
    tables : mapping
        Column → what was chosen, and from what, as plain data.
    data : Dataset
        The items that could be read.
    runtimes : tuple of RuntimeConfig
        How each source was run.
    seconds : mapping
        Per stage.
    history : mapping
        Of what was trained.
    candidates : FeatureSet, optional
        Rows to fine-tune from, where the task can be fine-tuned.
    """

    targets: tuple[TargetModel, ...]
    tables: Mapping[str, Any]
    data: Dataset
    runtimes: tuple[RuntimeConfig, ...]
    seconds: Mapping[str, float]
    history: Mapping[str, Any] = field(default_factory=dict)
    candidates: FeatureSet | None = None


@dataclass(frozen=True)
class TaskFitter:
    """Functions that fit the columns of a task.

    Attributes
    ----------
    check : callable
        (config, columns): refuses what can be refused before any feature is computed.
    fit : callable
        (config, columns) → :class:`FitResult`.
    supports_finetuning : bool
        Whether the source can be fine-tuned for it.
    """

    check: Callable[[FitConfig, Sequence[Target]], None]
    fit: Callable[[FitConfig, Sequence[Target]], FitResult]
    supports_finetuning: bool = False
