"""ONNX files, run by onnxruntime: any tensor of the graph is a layer. No custom operators, no code, no pickle.

An ONNX source is for features: it cannot be fine-tuned. Train the torch original for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from headstart._base import extras
from headstart._base.progress import note
from headstart._base.registry import check_names, unknown_name
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.sources.base import Input, Source
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput
from headstart.sources.inputs.text import TextInput
from headstart.sources.onnx.file import METADATA, parsed, read_model
from headstart.sources.onnx.network import OnnxBackend

_FILE, _TOKENIZER = "model.onnx", "tokenizer.json"
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")
_OPEN_SIDE = 224
_LONGEST = 256


def load(
    name: str | Path,
    *,
    modality: str | None = None,
    shape: Sequence[int] | None = None,
    size: Sequence[int] | int | None = None,
    output: str | None = None,
    classifier: str | None = "auto",
    tokenizer: str | Path | None = None,
    max_length: int = _LONGEST,
    files: Mapping[str, bytes] | None = None,
    **image_options: Any,
) -> Source:
    """Load an ONNX model.

    Parameters
    ----------
    name : path
        The file; weights that it keeps in other files must lie in its folder.
    modality : "image" | "vector" | "text", optional
        Pictures where the input has four axes, one of them 1 or 3 channels; texts with a ``tokenizer``; vectors (arrays
        of any shape, taken as they are) otherwise.
    shape : tuple of int, optional
        Shape of one input, where the file leaves it open.
    size : int or (height, width), optional
        Of pictures, where the file leaves it open; 224 when it is not given.
    output : str, optional
        The output that candidates lead to; the first one when not given.
    classifier : str or None
        Tensor from which on the classifier works, whose layers are no candidates. ``"auto"``: a dense layer that ends
        the network without an activation, or with softmax; None says that there is none.
    tokenizer : path, optional
        A ``tokenizer.json``: the file takes token numbers, and the source takes texts of up to ``max_length`` tokens.
    **image_options
        ``mean``, ``std`` (of pixels scaled to 0–1), ``crop_pct``, ``crop_mode``, ``interpolation``. What the file
        itself says (headstart's own exports do) comes first; else ImageNet's mean and std for three channels, 0–1 for
        one, and plain 0–255 for inputs of type uint8.

    Raises
    ------
    WeightsError, UnsafeFile, SourceError, OptionError, MissingPackage

    Notes
    -----
    Cost: one run of five example inputs with every tensor kept, when the layers are first asked for. Batches of a fixed
    size are filled up.
    """
    extras.require_package("onnx", "for onnx: sources")
    extras.require_package("onnxruntime", "to run onnx: sources")
    free = [field.name for field in fields(ImageInput) if field.name not in ("size", "channels", "modality")]
    check_names("options of onnx: sources", image_options, free)
    if files is None:
        path = Path(name).expanduser()
        model, content = read_model(path)
        kept = {_FILE: content, **({} if tokenizer is None else {_TOKENIZER: _read_text(Path(tokenizer).expanduser())})}
    else:
        kept = dict(files)
        model = parsed(kept[_FILE], str(name))
    label = f"onnx:{name}"
    if output is not None and output not in {name for node in model.graph.node for name in node.output}:
        outputs = [value.name for value in model.graph.output]
        raise UnknownName(unknown_name(f"outputs of {label}", output, outputs))
    network = OnnxBackend(model, label, output=output)
    asked = {"modality": modality, "shape": _plain(shape), "size": _plain(size)}
    if _TOKENIZER in kept:
        how: Input = _texts(network, kept[_TOKENIZER], max_length)
    else:
        how = _input(network, asked, image_options)
    if files is None and isinstance(how, ImageInput) and _guessed(network, how, image_options):
        note(f"{label} does not say how its pixels are scaled: ImageNet's mean and std are used (mean=, std=).")
    classifier_name = _classifier(network, classifier)
    network.bind(how, classifier_name)
    options = {**asked, "output": output, "classifier": classifier, "max_length": max_length, **image_options}
    return Source(
        address=label,
        backend=network,
        input=how,
        classifier=classifier_name,
        rebuild={"family": "onnx", "name": _FILE, "options": options},
        engines=("onnxruntime",),
        files=kept,
        meta={"producer": model.producer_name} if model.producer_name else {},
        minimum_cosine=0.999999 if how.modality == "text" else 0.99,
        precisions=("fp32",),
    )


def _plain(value: Any) -> Any:
    return [int(side) for side in value] if isinstance(value, (list, tuple)) else value


def _read_text(path: Path) -> bytes:
    if not path.is_file():
        raise OptionError(f"There is no tokenizer at {path}; give the tokenizer.json of the model.")
    return path.read_bytes()


def _classifier(network: OnnxBackend, asked: str | None) -> str | None:
    if asked == "auto":
        return network.classifier()
    if asked is not None and asked not in network.graph.producer:
        raise UnknownName(unknown_name(f"tensors of {network.label}", asked, list(network.graph.producer)))
    return asked


def _input(network: OnnxBackend, asked: Mapping[str, Any], options: dict[str, Any]) -> Input:
    """How items become the model's input: what was asked for, what the file says, what its shape tells."""
    label, (dtype, open_shape) = network.label, network.inputs[network.root]
    if len(network.inputs) > 1:
        what = "Give tokenizer=, its tokenizer.json." if network.root == "input_ids" else "Export one with one input."
        raise SourceError(f"{label} takes {len(network.inputs)} inputs ({', '.join(network.inputs)}). {what}")
    if dtype.kind not in "fiub":
        raise SourceError(f"{label} takes inputs of a type that headstart cannot make.")
    sides = _sides(network, asked["shape"], open_shape)
    said = _said(network.model)
    modality = asked["modality"] or said.get("modality") or ("image" if _is_picture(sides) else "vector")
    if modality == "image":
        return _pictures(network, sides, asked["size"], {**said.get("image", {}), **options})
    if modality != "vector":
        raise OptionError(f"modality must be 'image', 'vector' or (with tokenizer=) 'text'; got {modality!r}.")
    if options or asked["size"] is not None:
        given = ", ".join([*options, *([] if asked["size"] is None else ["size"])])
        raise OptionError(f"{given} would have no effect: the model takes {sides}, which is no picture.")
    if any(side is None for side in sides):
        raise OptionError(f"{label} leaves the shape of its input open: {_written(sides)}. Give shape= of one input.")
    return ArrayInput(tuple(int(side) for side in sides), "vector")


def _sides(network: OnnxBackend, asked: Any, open_shape: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Shape of one input; None for open sides."""
    if open_shape is not None and len(open_shape) < 2:
        raise SourceError(f"{network.label} takes {_written(open_shape)}: an input has no axis of its own.")
    if asked is None:
        if open_shape is None:
            raise OptionError(f"{network.label} leaves the shape of its input open. Give shape= of one input.")
        return open_shape[1:]
    fits = open_shape is None or (
        len(asked) == len(open_shape) - 1 and all(b in (None, a) for a, b in zip(asked, open_shape[1:]))
    )
    if not fits:
        raise OptionError(f"{network.label} takes inputs of shape {_written((open_shape or ())[1:])}; got {asked}.")
    return tuple(asked)


def _written(sides: Sequence[Any]) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in sides) + ")"


def _is_picture(sides: tuple[Any, ...]) -> bool:
    return len(sides) == 3 and (sides[0] in (1, 3) or sides[2] in (1, 3))


def _said(model: Any) -> dict[str, Any]:
    """What the file says about its own input, where headstart has written it."""
    for entry in model.metadata_props:
        if entry.key == METADATA:
            try:
                found = json.loads(entry.value)
            except ValueError:
                return {}
            return found["input"] if isinstance(found, dict) and isinstance(found.get("input"), dict) else {}
    return {}


def _pictures(network: OnnxBackend, sides: tuple[Any, ...], asked: Any, options: dict[str, Any]) -> Input:
    if not _is_picture(sides):
        raise OptionError(f"{network.label} takes inputs of shape {_written(sides)}: no picture of 1 or 3 channels.")
    last = bool(options.pop("channels_last", sides[0] not in (1, 3)))
    channels, *fixed = (sides[2], *sides[:2]) if last else sides
    height, width = (asked, asked) if isinstance(asked, int) else asked or (None, None)
    found = []
    for given, own in ((height, fixed[0]), (width, fixed[1])):
        if given is not None and own is not None and given != own:
            raise OptionError(f"{network.label} takes pictures of {_written(fixed)}; got size={asked}.")
        found.append(int(own or given or _OPEN_SIDE))
    normal = _normalisation(network, int(channels), options)
    known = {field.name for field in fields(ImageInput)}
    wrong = [key for key in options if key not in known]
    if wrong:
        raise SourceError(f"{network.label} says {', '.join(wrong)} of its pictures, which this version cannot read.")
    rest = {key: value for key, value in options.items() if key not in ("size", "channels", "mean", "std", "modality")}
    return ImageInput((found[0], found[1]), int(channels), **normal, channels_last=last, **{"crop_pct": 1.0, **rest})


def _normalisation(network: OnnxBackend, channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    whole = network.inputs[network.root][0].kind in "iu"
    plain = ((0.0,) * channels, ((1 / 255 if whole else 1.0),) * channels)
    default = plain if whole or channels == 1 else (ImageInput.mean, ImageInput.std)
    given = {}
    for key, value in zip(("mean", "std"), default):
        asked = options.get(key)
        values = value if asked is None else asked if isinstance(asked, (list, tuple)) else (asked,) * channels
        if len(values) != channels or not all(isinstance(v, (int, float)) for v in values):
            raise OptionError(f"{key} must be {channels} numbers for pixels scaled to 0–1; got {asked!r}.")
        given[key] = tuple(float(v) for v in values)
    return given


def _guessed(network: OnnxBackend, how: ImageInput, options: Mapping[str, Any]) -> bool:
    """Whether ImageNet's mean and std are only what most networks of three channels were trained with."""
    said = {*options, *_said(network.model).get("image", {})}
    return how.mean == ImageInput.mean and not {"mean", "std"} & said


def _texts(network: OnnxBackend, tokenizer: bytes, max_length: int) -> Input:
    """Token numbers of texts, for models that take them as transformers' do."""
    strange = [name for name in network.inputs if name not in _TOKENS]
    if strange or "input_ids" not in network.inputs:
        taken = ", ".join(network.inputs)
        raise SourceError(f"{network.label} takes {taken}; a text model takes {', '.join(_TOKENS)}.")
    extras.require_package("tokenizers", "for texts")
    fixed = network.inputs["input_ids"][1]
    if fixed is not None and len(fixed) > 1 and fixed[1] is not None:
        raise SourceError(f"{network.label} takes texts of {fixed[1]} tokens only; export it with an open length.")
    try:
        text = tokenizer.decode()
        padding = json.loads(text).get("padding") or {}
    except (UnicodeDecodeError, ValueError, AttributeError) as error:
        raise SourceError(f"The tokenizer of {network.label} is no tokenizer.json: {error}") from error
    names = tuple(name for name in _TOKENS if name in network.inputs)
    return TextInput(text, max_length, names, pad=int(padding.get("pad_id", 0)))
