"""The backend of ONNX sources: a graph that onnxruntime runs up to the tensors requested.

onnxruntime changes the last bits of a tensor when its neighbours must be kept, too, because it cannot fuse them. So
the candidates are outputs of every session, and other tensors are taken in a session of their own: whatever is
requested beside it, a candidate's rows are the same to the bit.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._base import extras
from headstart._base.registry import unknown_name
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.sources.backends import Backend, Reducers, Tensors
from headstart.sources.onnx.graph import Graph, Shapes, representative
from headstart.sources.types import Batch, Layer

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from headstart.engines.base import RuntimeConfig
    from headstart.sources.base import Input

_INPUTS = 5  # an unlikely size for any axis but the one that counts inputs
_SESSIONS = 8
_MOST_CANDIDATES = 18
_FLOATS = (np.float16, np.float32, np.float64)


class OnnxBackend(Backend):
    """An ONNX model of one data input; it never changes.

    Attributes
    ----------
    batch : int or None
        The number of inputs per run, where the file fixes it; batches of other sizes are filled up or cut into such.
    device : str
        Where onnxruntime runs it.
    """

    def __init__(self, model: onnx.ModelProto, label: str, *, output: str | None = None) -> None:
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
        self.device = "cpu"
        self._measuring: tuple[Input, str | None] | None = None
        self._layers: tuple[Layer, ...] = ()
        self._sessions: OrderedDict[Any, Any] = OrderedDict()
        self._lock = Lock()

    def bind(self, input: Input, classifier: str | None) -> None:
        """Give it what the layers are measured with, for a run that comes before anybody asked for them."""
        self._measuring = input, classifier

    def state_dict(self) -> Tensors:
        """Return nothing: the weights are part of the file, which a saved source keeps whole."""
        return {}

    def architecture(self, *, by_name: bool) -> dict[str, Any]:
        """Return nothing but that there are no modules: the graph is part of the state."""
        return {"modules": []}

    def stamp(self) -> tuple[int, ...]:
        """Return always the same: the model never changes."""
        return ()

    def clone(self) -> OnnxBackend:
        """Return the backend itself: it never changes."""
        return self

    def to(self, runtime: RuntimeConfig) -> OnnxBackend:
        """Return the same graph and sessions, run on the runtime's device."""
        moved = copy.copy(self)
        moved.device = runtime.device
        return moved

    def state(self) -> dict[str, np.ndarray]:
        """Return the weights by name, and the graph without what only describes it."""
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

    def layers(self, input: Input, classifier: str | None = None) -> tuple[Layer, ...]:
        """Run example inputs once with every tensor as an output; list those with a row per input, in graph order.

        Raises
        ------
        SourceError
            When onnxruntime cannot run the model, or nothing in it has a row per input.
        """
        batch = input.example(self.batch or _INPUTS)
        n = len(next(iter(batch.inputs.values())))
        shapes, floats = self._shapes(input, batch)
        rows = [
            name
            for node in self.graph.nodes
            for name in node.output
            if name in floats and name in self.graph.depends and len(shapes[name]) > 1 and shapes[name][0] == n
        ]
        if not rows:
            raise SourceError(f"{self.label} has no tensor with one row per input.")
        chosen = self._candidates(rows, shapes, classifier)
        macs = np.cumsum(self.graph.macs(shapes)).tolist()
        axes, total = self.graph.axes(shapes), max(macs[-1], 1)
        layers = []
        for name in rows:
            index = self.graph.producer[name]
            shape = tuple(int(side) for side in shapes[name][1:])
            if batch.mask is not None and len(shape) == 2 and shape[0] == batch.mask.shape[1]:
                shape = (-1, shape[1])  # as long as the longest of the batch
            kind = self.graph.nodes[index].op_type.lower()
            depth = round(macs[index] / total, 4)
            layers.append(Layer(name, shape, kind, depth, macs[index] // n, axes[name], candidate=name in chosen))
        self._layers = tuple(layers)
        return self._layers

    def classifier(self) -> str | None:
        """Return the classifier's tensor: that of a dense layer at the end, with no activation but softmax after it."""
        units = self.graph.units(self.output)
        return units[-1].tensors[0] if len(units) > 1 and units[-1].dense else None

    def _shapes(self, input: Input, batch: Batch) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        import torch

        names = [name for node in self.graph.nodes for name in node.output if name]
        session = _inference_session(self.graph.cut(names), "cpu", self.label, fuse=False)
        feed = self._feed(input.tensors(batch, torch.device("cpu"), torch.float32))
        outputs = zip(names, _run_session(session, names, feed, self.label))
        arrays = {name: value for name, value in outputs if isinstance(value, np.ndarray)}  # others are sequences
        shapes = {tensor.name: tuple(tensor.dims) for tensor in self.model.graph.initializer}
        shapes |= {name: value.shape for name, value in {**feed, **arrays}.items()}
        return shapes, {name for name, value in arrays.items() if value.dtype in _FLOATS}

    def _candidates(self, rows: Sequence[str], shapes: Shapes, classifier: str | None) -> set[str]:
        """Outputs of the units on the way to the output; joins of branches first where there are too many."""
        pool: list[str] = []
        joins: set[str] = set()
        for unit in self.graph.units(self.output):
            usable = [name for name in unit.tensors if name in rows]
            if classifier is not None and classifier in unit.tensors:
                break
            if usable:
                pool.append(representative(usable, shapes))
                joins |= {pool[-1]} if unit.joins else set()
        if not pool:
            return {rows[-1]}
        return set(_evenly_spread(pool, joins))

    # --- running -------------------------------------------------------------------------------------------------

    def run(self, tensors: Tensors, reduce: Reducers) -> dict[str, Any]:
        """Return ``{layer: reduce[layer](torch tensor)}`` in graph order; nothing beyond the deepest is computed."""
        import torch

        features: dict[str, Any] = {}
        feed = self._feed(tensors)
        for names, session in self.sessions(list(reduce)):
            for name, value in zip(names, self._run_in_parts(session, names, feed)):
                features[name] = reduce[name](torch.from_numpy(value))
        return {layer.name: features[layer.name] for layer in self._measured() if layer.name in features}

    def sessions(self, names: Sequence[str]) -> list[tuple[list[str], Any]]:
        """Return (layers, onnxruntime session) pairs: one for the candidates requested, one for all other layers."""
        is_candidate = {layer.name: layer.candidate for layer in self._measured()}
        for name in names:
            if name not in is_candidate:
                raise UnknownName(unknown_name(f"layers of {self.label}", name, list(is_candidate)))
        candidates = [name for name in is_candidate if name in names and is_candidate[name]]
        others = [name for name in is_candidate if name in names and not is_candidate[name]]
        return [(group, self._session(self._outputs(group, is_candidate))) for group in (candidates, others) if group]

    def _measured(self) -> tuple[Layer, ...]:
        if not self._layers and self._measuring is not None:
            self._layers = self.layers(*self._measuring)
        return self._layers

    def _outputs(self, names: Sequence[str], is_candidate: Mapping[str, bool]) -> tuple[str, ...]:
        """These layers, and every candidate on the way to them."""
        below = {name for i in self.graph.needed(names) for name in self.graph.nodes[i].output}
        candidates = [name for name, candidate in is_candidate.items() if candidate and name in below]
        return tuple(dict.fromkeys([*candidates, *names]))

    def _run_in_parts(
        self, session: onnxruntime.InferenceSession, names: Sequence[str], feed: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        """One run, or as many as a fixed number of inputs per run needs; what fills up the last is cut away."""
        if self.batch is None:
            return _run_session(session, names, feed, self.label)
        n = len(feed[self.root])
        parts = []
        for start in range(0, n, self.batch):
            rows = np.minimum(np.arange(start, start + self.batch), n - 1)
            part = {name: value[rows] for name, value in feed.items()}
            parts.append(_run_session(session, names, part, self.label))
        return [np.concatenate(values)[:n] for values in zip(*parts)]

    def _feed(self, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Arrays of the types that the model takes; the one input of an ordinary network is ``x``."""
        feed = {(self.root if name == "x" else name): value.numpy() for name, value in tensors.items()}
        return {name: _cast(value, self.inputs[name][0]) for name, value in feed.items() if name in self.inputs}

    def _session(self, names: tuple[str, ...]) -> onnxruntime.InferenceSession:
        """A session that ends at these tensors; the last few are cached."""
        key = (names, self.device)
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = _inference_session(self.graph.cut(names), self.device, self.label)
            self._sessions.move_to_end(key)
            while len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
            return self._sessions[key]


def _inference_session(
    model: onnx.ModelProto, device: str, label: str, *, fuse: bool = True
) -> onnxruntime.InferenceSession:
    import torch

    ort = extras.require_package("onnxruntime", "to run onnx: sources")
    execution_provider = provider(device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding needs the cores, too
    if not fuse:  # every tensor is an output
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=[execution_provider])
    except Exception as error:  # onnxruntime has a kind per cause; all of them come from the file
        raise SourceError(
            f"onnxruntime cannot run {label}: {_short(error)} "
            "headstart loads no custom operators: export the model with standard ones."
        ) from error


def provider(device: str) -> str:
    """The part of onnxruntime that runs on a device."""
    ort = extras.require_package("onnxruntime", "to run onnx: sources")
    name = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.partition(":")[0], "")
    if name not in ort.get_available_providers():
        raise OptionError(
            f"device={device!r} cannot be used: this onnxruntime runs on {ort.get_available_providers()}."
        )
    return name


def _run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str], feed: dict[str, np.ndarray], label: str
) -> list[Any]:
    try:
        values: list[Any] = session.run(list(names), feed)
    except Exception as error:
        shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feed.items())
        raise SourceError(f"{label} cannot run a batch of {shapes}: {_short(error)}") from error
    return values


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "…"


def _described(value: onnx.ValueInfoProto) -> tuple[Any, tuple[Any, ...] | None]:
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


def _cast(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if value.dtype == dtype:
        return np.ascontiguousarray(value)
    if dtype.kind in "iu" and value.dtype.kind == "f":
        value = np.rint(value)  # pixels that were scaled are whole numbers but for rounding
    return np.ascontiguousarray(value.astype(dtype))


def _evenly_spread(pool: list[str], joins: set[str]) -> list[str]:
    """At most 18, spread evenly; joins of branches, and the last, stay as long as there is room."""
    if len(pool) <= _MOST_CANDIDATES:
        return pool
    first = [name for name in pool if name in joins or name == pool[-1]]
    if len(first) >= _MOST_CANDIDATES:
        return [first[round(i * (len(first) - 1) / (_MOST_CANDIDATES - 1))] for i in range(_MOST_CANDIDATES)]
    rest, n_free = [name for name in pool if name not in first], _MOST_CANDIDATES - len(first)
    picked = {rest[round((i + 0.5) * len(rest) / n_free - 0.5)] for i in range(n_free)}
    return [name for name in pool if name in first or name in picked]
