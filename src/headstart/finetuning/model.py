"""A source's copy with a linear head on some of its layers: what is trained. Differentiable from end to end."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headstart.engines.base import rows_of_batch
from headstart.pooling import reducer
from headstart.training.augment import Mix, drawn, mixed_at


@dataclass(frozen=True)
class LayerSpec:
    """One layer that the head reads and how it is pooled."""

    layer: str
    pooling: str


@dataclass(frozen=True)
class HeadInit:
    """The solved head that training starts from, and the mean and standard deviation of each feature."""

    coef: np.ndarray
    intercept: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray) -> HeadInit:
        """From a head and the rows it was solved on; features that never vary keep a spread of 1."""
        spread = rows.std(0, dtype=np.float64)
        return HeadInit(
            np.asarray(coef, np.float64),
            np.asarray(intercept, np.float64),
            rows.mean(0, dtype=np.float64),
            np.where(spread > 1e-6, spread, 1.0),
        )


@dataclass(frozen=True)
class BoundaryActivations:
    """What the frozen part gave for a batch: the boundary's output, and pooled features of layers below it."""

    value: torch.Tensor
    below: Mapping[str, torch.Tensor] = field(default_factory=dict)


class FineTuneModel(torch.nn.Module):
    """``features(x) · W + b`` with a copy of the source's network inside; the source given is never touched.

    Whatever keeps statistics (batch normalisation and its kin) stays in evaluation mode: they are those that the
    weights were trained with. Dropout of the parts that move is active while training. Networks that convolve pictures
    are laid out channels-last. With a ``shortcut`` installed, batches come with what the frozen part gave for them.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, source: Any, features: Sequence[LayerSpec], start: HeadInit, *, device: str = "cpu") -> None:
        super().__init__()
        self.source = source
        self.features = tuple(features)
        self.network = copy.deepcopy(source.module).to(device).eval()
        self._channels_last = any(isinstance(module, torch.nn.Conv2d) for module in self.network.modules())
        if self._channels_last:
            self.network.to(memory_format=torch.channels_last)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.truncated: Any = None
        self.boundary: str | None = None
        self._mix: Mix | None = None
        self._capture: str | None = None
        self.captured: torch.Tensor | None = None
        self.bf16 = False
        self.head = torch.nn.Linear(*start.coef.shape).to(device)
        self.register_buffer("centre", torch.from_numpy(start.centre).float().to(device))
        self.register_buffer("spread", torch.from_numpy(start.spread).float().to(device))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy((start.coef * start.spread[:, None]).T))
            self.head.bias.copy_(torch.from_numpy(start.intercept + start.centre @ start.coef))
        self.device = torch.device(device)
        layers = {layer.name: layer for layer in source.layers}
        self._reduce = {f.layer: reducer(f.pooling, layers[f.layer].axes) for f in self.features}

    def rows(self, batch: Any, fed: BoundaryActivations | None = None) -> torch.Tensor:
        """(items, width) features with their graph."""
        below = {} if fed is None else fed.below
        wanted = {name: function for name, function in self._reduce.items() if name not in below}
        reduce = rows_of_batch(wanted, batch)
        if self._capture is not None:
            reduce[self._capture] = lambda output: output
        tensors = self._tensors(batch, fed)
        hooked = mixed_at(self.source, self.network, self.boundary, None if fed is not None else self._mix)
        with hooked, torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            kept = {**below, **self.source.run(tensors, reduce, module=self.network)}
        self.captured = kept.get(self._capture) if self._capture is not None else None
        if self._mix is not None:
            frozen = self._frozen_layers()
            kept = {k: self._mix(v) if k in frozen else v for k, v in kept.items()}
        return torch.cat([kept[f.layer].float() for f in self.features], 1)

    @contextmanager
    def capture(self, layer: str | None) -> Iterator[None]:
        """Inside, what this layer gives is left in ``seen`` by every forward pass."""
        self._capture = layer
        try:
            yield
        finally:
            self._capture = self.captured = None

    @contextmanager
    def mixing(self, alpha: float, batch: Any, items: int, generator: torch.Generator) -> Iterator[Mix | None]:
        """Inside, pairs of items are mixed at the boundary, or at the pooled features where there is none."""
        single = batch.counts is None and batch.mask is None
        self._mix = drawn(alpha, items, generator) if alpha and single else None
        try:
            yield self._mix
        finally:
            self._mix = None

    def _frozen_layers(self) -> set[str]:
        """Features that the mixed boundary does not reach: all of them where there is no boundary."""
        order = {layer.name: i for i, layer in enumerate(self.source.layers)}
        end = order[self.boundary] if self.boundary is not None else len(order)
        return {f.layer for f in self.features if order[f.layer] < end}

    def parts(self, batch: Any, features: Sequence[LayerSpec]) -> dict[str, torch.Tensor]:
        """Pooled outputs of some of the layers, from a full forward pass."""
        reduce = rows_of_batch({f.layer: self._reduce[f.layer] for f in features}, batch)
        kept: dict[str, torch.Tensor] = self.source.run(self._tensors(batch, None), reduce, module=self.network)
        return kept

    def _tensors(self, batch: Any, fed: BoundaryActivations | None) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            made: dict[str, Any] = self.source.input.tensors(batch, self.device, torch.float32)
            return {k: self._laid_out(v) for k, v in made.items()}

        if fed is None:
            return make()
        value = fed.value if self._mix is None else self._mix(fed.value)
        self.truncated.feed(self._laid_out(value), batch)
        given: dict[str, Any] = self.truncated.tensors(batch, self.device, make)
        return given

    def _laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        last = self._channels_last and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if last else tensor

    def forward(self, batch: Any, fed: BoundaryActivations | None = None) -> torch.Tensor:
        """(items, outputs) decision values."""
        return self.head_forward(self.rows(batch, fed))

    def head_forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(items, outputs) decision values of features; they are standardised first, which only conditions training."""
        decision: torch.Tensor = self.head((rows - self.centre) / self.spread)
        return decision

    def train_above(self, unit: int | None, modules: Mapping[str, int]) -> None:
        """Training mode for everything that runs in ``unit`` or above, except what keeps statistics of its own."""
        for name, module in self.network.named_modules():
            statistics = any(True for _ in module.buffers(recurse=False)) or "norm" in type(module).__name__.lower()
            module.training = unit is not None and modules.get(name, -1) >= unit and not statistics

    def set_eval(self) -> None:
        """Evaluation mode everywhere."""
        self.train_above(None, {})

    def export_head(self) -> tuple[np.ndarray, np.ndarray]:
        """The head as (coef (d, t), intercept (t,)) on the features as they are, float64."""
        weight = self.head.weight.detach().cpu().double().numpy().T
        centre, spread = (b.detach().cpu().double().numpy() for b in (self.centre, self.spread))
        coef = np.ascontiguousarray(weight / spread[:, None])  # as it is read back: sums round by the order in memory
        return coef, self.head.bias.detach().cpu().double().numpy() - centre @ coef
