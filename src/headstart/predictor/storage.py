"""Writing a predictor: see ``loading.py`` for what lies in the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.files import read_json, write_atomic
from headstart._base.hashing import fingerprint, key_of_file
from headstart._base.processes import is_main
from headstart.errors import StoreError
from headstart.result.record import plain

FORMAT = 1
RECORD = "predictor.json"
KEY_BYTES = 8
_OURS = re.compile(r"(?:arrays|sources)(?:-([1-9][0-9]{0,8}))?(?:\.safetensors)?")


def save(predictor: Any, path: Path) -> Path:
    """A fresh folder is written beside its place and renamed; in an old one the record is what is renamed, last of all.

    So at any moment there is nothing, the whole old predictor or the whole new one at ``path``. Of several processes
    that train together the first one writes.
    """
    if not is_main():
        return path
    try:
        place = path.expanduser().resolve()
        if _replaces(place):
            _replace(predictor, place)
        else:
            _create(predictor, place)
    except StoreError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no name for a file at all
        raise StoreError(f"Cannot save the predictor to {path}: {error}") from error
    return path


def _replaces(place: Path) -> bool:
    """Whether a predictor is there already; anything else that is there is left alone."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    with suppress(StoreError):
        record = read_json(place / RECORD)
        if isinstance(record, dict) and {"format", "answers", "sources", "checksum"} <= set(record):
            return True
    raise StoreError(
        f"{place} exists and is no saved predictor (or a damaged one); it is not overwritten. "
        "Choose another name, or delete it first."
    )


def _create(predictor: Any, place: Path) -> None:
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        _write(predictor, draft, 1)
        if place.is_dir():
            place.rmdir()
        os.replace(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(predictor: Any, place: Path) -> None:
    """Write under new names, point the record there, then delete what the old one pointed to."""
    old = {entry: int(found[1] or 1) for entry in place.iterdir() if (found := _OURS.fullmatch(entry.name))}
    number = max(old.values(), default=0) + 1
    try:
        _write(predictor, place, number)
    except BaseException:
        _remove([place / name for name in names_of(number)])
        raise
    _remove(old)


def _remove(entries: Any) -> None:
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def names_of(number: int) -> tuple[str, str]:
    """Names of the arrays' file and of the sources' folder, for the ``number``-th save at one place."""
    suffix = "" if number == 1 else f"-{number}"
    return f"arrays{suffix}.safetensors", f"sources{suffix}"


def _write(predictor: Any, folder: Path, number: int) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    answers = []
    for index, answer in enumerate(predictor.answers):
        arrays |= {f"{index}/{name}": np.array(value, order="C") for name, value in answer.arrays().items()}
        common = {"target": answer.target, "task": answer.task, "parts": [vars(part) for part in answer.parts]}
        answers.append({**answer.record(), **common})
    keys = sorted(predictor.trained_on)
    arrays["trained_on"] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)
    file, home = names_of(number)
    (folder / home).mkdir(parents=True)
    write_atomic(folder / file, lambda draft: save_file(arrays, draft))
    record = {
        "format": FORMAT,
        "number": number,
        "answers": answers,
        "sources": [_saved_source(predictor, index, folder, home) for index in range(len(predictor.sources))],
        "arrays": key_of_file(folder / file).hex(),
        "history": predictor.history,
        "chosen": predictor.chosen,
        "provenance": predictor.provenance,
    }
    record = plain(record)
    # ASCII: a class named after a folder may hold what UTF-8 cannot write.
    text = json.dumps({**record, "checksum": fingerprint(record, 64)}, indent=1, sort_keys=True)
    write_atomic(folder / RECORD, text + "\n")


def _saved_source(predictor: Any, index: int, folder: Path, home: str) -> dict[str, Any]:
    source = predictor.sources[index]
    whole = source.rebuild is not None
    if whole:
        source.save(folder / home / str(index))
    return {
        "folder": f"{home}/{index}" if whole else None,
        "address": source.address,
        "fingerprint": source.fingerprint,
        "choice": predictor.choices[index].to_dict(),
    }
