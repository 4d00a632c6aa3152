"""Policies by depth: nothing is trained, the topmost units, those one after another, or everything.

References
----------
Howard and Ruder, Universal language model fine-tuning for text classification, ACL 2018 (gradual unfreezing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._base.constraints import Interval, Name, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost


@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """Everything below the deepest layer used, slower towards the input.

    Cost: whole forward and backward passes.
    """

    name: ClassVar[str] = "full"

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return every parameter that is in a unit."""
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in parameters]


@dataclass(frozen=True, kw_only=True)
class Frozen(Policy):
    """No training: the features are the source's, only the head is solved. Every field is without effect."""

    name: ClassVar[str] = "frozen"

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return nothing."""
        return []


@dataclass(frozen=True, kw_only=True)
class Gradual(Policy):
    """The topmost ``layers`` units, unfrozen one by one: the next one after every ``every`` epochs.

    Cost: that of ``last_layers`` with as many units; earlier epochs end their backward pass sooner.
    """

    name: ClassVar[str] = "gradual"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"
    every: Annotated[int, Interval(1, 1000, integer=True)] = 1

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the parameters of the topmost units, each with the epoch from which it is trained."""
        top = sorted(topmost(parameters, self.layers), reverse=True)
        start = {unit: number * self.every for number, unit in enumerate(top)}
        return [
            TrainableParameter(p.name, self.layer_lr_scale(p.unit, units), start[p.unit])
            for p in parameters
            if p.unit in start
        ]


@dataclass(frozen=True, kw_only=True)
class LastLayers(Policy):
    """The topmost ``layers`` units: a number, the name of the lowest that is trained, or ``"auto"``.

    What lies below them is frozen and runs only once per item and view. ``"auto"`` is a quarter of them. A unit is
    named by the layer that it ends with, as ``source.layers`` lists it.

    Cost: the backward pass ends at the lowest unit that is trained; the forward pass below it is not repeated.
    """

    name: ClassVar[str] = "last_layers"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the parameters of the topmost units that have any: pooling and its like do not count."""
        top = topmost(parameters, self.layers)
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in parameters if p.unit in top]
