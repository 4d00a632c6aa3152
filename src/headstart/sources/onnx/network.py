"""What stands where other sources have a torch module: an ONNX model, run by onnxruntime up to the tensors asked for.

onnxruntime changes the last bits of a tensor when its neighbours must be kept, too, because it cannot fuse them. So
the candidates are kept in every session, and other tensors are taken in a session of their own: whatever is asked for
beside it, a candidate's rows are the same to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from headstart._base import extras
from headstart._base.registry import unknown_name
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.sources.onnx.graph import Graph, representative
from headstart.sources.types import Layer

_INPUTS = 5  # an unlikely size for any axis but the one that counts inputs
_SESSIONS = 8
_MOST_CANDIDATES = 18
_FLOATS = (np.float16, np.float32, np.float64)


class OnnxNetwork:
    """An ONNX model of one data input; it never changes.

    Attributes
    ----------
    batch : int or None
        The number of inputs per run, where the file fixes it; batches of other sizes are filled up or cut into such.
    """

    def __init__(self, model: Any, label: str, *, output: str | None = None) -> None:
        self.model = model
        self.label = label
        weights = {tensor.name for tensor in model.graph.initializer}
        self.inputs = {value.name: _described(value) for value in model.graph.input if value.name not in weights}
        if not self.inputs:
            raise SourceError(f"{label} has no input.")
        root = next((name for name in ("input_ids", "pixel_values") if name in self.inputs), next(iter(self.inputs)))
        self.root = root
        self.graph = Graph(model, root)
        self.output = output or model.graph.output[0].name
        first = self.inputs[root][1]
        self.batch = int(first[0]) if first and isinstance(first[0], int) else None
        self._sessions: OrderedDict[Any, Any] = OrderedDict()
        self._lock = Lock()

    def eval(self) -> OnnxNetwork:
        """It knows no other mode."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the weights are part of the file, which a saved source keeps whole."""
        return {}

    def fingerprint_state(self) -> dict[str, np.ndarray]:
        """Weights by name, and the graph without what only describes it."""
        onnx = extras.require_package("onnx", "for onnx: sources")
        state = {f"weights {t.name}": onnx.numpy_helper.to_array(t) for t in self.model.graph.initializer}
        plain = type(self.model)()
        plain.opset_import.extend(self.model.opset_import)
        plain.graph.node.extend(self.model.graph.node)
        plain.graph.sparse_initializer.extend(self.model.graph.sparse_initializer)
        plain.graph.output.extend(self.model.graph.output)
        for node in plain.graph.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        for value in plain.graph.output:
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
        return {**state, "graph": np.frombuffer(plain.SerializeToString(deterministic=True), np.uint8)}

    # --- the layer table -----------------------------------------------------------------------------------------

    def measure_layers(self, source: Any) -> tuple[Layer, ...]:
        """Run example inputs once with every tensor kept, and list those that have a row per input, in graph order.

        Raises
        ------
        SourceError
            When onnxruntime cannot run the model, or nothing in it has a row per input.
        """
        batch = source.input.example(self.batch or _INPUTS)
        n = len(next(iter(batch.inputs.values())))
        shapes, floats = self._shapes(source, batch)
        rows = [
            name
            for node in self.graph.nodes
            for name in node.output
            if name in floats and name in self.graph.depends and len(shapes[name]) > 1 and shapes[name][0] == n
        ]
        if not rows:
            raise SourceError(f"{self.label} has no tensor with one row per input.")
        chosen = self._candidates(rows, shapes, source.classifier)
        spent = np.cumsum(self.graph.macs(shapes)).tolist()
        axes, total = self.graph.axes(shapes), max(spent[-1], 1)
        found = []
        for name in rows:
            index = self.graph.producer[name]
            shape = tuple(int(side) for side in shapes[name][1:])
            if batch.mask is not None and len(shape) == 2 and shape[0] == batch.mask.shape[1]:
                shape = (-1, shape[1])  # as long as the longest of the batch
            kind = self.graph.nodes[index].op_type.lower()
            place = {"depth": round(spent[index] / total, 4), "macs": spent[index] // n}
            found.append(Layer(name, shape, kind, axes=axes[name], candidate=name in chosen, **place))
        return tuple(found)

    def classifier(self) -> str | None:
        """The tensor that a classifier gives: a dense layer at the end that no activation but softmax follows."""
        units = self.graph.units(self.output)
        return units[-1].tensors[0] if len(units) > 1 and units[-1].dense else None

    def _shapes(self, source: Any, batch: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        import torch

        names = [name for node in self.graph.nodes for name in node.output if name]
        session = _made(self.graph.cut(names), "cpu", self.label, plain=True)
        given = self._feed(source.input.tensors(batch, torch.device("cpu"), torch.float32))
        values = [(name, value) for name, value in zip(names, _ran(session, names, given, self.label)) if _is(value)]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in self.model.graph.initializer}
        shapes |= {name: value.shape for name, value in given.items()} | {name: v.shape for name, v in values}
        return shapes, {name for name, value in values if value.dtype in _FLOATS}

    def _candidates(self, rows: Sequence[str], shapes: Any, classifier: str | None) -> set[str]:
        """What the units on the way to the output hand on; joins of branches first where there are too many."""
        known, pool, joins = set(rows), [], set()
        for unit in self.graph.units(self.output):
            usable = [name for name in unit.tensors if name in known]
            if classifier is not None and classifier in unit.tensors:
                break
            if usable:
                pool.append(representative(usable, shapes))
                joins |= {pool[-1]} if unit.joins else set()
        if not pool:
            return {rows[-1]}
        return set(_thin(pool, joins))

    # --- running -------------------------------------------------------------------------------------------------

    def run_tapped(
        self, source: Any, tensors: Mapping[str, Any], reduce: Mapping[str, Callable[[Any], Any]], device: str = "cpu"
    ) -> dict[str, Any]:
        """``{layer: reduce[layer](torch tensor)}``, in graph order; nothing beyond the deepest is computed."""
        import torch

        kept: dict[str, Any] = {}
        given = self._feed(tensors)
        for wanted, session in self.ready(source, list(reduce), device):
            for name, value in zip(wanted, self._in_parts(session, wanted, given)):
                kept[name] = reduce[name](torch.from_numpy(value))
        return {layer.name: kept[layer.name] for layer in source.layers if layer.name in kept}

    def ready(self, source: Any, names: Sequence[str], device: str = "cpu") -> list[tuple[list[str], Any]]:
        """Sessions for these layers, made or remembered: one for the candidates, one for what else is asked for."""
        listed = {layer.name: layer.candidate for layer in source.layers}
        for name in names:
            if name not in listed:
                raise UnknownName(unknown_name(f"layers of {source.address}", name, list(listed)))
        groups = [[n for n in listed if n in names and listed[n] is kind] for kind in (True, False)]
        return [(wanted, self._session(self._kept(wanted, listed), device)) for wanted in groups if wanted]

    def _kept(self, wanted: Sequence[str], listed: Mapping[str, bool]) -> tuple[str, ...]:
        """The layers wanted, and every candidate on the way to them."""
        below = {name for i in self.graph.needed(wanted) for name in self.graph.nodes[i].output}
        return tuple(dict.fromkeys([*(name for name, one in listed.items() if one and name in below), *wanted]))

    def _in_parts(self, session: Any, names: Sequence[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """One run, or as many as a fixed number of inputs per run needs; what fills up the last is cut away."""
        if self.batch is None:
            return _ran(session, names, given, self.label)
        n = len(given[self.root])
        parts = []
        for start in range(0, n, self.batch):
            places = np.minimum(np.arange(start, start + self.batch), n - 1)
            parts.append(_ran(session, names, {name: value[places] for name, value in given.items()}, self.label))
        return [np.concatenate(values)[:n] for values in zip(*parts)]

    def _feed(self, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays of the types that the model takes; the one input of an ordinary network is ``x``."""
        given = {(self.root if name == "x" else name): value.numpy() for name, value in tensors.items()}
        return {name: _cast(value, self.inputs[name][0]) for name, value in given.items() if name in self.inputs}

    def _session(self, names: tuple[str, ...], device: str) -> Any:
        """A session that ends at these tensors; the last few are kept."""
        key = (names, device)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = _made(self.graph.cut(names), device, self.label, plain=False)
            self._sessions.move_to_end(key)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
            return self._sessions[key]

    def __deepcopy__(self, memo: Any) -> OnnxNetwork:
        return self  # it never changes


def _made(model: Any, device: str, label: str, *, plain: bool) -> Any:
    import torch

    ort = extras.require_package("onnxruntime", "to run onnx: sources")
    where = provider(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding needs the cores, too
    if plain:  # every tensor is kept: there is nothing to fuse
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[where])
    except Exception as error:  # onnxruntime has a kind per cause; all of them come from the file
        raise SourceError(
            f"onnxruntime cannot run {label}: {_short(error)} "
            "headstart loads no custom operators: export the model with standard ones."
        ) from error


def provider(device: str) -> str:
    """The part of onnxruntime that runs on a device."""
    ort = extras.require_package("onnxruntime", "to run onnx: sources")
    kind = device.partition(":")[0]
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(kind, "")
    if name not in ort.get_available_providers():
        raise OptionError(
            f"device={device!r} cannot be used: this onnxruntime runs on {ort.get_available_providers()}."
        )
    return name


def _ran(session: Any, names: Sequence[str], given: dict[str, np.ndarray], label: str) -> list[Any]:
    try:
        values: list[Any] = session.run(list(names), given)
    except Exception as error:
        shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in given.items())
        raise SourceError(f"{label} cannot run a batch of {shapes}: {_short(error)}") from error
    return values


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "…"


def _described(value: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """numpy dtype and shape of an input; None for what the file leaves open."""
    onnx = extras.require_package("onnx", "for onnx: sources")
    kind = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except (KeyError, ValueError, TypeError):
        dtype = np.dtype(object)
    if not kind.HasField("shape"):
        return dtype, None
    return dtype, tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)


def _cast(value: np.ndarray, dtype: Any) -> np.ndarray:
    if value.dtype == dtype:
        return np.ascontiguousarray(value)
    whole = dtype.kind in "iu" and value.dtype.kind == "f"
    return np.ascontiguousarray((np.rint(value) if whole else value).astype(dtype))


def _is(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _thin(pool: list[str], joins: set[str]) -> list[str]:
    """At most 18, spread evenly; joins of branches, and the last, stay as long as there is room."""
    if len(pool) <= _MOST_CANDIDATES:
        return pool
    first = [name for name in pool if name in joins or name == pool[-1]]
    if len(first) >= _MOST_CANDIDATES:
        return [first[round(i * (len(first) - 1) / (_MOST_CANDIDATES - 1))] for i in range(_MOST_CANDIDATES)]
    rest, room = [name for name in pool if name not in first], _MOST_CANDIDATES - len(first)
    picked = {rest[round((i + 0.5) * len(rest) / room - 0.5)] for i in range(room)}
    return [name for name in pool if name in first or name in picked]
