"""The layer table of a torch network, measured by running it: order, shapes, multiply-adds, candidates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from headstart._base.registry import unknown_name
from headstart.errors import SourceError, UnknownName
from headstart.sources.types import Layer

# ---- Taking outputs from inside a torch module, stopping after the deepest one asked for. ----


OUTPUT = "output"  # what the whole network returns


class _Stop(BaseException):
    """Raised in the deepest layer's hook; a BaseException so that no model code catches it by accident."""


def modules_of(source: Any, network: Any = None) -> dict[str, Any]:
    """Name → module; ``"output"`` is the whole network, unless a module of that name is inside it."""
    network = source.network if network is None else network
    named = source.submodules(network) if source.submodules else dict(network.named_modules())
    inner = {name: module for name, module in named.items() if name}
    return {OUTPUT: named[""], **inner} if "" in named else inner


def call(source: Any, network: Any, tensors: dict[str, Any]) -> Any:
    """Run the network forward the way its family wants it called."""
    if source.invoke is not None:
        return source.invoke(network, tensors)
    return network(tensors["x"])


def forward_features(
    source: Any,
    network: Any,
    tensors: dict[str, Any],
    reduce: Mapping[str, Callable[[Any], Any]],
    *,
    stop: bool = True,
) -> dict[str, Any]:
    """Run forward and return ``{layer: reduce[layer](output)}``, stopping after the last of them has been reached.

    Parameters
    ----------
    reduce : mapping
        Layer name → what to keep of its output tensor; its last key in execution order ends the pass.
    stop : bool
        False runs to the end all the same: for tracers, which do not survive the exception.
    """
    kept: dict[str, Any] = {}
    named = modules_of(source, network)
    thread = get_ident()

    def hook(name: str) -> Callable[[Any, Any, Any], None]:
        def take(_module: Any, _args: Any, output: Any) -> None:
            if get_ident() != thread:
                return
            tensor = first_tensor(output)
            if tensor is None:
                raise SourceError(f"{source.address}: layer {name!r} returned no tensor; choose another layer.")
            kept[name] = reduce[name](tensor)
            if stop and len(kept) == len(reduce):
                raise _Stop

        return take

    handles = []
    try:
        for name in reduce:
            if name not in named:
                raise UnknownName(unknown_name(f"layers of {source.address}", name, list(named)))
            handles.append(named[name].register_forward_hook(hook(name)))
        call(source, network, tensors)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return kept


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
class _Seen:
    name: str
    module: Any
    output: torch.Tensor
    flops: int
    calls: int = 1
    children: bool = False


def measure_layers(source: Any) -> tuple[Layer, ...]:
    """Run example inputs once and list every module that returned a tensor, in the order in which they ended.

    Raises
    ------
    SourceError
        When the network cannot take its example input, or returns nothing that has a row per input.
    """
    batch = source.input.example(_INPUTS)
    seen, total = _run(source, batch)
    n = len(next(iter(batch.inputs.values())))
    seen = [s for s in seen if s.output.ndim >= 2 and s.output.shape[0] == n and s.output.is_floating_point()]
    whole = [s for s in seen if s.module is source.network]
    visible = [s for s in seen if s.calls == 1 and s.module is not source.network and not _is(s, _TRIVIAL)]
    if not visible and not whole:
        raise SourceError(f"{source.address} has no layer that returns a tensor with one entry per input.")
    chosen = _candidates(source, visible) | _own_output(source, whole, visible)
    return tuple(_layer(s, batch, inputs=n, total=total, candidate=s.name in chosen) for s in [*visible, *whole])


def _layer(s: _Seen, batch: Any, *, inputs: int, total: int, candidate: bool) -> Layer:
    shape = tuple(int(v) for v in s.output.shape[1:])
    axes = _axes(s.module, shape)
    if axes == "tc" and batch.mask is not None and shape[0] == batch.mask.shape[1]:
        shape = (-1, shape[1])  # as long as the longest of the batch
    return Layer(
        name=s.name,
        shape=shape,
        kind="output" if s.name == OUTPUT else type(s.module).__name__.lower(),
        depth=round(s.flops / max(total, 1), 4),
        macs=s.flops // (2 * inputs),
        axes=axes,
        candidate=candidate,
    )


