"""Policies: which parameters of a source are trained, how fast, and from which epoch on.

A source's parameters are placed in units, numbered in measured execution order: a unit ends at a candidate layer. Unit
0 is nearest the input. Parameters above the deepest layer that is used are in no unit and are never trained.

Formula of layer-wise decay: ``lr(unit) = lr · layer_decay ** (units - 1 - unit)``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from headstart._base.constraints import Allow, Interval, validate
from headstart._base.registry import Family, check_names, unknown_name
from headstart.errors import UnknownName
from headstart.training.config import Augment, TrainingConfig, split_settings

if TYPE_CHECKING:
    import torch

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


FINETUNING = TrainingConfig(weight_decay=0.02, label_smoothing=0.05)
"""How a policy trains, unless it says otherwise: epochs, batches and rate follow from the number of items."""

NO_CHOICE = Augment()
"""How items are varied, unless a policy says otherwise: views as disk and budget allow, no mixup."""

# what version 0.1 wrote of these, in records by which a checkpoint is recognised: always, whatever their values
_TRAINING_RECORD = ("epochs", "batch_size", "lr", "weight_decay", "label_smoothing", "patience", "ema", "precision")
_SET_BY_FIT = ("budget", "seed")


@dataclass(frozen=True)
class ParameterInfo:
    """Where a parameter of a source stands.

    Attributes
    ----------
    name : str
        Its full name.
    unit : int
        In execution order.
    kind : str
        Lower-case type of the module that owns it.
    layer : str
        The layer that ends the unit.
    """

    name: str
    unit: int
    kind: str
    layer: str = ""


@dataclass(frozen=True)
class TrainableParameter:
    """A parameter that is trained, at ``lr_scale`` times the learning rate, from epoch ``start_epoch`` on."""

    name: str
    lr_scale: float = 1.0
    start_epoch: int = 0


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """How a source is adapted. Fields that a policy does not use have no effect on it, and say so.

    Attributes
    ----------
    training : TrainingConfig
        How long and how fast. Its fields are given to :func:`policy` by name: ``policy("full", epochs=2)``. ``lr`` is
        that of the topmost unit; None is the policy's own, ``"auto"`` runs a range test.
    augment : Augment
        Views and mixup, given by name as well: ``policy("full", views=4)``.
    head_factor : float
        The head's learning rate, as a multiple.
    layer_decay : float
        Each unit nearer the input trains this much slower.
    l2sp : float
        Pulls parameters towards where they started (Li et al. 2018).
    cotuning : float
        Weight of teaching the source's own classifier what its classes say about ours (You et al. 2020; 2.3 there).
    cache : bool or None
        Whether the frozen part runs once; None does so whenever it is true to the full forward pass.
    """

    name: ClassVar[str]
    partial: ClassVar[bool] = False  # whether parameters of a trained unit may stay frozen

    training: TrainingConfig = FINETUNING
    augment: Augment = NO_CHOICE
    head_factor: Annotated[float, Interval(0, 1000)] = 1.0
    layer_decay: Annotated[float, Interval(0, 1, closed="right")] = 0.9
    l2sp: Annotated[float, Interval(0, None)] = 0.0
    cotuning: Annotated[float, Interval(0, 100)] = 0.0
    cache: Annotated[bool | None, Allow(True), Allow(False), Allow(None)] = None

    @abstractmethod
    def trainable(self, parameters: Sequence[ParameterInfo], units: int) -> list[TrainableParameter]:
        """Return the parameters that are trained, and how fast. The frozen boundary follows from it."""

    def adapt(self, network: torch.nn.Module, trainable: Sequence[TrainableParameter]) -> list[TrainableParameter]:
        """Put what is trained in place of the parameters into the network, and return it; nothing, as a rule."""
        return list(trainable)

    def merge(self, network: torch.nn.Module) -> None:
        """Undo ``adapt`` after training, so that the network is an ordinary one; nothing, as a rule."""
        return

    def layer_lr_scale(self, unit: int, units: int) -> float:
        """Return the learning-rate factor of a unit."""
        return self.layer_decay ** (units - 1 - unit)

    def with_training(self, **fields: Any) -> Policy:
        """Return the policy with other values of its training config."""
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **fields))

    def record(self) -> dict[str, Any]:
        """Return every field as flat plain data: what was set, as checkpoints and proofs are recognised by it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["training"], fields["augment"]
        always = {name: getattr(self.training, name) for name in _TRAINING_RECORD}
        return {**self.training.changes(FINETUNING), **always, **vars(self.augment), **fields}


def topmost(parameters: Sequence[ParameterInfo], layers: int | str) -> set[int]:
    """Return the topmost units that have parameters.

    Parameters
    ----------
    layers : int or str
        So many; a quarter of them (``"auto"``); ``"all"``; or from the unit that ends with the layer of that name on.

    Raises
    ------
    UnknownName
        When no unit ends with a layer of that name.
    """
    units = sorted({p.unit for p in parameters})
    if layers == "all":
        return set(units)
    if isinstance(layers, str) and layers != "auto":
        unit_of = {p.layer: p.unit for p in parameters if p.layer}
        if layers not in unit_of:
            raise UnknownName(unknown_name("layers that a policy can start from", layers, list(unit_of)))
        return {unit for unit in units if unit >= unit_of[layers]}
    count = max(1, round((max(units, default=0) + 1) / 4)) if layers == "auto" else int(layers)
    return set(units[-count:])


def policy(name: str | Policy, **settings: Any) -> Policy:
    """Make a policy by name, with its own fields and those of its training and augmentation.

    Raises
    ------
    UnknownName
        No such policy, or no such field.
    OptionError
        A field's value is not allowed.

    Examples
    --------
    >>> chosen = policy("last_layers", layers=2, epochs=3, views=1)
    >>> chosen.layers, chosen.training.epochs, chosen.augment.views
    (2, 3, 1)
    """
    if isinstance(name, Policy):
        return name
    kind = POLICIES[name]
    check_names(f"fields of policy {name!r}", settings, _field_names(kind))
    training, others = split_settings(settings, TrainingConfig)
    augment, fields = split_settings(others, Augment)
    result: Policy = kind(training=dataclasses.replace(FINETUNING, **training), augment=Augment(**augment), **fields)
    for record in (result.training, result.augment, result):
        validate(record)
    return result


def _field_names(kind: type) -> list[str]:
    """Return what :func:`policy` takes by name; budget and seed are given to ``fit``."""
    names = [field.name for record in (TrainingConfig, Augment, kind) for field in dataclasses.fields(record)]
    return [name for name in names if name not in ("training", "augment", *_SET_BY_FIT)]
