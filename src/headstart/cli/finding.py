"""Sources that are here already: in folders, in installed packages, in the hub's cache. Reads small JSON files only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from headstart._base.files import read_json
from headstart.errors import DataError, StoreError

_DEPTH = 2
_MOST_FOLDERS = 2_000
_FILES = {".onnx": "onnx", ".keras": "keras", ".h5": "keras"}
_SOUNDS = frozenset(
    ("hubert", "sew", "unispeech", "unispeech-sat", "wav2vec2", "wav2vec2-conformer", "wavlm", "whisper")
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")


@dataclass(frozen=True)
class FoundSource:
    """A source that can be loaded without a network.

    Attributes
    ----------
    address, what : str
    bytes : int
        Size of its weights.
    modality, input, licence : str
        As far as its own files say; ``input`` is the size of what the network is given.
    """

    address: str
    what: str
    bytes: int
    modality: str = ""
    input: str = ""
    licence: str = ""


def in_folder(root: Path) -> list[FoundSource]:
    """Sources at a folder and up to two levels below it.

    Raises
    ------
    DataError
        When there is no such folder.
    """
    root = root.expanduser()
    if root.is_file() and root.suffix.lower() in _FILES:
        return [FoundSource(f"{_FILES[root.suffix.lower()]}:{root}", root.suffix[1:], root.stat().st_size)]
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    sources: list[FoundSource] = []
    waiting = [(root, 0)]
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            break
        folder, depth = waiting.pop(0)
        here = list(_sources_in(folder))
        sources += here
        is_predictor = (folder / "predictor.json").is_file()  # its sources are listed already
        if (
            depth < _DEPTH
            and not is_predictor
            and not any(Path(source.address.partition(":")[2]) == folder for source in here)
        ):
            waiting += [(sub, depth + 1) for sub in _folders(folder)]
    return sources


def in_hub_cache() -> list[FoundSource]:
    """Networks that the hub's client has fetched before."""
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    root = Path(hub).expanduser()
    sources = []
    for folder in sorted(root.glob("models--*")) if root.is_dir() else ():
        weights = [path for name in _WEIGHTS for path in folder.glob(f"snapshots/*/{name}")]
        if weights:
            owner, _, name = folder.name.removeprefix("models--").partition("--")
            address = f"timm:{name}" if owner == "timm" else f"hf:{owner}/{name}" if name else f"hf:{owner}"
            config = _json(weights[0].parent / "config.json") or {}
            sources.append(
                FoundSource(address, "fetched before", _size(weights[0]), **_facts(config, weights[0].parent))
            )
    return sources


def in_packages() -> list[FoundSource]:
    """Installed packages that carry a transformers model folder; their name is enough."""
    sources = []
    for package in distributions():
        record = package.read_text("RECORD") or ""
        model = re.search(r"^(.*)/model\.safetensors,[^,]*,(\d+)$", record, re.MULTILINE)
        if model and f"{model[1]}/config.json," in record:
            folder = Path(str(package.locate_file(model[1])))
            facts = _facts(_json(folder / "config.json") or {}, folder)
            facts["licence"] = facts["licence"] or _licence_of(package.metadata)
            sources.append(
                FoundSource(f"hf:{package.metadata['Name']}", "an installed package", int(model[2]), **facts)
            )
    return sorted(sources, key=lambda source: source.address)


def _sources_in(folder: Path) -> Iterator[FoundSource]:
    record = _json(folder / "source.json")
    if record is not None:
        rebuild = record.get("rebuild")
        built = rebuild if isinstance(rebuild, dict) else {}
        yield FoundSource(
            f"saved:{folder}", f"saved by headstart ({built.get('name', '?')})", _size(folder / "weights.safetensors")
        )
        return
    predictor = _json(folder / "predictor.json")
    if predictor is not None:
        yield from (FoundSource(f"saved:{sub}", "source of a predictor", _size(sub / "weights.safetensors"))
                    for sub in _folders(folder / "sources"))  # fmt: skip
        return
    config = _json(folder / "config.json")
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if config is not None and weights is not None:
        named = isinstance(config.get("architecture"), str)
        what = config["architecture"] if named else str(config.get("model_type", "transformers folder"))
        yield FoundSource(f"{'timm' if named else 'hf'}:{folder}", what, _size(weights), **_facts(config, folder))
    for path in _files(folder):
        if path.suffix.lower() in _FILES:
            yield FoundSource(f"{_FILES[path.suffix.lower()]}:{path}", path.suffix[1:], _size(path))


def _facts(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Modality, input and licence, from a network's ``config.json`` and the model card beside it."""
    inner = config.get("pretrained_cfg")
    pretrained = inner if isinstance(inner, dict) else {}
    licence = config.get("license") or pretrained.get("license") or _card(folder)
    facts = {"modality": "", "input": "", "licence": licence if isinstance(licence, str) else ""}
    if isinstance(config.get("architecture"), str):
        size = pretrained.get("input_size")
        shape = " × ".join(map(str, size)) if isinstance(size, list) else ""
        return {**facts, "modality": "audio" if config.get("audio_frontend") else "image", "input": shape}
    kind, longest = config.get("model_type"), config.get("max_position_embeddings")
    if kind in _SOUNDS:
        return {**facts, "modality": "audio"}
    if isinstance(kind, str):
        shape = f"{longest:,} tokens" if isinstance(longest, int) else ""
        return {**facts, "modality": "text", "input": shape}
    return facts


def _card(folder: Path) -> str:
    """The licence that the front matter of a model card names."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:4_000]
    except OSError:
        return ""
    match = re.search(r"^license:\s*['\"]?([^\s'\"]+)", head, re.MULTILINE) if head.startswith("---") else None
    return match[1] if match else ""


def _licence_of(metadata: Any) -> str:
    licence = metadata.get("License-Expression") or metadata.get("License") or ""
    if licence and licence != "UNKNOWN":
        return str(licence).splitlines()[0][:40]
    licences = [
        line.rpartition("::")[2].strip() for line in metadata.get_all("Classifier") or () if "License ::" in line
    ]
    return ", ".join(licences)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        read = read_json(path)
    except StoreError:
        return None
    return read if isinstance(read, dict) else None


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir() and not path.name.startswith(".")]


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file()]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
