"""Features of several sources for the items that all of them can read, and how a predictor's sources are run.

Training reads candidate layers of every source; a fitted predictor reads the layers of its heads, run as in training or
as near to that as this machine can. Both get a :class:`FeatureSet`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import Array, Float, Ints, SkippedItem
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.engines.base import ENGINES, RuntimeConfig
from headstart.errors import DataError, MissingPackage, UnreadableItem
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import NothingReadable, extract
from headstart.extraction.loading import item_label
from headstart.sources.base import Source, display_names

_CHANNELS = (1, 3, 4)
_NOTHING = "there is nothing in it"
TOO_LONG = (
    "too long for frame-level features: only some of its patches were looked at. Cut it into shorter clips, or load "
    "the source with a higher max_patches"
)

LayerKey = tuple[int, str]  # (number of the source, layer)
LayerRows = Any  # (n, …) array, or for un-pooled layers a list of n arrays (steps, d)


@dataclass(frozen=True)
class FeatureSpec:
    """One layer of one source, and how it is pooled."""

    source: int
    layer: str
    pooling: str

    @property
    def key(self) -> LayerKey:
        """The key of its rows in a :class:`FeatureSet`."""
        return self.source, self.layer


@dataclass(frozen=True)
class ExtractOptions:
    """Options of :func:`headstart.extract` for one of several sources; see there."""

    layers: str | Sequence[str] = "auto"
    pooling: str | Mapping[str, str] = "auto"
    engine: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    device: str = "auto"
    on_error: str | None = None


@dataclass(frozen=True, eq=False)
class Segments:
    """Items cut into segments: documents into sentences.

    Attributes
    ----------
    data : Dataset
        The m segments of all items, in order.
    item_index : (m,) array
        The item that each segment belongs to, ascending.
    unreadable : mapping item → reason, optional
        Items that could not be cut.
    """

    data: Dataset
    item_index: Ints
    unreadable: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of several sources, for the n items that every source can read.

    Attributes
    ----------
    data : Dataset
        The items that could be read.
    rows : mapping (source, layer) → rows
        One row per item, or per segment; un-pooled layers give lists of arrays (steps, d).
    specs : mapping (source, layer) → FeatureSpec
    index : (n,) array
        Positions of the items in the dataset that was asked for.
    skipped : tuple of SkippedItem
        The other items, each once, by position.
    sources : tuple of Source
    runtimes : tuple of RuntimeConfig
        How each source was run.
    segments : Segments, optional
        The segments of ``data``, where items were cut: ``item_index`` counts in ``data``.
    """

    data: Dataset
    rows: Mapping[LayerKey, LayerRows]
    specs: Mapping[LayerKey, FeatureSpec]
    index: Ints
    skipped: tuple[SkippedItem, ...] = ()
    sources: tuple[Source, ...] = ()
    runtimes: tuple[RuntimeConfig, ...] = ()
    segments: Segments | None = None

    def take(self, index: Ints) -> FeatureSet:
        """Return the features of some of the items, in the order of ``index``."""
        index = np.asarray(index, dtype=np.int64)
        row_index, segments = index, None
        if self.segments is not None:
            of_item = [np.flatnonzero(self.segments.item_index == i) for i in index.tolist()]
            row_index = np.concatenate([*of_item, np.zeros(0, np.int64)])
            item_index = np.repeat(np.arange(len(index)), [len(positions) for positions in of_item])
            segments = Segments(self.segments.data.take(row_index), item_index)
        rows = {key: take_rows(X, row_index) for key, X in self.rows.items()}
        data = self.data.take(index)
        return dataclasses.replace(self, data=data, rows=rows, index=self.index[index], segments=segments)

    def labelled(self, target: str) -> tuple[FeatureSet, Float]:
        """Return the items that have a label in one column, and their targets (n, t).

        Raises
        ------
        DataError
            When there is none.
        """
        column = next(column for column in self.data.columns if column.name == target)
        T = column.matrix()
        has_label = ~np.isnan(T).any(axis=1)
        if has_label.all():
            return self, T
        if not has_label.any():
            raise DataError(f"No item has a label in {target!r}.")
        index = np.flatnonzero(has_label)
        note(f"{len(T) - len(index)} of {len(T)} items have no label in {target!r} and are left out.")
        return self.take(index), T[index]

    def concatenate(self, keys: Sequence[LayerKey]) -> Array:
        """Return pooled layers side by side, (n, d); of one layer the rows themselves."""
        if len(keys) == 1:
            return np.asanyarray(self.rows[keys[0]])  # memory-mapped rows stay so
        return np.concatenate([self.rows[key] for key in keys], axis=1)

    def deepest_first(self) -> list[LayerKey]:
        """Return all keys, source by source: of equals the first is chosen, and deeper layers are the usual choice."""
        macs = {(i, layer.name): layer.macs for i, source in enumerate(self.sources) for layer in source.layers}
        return sorted(self.rows, key=lambda key: (key[0], -macs.get(key, 0)))

    def display_name(self, key: LayerKey) -> str:
        """Return the name of a layer in tables: with its source where there are several."""
        if len(self.sources) == 1:
            return key[1]
        return f"{display_names(self.sources)[key[0]]}/{key[1]}"


