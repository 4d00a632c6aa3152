"""Sources that are here already: in folders, in installed packages, in the hub's cache. Reads small JSON files only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from headstart._files import read_json
from headstart.errors import DataError, StoreError

_DEPTH = 2
_MOST_FOLDERS = 2_000
_FILES = {".onnx": "onnx", ".keras": "keras", ".h5": "keras"}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.pth")


@dataclass(frozen=True)
class Found:
    """A source that can be loaded without a network: its address, what it is, and its size in bytes."""

    address: str
    what: str
    bytes: int


def in_folder(root: Path) -> list[Found]:
    """Sources at a folder and up to two levels below it.

    Raises
    ------
    DataError
        When there is no such folder.
    """
    root = root.expanduser()
    if root.is_file() and root.suffix.lower() in _FILES:
        return [Found(f"{_FILES[root.suffix.lower()]}:{root}", root.suffix[1:], root.stat().st_size)]
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    found: list[Found] = []
    waiting = [(root, 0)]
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            break
        folder, depth = waiting.pop(0)
        here = list(_here(folder))
        found += here
        whole = (folder / "predictor.json").is_file()  # its sources are listed already
        if depth < _DEPTH and not whole and not any(Path(one.address.partition(":")[2]) == folder for one in here):
            waiting += [(sub, depth + 1) for sub in _folders(folder)]
    return found


def in_hub_cache() -> list[Found]:
    """Networks that the hub's client has fetched before."""
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    root = Path(hub).expanduser()
    found = []
    for folder in sorted(root.glob("models--*")) if root.is_dir() else ():
        weights = [path for name in _WEIGHTS for path in folder.glob(f"snapshots/*/{name}")]
        if weights:
            owner, _, name = folder.name.removeprefix("models--").partition("--")
            address = f"timm:{name}" if owner == "timm" else f"hf:{owner}/{name}" if name else f"hf:{owner}"
            found.append(Found(address, "fetched before", _size(weights[0])))
    return found


def in_packages() -> list[Found]:
    """Installed packages that carry a transformers model folder; their name is enough."""
    found = []
    for package in distributions():
        record = package.read_text("RECORD") or ""
        sizes = re.findall(r"^.*/model\.safetensors,[^,]*,(\d+)$", record, re.MULTILINE)
        if sizes and "config.json" in record:
            found.append(Found(f"hf:{package.metadata['Name']}", "an installed package", int(sizes[0])))
    return sorted(found, key=lambda one: one.address)


def _here(folder: Path) -> Iterator[Found]:
    record = _json(folder / "source.json")
    if record is not None:
        rebuild = record.get("rebuild")
        built = rebuild if isinstance(rebuild, dict) else {}
        yield Found(
            f"saved:{folder}", f"saved by headstart ({built.get('name', '?')})", _size(folder / "weights.safetensors")
        )
        return
    predictor = _json(folder / "predictor.json")
    if predictor is not None:
        yield from (Found(f"saved:{sub}", "source of a predictor", _size(sub / "weights.safetensors"))
                    for sub in _folders(folder / "sources"))  # fmt: skip
        return
    config = _json(folder / "config.json")
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if config is not None and weights is not None:
        named = isinstance(config.get("architecture"), str)
        what = config["architecture"] if named else str(config.get("model_type", "transformers folder"))
        sound = ", for sounds" if config.get("audio_frontend") else ""
        yield Found(f"{'timm' if named else 'hf'}:{folder}", f"{what}{sound}", _size(weights))
    for path in _files(folder):
        if path.suffix.lower() in _FILES:
            yield Found(f"{_FILES[path.suffix.lower()]}:{path}", path.suffix[1:], _size(path))


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