def _run(source: Any, batch: Any) -> tuple[list[_Seen], int]:
    network = source.network
    seen: dict[int, _Seen] = {}
    counter = FlopCounterMode(display=False)
    thread = get_ident()
    handles = []

    def hook(name: str) -> Any:
        def take(module: Any, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if get_ident() != thread or not isinstance(tensor, torch.Tensor):
                return
            if id(module) in seen:
                seen[id(module)].calls += 1
                return
            children = any(True for _ in module.children()) if hasattr(module, "children") else False
            # the reference is kept so that two outputs with one address really are one tensor
            seen[id(module)] = _Seen(name, module, tensor, int(counter.get_total_flops()), children=children)

        return take

    try:
        for name, module in modules_of(source).items():
            handles.append(module.register_forward_hook(hook(name)))
        first = next(iter(network.parameters()), None)
        device, dtype = (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
        tensors = source.input.tensors(batch, device, dtype if dtype.is_floating_point else torch.float32)
        with _evaluating(network), _countable(network), torch.no_grad(), counter:
            call(source, network, tensors)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in batch.inputs.values())
        raise SourceError(
            f"{source.address} cannot be run on an example batch of shape {shapes}: {error} "
            "Give the size= or shape= of one input that it takes."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values()), int(counter.get_total_flops())


@contextmanager
def _evaluating(network: Any) -> Iterator[None]:
    """Evaluation mode inside the block, and parameters without gradients; all as it was afterwards.

    The counter follows gradients of what modules are given, and fails where that is a parameter (DeBERTa's table of
    relative positions).
    """
    modes = {module: module.training for module in network.modules()}
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _countable(network: Any) -> Iterator[None]:
    """Recurrent layers run as plain products: the fused kernel of the CPU is not counted."""
    if not any(isinstance(module, torch.nn.RNNBase) for module in network.modules()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _own_output(source: Any, whole: list[_Seen], visible: list[_Seen]) -> set[str]:
    """The network's own output, where it is a vector that no layer gives (a sentence encoder's) and no classifier's."""
    if not visible:
        return {s.name for s in whole}
    given = {s.output.data_ptr() for s in visible}
    own = [s for s in whole if source.classifier is None and s.output.ndim == 2 and s.output.data_ptr() not in given]
    return {s.name for s in own}


def _candidates(source: Any, visible: list[_Seen]) -> set[str]:
    """Block outputs in a network of blocks, otherwise every layer that ends a convolution–norm–activation unit."""
    before = []
    for s in visible:
        if source.classifier is not None and f"{s.name}.".startswith(f"{source.classifier}."):
            break
        before.append(s)
    unique = _without_aliases(before or visible)
    ends = [s for i, s in enumerate(unique) if i + 1 == len(unique) or not _continues(s, unique[i + 1])]
    blocks = [s for s in ends if s.children and _is_block(s, visible)]
    inner = [s for s in ends if not any(o.name.startswith(s.name + ".") for o in visible)]
    pool = blocks if len(blocks) >= 3 else inner or ends
    if not pool:
        return set()
    if unique[-1].name not in {s.name for s in pool}:
        pool = [*pool, unique[-1]]
    return {s.name for s in _thin(pool)}


def _without_aliases(seen: list[_Seen]) -> list[_Seen]:
    """Of several modules that return the same memory (a stage and its last block) keep the one that ended last.

    A container that only wraps everything (``blocks``) gives way to its last numbered part (``blocks.6``).
    """
    groups: dict[tuple[int, torch.Size], list[_Seen]] = {}
    for s in seen:
        groups.setdefault((s.output.data_ptr(), s.output.shape), []).append(s)
    kept = set()
    for same in groups.values():
        numbered = [s for s in same if any(c.isdigit() for c in s.name)]
        kept.add((numbered or same)[-1].name)
    return [s for s in seen if s.name in kept]


def _is_block(s: _Seen, seen: list[_Seen]) -> bool:
    """A numbered composite (``blocks.3.0``, ``encoder.layer.5``) or a stage of them, not inside another block."""
    kinds = {o.name: type(o.module).__name__ for o in seen}
    container = kinds[s.name] in _CONTAINERS
    parts = s.name.split(".")
    above = (".".join(parts[:i]) for i in range(1, len(parts)))
    nested = any(p.rpartition(".")[2].isdigit() and kinds.get(p, "Sequential") not in _CONTAINERS for p in above)
    return (container or parts[-1].isdigit()) and not nested


def _thin(pool: list[_Seen]) -> list[_Seen]:
    if len(pool) <= _MAX_CANDIDATES:
        return pool
    step = (len(pool) - 1) / (_MAX_CANDIDATES - 1)
    return [pool[round(i * step)] for i in range(_MAX_CANDIDATES)]


def _continues(s: _Seen, following: _Seen) -> bool:
    """Whether the next layer only finishes this one: a norm or activation of the same shape, or a flattening."""
    if _is(following, ("flatten",)) and s.output.data_ptr() == following.output.data_ptr():
        return True
    same = s.output.shape == following.output.shape
    return same and not following.children and not s.children and _is(following, _ELEMENTWISE)


def _is(s: _Seen, words: tuple[str, ...]) -> bool:
    kind = type(s.module).__name__.lower()
    return any(word in kind for word in words)


def _axes(module: Any, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        data_format = getattr(module, "data_format", None)
        if data_format is not None:
            return "hwc" if data_format == "channels_last" else "chw"
        # square maps give it away (Swin and Keras put channels last); channels first is the rule in torch
        return "hwc" if shape[0] == shape[1] != shape[2] else "chw"
    if len(shape) == 2:
        return "ct" if "1d" in type(module).__name__.lower() else "tc"
    return "c" if len(shape) == 1 else "any"
