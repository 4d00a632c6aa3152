"""Everything below the deepest layer used moves, slower towards the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._base.constraints import Interval, Name, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost


@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """All parameters, with layer-wise learning-rate decay. Cost: whole forward and backward passes."""

    name: ClassVar[str] = "full"

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Every placed parameter."""
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in placed]


# ---- Nothing moves: the features are the source's, only the head is solved. ----


@dataclass(frozen=True, kw_only=True)
class Frozen(Policy):
    """No training at all. Every field is without effect."""

    name: ClassVar[str] = "frozen"

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """None."""
        return []


# The topmost unit moves first, the others follow from the top down, one every few epochs (Howard and Ruder
# 2018).


@dataclass(frozen=True, kw_only=True)
class Gradual(Policy):
    """The topmost ``layers`` units, unfrozen one by one: the next one after every ``every`` epochs.

    Cost: that of ``last_layers`` with as many units; earlier epochs end their backward pass sooner.
    """

    name: ClassVar[str] = "gradual"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"
    every: Annotated[int, Interval(1, 1000, integer=True)] = 1

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters of the topmost units, each with the epoch from which it moves."""
        top = sorted(topmost(placed, self.layers), reverse=True)
        turn = {unit: number * self.every for number, unit in enumerate(top)}
        return [
            TrainableParameter(p.name, self.layer_lr_scale(p.unit, units), turn[p.unit])
            for p in placed
            if p.unit in turn
        ]


# ---- Only the last few units move; what lies below them is frozen and runs only once per item and view. ----


@dataclass(frozen=True, kw_only=True)
class LastLayers(Policy):
    """The topmost ``layers`` units: a number, the name of the lowest that moves, or ``"auto"``.

    ``"auto"`` is a quarter of them. A unit is named by the layer that it ends with, as ``source.layers`` lists it.

    Cost: the backward pass ends at the lowest unit that moves; the forward pass below it is not repeated.
    """

    name: ClassVar[str] = "last_layers"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters of the topmost units that have any: pooling and its like do not count."""
        top = topmost(placed, self.layers)
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in placed if p.unit in top]
