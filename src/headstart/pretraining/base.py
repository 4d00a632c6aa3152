"""Objectives and architectures of pretraining: their tables, and what an objective gives to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from headstart._base.registry import Family
from headstart.dataset.dataset import Dataset
from headstart.sources.base import Source
from headstart.training.batches import SampleBatch, SampleBatches
from headstart.training.config import Augment, TrainingConfig
from headstart.training.loop import Loss

OBJECTIVES = Family(
    "objectives",
    {
        "random": "headstart.pretraining.objectives.random:prepare",
        "supervised": "headstart.pretraining.objectives.supervised:prepare",
    },
)

ARCHITECTURES = Family(
    "architectures",
    {
        "cnn": "headstart.pretraining.architectures.cnn:build",
        "lstm": "headstart.pretraining.architectures.lstm:build",
    },
)


@dataclass(frozen=True)
class PretrainingPlan:
    """What an objective gives to the training loop.

    Attributes
    ----------
    parameters : mapping
        Those that are trained, by name.
    loss : callable or None
        On batches of the samples; None where nothing is trained.
    meta : mapping
        Facts for the record of the source.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    loss: Loss[SampleBatch] | None
    meta: Mapping[str, Any] = field(default_factory=dict)


class Objective(Protocol):
    """A function from a source with initial weights, and data that it can read, to a plan."""

    def __call__(
        self, source: Source, data: Dataset, batches: SampleBatches, *, config: TrainingConfig, augment: Augment
    ) -> PretrainingPlan: ...
