"""Keras models, from ``.keras`` and ``.h5`` files (TensorFlow-saved ones too) or Python objects, by Keras 3 on torch.

Keras on torch makes a model a torch module, but its inner layers are found by Keras' own walk, not by
``named_modules``: layer names here are Keras' names. TensorFlow is not needed. Files of Keras 2 are read with their
configuration converted. Files with Python code in them (Lambda layers) are refused.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headstart._base import extras
from headstart._base.registry import check_names
from headstart.errors import OptionError, SourceError, UnsafeFile, WeightsError
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Input, Source
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput

if TYPE_CHECKING:
    import keras

# Files of Keras 2 (TensorFlow up to 2.15): their configuration as Keras 3 has it. Plain data, no Keras.
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
                new.writestr(name, json.dumps(to_keras3(json.loads(part))) if name == "config.json" else part)
    return out.getvalue()


def _hdf5(content: bytes) -> bytes | None:
    import h5py  # keras needs it

    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        version = opened.attrs.get("keras_version", "")
        text = opened.attrs.get("model_config")
        if not _decoded(version).startswith("2.") or text is None:
            return None
        opened.attrs["model_config"] = json.dumps(to_keras3(json.loads(_decoded(text))))
    return file.getvalue()


def _decoded(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def to_keras3(old: Any) -> Any:
    """A layer or model as Keras 2 describes it → as Keras 3 does; everything inside it, too."""
    if isinstance(old, list):
        return [to_keras3(item) for item in old]
    if not isinstance(old, dict):
        return old
    new = {key: to_keras3(value) for key, value in old.items()}
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
        _remove_keys(inner, *_SEPARABLE)
    if inner.get("time_major") is False:
        del inner["time_major"]
    if kind.startswith("Random") and inner.get("rng_type") in _RANDOM:
        _remove_keys(inner, "rng_type")
    if kind.startswith("SpatialDropout"):
        _remove_keys(inner, "trainable", "noise_shape")
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
                _remove_keys(layer.get("config", {}), "batch_input_shape")


def _arithmetic(new: dict[str, Any], inner: dict[str, Any]) -> None:
    """``x / 127.5`` and the like, as ``preprocess_input`` writes it, where the other operand is one number."""
    change = _ARITHMETIC.get(inner.get("function", ""))
    nodes = new.get("inbound_nodes")
    # [layer, node, tensor, {"y": 127.5, "name": None}]
    if change is None or not nodes or not all(_has_number_operand(node) for node in nodes):
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


def _has_number_operand(node: object) -> bool:
    arguments = node[3] if isinstance(node, list) and len(node) == 4 and isinstance(node[3], dict) else {}
    return isinstance(arguments.get("y"), (int, float)) and set(arguments) <= {"y", "name"}


def _starts_with_input(layer: dict[str, Any]) -> bool:
    """True for a Sequential model that was built when it was made."""
    inside = layer.get("config", {}).get("layers") or [{}]
    return layer.get("class_name") == "Sequential" and inside[0].get("class_name") == "InputLayer"


def _references(value: Any, chains: frozenset[str]) -> Any:
    """References to layers, ``[name, node, tensor, …]`` at any depth, in the names and numbers of Keras 3.

    The first use of a model in another is its node 0 in Keras 3; in Keras 2 building it was.
    """
    if not isinstance(value, list):
        return value
    if not value or not isinstance(value[0], str):
        return [_references(item, chains) for item in value]
    name, node, *rest = value
    return [_name(name), max(0, node - 1) if _name(name) in chains else node, *rest]


def _name(name: str) -> str:
    return name.replace("/", "_")


def _remove_keys(inner: dict[str, Any], *names: str) -> None:
    for name in names:
        inner.pop(name, None)


_FILE = "model.keras"
_DECIDED = ("size", "channels", "mean", "std", "channels_last", "modality")  # by the model itself, and by scale=
_SUFFIXES = (".keras", ".h5", ".hdf5")


def load(
    name: str | Path | keras.Model,
    *,
    scale: str = "auto",
    files: Mapping[str, bytes] | None = None,
    **image_options: Any,
) -> Source:
    """Load a Keras model.

    Parameters
    ----------
    name : str or keras.Model
        A ``.keras`` or ``.h5`` file.
    scale : "auto" | "0-1" | "0-255" | "-1-1"
        What pixel values the model was trained on. ``"auto"``: 0–255 where the model itself starts with a Rescaling or
        Normalization layer, else 0–1. Float arrays are given to the model as they are.
    **image_options
        Of the preprocessing: ``crop_pct``, ``crop_mode``, ``interpolation``.

    Raises
    ------
    UnsafeFile
        When the file holds Python code.
    WeightsError, SourceError, MissingPackage
    """
    names = [field.name for field in fields(ImageInput) if field.name not in _DECIDED]
    check_names("options of keras: sources", image_options, ["scale", *names])
    keras = _keras()
    address = f"keras:{name}" if isinstance(name, (str, Path)) else f"keras:{getattr(name, 'name', 'model')}"
    model = _from_bytes(keras, files[_FILE]) if files is not None else name
    if isinstance(model, (str, Path)):
        model = _read(keras, Path(model).expanduser())
    if not isinstance(model, keras.Model):
        raise OptionError(f"keras: takes a .keras or .h5 file or a keras.Model; got {type(model).__name__}.")
    if not model.built:
        raise SourceError("The Keras model has no weights yet: build it or call it once on an example.")
    content = files[_FILE] if files is not None else _to_bytes(model)
    if files is None and content:
        model = _from_bytes(keras, content)  # weights are named by how the model was made; a read one names them stably
    return Source(
        address=address,
        backend=TorchBackend(_prepared(model), address, invoke=_invoke, submodules=_submodules),
        input=_input(model, scale, image_options),
        classifier=_classifier(model),
        rebuild={"family": "keras", "name": "model", "options": {"scale": scale, **image_options}},
        files={_FILE: content},
        meta={"keras_name": model.name},
        precisions=("fp32",),  # Keras casts inputs to its own dtype policy
    )


def _keras() -> ModuleType:
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    keras = extras.require_package("keras", "for keras: sources")
    if keras.backend.backend() != "torch":
        raise SourceError(
            f"Keras runs on {keras.backend.backend()} in this process; headstart needs it on torch. "
            "Set the environment variable KERAS_BACKEND=torch before Keras is imported."
        )
    return keras


def _read(keras: ModuleType, path: Path) -> keras.Model:
    if path.suffix not in _SUFFIXES:
        raise OptionError(f"A Keras file ends with {', '.join(_SUFFIXES)}; got {path.name}.")
    if not path.is_file():
        raise WeightsError(f"There is no Keras file at {path}.")
    try:
        return _load_model(keras, path, path)
    except WeightsError:
        content = _converted(path)
        if content is None:
            raise
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        again.write_bytes(content)
        return _load_model(keras, again, f"{path}, saved by Keras 2 (TensorFlow up to 2.15),")


def _load_model(keras: ModuleType, path: Path, label: Path | str) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises a dozen kinds for damaged files; none may leave this border
        text = str(error)
        if any(word in text.lower() for word in ("lambda", "safe_mode", "unsafe")) and "TFOpLambda" not in text:
            raise UnsafeFile(f"{label} holds Python code (a Lambda layer) and was not opened: {text[:200]}") from error
        reason = " ".join(text.rpartition("Exception encountered: ")[2].split())[:300]
        raise WeightsError(f"{label} cannot be read by Keras: {type(error).__name__}: {reason}") from error


def _converted(path: Path) -> bytes | None:
    """A file of Keras 2 in the words of Keras 3, None where it is no such file."""
    try:
        return convert_keras2_config(path.read_bytes())
    except Exception:  # damaged: what Keras said of it is the better answer
        return None


def _from_bytes(keras: ModuleType, content: bytes) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        path.write_bytes(content)
        return _read(keras, path)


def _to_bytes(model: keras.Model) -> bytes:
    """The architecture as a file; a model that cannot be written can still be used, but not saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        try:
            model.save(path)
        except Exception:  # custom layers without get_config: saving the source says so later
            return b""
        return path.read_bytes()