def extract_all(
    sources: Sequence[Source],
    data: Dataset,
    options: Sequence[ExtractOptions | None],
    *,
    store: str | Path | bool | None = None,
    pooled: bool = False,
) -> FeatureSet:
    """Extract features of several sources, and keep the items that all of them can read.

    Parameters
    ----------
    sources : sequence of Source
    data : Dataset
    options : sequence of ExtractOptions or None
        One per source; None leaves a source out (its number stays).
    store
        As for :func:`headstart.extract`. Vectors that are their own features are not stored again.
    pooled : bool
        True reads one row per item at every layer, as heads need them; False reads un-pooled layers as lists.

    Returns
    -------
    FeatureSet
        It may be empty. Items that were cut short, so that an un-pooled layer has no frames of them, are among its
        ``skipped``.

    Raises
    ------
    NothingReadable
        When one source can read no item at all.
    DataError
        With ``pooled``, where items have rows of different lengths.

    Notes
    -----
    Cost: one :func:`headstart.extract` per source.
    """
    banks: dict[int, FeatureBank] = {}
    readable = np.ones(len(data), dtype=bool)
    for number, (source, source_options) in enumerate(zip(sources, options, strict=True)):
        if source_options is None:
            continue
        source_store = False if is_passthrough(source) else store
        bank = extract(source, data, store=source_store, **vars(source_options))
        readable &= bank.keep(data)
        banks[number] = bank
    index = np.flatnonzero(readable)
    data_read = _take_or_all(data, index)
    rows: dict[LayerKey, LayerRows] = {}
    specs: dict[LayerKey, FeatureSpec] = {}
    skipped: dict[int, SkippedItem] = {}
    for number, bank in banks.items():
        skipped |= {item.position: item for item in bank.skipped}
        for layer in bank.layers:
            specs[number, layer] = FeatureSpec(number, layer, bank.recipe[layer]["pooling"])
            rows[number, layer] = bank.rows(layer, data_read) if pooled else _read_rows(bank, layer, data_read)
    complete = has_frames(rows, len(index))
    skipped |= {i: SkippedItem(item_label(data, i), TOO_LONG, i) for i in index[~complete].tolist()}
    features = FeatureSet(
        data_read,
        rows,
        specs,
        index,
        skipped=tuple(skipped[position] for position in sorted(skipped)),
        sources=tuple(sources),
        runtimes=tuple(bank.runtime for bank in banks.values()),
    )
    return features if complete.all() else features.take(np.flatnonzero(complete))


