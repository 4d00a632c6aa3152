"""Policies that train one kind of parameter only: a few thousandths of all.

References
----------
Ben Zaken et al., BitFit, ACL 2022 (biases). Frankle et al., Training BatchNorm and only BatchNorm, ICLR 2021.
"""

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

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the parameters whose own name says bias."""
        top = topmost(parameters, self.layers)
        biases = (p for p in parameters if p.unit in top and "bias" in p.name.rpartition(".")[2])
        return [TrainableParameter(p.name, self.layer_lr_scale(p.unit, units)) for p in biases]


@dataclass(frozen=True, kw_only=True)
class NormOnly(Policy):
    """Scales and shifts of normalisation layers in the topmost ``layers`` units, ``"all"`` by default.

    Their running statistics never change.

    Cost: it saves memory, not time: the backward pass still runs through every unit above the lowest one.
    """

    name: ClassVar[str] = "norm_only"
    partial: ClassVar[bool] = True
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all")] = "all"

    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the parameters of modules whose type says norm."""
        top = topmost(parameters, self.layers)
        return [
            TrainableParameter(p.name, self.layer_lr_scale(p.unit, units))
            for p in parameters
            if p.unit in top and "norm" in p.kind
        ]
