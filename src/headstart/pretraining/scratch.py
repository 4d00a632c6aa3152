"""Train the architecture of a source from initial weights: the baseline that transfer has to beat.

The baseline gets what makes training from nothing work: all weights move, batch normalisation learns its statistics
while training and has them measured over all training items afterwards (a few steps are too few for running averages),
warm-up, cosine schedule, label smoothing, and the learning rate that does best on training items held out for that.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart._base import extras
from headstart.errors import NumericsError, SourceError
from headstart.imbalance import log_adjustment
from headstart.pooling import reducer, resolve, width
from headstart.sources.base import SOURCES, Source
from headstart.sources.types import Batch
from headstart.training.augment import Mix
from headstart.training.batches import SampleBatches, Samples
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import TrainingConfig
from headstart.training.loop import train
from headstart.training.losses import SupervisedLoss

_SEED_SALT = 20_240_607
_WEIGHT_STD = 0.02  # of parameters whose module does not say how they begin: the usual one of transformers


def reinitialize(source: Source, seed: int) -> Source:
    """Return a source of the same architecture and preprocessing with newly drawn weights.

    A source that is built from plain data is built again, as its library initialises it for training; a Python object
    is copied, and every module in it is reset.

    Raises
    ------
    SourceError
        When it is not run by torch, has no weights, or some of its weights stay what they are.
    """
    if not any(True for _ in source.module.parameters()):
        raise SourceError(f"{source.address} has no weights: it has learned nothing that could be transferred.")
    # The source may itself be one that was drawn by this very seed, so another one is derived from it.
    own_seed = int(np.random.SeedSequence([seed, _SEED_SALT]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own_seed)
        result = _rebuild(source, own_seed)
    old_weights = {name: p.detach().cpu() for name, p in source.module.named_parameters()}
    for name, parameter in result.module.named_parameters():
        is_matrix = parameter.ndim > 1 and parameter.numel() > 1  # biases and scales all begin at 0 or 1
        if is_matrix and name in old_weights and torch.equal(parameter.detach().cpu(), old_weights[name]):
            raise SourceError(f"{source.address} cannot be reinitialized: {name} and others keep their weights.")
    return dataclasses.replace(result, address=f"{source.address}+random-{seed}", meta={**source.meta, "random": seed})


def _rebuild(source: Source, seed: int) -> Source:
    recipe = source.rebuild
    if recipe is None:
        network = copy.deepcopy(source.module)
        _reset_weights(network)
        return source.with_module(network)
    if recipe["family"] == "keras":  # its file is the architecture together with the weights
        return source.with_module(_clone_keras(source.module, seed))
    build = SOURCES[recipe["family"]]
    accepted = inspect.signature(build).parameters
    extra: dict[str, Any] = {"seed": seed} if "seed" in accepted else {}
    if source.files and "files" in accepted:
        extra["files"] = source.files
    result: Source = build(recipe["name"], **{**recipe["options"], **extra})
    return result


def _clone_keras(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Return a Keras model of the same configuration; the global generators that Keras seeds are put back."""
    keras = extras.require_package("keras", "for keras: sources")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - Keras seeds the global ones
    try:
        keras.utils.set_random_seed(seed)
        clone: torch.nn.Module = keras.models.clone_model(model).eval()
        return clone
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _reset_weights(network: torch.nn.Module) -> None:
    """Reset every module that can reset itself; parameters of others get the customary initial values."""
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, _WEIGHT_STD)
                else:
                    parameter.fill_(0.0 if "bias" in name else 1.0)


LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
_DEFAULT_RATE = 1e-3  # where there are too few items to hold any out
BATCH_SIZE = 32
_TRAINING = TrainingConfig(weight_decay=0.02, label_smoothing=0.05)
_HELD_OUT = 0.25
_BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class ScratchTask:
    """What all trainings from scratch on one dataset share.

    Attributes
    ----------
    source : Source
        Gives the architecture and the preprocessing; its weights are not used.
    samples : Samples
        Prepared items.
    T : (n, classes) array
        One-hot classes.
    balanced : bool
        Whether every class counts the same, however rare it is.
    """

    source: Source
    samples: Samples
    T: np.ndarray
    balanced: bool
    device: str


