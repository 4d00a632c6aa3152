"""timm's image networks: by folder in timm's local-dir form, by name with local weights, or from the hub.

``timm:FOLDER`` reads ``config.json`` + ``model.safetensors`` (or ``pytorch_model.bin``); ``timm:NAME`` looks for
``weights=`` first, then in the local hub cache, and asks the network last. A folder whose config carries an
``audio_frontend`` is a source for audio: its input is log-mel patches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from headstart._base import extras
from headstart._base.files import did_you_mean, read_json
from headstart._base.hashing import canonical_json
from headstart._base.registry import check_names, unknown_name
from headstart.errors import OfflineError, OptionError, SourceError, UnknownName, WeightsError
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Input, Source
from headstart.sources.inputs.image import ImageInput
from headstart.sources.inputs.log_mel import PatchInput
from headstart.sources.weights import fit_weights, hub_folder, read_weights

_torchvision_library: list[Any] = []  # the Library object must outlive the import


def repair_torchvision() -> str:
    """Import torchvision; returns "native", "repaired", or "absent".

    A CPU-only torch cannot import a torchvision that was built for CUDA, whose operators it does not know. Declaring
    two of them, which no network here calls, is enough; done only after the import has failed.
    """
    try:
        import torchvision
    except ModuleNotFoundError:
        return "absent"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return "repaired" if _torchvision_library else "native"
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _torchvision_library.append(library)
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    import torchvision  # noqa: F401

    return "repaired"


_PATCH_KEYS = ("patch_hop_frames", "max_patches")
_INPUT_KEYS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")
_BIASES = ("classifier.bias", "fc.bias", "head.bias", "head.fc.bias")


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
    input: Mapping[str, Any] | None = None,
    seed: int = 0,
    files: Mapping[str, bytes] | None = None,
) -> Source:
    """Load a timm network.

    Parameters
    ----------
    name : str
        A folder in timm's local-dir form, or a model name (``mobilenetv2_100``, with ``.tag`` for given hub weights).
    weights : path, optional
        A local safetensors or pth file.
    options : mapping, optional
        Passed to ``timm.create_model`` (``pad_type``, ``in_chans``, ``num_classes``, …).
    pretrained : bool
        False leaves the initial weights (a control).
    input : mapping, optional
        Overrides of the preprocessing (``input_size``, ``mean``, ``std``, ``crop_pct``, …).
    seed : int
        Of the initial weights, where they are left.
    files : mapping, optional
        The small files of a saved source, in place of a folder.

    Raises
    ------
    UnknownName, OptionError, SourceError, WeightsError, OfflineError, MissingPackage
    """
    timm = _timm()
    _check_options(options, input)
    folder = Path(name).expanduser()
    config = json.loads(files["config.json"]) if files else _folder_config(name, folder)
    architecture = config.get("architecture", name)
    arguments = {**config.get("model_args", {}), **dict(options or {})}
    if "num_classes" in config:
        arguments.setdefault("num_classes", config["num_classes"])
    if not timm.is_model(architecture.partition(".")[0]):
        raise UnknownName(unknown_name("timm models", architecture, timm.list_models()))
    file = Path(weights).expanduser() if weights is not None else _weights_in(folder) if config and not files else None
    tensors = read_weights(file) if file is not None and pretrained else None
    if tensors is not None:
        arguments.setdefault("num_classes", _n_classes(tensors))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _create_model(timm, architecture, arguments, pretrained=pretrained and file is None)
    if tensors is not None:
        fit_weights(network, tensors, str(file), head=_head_prefixes(network))
    pretrained_cfg = {**(getattr(network, "pretrained_cfg", None) or {}), **config.get("pretrained_cfg", {})}
    cfg = {**pretrained_cfg, **_implied_input(arguments, pretrained_cfg), **(input or {})}
    return _source(name, network, cfg, config=config, arguments=arguments, architecture=architecture)


def _source(
    name: str,
    network: torch.nn.Module,
    cfg: dict[str, Any],
    *,
    config: Mapping[str, Any],
    arguments: dict[str, Any],
    architecture: str,
) -> Source:
    config = _with_patches(config, {key: cfg[key] for key in _PATCH_KEYS if key in cfg})
    frontend = config.get("audio_frontend")
    input_options = {key: cfg[key] for key in _INPUT_KEYS if cfg.get(key) is not None}
    options: dict[str, Any] = {"pretrained": False, "options": arguments, "input": input_options}
    prefixes = _head_prefixes(network)
    meta = {
        "licence": cfg.get("license"),
        "origin": config.get("origin"),
        "classes": getattr(network, "num_classes", cfg.get("num_classes")),
        "class_token": getattr(network, "cls_token", None) is not None,
    }
    files: dict[str, bytes] = {}
    if frontend is not None:
        files["config.json"] = json.dumps({"architecture": architecture, **dict(config)}, sort_keys=True).encode()
    return Source(
        address=f"timm:{name}",
        backend=TorchBackend(network.eval(), f"timm:{name}"),
        input=_input(cfg, frontend),
        classifier=prefixes[0].rstrip(".") if prefixes else None,
        rebuild={"family": "timm", "name": architecture, "options": options},
        meta={k: v for k, v in meta.items() if v},
        files=files,
    )


def _with_patches(config: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with other patches; they are part of the source, and saved with it."""
    if not options:
        return config
    if "audio_frontend" not in config:
        raise OptionError(
            f"{', '.join(options)}: only networks for audio, whose input is patches of a spectrogram, have these."
        )
    return {**config, "audio_frontend": {**config["audio_frontend"], **options}}


