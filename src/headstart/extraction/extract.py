"""extract(): what is asked for, what is there already, what is missing; see the package."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base import extras
from headstart._base.files import cache_folder, write_atomic
from headstart._base.progress import LEFT_OUT, note, track
from headstart._base.registry import check_names
from headstart._base.typing import SkippedItem
from headstart.bank.bank import FeatureBank, Store
from headstart.bank.table import MemoryStore
from headstart.dataset.dataset import Dataset
from headstart.engines.base import ENGINES, RuntimeConfig
from headstart.engines.sessions import open_session
from headstart.errors import DataError, OptionError, StoreError, UnreadableItem
from headstart.extraction import autotune, pipeline
from headstart.extraction.loading import item_label, raises_by_default, reader_for, sample_loader, skip_reason
from headstart.pooling import resolve, width
from headstart.runners.base import RUNNERS
from headstart.sources.base import Source, load_source

_LONG_SECONDS = 10.0
_PROBE_ITEMS = 32
_LIBRARIES = ("timm", "transformers", "keras")
_LARGEST_BATCH = 65_536


class NothingReadable(DataError):
    """Nothing of a dataset could be read; ``skipped`` names its items, so that nobody reads them again to find out."""

    def __init__(self, message: str, skipped: Sequence[SkippedItem]) -> None:
        super().__init__(message)
        self.skipped = tuple(skipped)


def extract(
    source: Source | str,
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    pooling: str | Mapping[str, str] = "auto",
    store: str | Path | bool | None = None,
    engine: str = "auto",
    precision: str = "auto",
    on_error: str | None = None,
    runner: str = "local",
    workers: int | None = None,
    batch_size: int | None = None,
    device: str = "auto",
) -> FeatureBank:
    """Features of a dataset at some layers of a source: computed once, kept on disk, reused everywhere.

    Parameters
    ----------
    source : Source or str
        A source, or its address.
    data : Dataset
    layers : str or iterable of str
        Names, patterns (``"blocks.*"``), ``"auto"`` (all candidates), ``"last"`` or ``"all"``.
    pooling : str or mapping
        One of :data:`headstart.pooling.NAMES`, or one per layer.
    store : path, optional
        Where the bank lives; ``$HEADSTART_CACHE``, else the user's cache folder. False keeps the rows in memory only.
    engine, precision : str
        ``"auto"`` measures once per source and machine and remembers; a name fixes it.
    on_error : {"skip", "raise"}, optional
        What to do with an item that cannot be read: left out and named in ``.skipped`` and in a CSV (the default for
        files and texts), or raised (the default for arrays).
    runner : str
        Where decoding is done; ``workers`` threads for ``"local"``.
    batch_size : int, optional
        Items per forward pass; measured when not given.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.

    Returns
    -------
    FeatureBank
        ``.rows(layer, data)``, ``.summarise(layer, data)``, ``.computed``, ``.skipped``, ``.seconds``, ``.choice``.

    Raises
    ------
    DataError
        When the data has another modality than the source, or nothing in it can be read.
    UnreadableItem
        With ``on_error="raise"``.
    StoreError
        When the store cannot be written.

    Notes
    -----
    Cost: one forward pass per new item up to the deepest layer; nothing for items already in the bank. Memory: a few
    batches, whatever the size of the data. A run killed at any moment resumes where its last shard ended.
    """
    begun = time.perf_counter()
    source = load_source(source)
    _check_arguments(source, data, on_error, batch_size)
    names = source.select(layers)
    pools = _resolve_poolings(pooling, source, names)
    home, keys = _open_store_and_keys(store, data)
    read = sample_loader(source, data, keys)
    raising = on_error == "raise" if on_error else raises_by_default(data)
    unread = _items_without_key(data, keys, read, raising=raising)
    pending = _first_by_key(keys)
    how = {"engine": engine, "precision": precision, "device": device}
    choice = autotune.choose_runtime(source, lambda: _probe_samples(read, pending), batch_size=batch_size, **how)
    shared = _shared_recipe(source, choice, data)
    recipes = {name: {**shared, "layer": name, "pooling": pools[name]} for name in names}
    tables = {name: home.table(recipes[name]) for name in names}
    chosen = time.perf_counter()
    spent = pipeline.PipelineStats()
    lacking, missing = _missing(tables, pending)
    if missing:
        size = batch_size or choice.batch_size
        _note_plan(source, len(missing), {name: pools[name] for name in lacking}, choice)
        session = open_session(source, {name: pools[name] for name in lacking}, choice)
        with track(f"{source.name}: features", len(missing)) as done:
            prepare = pipeline.make_reader(read, spent, getattr(source.input, "warning", None))
            if len(missing) == 1 and workers is None and runner == "local":
                workers = 0  # starting threads takes longer than reading one item
            works = RUNNERS[runner](workers).map(prepare, missing, ahead=3 * size)
            usable = pipeline.drop_unreadable(works, spent, done, raising=raising)
            writer = pipeline.Writer(lacking, spent)
            pipeline.run_pipeline(usable, session.run, writer, source=source, size=size, done=done)
    skipped = _collect_skipped(data, keys, unread, spent.problems)
    _report_skipped(home, data, skipped, spent)
    times = {"choose": chosen - begun, "read": spent.read, "forward": spent.forward, "write": spent.write}
    seconds = {**times, "total": time.perf_counter() - begun}
    return FeatureBank(
        tables=tables, recipes=recipes, computed=spent.rows, skipped=skipped, seconds=seconds, runtime=choice
    )


def recipe(source: Source, layer: str, pooling: str, choice: RuntimeConfig, *, data: Dataset) -> dict[str, Any]:
    """Everything that changes a row, as plain data: the folder of a bank is its hash."""
    return {**_shared_recipe(source, choice, data), "layer": layer, "pooling": pooling}


def _shared_recipe(source: Source, choice: RuntimeConfig, data: Dataset) -> dict[str, Any]:
    """What the recipes of all layers have in common."""
    built = str(source.rebuild["family"]) if source.rebuild else ""
    libraries = [name for name in _LIBRARIES if name == built or (name, built) == ("transformers", "hf")]
    versions = {name: version for name in libraries if (version := extras.installed_version(name))}
    return {
        "source": source.fingerprint,
        "input": source.input.describe(),
        "reading": reader_for(source, data).recipe(),
        "preprocessed": bool(data.meta.get("preprocessed", False)),
        "sample_rate": data.meta.get("sample_rate"),  # of sounds given as arrays
        "versions": {**versions, **ENGINES[choice.engine].version()},
        **choice.recipe(),
        "format": 1,
    }


def _check_arguments(source: Source, data: Dataset, on_error: str | None, batch_size: int | None) -> None:
    if not isinstance(data, Dataset):
        raise DataError(
            f"extract() takes a Dataset; got {type(data).__name__}. Make one with Dataset.from_folder(PATH), "
            "Dataset.from_table(PATH), Dataset.from_arrays(X) or Dataset.from_items(LIST)."
        )
    if on_error not in (None, "skip", "raise"):
        raise OptionError(f"on_error must be 'skip' or 'raise'; got {on_error!r}.")
    whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and 1 <= batch_size <= _LARGEST_BATCH):
        raise OptionError(f"batch_size must be a whole number from 1 to {_LARGEST_BATCH:,}; got {batch_size!r}.")
    if len(data) == 0:
        raise DataError("The dataset is empty; there is nothing to extract.")
    if data.modality != source.modality and not (data.meta.get("preprocessed") or source.modality == "any"):
        raise DataError(
            f"{source.address} takes {source.modality} data; this dataset is {data.modality}. "
            f"`headstart sources` lists sources for each modality."
        )


def _resolve_poolings(pooling: str | Mapping[str, str], source: Source, names: Sequence[str]) -> dict[str, str]:
    """Layer → its pooling, ``"auto"`` resolved."""
    asked = dict.fromkeys(names, pooling) if isinstance(pooling, str) else pooling
    check_names("layers extracted, which pooling= can name", asked, names)
    token = bool(source.meta.get("class_token"))
    found = {name: source.layer(name) for name in names}
    return {
        name: resolve(
            asked.get(name, "auto"), axes=one.axes, shape=one.shape, modality=source.modality, class_token=token
        )
        for name, one in found.items()
    }


def open_store(store: str | Path | bool | None) -> Store:
    """The store of that path; None is the user's own (``$HEADSTART_CACHE``, else the user's cache folder)."""
    return Store(Path(store).expanduser() if isinstance(store, (str, Path)) else cache_folder() / "bank")


def _open_store_and_keys(store: str | Path | bool | None, data: Dataset) -> tuple[Any, list[bytes | None]]:
    """Where rows are kept, and the content keys of the data (unchanged files are not read again)."""
    if store is False:
        return MemoryStore(), data.keys()
    home = open_store(store)
    with home.key_table() as table:
        return home, data.keys(table)


def _items_without_key(data: Dataset, keys: Sequence[bytes | None], read: Any, *, raising: bool) -> list[SkippedItem]:
    """The items that have no content key, with the reason; the first is raised where that is asked for."""
    found = []
    for index in (i for i, key in enumerate(keys) if key is None):
        problem = skip_reason(read, index)
        if raising:
            raise problem
        found.append(SkippedItem(item_label(data, index), problem.reason, index))
    return found


def _first_by_key(keys: Sequence[bytes | None]) -> dict[bytes, int]:
    """Content key → the first item that has it, in dataset order: copies are computed once."""
    first: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, index)
    return first


def _probe_samples(read: Any, pending: Mapping[bytes, int]) -> list[Any]:
    """Up to 32 prepared samples to measure with, from the beginning of the data."""

    def readable_ones() -> Iterable[Any]:
        for index in islice(pending.values(), 4 * _PROBE_ITEMS):
            try:
                yield read(index)
            except UnreadableItem:
                continue

    return list(islice(readable_ones(), _PROBE_ITEMS))


def _missing(tables: Mapping[str, Any], pending: Mapping[bytes, int]) -> tuple[dict[str, Any], list[tuple[int, bytes]]]:
    """The tables that lack rows, and the items that any of them lacks."""
    wanted = list(pending)
    have = {name: table.has(wanted) for name, table in tables.items()}
    lacking = {name: table for name, table in tables.items() if not have[name].all()}
    there = np.ones(len(wanted), dtype=bool)
    for name in lacking:
        there &= have[name]
    return lacking, [(pending[key], key) for key, known in zip(wanted, there) if not known]


def _note_plan(source: Source, items: int, pools: Mapping[str, str], choice: RuntimeConfig) -> None:
    """The plan of a long run: time and disk; memory is a few batches."""
    if not choice.speed or items / choice.speed <= _LONG_SECONDS:
        return
    layers = {name: source.layer(name) for name in pools}
    numbers = sum(width(pool, axes=layers[name].axes, shape=layers[name].shape) for name, pool in pools.items())
    note(
        f"{source.name}: {items:,} items × {len(pools)} layer(s), about {items / choice.speed:,.0f} s and "
        f"{items * numbers * 4 / 1e6:,.0f} MB on disk ({choice.speed:.0f} items/s, {choice})."
    )


def _collect_skipped(
    data: Dataset, keys: Sequence[bytes | None], unread: Sequence[SkippedItem], problems: Sequence[Any]
) -> list[SkippedItem]:
    """Every item that was left out, in dataset order; copies of a broken item are named, too."""
    reasons = {work.key: work.problem.reason for work in problems}
    broken = [SkippedItem(item_label(data, i), reasons[key], i) for i, key in enumerate(keys) if key in reasons]
    return sorted(chain(unread, broken), key=lambda one: one.position)


def _report_skipped(home: Any, data: Dataset, skipped: Sequence[SkippedItem], spent: pipeline.PipelineStats) -> None:
    """Say what was cut and what was left out, and write the latter down; DataError when nothing is left."""
    for remark, count in spent.remarks.items():
        note(f"{count:,} of {len(data):,} items: {remark}.")
    if not skipped:
        return
    first = skipped[0]
    if len(skipped) == len(data):
        message = f"None of the {len(data):,} items could be read; the first: {first.item}: {first.reason}"
        raise NothingReadable(message, skipped)
    summary = f"{len(skipped)} of {len(data)} items {LEFT_OUT}"
    if home.root is None:
        note(f"{summary}; the first: {first.item}: {first.reason}")
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["item", "reason"])
    writer.writerows([str(one.item), one.reason] for one in skipped)
    path = home.root / "skipped" / f"{data.fingerprint}.csv"
    try:
        write_atomic(path, text.getvalue())
        where = f"all in {path}"
    except StoreError as error:  # the rows are there: they may well be in a store that others only read
        where = f"the list cannot be kept: {error}"
    note(f"{summary} ({where}); the first: {first.item}: {first.reason}")