class ScratchModel(torch.nn.Module):
    """The architecture up to its last candidate layer, with a linear layer on the pooled output of that."""

    def __init__(self, source: Source, outputs: int, *, device: str, seed: int) -> None:
        super().__init__()
        layer = source.layer(source.select("last")[0])
        has_token = bool(source.meta.get("class_token"))
        pooling = resolve("auto", axes=layer.axes, shape=layer.shape, modality=source.modality, class_token=has_token)
        self.source, self.layer = source, layer.name
        self.reduce = reducer(pooling, layer.axes)
        self.network = source.module.to(device)
        if source.modality == "image":  # a third faster on a CPU
            self.network.to(memory_format=torch.channels_last)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = torch.nn.Linear(width(pooling, axes=layer.axes, shape=layer.shape), outputs).to(device)
        self.device = torch.device(device)

    @classmethod
    def initial(cls, task: ScratchTask, seed: int) -> ScratchModel:
        """Return the model of a task with initial weights drawn from ``seed``."""
        return cls(reinitialize(task.source, seed), task.T.shape[1], device=task.device, seed=seed)

    def forward(self, batch: Batch, _mix: Mix | None = None) -> torch.Tensor:
        """Return (items, outputs) decision values."""
        tensors = self.source.input.tensors(batch, self.device, torch.float32)
        reduce = {self.layer: lambda output: self.reduce(output, batch)}
        return self.head(self.source.run(tensors, reduce, module=self.network)[self.layer].float())

    @torch.no_grad()
    def decisions(self, samples: Samples, items: np.ndarray) -> np.ndarray:
        """Return (items, classes) decision values as float64, batch by batch, without gradients."""
        parts = np.array_split(items, max(1, -(-len(items) // 64)))
        return np.concatenate([self(samples.batch(part)).double().cpu().numpy() for part in parts])


def scratch_config(count: int, *, epochs: int, lr: float, seed: int) -> TrainingConfig:
    """Return how ``count`` items are trained on from scratch."""
    return dataclasses.replace(_TRAINING, epochs=epochs, batch_size=batch_size_for(count), lr=lr, seed=seed)


def batch_size_for(count: int) -> int:
    """Return at most 32, and so few that there are several steps in an epoch."""
    return int(min(BATCH_SIZE, max(4, count // 4)))


def train_from_scratch(task: ScratchTask, items: np.ndarray, *, epochs: int, lr: float, seed: int) -> ScratchModel:
    """Train initial weights on the items at these positions.

    Raises
    ------
    NumericsError
        When training diverges.
    """
    T = task.T[items]
    model = ScratchModel.initial(task, seed)
    targets = torch.from_numpy(T.astype(np.float32)).to(task.device)
    # what is rare among the items shall not be rarely predicted where every class counts the same
    offset = -log_adjustment(T.sum(0)) if task.balanced else np.zeros(T.shape[1])
    shift = torch.from_numpy(offset.astype(np.float32)).to(task.device)
    config = scratch_config(len(items), epochs=epochs, lr=lr, seed=seed)
    model.train()
    train(
        [ParameterGroup(dict(model.named_parameters()))],
        SupervisedLoss(model, targets, "classification", config=config, offset=shift),
        SampleBatches(task.samples, items),
        config=config,
        buffers=dict(model.named_buffers()),
        label="from scratch",
    )
    _measure_batch_norm(model, task.samples, items)
    return model.eval()


@torch.no_grad()
def _measure_batch_norm(model: ScratchModel, samples: Samples, items: np.ndarray) -> None:
    """Replace the running statistics of batch normalisation by those of all items under the final weights."""
    norms = [m for m in model.modules() if isinstance(m, _BATCH_NORM) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then takes the mean over all batches
        norm.train()
    for part in np.array_split(items, max(1, len(items) // BATCH_SIZE)):
        model(samples.batch(part))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def best_learning_rate(
    task: ScratchTask, items: np.ndarray, *, epochs: int, seed: int
) -> tuple[float, dict[str, float]]:
    """Return the learning rate that does best on held-out training items, and the held-out loss of each.

    Compared by held-out log-loss and error together: a handful of items is too coarse for accuracy alone.
    """
    held_out = _held_out(task.T[items], seed)
    if not held_out.any():
        return _DEFAULT_RATE, {}
    losses: dict[str, float] = {}
    for lr in LEARNING_RATES:
        try:
            model = train_from_scratch(task, items[~held_out], epochs=epochs, lr=lr, seed=seed)
            decision = model.decisions(task.samples, items[held_out])
            losses[f"{lr:g}"] = _held_out_loss(decision, task.T[items[held_out]])
        except NumericsError:
            losses[f"{lr:g}"] = float("inf")
    best = min(LEARNING_RATES, key=lambda lr: losses[f"{lr:g}"])
    return best, {name: value for name, value in losses.items() if np.isfinite(value)}


def _held_out(T: np.ndarray, seed: int) -> np.ndarray:
    """Return a mask of a quarter of each class: at least one item, and at least one stays."""
    mask = np.zeros(len(T), dtype=bool)
    rng = np.random.default_rng(seed)
    codes = T.argmax(1)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))
        mask[members[: min(len(members) - 1, max(1, round(_HELD_OUT * len(members))))]] = True
    return mask


def _held_out_loss(decision: np.ndarray, T: np.ndarray) -> float:
    """Return the error rate plus the log-loss, of which a single item gives at most 20."""
    logs = decision - np.logaddexp.reduce(decision, axis=1, keepdims=True)
    error = float((logs.argmax(1) != T.argmax(1)).mean())
    return error - float(np.maximum((logs * T).sum(1), -20.0).mean())


def measure_speed(task: ScratchTask, items: np.ndarray, seed: int) -> Mapping[str, float]:
    """Return seconds per item of a training step ("train") and of a prediction ("predict"), measured on one batch."""
    indices = np.resize(items, batch_size_for(len(items)))
    model = ScratchModel.initial(task, seed).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    batch = task.samples.batch(indices)
    for _ in range(2):  # the first step allocates and is not counted
        start = time.perf_counter()
        model(batch).square().mean().backward()
        train_seconds = time.perf_counter() - start
    model.eval()
    start = time.perf_counter()
    model.decisions(task.samples, indices)
    return {"train": train_seconds / len(indices), "predict": (time.perf_counter() - start) / len(indices)}
