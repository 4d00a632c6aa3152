"""timm's image networks: by folder in timm's local-dir form, by name with local weights, or from the hub.

``timm:FOLDER`` reads ``config.json`` + ``model.safetensors`` (or ``pytorch_model.bin``); ``timm:NAME`` looks for
``weights=`` first, then in the local hub cache, and asks the network last. A folder whose config carries an
``audio_frontend`` is a source for sounds: its input is log-mel patches.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

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
from headstart.sources.weights import fit_weights, read_weights

# Model hubs: what is in the local cache, and one quick look whether a host answers before a slow client tries.


_SECONDS = 4.0
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_YES = ("1", "true", "yes", "on")


def cached_file(repository: str, names: Iterable[str | None]) -> Path | None:
    """The first of these files of a hub repository that is in the local cache."""
    if not repository or not extras.is_installed("huggingface_hub"):
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in filter(None, names):
        found = try_to_load_from_cache(repository, str(name))
        if isinstance(found, str):
            return Path(found)
    return None


def unreachable(address: str | None = None) -> str:
    """Why a host cannot be asked, or nothing when it can. Cost: one connection; at most 4 s without a network.

    Parameters
    ----------
    address : str, optional
        Anything on that host; the hub's own (``$HF_ENDPOINT``) when not given.
    """
    for switch in _SWITCHES if address is None else ():
        if os.environ.get(switch, "").lower() in _YES:
            return f"{switch} is set"
    parts = urlsplit(address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxy = getproxies().get(parts.scheme)
    asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
    port = asked.port or (443 if asked.scheme == "https" else 80)
    answer: list[str] = []
    # in a thread, because looking up a name has no time limit of its own
    thread = Thread(target=_connect, args=(asked.hostname or "", port, answer), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answer[0] if answer else f"no answer from {asked.hostname} within {_SECONDS:.0f} s"


def _connect(host: str, port: int, answer: list[str]) -> None:
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        answer.append(f"there is no network ({host}: {error.strerror or error})")
    else:
        answer.append("")


# A CPU-only torch with a CUDA-built torchvision cannot import it; a small remedy, used only after that failure.


_alive: list[Any] = []  # the Library object must outlive the import


def repair_torchvision() -> str:
    """Import torchvision; returns "native", "repaired", or "absent"."""
    try:
        import torchvision
    except ModuleNotFoundError:
        return "absent"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return "repaired" if _alive else "native"
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _alive.append(library)
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
        arguments.setdefault("num_classes", _classes_in(tensors))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _create(timm, architecture, arguments, pretrained=pretrained and file is None)
    if tensors is not None:
        fit_weights(network, tensors, str(file), head=_head_prefixes(network))
    own = {**dict(network.pretrained_cfg or {}), **config.get("pretrained_cfg", {})}
    cfg = {**own, **_given(arguments, own), **(input or {})}
    return _source(name, network, cfg, config=config, arguments=arguments, architecture=architecture)


def _source(
    name: str,
    network: Any,
    cfg: dict[str, Any],
    *,
    config: Mapping[str, Any],
    arguments: dict[str, Any],
    architecture: str,
) -> Source:
    config = _with_patches(config, {key: cfg[key] for key in _PATCH_KEYS if key in cfg})
    frontend = config.get("audio_frontend")
    kept = {key: cfg[key] for key in _INPUT_KEYS if cfg.get(key) is not None}
    options: dict[str, Any] = {"pretrained": False, "options": arguments, "input": kept}
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


def _with_patches(config: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with other patches; they are part of the source, and saved with it."""
    if not given:
        return config
    if "audio_frontend" not in config:
        raise OptionError(f"{', '.join(given)}: only networks that listen to patches of sound have these.")
    return {**config, "audio_frontend": {**config["audio_frontend"], **given}}


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


def _given(arguments: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The input size that construction options imply."""
    channels, *sides = own.get("input_size", (3, 224, 224))
    size = arguments.get("img_size", sides)
    height, width = (size, size) if isinstance(size, int) else size
    return {"input_size": (int(arguments.get("in_chans", channels)), int(height), int(width))}


def _timm() -> Any:
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
    """What a folder in timm's local-dir form says; nothing for a model name."""
    if not folder.is_dir():
        if "/" in name or "\\" in name:
            known = "Give a folder with config.json and weights, or a timm model name."
            raise SourceError(f"There is no folder {name}.{did_you_mean(folder)} {known}")
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


def _classes_in(tensors: Mapping[str, Any]) -> int:
    """How many classes the weights' own classifier has, so that it loads, too (0 when there is none)."""
    return next((int(tensors[key].shape[0]) for key in _BIASES if key in tensors), 0)


def _head_prefixes(network: Any) -> tuple[str, ...]:
    names = getattr(network, "pretrained_cfg", None) or {}
    classifier = names.get("classifier")
    modules = dict(network.named_modules())
    given = [classifier] if isinstance(classifier, str) else list(classifier or [])
    return tuple(f"{c}." for c in given if c in modules and any(True for _ in modules[c].parameters()))


def _create(timm: Any, architecture: str, arguments: dict[str, Any], *, pretrained: bool) -> Any:
    overlay = _from_hub(timm, architecture) if pretrained else None
    try:
        return timm.create_model(architecture, pretrained=pretrained, pretrained_cfg_overlay=overlay, **arguments)
    except TypeError as error:
        raise OptionError(f"timm:{architecture} does not take these options: {error}") from error
    except OSError as error:
        raise OfflineError(_absent(architecture, str(error))) from error
    except (RuntimeError, ValueError, AssertionError, KeyError) as error:
        raise SourceError(f"timm cannot build {architecture} with options {arguments}: {error}") from error


def _from_hub(timm: Any, architecture: str) -> dict[str, Any] | None:
    """What makes timm take the hub's weights: from the local cache where they are, else from the network.

    timm and the hub's client ask the network first and try again for most of a minute; here one look decides.
    """
    name, _, tag = architecture.partition(".")
    known = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}*") if full.partition(".")[0] == name]
    if not known:
        raise SourceError(f"timm has no pretrained weights for {name}. Give weights=FILE, or pretrained=False.")
    if tag and tag not in known:
        raise UnknownName(
            unknown_name(f"weights of timm:{name}", architecture, [f"{name}.{one}" for one in sorted(known)])
        )
    cfg = timm.get_pretrained_cfg(architecture)
    repository = str(cfg.hf_hub_id or "").partition("@")[0]
    file = cached_file(repository, (cfg.hf_hub_filename, *_WEIGHTS))
    if file is not None and cfg.custom_load != "hf":
        return {"file": str(file), "custom_load": False}
    why = "" if file is not None else unreachable(None if repository else cfg.url)
    if why:
        raise OfflineError(_absent(architecture, why))
    return None


def _absent(architecture: str, why: str) -> str:
    return (
        f"The weights of timm:{architecture} are not on this machine and cannot be fetched: {why}. "
        "Give weights=FILE (safetensors or pth), a folder in timm's local-dir form, or pretrained=False for none."
    )
