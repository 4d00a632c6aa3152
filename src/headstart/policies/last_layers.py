"""Only the last few units move; what lies below them is frozen and need run only once per item and view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from headstart._constraints import Interval, Options
from headstart.policies.base import Move, Placed, Policy


@dataclass(frozen=True, kw_only=True)
class LastLayers(Policy):
    """The topmost ``layers`` units: a number, or ``"auto"`` (a quarter of them).

    Cost: the backward pass ends at the lowest unit that moves; the forward pass below it needs no graph.
    """

    name: ClassVar[str] = "last_layers"
    layers: Annotated[int | str, Interval(1, None, integer=True), Options("auto")] = "auto"

    def moves(self, placed: Sequence[Placed], units: int) -> list[Move]:
        """Parameters of the topmost units that have any: pooling and its like do not count."""
        many = max(1, round(units / 4)) if self.layers == "auto" else int(self.layers)
        top = sorted({p.unit for p in placed})[-many:]
        return [Move(p.name, self.decayed(p.unit, units)) for p in placed if p.unit in top]
