"""Records between :func:`headstart.fit` and the fitters of the tasks: what is asked for, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import Array, Float, SkippedItem
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError
from headstart.extraction.features import FeatureSpec, LayerKey
from headstart.heads.base import Head
from headstart.predictor.target_model import TargetModel
from headstart.sources.base import Source, display_names
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


@dataclass(frozen=True)
class Candidates:
    """Rows of every candidate layer, for the items that every source can read.

    Attributes
    ----------
    rows, poolings : mapping (source number, layer) → (n, d) rows, and how they were pooled
    skipped : items that could not be read
    """

    sources: tuple[Source, ...]
    data: Dataset
    rows: Mapping[LayerKey, Array]
    poolings: Mapping[LayerKey, str]
    skipped: tuple[SkippedItem, ...] = ()

    def labelled(self, target: str) -> tuple[Candidates, Float]:
        """The items that have a label in one column, and their (n, t) targets."""
        column = next(c for c in self.data.columns if c.name == target)
        T = column.matrix()
        has_label = ~np.isnan(T).any(1)
        if has_label.all():
            return self, T
        if not has_label.any():
            raise DataError(f"No item has a label in {target!r}.")
        index = np.flatnonzero(has_label)
        note(f"{len(T) - len(index)} of {len(T)} items have no label in {target!r} and are left out.")
        rows = {key: X[index] for key, X in self.rows.items()}
        return Candidates(self.sources, self.data.take(index), rows, self.poolings, self.skipped), T[index]

    def spec(self, key: LayerKey) -> FeatureSpec:
        """A candidate as a target model refers to it."""
        return FeatureSpec(key[0], key[1], self.poolings[key])

    def deepest_first(self) -> list[LayerKey]:
        """All candidates by source, the deepest layer first: of equals the first is chosen."""
        order = {(i, layer.name): -layer.macs for i, s in enumerate(self.sources) for layer in s.layers}
        return sorted(self.rows, key=lambda key: (key[0], order.get(key, 0)))

    def label(self, key: LayerKey) -> str:
        """Name of a candidate in tables: the layer, with its source when there are several."""
        if len(self.sources) == 1:
            return key[1]
        return f"{display_names(self.sources)[key[0]]}/{key[1]}"


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
    candidates : Candidates, optional
        Rows to fine-tune from, where the task can be fine-tuned.
    """

    targets: tuple[TargetModel, ...]
    tables: Mapping[str, Any]
    data: Dataset
    runtimes: tuple[RuntimeConfig, ...]
    seconds: Mapping[str, float]
    history: Mapping[str, Any] = field(default_factory=dict)
    candidates: Candidates | None = None


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
