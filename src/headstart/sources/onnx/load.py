"""ONNX files, run by onnxruntime: any tensor of the graph is a layer. No custom operators, no code, no pickle.

An ONNX source is for features: it cannot be fine-tuned. Train the torch original for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart._base import extras
from headstart._base.progress import note
from headstart._base.registry import check_names, unknown_name
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.sources.base import Input, Source
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput
from headstart.sources.inputs.text import TextInput
from headstart.sources.onnx.file import METADATA, parse_model, read_model
from headstart.sources.onnx.network import OnnxBackend

if TYPE_CHECKING:
    import onnx

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
        Images where the input has four axes, one of them 1 or 3 channels; texts with a ``tokenizer``; vectors (arrays
        of any shape, taken as they are) otherwise.
    shape : tuple of int, optional
        Shape of one input, where the file leaves it open.
    size : int or (height, width), optional
        Of images, where the file leaves it open; 224 when it is not given.
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
        contents = {
            _FILE: content,
            **({} if tokenizer is None else {_TOKENIZER: _read_text(Path(tokenizer).expanduser())}),
        }
    else:
        contents = dict(files)
        model = parse_model(contents[_FILE], str(name))
    label = f"onnx:{name}"
    if output is not None and output not in {name for node in model.graph.node for name in node.output}:
        outputs = [value.name for value in model.graph.output]
        raise UnknownName(unknown_name(f"outputs of {label}", output, outputs))
    network = OnnxBackend(model, label, output=output)
    requested = {"modality": modality, "shape": _listed(shape), "size": _listed(size)}
    if _TOKENIZER in contents:
        input: Input = _text_input(network, contents[_TOKENIZER], max_length)
    else:
        input = _input(network, requested, image_options)
    if files is None and isinstance(input, ImageInput) and _uses_imagenet_default(network, input, image_options):
        note(f"{label} does not say how its pixels are scaled: ImageNet's mean and std are used (mean=, std=).")
    classifier_name = _classifier(network, classifier)
    network.bind(input, classifier_name)
    options = {**requested, "output": output, "classifier": classifier, "max_length": max_length, **image_options}
    return Source(
        address=label,
        backend=network,
        input=input,
        classifier=classifier_name,
        rebuild={"family": "onnx", "name": _FILE, "options": options},
        engines=("onnxruntime",),
        files=contents,
        meta={"producer": model.producer_name} if model.producer_name else {},
        minimum_cosine=0.999999 if input.modality == "text" else 0.99,
        precisions=("fp32",),
    )


def _listed(value: Any) -> Any:
    return [int(side) for side in value] if isinstance(value, (list, tuple)) else value


def _read_text(path: Path) -> bytes:
    if not path.is_file():
        raise OptionError(f"There is no tokenizer at {path}; give the tokenizer.json of the model.")
    return path.read_bytes()


def _classifier(network: OnnxBackend, requested: str | None) -> str | None:
    if requested == "auto":
        return network.classifier()
    if requested is not None and requested not in network.graph.producer:
        raise UnknownName(unknown_name(f"tensors of {network.label}", requested, list(network.graph.producer)))
    return requested


def _input(network: OnnxBackend, requested: Mapping[str, Any], options: dict[str, Any]) -> Input:
    """The preprocessing: as requested, as the file says, or as the shape of its input tells."""
    label, (dtype, open_shape) = network.label, network.inputs[network.root]
    if len(network.inputs) > 1:
        what = "Give tokenizer=, its tokenizer.json." if network.root == "input_ids" else "Export one with one input."
        raise SourceError(f"{label} takes {len(network.inputs)} inputs ({', '.join(network.inputs)}). {what}")
    if dtype.kind not in "fiub":
        raise SourceError(f"{label} takes inputs of a type that headstart cannot make.")
    sides = _sides(network, requested["shape"], open_shape)
    stated = _own_input(network.model)
    modality = requested["modality"] or stated.get("modality") or ("image" if _is_image_shape(sides) else "vector")
    if modality == "image":
        return _image_input(network, sides, requested["size"], {**stated.get("image", {}), **options})
    if modality != "vector":
        raise OptionError(f"modality must be 'image', 'vector' or (with tokenizer=) 'text'; got {modality!r}.")
    if options or requested["size"] is not None:
        useless = ", ".join([*options, *([] if requested["size"] is None else ["size"])])
        raise OptionError(f"{useless} would have no effect: the model takes {sides}, which is no image.")
    if any(side is None for side in sides):
        raise OptionError(
            f"{label} leaves the shape of its input open: {_shape_text(sides)}. Give shape= of one input."
        )
    return ArrayInput(tuple(int(side) for side in sides), "vector")


def _sides(network: OnnxBackend, requested: Any, open_shape: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Shape of one input; None for open sides."""
    if open_shape is not None and len(open_shape) < 2:
        raise SourceError(f"{network.label} takes {_shape_text(open_shape)}: an input has no axis of its own.")
    if requested is None:
        if open_shape is None:
            raise OptionError(f"{network.label} leaves the shape of its input open. Give shape= of one input.")
        return open_shape[1:]
    fits = open_shape is None or (
        len(requested) == len(open_shape) - 1 and all(b in (None, a) for a, b in zip(requested, open_shape[1:]))
    )
    if not fits:
        raise OptionError(
            f"{network.label} takes inputs of shape {_shape_text((open_shape or ())[1:])}; got {requested}."
        )
    return tuple(requested)


