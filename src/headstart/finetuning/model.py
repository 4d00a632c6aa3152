"""The model that is fine-tuned: a copy of the source with a linear head on some of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from headstart.engines.base import rows_of_batch
from headstart.extraction.features import FeatureSpec
from headstart.pooling import reducer
from headstart.sources.base import Source
from headstart.sources.types import Batch
from headstart.training.augment import Mix, draw_mix, mixed_at


@dataclass(frozen=True)
class HeadInit:
    """The solved head that training starts from, and the mean and standard deviation of each feature.

    Shapes: ``coef`` (d, t), ``intercept`` (t,), ``mean`` and ``std`` (d,).
    """

    coef: np.ndarray
    intercept: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @staticmethod
    def of(coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray) -> HeadInit:
        """Return the start from a head and the rows it was solved on; constant features keep a deviation of 1."""
        std = rows.std(0, dtype=np.float64)
        return HeadInit(
            np.asarray(coef, np.float64),
            np.asarray(intercept, np.float64),
            rows.mean(0, dtype=np.float64),
            np.where(std > 1e-6, std, 1.0),
        )


@dataclass(frozen=True)
class BoundaryActivations:
    """Activations of the frozen part for a batch: the boundary's output, and pooled features of layers below it."""

    value: torch.Tensor
    below: Mapping[str, torch.Tensor] = field(default_factory=dict)


