"""What a policy is: for every parameter of a source, whether it moves, how fast, and from which epoch on. Floor 3.

A source's parameters are placed in units, numbered in measured execution order: a unit ends at a candidate layer. Unit
0 is nearest the input. Parameters above the deepest layer that is used are in no unit and never move.

Formula of layer-wise decay: ``lr(unit) = lr · layer_decay ** (units - 1 - unit)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from headstart._base.constraints import Allow, Interval, Options, validate
from headstart._base.registry import Family, check_fields, unknown_name
from headstart.errors import UnknownName

POLICIES = Family(
    "policies",
    {
        "bias_only": "headstart.policies.selective:BiasOnly",
        "frozen": "headstart.policies.unfreezing:Frozen",
        "full": "headstart.policies.unfreezing:Full",
        "gradual": "headstart.policies.unfreezing:Gradual",
        "last_layers": "headstart.policies.unfreezing:LastLayers",
        "lora": "headstart.policies.lora:Lora",
        "norm_only": "headstart.policies.selective:NormOnly",
    },
)


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter and where it is: its full name, its unit, the lower-case type of the module that owns it, and the
    layer that ends the unit."""

    name: str
    unit: int
    kind: str
    layer: str = ""


@dataclass(frozen=True)
class TrainableParameter:
    """A parameter that moves: at ``factor`` times the learning rate, from epoch ``from_epoch`` on."""

    name: str
    lr_scale: float = 1.0
    start_epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """How a source is adapted. Fields that a policy does not use have no effect on it, and say so.

    Attributes
    ----------
    epochs, batch_size : int or None
        None lets the size of the data decide.
    lr : float, "auto" or None
        Peak learning rate of the topmost unit; None is the policy's own, ``"auto"`` runs a range test.
    head_factor : float
        The head's learning rate, as a multiple.
    layer_decay : float
        Each unit nearer the input moves this much slower.
    weight_decay, label_smoothing, l2sp : float
        ``l2sp`` pulls parameters towards where they started (Li et al. 2018).
    mixup : float
        Of the Beta distribution by which pairs of items are mixed at the frozen boundary (Verma et al. 2019), or at the
        pooled features where nothing is frozen; 0 is none. Texts and clips are not mixed.
    cotuning : float
        Weight of teaching the source's own classifier what its classes say about ours (You et al. 2020; 2.3 there).
    views : int or None
        Cached random views per item; 1 is the item as it is; None lets the disk budget decide.
    cache : bool or None
        Whether the frozen part runs once; None does so whenever it is true to the full forward pass.
    patience : int or None
    ema : float
    precision : "auto" | "fp32" | "bf16"
    """

    name: ClassVar[str]
    partial: ClassVar[bool] = False  # whether units that move may hold still in part

    epochs: Annotated[int | None, Interval(1, 10_000, integer=True), Allow(None)] = None
    batch_size: Annotated[int | None, Interval(1, 65_536, integer=True), Allow(None)] = None
    lr: Annotated[float | str | None, Interval(0, 10, closed="right"), Options("auto"), Allow(None)] = None
    head_factor: Annotated[float, Interval(0, 1000)] = 1.0
    layer_decay: Annotated[float, Interval(0, 1, closed="right")] = 0.9
    weight_decay: Annotated[float, Interval(0, None)] = 0.02
    label_smoothing: Annotated[float, Interval(0, 1, closed="left")] = 0.05
    l2sp: Annotated[float, Interval(0, None)] = 0.0
    mixup: Annotated[float, Interval(0, 100)] = 0.0
    cotuning: Annotated[float, Interval(0, 100)] = 0.0
    views: Annotated[int | None, Interval(1, 64, integer=True), Allow(None)] = None
    cache: Annotated[bool | None, Allow(True), Allow(False), Allow(None)] = None
    patience: Annotated[int | None, Interval(1, None, integer=True), Allow(None)] = None
    ema: Annotated[float, Interval(0, 1, closed="left")] = 0.0
    precision: Annotated[str, Options("auto", "fp32", "bf16")] = "auto"

    @abstractmethod
    def trainable(self, placed: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Which parameters move, and how fast. The frozen boundary follows from it."""

    def adapt(self, network: Any, moves: Sequence[TrainableParameter]) -> list[TrainableParameter]:
        """What moves in place of the parameters, once this has been put into the network; they themselves as a rule."""
        return list(moves)

    def merge(self, network: Any) -> None:
        """Undo ``adapt`` after training, so that the network is an ordinary one; nothing as a rule."""
        return

    def layer_lr_scale(self, unit: int, units: int) -> float:
        """The learning-rate factor of a unit."""
        return self.layer_decay ** (units - 1 - unit)


def topmost(placed: Sequence[ParameterInfo], layers: int | str) -> set[int]:
    """The topmost units that have parameters: so many, a quarter of them (``"auto"``), ``"all"``, or from a layer on.

    Raises
    ------
    UnknownName
        When no unit ends with a layer of that name.
    """
    known = sorted({p.unit for p in placed})
    if layers == "all":
        return set(known)
    if isinstance(layers, str) and layers != "auto":
        named = {p.layer: p.unit for p in placed if p.layer}
        if layers not in named:
            raise UnknownName(unknown_name("layers that a policy can start from", layers, list(named)))
        return {unit for unit in known if unit >= named[layers]}
    many = max(1, round((max(known, default=0) + 1) / 4)) if layers == "auto" else int(layers)
    return set(known[-many:])


def policy(name: str | Policy, **settings: Any) -> Policy:
    """A policy by name, with its fields.

    Raises
    ------
    UnknownName
        No such policy, or no such field.
    OptionError
        A field's value is not allowed.

    Examples
    --------
    >>> policy("last_layers", layers=2).layers
    2
    """
    if isinstance(name, Policy):
        return name
    kind = POLICIES[name]
    check_fields(f"fields of policy {name!r}", settings, kind)
    made: Policy = kind(**settings)
    validate(made)
    return made
