"""The parameters that move: in groups for the optimiser, as copies to come back to, and the choice between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from headstart.finetuning._network import FineTuneModel
from headstart.policies.base import Policy, TrainableParameter
from headstart.training import ParameterGroup, put

_HEAD_WIDTH = 64


def groups_of(model: FineTuneModel, moves: Sequence[TrainableParameter], policy: Policy) -> list[ParameterGroup]:
    """Parameters of one factor and start together; norms and biases without weight decay; the head last."""
    named = dict(model.network.named_parameters())
    groups: dict[tuple[float, int, bool], dict[str, torch.nn.Parameter]] = {}
    for move in moves:
        parameter = named[move.name]
        groups.setdefault((move.factor, move.from_epoch, parameter.ndim > 1), {})[f"network.{move.name}"] = parameter
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
            put(named, states[name])
            scores[name] = validation()
        worth = {name: -math.inf if math.isnan(score) else score for name, score in scores.items()}
        kept = max(states, key=lambda name: worth[name])  # the first of equals
    put(named, states[kept])
    return kept
