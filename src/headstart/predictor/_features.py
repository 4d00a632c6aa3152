"""Rows for a predictor: its sources are run as they were in training, or as near to that as this machine can."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._reading import label, reading
from headstart.bank import Skipped
from headstart.dataset import Dataset
from headstart.engines.base import ENGINES, Choice
from headstart.errors import DataError, MissingPackage, UnreadableItem
from headstart.extraction import device_name, extract
from headstart.sources.base import Source

_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions of the items that every source can read, their rows at every (source, layer), and what was left out."""

    keep: np.ndarray
    at: Mapping[tuple[int, str], np.ndarray]
    skipped: tuple[Skipped, ...]


def rows_of(
    sources: Sequence[Source],
    choices: Sequence[Choice],
    poolings: Sequence[Mapping[str, str]],
    data: Dataset,
    *,
    on_error: str,
    store: str | Path | bool | None,
) -> Rows:
    """``poolings`` has one mapping layer → pooling per source."""
    banks = []
    there = np.ones(len(data), dtype=bool)
    for index, (source, choice, pooling) in enumerate(zip(sources, choices, poolings)):
        if not pooling:
            continue
        how: dict[str, Any] = {"engine": choice.engine, "precision": choice.precision, "batch_size": choice.batch_size}
        home = False if raw(source) else store
        try:
            bank = extract(source, data, layers=list(pooling), pooling=pooling, on_error=on_error, store=home, **how)
        except DataError:
            lost = _unreadable(source, data) if on_error == "skip" else ()
            if len(lost) < max(len(data), 1):
                raise
            return Rows(np.arange(0), {}, lost)
        there &= bank.keep(data)
        banks.append((index, bank))
    keep = np.flatnonzero(there)
    kept = data if len(keep) == len(data) else data.take(keep)
    at = {(index, layer): bank.rows(layer, kept) for index, bank in banks for layer in bank.layers}
    seen = {one.index: one for _, bank in banks for one in bank.skipped}
    return Rows(keep, at, tuple(seen[i] for i in sorted(seen)))


def raw(source: Source) -> bool:
    """Whether features are the items themselves: keeping them on the disk would only copy them."""
    return source.rebuild is not None and (source.rebuild["family"], source.modality) == ("identity", "vector")


def runnable(source: Source, choice: Choice, *, fixed: bool) -> Choice:
    """The choice made in training, or the plain one (said in a note) where this machine cannot do the same.

    ``fixed``: the precision was asked for by name, so it is used even where it has no speed to offer.
    """
    engine = next((name for name in (choice.engine, *source.engines) if _installed(name)), choice.engine)
    able = ENGINES[engine].precisions(source, device_name("auto"))
    precision = choice.precision if fixed or choice.precision in able else "fp32"
    if (engine, precision) == (choice.engine, choice.precision):
        return choice
    note(
        f"{source.name}: fitted with {choice.engine} in {choice.precision}, which this machine does not have; "
        f"{engine} in {precision} is used, whose features are close but not the same."
    )
    return dataclasses.replace(choice, engine=engine, precision=precision, cosine=1.0, speed=0.0)


def items_of(x: Any, modality: str) -> tuple[Dataset, bool]:
    """What a caller asks predictions for as a dataset, and whether it was one item."""
    if isinstance(x, Dataset):
        return x, False
    if hasattr(x, "__array__") and not isinstance(x, (np.ndarray, list, tuple, str)):  # tensors, columns of tables
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "OUS":
        x = x.item() if x.ndim == 0 else list(x)
    single = _is_one(x, modality)
    return Dataset.from_items([x] if single and isinstance(x, np.ndarray) else x, modality), single


def _is_one(x: Any, modality: str) -> bool:
    if isinstance(x, (str, bytes, Path)):
        a_text = isinstance(x, str) and modality == "text"
        return isinstance(x, bytes) or a_text or not Path(x).is_dir()
    if not isinstance(x, np.ndarray):
        return False
    if modality == "image":
        return x.ndim == 2 or (x.ndim == 3 and x.shape[-1] in _CHANNELS)
    return x.ndim == 1


def _installed(engine: str) -> bool:
    try:
        ENGINES[engine].version()
    except MissingPackage:
        return False
    return True


def _unreadable(source: Source, data: Dataset) -> tuple[Skipped, ...]:
    """The items that cannot be read, one by one: asked only when not a single row came out."""
    if data.modality != source.modality and not data.meta.get("preprocessed"):
        return ()
    read = reading(source, data)
    found = []
    for index in range(len(data)):
        try:
            read(index)
        except UnreadableItem as problem:
            found.append(Skipped(label(data, index), problem.reason, index))
    return tuple(found)
