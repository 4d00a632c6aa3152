"""What changes while training, and how it is written down and taken up again. Floor 4; part of training.

A checkpoint is one safetensors file with its plain data in the header; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headstart._files import write_atomic
from headstart.errors import StoreError


@dataclass(frozen=True)
class Group:
    """Named parameters that share a learning-rate factor, and a function of the epoch that may hold them still."""

    parameters: Mapping[str, torch.nn.Parameter]
    factor: float = 1.0
    weight_decay: bool = True
    from_epoch: int = 0


@dataclass
class History:
    """What happened: one entry per epoch; ``best`` is the epoch that was kept."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    best: int = -1
    stopped: str = "all epochs done"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dict(vars(self))


@dataclass
class State:
    """All that changes while training, so that it can be written down and taken up again."""

    groups: Sequence[Group]
    buffers: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    epochs: int
    epoch: int = 0
    step: int = 0
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)

    def everything(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers that move."""
        return {**self.named(), **self.buffers}

    def named(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that move."""
        return {name: p for group in self.groups for name, p in group.parameters.items()}


def put(named: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into tensors, by name, in place."""
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)


def save(state: State, path: Path, schedule: Mapping[str, Any]) -> None:
    """Write everything that changes, atomically."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for kind, named in (("now", state.everything()), ("average", state.average), ("best", state.best)):
        tensors |= {f"{kind}/{name}": t.detach().cpu().contiguous().clone() for name, t in named.items()}
    names = {id(p): name for name, p in state.named().items()}
    for parameter, values in state.optimizer.state.items():
        for key, value in values.items():
            tensors[f"adam/{key}/{names[id(parameter)]}"] = torch.as_tensor(value).detach().cpu().clone()
    plain = {"epoch": state.epoch, "step": state.step, "epochs": state.epochs, "history": state.history.to_dict()}
    meta = {"state": json.dumps(plain), "schedule": json.dumps(dict(schedule), sort_keys=True)}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=meta))


def resume(state: State, path: Path, schedule: Mapping[str, Any]) -> None:
    """Take up a checkpoint; StoreError when it is damaged or belongs to another run."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
        plain = json.loads(meta["state"])
        same = json.loads(meta["schedule"]) == json.loads(json.dumps(dict(schedule)))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StoreError(f"The checkpoint {path} is damaged ({error}); delete it to start again.") from error
    named = state.named()
    if not same or {k[4:] for k in tensors if k.startswith("now/")} != {*named, *state.buffers}:
        raise StoreError(f"The checkpoint {path} belongs to another run (other settings or parameters); delete it.")
    put({**named, **state.buffers}, {k[4:]: v for k, v in tensors.items() if k.startswith("now/")})
    state.average = {k[8:]: v for k, v in tensors.items() if k.startswith("average/")}
    state.best = {k[5:]: v for k, v in tensors.items() if k.startswith("best/")}
    for key, value in tensors.items():
        if key.startswith("adam/"):
            _, what, name = key.split("/", 2)
            state.optimizer.state[named[name]][what] = value if what == "step" else value.to(named[name].device)
    state.epoch, state.step, state.epochs = plain["epoch"], plain["step"], plain["epochs"]
    state.history = History(**plain["history"])
