"""Files of Keras 2 (TensorFlow up to 2.15): their configuration in the words of Keras 3. Plain data, no Keras.

Keras 3 reads the weights of such files, but not every configuration: arguments that it no longer has are refused,
models have other modules, names may hold no ``/``, and arithmetic on tensors was written as a layer. What is left out
here are arguments with the one value that changes nothing; any other value stays, and Keras refuses it.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

_SEPARABLE = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")  # of the base class; never used
_ONE_GROUP = ("DepthwiseConv", "SeparableConv", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_RANDOM = ("stateful", "legacy_stateful", "stateless", None)
# what tf functions with a number as second operand do, as (scale, offset) of a Rescaling layer
_ARITHMETIC = {
    "math.truediv": lambda y: (1 / y, 0.0),
    "math.divide": lambda y: (1 / y, 0.0),
    "math.multiply": lambda y: (y, 0.0),
    "math.subtract": lambda y: (1.0, -y),
    "math.add": lambda y: (1.0, y),
    "__operators__.add": lambda y: (1.0, y),
}


def convert_keras2_config(content: bytes) -> bytes | None:
    """A .keras or .h5 file that Keras 2 wrote, with a configuration for Keras 3; None for other files."""
    return _archive(content) if content[:4] == b"PK\x03\x04" else _hdf5(content)


def _archive(content: bytes) -> bytes | None:
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        if not str(json.loads(old.read("metadata.json"))["keras_version"]).startswith("2."):
            return None
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as new:
            for name in old.namelist():
                part = old.read(name)
                new.writestr(name, json.dumps(config(json.loads(part))) if name == "config.json" else part)
    return out.getvalue()


def _hdf5(content: bytes) -> bytes | None:
    import h5py  # keras needs it

    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        version = opened.attrs.get("keras_version", "")
        text = opened.attrs.get("model_config")
        if not _text(version).startswith("2.") or text is None:
            return None
        opened.attrs["model_config"] = json.dumps(config(json.loads(_text(text))))
    return file.getvalue()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def config(old: Any) -> Any:
    """A layer or model as Keras 2 describes it → as Keras 3 does; everything inside it, too."""
    if isinstance(old, list):
        return [config(one) for one in old]
    if not isinstance(old, dict):
        return old
    new = {key: config(value) for key, value in old.items()}
    inner = new.get("config")
    if "class_name" in new and isinstance(inner, dict):
        _layer(new, inner)
        if isinstance(inner.get("layers"), list):
            _model(new, inner)
    return new


def _layer(new: dict[str, Any], inner: dict[str, Any]) -> None:
    kind = new["class_name"]
    for where in (new, inner):
        if isinstance(where.get("name"), str):
            where["name"] = _name(where["name"])
    if kind.startswith(_ONE_GROUP) and inner.get("groups") == 1:
        del inner["groups"]
    if kind.startswith("SeparableConv"):
        _without(inner, *_SEPARABLE)
    if inner.get("time_major") is False:
        del inner["time_major"]
    if kind.startswith("Random") and inner.get("rng_type") in _RANDOM:
        _without(inner, "rng_type")
    if kind.startswith("SpatialDropout"):
        _without(inner, "trainable", "noise_shape")
    if kind == "BatchNormalization" and isinstance(inner.get("axis"), list) and len(inner["axis"]) == 1:
        inner["axis"] = inner["axis"][0]
    if kind == "TFOpLambda":
        _arithmetic(new, inner)


def _model(new: dict[str, Any], inner: dict[str, Any]) -> None:
    if new["class_name"] == "Functional" and "module" in new:
        new["module"], new["registered_name"] = "keras.src.models.functional", "Functional"
    chains = frozenset(layer.get("name", "") for layer in inner["layers"] if _starts_with_input(layer))
    inside = chains | {layer.get("name", "") for layer in inner["layers"] if layer.get("class_name") == "Functional"}
    for layer in inner["layers"]:
        if isinstance(layer.get("inbound_nodes"), list):
            layer["inbound_nodes"] = _references(layer["inbound_nodes"], inside)
    for end in ("input_layers", "output_layers"):
        if end in inner:  # here Keras 3 counts for functional models itself
            inner[end] = _references(inner[end], chains)
    if len(inner.get("output_layers", ())) == 1:
        (inner["output_layers"],) = inner["output_layers"]  # a tensor, not a list of one
    if new["class_name"] == "Functional" or _starts_with_input(new):
        for layer in inner["layers"]:
            if layer.get("class_name") != "InputLayer":  # said twice
                _without(layer.get("config", {}), "batch_input_shape")


def _arithmetic(new: dict[str, Any], inner: dict[str, Any]) -> None:
    """``x / 127.5`` and the like, as ``preprocess_input`` writes it, where the other operand is one number."""
    change = _ARITHMETIC.get(inner.get("function", ""))
    nodes = new.get("inbound_nodes")
    # [layer, node, tensor, {"y": 127.5, "name": None}]
    if change is None or not nodes or not all(_with_number(node) for node in nodes):
        return
    numbers = {float(node[3]["y"]) for node in nodes}
    if len(numbers) != 1 or (numbers == {0.0} and "div" in inner["function"]):
        return
    scale, offset = change(numbers.pop())
    new["class_name"] = "Rescaling"
    new["config"] = {"name": inner["name"], "scale": scale, "offset": offset}
    if "module" in new:
        new["module"], new["registered_name"] = "keras.layers", None
    new["inbound_nodes"] = [[[*node[:3], {}]] for node in nodes]


def _with_number(node: Any) -> bool:
    given = node[3] if isinstance(node, list) and len(node) == 4 and isinstance(node[3], dict) else {}
    return isinstance(given.get("y"), (int, float)) and set(given) <= {"y", "name"}


def _starts_with_input(layer: dict[str, Any]) -> bool:
    """Whether a layer is a Sequential model that was built when it was made."""
    inside = layer.get("config", {}).get("layers") or [{}]
    return layer.get("class_name") == "Sequential" and inside[0].get("class_name") == "InputLayer"


def _references(value: Any, chains: frozenset[str]) -> Any:
    """References to layers, ``[name, node, tensor, …]`` at any depth, in the names and numbers of Keras 3.

    The first use of a model in another is its node 0 in Keras 3; in Keras 2 building it was.
    """
    if not isinstance(value, list):
        return value
    if not value or not isinstance(value[0], str):
        return [_references(one, chains) for one in value]
    name, node, *rest = value
    return [_name(name), max(0, node - 1) if _name(name) in chains else node, *rest]


def _name(name: str) -> str:
    return name.replace("/", "_")


def _without(inner: dict[str, Any], *names: str) -> None:
    for name in names:
        inner.pop(name, None)
