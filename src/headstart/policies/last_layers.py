"""Only the last few units move; what lies below them is frozen and runs only once per item and view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._constraints import Interval, Name, Options
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter, topmost


@dataclass(frozen=True, kw_only=True)
class LastLayers(Policy):
    """The topmost ``layers`` units: a number, the name of the lowest that moves, or ``"auto"``.

    ``"auto"`` is a quarter of them. A unit is named by the layer that it ends with, as ``source.layers`` lists it.

    Cost: the backward pass ends at the lowest unit that moves; the forward pass below it is not repeated.
    """

    name: ClassVar[str] = "last_layers"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto", "all"), Name("a layer")] = "auto"

    def moves(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Parameters of the topmost units that have any: pooling and its like do not count."""
        top = topmost(placed, self.layers)
        return [TrainableParameter(p.name, self.decayed(p.unit, units)) for p in placed if p.unit in top]
