"""Run only what lies above the frozen boundary: modules below it are stubbed, the boundary's output comes from a cache.

The network's own ``forward`` runs as ever, so any torch network will do. A module that ended before the boundary gives
memory that nobody may read instead of working; the boundary module gives what it is fed. Whether that is true to the
full forward pass is not argued but tried, on one batch: with NaN from every stub, features and gradients must be those
of the full pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from headstart.errors import HeadstartError
from headstart.extraction.features import FeatureSpec
from headstart.finetuning.model import BoundaryActivations, FineTuneModel
from headstart.finetuning.parameter_groups import ParameterMap
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Source
from headstart.sources.types import Batch
from headstart.training.batches import Samples

_COMPARED_ITEMS = 6
_FALLBACKS = 2  # outer layers that are tried where the boundary itself will not do
_TOLERANCE = 2e-3  # of the largest number: kernels are chosen by shapes and layouts, and round otherwise


class CacheInvalid(Exception):
    """A cached boundary would not give what the full forward pass gives; the text says why."""


@dataclass
class ModuleTrace:
    """One module in a forward pass: when it began and ended, how often it ran, and what it returned last."""

    began: int
    ended: int = -1
    calls: int = 0
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
    """The batch that the stubs stand for at the moment."""

    value: torch.Tensor | None = None
    inputs: int = 0
    positions: int = 0


@dataclass
class TruncatedForward:
    """The stubs of one network at one boundary. Inside ``with truncated.installed():`` it runs only what is above.

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

    layer: str
    modules: Mapping[str, torch.nn.Module]
    templates: Mapping[str, Any]
    inputs: Mapping[str, _Shape]
    stub_inputs: bool
    variable_length: bool
    fed: BoundaryBatch = field(default_factory=BoundaryBatch)
    poison: bool = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put stubs in place of the modules' ``forward``; nothing of them is left behind."""
        try:
            for name, template in self.templates.items():
                object.__setattr__(self.modules[name], "forward", self._stub(name, template))
            yield
        finally:
            for name in self.templates:
                self.modules[name].__dict__.pop("forward", None)
            self.fed.value = None

    def feed(self, value: torch.Tensor, batch: Batch) -> None:
        """Set what the boundary gives in the next forward pass."""
        self.fed.value = value
        self.fed.inputs = sum(batch.counts) if batch.counts is not None else _inputs_of(batch, value)
        self.fed.positions = 0 if batch.mask is None else batch.mask.shape[1]

    def tensors(
        self, batch: Batch, device: torch.device, make: Callable[[], dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """Return the network's input: the real one, or memory that the stubs ignore."""
        if not self.stub_inputs:
            return make()
        fed = self.fed
        return {k: shape.empty(fed.inputs, fed.positions, device, self.poison) for k, shape in self.inputs.items()}

    def _stub(self, name: str, template: Any) -> Callable[..., Any]:
        at_boundary = name == self.layer

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            fed = self.fed
            assert fed.value is not None
            device = fed.value.device
            outputs = [fed.value] if at_boundary else []  # of several tensors, the first is the boundary's output

            def fill(leaf: Any) -> Any:
                if not isinstance(leaf, _Shape):
                    return leaf
                return outputs.pop() if outputs else leaf.empty(fed.inputs, fed.positions, device, self.poison)

            return _mapped(template, fill)

        return forward


def truncated_forward(
    source: Source, network: torch.nn.Module, layer: str, probes: Sequence[tuple[Batch, dict[str, torch.Tensor]]]
) -> TruncatedForward:
    """Return stubs for everything that ends before ``layer`` does.

    Parameters
    ----------
    probes : two pairs (batch, tensors)
        Of 2 and 3 items: what changes with them tells which axis counts inputs, and which positions.

    Raises
    ------
    CacheInvalid
        When the boundary or an output below it has no form that can be stubbed.
    """
    backend = source.torch_backend.with_module(network)
    modules = backend.named_modules()
    runs = [_trace(backend, modules, tensors) for _, tensors in probes]
    sizes = [(_inputs_of(batch), 0 if batch.mask is None else batch.mask.shape[1]) for batch, _ in probes]
    if layer not in runs[0] or runs[0][layer].calls != 1:
        raise CacheInvalid(f"layer {layer} does not run exactly once")
    if any(runs[1].get(name, trace).calls != trace.calls for name, trace in runs[0].items()):
        raise CacheInvalid("its modules do not run equally often in every forward pass")
    end = runs[0][layer].ended
    below = [name for name, trace in runs[0].items() if 0 <= trace.ended <= end and trace.calls == 1]
    stubbed = _outermost(below, runs[0])
    templates = {name: _template(runs[0][name].output, runs[1][name].output, sizes) for name in stubbed}
    inputs = {name: _shape(tensor, probes[1][1][name], sizes) for name, tensor in probes[0][1].items()}
    has_tokens = any(not shape.dtype.is_floating_point for shape in inputs.values())
    first = probes[0][0]
    return TruncatedForward(
        layer,
        modules,
        templates,
        inputs,
        stub_inputs=not has_tokens and first.mask is None,
        variable_length=first.counts is not None or (first.mask is not None and source.layer(layer).axes == "tc"),
    )


def _trace(
    backend: TorchBackend, modules: Mapping[str, torch.nn.Module], tensors: dict[str, torch.Tensor]
) -> dict[str, ModuleTrace]:
    """Return the trace of every module in one forward pass without gradients."""
    traces: dict[str, ModuleTrace] = {}
    clock = itertools.count()
    handles = []

    def before(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            traces.setdefault(name, ModuleTrace(next(clock)))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            trace = traces[name]
            trace.ended, trace.calls = next(clock), trace.calls + 1
            trace.output = output

        return hook

    try:
        for name, module in modules.items():
            handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after(name))]
        with torch.no_grad():
            backend.call(tensors)
    finally:
        for handle in handles:
            handle.remove()
    return traces


def _outermost(below: Sequence[str], run: Mapping[str, ModuleTrace]) -> list[str]:
    """Return those that no other one contains: what runs while another runs need not be stubbed."""
    spans = sorted((run[name].began, -run[name].ended, name) for name in below)
    outermost, last_end = [], -1
    for _, negative_end, name in spans:
        if -negative_end > last_end:
            outermost.append(name)
            last_end = -negative_end
    return outermost


def _template(output: Any, other: Any, sizes: Sequence[tuple[int, int]]) -> Any:
    """Return the structure of a stub's output, with shapes in place of tensors."""
    if isinstance(output, torch.Tensor):
        return _shape(output, other, sizes)
    if isinstance(output, Mapping):
        return _rebuilt(output, {key: _template(value, other[key], sizes) for key, value in output.items()})
    if isinstance(output, (tuple, list)):
        return _rebuilt(output, [_template(a, b, sizes) for a, b in zip(output, other)])
    if output is None or isinstance(output, (bool, int, float, str)):
        return output
    raise CacheInvalid(f"a module below the boundary returns a {type(output).__name__}")


def _shape(tensor: torch.Tensor, other: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> _Shape:
    first, second = tuple(tensor.shape), tuple(other.shape)
    if len(first) != len(second):
        raise CacheInvalid("a module below the boundary returns tensors of changing rank")
    return _Shape(tuple(_axis(i, a, b, sizes) for i, (a, b) in enumerate(zip(first, second))), tensor.dtype)


def _axis(axis: int, a: int, b: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Return the factors of (inputs, positions, constant) that give sizes ``a`` and ``b`` in the two probes."""
    (n, t), (m, u) = sizes
    by_inputs = (a // n, 0, 0) if a % n == 0 and a // n * m == b else None
    by_positions = (0, 1, a - t) if t and a - t == b - u and (a != b or a == t) else None
    # the first axis is the batch, if it can be; the others are positions, if they can be
    factors = (by_inputs or by_positions) if axis == 0 else (by_positions or by_inputs)
    if a == b and (factors is None or factors[0]):
        return 0, 0, a
    if factors is None:
        raise CacheInvalid(
            "the size of an output below the boundary follows neither the number of inputs nor their length"
        )
    return factors


def _inputs_of(batch: Batch, value: torch.Tensor | None = None) -> int:
    first = next(iter(batch.inputs.values()), value)
    assert first is not None
    return len(first)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a structure of mappings and sequences with every leaf changed; other kinds of containers are leaves."""
    if isinstance(value, Mapping):
        return _rebuilt(value, {key: _mapped(inner, change) for key, inner in value.items()})
    if isinstance(value, (tuple, list)):
        return _rebuilt(value, [_mapped(inner, change) for inner in value])
    return change(value)


def _rebuilt(like: Any, parts: Any) -> Any:
    """Return a container of the same type as another; named tuples and model outputs take their parts as arguments."""
    if isinstance(like, Mapping):
        return type(like)(**parts) if type(like) is not dict else parts
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def boundary_output(
    source: Source, network: torch.nn.Module, layer: str, tensors: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the boundary's own output in a full forward pass."""
    outputs = source.run(tensors, {layer: torch.clone}, module=network)
    if layer not in outputs:
        raise CacheInvalid(f"the forward pass does not reach layer {layer}")
    result: torch.Tensor = outputs[layer].detach()
    return result


def agree(full: Sequence[torch.Tensor], fed: Sequence[torch.Tensor]) -> bool:
    """Return whether tensors are the same but for rounding; NaN never is."""
    for a, b in zip(full, fed):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if not bool(((a - b).abs() <= _TOLERANCE * scale + 1e-7).all()):
            return False
    return True


def truncate_at_boundary(
    model: FineTuneModel, parameter_map: ParameterMap, lowest: int | None, *, trained: Sequence[str], samples: Samples
) -> TruncatedForward:
    """Return stubs for the frozen part, once one batch has shown that they give what the full forward pass gives.

    Parameters
    ----------
    lowest : int or None
        The lowest unit that is trained.
    trained : sequence of str
        Parameters whose gradients are compared.

    Raises
    ------
    CacheInvalid
        When they do not, or there is no frozen part; the text says why.
    """
    if not lowest:
        raise CacheInvalid("everything from the first unit on moves")
    indices = np.arange(min(_COMPARED_ITEMS, len(samples)))
    if len(indices) < 3:
        raise CacheInvalid("there are too few items to compare on")
    probes = [_probe(model, samples.batch(indices[:n])) for n in (2, 3)]
    reasons = []
    for layer in _boundaries(model.source, parameter_map.unit_ends[lowest - 1]):
        try:
            truncated = truncated_forward(model.source, model.network, layer, probes)
            _compare(model, truncated, samples, indices=indices, trained=trained)
            return truncated
        except CacheInvalid as reason:
            reasons.append(reason)
        except HeadstartError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            reasons.append(CacheInvalid(f"the network cannot be run from layer {layer} on ({cause})"))
    raise reasons[0]


def _boundaries(source: Source, layer: str) -> list[str]:
    """Return the boundary, and outer layers below it: over a layer in a block the block's skip connection may run."""
    names = [layer.name for layer in source.layers]
    below = names[: names.index(layer)][::-1]
    boundaries, depth = [layer], layer.count(".")
    for name in below:
        if name.count(".") < depth and len(boundaries) <= _FALLBACKS:
            boundaries.append(name)
            depth = name.count(".")
    return boundaries


def below_boundary(source: Source, features: Sequence[FeatureSpec], layer: str) -> list[FeatureSpec]:
    """Return the features that the frozen part gives: those of layers that end before the boundary does."""
    order = {layer.name: i for i, layer in enumerate(source.layers)}
    return [f for f in features if order[f.layer] < order[layer]]


def _probe(model: FineTuneModel, batch: Batch) -> tuple[Batch, dict[str, torch.Tensor]]:
    return batch, model.source.input.tensors(batch, model.device, torch.float32)


def _compare(
    model: FineTuneModel,
    truncated: TruncatedForward,
    samples: Samples,
    *,
    indices: np.ndarray,
    trained: Sequence[str],
) -> None:
    """Compare features and their gradients, from full and from cached passes, in evaluation mode and fp32."""
    batch = samples.batch(indices)
    named = dict(model.network.named_parameters())
    parameters = [named[name] for name in trained]
    required = [parameter.requires_grad for parameter in parameters]
    bf16, model.bf16 = model.bf16, False
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        full = _with_gradients(model, batch, None, parameters)
        pair = model.rows(samples.batch(indices[:2]))
        if not agree([full[0][:2]], [pair.detach()]):
            raise CacheInvalid("an item's features change with its batch-mates or from run to run")
        activations = _frozen_activations(model, truncated.layer, batch)
        stubbed = Batch({} if truncated.stub_inputs else batch.inputs, counts=batch.counts, mask=batch.mask)
        model.truncated = truncated
        truncated.poison = True
        with truncated.installed():
            fed = _with_gradients(model, stubbed, activations, parameters)
    finally:
        truncated.poison, model.truncated, model.bf16 = False, None, bf16
        for parameter, requires_grad in zip(parameters, required):
            parameter.requires_grad_(requires_grad)
    if not agree(full[:1], fed[:1]):
        raise CacheInvalid("something below the boundary is used again above it")
    if not agree(full[1:], fed[1:]):
        raise CacheInvalid("a parameter that moves is used below the boundary, too")


def _frozen_activations(model: FineTuneModel, layer: str, batch: Batch) -> BoundaryActivations:
    """Return the boundary's output and the features below it, from a full forward pass."""
    with torch.no_grad():
        value = boundary_output(model.source, model.network, layer, model.inputs(batch))
        below = below_boundary(model.source, model.features, layer)
        return BoundaryActivations(value, model.pooled(batch, below) if below else {})


def _with_gradients(
    model: FineTuneModel,
    batch: Batch,
    activations: BoundaryActivations | None,
    parameters: Sequence[torch.nn.Parameter],
) -> list[torch.Tensor]:
    """Return the features, and the gradient of a function of all of them for each parameter (zeros for none)."""
    rows = model.rows(batch, activations)
    weights = torch.linspace(-1.0, 1.0, rows.shape[1], device=rows.device)
    value = (rows @ weights).square().mean() + rows.sum() / rows.numel()
    gradients = torch.autograd.grad(value, list(parameters), allow_unused=True) if rows.requires_grad else ()
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
    return [rows.detach(), *filled]
