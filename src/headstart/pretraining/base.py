"""What an objective is: it prepares a source for a loss on items, and says what is left behind. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from headstart._base.registry import Family

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
    """What the training loop needs: parameters that move, a loss, and facts for the record.

    ``loss`` None means that nothing is trained.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    loss: Callable[[np.ndarray, torch.Generator], torch.Tensor] | None
    count: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)


class Objective(Protocol):
    """(source with initial weights, data, samples) → Plan."""

    def __call__(self, source: Any, data: Any, samples: Any) -> PretrainingPlan: ...
