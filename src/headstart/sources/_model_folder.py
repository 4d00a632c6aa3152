"""Model folders in transformers' form: where they are, their small files, what their weights are called."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from importlib.metadata import files as files_of
from pathlib import Path
from typing import Any

from headstart import _extras
from headstart._files import read_json
from headstart.errors import OfflineError, SourceError, WeightsError
from headstart.sources._sentence import read_sentence_head

_KEPT = ("config.json", "tokenizer.json", "preprocessor_config.json", "head.json")


def folder_of(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith(("/", "./", "../", "~")) or "\\" in name:
        raise SourceError(f"There is no folder {name}.")
    return _package_folder(name) or _hub_folder(name)


def _package_folder(name: str) -> Path | None:
    """The model folder that an installed package of that name carries."""
    try:
        listed = files_of(name) or []
    except (PackageNotFoundError, ValueError):
        return None
    for file in listed:
        if file.name == "config.json" and (Path(str(file.locate())).parent / "model.safetensors").is_file():
            return Path(str(file.locate())).parent
    return None


def _hub_folder(name: str) -> Path:
    hub = _extras.need("huggingface_hub", "to look up hub names")
    patterns = ["*.json", "*.safetensors", "1_Pooling/*", "2_Dense/*", "3_Dense/*"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        pass
    try:
        return Path(hub.snapshot_download(name, allow_patterns=patterns, etag_timeout=5))
    except Exception as error:  # the hub's client raises a dozen kinds; all of them mean: not to be had
        raise OfflineError(
            f"hf:{name} is no folder, no installed package with a model, not in the local hub cache, and cannot be "
            f"fetched ({type(error).__name__}). Give a local folder: config.json, tokenizer.json, model.safetensors."
        ) from error


def files_in(folder: Path) -> dict[str, bytes]:
    """The small files that are the model beside its weights."""
    read_json(folder / "config.json", "model folder (config.json)")
    kept = {}
    for name in _KEPT:
        path = folder / name
        if path.is_file():
            kept[name] = path.read_bytes()
    head = read_sentence_head(folder)
    if head is not None:
        kept["head.json"] = json.dumps(vars(head), sort_keys=True).encode()
    return kept


def weights_in(folder: Path) -> Path:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    shards = sorted(folder.glob("model-*.safetensors"))
    hint = "sharded weights are not read; save the model in one file" if shards else "it has no model.safetensors"
    raise WeightsError(f"{folder}: {hint}.")


def renamed(network: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """Larger models' checkpoints carry the encoder under a prefix (``bert.``); older ones name norms gamma and beta."""
    own = set(network.state_dict())
    prefix = f"{network.base_model_prefix}."
    out = {}
    for name, value in weights.items():
        short = name.removeprefix(prefix) if name not in own else name
        if short not in own:
            short = short.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if short not in own and short.endswith(("weight_g", "weight_v")):
            number = "0" if short.endswith("_g") else "1"
            short = f"{short[: -len('weight_g')]}parametrizations.weight.original{number}"
        out[short] = value
    return out