def _prepared(model: keras.Model) -> keras.Model:
    """In evaluation mode, without the states of random generators (of Dropout and the like) among its tensors.

    Keras numbers those in the order in which a process makes them: with them, no two readings of a file are alike.
    """
    import torch

    model.trainable = False
    model = model.eval()
    for part in model.modules():
        if isinstance(part, torch.nn.ParameterDict):
            for name in [name for name in part if name.endswith("seed_generator_state")]:
                del part[name]
    object.__setattr__(model, "__deepcopy__", partial(_deepcopy, model))
    return model


def _deepcopy(model: keras.Model, memo: dict[int, Any]) -> keras.Model:
    """A copy as Keras makes it, by writing and reading, wrapped like the first."""
    rebuild, arguments = model.__reduce__()
    return memo.setdefault(id(model), _prepared(rebuild(*arguments)))


def _submodules(model: keras.Model) -> dict[str, Any]:
    named: dict[str, Any] = {"": model}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        named.setdefault(layer.name, layer)
    return named


def _invoke(model: keras.Model, tensors: dict[str, Any]) -> Any:
    return model(tensors["x"], training=bool(getattr(model, "training", False)))


def _classifier(model: keras.Model) -> str | None:
    """The last dense layer, where it is the output."""
    last = model.layers[-1] if model.layers else None
    return last.name if last is not None and type(last).__name__ in ("Dense", "Softmax", "Activation") else None


def _input(model: keras.Model, scale: str, options: dict[str, Any]) -> Input:
    shape = model.input_shape
    if isinstance(shape, (list, dict)):
        raise SourceError(f"The Keras model takes several inputs ({shape}); headstart takes models of one.")
    sides = tuple(shape[1:])
    if len(sides) == 3 and sides[-1] in (1, 3):
        height, width = (int(side or 224) for side in sides[:2])
        mean, std = _mean_and_std(model, scale)
        options_of_input = {"crop_pct": 1.0, "crop_mode": "squash", **options}
        channels = int(sides[-1])
        return ImageInput(
            (height, width), channels, (mean,) * channels, (std,) * channels, channels_last=True, **options_of_input
        )
    if any(side is None for side in sides):
        raise SourceError(f"The Keras model's input shape {shape} is open; build it with a fixed one.")
    return ArrayInput(tuple(int(side) for side in sides))


def _mean_and_std(model: keras.Model, scale: str) -> tuple[float, float]:
    if scale == "auto":
        inside = any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers[:3])
        scale = "0-255" if inside else "0-1"
    ranges = {"0-1": (0.0, 1.0), "0-255": (0.0, 1 / 255), "-1-1": (0.5, 0.5)}
    if scale not in ranges:
        raise OptionError(f"scale must be 'auto', {', '.join(map(repr, ranges))}; got {scale!r}.")
    return ranges[scale]
