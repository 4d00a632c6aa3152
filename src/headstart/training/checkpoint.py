"""What changes while training, and how it is written down and taken up again.

A checkpoint is one safetensors file with its plain data in the header; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headstart._base.hashing import canonical_json
from headstart.errors import StoreError
from headstart.sources.weights import write_weights


@dataclass(frozen=True)
class ParameterGroup:
    """Named parameters that share a learning-rate factor, and a function of the epoch that may hold them still."""

    parameters: Mapping[str, torch.nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: bool = True
    start_epoch: int = 0


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
class TrainingState:
    """All that changes while training, so that it can be written down and taken up again."""

    groups: Sequence[ParameterGroup]
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

    def shapes(self) -> dict[str, list[int]]:
        """What moves, as plain data."""
        return {name: list(tensor.shape) for name, tensor in self.everything().items()}

    def named(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that move."""
        return {name: p for group in self.groups for name, p in group.parameters.items()}


def copy_into(named: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into tensors, by name, in place."""
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)


def save(state: TrainingState, path: Path, of_run: Mapping[str, Any]) -> None:
    """Write everything that changes, atomically; ``of_run`` says which run it belongs to."""
    tensors: dict[str, torch.Tensor] = {}
    for kind, named in (("now", state.everything()), ("average", state.average), ("best", state.best)):
        tensors |= {f"{kind}/{name}": tensor for name, tensor in named.items()}
    names = {id(p): name for name, p in state.named().items()}
    for parameter, values in state.optimizer.state.items():
        for key, value in values.items():
            tensors[f"adam/{key}/{names[id(parameter)]}"] = torch.as_tensor(value)
    plain = {"epoch": state.epoch, "step": state.step, "epochs": state.epochs, "history": state.history.to_dict()}
    write_weights(path, tensors, {"state": json.dumps(plain), "run": canonical_json(dict(of_run))})


def resume(state: TrainingState, path: Path, of_run: Mapping[str, Any]) -> None:
    """Take up a checkpoint; StoreError when it is damaged or belongs to another run."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # it is no mapping
        plain = json.loads(meta["state"])
        history = History(**plain["history"])
        epoch, step, epochs = (int(plain[key]) for key in ("epoch", "step", "epochs"))
        same = meta["run"] == canonical_json(dict(of_run))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"The checkpoint {path} is damaged ({error}); delete it to start again.") from error
    own = state.everything()
    kinds = {kind: _under(tensors, kind, own) for kind in ("now", "average", "best", "adam")}
    now = {name: value.shape for name, value in kinds["now"].items()}
    if not same or now != {name: tensor.shape for name, tensor in own.items()}:
        raise StoreError(
            f"The checkpoint {path} belongs to another run (other data, settings or parameters); delete it, or name "
            "another file."
        )
    copy_into(own, kinds["now"])
    state.average, state.best = kinds["average"], kinds["best"]
    for key, value in kinds["adam"].items():
        what, _, name = key.partition("/")
        state.optimizer.state[own[name]][what] = value.cpu() if what == "step" else value
    state.epoch, state.step, state.epochs, state.history = epoch, step, epochs, history


def _under(tensors: Mapping[str, torch.Tensor], kind: str, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of one kind by name, each where the tensor that it belongs to is."""
    found = {key[len(kind) + 1 :]: value for key, value in tensors.items() if key.startswith(kind + "/")}
    names = {key: key.partition("/")[2] if kind == "adam" else key for key in found}
    return {key: value.to(own[names[key]].device) for key, value in found.items() if names[key] in own}
