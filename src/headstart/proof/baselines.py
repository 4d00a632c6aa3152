"""Training the same architecture from scratch: a fair rival, with a learning rate of its own choice.

It gets what makes training from nothing work: all weights move, batch normalisation learns its statistics while
training and has them measured over all training items afterwards (a few steps are too few for running averages),
warm-up, cosine, label smoothing, and the learning rate that does best on training items held out for that.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from headstart._base import extras
from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, HeadstartError, NumericsError, SourceError
from headstart.extraction.extract import extract
from headstart.extraction.loading import reading
from headstart.imbalance import log_adjustment
from headstart.pooling import reducer, resolve, width
from headstart.readers.base import reader
from headstart.sources.base import SOURCES, Source, load_source
from headstart.sources.inputs.array import stacked
from headstart.sources.inputs.log_mel import LogMel
from headstart.training.batches import Samples
from headstart.training.checkpoint import ParameterGroup
from headstart.training.loop import TrainingConfig, train
from headstart.training.losses import loss_for

# ---- The same architecture with initial weights: what a source would be had it learned nothing. ----


_OTHER = 20_240_607
_SPREAD = 0.02  # of parameters whose module does not say how they begin: the usual one of transformers


def reinitialize(source: Source, seed: int) -> Source:
    """A source of the same architecture and preprocessing whose weights are drawn anew.

    A source that is built from plain data is built again, as its library begins to train it; a Python object is copied,
    and every module in it asked to begin anew.

    Raises
    ------
    SourceError
        When it is not run by torch, has no weights, or some of its weights stay what they are.
    """
    if not any(True for _ in source.module.parameters()):
        raise SourceError(f"{source.address} has no weights: it has learned nothing that could be transferred.")
    # A source may itself be one that was drawn by this very seed.
    other = int(np.random.SeedSequence([seed, _OTHER]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(other)
        made = _again(source, other)
    before = {name: p.detach().cpu() for name, p in source.module.named_parameters()}
    after = {name: p.detach().cpu() for name, p in made.module.named_parameters() if p.ndim > 1 and p.numel() > 1}
    same = [name for name, p in after.items() if name in before and torch.equal(p, before[name])]
    if same:
        raise SourceError(f"{source.address} cannot be begun anew: {same[0]} and others keep their weights.")
    return dataclasses.replace(made, address=f"{source.address}+random-{seed}", meta={**source.meta, "random": seed})


def _again(source: Source, seed: int) -> Source:
    rebuild = source.rebuild
    if rebuild is None:
        network = copy.deepcopy(source.module)
        _redraw(network)
        return dataclasses.replace(source, network=network)
    if rebuild["family"] == "keras":  # its file is the architecture together with the weights
        return dataclasses.replace(source, network=_keras_clone(source.module, seed))
    build = SOURCES[rebuild["family"]]
    known = inspect.signature(build).parameters
    extra: dict[str, Any] = {"seed": seed} if "seed" in known else {}
    if source.files and "files" in known:
        extra["files"] = source.files
    made: Source = build(rebuild["name"], **{**rebuild["options"], **extra})
    return made


def _keras_clone(model: Any, seed: int) -> Any:
    keras = extras.require_package("keras", "for keras: sources")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - Keras seeds the global ones
    try:
        keras.utils.set_random_seed(seed)
        return keras.models.clone_model(model).eval()
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _redraw(network: torch.nn.Module) -> None:
    """Every module that knows how begins anew; parameters of others get the customary beginning."""
    for module in network.modules():
        begin = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(begin):
            begin()
            continue
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, _SPREAD)
                else:
                    parameter.fill_(0.0 if "bias" in name else 1.0)


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


# ---- Features that know nothing: pixels, counted words, log-mel energies, the numbers themselves. ----


Rows = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
NAMES = {
    "image": "raw pixels",
    "text": "counted words (TF-IDF)",
    "audio": "log-mel energies",
    "vector": "the raw numbers",
}
_SIDE = 32
_WORDS = 5000
_SEGMENTS = 6
_FRONT_END = LogMel()  # that of identity:audio, which has clips read at its rate


def raw_rows(data: Dataset) -> Rows | None:
    """(training positions, test positions) → their raw features; None, with a note, where there are none.

    Cost: one reading of every item. Words are counted on the training items alone.
    """
    try:
        if data.modality == "text" and not data.meta.get("preprocessed"):
            return _words(data)
        return _fixed(_numbers(data))
    except HeadstartError as error:
        note(f"There are no raw features to compare with: {error}")
        return None


def _fixed(X: np.ndarray) -> Rows:
    return lambda train, test: (X[train], X[test])


def _words(data: Dataset) -> Rows:
    read = reader("text").read
    texts = np.array([str(read(item)) for item in data.items], dtype=object)

    def rows(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=_WORDS, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            learned = count.fit_transform(texts[train])
        except ValueError as error:
            raise DataError(f"The training texts have no words: {error}.") from error
        return learned.toarray().astype(np.float32), count.transform(texts[test]).toarray().astype(np.float32)

    return rows


def _numbers(data: Dataset) -> np.ndarray:
    """(n, d) of pictures, sounds or numbers."""
    if data.modality == "image" and not data.meta.get("preprocessed"):
        pixels = load_source("identity:image", size=_SIDE)
        bank = extract(pixels, data, layers="last", store=False, engine="torch", precision="fp32", batch_size=32)
        return np.asarray(bank.rows(bank.layers[0], data))
    if data.modality == "audio" and not data.meta.get("preprocessed"):
        read = reading(load_source("identity:audio"), data, prepare=energies)
    else:
        read = reading(load_source("identity:vector"), data)
    return stacked([np.ravel(read(i)) for i in range(len(data))])


def energies(clip: Any) -> np.ndarray:
    """Mean log-mel energies of six equal parts of a clip, and their spread over the whole: (7 · 64,) float32.

    A clip shorter than a window is filled up with silence.
    """
    samples = np.asarray(clip.samples, dtype=np.float32)
    short = _FRONT_END.window_samples - len(samples)
    frames = _FRONT_END.frames(np.pad(samples, (0, max(0, short))))
    edges = np.linspace(0, len(frames), _SEGMENTS + 1)
    parts = [frames[int(a) : max(int(a) + 1, int(b))].mean(0) for a, b in pairwise(edges)]
    return np.concatenate([*parts, frames.std(0)]).astype(np.float32)
