"""Keras models, from ``.keras`` and ``.h5`` files (TensorFlow-saved ones too) or Python objects, by Keras 3 on torch.

Keras on torch makes a model a torch module, but its inner layers are found by Keras' own walk, not by
``named_modules``: layer names here are Keras' names. TensorFlow is not needed. Files of Keras 2 are read with their
configuration translated (``_keras2.py``). Files with Python code in them (Lambda layers) are refused.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from headstart import _extras
from headstart._registry import need_known
from headstart.errors import OptionError, SourceError, UnsafeFile, WeightsError
from headstart.sources._array_input import ArrayInput
from headstart.sources._image_input import ImageInput
from headstart.sources._keras2 import convert_keras2_config
from headstart.sources.base import Input, Source

_FILE = "model.keras"
_DECIDED = ("size", "channels", "mean", "std", "channels_last", "modality")  # by the model itself, and by scale=
_SUFFIXES = (".keras", ".h5", ".hdf5")


def load(name: Any, *, scale: str = "auto", files: Mapping[str, bytes] | None = None, **image_options: Any) -> Source:
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
    known = [field.name for field in fields(ImageInput) if field.name not in _DECIDED]
    need_known("options of keras: sources", image_options, ["scale", *known])
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
        network=_wrapped(model),
        input=_input(model, scale, image_options),
        classifier=_classifier(model),
        rebuild={"family": "keras", "name": "model", "options": {"scale": scale, **image_options}},
        files={_FILE: content},
        meta={"keras_name": model.name},
        invoke=_invoke,
        submodules=_submodules,
        precisions=("fp32",),  # Keras casts inputs to its own dtype policy
    )


def _keras() -> Any:
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    keras = _extras.need("keras", "for keras: sources")
    if keras.backend.backend() != "torch":
        raise SourceError(
            f"Keras runs on {keras.backend.backend()} in this process; headstart needs it on torch. "
            "Set the environment variable KERAS_BACKEND=torch before Keras is imported."
        )
    return keras


def _read(keras: Any, path: Path) -> Any:
    if path.suffix not in _SUFFIXES:
        raise OptionError(f"A Keras file ends with {', '.join(_SUFFIXES)}; got {path.name}.")
    if not path.is_file():
        raise WeightsError(f"There is no Keras file at {path}.")
    try:
        return _opened(keras, path, path)
    except WeightsError:
        content = _of_keras_2(path)
        if content is None:
            raise
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        again.write_bytes(content)
        return _opened(keras, again, f"{path}, saved by Keras 2 (TensorFlow up to 2.15),")


def _opened(keras: Any, path: Path, called: Path | str) -> Any:
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises a dozen kinds for damaged files; none may leave this border
        text = str(error)
        if any(word in text.lower() for word in ("lambda", "safe_mode", "unsafe")) and "TFOpLambda" not in text:
            raise UnsafeFile(f"{called} holds Python code (a Lambda layer) and was not opened: {text[:200]}") from error
        reason = " ".join(text.rpartition("Exception encountered: ")[2].split())[:300]
        raise WeightsError(f"{called} cannot be read by Keras: {type(error).__name__}: {reason}") from error


def _of_keras_2(path: Path) -> bytes | None:
    """A file of Keras 2 in the words of Keras 3, None where it is no such file."""
    try:
        return convert_keras2_config(path.read_bytes())
    except Exception:  # damaged: what Keras said of it is the better answer
        return None


def _from_bytes(keras: Any, content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        path.write_bytes(content)
        return _read(keras, path)


def _to_bytes(model: Any) -> bytes:
    """The architecture as a file; a model that cannot be written can still be used, but not saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        try:
            model.save(path)
        except Exception:  # custom layers without get_config: saving the source says so later
            return b""
        return path.read_bytes()


def _wrapped(model: Any) -> Any:
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
    object.__setattr__(model, "__deepcopy__", partial(_copied, model))
    return model


def _copied(model: Any, memo: dict[int, Any]) -> Any:
    """A copy as Keras makes it, by writing and reading, wrapped like the first."""
    rebuild, arguments = model.__reduce__()
    return memo.setdefault(id(model), _wrapped(rebuild(*arguments)))


def _submodules(model: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"": model}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        named.setdefault(layer.name, layer)
    return named


def _invoke(model: Any, tensors: dict[str, Any]) -> Any:
    return model(tensors["x"], training=bool(getattr(model, "training", False)))


def _classifier(model: Any) -> str | None:
    """The last dense layer, where it is the output."""
    last = model.layers[-1] if model.layers else None
    return last.name if last is not None and type(last).__name__ in ("Dense", "Softmax", "Activation") else None


def _input(model: Any, scale: str, options: dict[str, Any]) -> Input:
    shape = model.input_shape
    if isinstance(shape, (list, dict)):
        raise SourceError(f"The Keras model takes several inputs ({shape}); headstart takes models of one.")
    sides = tuple(shape[1:])
    if len(sides) == 3 and sides[-1] in (1, 3):
        height, width = (int(side or 224) for side in sides[:2])
        mean, std = _range(model, scale)
        how = {"crop_pct": 1.0, "crop_mode": "squash", **options}
        channels = int(sides[-1])
        return ImageInput((height, width), channels, (mean,) * channels, (std,) * channels, channels_last=True, **how)
    if any(side is None for side in sides):
        raise SourceError(f"The Keras model's input shape {shape} is open; build it with a fixed one.")
    return ArrayInput(tuple(int(side) for side in sides))


def _range(model: Any, scale: str) -> tuple[float, float]:
    if scale == "auto":
        inside = any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers[:3])
        scale = "0-255" if inside else "0-1"
    ranges = {"0-1": (0.0, 1.0), "0-255": (0.0, 1 / 255), "-1-1": (0.5, 0.5)}
    if scale not in ranges:
        raise OptionError(f"scale must be 'auto', {', '.join(map(repr, ranges))}; got {scale!r}.")
    return ranges[scale]