def extract_features(
    sources: Sequence[Source],
    runtimes: Sequence[RuntimeConfig],
    poolings: Sequence[Mapping[str, str]],
    data: Dataset,
    *,
    divide: Callable[[Dataset], Segments] | None = None,
    on_error: str,
    store: str | Path | bool | None,
) -> FeatureSet:
    """Extract features as a fitted predictor reads them.

    Parameters
    ----------
    sources, runtimes : sequences
        Each source, and how it is run.
    poolings : sequence of mappings
        Per source, layer → pooling; empty for a source that is not needed.
    divide : callable, optional
        Cuts the items into the segments that the sources run on.
    on_error : {"skip", "raise"}

    Raises
    ------
    UnreadableItem
        With ``on_error="raise"``, for the first item that cannot be read.
    """
    options = [
        ExtractOptions(list(pooling), pooling, runtime.engine, runtime.precision, runtime.batch_size, on_error=on_error)
        if pooling
        else None
        for runtime, pooling in zip(runtimes, poolings, strict=True)
    ]
    segments = None if divide is None else divide(data)
    if segments is None:
        return _extract_or_skip(sources, data, options, on_error=on_error, store=store)
    empty = np.setdiff1d(np.arange(len(data)), segments.item_index).tolist()
    if empty and on_error == "raise":
        raise UnreadableItem(item_label(data, empty[0]), segments.unreadable.get(empty[0], _NOTHING))
    features = _extract_or_skip(sources, segments.data, options, on_error=on_error, store=store)
    return _join_segments(data, segments, features)


def _extract_or_skip(
    sources: Sequence[Source],
    data: Dataset,
    options: Sequence[ExtractOptions | None],
    *,
    on_error: str,
    store: str | Path | bool | None,
) -> FeatureSet:
    """Extract; nothing readable is no error where items may be skipped, and clips cut short are one otherwise."""
    nothing = np.zeros(0, np.int64)
    if not len(data):
        return FeatureSet(data, {}, {}, nothing, sources=tuple(sources))
    try:
        features = extract_all(sources, data, options, store=store)
    except NothingReadable as error:
        if on_error != "skip":
            raise
        return FeatureSet(data.take(nothing), {}, {}, nothing, skipped=error.skipped, sources=tuple(sources))
    too_long = [item for item in features.skipped if item.reason == TOO_LONG]
    if too_long and on_error == "raise":
        raise UnreadableItem(too_long[0].item, TOO_LONG)
    return features


def has_frames(rows: Mapping[LayerKey, LayerRows], n_items: int) -> Array:
    """Return a mask (n,) of the items with frames at every layer: a clip that was cut has none."""
    complete = np.ones(n_items, dtype=bool)
    for X in rows.values():
        if isinstance(X, list):
            complete &= np.array([len(frames) > 0 for frames in X], dtype=bool)
    return complete


def take_rows(X: LayerRows, index: Ints) -> LayerRows:
    """Return some rows of an array or a list."""
    return [X[i] for i in index.tolist()] if isinstance(X, list) else X[index]


def _read_rows(bank: FeatureBank, layer: str, data: Dataset) -> LayerRows:
    """Return the rows of a layer as heads read them: an array, or a list of arrays where the layer is un-pooled."""
    unpooled = bank.recipe[layer]["pooling"] in ("frames", "none")
    return bank.sequences(layer, data) if unpooled else bank.rows(layer, data)


def _take_or_all(data: Dataset, index: Ints) -> Dataset:
    return data if len(index) == len(data) else data.take(index)


def _join_segments(data: Dataset, segments: Segments, features: FeatureSet) -> FeatureSet:
    """Return the items all of whose segments were read, with these; an item without segments is left out."""
    item_index = segments.item_index
    n_segments = np.bincount(item_index, minlength=len(data))
    n_read = np.bincount(item_index[features.index], minlength=len(data))
    complete = (n_segments > 0) & (n_read == n_segments)
    index = np.flatnonzero(complete)
    unread = {int(item_index[segment.position]): segment.reason for segment in features.skipped}
    reasons = {**segments.unreadable, **unread}
    skipped = [
        SkippedItem(item_label(data, i), reasons.get(i, _NOTHING), i) for i in np.flatnonzero(~complete).tolist()
    ]
    used = np.flatnonzero(np.isin(item_index, index))
    positions = np.searchsorted(features.index, used)  # of these segments among those that were read
    return dataclasses.replace(
        features,
        data=_take_or_all(data, index),
        rows={key: take_rows(X, positions) for key, X in features.rows.items()},
        index=index,
        skipped=tuple(skipped),
        segments=Segments(_take_or_all(segments.data, used), np.searchsorted(index, item_index[used])),
    )


def is_passthrough(source: Source) -> bool:
    """Return True where features are the items themselves: keeping them on the disk would only copy them."""
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
