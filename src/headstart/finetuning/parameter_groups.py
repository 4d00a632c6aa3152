"""Parameters of a source: where they stand, in which groups they are trained, and which weights are kept in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from headstart.finetuning.model import FineTuneModel
from headstart.policies.base import ParameterInfo, Policy, TrainableParameter
from headstart.sources.base import Source
from headstart.training.checkpoint import ParameterGroup, copy_into

_HEAD_WIDTH = 64


@dataclass(frozen=True)
class ParameterMap:
    """The units of a source below the deepest layer used.

    Attributes
    ----------
    unit_ends : tuple of str
        The layer that ends each unit.
    parameters : tuple of ParameterInfo
        With the unit of each.
    module_units : mapping
        The unit of each module, by name.
    """

    unit_ends: tuple[str, ...]
    parameters: tuple[ParameterInfo, ...]
    module_units: Mapping[str, int]


def locate_parameters(source: Source, layers: Sequence[str]) -> ParameterMap:
    """Return where everything below the deepest layer used stands in execution order.

    Notes
    -----
    A parameter belongs to the unit in which its module runs: the first candidate (or used) layer that ends at or after
    it. Parameters held directly by a container (position embeddings, layer scales) go with the earliest module inside.
    """
    order = {layer.name: i for i, layer in enumerate(source.layers)}
    deepest = max(order[name] for name in layers)
    candidates = {order[layer.name] for layer in source.layers if layer.candidate and order[layer.name] <= deepest}
    ends = sorted(candidates | {deepest})
    names = [layer.name for layer in source.layers]
    unit_ends = tuple(names[end] for end in ends)
    if source.torch_backend.submodules is not None:
        return ParameterMap(unit_ends, tuple(_by_identity(source, order, ends)), {})
    modules = dict(source.module.named_modules())
    units = {}
    for name in modules:
        position = _position(name, order, modules)
        if position is not None and position <= deepest:
            units[name] = next(i for i, end in enumerate(ends) if position <= end)
    located = []
    for name, _ in source.module.named_parameters():
        owner = name.rpartition(".")[0]
        if owner in units:
            kind = type(modules[owner]).__name__.lower()
            located.append(ParameterInfo(name, units[owner], kind, unit_ends[units[owner]]))
    return ParameterMap(unit_ends, tuple(located), units)


def _by_identity(source: Source, order: Mapping[str, int], ends: Sequence[int]) -> Iterator[ParameterInfo]:
    """Yield parameters where layers are no torch modules (Keras): each in the smallest layer that has it.

    What Keras keeps beside the weights (moving averages) are parameters there, too, and are never trained.
    """
    owners: dict[int, tuple[int, str]] = {}  # id of a parameter → size and name of its layer
    fixed: set[int] = set()
    layers = source.torch_backend.named_modules()
    for name, module in layers.items():
        parameters = list(module.parameters())
        fixed |= {id(variable.value) for variable in getattr(module, "_non_trainable_variables", ())}
        if name in order and module is not source.module:
            for parameter in parameters:
                candidate = (len(parameters), name)
                owners[id(parameter)] = min(owners.get(id(parameter), candidate), candidate)
    names = [layer.name for layer in source.layers]
    for name, parameter in source.module.named_parameters():
        owner = owners.get(id(parameter))
        if owner is None or id(parameter) in fixed or order[owner[1]] > ends[-1]:
            continue
        unit = next(i for i, end in enumerate(ends) if order[owner[1]] <= end)
        yield ParameterInfo(name, unit, type(layers[owner[1]]).__name__.lower(), names[ends[unit]])


def _position(module: str, order: Mapping[str, int], modules: Mapping[str, torch.nn.Module]) -> int | None:
    """Return when a module runs; for one that returned no tensor of its own, when what is inside it first does."""
    is_leaf = module in order and not any(True for _ in modules[module].children())
    if is_leaf:
        return order[module]
    inside = [i for name, i in order.items() if not module or name.startswith(module + ".")]
    if inside:
        return min(inside)
    if module in order:
        return order[module]
    return _position(module.rpartition(".")[0], order, modules) if module else None


def lowest_trainable(trainable: Sequence[TrainableParameter], parameter_map: ParameterMap) -> int | None:
    """Return the lowest unit in which anything is trained; None when nothing is."""
    units = {p.name: p.unit for p in parameter_map.parameters}
    return min((units[item.name] for item in trainable), default=None)


def groups_of(model: FineTuneModel, trainable: Sequence[TrainableParameter], policy: Policy) -> list[ParameterGroup]:
    """Return parameters of one scale and start together; norms and biases without weight decay; the head last."""
    named = dict(model.network.named_parameters())
    groups: dict[tuple[float, int, bool], dict[str, torch.nn.Parameter]] = {}
    for item in trainable:
        parameter = named[item.name]
        alike = (item.lr_scale, item.start_epoch, parameter.ndim > 1)
        groups.setdefault(alike, {})[f"network.{item.name}"] = parameter
    result = [ParameterGroup(members, scale, decay, epoch) for (scale, epoch, decay), members in groups.items()]
    head = {f"head.{name}": parameter for name, parameter in model.head.named_parameters()}
    width = min(1.0, _HEAD_WIDTH / model.head.in_features)  # one step of Adam moves a decision by rate times width
    return [*result, ParameterGroup(head, policy.head_factor * width, weight_decay=False)]


def snapshot(model: FineTuneModel, trainable: Sequence[TrainableParameter]) -> dict[str, torch.Tensor]:
    """Return copies of trained parameters of the network, and of the head."""
    named = dict(model.network.named_parameters())
    network = {f"network.{item.name}": named[item.name] for item in trainable}
    head = {f"head.{name}": p for name, p in model.head.named_parameters()}
    return {name: tensor.detach().clone() for name, tensor in {**network, **head}.items()}


def changed_parameters(model: FineTuneModel, initial: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the parameters of the network that have changed; those that no forward pass reaches never do."""
    named = dict(model.named_parameters())
    changed = (name for name, value in initial.items() if not torch.equal(named[name], value))
    return tuple(sorted(name.removeprefix("network.") for name in changed if name.startswith("network.")))


def l2sp_penalty(model: FineTuneModel, initial: Mapping[str, torch.Tensor], strength: float) -> torch.Tensor:
    """Return ``strength / 2`` times the squared distance of the network's parameters from where they began."""
    named = dict(model.named_parameters())
    parts = [((named[name] - value) ** 2).sum() for name, value in initial.items() if name.startswith("network.")]
    return strength / 2 * torch.stack(parts).sum()


def select_weights(
    model: FineTuneModel,
    initial: Mapping[str, torch.Tensor],
    validation: Callable[[], float] | None,
    scores: dict[str, float],
    *,
    average: bool = False,
) -> str:
    """Leave the best of start, average and tuned in the model; return its name. A tie goes to the lesser change.

    Without validation it is the tuned one, or the average where that is asked for.
    """
    named = dict(model.named_parameters())
    tuned = {name: named[name].detach().clone() for name in initial}
    states = {
        "start": initial,
        "average": {name: (initial[name] + tuned[name]) / 2 for name in initial},
        "tuned": tuned,
    }
    if validation is None:
        selected = "average" if average else "tuned"
    else:
        for name in ("average", "tuned"):
            copy_into(named, states[name])
            scores[name] = validation()
        comparable = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
        selected = max(states, key=lambda name: comparable[name])  # the first of equals
    copy_into(named, states[selected])
    return selected
