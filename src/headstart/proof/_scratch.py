"""Training the same architecture from scratch: a fair rival, with a learning rate of its own choice.

It gets what makes training from nothing work: all weights move, batch normalisation learns its statistics while
training and has them measured over all training items afterwards (a few steps are too few for running averages),
warm-up, cosine, label smoothing, and the learning rate that does best on training items held out for that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart._samples import Samples
from headstart.errors import NumericsError
from headstart.imbalance import log_adjustment
from headstart.pooling import reducer, resolve, width
from headstart.proof._fresh import reinitialize
from headstart.sources.base import Source
from headstart.training import ParameterGroup, TrainingConfig, loss_for, train

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
_UNTRIED = 1e-3  # where there are too few items to hold any out
BATCH = 32
_SMOOTHING, _DECAY = 0.05, 0.02
_HELD_OUT = 0.25
_STATISTICS = torch.nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class ScratchTask:
    """What is the same for every training from scratch: architecture, prepared items, one-hot classes, device."""

    source: Source
    samples: Samples
    T: np.ndarray
    balanced: bool
    device: str


class Scratch(torch.nn.Module):
    """The architecture up to its last candidate layer, and a linear layer on what comes out of it."""

    def __init__(self, source: Source, outputs: int, *, device: str, seed: int) -> None:
        super().__init__()
        layer = source.layer(source.select("last")[0])
        token = bool(source.meta.get("class_token"))
        how: dict[str, Any] = {"axes": layer.axes, "shape": layer.shape}
        pooling = resolve("auto", **how, modality=source.modality, class_token=token)
        self.source, self.layer = source, layer.name
        self.reduce = reducer(pooling, layer.axes)
        self.network = source.module.to(device)
        if source.modality == "image":  # a third faster on a CPU
            self.network.to(memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = torch.nn.Linear(width(pooling, **how), outputs).to(device)
        self.device = torch.device(device)

    def forward(self, batch: Any) -> torch.Tensor:
        tensors = self.source.input.tensors(batch, self.device, torch.float32)
        reduce = {self.layer: lambda output: self.reduce(output, batch)}
        return self.head(self.source.run(self.network, tensors, reduce)[self.layer].float())


def schedule(count: int, *, epochs: int, lr: float, seed: int) -> TrainingConfig:
    """Batches of at most 32, so many that there are several steps in an epoch."""
    return TrainingConfig(epochs=epochs, batch_size=batch_of(count), lr=lr, weight_decay=_DECAY, seed=seed)


def batch_of(count: int) -> int:
    """Items in a batch."""
    return int(min(BATCH, max(4, count // 4)))


def trained(lesson: ScratchTask, items: np.ndarray, *, epochs: int, lr: float, seed: int) -> Scratch:
    """Train from scratch on the items at these positions.

    Raises
    ------
    NumericsError
        When training diverges.
    """
    T = lesson.T[items]
    model = Scratch(reinitialize(lesson.source, seed), T.shape[1], device=lesson.device, seed=seed)
    wanted = torch.from_numpy(T.astype(np.float32)).to(lesson.device)
    # what is rare in the draw shall not be rarely predicted where every class counts the same
    offset = -log_adjustment(T.sum(0)) if lesson.balanced else np.zeros(T.shape[1])
    shift = torch.from_numpy(offset.astype(np.float32)).to(lesson.device)
    measure = loss_for("classification", wanted, smoothing=_SMOOTHING, offset=shift)

    def loss(indices: np.ndarray, _generator: torch.Generator) -> torch.Tensor:
        return measure(model(lesson.samples.batch(items[indices])), wanted[torch.from_numpy(indices)])

    model.train()
    train(
        [ParameterGroup(dict(model.named_parameters()))],
        loss,
        len(items),
        schedule=schedule(len(items), epochs=epochs, lr=lr, seed=seed),
        buffers=dict(model.named_buffers()),
        label="from scratch",
    )
    _measure_statistics(model, lesson.samples, items)
    return model.eval()


@torch.no_grad()
def _measure_statistics(model: Scratch, samples: Samples, items: np.ndarray) -> None:
    norms = [m for m in model.modules() if isinstance(m, _STATISTICS) and m.track_running_stats]
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for part in np.array_split(items, max(1, len(items) // BATCH)):
        model(samples.batch(part))
    for norm, momentum in zip(norms, before):
        norm.momentum = momentum


@torch.no_grad()
def decisions(model: Scratch, samples: Samples, items: np.ndarray) -> np.ndarray:
    """(items, classes) decision values."""
    parts = np.array_split(items, max(1, -(-len(items) // 64)))
    return np.concatenate([model(samples.batch(part)).double().cpu().numpy() for part in parts])


def best_rate(lesson: ScratchTask, items: np.ndarray, *, epochs: int, seed: int) -> tuple[float, dict[str, float]]:
    """The learning rate that does best on a part of the training items, and what each of them came to.

    Compared by held-out log-loss and error together: a handful of items is too coarse for accuracy alone.
    """
    held = _held_out(lesson.T[items], seed)
    if not held.any():
        return _UNTRIED, {}
    losses: dict[str, float] = {}
    for lr in RATES:
        try:
            model = trained(lesson, items[~held], epochs=epochs, lr=lr, seed=seed)
            losses[f"{lr:g}"] = _loss(decisions(model, lesson.samples, items[held]), lesson.T[items[held]])
        except NumericsError:
            losses[f"{lr:g}"] = float("inf")
    best = min(RATES, key=lambda lr: losses[f"{lr:g}"])
    return best, {name: value for name, value in losses.items() if np.isfinite(value)}


def _held_out(T: np.ndarray, seed: int) -> np.ndarray:
    """A quarter of each class, at least one item, and at least one stays."""
    held = np.zeros(len(T), dtype=bool)
    rng = np.random.default_rng(seed)
    for code in np.unique(T.argmax(1)):
        members = rng.permutation(np.flatnonzero(T.argmax(1) == code))
        held[members[: min(len(members) - 1, max(1, round(_HELD_OUT * len(members))))]] = True
    return held


def _loss(decision: np.ndarray, T: np.ndarray) -> float:
    logs = decision - np.logaddexp.reduce(decision, axis=1, keepdims=True)
    wrong = float((logs.argmax(1) != T.argmax(1)).mean())
    return wrong - float(np.maximum((logs * T).sum(1), -20.0).mean())


def speed(lesson: ScratchTask, items: np.ndarray, seed: int) -> Mapping[str, float]:
    """Seconds per item of a training step and of a prediction, measured on a batch; the first step is not counted."""
    some = np.resize(items, batch_of(len(items)))
    model = Scratch(reinitialize(lesson.source, seed), lesson.T.shape[1], device=lesson.device, seed=seed).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    batch = lesson.samples.batch(some)
    for _ in range(2):
        begun = time.perf_counter()
        model(batch).square().mean().backward()
        spent = time.perf_counter() - begun
    model.eval()
    begun = time.perf_counter()
    decisions(model, lesson.samples, some)
    return {"train": spent / len(some), "predict": (time.perf_counter() - begun) / len(some)}
