"""Writing a source as a folder of safetensors + JSON. Reading it back is ``saved.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart._files import write_atomic, write_json
from headstart._hashing import fingerprint, key_of_bytes, key_of_file
from headstart._processes import is_main
from headstart.errors import SourceError
from headstart.sources._weights import write_weights

FORMAT = 1
RECORD = "source.json"
WEIGHTS = "weights.safetensors"


def save(source: Any, folder: Path) -> Path:
    """Write the source; the record goes last, so a folder without it was never finished.

    Of several processes that train together the first one writes.

    Raises
    ------
    SourceError
        For a Python object that cannot be built again from plain data.
    StoreError
        When the folder cannot be written.
    """
    if source.rebuild is None:
        raise SourceError(
            f"{source.address} is a Python object; headstart cannot build it again from a file without running code. "
            "Save its weights yourself and give the object to load_source again, or use a named architecture."
        )
    if not is_main():
        return folder
    write_weights(folder / WEIGHTS, source.network.state_dict())
    for name, content in source.files.items():
        write_atomic(folder / "files" / name, content)
    record = {
        "format": FORMAT,
        "address": source.address,
        "rebuild": dict(source.rebuild),
        "classifier": source.classifier,
        "meta": dict(source.meta),
        "fingerprint": source.fingerprint,
        "weights": key_of_file(folder / WEIGHTS).hex(),
        "files": {name: key_of_bytes(content).hex() for name, content in source.files.items()},
    }
    if source.statistics is not None and source.statistics.fingerprint == source.fingerprint:
        source.statistics.save(folder)
    write_json(folder / RECORD, {**record, "check": check_of(record)})
    return folder


def check_of(record: Mapping[str, Any]) -> str:
    """Hash of everything in the record but itself."""
    return fingerprint({key: value for key, value in record.items() if key != "check"}, 32)
