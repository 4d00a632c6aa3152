"""The layers of a torch network: measured by running it once, and their outputs taken by hooks in a forward pass.

Execution order, shapes and multiply-adds are measured, never assumed. A forward pass for features stops in the hook of
the deepest layer requested, by an exception, so that nothing after it is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from headstart._base.registry import unknown_name
from headstart.errors import SourceError, UnknownName
from headstart.sources.types import Batch, Layer

if TYPE_CHECKING:
    from headstart.sources.backends import TorchBackend
    from headstart.sources.base import Input

OUTPUT = "output"  # what the whole network returns


class _Stop(BaseException):
    """Raised in the deepest layer's hook; a BaseException so that no model code catches it by accident."""


def forward_features(
    backend: TorchBackend,
    tensors: dict[str, torch.Tensor],
    reduce: Mapping[str, Callable[[torch.Tensor], Any]],
    *,
    stop: bool = True,
) -> dict[str, Any]:
    """Run forward and return ``{layer: reduce[layer](output)}``, stopping after the last of them has been reached.

    Parameters
    ----------
    reduce : mapping
        Layer name → function of its output tensor; the last of them in execution order ends the pass.
    stop : bool
        False runs to the end all the same: for tracers, which do not survive the exception.
    """
    features: dict[str, Any] = {}
    modules = backend.named_modules()
    thread = get_ident()

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        def take(_module: torch.nn.Module, _args: object, output: object) -> None:
            if get_ident() != thread:  # another thread runs the same module: its outputs are not ours
                return
            tensor = first_tensor(output)
            if tensor is None:
                raise SourceError(f"{backend.label}: layer {name!r} returned no tensor; choose another layer.")
            features[name] = reduce[name](tensor)
            if stop and len(features) == len(reduce):
                raise _Stop

        return take

    handles = []
    try:
        for name in reduce:
            if name not in modules:
                raise UnknownName(unknown_name(f"layers of {backend.label}", name, list(modules)))
            handles.append(modules[name].register_forward_hook(hook(name)))
        backend.call(tensors)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return features


def first_tensor(output: Any) -> Any:
    """The main tensor of whatever a module returns: itself, the first of a tuple, or the first of a mapping."""
    while not hasattr(output, "shape"):
        if isinstance(output, Mapping) and output:
            output = next(iter(output.values()))
        elif isinstance(output, (tuple, list)) and output:
            output = output[0]
        else:
            return None
    return output


# Layers that return what they are given (or nearly so): never worth listing as places for features.
_TRIVIAL = ("identity", "dropout", "droppath", "dropblock", "inputlayer", "patchdropout", "stochasticdepth")
_ELEMENTWISE = ("norm", "relu", "gelu", "silu", "swish", "sigmoid", "tanh", "activation", "softmax", "elu", "mish")
_CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
_MAX_CANDIDATES = 18
_INPUTS = 3  # an unlikely size for any axis but the one that counts inputs


@dataclass
class _Call:
    """The first call of a module in the measured pass; ``flops`` counts all that ran before it ended."""

    name: str
    module: torch.nn.Module
    output: torch.Tensor
    flops: int
    calls: int = 1
    has_children: bool = False


def measure_layers(backend: TorchBackend, input: Input, classifier: str | None) -> tuple[Layer, ...]:
    """Run example inputs once and list every module that returned a tensor, in the order in which they ended.

    Raises
    ------
    SourceError
        When the network cannot take its example input, or returns nothing that has a row per input.
    """
    batch = input.example(_INPUTS)
    calls, total = _recorded_calls(backend, input, batch)
    n = len(next(iter(batch.inputs.values())))
    calls = [c for c in calls if c.output.ndim >= 2 and c.output.shape[0] == n and c.output.is_floating_point()]
    network = [c for c in calls if c.module is backend.module]
    # a module that is called twice stands at two depths: it is no one layer
    inner = [c for c in calls if c.calls == 1 and c.module is not backend.module and not _is_kind(c, _TRIVIAL)]
    if not inner and not network:
        raise SourceError(f"{backend.label} has no layer that returns a tensor with one entry per input.")
    chosen = _candidates(inner, classifier) | _vector_output(network, inner, classifier)
    return tuple(_layer(c, batch, n_inputs=n, total=total, candidate=c.name in chosen) for c in [*inner, *network])


def _layer(call: _Call, batch: Batch, *, n_inputs: int, total: int, candidate: bool) -> Layer:
    shape = tuple(int(v) for v in call.output.shape[1:])
    axes = _axes(call.module, shape)
    if axes == "tc" and batch.mask is not None and shape[0] == batch.mask.shape[1]:
        shape = (-1, shape[1])  # as long as the longest of the batch
    return Layer(
        name=call.name,
        shape=shape,
        kind="output" if call.name == OUTPUT else type(call.module).__name__.lower(),
        depth=round(call.flops / max(total, 1), 4),
        macs=call.flops // (2 * n_inputs),
        axes=axes,
        candidate=candidate,
    )


