"""Predictors on disk: one folder of safetensors + JSON. Loading executes nothing from it.

::

    flowers.headstart/
      predictor.json      heads, classes, recipe, provenance, and a check sum of itself
      arrays.safetensors  coefficients; their check sum is in predictor.json
      sources/0/          the source as ``Source.save`` writes it (nothing, for Python objects)

A predictor saved over another one has ``arrays-2.safetensors`` and ``sources-2/``, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.constraints import check_saved
from headstart._base.files import read_json
from headstart._base.hashing import fingerprint, key_of_file
from headstart.engines.base import ENGINES, PRECISIONS, RuntimeConfig
from headstart.errors import HeadstartError, MissingPackage, OptionError, SourceError, StoreError
from headstart.extraction.features import FeatureSpec
from headstart.predictor.predictor import Predictor
from headstart.predictor.storage import FORMAT, KEY_BYTES, RECORD, names_of
from headstart.predictor.target_model import TARGET_MODELS, TargetModel
from headstart.sources.base import Source, load_source


def load(path: str | Path, *, sources: Source | Sequence[Source] = ()) -> Predictor:
    """Load a saved predictor.

    Parameters
    ----------
    path : str or Path
    sources : Source or sequence of Source, optional
        Needed only for sources that are Python objects and could not be saved with it.

    Raises
    ------
    StoreError
        When it is incomplete, damaged, or was changed after it was saved.
    SourceError
        When a source must be given and is not, or is another one.
    MissingPackage
        When the package that builds a source is not installed.
    """
    given = [sources] if isinstance(sources, Source) else list(sources)
    if not all(isinstance(source, Source) for source in given):
        raise OptionError(f"sources= takes Source objects; got {', '.join(type(s).__name__ for s in given)}.")
    path = Path(path).expanduser()
    record_file = path / RECORD
    try:
        if path.is_dir() and not record_file.is_file():
            raise StoreError(f"{path} is a folder without {RECORD}: no saved predictor.")
        return _read(path, _record(record_file), given)
    except (StoreError, _NotGiven, MissingPackage):
        raise
    except Exception as error:  # the record is whole, but was never written by us
        raise StoreError(f"{record_file} is no complete record of a predictor: {error!r}") from error


class _NotGiven(SourceError):
    pass


def _record(file: Path) -> dict[str, Any]:
    record = read_json(file, "saved predictor")
    if not isinstance(record, dict) or "format" not in record:
        raise StoreError(f"{file} is no record of a saved predictor.")
    if record["format"] != FORMAT:
        raise StoreError(f"{file} is of format {record['format']!r}; this version reads format {FORMAT}.")
    found = record.pop("checksum", None)
    if found != fingerprint(record, 64):
        raise StoreError(f"{file} was changed after it was saved, or is damaged: its check sum is wrong.")
    return record


def _read(path: Path, record: dict[str, Any], given: list[Source]) -> Predictor:
    from safetensors.numpy import load_file

    number = record["number"]
    check_saved(type(number) is int and number > 0, "its number")
    file = path / names_of(number)[0]
    if not file.is_file() or key_of_file(file).hex() != record["arrays"]:
        raise StoreError(f"{file} is not the file that was saved: it is missing, damaged or was changed.")
    arrays = load_file(file)
    entries = record["sources"]
    check_saved(isinstance(entries, list) and len(entries) > 0, "its sources")
    answers = tuple(_answer(i, entry, arrays, len(entries)) for i, entry in enumerate(record["answers"]))
    check_saved(len(answers) > 0 and len({a.target for a in answers}) == len(answers), "its answers")
    keys = arrays["trained_on"]
    check_saved(keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES, "its training items")
    facts = {name: record[name] for name in ("history", "chosen", "provenance")}
    check_saved(all(isinstance(value, dict) for value in facts.values()), "its history")
    choices = tuple(_choice(entry["choice"]) for entry in entries)
    sources = tuple(_source(path, entry, given) for entry in entries)
    seen = frozenset(bytes(row) for row in keys)
    return Predictor(sources=sources, answers=answers, choices=choices, trained_on=seen, **facts)


def _answer(number: int, entry: dict[str, Any], arrays: dict[str, np.ndarray], sources: int) -> TargetModel:
    target, task = entry["target"], entry["task"]
    check_saved(isinstance(target, str) and task in TARGET_MODELS, "a target")
    parts = tuple(FeatureSpec(**part) for part in entry["parts"])
    check_saved(all(_fits(part, sources) for part in parts), "a layer")
    own = {name.removeprefix(f"{number}/"): array for name, array in arrays.items() if name.startswith(f"{number}/")}
    return TARGET_MODELS[task].rebuilt(entry, own, target=target, parts=parts)


def _fits(part: FeatureSpec, sources: int) -> bool:
    known = type(part.source) is int and 0 <= part.source < sources
    return known and isinstance(part.layer, str) and isinstance(part.pooling, str)


def _choice(entry: dict[str, Any]) -> RuntimeConfig:
    choice = RuntimeConfig(**entry)
    names = choice.engine in list(ENGINES) and choice.precision in PRECISIONS and isinstance(choice.device, str)
    size = type(choice.batch_size) is int and choice.batch_size > 0
    numbers = all(type(n) in (int, float) and math.isfinite(n) for n in (choice.cosine, choice.speed))
    check_saved(names and size and numbers, "how a source is run")
    return choice


def _source(path: Path, entry: dict[str, Any], given: list[Source]) -> Source:
    wanted = entry["fingerprint"]
    for source in given:
        if source.fingerprint == wanted:
            return source
    if entry["folder"] is None:
        others = ", ".join(f"{s.address} {s.fingerprint[:12]}…" for s in given)
        raise _NotGiven(
            f"{entry['address']} is a Python object and was not saved with the predictor. Build it again and give it: "
            f"headstart.load({str(path)!r}, sources=[source]); its fingerprint must be {wanted[:12]}…"
            + (f" Given: {others}." if others else "")
        )
    folder = (path / entry["folder"]).resolve()
    if path.resolve() not in folder.parents:
        raise StoreError(f"{path / RECORD} points outside its folder.")
    try:
        source = load_source(f"saved:{folder}")
    except (StoreError, MissingPackage):
        raise
    except HeadstartError as error:
        raise StoreError(f"The source saved in {folder} cannot be loaded: {error}") from error
    if source.fingerprint != wanted:
        raise StoreError(f"The source saved in {folder} is another one than was saved with this predictor.")
    return source
