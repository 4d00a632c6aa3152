"""Predictors on disk: one folder of safetensors and JSON. Loading executes nothing from it.

::

    flowers.headstart/
      predictor.json      heads, classes, recipe, provenance, and a check sum of itself
      arrays.safetensors  coefficients; their check sum is in predictor.json
      sources/0/          the source as ``Source.save`` writes it (nothing, for Python objects)

A predictor saved over another one has ``arrays-2.safetensors`` and ``sources-2/``, and so on. The keys of
predictor.json are those of version 0.1 ("answers" are target models, "parts" feature specs, "choice" a runtime).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from headstart._base.constraints import check_saved
from headstart._base.files import read_json, write_atomic
from headstart._base.hashing import fingerprint, key_of_file
from headstart._base.processes import is_main
from headstart._base.typing import Array
from headstart.engines.base import ENGINES, PRECISIONS, RuntimeConfig
from headstart.errors import HeadstartError, MissingPackage, SourceError, StoreError
from headstart.predictor.summarization import Summarization
from headstart.predictor.target_model import HEAD_MODELS, TargetModel, TargetRecord
from headstart.predictor.transcription import Transcription
from headstart.result.record import plain
from headstart.sources.base import Source, load_source

if TYPE_CHECKING:
    from headstart.predictor.predictor import Predictor

TARGET_MODELS: Mapping[str, type[TargetModel]] = {
    **HEAD_MODELS,
    "summarization": Summarization,
    "transcription": Transcription,
}

FORMAT = 1
RECORD = "predictor.json"
KEY_BYTES = 8
_NUMBERED = re.compile(r"(?:arrays|sources)(?:-([1-9][0-9]{0,8}))?(?:\.safetensors)?")


class _RuntimeRecord(BaseModel):
    """A :class:`RuntimeConfig` as it is saved."""

    model_config = ConfigDict(strict=True, extra="forbid")

    engine: str
    precision: str
    device: str = "cpu"
    batch_size: int = Field(16, gt=0)
    cosine: float = Field(1.0, allow_inf_nan=False)
    speed: float = Field(0.0, allow_inf_nan=False)

    def runtime(self) -> RuntimeConfig:
        """Return the runtime; its names must be known here."""
        check_saved(self.engine in list(ENGINES) and self.precision in PRECISIONS, "the runtime of a source")
        return RuntimeConfig(**self.model_dump())


class _SourceRecord(BaseModel):
    """Where a source was saved, and how it is recognised."""

    model_config = ConfigDict(strict=True)

    folder: str | None
    address: str
    fingerprint: str
    choice: _RuntimeRecord


class PredictorRecord(BaseModel):
    """What predictor.json holds, but for its format and its check sum."""

    model_config = ConfigDict(strict=True)

    number: int = Field(gt=0)
    answers: list[dict[str, Any]] = Field(min_length=1)
    sources: list[_SourceRecord] = Field(min_length=1)
    arrays: str
    history: dict[str, Any]
    chosen: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class SavedPredictor:
    """What was read of a predictor: the fields that it is made of."""

    record: PredictorRecord
    sources: tuple[Source, ...]
    targets: tuple[TargetModel, ...]
    choices: tuple[RuntimeConfig, ...]
    trained_on: frozenset[bytes]


class _SourceNotGiven(SourceError):
    """A source that was not saved with its predictor must be handed in."""


def read(path: Path, given_sources: Sequence[Source]) -> SavedPredictor:
    """Read a saved predictor; ``given_sources`` has sources that could not be saved with it."""
    file = path / RECORD
    try:
        if path.is_dir() and not file.is_file():
            raise StoreError(f"{path} is a folder without {RECORD}: no saved predictor.")
        return _read(path, _read_record(file), given_sources)
    except (StoreError, _SourceNotGiven, MissingPackage):
        raise
    except Exception as error:  # the record is whole, but was never written by us
        raise StoreError(f"{file} is no complete record of a predictor: {error!r}") from error


def _read_record(file: Path) -> PredictorRecord:
    record = read_json(file, "saved predictor")
    if not isinstance(record, dict) or "format" not in record:
        raise StoreError(f"{file} is no record of a saved predictor.")
    if record["format"] != FORMAT:
        raise StoreError(f"{file} is of format {record['format']!r}; this version reads format {FORMAT}.")
    checksum = record.pop("checksum", None)
    if checksum != fingerprint(record, 64):
        raise StoreError(f"{file} was changed after it was saved, or is damaged: its check sum is wrong.")
    return PredictorRecord.model_validate(record)


def _read(path: Path, record: PredictorRecord, given_sources: Sequence[Source]) -> SavedPredictor:
    from safetensors.numpy import load_file

    file = path / file_names(record.number)[0]
    if not file.is_file() or key_of_file(file).hex() != record.arrays:
        raise StoreError(f"{file} is not the file that was saved: it is missing, damaged or was changed.")
    arrays = load_file(file)
    targets = tuple(
        _read_target(config, _without_prefix(f"{index}/", arrays), len(record.sources))
        for index, config in enumerate(record.answers)
    )
    check_saved(len({model.target for model in targets}) == len(targets), "its targets")
    keys = arrays["trained_on"]
    check_saved(keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES, "its training items")
    return SavedPredictor(
        record=record,
        targets=targets,
        choices=tuple(entry.choice.runtime() for entry in record.sources),
        sources=tuple(_read_source(path, entry, given_sources) for entry in record.sources),
        trained_on=frozenset(bytes(row) for row in keys),
    )


def _without_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read_target(config: dict[str, Any], state: dict[str, Array], n_sources: int) -> TargetModel:
    record = TargetRecord.model_validate(config)
    check_saved(record.task in TARGET_MODELS, "a task")
    check_saved(all(spec.source < n_sources for spec in record.parts), "a layer")
    return TARGET_MODELS[record.task].from_config(config, state)


def _read_source(path: Path, entry: _SourceRecord, given_sources: Sequence[Source]) -> Source:
    for source in given_sources:
        if source.fingerprint == entry.fingerprint:
            return source
    if entry.folder is None:
        others = ", ".join(f"{s.address} {s.fingerprint[:12]}…" for s in given_sources)
        raise _SourceNotGiven(
            f"{entry.address} is a Python object and was not saved with the predictor. Build it again and give it: "
            f"headstart.load({str(path)!r}, sources=[source]); its fingerprint must be {entry.fingerprint[:12]}…"
            + (f" Given: {others}." if others else "")
        )
    folder = (path / entry.folder).resolve()
    if path.resolve() not in folder.parents:
        raise StoreError(f"{path / RECORD} points outside its folder.")
    try:
        source = load_source(f"saved:{folder}")
    except (StoreError, MissingPackage):
        raise
    except HeadstartError as error:
        raise StoreError(f"The source saved in {folder} cannot be loaded: {error}") from error
    if source.fingerprint != entry.fingerprint:
        raise StoreError(f"The source saved in {folder} is another one than was saved with this predictor.")
    return source


def save(predictor: Predictor, path: Path) -> Path:
    """Write a fresh folder beside ``path`` and rename it; into an old one the record is renamed, last of all.

    So at any moment there is nothing, the complete old predictor or the complete new one at ``path``. Of several
    processes that train together the first one writes.
    """
    if not is_main():
        return path
    try:
        folder = path.expanduser().resolve()
        if _has_predictor(folder):
            _replace(predictor, folder)
        else:
            _create(predictor, folder)
    except StoreError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no name for a file at all
        raise StoreError(f"Cannot save the predictor to {path}: {error}") from error
    return path


def _has_predictor(folder: Path) -> bool:
    """Check for a predictor to replace; anything else that is there is left alone, with a StoreError."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    with suppress(StoreError):
        record = read_json(folder / RECORD)
        if isinstance(record, dict) and {"format", "answers", "sources", "checksum"} <= set(record):
            return True
    raise StoreError(
        f"{folder} exists and is no saved predictor (or a damaged one); it is not overwritten. "
        "Choose another name, or delete it first."
    )


