"""Settings of a training run, and of what varies its items: plain records that need no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from headstart._base.constraints import Allow, Interval, Options, validate
from headstart.errors import OptionError


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast and how carefully to train.

    Attributes
    ----------
    epochs, batch_size : int or None
        None leaves it to whoever trains, who knows the number of items.
    lr : float, "auto" or None
        Peak learning rate, reached after ``warmup`` (a fraction of all steps). ``"auto"`` runs a range test, where
        there is one (fine-tuning).
    schedule : {"cosine", "constant"}
        Of the learning rate after the warm-up; cosine ends at zero.
    weight_decay : float
        Decoupled (AdamW).
    clip : float or None
        Largest norm of the gradient.
    ema : float
        Decay of an exponential moving average of the parameters, which is then what is validated and kept; 0 is none.
    patience : int or None
        Epochs without a better validation score before stopping.
    budget : float or None
        Seconds. The number of epochs is cut to what fits, measured on the first steps, so the schedule still ends.
    label_smoothing : float
        Share of every one-hot label that is spread over all classes.
    precision : {"auto", "fp32", "bf16"}
        Of the forward pass; parameters and optimiser stay in fp32. ``"auto"`` takes bf16 where it was measured to be
        faster on this machine.
    num_workers : int
        Processes that read batches ahead; 0 reads in this one, which is quickest where items are in memory. The batches
        are the same, bit for bit. Has no effect where the data are in memory already.
    seed : int
    """

    epochs: Annotated[int | None, Interval(1, 100_000, integer=True), Allow(None)] = None
    batch_size: Annotated[int | None, Interval(1, 65_536, integer=True), Allow(None)] = None
    lr: Annotated[float | str | None, Interval(0, None, closed="neither"), Options("auto"), Allow(None)] = None
    weight_decay: Annotated[float, Interval(0, None)] = 0.0
    warmup: Annotated[float, Interval(0, 1)] = 0.1
    schedule: Annotated[str, Options("cosine", "constant")] = "cosine"
    clip: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = 1.0
    patience: Annotated[int | None, Interval(1, None, integer=True), Allow(None)] = None
    ema: Annotated[float, Interval(0, 1, closed="left")] = 0.0
    budget: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None
    label_smoothing: Annotated[float, Interval(0, 1, closed="left")] = 0.0
    precision: Annotated[str, Options("auto", "fp32", "bf16")] = "auto"
    num_workers: Annotated[int, Interval(0, 256, integer=True)] = 0
    seed: Annotated[int, Interval(0, None, integer=True)] = 0

    def resolve(self, *, epochs: int = 10, batch_size: int = 32, lr: float = 1e-3) -> ResolvedConfig:
        """Return the config with these values where it has none.

        Raises
        ------
        OptionError
            When a value is not allowed, or the learning rate is still to be found.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, default in (("epochs", epochs), ("batch_size", batch_size), ("lr", lr)):
            if values[name] is None:
                values[name] = default
        validate(TrainingConfig(**values))
        if self.lr == "auto":
            raise OptionError("lr='auto' is for fine-tuning, which has a range test; give a number here.")
        return ResolvedConfig(**values)

    def changes(self, base: TrainingConfig) -> dict[str, Any]:
        """Return the fields, by name, whose values differ from those of another config."""
        names = (field.name for field in dataclasses.fields(TrainingConfig))
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(base, name)}


@dataclass(frozen=True)
class ResolvedConfig(TrainingConfig):
    """A config in which everything is decided: what the loop runs by."""

    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3

    def run_record(self) -> dict[str, Any]:
        """Return what decides every step, as plain data.

        It stands in checkpoints, whose keys are those of version 0.1: an old one must still be taken up. What is
        trained, and with which loss, is for the run's ``identity`` to say.
        """
        names = ("epochs", "batch_size", "lr", "weight_decay", "warmup", "clip", "patience", "ema", "budget", "seed")
        return {**{name: getattr(self, name) for name in names}, "decay": self.schedule}


@dataclass(frozen=True)
class Augment:
    """Random variation of training items, with one meaning for fine-tuning and pretraining.

    Attributes
    ----------
    views : int or None
        Variants of each image (a random crop, light and contrast, a mirror where harmless), of which each epoch draws
        one; 1 is the item as it is. None lets fine-tuning decide by its disk budget, and is 1 in pretraining.
    mixup : float
        Of the Beta distribution by which pairs of items and their targets are mixed (Verma et al. 2019): at the frozen
        boundary; at the pooled features where nothing is frozen; at the input of a network trained as a whole. 0 is
        none. Texts and clips are not mixed.
    """

    views: Annotated[int | None, Interval(1, 64, integer=True), Allow(None)] = None
    mixup: Annotated[float, Interval(0, 100)] = 0.0


def split_settings(settings: Mapping[str, Any], kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide settings into those that are fields of a config record, and the others.

    >>> split_settings({"epochs": 2, "layers": 3}, TrainingConfig)
    ({'epochs': 2}, {'layers': 3})
    """
    names = {field.name for field in dataclasses.fields(kind)}
    inside = {name: value for name, value in settings.items() if name in names}
    return inside, {name: value for name, value in settings.items() if name not in names}
