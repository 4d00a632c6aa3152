"""Predictors on disk: one folder of safetensors + JSON. Loading executes nothing from it.

::

    flowers.headstart/
      predictor.json      heads, classes, recipe, provenance; ends with a check sum of itself
      arrays.safetensors  coefficients
      sources/0/          the source as ``Source.save`` writes it (or only its fingerprint, for Python objects)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headstart._files import read_json
from headstart._hashing import fingerprint, key_of_file
from headstart.engines.base import Choice
from headstart.errors import HeadstartError, SourceError, StoreError
from headstart.heads.base import HEADS
from headstart.predictor._answer import Answer, Part
from headstart.predictor._predictor import Predictor
from headstart.predictor._saving import ARRAYS, FORMAT, RECORD
from headstart.sources.base import Source, load_source


def load(path: str | Path, *, sources: tuple[Source, ...] | list[Source] | None = None) -> Predictor:
    """Load a saved predictor.

    Parameters
    ----------
    path : str or Path
    sources : sequence of Source, optional
        Needed only for sources that are Python objects and could not be saved with it.

    Raises
    ------
    StoreError
        When it is incomplete, damaged, or was changed after it was saved.
    SourceError
        When a source must be given and is not, or is another one.
    """
    path = Path(path).expanduser()
    if path.is_dir() and not (path / RECORD).is_file():
        raise StoreError(f"{path} is a folder without {RECORD}: no saved predictor.")
    record = read_json(path / RECORD, "saved predictor")
    try:
        if record.pop("checksum") != fingerprint(record, 64):
            raise StoreError(f"{path / RECORD} was changed after it was saved, or is damaged: its check sum is wrong.")
        return _read(path, record, list(sources or ()))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(f"{path / RECORD} is no complete record of a predictor: {error!r}") from error


def _read(path: Path, record: dict[str, Any], given: list[Source]) -> Predictor:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if record["format"] != FORMAT:
        raise StoreError(f"{path} was saved in format {record['format']}; this version reads format {FORMAT}.")
    file = path / ARRAYS
    if not file.is_file() or key_of_file(file).hex() != record["arrays"]:
        raise StoreError(f"{file} is not the file that was saved: it is missing, damaged or was changed.")
    try:
        arrays = load_file(file)
    except (SafetensorError, ValueError) as error:
        raise StoreError(f"{file} is damaged: {error}") from error
    sources = tuple(_source(path, entry, given) for entry in record["sources"])
    return Predictor(
        sources=sources,
        answers=tuple(_answer(number, entry, arrays) for number, entry in enumerate(record["answers"])),
        choices=tuple(Choice(**entry["choice"]) for entry in record["sources"]),
        history=record["history"],
        chosen=record["chosen"],
        provenance=record["provenance"],
        trained_on=frozenset(bytes(row) for row in arrays["trained_on"]),
    )


def _answer(number: int, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Answer:
    head = entry["head"]
    state = {name: arrays[f"{number}/{name}"] for name in head["arrays"]}
    classes = entry["classes"]
    return Answer(
        target=entry["target"],
        task=entry["task"],
        classes=None if classes is None else tuple(classes),
        parts=tuple(Part(**part) for part in entry["parts"]),
        head=HEADS[head["name"]].from_state(head["fields"], state),
        log_ratio=arrays.get(f"{number}/log_ratio"),
        counts=None if entry["counts"] is None else dict(entry["counts"]),
    )


def _source(path: Path, entry: dict[str, Any], given: list[Source]) -> Source:
    for source in given:
        if source.fingerprint == entry["fingerprint"]:
            return source
    if entry["folder"] is None:
        raise SourceError(
            f"{entry['address']} is a Python object and was not saved with the predictor. Build it again and give it: "
            f"headstart.load({str(path)!r}, sources=[source]); its fingerprint must be {entry['fingerprint'][:12]}…"
        )
    folder = (path / entry["folder"]).resolve()
    if path.resolve() not in folder.parents:
        raise StoreError(f"{path / RECORD} points outside its folder.")
    try:
        return load_source(f"saved:{folder}")
    except StoreError:
        raise
    except HeadstartError as error:
        raise StoreError(f"The source saved in {folder} cannot be loaded: {error}") from error
