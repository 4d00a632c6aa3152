"""The activation cache: un-pooled outputs of the last frozen layer per (item, view), as rows of a bank.

A row is found by the item's content key (view 0) or by a key made of it, the augmentation's recipe and the view's
number; a killed run, or another fit on the same source and items, computes only what is missing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headstart._base.hashing import KEY_BYTES
from headstart._base.processes import rank_and_world_size
from headstart._base.progress import track
from headstart.bank.shard_format import BFLOAT16
from headstart.bank.table import MemoryStore
from headstart.engines.base import ENGINES, RuntimeConfig
from headstart.extraction import pipeline
from headstart.extraction.features import FeatureSpec
from headstart.finetuning.boundary import TruncatedForward
from headstart.finetuning.model import BoundaryActivations
from headstart.pooling import reducer
from headstart.runners.base import RUNNERS
from headstart.sources.base import Source
from headstart.sources.types import Batch
from headstart.training.batches import Samples
from headstart.training.distributed import run_on_all

_ON_DEVICE = 4 << 30  # bytes of activations that are moved to a GPU as a whole


@dataclass(frozen=True)
class ActivationStore:
    """Where activations at the boundary are kept and how they are computed.

    Attributes
    ----------
    store : Store or MemoryStore
    recipe : callable
        (layer, pooling, choice) → the recipe of a table, less its dtype.
    choice : RuntimeConfig
        How this source runs on this machine.
    """

    store: Any = field(default_factory=MemoryStore)
    recipe: Callable[[str, str, RuntimeConfig], Mapping[str, Any]] | None = None
    choice: RuntimeConfig = field(default_factory=lambda: RuntimeConfig("torch", "fp32"))

    def table(self, layer: str, pooling: str, dtype: str | None = None) -> Any:
        """Return the table of one layer."""
        recipe = dict(self.recipe(layer, pooling, self.choice)) if self.recipe else {"layer": layer, "pooling": pooling}
        return self.store.table({**recipe, "dtype": dtype} if dtype else recipe)


class ActivationCache:
    """Activations of the frozen part: the boundary's output un-pooled, frozen features pooled, per item and view.

    Attributes
    ----------
    layer : str
        The boundary.
    nbytes : int
        Of the boundary's output for one item; of sequences, for one position.
    """

    def __init__(self, source: Source, layer: str, below: Sequence[FeatureSpec], store: ActivationStore) -> None:
        self._source, self._store, self.layer = source, store, layer
        self.is_bf16 = store.choice.precision != "fp32"
        axes = {layer.name: layer.axes for layer in source.layers}
        sides = source.layer(layer).shape
        self.nbytes = (2 if self.is_bf16 else 4) * math.prod(max(side, 1) for side in sides)
        self._tables = {layer: store.table(layer, "none", "bfloat16" if self.is_bf16 else "float32")}
        self._tables |= {f.layer: store.table(f.layer, f.pooling) for f in below if f.layer != layer}
        self._reduce = {layer: _unpooled(axes[layer])}
        self._reduce |= {f.layer: reducer(f.pooling, axes[f.layer]) for f in below if f.layer != layer}

    def fill(self, samples: Samples, views: Sequence[int]) -> int:
        """Compute what is missing of these views of all samples, and return how many rows that was.

        Several processes share the work where rows are kept on disk; then each looks what may still be missing.
        """
        if rank_and_world_size()[1] > 1 and self._store.store.root is not None:
            run_on_all(lambda: self._fill(samples, views, *rank_and_world_size()))
            for table in self._tables.values():
                table.refresh()
        return self._fill(samples, views)

    def _fill(self, samples: Samples, views: Sequence[int], part: int = 0, parts: int = 1) -> int:
        """Compute every ``parts``-th batch of what is missing."""
        keys = _keys(samples, views)
        sample_of_key = dict(zip(keys, ((view, i) for view in views for i in range(len(samples)))))
        incomplete = {name: table for name, table in self._tables.items() if not table.has(list(sample_of_key)).all()}
        if not incomplete:
            return 0
        in_all = np.logical_and.reduce([table.has(list(sample_of_key)) for table in incomplete.values()])
        sample_at = list(sample_of_key.values())
        size = self._store.choice.batch_size
        missing = [
            (number, key)
            for number, (key, is_stored) in enumerate(zip(sample_of_key, in_all))
            if not is_stored and number // size % parts == part
        ]
        spent = pipeline.PipelineStats()
        prepare = pipeline.make_reader(lambda number: samples.read(sample_at[number][1], sample_at[number][0]), spent)
        with track(f"{self._source.name}: frozen part", len(missing)) as done:
            works = RUNNERS["local"](None).map(prepare, missing, ahead=3 * size)
            usable = pipeline.drop_unreadable(works, spent, done, raising=True)
            writer = pipeline.Writer(incomplete, spent)
            pipeline.run_pipeline(
                usable, self._engine(list(incomplete)), writer, source=self._source, batch_size=size, done=done
            )
        return len(missing)

    def _engine(self, names: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        choice = self._store.choice
        engine = ENGINES[choice.engine](self._source, {name: self._reduce[name] for name in names}, choice)

        def run(batch: Any) -> dict[str, Any]:
            rows: dict[str, Any] = engine(batch)
            if self.is_bf16 and self.layer in rows:
                values = rows[self.layer]
                if isinstance(values, list):
                    rows[self.layer] = [sequence.astype(BFLOAT16) for sequence in values]
                else:
                    rows[self.layer] = values.astype(BFLOAT16)
            return rows

        return run

    def load(
        self, samples: Samples, views: Sequence[int], device: torch.device, truncated: TruncatedForward
    ) -> CachedActivations:
        """Return the activations of all samples and views, to take batches from."""
        keys = _keys(samples, views)
        rows = {name: table.get(keys) for name, table in self._tables.items()}
        main = rows.pop(self.layer)
        if truncated.variable_length and isinstance(main, np.ndarray):  # all of one size
            main = list(main)
        below = {name: torch.from_numpy(np.array(values, np.float32)).to(device) for name, values in rows.items()}
        return CachedActivations(
            samples, main, below, is_bf16=self.is_bf16, device=device, stub_inputs=truncated.stub_inputs
        )


def _unpooled(axes: str) -> Callable[[torch.Tensor, Batch], Any]:
    """Return a reduction that leaves out padding only; of clips it gives all patches, each as it is."""
    without_padding = reducer("none", axes)

    def reduce(output: torch.Tensor, batch: Batch) -> Any:
        if batch.counts is None:
            return without_padding(output, batch)
        return [part.clone() for part in output.split(list(batch.counts))]

    return reduce


class CachedActivations:
    """Activations ready for training: ``batch(indices, views)`` gives a batch and the activations that it is fed."""

    def __init__(
        self,
        samples: Samples,
        main: Any,
        below: Mapping[str, torch.Tensor],
        *,
        is_bf16: bool,
        device: torch.device,
        stub_inputs: bool,
    ) -> None:
        self._samples, self._main, self._below = samples, main, below
        self._is_bf16, self._device, self._synthetic = is_bf16, device, stub_inputs
        self._on_device: torch.Tensor | None = None
        if device.type == "cuda" and isinstance(main, np.ndarray) and main.nbytes <= _ON_DEVICE:
            self._on_device = self._tensor(np.array(main)).to(device)

    def batch(self, indices: np.ndarray, views: np.ndarray | None = None) -> tuple[Batch, BoundaryActivations]:
        """Return the batch of these items, and its activations; ``views`` counts within the views that are loaded."""
        rows = indices if views is None else indices + views * len(self._samples)
        index = torch.from_numpy(np.ascontiguousarray(rows))
        below = {name: values[index.to(values.device)] for name, values in self._below.items()}
        batch = Batch({}) if self._synthetic else self._samples.batch(indices)
        if self._on_device is not None:
            return batch, BoundaryActivations(self._on_device[index.to(self._device)].float(), below)
        if isinstance(self._main, list):
            parts = [self._main[i] for i in rows]
            if self._synthetic or batch.counts is not None:
                batch = Batch(batch.inputs, counts=tuple(len(p) for p in parts), mask=batch.mask)
                joined = self._tensor(np.concatenate(parts))
            else:
                joined = self._tensor(_padded(parts, batch.mask))
        else:
            joined = self._tensor(self._main[rows])
        return batch, BoundaryActivations(joined.to(self._device).float(), below)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        if self._is_bf16:  # torch does not know ml_dtypes' type, only its bits
            return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(values)


def _padded(parts: Sequence[np.ndarray], mask: np.ndarray | None) -> np.ndarray:
    """Return sequences of different lengths as one block; what is beyond an end is 0, and masked everywhere."""
    longest = max(max(map(len, parts)), 0 if mask is None else mask.shape[1])
    block = np.zeros((len(parts), longest, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in zip(block, parts):
        row[: len(part)] = part
    return block


def _keys(samples: Samples, views: Sequence[int]) -> list[bytes]:
    """Return the keys of all samples in each view, view by view."""
    item_keys = samples.keys if samples.keys is not None else [_numbered(samples, i) for i in range(len(samples))]
    recipe = samples.views.recipe if samples.views is not None else ""
    return [key if not view else view_key(key, recipe, view) for view in views for key in item_keys]


def view_key(key: bytes, recipe: str, view: int) -> bytes:
    """Return the key of one random variant of an item."""
    return hashlib.sha256(key + f"\0view\0{recipe}\0{view}".encode()).digest()[:KEY_BYTES]


def _numbered(samples: Samples, index: int) -> bytes:
    """Return a key for a sample without one: it is kept for this run only, so its number will do."""
    return hashlib.sha256(f"{id(samples)}\0{index}".encode()).digest()[:KEY_BYTES]
