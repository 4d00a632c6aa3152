"""Fingerprints of networks: their weights, their structure and, for Python objects, their code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_DEEPEST = 6
_LIBRARIES = ("torch.", "builtins", "abc", "typing")


def state_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Every parameter and buffer as an array, those that are not saved with the network included."""
    tensors = {**dict(network.named_buffers()), **network.state_dict()}
    return {name: _array(value) for name, value in tensors.items()}


def stamp_of(network: torch.nn.Module) -> tuple[int, ...]:
    """A cheap sign that changes when weights are replaced, moved or written in place, or hooks are put on.

    torch counts writes in place. Cost: about 1 µs per tensor; every extraction asks for it. The walk is written out,
    because ``modules()`` and ``parameters()`` put together names on the way, which takes six times as long.
    """
    sign: list[int] = []
    modules = [network]
    while modules:
        module = modules.pop()
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    sign += (tensor.data_ptr(), _version(tensor))
        sign.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
        modules += [inner for inner in module._modules.values() if inner is not None]
    return tuple(sign)


def structure_of(network: torch.nn.Module) -> list[str]:
    """Name, type and settings of every module inside."""
    return [f"{name}:{type(part).__name__}:{part.extra_repr()}" for name, part in network.named_modules()]


def code_of_modules(network: torch.nn.Module) -> list[Any]:
    """For a Python object that only its code describes: methods and plain attributes of its own classes of modules."""
    described: list[Any] = []
    kinds: set[type] = set()
    for name, part in network.named_modules():
        own_kinds = [kind for kind in type(part).__mro__ if not f"{kind.__module__}.".startswith(_LIBRARIES)]
        if own_kinds:
            plain = {k: v for k, v in vars(part).items() if isinstance(v, _PLAIN) and k != "training"}
            described.append([name, code_of(plain)])
        kinds.update(own_kinds)
    for kind in sorted(kinds, key=lambda kind: kind.__qualname__):
        methods = {k: v for k, v in vars(kind).items() if isinstance(v, FunctionType)}
        described.append([kind.__qualname__, code_of(methods)])
    return described


def code_of(thing: object, depth: int = 0) -> Any:
    """Plain data that changes when a function (or an object that is called) would do something else.

    Bytecode, constants, defaults, closure, and the plain values and functions it takes from its module. What lies
    deeper, or in another library, is known by name only.
    """
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if depth > _DEEPEST:
        return type(thing).__qualname__
    inner = depth + 1
    if isinstance(thing, (tuple, list)):
        return [code_of(item, inner) for item in thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(repr(item) for item in thing)
    if isinstance(thing, Mapping):
        return {str(key): code_of(value, inner) for key, value in thing.items()}
    if isinstance(thing, partial):
        return [code_of(thing.func, inner), code_of(thing.args, inner), code_of(thing.keywords, inner)]
    if isinstance(thing, MethodType):
        return [code_of(thing.__func__, inner), code_of(thing.__self__, inner)]
    if isinstance(thing, FunctionType):
        return _function(thing, inner)
    return _object(thing, inner)


def _function(function: FunctionType, depth: int) -> list[Any]:
    closure = [_contents(cell) for cell in function.__closure__ or ()]
    taken = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
    used = {
        name: code_of(value, depth)
        for name, value in taken.items()
        if isinstance(value, (*_PLAIN, tuple, list, dict, np.ndarray))
        or (isinstance(value, FunctionType) and value.__module__ == function.__module__ and value is not function)
    }
    return [_bytecode(function.__code__), code_of(function.__defaults__, depth), code_of(closure, depth), used]


def _object(thing: object, depth: int) -> Any:
    if isinstance(thing, np.ndarray) or hasattr(thing, "detach"):
        array = _array(thing)
        return [array.dtype.str, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
    kind = f"{type(thing).__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    if isinstance(thing, type) or not hasattr(thing, "__dict__"):
        return kind
    called = vars(type(thing)).get("__call__")
    code = code_of(called, depth) if isinstance(called, FunctionType) else None
    return [kind, code, code_of(dict(vars(thing)), depth)]


def _bytecode(code: CodeType) -> list[Any]:
    constants = [_bytecode(item) if isinstance(item, CodeType) else code_of(item) for item in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _names(code: CodeType) -> list[str]:
    """Global names that a function or anything nested in it looks up, sorted."""
    nested = [name for item in code.co_consts if isinstance(item, CodeType) for name in _names(item)]
    return sorted({*code.co_names, *nested})


def _contents(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # named, but not assigned yet
        return None


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "detach"):  # a module's extra state
        return np.frombuffer(repr(code_of(value)).encode(), np.uint8)
    tensor = value.detach().cpu().contiguous()
    try:
        array: np.ndarray = tensor.numpy()
    except TypeError:  # bfloat16 and the eight-bit floats: their bits
        import torch

        array = tensor.reshape(-1).view(torch.uint8).numpy()
    return array


def _version(tensor: torch.Tensor) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # tensors made in inference mode are not counted
        return -1