class TruncatedPass(Protocol):
    """What runs only the part above the boundary: :class:`headstart.finetuning.boundary.TruncatedForward`."""

    def feed(self, value: torch.Tensor, batch: Batch) -> None:
        """Set what the boundary gives in the next forward pass."""
        ...

    def tensors(
        self, batch: Batch, device: torch.device, make: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Return the network's input, or memory that stands for it."""
        ...


class FineTuneModel(torch.nn.Module):
    """``features(x) · W + b`` with a copy of the source's network inside; the source given is never touched.

    Whatever keeps statistics (batch normalisation and its kin) stays in evaluation mode: they are those that the
    weights were trained with. Dropout of the trained part is active while training. Networks that convolve images are
    laid out channels-last. With a ``truncated`` forward pass, batches come with the activations of the frozen part.

    Attributes
    ----------
    boundary : str or None
        The last frozen layer, where pairs of items are mixed.
    captured : tensor or None
        What the layer named to :meth:`capture` gave in the last forward pass.
    bf16 : bool
        Whether the forward pass is autocast.
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor

    def __init__(
        self, source: Source, features: Sequence[FeatureSpec], start: HeadInit, *, device: str = "cpu"
    ) -> None:
        super().__init__()
        self.source = source
        self.features = tuple(features)
        self.network = copy.deepcopy(source.module).to(device).eval()
        self._channels_last = any(isinstance(module, torch.nn.Conv2d) for module in self.network.modules())
        if self._channels_last:
            self.network.to(memory_format=torch.channels_last)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.truncated: TruncatedPass | None = None
        self.boundary: str | None = None
        self._mix: Mix | None = None
        self._capture: str | None = None
        self.captured: torch.Tensor | None = None
        self.bf16 = False
        self.head = torch.nn.Linear(*start.coef.shape).to(device)
        self.register_buffer("feature_mean", torch.from_numpy(start.mean).float().to(device))
        self.register_buffer("feature_std", torch.from_numpy(start.std).float().to(device))
        with torch.no_grad():  # the same function, on standardised features
            self.head.weight.copy_(torch.from_numpy((start.coef * start.std[:, None]).T))
            self.head.bias.copy_(torch.from_numpy(start.intercept + start.mean @ start.coef))
        self.device = torch.device(device)
        layers = {layer.name: layer for layer in source.layers}
        self._reduce = {f.layer: reducer(f.pooling, layers[f.layer].axes) for f in self.features}

    def rows(self, batch: Batch, activations: BoundaryActivations | None = None) -> torch.Tensor:
        """Return (items, width) features with their graph; from the boundary on where activations are given."""
        below = {} if activations is None else activations.below
        above = {name: function for name, function in self._reduce.items() if name not in below}
        reduce = rows_of_batch(above, batch)
        if self._capture is not None:
            reduce[self._capture] = lambda output: output
        tensors = self._tensors(batch, activations)
        # cached activations are mixed before they are fed, so no hook must mix them again
        mixing = mixed_at(self.source, self.network, self.boundary, None if activations is not None else self._mix)
        with mixing, torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            outputs = {**below, **self.source.run(tensors, reduce, module=self.network)}
        self.captured = outputs.get(self._capture) if self._capture is not None else None
        if self._mix is not None:
            frozen = self._frozen_layers()
            outputs = {name: self._mix(value) if name in frozen else value for name, value in outputs.items()}
        return torch.cat([outputs[f.layer].float() for f in self.features], 1)

    @contextmanager
    def capture(self, layer: str | None) -> Iterator[None]:
        """Inside, every forward pass leaves what this layer gives in ``captured``."""
        self._capture = layer
        try:
            yield
        finally:
            self._capture = self.captured = None

    @contextmanager
    def mixing(self, alpha: float, batch: Batch, items: int, generator: torch.Generator) -> Iterator[Mix | None]:
        """Inside, pairs of items are mixed at the boundary, or at the pooled features where there is none."""
        single = batch.counts is None and batch.mask is None
        self._mix = draw_mix(alpha, items, generator) if alpha and single else None
        try:
            yield self._mix
        finally:
            self._mix = None

    def _frozen_layers(self) -> set[str]:
        """Return the features that the mixed boundary does not reach: all of them where there is no boundary."""
        order = {layer.name: i for i, layer in enumerate(self.source.layers)}
        end = order[self.boundary] if self.boundary is not None else len(order)
        return {f.layer for f in self.features if order[f.layer] < end}

    def pooled(self, batch: Batch, features: Sequence[FeatureSpec]) -> dict[str, torch.Tensor]:
        """Return pooled outputs of some of the layers, from a full forward pass."""
        reduce = rows_of_batch({f.layer: self._reduce[f.layer] for f in features}, batch)
        outputs: dict[str, torch.Tensor] = self.source.run(self.inputs(batch), reduce, module=self.network)
        return outputs

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the network's input on its device, in its memory layout."""
        tensors = self.source.input.tensors(batch, self.device, torch.float32)
        return {name: self._laid_out(tensor) for name, tensor in tensors.items()}

    def _tensors(self, batch: Batch, activations: BoundaryActivations | None) -> dict[str, torch.Tensor]:
        if activations is None:
            return self.inputs(batch)
        assert self.truncated is not None
        value = activations.value if self._mix is None else self._mix(activations.value)
        self.truncated.feed(self._laid_out(value), batch)
        return self.truncated.tensors(batch, self.device, lambda: self.inputs(batch))

    def _laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        is_image = self._channels_last and tensor.ndim == 4
        return tensor.contiguous(memory_format=torch.channels_last) if is_image else tensor

    def forward(self, batch: Batch, activations: BoundaryActivations | None = None) -> torch.Tensor:
        """Return (items, outputs) decision values."""
        return self.head_forward(self.rows(batch, activations))

    def head_forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (items, outputs) decision values of features, which are standardised to condition the training."""
        decision: torch.Tensor = self.head((rows - self.feature_mean) / self.feature_std)
        return decision

    def train_above(self, unit: int | None, modules: Mapping[str, int]) -> None:
        """Put into training mode what runs in ``unit`` or above, except what keeps statistics of its own."""
        for name, module in self.network.named_modules():
            statistics = any(True for _ in module.buffers(recurse=False)) or "norm" in type(module).__name__.lower()
            module.training = unit is not None and modules.get(name, -1) >= unit and not statistics

    def set_eval(self) -> None:
        """Put everything into evaluation mode."""
        self.train_above(None, {})

    def export_head(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the head as (coef (d, t), intercept (t,)) on features that are not standardised, float64."""
        weight = self.head.weight.detach().cpu().double().numpy().T
        mean, std = (b.detach().cpu().double().numpy() for b in (self.feature_mean, self.feature_std))
        coef = np.ascontiguousarray(weight / std[:, None])  # as it is read back: sums round by the order in memory
        return coef, self.head.bias.detach().cpu().double().numpy() - mean @ coef
