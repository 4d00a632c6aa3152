"""An ONNX graph as a place for features: what depends on the input, where everything passes, what it costs.

A tensor that every path from the input to the output goes through is a *gate*. Gates are what blocks hand on: the sum
that closes a residual block, the activation that ends a convolution. They need no names of modules, which an exporter
may or may not have kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

# What only describes a shape depends on the input's size, not on what is in it.
_DESCRIBING = frozenset({"Shape", "Size"})
# Nodes that mix nothing: they finish what came before them (activation, normalisation, bias, scale).
_FINISHING = frozenset(
    [
        "Abs",
        "Add",
        "BatchNormalization",
        "Cast",
        "CastLike",
        "Ceil",
        "Celu",
        "Clip",
        "DequantizeLinear",
        "Div",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "GroupNormalization",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "LogSoftmax",
        "LpNormalization",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "QuantizeLinear",
        "RMSNormalization",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "SimplifiedLayerNormalization",
        "Softmax",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Sub",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
        "Where",
    ]
)
_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_REDUCING = frozenset({"ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare"})
_JOINING = frozenset({"Add", "Concat", "Sum"})
_CONVOLVING = ("Conv", "Pool", "MaxUnpool")
_DENSE = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "FusedGemm", "FusedMatMul"})

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Unit:
    """The part between two gates: the tensors from one to the other, whether it joins branches, and its dense end."""

    tensors: tuple[str, ...]
    joins: bool
    dense: bool


class Graph:
    """The nodes of a model in the file's order, which is an order of execution."""

    def __init__(self, model: onnx.ModelProto, root: str) -> None:
        self.model = model
        self.root = root
        self.nodes = list(model.graph.node)
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def depends(self) -> frozenset[str]:
        """Tensors whose numbers depend on the input."""
        names = {self.root}
        for node in self.nodes:
            if node.op_type not in _DESCRIBING and not names.isdisjoint(inputs_of(node)):
                names.update(filter(None, node.output))
        return frozenset(names)

    def needed(self, names: Iterable[str]) -> list[int]:
        """Indices of the nodes that these tensors need, in order."""
        indices: set[int] = set()
        waiting = [self.producer[name] for name in names if name in self.producer]
        while waiting:
            index = waiting.pop()
            if index not in indices:
                indices.add(index)
                waiting += [self.producer[name] for name in inputs_of(self.nodes[index]) if name in self.producer]
        return sorted(indices)

    def cut(self, names: Sequence[str]) -> onnx.ModelProto:
        """A model that ends at these tensors: what they do not need is left out."""
        cut = type(self.model)()
        cut.ir_version = self.model.ir_version
        cut.opset_import.extend(self.model.opset_import)
        nodes = [self.nodes[i] for i in self.needed(names)]
        used = {name for node in nodes for name in inputs_of(node)} | set(names)
        cut.graph.name = "headstart"
        cut.graph.node.extend(nodes)
        cut.graph.initializer.extend(t for t in self.model.graph.initializer if t.name in used)
        cut.graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in used)
        cut.graph.input.extend(v for v in self.model.graph.input if v.name in used)
        for name in dict.fromkeys(names):
            cut.graph.output.add().name = name  # onnxruntime works out the type
        return cut

    def units(self, output: str) -> list[Unit]:
        """The way from the input to an output, cut at its gates and joined to units of one mixing step or block."""
        path = [self.nodes[i] for i in self.needed([output])]
        last_use = {name: i for i, node in enumerate(path) for name in inputs_of(node) if name in self.depends}
        last_use[output] = len(path)
        live, since, gates = {self.root}, [], []
        for i, node in enumerate(path):
            live = {name for name in live if last_use.get(name, -1) > i}
            if self.depends.isdisjoint(inputs_of(node)) or node.op_type in _DESCRIBING:
                continue
            live |= {name for name in node.output if name in last_use and name in self.depends}
            since.append(node)
            if len(live) == 1 and next(iter(live)) in node.output:
                gates.append((next(iter(live)), since))
                since = []
        return list(self._joined(gates))

    def _joined(self, gates: Sequence[tuple[str, list[Any]]]) -> Iterator[Unit]:
        unit: list[str] = []
        joins = dense = False
        for gate, nodes in gates:
            mixing = [node for node in nodes if _mixes(node, gate)]
            if mixing and unit:
                yield Unit(tuple(unit), joins, dense)
                unit, joins = [], False
            if mixing:
                dense = mixing[-1].op_type in _DENSE
            elif nodes[-1].op_type not in (*_RESHAPING, "Add", "Softmax", "LogSoftmax", "Sigmoid", "Identity", "Cast"):
                dense = False  # an activation: what a classifier does not end with
            joins |= len(nodes) > 1 and any(self._is_join(node) for node in nodes if gate in node.output)
            unit.append(gate)
        if unit:
            yield Unit(tuple(unit), joins, dense)

    def _is_join(self, node: onnx.NodeProto) -> bool:
        return node.op_type in _JOINING and sum(name in self.depends for name in set(node.input)) > 1

    def axes(self, shapes: Shapes) -> dict[str, str]:
        """The meaning of each tensor's axes, as its node and those before it tell."""
        axes: dict[str, str] = {}
        for node in self.nodes:
            for name in node.output:
                shape = shapes.get(name, ())
                previous = next((n for n in node.input if shapes.get(n) == shape and n in axes), None)
                axes[name] = _axes(node, shape, axes.get(previous) if previous else None)
        return axes

    def macs(self, shapes: Shapes) -> list[int]:
        """Multiply-adds of every node for the whole batch that gave these shapes."""
        return [_macs(node, shapes) for node in self.nodes]


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, those that its branches and loop bodies take from outside among them."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            local = {v.name for v in (*graph.input, *graph.initializer)} | {n for o in graph.node for n in o.output}
            taken = [name for inner in graph.node for name in inputs_of(inner)] + [v.name for v in graph.output]
            names += [name for name in taken if name not in local]
    return names


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """A node's attribute: an integer, a text, or a list of integers."""
    for candidate in node.attribute:
        if candidate.name == name:
            if isinstance(default, list):
                return list(candidate.ints)
            return candidate.s.decode() if isinstance(default, str) else candidate.i
    return default


