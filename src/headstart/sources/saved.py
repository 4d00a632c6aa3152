"""Sources that headstart saved: a folder of ``source.json`` + ``weights.safetensors`` (+ small files).

Nothing in it is run: the architecture is built by name from headstart's own table.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from headstart._base.files import read_json
from headstart._base.hashing import key_of_bytes, key_of_file
from headstart.errors import MissingPackage, StoreError
from headstart.sources.base import SOURCES, Source
from headstart.sources.weights import FORMAT, RECORD, WEIGHTS, checksum_of, fit_weights, read_weights

_HOW = "It cannot be repaired; save the source again."


def load(name: str) -> Source:
    """Load a folder that ``Source.save`` wrote.

    Raises
    ------
    StoreError
        When it is incomplete, damaged or was changed after it was saved.
    MissingPackage
        When the package that builds its architecture is not installed.
    """
    folder = Path(name).expanduser()
    record = read_json(folder / RECORD, "saved source")
    if not isinstance(record, dict) or "format" not in record:
        raise StoreError(f"{folder / RECORD} is no record of a saved source.")
    if record["format"] != FORMAT:
        raise StoreError(f"{folder} was saved in format {record['format']}; this version reads format {FORMAT}.")
    if record.get("check") != checksum_of(record):
        raise StoreError(f"{folder / RECORD} is not what was saved: it is damaged or was changed. {_HOW}")
    try:
        return _build(folder, record)
    except (MissingPackage, StoreError):
        raise
    except Exception as error:  # the record is whole, but was never written by us, or by another version
        raise StoreError(f"{folder / RECORD} cannot be built into a source: {error!r}") from error


def _build(folder: Path, record: dict[str, Any]) -> Source:
    weights = folder / WEIGHTS
    if not weights.is_file() or key_of_file(weights).hex() != record["weights"]:
        raise StoreError(f"{weights} is not the file that was saved: it is missing, damaged or was changed. {_HOW}")
    rebuild = record["rebuild"]
    arguments = dict(rebuild["options"])
    if files := _files(folder / "files", record["files"]):
        arguments["files"] = files
    fresh = SOURCES[rebuild["family"]](rebuild["name"], **arguments)
    learned = bool(fresh.backend.state_dict())  # not where items themselves are the features, nor of an ONNX file
    left = fit_weights(fresh.module, read_weights(weights), str(weights)) if learned else []
    if left:
        raise StoreError(f"{weights} lacks {', '.join(left[:5])}, which {rebuild['family']} builds now.")
    source = dataclasses.replace(
        fresh, address=f"saved:{folder}", meta=record["meta"], classifier=record["classifier"], files=files
    )
    if source.fingerprint != record["fingerprint"]:
        raise StoreError(
            f"{folder} gives another fingerprint than when it was saved ({source.fingerprint[:8]} for "
            f"{record['fingerprint'][:8]}): the library that builds it has changed."
        )
    return source


def _files(folder: Path, keys: dict[str, str]) -> dict[str, bytes]:
    files = {}
    for name, key in keys.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise StoreError(f"{path} is missing from the saved source. {_HOW}")
        files[name] = path.read_bytes()
        if key_of_bytes(files[name]).hex() != key:
            raise StoreError(f"{path} is not the file that was saved: it is damaged or was changed. {_HOW}")
    return files