def _input(cfg: Mapping[str, Any], frontend: Mapping[str, Any] | None) -> Input:
    if frontend is not None:
        return PatchInput.from_config(frontend)
    channels, height, width = cfg.get("input_size", (3, 224, 224))
    mean, std = (
        tuple(float(v) for v in cfg.get(k, d))
        for k, d in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225)))
    )
    interpolation = cfg.get("interpolation", "bilinear")
    return ImageInput(
        size=(int(height), int(width)),
        channels=int(channels),
        mean=_repeat(mean, channels),
        std=_repeat(std, channels),
        crop_pct=float(cfg.get("crop_pct") or 0.875),
        crop_mode=cfg.get("crop_mode") or "center",
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
    )


def _repeat(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _implied_input(arguments: Mapping[str, Any], pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The input size that construction options imply."""
    channels, *sides = pretrained_cfg.get("input_size", (3, 224, 224))
    size = arguments.get("img_size", sides)
    height, width = (size, size) if isinstance(size, int) else size
    return {"input_size": (int(arguments.get("in_chans", channels)), int(height), int(width))}


def _timm() -> ModuleType:
    if extras.is_installed("timm"):
        repair_torchvision()
    return extras.require_package("timm", "for timm: sources")


def _check_options(options: Mapping[str, Any] | None, input: Mapping[str, Any] | None) -> None:
    check_names("preprocessing fields", input or (), [*_INPUT_KEYS, *_PATCH_KEYS])
    try:
        canonical_json(dict(options or {}))
    except (TypeError, ValueError) as error:
        raise OptionError(f"options= takes plain data (names, numbers), so that it can be saved: {error}.") from error


def _folder_config(name: str, folder: Path) -> dict[str, Any]:
    """The config.json of a folder in timm's local-dir form; nothing for a model name."""
    if not folder.is_dir():
        if "/" in name or "\\" in name:
            advice = "Give a folder with config.json and weights, or a timm model name."
            raise SourceError(f"There is no folder {name}.{did_you_mean(folder)} {advice}")
        return {}
    config = read_json(folder / "config.json", "timm model folder (config.json)")
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise SourceError(f"{folder / 'config.json'} names no architecture; is this a folder in timm's local-dir form?")
    return config


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder} has a config.json but none of {', '.join(_WEIGHTS)}.")


def _n_classes(tensors: Mapping[str, Any]) -> int:
    """Classes of the weights' own classifier, so that it loads, too (0 when there is none)."""
    return next((int(tensors[key].shape[0]) for key in _BIASES if key in tensors), 0)


def _head_prefixes(network: torch.nn.Module) -> tuple[str, ...]:
    names = getattr(network, "pretrained_cfg", None) or {}
    classifier = names.get("classifier")
    modules = dict(network.named_modules())
    names_of_classifier = [classifier] if isinstance(classifier, str) else list(classifier or [])
    return tuple(f"{c}." for c in names_of_classifier if c in modules and any(True for _ in modules[c].parameters()))


def _create_model(
    timm: ModuleType, architecture: str, arguments: dict[str, Any], *, pretrained: bool
) -> torch.nn.Module:
    overlay = _from_hub(timm, architecture) if pretrained else None
    try:
        return timm.create_model(architecture, pretrained=pretrained, pretrained_cfg_overlay=overlay, **arguments)
    except TypeError as error:
        raise OptionError(f"timm:{architecture} does not take these options: {error}") from error
    except OSError as error:
        raise OfflineError(_absent_message(architecture, str(error))) from error
    except (RuntimeError, ValueError, AssertionError, KeyError) as error:
        raise SourceError(f"timm cannot build {architecture} with options {arguments}: {error}") from error


def _from_hub(timm: ModuleType, architecture: str) -> dict[str, Any] | None:
    """The configuration that makes timm read the hub's weights from the local cache, where they are fetched first.

    None leaves it to timm: weights at a plain address, and those that are loaded in a way of their own.
    """
    name, _, tag = architecture.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}*") if full.partition(".")[0] == name]
    if not tags:
        raise SourceError(f"timm has no pretrained weights for {name}. Give weights=FILE, or pretrained=False.")
    if tag and tag not in tags:
        names = [f"{name}.{other}" for other in sorted(tags)]
        raise UnknownName(unknown_name(f"weights of timm:{name}", architecture, names))
    cfg = timm.get_pretrained_cfg(architecture)
    repository = str(cfg.hf_hub_id or "").partition("@")[0]
    if not repository:
        return None
    try:
        for file in filter(None, (cfg.hf_hub_filename, *_WEIGHTS)):
            folder = hub_folder(repository, [file], needed=file)
            if folder is not None:
                return None if cfg.custom_load == "hf" else {"file": str(folder / file), "custom_load": False}
    except OfflineError as error:
        raise OfflineError(_absent_message(architecture, str(error))) from error
    return None


def _absent_message(architecture: str, why: str) -> str:
    return (
        f"The weights of timm:{architecture} are not on this machine and cannot be fetched: {why}. "
        "Give weights=FILE (safetensors or pth), a folder in timm's local-dir form, or pretrained=False for none."
    )
