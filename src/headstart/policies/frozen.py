"""Nothing moves: the features are the source's, only the head is solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headstart.policies.base import ParameterInfo, Policy, TrainableParameter


@dataclass(frozen=True, kw_only=True)
class Frozen(Policy):
    """No training at all. Every field is without effect."""

    name: ClassVar[str] = "frozen"

    def moves(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """None."""
        return []