def _create(predictor: Predictor, folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        _write(predictor, draft, 1)
        if folder.is_dir():
            folder.rmdir()
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(predictor: Predictor, folder: Path) -> None:
    """Write under new names, point the record there, then delete what the old one pointed to."""
    old: dict[Path, int] = {}
    for entry in folder.iterdir():
        match = _NUMBERED.fullmatch(entry.name)
        if match:
            old[entry] = int(match[1] or 1)
    number = max(old.values(), default=0) + 1
    try:
        _write(predictor, folder, number)
    except BaseException:
        _remove(folder / name for name in file_names(number))
        raise
    _remove(old)


def _remove(entries: Iterable[Path]) -> None:
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def file_names(number: int) -> tuple[str, str]:
    """Names of the arrays' file and of the sources' folder, for the ``number``-th save at one path."""
    suffix = "" if number == 1 else f"-{number}"
    return f"arrays{suffix}.safetensors", f"sources{suffix}"


def _write(predictor: Predictor, folder: Path, number: int) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for index, model in enumerate(predictor.targets):
        arrays |= {f"{index}/{name}": np.array(value, order="C") for name, value in model.state().items()}
    keys = sorted(predictor.trained_on)
    arrays["trained_on"] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)
    arrays_name, sources_name = file_names(number)
    (folder / sources_name).mkdir(parents=True)
    write_atomic(folder / arrays_name, lambda draft: save_file(arrays, draft))
    record = {
        "format": FORMAT,
        "number": number,
        "answers": [model.config() for model in predictor.targets],
        "sources": [_write_source(predictor, i, folder, sources_name) for i in range(len(predictor.sources))],
        "arrays": key_of_file(folder / arrays_name).hex(),
        "history": predictor.history,
        "chosen": predictor.chosen,
        "provenance": predictor.provenance,
    }
    record = plain(record)
    # ASCII: a class named after a folder may hold what UTF-8 cannot write.
    text = json.dumps({**record, "checksum": fingerprint(record, 64)}, indent=1, sort_keys=True)
    write_atomic(folder / RECORD, text + "\n")


def _write_source(predictor: Predictor, index: int, folder: Path, sources_name: str) -> dict[str, Any]:
    source = predictor.sources[index]
    can_be_rebuilt = source.rebuild is not None
    if can_be_rebuilt:
        source.save(folder / sources_name / str(index))
    return {
        "folder": f"{sources_name}/{index}" if can_be_rebuilt else None,
        "address": source.address,
        "fingerprint": source.fingerprint,
        "choice": predictor.choices[index].to_dict(),
    }
