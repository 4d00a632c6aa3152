"""Rows for a predictor: its sources are run as they were in training, or as near to that as this machine can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import SkippedItem
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.engines.base import ENGINES, RuntimeConfig
from headstart.errors import MissingPackage, UnreadableItem
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import NothingReadable, extract
from headstart.extraction.loading import item_label
from headstart.sources.base import Source

_CHANNELS = (1, 3, 4)
_NOTHING = "there is nothing in it"
TOO_LONG = (
    "too long for frame-level features: only some of its patches were looked at. Cut it into shorter clips, or load "
    "the source with a higher max_patches"
)

LayerKey = tuple[int, str]


@dataclass(frozen=True)
class FeatureSpec:
    """One layer of one source, and how it is pooled."""

    source: int
    layer: str
    pooling: str


@dataclass(frozen=True, eq=False)
class Segments:
    """Items taken apart.

    Attributes
    ----------
    pieces : Dataset
        Of all items, in order.
    owner : (m,) array
        The item that each piece belongs to, ascending.
    unreadable : mapping item → reason, optional
        Items that could not be taken apart.
    """

    pieces: Dataset
    owner: np.ndarray
    unreadable: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What the sources gave for the items that every source can read.

    Attributes
    ----------
    data : Dataset
        The items that could be read.
    keep : (n,) array
        Their positions in what was asked for.
    at : mapping (source, layer) → rows
        One row per item, or per piece; un-pooled ones are lists of arrays (steps, d).
    skipped : tuple of SkippedItem
    division : Division, optional
        The pieces of the items in ``data``, where they were taken apart: ``owner`` counts in ``data``.
    """

    data: Dataset
    keep: np.ndarray
    at: Mapping[LayerKey, Any]
    skipped: tuple[SkippedItem, ...]
    division: Segments | None = None


def extract_features(
    sources: Sequence[Source],
    choices: Sequence[RuntimeConfig],
    poolings: Sequence[Mapping[str, str]],
    data: Dataset,
    *,
    divide: Callable[[Dataset], Segments] | None = None,
    on_error: str,
    store: str | Path | bool | None,
) -> FeatureSet:
    """``poolings`` has one mapping layer → pooling per source."""
    if divide is None:
        keep, at, lost = _rows(sources, choices, poolings, data, on_error=on_error, store=store)
        return FeatureSet(_take_or_all(data, keep), keep, at, lost)
    whole = divide(data)
    empty = sorted(set(range(len(data))) - set(whole.owner.tolist()))
    if empty and on_error == "raise":
        raise UnreadableItem(item_label(data, empty[0]), whole.unreadable.get(empty[0], _NOTHING))
    there, at, lost = _rows(sources, choices, poolings, whole.pieces, on_error=on_error, store=store)
    return _join_segments(data, whole, there, at=at, lost=lost)


def _rows(
    sources: Sequence[Source],
    choices: Sequence[RuntimeConfig],
    poolings: Sequence[Mapping[str, str]],
    data: Dataset,
    *,
    on_error: str,
    store: str | Path | bool | None,
) -> tuple[np.ndarray, dict[LayerKey, Any], tuple[SkippedItem, ...]]:
    """Positions of what every source can read, the rows of that, and what was left out."""
    if not len(data):
        return np.arange(0), {}, ()
    banks = []
    there = np.ones(len(data), dtype=bool)
    for index, (source, choice, pooling) in enumerate(zip(sources, choices, poolings)):
        if not pooling:
            continue
        how: dict[str, Any] = {"engine": choice.engine, "precision": choice.precision, "batch_size": choice.batch_size}
        home = False if is_passthrough(source) else store
        try:
            bank = extract(source, data, layers=list(pooling), pooling=pooling, on_error=on_error, store=home, **how)
        except NothingReadable as error:
            if on_error != "skip":
                raise
            return np.arange(0), {}, error.skipped
        there &= bank.keep(data)
        banks.append((index, bank))
    keep = np.flatnonzero(there)
    kept = _take_or_all(data, keep)
    at = {(index, layer): read(bank, layer, kept) for index, bank in banks for layer in bank.layers}
    seen = {one.position: one for _, bank in banks for one in bank.skipped}
    whole = has_frames(at, len(keep))
    for i in keep[~whole].tolist():
        if on_error == "raise":
            raise UnreadableItem(item_label(data, i), TOO_LONG)
        seen[i] = SkippedItem(item_label(data, i), TOO_LONG, i)
    at = {place: take_rows(X, np.flatnonzero(whole)) for place, X in at.items()}
    return keep[whole], at, tuple(seen[i] for i in sorted(seen))


