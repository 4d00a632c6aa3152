"""Running only what lies above the frozen boundary: everything below it is stubbed, the boundary's output is given.

The network's own ``forward`` runs as ever, so any torch network will do. A module that ended before the boundary gives
memory that nobody may read instead of working; the boundary module gives what it is fed. Whether that is true to the
full forward pass is not argued but tried: with NaN from every stub, values and gradients must be the full pass's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headstart.errors import HeadstartError
from headstart.finetuning.model import BoundaryActivations, FineTuneModel, LayerSpec
from headstart.finetuning.parameter_groups import ParameterMap
from headstart.sources.backends import TorchBackend
from headstart.sources.types import Batch
from headstart.training.batches import Samples

_CLOSE = 2e-3  # of the largest number: kernels are chosen by shapes and layouts, and round otherwise


class CacheInvalid(Exception):
    """Feeding the boundary would not give what the full forward pass gives; the text says why."""


@dataclass
class ModuleTrace:
    """One module as it ran: when it began and ended, how often, and what it returned last."""

    began: int
    ended: int = -1
    times: int = 0
    output: Any = None


@dataclass(frozen=True)
class _Shape:
    """A tensor's form: per axis (inputs, positions, constant) factors, e.g. (1, 0, 0) for the batch axis."""

    axes: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype

    def empty(self, inputs: int, positions: int, device: torch.device, poison: bool) -> torch.Tensor:
        shape = [a * inputs + b * positions + c for a, b, c in self.axes]
        if not self.dtype.is_floating_point:
            return torch.zeros(shape, dtype=self.dtype, device=device)
        if poison:
            return torch.full(shape, torch.nan, dtype=self.dtype, device=device)
        return torch.empty(shape, dtype=self.dtype, device=device)


@dataclass
class BoundaryBatch:
    """What the stubs give at the moment."""

    value: torch.Tensor | None = None
    inputs: int = 0
    positions: int = 0