def _recorded_calls(backend: TorchBackend, input: Input, batch: Batch) -> tuple[list[_Call], int]:
    """Every module's first call in the order in which they end, and the multiply-adds of the pass times two."""
    network = backend.module
    calls: dict[int, _Call] = {}
    counter = FlopCounterMode(display=False)
    thread = get_ident()
    handles = []

    def hook(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def take(module: torch.nn.Module, _args: object, output: object) -> None:
            tensor = first_tensor(output)
            if get_ident() != thread or not isinstance(tensor, torch.Tensor):
                return
            if id(module) in calls:
                calls[id(module)].calls += 1
                return
            has_children = any(True for _ in module.children())
            # the reference is kept so that two outputs with one address really are one tensor
            calls[id(module)] = _Call(name, module, tensor, int(counter.get_total_flops()), has_children=has_children)

        return take

    try:
        for name, module in backend.named_modules().items():
            handles.append(module.register_forward_hook(hook(name)))
        first = next(iter(network.parameters()), None)
        device, dtype = (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
        tensors = input.tensors(batch, device, dtype if dtype.is_floating_point else torch.float32)
        with _evaluating(network), _countable(network), torch.no_grad(), counter:
            backend.call(tensors)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in batch.inputs.values())
        raise SourceError(
            f"{backend.label} cannot be run on an example batch of shape {shapes}: {error} "
            "Give the size= or shape= of one input that it takes."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values()), int(counter.get_total_flops())


@contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, and parameters without gradients; all as it was afterwards.

    The counter follows gradients of what modules are given, and fails where that is a parameter (DeBERTa's table of
    relative positions).
    """
    modes = {module: module.training for module in network.modules()}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _countable(network: torch.nn.Module) -> Iterator[None]:
    """Recurrent layers run as plain products: the fused kernel of the CPU is not counted."""
    if not any(isinstance(module, torch.nn.RNNBase) for module in network.modules()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _vector_output(network: Sequence[_Call], inner: Sequence[_Call], classifier: str | None) -> set[str]:
    """The network's output, where it is a vector that no layer gives (a sentence encoder's) and no classifier's."""
    if not inner:
        return {c.name for c in network}
    if classifier is not None:
        return set()
    memory = {c.output.data_ptr() for c in inner}
    return {c.name for c in network if c.output.ndim == 2 and c.output.data_ptr() not in memory}


def _candidates(inner: Sequence[_Call], classifier: str | None) -> set[str]:
    """Block outputs in a network of blocks, otherwise every layer that ends a convolution–norm–activation unit."""
    below = []
    for call in inner:
        if classifier is not None and f"{call.name}.".startswith(f"{classifier}."):
            break
        below.append(call)
    unique = _without_aliases(below or inner)
    ends = [c for i, c in enumerate(unique) if i + 1 == len(unique) or not _continues(c, unique[i + 1])]
    blocks = [c for c in ends if c.has_children and _is_block(c, inner)]
    leaves = [c for c in ends if not any(other.name.startswith(c.name + ".") for other in inner)]
    pool = blocks if len(blocks) >= 3 else leaves or ends
    if not pool:
        return set()
    if unique[-1].name not in {c.name for c in pool}:
        pool = [*pool, unique[-1]]
    return {c.name for c in _evenly_spread(pool)}


def _without_aliases(calls: Sequence[_Call]) -> list[_Call]:
    """Of several modules that return the same memory (a stage and its last block) only the one that ended last.

    A container that only wraps everything (``blocks``) gives way to its last numbered part (``blocks.6``).
    """
    groups: dict[tuple[int, torch.Size], list[_Call]] = {}
    for call in calls:
        groups.setdefault((call.output.data_ptr(), call.output.shape), []).append(call)
    names = set()
    for same in groups.values():
        numbered = [call for call in same if any(c.isdigit() for c in call.name)]
        names.add((numbered or same)[-1].name)
    return [call for call in calls if call.name in names]


def _is_block(call: _Call, calls: Sequence[_Call]) -> bool:
    """A numbered composite (``blocks.3.0``, ``encoder.layer.5``) or a stage of them, not inside another block."""
    kinds = {other.name: type(other.module).__name__ for other in calls}
    container = kinds[call.name] in _CONTAINERS
    parts = call.name.split(".")
    above = (".".join(parts[:i]) for i in range(1, len(parts)))
    nested = any(p.rpartition(".")[2].isdigit() and kinds.get(p, "Sequential") not in _CONTAINERS for p in above)
    return (container or parts[-1].isdigit()) and not nested


def _evenly_spread(pool: list[_Call]) -> list[_Call]:
    """At most 18 of them, the first and the last included."""
    if len(pool) <= _MAX_CANDIDATES:
        return pool
    step = (len(pool) - 1) / (_MAX_CANDIDATES - 1)
    return [pool[round(i * step)] for i in range(_MAX_CANDIDATES)]


def _continues(call: _Call, following: _Call) -> bool:
    """True where the next layer only finishes this one: a norm or activation of the same shape, or a flattening."""
    if _is_kind(following, ("flatten",)) and call.output.data_ptr() == following.output.data_ptr():
        return True
    if call.has_children or following.has_children or call.output.shape != following.output.shape:
        return False
    return _is_kind(following, _ELEMENTWISE)


def _is_kind(call: _Call, words: tuple[str, ...]) -> bool:
    kind = type(call.module).__name__.lower()
    return any(word in kind for word in words)


def _axes(module: torch.nn.Module, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        data_format = getattr(module, "data_format", None)
        if data_format is not None:
            return "hwc" if data_format == "channels_last" else "chw"
        # square maps give it away (Swin and Keras put channels last); channels first is the rule in torch
        return "hwc" if shape[0] == shape[1] != shape[2] else "chw"
    if len(shape) == 2:
        return "ct" if "1d" in type(module).__name__.lower() else "tc"
    return "c" if len(shape) == 1 else "any"
