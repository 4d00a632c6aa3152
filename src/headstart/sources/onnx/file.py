"""Reading an ONNX file into one self-contained model: weights beside the file are taken in, nothing else is touched.

A file may keep its weights in other files. Their paths come from the file, so they are not trusted: they must lie in
its own folder, and hold the bytes that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._base import extras
from headstart.errors import UnsafeFile, WeightsError

if TYPE_CHECKING:
    import onnx

METADATA = "headstart"  # the key under which a file says how its input is made, as JSON
_MOST_BYTES = (2 << 30) - 1  # of one protobuf message
_MOST_NODES, _DEEPEST = 1_000_000, 100  # of functions that are written out
_EXTERNAL = 1  # TensorProto.EXTERNAL


def read_model(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The model with all its weights inside, and the bytes of one file that holds the same.

    Raises
    ------
    WeightsError
        When the file is missing, empty, damaged, no ONNX model, or larger than 2 GiB with its weights.
    UnsafeFile
        When it wants weights from outside its folder.
    """
    if not path.is_file():
        raise WeightsError(f"There is no ONNX file at {path}.")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"{path} is empty.")
    if size > _MOST_BYTES:
        raise WeightsError(f"{path} has {size:,} bytes; ONNX files end at 2 GiB.")
    content = path.read_bytes()
    model = parse_model(content, str(path))
    outside = [tensor for tensor in _tensors(model) if tensor.data_location == _EXTERNAL]
    if not outside:
        return model, content
    total = size + sum(_n_bytes(tensor) for tensor in outside)
    if total > _MOST_BYTES:
        raise WeightsError(f"{path} and its weights have {total:,} bytes; headstart reads ONNX models up to 2 GiB.")
    for tensor in outside:
        _inline_external(tensor, path)
    return model, model.SerializeToString(deterministic=True)


def parse_model(content: bytes, origin: str) -> onnx.ModelProto:
    """A model from bytes; local functions are written out, so that every tensor has a name of its own."""
    onnx = extras.require_package("onnx", "for onnx: sources")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own kinds, which are not ours to name
        raise WeightsError(f"{origin} is damaged, or no ONNX file: {type(error).__name__}.") from error
    if not model.graph.node or not model.graph.output:
        raise WeightsError(f"{origin} is no ONNX model: it holds no network.")
    if model.functions:
        bodies = {(function.domain, function.name): function.node for function in model.functions}
        if _count_inlined(model.graph.node, bodies, {}, ()) > _MOST_NODES:
            raise WeightsError(f"The functions inside {origin} would be more than {_MOST_NODES:,} nodes.")
        inliner = extras.require_package("onnx.inliner", "for onnx: sources")
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # the C++ side raises bare exceptions
            raise WeightsError(f"The functions inside {origin} cannot be written out: {error}") from error
    return model


def _count_inlined(
    nodes: Iterable[onnx.NodeProto], bodies: dict[Any, Any], counts: dict[Any, int], above: tuple[Any, ...]
) -> int:
    """Count the nodes when every function is written out; one that calls itself has no end and is refused."""
    total = 0
    for node in _nested(nodes):
        key = (node.domain, node.op_type)
        if key in above or len(above) > _DEEPEST:
            raise WeightsError(f"The function {node.op_type!r} inside the ONNX file calls itself, or lies too deep.")
        if key in bodies and key not in counts:
            counts[key] = _count_inlined(bodies[key], bodies, counts, (*above, key))
        total += counts.get(key, 1)
    return total


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    """Nodes, and those of their branches and loop bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nested(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    """Every tensor of a model: weights, constants, and those inside branches and loops."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for attribute in (a for node in graph.node for a in node.attribute):
            yield attribute.t
            yield from attribute.tensors
            graphs.extend([attribute.g] if attribute.HasField("g") else [])
            graphs.extend(attribute.graphs)


def _inline_external(tensor: onnx.TensorProto, path: Path) -> None:
    """Put the bytes that a tensor keeps in another file into it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not location or folder not in file.parents:
        raise UnsafeFile(
            f"{path} wants the weights {tensor.name!r} from {location!r}, outside its own folder. They are not read."
        )
    offset, length = _whole_number(entries.get("offset"), 0), _n_bytes(tensor)
    if not file.is_file():
        raise WeightsError(f"{path} keeps weights in {location}, which is not in {folder}. Put it beside the model.")
    if length > file.stat().st_size - offset:
        raise WeightsError(f"{file} is too short for the weights {tensor.name!r}: it is damaged, or another model's.")
    with open(file, "rb") as opened:
        opened.seek(offset)
        tensor.raw_data = opened.read(length)
    del tensor.external_data[:]
    tensor.data_location = 0  # type: ignore[assignment]  # DEFAULT: inside the file


def _n_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor that is kept elsewhere: as it says, which must be what its shape says."""
    onnx = extras.require_package("onnx", "for onnx: sources")
    try:
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError as error:
        raise WeightsError(f"The weights {tensor.name!r} are of no type that is known: {tensor.data_type}.") from error
    count = 1
    for side in tensor.dims:
        count *= max(int(side), 0)
    stated = next((entry.value for entry in tensor.external_data if entry.key == "length"), None)
    packed = onnx.helper.tensor_dtype_to_string(tensor.data_type).rpartition(".")[2] in ("INT4", "UINT4", "FLOAT4E2M1")
    needed = (count + 1) // 2 if packed else count * item
    if stated is not None and _whole_number(stated, needed) != needed:
        raise WeightsError(f"The weights {tensor.name!r} need {needed:,} bytes, but the file says {stated}.")
    return needed


def _whole_number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit():
        raise WeightsError(f"A place in a weights file must be a whole number; the ONNX file says {text!r}.")
    return int(text)