@dataclass
class TruncatedForward:
    """The stubs of one network at one boundary. Inside ``with shortcut.installed():`` it runs only what is above.

    Attributes
    ----------
    layer : str
        The last frozen layer.
    synthetic : bool
        Whether the network's own input is stubbed, too (then samples need not even be read); token numbers and masks
        are small, and looked at by what lies above.
    listed : bool
        Whether items differ in size: a text has any number of positions, a clip any number of patches.
    poison : bool
        Stubs give NaN, which shows whoever reads them.
    """

    network: Any
    layer: str
    modules: Mapping[str, Any]
    templates: Mapping[str, Any]
    inputs: Mapping[str, _Shape]
    stub_inputs: bool
    variable_length: bool
    fed: BoundaryBatch = field(default_factory=BoundaryBatch)
    poison: bool = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Stubs in place of the modules' ``forward``; nothing of them is left behind."""
        try:
            for name, template in self.templates.items():
                object.__setattr__(self.modules[name], "forward", self._stub(name, template))
            yield
        finally:
            for name in self.templates:
                self.modules[name].__dict__.pop("forward", None)
            self.fed.value = None

    def feed(self, value: torch.Tensor, batch: Batch) -> None:
        """What the boundary gives in the next forward pass."""
        self.fed.value = value
        self.fed.inputs = sum(batch.counts) if batch.counts is not None else _inputs_of(batch, value)
        self.fed.positions = 0 if batch.mask is None else batch.mask.shape[1]

    def tensors(self, batch: Batch, device: torch.device, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The network's input: the real one, or memory that the stubs ignore."""
        if not self.stub_inputs:
            return make()
        fed = self.fed
        return {k: shape.empty(fed.inputs, fed.positions, device, self.poison) for k, shape in self.inputs.items()}

    def _stub(self, name: str, template: Any) -> Callable[..., Any]:
        at_boundary = name == self.layer

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            fed = self.fed
            assert fed.value is not None
            device, main = fed.value.device, [fed.value] if at_boundary else []

            def give(leaf: Any) -> Any:
                if isinstance(leaf, _Shape):
                    return main.pop() if main else leaf.empty(fed.inputs, fed.positions, device, self.poison)
                return leaf

            return _mapped(template, give)

        return forward


def truncated_forward(
    source: Any, network: Any, layer: str, probes: Sequence[tuple[Batch, dict[str, Any]]]
) -> TruncatedForward:
    """Stubs for everything that ends before ``layer`` does.

    Parameters
    ----------
    probes : two pairs (batch, tensors)
        Of 2 and 3 items: what changes with them tells which axis counts inputs, and which positions.

    Raises
    ------
    Untrue
        When the boundary or an output below it has no form that can be stubbed.
    """
    backend = source.torch_backend.with_module(network)
    modules = backend.named_modules()
    runs = [_recorded(backend, modules, tensors) for _, tensors in probes]
    sizes = [(_inputs_of(batch), 0 if batch.mask is None else batch.mask.shape[1]) for batch, _ in probes]
    end = {name: one.ended for name, one in runs[0].items()}
    if layer not in end or runs[0][layer].times != 1:
        raise CacheInvalid(f"layer {layer} does not run exactly once")
    if any(runs[1].get(name, one).times != one.times for name, one in runs[0].items()):
        raise CacheInvalid("its modules do not run equally often in every forward pass")
    below = [name for name, one in runs[0].items() if 0 <= one.ended <= end[layer] and one.times == 1]
    kept = _outermost(below, runs[0])
    templates = {name: _template(runs[0][name].output, runs[1][name].output, sizes) for name in kept}
    inputs = {k: _shape(v, probes[1][1][k], sizes) for k, v in probes[0][1].items()}
    real = any(not shape.dtype.is_floating_point for shape in inputs.values())
    first = probes[0][0]
    synthetic = not real and first.mask is None
    listed = first.counts is not None or (first.mask is not None and source.layer(layer).axes == "tc")
    return TruncatedForward(network, layer, modules, templates, inputs, stub_inputs=synthetic, variable_length=listed)


def _recorded(backend: TorchBackend, modules: Mapping[str, Any], tensors: dict[str, Any]) -> dict[str, ModuleTrace]:
    """Every module's call in one forward pass without gradients."""
    seen: dict[str, ModuleTrace] = {}
    clock = iter(range(1 << 62))
    handles = []

    def before(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            seen.setdefault(name, ModuleTrace(next(clock)))

        return note

    def after(name: str) -> Callable[..., None]:
        def note(_module: Any, _args: Any, output: Any) -> None:
            one = seen[name]
            one.ended, one.times = next(clock), one.times + 1
            one.output = output

        return note

    try:
        for name, module in modules.items():
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
        with torch.no_grad():
            backend.call(tensors)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _outermost(below: Sequence[str], run: Mapping[str, ModuleTrace]) -> list[str]:
    """Those that no other one contains: what runs while another runs need not be stubbed."""
    spans = sorted((run[name].began, -run[name].ended, name) for name in below)
    kept, until = [], -1
    for _, minus_end, name in spans:
        if -minus_end > until:
            kept.append(name)
            until = -minus_end
    return kept


def _template(one: Any, other: Any, sizes: Sequence[tuple[int, int]]) -> Any:
    """The output of a stub: its structure, with forms in place of tensors."""
    if isinstance(one, torch.Tensor):
        return _shape(one, other, sizes)
    if isinstance(one, Mapping):
        return _rebuilt(one, {k: _template(v, other[k], sizes) for k, v in one.items()})
    if isinstance(one, (tuple, list)):
        return _rebuilt(one, [_template(a, b, sizes) for a, b in zip(one, other)])
    if one is None or isinstance(one, (bool, int, float, str)):
        return one
    raise CacheInvalid(f"a module below the boundary returns a {type(one).__name__}")


def _shape(one: torch.Tensor, other: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> _Shape:
    first, second = tuple(one.shape), tuple(other.shape)
    if len(first) != len(second):
        raise CacheInvalid("a module below the boundary returns tensors of changing rank")
    return _Shape(tuple(_axis(i, a, b, sizes) for i, (a, b) in enumerate(zip(first, second))), one.dtype)


def _axis(place: int, a: int, b: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    (n, t), (m, u) = sizes
    inputs = (a // n, 0, 0) if a % n == 0 and a // n * m == b else None
    positions = (0, 1, a - t) if t and a - t == b - u and (a != b or a == t) else None
    both = (inputs, positions) if place == 0 else (positions, inputs)
    found = next((one for one in both if one is not None), None)
    if a == b and (found is None or found[0]):
        return 0, 0, a
    if found is None:
        raise CacheInvalid(
            "the size of an output below the boundary follows neither the number of inputs nor their length"
        )
    return found


def _inputs_of(batch: Batch, value: torch.Tensor | None = None) -> int:
    first = next(iter(batch.inputs.values()), value)
    assert first is not None
    return len(first)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A structure of mappings and sequences with every leaf changed; other kinds of containers are leaves."""
    if isinstance(value, Mapping):
        return _rebuilt(value, {key: _mapped(one, change) for key, one in value.items()})
    if isinstance(value, (tuple, list)):
        return _rebuilt(value, [_mapped(one, change) for one in value])
    return change(value)


def _rebuilt(like: Any, parts: Any) -> Any:
    if isinstance(like, Mapping):
        return type(like)(**parts) if type(like) is not dict else parts
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def boundary_of(source: Any, network: Any, layer: str, tensors: dict[str, Any]) -> torch.Tensor:
    """The boundary's own output in a full forward pass."""
    kept = source.run(tensors, {layer: torch.clone}, module=network)
    if layer not in kept:
        raise CacheInvalid(f"the forward pass does not reach layer {layer}")
    out: torch.Tensor = kept[layer].detach()
    return out


def agree(full: Sequence[torch.Tensor], fed: Sequence[torch.Tensor]) -> bool:
    """Whether tensors are the same but for rounding; NaN never is."""
    for a, b in zip(full, fed):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not bool(((a - b).abs() <= _CLOSE * scale + 1e-7).all()):
            return False
    return True


# Whether the frozen part can run once, decided by trying: the boundary, its stubs, one comparison. See
# _boundary.


_TRIED = 6
_FALLBACKS = 2


def prefix(
    model: FineTuneModel, places: ParameterMap, lowest: int | None, *, moving: Sequence[str], samples: Samples
) -> TruncatedForward:
    """Stubs for the frozen part, once one batch has shown that they give what the full forward pass gives.

    Raises
    ------
    Untrue
        When they do not, or there is no frozen part; the text says why.
    """
    if not lowest:
        raise CacheInvalid("everything from the first unit on moves")
    few = np.arange(min(_TRIED, len(samples)))
    if len(few) < 3:
        raise CacheInvalid("there are too few items to compare on")
    probes = [_probe(model, samples.batch(few[:n])) for n in (2, 3)]
    reasons = []
    for layer in _boundaries(model.source, places.ends[lowest - 1]):
        try:
            made = truncated_forward(model.source, model.network, layer, probes)
            _compare(model, made, samples, few=few, moving=moving)
            return made
        except CacheInvalid as reason:
            reasons.append(reason)
        except HeadstartError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            reasons.append(CacheInvalid(f"the network cannot be run from layer {layer} on ({what})"))
    raise reasons[0]


def _boundaries(source: Any, layer: str) -> list[str]:
    """The boundary, and outer layers below it: a layer inside a block may have the block's own connection over it."""
    names = [one.name for one in source.layers]
    below = names[: names.index(layer)][::-1]
    found, depth = [layer], layer.count(".")
    for name in below:
        if name.count(".") < depth and len(found) <= _FALLBACKS:
            found.append(name)
            depth = name.count(".")
    return found


def below_boundary(source: Any, features: Sequence[LayerSpec], layer: str) -> list[LayerSpec]:
    """The features that the frozen part gives: those of layers that end before the boundary does."""
    order = {one.name: i for i, one in enumerate(source.layers)}
    return [f for f in features if order[f.layer] < order[layer]]


def _probe(model: FineTuneModel, batch: Batch) -> tuple[Batch, dict[str, Any]]:
    return batch, model.source.input.tensors(batch, model.device, torch.float32)


def _compare(
    model: FineTuneModel, made: TruncatedForward, samples: Samples, *, few: np.ndarray, moving: Sequence[str]
) -> None:
    """Features and their gradients, full and fed, in evaluation mode and fp32."""
    batch = samples.batch(few)
    named = dict(model.network.named_parameters())
    watched = [named[name] for name in moving]
    state = [parameter.requires_grad for parameter in watched]
    bf16, model.bf16 = model.bf16, False
    try:
        for parameter in watched:
            parameter.requires_grad_(True)
        full = _with_gradients(model, batch, None, watched)
        again = model.rows(samples.batch(few[:2]))
        if not agree([full[0][:2]], [again.detach()]):
            raise CacheInvalid("an item's features change with its batch-mates or from run to run")
        fed = BoundaryActivations(*_frozen(model, made.layer, batch))
        empty = Batch({} if made.stub_inputs else batch.inputs, counts=batch.counts, mask=batch.mask)
        model.truncated = made
        made.poison = True
        with made.installed():
            short = _with_gradients(model, empty, fed, watched)
    finally:
        made.poison, model.truncated, model.bf16 = False, None, bf16
        for parameter, was in zip(watched, state):
            parameter.requires_grad_(was)
    if not agree(full[:1], short[:1]):
        raise CacheInvalid("something below the boundary is used again above it")
    if not agree(full[1:], short[1:]):
        raise CacheInvalid("a parameter that moves is used below the boundary, too")


def _frozen(model: FineTuneModel, layer: str, batch: Batch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The boundary's output and the features below it, from a full forward pass."""
    with torch.no_grad():
        value = boundary_of(model.source, model.network, layer, model._tensors(batch, None))
        lower = below_boundary(model.source, model.features, layer)
        parts = model.parts(batch, lower) if lower else {}
    return value, parts


def _with_gradients(
    model: FineTuneModel, batch: Batch, fed: BoundaryActivations | None, watched: Sequence[torch.nn.Parameter]
) -> list[torch.Tensor]:
    rows = model.rows(batch, fed)
    weights = torch.linspace(-1.0, 1.0, rows.shape[1], device=rows.device)
    value = (rows @ weights).square().mean() + rows.sum() / rows.numel()
    found = torch.autograd.grad(value, list(watched), allow_unused=True) if rows.requires_grad else ()
    zero = [torch.zeros_like(p) if g is None else g for p, g in zip(watched, found)]
    return [rows.detach(), *zero]
