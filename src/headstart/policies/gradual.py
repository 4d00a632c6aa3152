"""The topmost unit moves first, the others follow from the top down, one every few epochs (Howard and Ruder 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._constraints import Interval, Name, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost


@dataclass(frozen=True, kw_only=True)
class Gradual(Policy):
    """The topmost ``layers`` units, unfrozen one by one: the next one after every ``every`` epochs.

    Cost: that of ``last_layers`` with as many units; earlier epochs end their backward pass sooner.
    """

    name: ClassVar[str] = "gradual"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"
    every: Annotated[int, Interval(1, 1000, integer=True)] = 1

    def moves(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters of the topmost units, each with the epoch from which it moves."""
        top = sorted(topmost(placed, self.layers), reverse=True)
        turn = {unit: number * self.every for number, unit in enumerate(top)}
        return [TrainableParameter(p.name, self.decayed(p.unit, units), turn[p.unit]) for p in placed if p.unit in turn]
