"""The state of a training run, on disk and back: a safetensors file with plain data in its header, no pickle."""

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
    """Named parameters that train alike: ``lr_scale`` times the rate, decayed or not, from ``start_epoch`` on."""

    parameters: Mapping[str, torch.nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: bool = True
    start_epoch: int = 0


@dataclass
class History:
    """The course of a run, one entry per epoch.

    Attributes
    ----------
    loss : list of float
        Mean training loss.
    score : list of float
        On the validation set, where there is one; -inf for one that was no number.
    lr : list of float
        At the end of the epoch.
    best : int
        The epoch whose weights were kept.
    stopped : str
        Why the run ended.
    """

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    best: int = -1
    stopped: str = "all epochs done"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self))


@dataclass
class TrainingState:
    """All that changes while training: what a checkpoint holds.

    Attributes
    ----------
    epochs : int
        To be done in all; a budget may cut it.
    epoch, step : int
        Done so far.
    average : dict
        Moving average of the parameters; empty where there is none.
    best : dict
        Parameters and buffers of the best epoch; empty before the first validation.
    """

    groups: Sequence[ParameterGroup]
    buffers: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    epochs: int
    epoch: int = 0
    step: int = 0
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    history: History = field(default_factory=History)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters and the buffers, by name."""
        return {**self.parameters(), **self.buffers}

    def shapes(self) -> dict[str, list[int]]:
        """Return the shapes of all tensors, as plain data."""
        return {name: list(tensor.shape) for name, tensor in self.tensors().items()}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the trained parameters, by name."""
        return {name: p for group in self.groups for name, p in group.parameters.items()}


def copy_into(named: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Copy values into tensors, by name, in place."""
    with torch.no_grad():
        for name, value in values.items():
            named[name].copy_(value)


def save(state: TrainingState, path: Path, run_record: Mapping[str, Any]) -> None:
    """Write the state atomically; ``run_record`` says which run it belongs to, as plain data."""
    tensors: dict[str, torch.Tensor] = {}
    for kind, named in (("now", state.tensors()), ("average", state.average), ("best", state.best)):
        tensors |= {f"{kind}/{name}": tensor for name, tensor in named.items()}
    names = {id(p): name for name, p in state.parameters().items()}
    for parameter, values in state.optimizer.state.items():
        for key, value in values.items():
            tensors[f"adam/{key}/{names[id(parameter)]}"] = torch.as_tensor(value)
    plain = {"epoch": state.epoch, "step": state.step, "epochs": state.epochs, "history": state.history.to_dict()}
    write_weights(path, tensors, {"state": json.dumps(plain), "run": canonical_json(dict(run_record))})


def resume(state: TrainingState, path: Path, run_record: Mapping[str, Any]) -> None:
    """Bring the state to where a checkpoint was written.

    Raises
    ------
    StoreError
        When the file is damaged, or belongs to another run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # it is no mapping
        plain = json.loads(meta["state"])
        history = History(**plain["history"])
        epoch, step, epochs = (int(plain[key]) for key in ("epoch", "step", "epochs"))
        same = meta["run"] == canonical_json(dict(run_record))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"The checkpoint {path} is damaged ({error}); delete it to start again.") from error
    current = state.tensors()
    kinds = {kind: _with_prefix(tensors, kind, current) for kind in ("now", "average", "best", "adam")}
    shapes = {name: value.shape for name, value in kinds["now"].items()}
    if not same or shapes != {name: tensor.shape for name, tensor in current.items()}:
        raise StoreError(
            f"The checkpoint {path} belongs to another run (other data, settings or parameters); delete it, or name "
            "another file."
        )
    copy_into(current, kinds["now"])
    state.average, state.best = kinds["average"], kinds["best"]
    for key, value in kinds["adam"].items():
        moment, _, name = key.partition("/")
        # AdamW counts its steps on the CPU, wherever the parameters are
        state.optimizer.state[current[name]][moment] = value.cpu() if moment == "step" else value
    state.epoch, state.step, state.epochs, state.history = epoch, step, epochs, history


def _with_prefix(
    tensors: Mapping[str, torch.Tensor], kind: str, current: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of one kind by name, each on the device of the tensor that it belongs to."""
    result = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition("/")
        if prefix != kind:
            continue
        name = rest.partition("/")[2] if kind == "adam" else rest  # adam/exp_avg/layer.weight
        if name in current:
            result[rest] = value.to(current[name].device)
    return result
