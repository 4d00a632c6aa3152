"""Taking outputs from inside a torch module, stopping after the deepest one asked for.

Hooks are removed whatever happens; the stop is an exception that never leaves this file. Reduction (pooling) runs
inside the hook, before a later in-place operation can touch the tensor. Several threads may run one network at once: a
hook listens only to the thread that set it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

from headstart._registry import unknown
from headstart.errors import SourceError, UnknownName

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
                raise UnknownName(unknown(f"layers of {source.address}", name, list(named)))
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