def representative(tensors: Sequence[str], shapes: Shapes) -> str:
    """Of what a unit hands on in several shapes: the last, but a map rather than the same numbers in one row."""
    end = tensors[-1]
    if len(shapes[end]) != 2:
        return end
    maps = [name for name in tensors if len(shapes[name]) > 2 and shapes[name][1] != shapes[end][1] != 1]
    same_size = [name for name in maps if math.prod(shapes[name]) == math.prod(shapes[end])]
    return same_size[-1] if same_size else end


def _mixes(node: onnx.NodeProto, gate: str) -> bool:
    if node.op_type in _REDUCING:
        return gate in node.output  # inside a block it belongs to a normalisation
    return node.op_type not in _FINISHING and node.op_type not in _RESHAPING and node.op_type not in _DESCRIBING


def _axes(node: onnx.NodeProto, shape: tuple[int, ...], before: str | None) -> str:
    convolving = any(word in node.op_type for word in _CONVOLVING)
    if len(shape) == 4:
        if node.op_type == "Transpose":
            order = attribute(node, "perm", [])
            return {(0, 2, 3, 1): "hwc", (0, 3, 1, 2): "chw"}.get(tuple(order), "any")
        return "chw" if convolving else before or ("hwc" if shape[1] == shape[2] != shape[3] else "chw")
    if len(shape) == 3:
        return "ct" if convolving else before or "tc"
    return "c" if len(shape) == 2 else "any"


def _macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    operands = [shapes.get(name, ()) for name in node.input]
    out = math.prod(shapes.get(node.output[0], (0,))) if node.output else 0
    kind = node.op_type.removeprefix("Fused").removeprefix("QLinear").removesuffix("Integer")
    if kind == "Conv" and node.op_type.startswith("QLinear"):
        operands = [operands[0], operands[3]] if len(operands) > 3 else []
    if kind == "MatMul" and node.op_type.startswith("QLinear"):
        operands = [operands[0], operands[3]] if len(operands) > 3 else []
    if len(operands) < 2 or not operands[0] or not operands[1]:
        return 0
    a, b = operands[0], operands[1]
    if kind == "Conv":
        return out * math.prod(b[1:])
    if kind == "ConvTranspose":
        return math.prod(a) * math.prod(b[1:])
    if kind == "MatMul":
        return out * a[-1]
    if kind == "Gemm":
        return out * a[0 if attribute(node, "transA", 0) else 1]
    if kind == "Einsum":
        return _einsum(attribute(node, "equation", ""), a, b)
    if kind in ("LSTM", "GRU", "RNN") and len(operands) > 2:  # sequence × batch × directions × gates × (input + hidden)
        return math.prod(a[:2]) * (math.prod(b) + math.prod(operands[2]))
    return 0


def _einsum(equation: str, a: tuple[int, ...], b: tuple[int, ...]) -> int:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {letter: side for term, shape in zip(terms, (a, b)) if "." not in term for letter, side in zip(term, shape)}
    return math.prod(sizes.values()) if len(terms) == 2 and sizes else 0
