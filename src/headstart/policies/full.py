"""Everything below the deepest layer used moves, slower towards the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headstart.policies.base import ParameterInfo, Policy, TrainableParameter


@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """All parameters, with layer-wise learning-rate decay. Cost: whole forward and backward passes."""

    name: ClassVar[str] = "full"

    def moves(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Every placed parameter."""
        return [TrainableParameter(p.name, self.decayed(p.unit, units)) for p in placed]
