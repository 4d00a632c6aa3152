"""A source's copy with a linear head on some of its layers: what is trained. Differentiable from end to end."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from headstart.pooling import reducer


@dataclass(frozen=True)
class Feature:
    """One layer that the head reads and how it is pooled."""

    layer: str
    pooling: str


@dataclass(frozen=True)
class Start:
    """The solved head that training starts from, and the mean and standard deviation of each feature."""

    coef: np.ndarray
    intercept: np.ndarray
    centre: np.ndarray
    spread: np.ndarray

    @staticmethod
    def of(coef: np.ndarray, intercept: np.ndarray, rows: np.ndarray) -> Start:
        """From a head and the rows it was solved on; features that never vary keep a spread of 1."""
        spread = rows.std(0, dtype=np.float64)
        return Start(
            np.asarray(coef, np.float64),
            np.asarray(intercept, np.float64),
            rows.mean(0, dtype=np.float64),
            np.where(spread > 1e-6, spread, 1.0),
        )


class Tuned(torch.nn.Module):
    """``features(x) · W + b`` with a copy of the source's network inside; the source given is never touched.

    Whatever keeps statistics (batch normalisation and its kin) stays in evaluation mode: they are those that the
    weights were trained with. Dropout of the parts that move is active while training.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(self, source: Any, features: Sequence[Feature], start: Start, *, device: str = "cpu") -> None:
        super().__init__()
        self.source = source
        self.features = tuple(features)
        self.network = copy.deepcopy(source.module).to(device).eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.head = torch.nn.Linear(*start.coef.shape).to(device)
        self.register_buffer("centre", torch.from_numpy(start.centre).float().to(device))
        self.register_buffer("spread", torch.from_numpy(start.spread).float().to(device))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy((start.coef * start.spread[:, None]).T))
            self.head.bias.copy_(torch.from_numpy(start.intercept + start.centre @ start.coef))
        self.device = torch.device(device)
        layers = {layer.name: layer for layer in source.layers}
        self._reduce = {f.layer: reducer(f.pooling, layers[f.layer].axes) for f in self.features}

    def rows(self, batch: Any) -> torch.Tensor:
        """(items, width) features with their graph."""
        reduce = {name: partial(_swap, function, batch) for name, function in self._reduce.items()}
        tensors = self.source.input.tensors(batch, self.device, torch.float32)
        kept = self.source.run(self.network, tensors, reduce)
        return torch.cat([kept[f.layer].float() for f in self.features], 1)

    def forward(self, batch: Any) -> torch.Tensor:
        """(items, outputs) decision values."""
        return self.decide(self.rows(batch))

    def decide(self, rows: torch.Tensor) -> torch.Tensor:
        """(items, outputs) decision values of features; they are standardised first, which only conditions training."""
        decision: torch.Tensor = self.head((rows - self.centre) / self.spread)
        return decision

    def training_from(self, unit: int | None, modules: Mapping[str, int]) -> None:
        """Training mode for everything that runs in ``unit`` or above, except what keeps statistics of its own."""
        for name, module in self.network.named_modules():
            statistics = any(True for _ in module.buffers(recurse=False)) or "norm" in type(module).__name__.lower()
            module.training = unit is not None and modules.get(name, -1) >= unit and not statistics

    def solved(self) -> tuple[np.ndarray, np.ndarray]:
        """The head as (coef (d, t), intercept (t,)) on the features as they are, float64."""
        weight = self.head.weight.detach().cpu().double().numpy().T
        centre, spread = (b.detach().cpu().double().numpy() for b in (self.centre, self.spread))
        coef = weight / spread[:, None]
        return coef, self.head.bias.detach().cpu().double().numpy() - centre @ coef


def _swap(function: Any, batch: Any, output: torch.Tensor) -> torch.Tensor:
    return function(output, batch)