def _shape_text(sides: Sequence[Any]) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in sides) + ")"


def _is_image_shape(sides: tuple[Any, ...]) -> bool:
    return len(sides) == 3 and (sides[0] in (1, 3) or sides[2] in (1, 3))


def _own_input(model: onnx.ModelProto) -> dict[str, Any]:
    """The file's record of its own preprocessing, where headstart has written it."""
    for entry in model.metadata_props:
        if entry.key == METADATA:
            try:
                record = json.loads(entry.value)
            except ValueError:
                return {}
            return record["input"] if isinstance(record, dict) and isinstance(record.get("input"), dict) else {}
    return {}


def _image_input(network: OnnxBackend, sides: tuple[Any, ...], requested: Any, options: dict[str, Any]) -> Input:
    if not _is_image_shape(sides):
        raise OptionError(f"{network.label} takes inputs of shape {_shape_text(sides)}: no image of 1 or 3 channels.")
    last = bool(options.pop("channels_last", sides[0] not in (1, 3)))
    channels, *fixed = (sides[2], *sides[:2]) if last else sides
    height, width = (requested, requested) if isinstance(requested, int) else requested or (None, None)
    sizes = []
    for side, fixed_side in ((height, fixed[0]), (width, fixed[1])):
        if side is not None and fixed_side is not None and side != fixed_side:
            raise OptionError(f"{network.label} takes images of {_shape_text(fixed)}; got size={requested}.")
        sizes.append(int(fixed_side or side or _OPEN_SIDE))
    normal = _normalisation(network, int(channels), options)
    names = {field.name for field in fields(ImageInput)}
    wrong = [key for key in options if key not in names]
    if wrong:
        raise SourceError(f"{network.label} says {', '.join(wrong)} of its images, which this version cannot read.")
    rest = {key: value for key, value in options.items() if key not in ("size", "channels", "mean", "std", "modality")}
    return ImageInput((sizes[0], sizes[1]), int(channels), **normal, channels_last=last, **{"crop_pct": 1.0, **rest})


def _normalisation(network: OnnxBackend, channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    is_integer = network.inputs[network.root][0].kind in "iu"
    plain = ((0.0,) * channels, ((1 / 255 if is_integer else 1.0),) * channels)
    default = plain if is_integer or channels == 1 else (ImageInput.mean, ImageInput.std)
    normalisation = {}
    for key, value in zip(("mean", "std"), default):
        requested = options.get(key)
        values = (
            value
            if requested is None
            else requested
            if isinstance(requested, (list, tuple))
            else (requested,) * channels
        )
        if len(values) != channels or not all(isinstance(v, (int, float)) for v in values):
            raise OptionError(f"{key} must be {channels} numbers for pixels scaled to 0–1; got {requested!r}.")
        normalisation[key] = tuple(float(v) for v in values)
    return normalisation


def _uses_imagenet_default(network: OnnxBackend, input: ImageInput, options: Mapping[str, Any]) -> bool:
    """True where ImageNet's mean and std are used only because most networks of three channels were trained so."""
    stated = {*options, *_own_input(network.model).get("image", {})}
    return input.mean == ImageInput.mean and not {"mean", "std"} & stated


def _text_input(network: OnnxBackend, tokenizer: bytes, max_length: int) -> Input:
    """Token numbers of texts, for models that take them as transformers' do."""
    unexpected = [name for name in network.inputs if name not in _TOKENS]
    if unexpected or "input_ids" not in network.inputs:
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
