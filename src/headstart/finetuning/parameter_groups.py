"""The parameters that move: in groups for the optimiser, as copies to come back to, and the choice between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from headstart.finetuning.model import FineTuneModel
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter
from headstart.training.checkpoint import ParameterGroup, copy_into

_HEAD_WIDTH = 64


def groups_of(model: FineTuneModel, moves: Sequence[TrainableParameter], policy: Policy) -> list[ParameterGroup]:
    """Parameters of one factor and start together; norms and biases without weight decay; the head last."""
    named = dict(model.network.named_parameters())
    groups: dict[tuple[float, int, bool], dict[str, torch.nn.Parameter]] = {}
    for move in moves:
        parameter = named[move.name]
        groups.setdefault((move.lr_scale, move.start_epoch, parameter.ndim > 1), {})[f"network.{move.name}"] = parameter
    made = [ParameterGroup(members, factor, decay, epoch) for (factor, epoch, decay), members in groups.items()]
    head = {f"head.{name}": parameter for name, parameter in model.head.named_parameters()}
    width = min(1.0, _HEAD_WIDTH / model.head.in_features)  # one step of Adam moves a decision by rate times width
    return [*made, ParameterGroup(head, policy.head_factor * width, weight_decay=False)]


def snapshot(model: FineTuneModel, moves: Sequence[TrainableParameter]) -> dict[str, torch.Tensor]:
    """Parameters of the network and the head as they are now."""
    named = dict(model.network.named_parameters())
    moving = {f"network.{move.name}": named[move.name] for move in moves}
    head = {f"head.{name}": p for name, p in model.head.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in {**moving, **head}.items()}


def changed_parameters(model: FineTuneModel, begin: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Parameters of the network that are not what they were; those that no forward pass reaches never move."""
    named = dict(model.named_parameters())
    changed = (name for name, value in begin.items() if not torch.equal(named[name], value))
    return tuple(sorted(name.removeprefix("network.") for name in changed if name.startswith("network.")))


def l2sp_penalty(model: FineTuneModel, begin: Mapping[str, torch.Tensor], strength: float) -> torch.Tensor:
    named = dict(model.named_parameters())
    parts = [((named[name] - value) ** 2).sum() for name, value in begin.items() if name.startswith("network.")]
    return strength / 2 * torch.stack(parts).sum()


def select_weights(
    model: FineTuneModel,
    begin: Mapping[str, torch.Tensor],
    validation: Callable[[], float] | None,
    scores: dict[str, float],
    *,
    average: bool = False,
) -> str:
    """Leave the best of start, average and tuned in the model; a tie goes to the one that moved less.

    Without validation it is the tuned one, or the average where that is asked for.
    """
    named = dict(model.named_parameters())
    tuned = {name: named[name].detach().clone() for name in begin}
    states = {"start": begin, "average": {k: (begin[k] + tuned[k]) / 2 for k in begin}, "tuned": tuned}
    if validation is None:
        kept = "average" if average else "tuned"
    else:
        for name in ("average", "tuned"):
            copy_into(named, states[name])
            scores[name] = validation()
        worth = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
        kept = max(states, key=lambda name: worth[name])  # the first of equals
    copy_into(named, states[kept])
    return kept


# ---- Where each parameter of a source stands: its unit in measured execution order. See ``policies/base.py``. ----


@dataclass(frozen=True)
class ParameterMap:
    """Units of a source below the deepest layer used: their end layers, and the unit of every parameter and module."""

    ends: tuple[str, ...]
    parameters: tuple[ParameterInfo, ...]
    modules: Mapping[str, int]


def locate_parameters(source: Any, layers: Sequence[str]) -> ParameterMap:
    """Where everything below the deepest layer used stands.

    Notes
    -----
    A parameter belongs to the unit in which its module runs: the first candidate (or used) layer that ends at or after
    it. Parameters held directly by a container (position embeddings, layer scales) go with the earliest module inside.
    """
    order = {layer.name: i for i, layer in enumerate(source.layers)}
    deepest = max(order[name] for name in layers)
    ends = sorted(
        {order[layer.name] for layer in source.layers if layer.candidate and order[layer.name] <= deepest} | {deepest}
    )
    names = [layer.name for layer in source.layers]
    if source.torch_backend.submodules is not None:
        return ParameterMap(tuple(names[end] for end in ends), tuple(_by_identity(source, order, ends)), {})
    modules = dict(source.module.named_modules())
    units = {}
    for name in modules:
        when = _when(name, order, modules)
        if when is not None and when <= deepest:
            units[name] = next(i for i, end in enumerate(ends) if when <= end)
    placed = [
        ParameterInfo(name, units[owner], type(modules[owner]).__name__.lower(), names[ends[units[owner]]])
        for name, _ in source.module.named_parameters()
        if (owner := name.rpartition(".")[0]) in units
    ]
    return ParameterMap(tuple(names[end] for end in ends), tuple(placed), units)


def _by_identity(source: Any, order: Mapping[str, int], ends: Sequence[int]) -> Iterator[ParameterInfo]:
    """Where layers are no torch modules of the network (Keras), a parameter belongs to the smallest layer that has it.

    What Keras keeps beside the weights (moving averages) are parameters there, too, and never move.
    """
    owner: dict[int, tuple[int, str]] = {}
    still: set[int] = set()
    layers = source.torch_backend.named_modules()
    for name, module in layers.items():
        own = list(module.parameters())
        still |= {id(variable.value) for variable in getattr(module, "_non_trainable_variables", ())}
        if name in order and module is not source.module:
            for parameter in own:
                owner[id(parameter)] = min(owner.get(id(parameter), (len(own), name)), (len(own), name))
    named = [layer.name for layer in source.layers]
    for name, parameter in source.module.named_parameters():
        place = owner.get(id(parameter))
        if place is None or id(parameter) in still or order[place[1]] > ends[-1]:
            continue
        unit = next(i for i, end in enumerate(ends) if order[place[1]] <= end)
        yield ParameterInfo(name, unit, type(layers[place[1]]).__name__.lower(), named[ends[unit]])


def _when(owner: str, order: dict[str, int], modules: dict[str, Any]) -> int | None:
    """The place of a module in the execution order; for one that returned no tensor of its own, what is inside it."""
    leaf = owner in order and not any(True for _ in modules[owner].children())
    if leaf:
        return order[owner]
    inside = [i for name, i in order.items() if not owner or name.startswith(owner + ".")]
    if inside:
        return min(inside)
    if owner in order:
        return order[owner]
    return _when(owner.rpartition(".")[0], order, modules) if owner else None


def lowest_moving(moves: Sequence[TrainableParameter], places: ParameterMap) -> int | None:
    """The lowest unit in which anything moves; None when nothing does."""
    units = {p.name: p.unit for p in places.parameters}
    return min((units[m.name] for m in moves), default=None)
