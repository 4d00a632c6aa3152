"""Only biases move (BitFit, Ben Zaken et al. 2022): a few thousandths of the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._base.constraints import Interval, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost


@dataclass(frozen=True, kw_only=True)
class BiasOnly(Policy):
    """Biases of the topmost ``layers`` units, ``"all"`` by default.

    Cost: it saves memory, not time: the backward pass still runs through every unit above the lowest bias.
    """

    name: ClassVar[str] = "bias_only"
    partial: ClassVar[bool] = True
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all")] = "all"

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters whose own name says bias."""
        top = topmost(placed, self.layers)
        chosen = (p for p in placed if p.unit in top and "bias" in p.name.rpartition(".")[2])
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in chosen]


# Only scales and shifts of normalisation layers move (Frankle et al. 2021); their running statistics never do.


@dataclass(frozen=True, kw_only=True)
class NormOnly(Policy):
    """Normalisation layers of the topmost ``layers`` units, ``"all"`` by default.

    Cost: it saves memory, not time: the backward pass still runs through every unit above the lowest one.
    """

    name: ClassVar[str] = "norm_only"
    partial: ClassVar[bool] = True
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all")] = "all"

    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters of modules whose type says norm."""
        top = topmost(placed, self.layers)
        return [
            TrainableParameter(p.name, self.layer_lr_scale(p.unit, units))
            for p in placed
            if p.unit in top and "norm" in p.kind
        ]