def has_frames(at: Mapping[LayerKey, Any], n: int) -> np.ndarray:
    """Which of n items have frames at every place: a clip that was cut has none."""
    whole = np.ones(n, dtype=bool)
    for X in at.values():
        if isinstance(X, list):
            whole &= np.array([len(one) > 0 for one in X], dtype=bool)
    return whole


def take_rows(X: Any, which: np.ndarray) -> Any:
    """Some rows, of an array or of a list."""
    return [X[i] for i in which.tolist()] if isinstance(X, list) else X if len(which) == len(X) else X[which]


def read(bank: FeatureBank, layer: str, data: Dataset) -> Any:
    """Rows of a layer as heads want them: an array, or a list of arrays where the layer is un-pooled."""
    unpooled = bank.recipe[layer]["pooling"] in ("frames", "none")
    return bank.sequences(layer, data) if unpooled else bank.rows(layer, data)


def _take_or_all(data: Dataset, keep: np.ndarray) -> Dataset:
    return data if len(keep) == len(data) else data.take(keep)


def _join_segments(
    data: Dataset, whole: Segments, there: np.ndarray, *, at: Mapping[LayerKey, Any], lost: Sequence[SkippedItem]
) -> FeatureSet:
    """The items all of whose pieces were read, and their pieces; an item without pieces is left out."""
    readable = np.isin(np.arange(len(whole.owner)), there)
    wanted = np.bincount(whole.owner, minlength=len(data))
    got = np.bincount(whole.owner[readable], minlength=len(data))
    keep = np.flatnonzero((wanted > 0) & (got == wanted))
    reasons = {**whole.unreadable, **{int(whole.owner[one.index]): one.reason for one in lost}}
    skipped = [
        SkippedItem(item_label(data, i), reasons.get(i, _NOTHING), i)
        for i in np.flatnonzero((wanted == 0) | (got < wanted)).tolist()
    ]
    used = np.flatnonzero(np.isin(whole.owner, keep))
    places = np.searchsorted(there, used)
    rows = {place: take_rows(X, places) for place, X in at.items()}
    owner = np.searchsorted(keep, whole.owner[used])
    return FeatureSet(
        _take_or_all(data, keep), keep, rows, tuple(skipped), Segments(_take_or_all(whole.pieces, used), owner)
    )


def is_passthrough(source: Source) -> bool:
    """Whether features are the items themselves: keeping them on the disk would only copy them."""
    return source.rebuild is not None and (source.rebuild["family"], source.modality) == ("identity", "vector")


def resolve_runtime(source: Source, choice: RuntimeConfig, *, fixed: bool) -> RuntimeConfig:
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


def as_dataset(x: Any, modality: str) -> tuple[Dataset, bool]:
    """What a caller asks predictions for as a dataset, and whether it was one item."""
    if isinstance(x, Dataset):
        return x, False
    if hasattr(x, "__array__") and not isinstance(x, (np.ndarray, list, tuple, str)):  # tensors, columns of tables
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind in "OUS":
        x = x.item() if x.ndim == 0 else list(x)
    single = _is_single_item(x, modality)
    return Dataset.from_items([x] if single and isinstance(x, np.ndarray) else x, modality), single


def _is_single_item(x: Any, modality: str) -> bool:
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
