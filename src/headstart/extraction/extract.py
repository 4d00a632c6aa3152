"""extract(): find the rows that the store lacks, compute them, and give a bank of all rows requested."""

from __future__ import annotations

import csv
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base import extras
from headstart._base.files import cache_folder, write_atomic
from headstart._base.progress import LEFT_OUT, note
from headstart._base.registry import check_names
from headstart._base.typing import SkippedItem
from headstart.bank.bank import FeatureBank, Store
from headstart.bank.table import MemoryStore, MemoryTable, Table
from headstart.dataset.dataset import Dataset
from headstart.engines.base import ENGINES, RuntimeConfig
from headstart.errors import DataError, OptionError, StoreError, UnreadableItem
from headstart.extraction import autotune, pipeline
from headstart.extraction.jobs import ExtractionJob, JobReport, compute_rows, run_job
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
        ``"local"`` reads items in ``workers`` threads of this process; ``"processes"`` runs shares of the data in
        ``workers`` processes of this machine.
    batch_size : int, optional
        Items per forward pass; measured when not given.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.

    Returns
    -------
    FeatureBank
        ``.rows(layer, data)``, ``.summarise(layer, data)``, ``.computed``, ``.skipped``, ``.seconds``, ``.runtime``.

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
    start = time.perf_counter()
    source = load_source(source)
    _check_arguments(source, data, on_error, batch_size)
    names = source.select(layers)
    poolings = _resolve_poolings(pooling, source, names)
    bank_store, keys = _open_store_and_keys(store, data)
    read = sample_loader(source, data, keys)
    raising = on_error == "raise" if on_error else raises_by_default(data)
    without_key = _items_without_key(data, keys, read, raising=raising)
    first_positions = _first_positions(keys)
    runtime = autotune.choose_runtime(
        source,
        lambda: _probe_samples(read, first_positions),
        engine=engine,
        precision=precision,
        device=device,
        batch_size=batch_size,
    )
    shared = _shared_recipe(source, runtime, data)
    recipes = {name: {**shared, "layer": name, "pooling": poolings[name]} for name in names}
    tables = {name: bank_store.table(recipes[name]) for name in names}
    chosen = time.perf_counter()
    incomplete, missing = _missing_items(tables, first_positions)
    report = JobReport()
    if missing:
        job = ExtractionJob(
            source=source.address,
            data=data.take([position for position, _ in missing]),
            keys=tuple(key for _, key in missing),
            positions=tuple(position for position, _ in missing),
            poolings={name: poolings[name] for name in incomplete},
            recipes={name: recipes[name] for name in incomplete},
            runtime=runtime if batch_size is None else replace(runtime, batch_size=int(batch_size)),
            store=bank_store.root or Path(),
            raising=raising,
        )
        _log_plan(source, job)
        report = _run(job, source, incomplete, runner=runner, workers=workers)
    skipped = _skipped_items(data, keys, without_key, report.problems)
    _report_skipped(bank_store, data, skipped, report.warnings)
    stages = {"read": 0.0, "forward": 0.0, "write": 0.0, **report.seconds}
    seconds = {"choose": chosen - start, **stages, "total": time.perf_counter() - start}
    return FeatureBank(
        tables=tables, recipes=recipes, computed=report.computed, skipped=skipped, seconds=seconds, runtime=runtime
    )


def _run(
    job: ExtractionJob, source: Source, tables: Mapping[str, Table | MemoryTable], *, runner: str, workers: int | None
) -> JobReport:
    """Run a job here, its items read in threads, or cut into jobs for a runner that works elsewhere."""
    if not RUNNERS[runner].runs_jobs:
        return compute_rows(job, source, tables, runner=runner, workers=workers)
    jobs_runner = RUNNERS[runner](workers)
    if source.rebuild is None or isinstance(next(iter(tables.values())), MemoryTable) or jobs_runner.workers == 0:
        note(f"{source.name}: worked on in this process: other processes cannot rebuild the source or share the rows.")
        return compute_rows(job, source, tables)
    multiple = pipeline.window_size(job.runtime.batch_size, source.input)
    with tempfile.TemporaryDirectory(prefix="headstart-source-") as folder:
        address = f"saved:{source.save(Path(folder) / 'source')}"
        threads = max(1, (os.cpu_count() or 1) // jobs_runner.workers)
        jobs = replace(job, source=address, threads=threads).split(jobs_runner.workers, multiple)
        report = JobReport.merge(list(jobs_runner.map(run_job, jobs, ahead=len(jobs))))
    for table in tables.values():
        table.refresh()
    return report


def recipe(source: Source, layer: str, pooling: str, runtime: RuntimeConfig, *, data: Dataset) -> dict[str, Any]:
    """Return everything that changes a row, as plain data: the folder of a table is its hash."""
    return {**_shared_recipe(source, runtime, data), "layer": layer, "pooling": pooling}


def _shared_recipe(source: Source, runtime: RuntimeConfig, data: Dataset) -> dict[str, Any]:
    """Return the part that the recipes of all layers share."""
    built = str(source.rebuild["family"]) if source.rebuild else ""
    libraries = [name for name in _LIBRARIES if name == built or (name, built) == ("transformers", "hf")]
    versions = {name: version for name in libraries if (version := extras.installed_version(name))}
    return {
        "source": source.fingerprint,
        "input": source.input.describe(),
        "reading": reader_for(source, data).recipe(),
        "preprocessed": bool(data.meta.get("preprocessed", False)),
        "sample_rate": data.meta.get("sample_rate"),  # of sounds given as arrays
        "versions": {**versions, **ENGINES[runtime.engine].version()},
        **runtime.recipe(),
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
    is_integer = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_integer and 1 <= batch_size <= _LARGEST_BATCH):
        raise OptionError(f"batch_size must be a whole number from 1 to {_LARGEST_BATCH:,}; got {batch_size!r}.")
    if len(data) == 0:
        raise DataError("The dataset is empty; there is nothing to extract.")
    if data.modality != source.modality and not (data.meta.get("preprocessed") or source.modality == "any"):
        raise DataError(
            f"{source.address} takes {source.modality} data; this dataset is {data.modality}. "
            f"`headstart sources` lists sources for each modality."
        )


def _resolve_poolings(pooling: str | Mapping[str, str], source: Source, names: Sequence[str]) -> dict[str, str]:
    """Return layer → pooling, ``"auto"`` resolved."""
    requested = dict.fromkeys(names, pooling) if isinstance(pooling, str) else pooling
    check_names("layers extracted, which pooling= can name", requested, names)
    class_token = bool(source.meta.get("class_token"))
    poolings = {}
    for name in names:
        layer = source.layer(name)
        poolings[name] = resolve(
            requested.get(name, "auto"), axes=layer.axes, shape=layer.shape, modality=source.modality,
            class_token=class_token,
        )  # fmt: skip
    return poolings


def open_store(store: str | Path | bool | None) -> Store:
    """Return the store at a path; None is the user's own (``$HEADSTART_CACHE``, else the user's cache folder)."""
    return Store(Path(store).expanduser() if isinstance(store, (str, Path)) else cache_folder() / "bank")


def _open_store_and_keys(
    store: str | Path | bool | None, data: Dataset
) -> tuple[Store | MemoryStore, list[bytes | None]]:
    """Return the store, and the content keys of the data (unchanged files are not read again)."""
    if store is False:
        return MemoryStore(), data.keys()
    bank_store = open_store(store)
    with bank_store.key_table() as table:
        return bank_store, data.keys(table)


def _items_without_key(
    data: Dataset, keys: Sequence[bytes | None], read: Callable[[int], Any], *, raising: bool
) -> list[SkippedItem]:
    """Return the items that have no content key, each with the reason, or raise the first."""
    skipped = []
    for position in (i for i, key in enumerate(keys) if key is None):
        problem = skip_reason(read, position)
        if raising:
            raise problem
        skipped.append(SkippedItem(item_label(data, position), problem.reason, position))
    return skipped


def _first_positions(keys: Sequence[bytes | None]) -> dict[bytes, int]:
    """Return content key → the first item that has it, in dataset order: copies are computed once."""
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, position)
    return first


def _probe_samples(read: Callable[[int], Any], first_positions: Mapping[bytes, int]) -> list[Any]:
    """Read up to 32 samples from the beginning of the data, to measure with."""
    samples: list[Any] = []
    for position in islice(first_positions.values(), 4 * _PROBE_ITEMS):
        with suppress(UnreadableItem):
            samples.append(read(position))
        if len(samples) == _PROBE_ITEMS:
            break
    return samples


def _missing_items(
    tables: Mapping[str, Table | MemoryTable], first_positions: Mapping[bytes, int]
) -> tuple[dict[str, Table | MemoryTable], list[tuple[int, bytes]]]:
    """Return the tables that lack rows, and position and key of the items that any of them lacks."""
    keys = list(first_positions)
    has_rows = {name: table.has(keys) for name, table in tables.items()}
    incomplete = {name: table for name, table in tables.items() if not has_rows[name].all()}
    complete = np.ones(len(keys), dtype=bool)
    for name in incomplete:
        complete &= has_rows[name]
    return incomplete, [(first_positions[keys[i]], keys[i]) for i in np.flatnonzero(~complete).tolist()]


def _log_plan(source: Source, job: ExtractionJob) -> None:
    """Note the time and the disk that a long run will take; memory is a few batches."""
    n_items, speed = len(job.keys), job.runtime.speed
    if not speed or n_items / speed <= _LONG_SECONDS:
        return
    layers = {name: source.layer(name) for name in job.poolings}
    numbers = sum(width(pool, axes=layers[name].axes, shape=layers[name].shape) for name, pool in job.poolings.items())
    note(
        f"{source.name}: {n_items:,} items × {len(layers)} layer(s), about {n_items / speed:,.0f} s and "
        f"{n_items * numbers * 4 / 1e6:,.0f} MB on disk ({speed:.0f} items/s, {job.runtime})."
    )


def _skipped_items(
    data: Dataset,
    keys: Sequence[bytes | None],
    without_key: Sequence[SkippedItem],
    reasons: Mapping[bytes, str],
) -> list[SkippedItem]:
    """Return every item that was left out, in dataset order; copies of a broken item are named, too."""
    broken = [
        SkippedItem(item_label(data, position), reasons[key], position)
        for position, key in enumerate(keys)
        if key is not None and key in reasons
    ]
    return sorted([*without_key, *broken], key=lambda item: item.position)


def _report_skipped(
    store: Store | MemoryStore, data: Dataset, skipped: Sequence[SkippedItem], warnings: Mapping[str, int]
) -> None:
    """Note what was cut and what was left out, and write a list of the latter; DataError when nothing is left."""
    for warning, count in warnings.items():
        note(f"{count:,} of {len(data):,} items: {warning}.")
    if not skipped:
        return
    first = skipped[0]
    if len(skipped) == len(data):
        message = f"None of the {len(data):,} items could be read; the first: {first.item}: {first.reason}"
        raise NothingReadable(message, skipped)
    summary = f"{len(skipped)} of {len(data)} items {LEFT_OUT}"
    if store.root is None:
        note(f"{summary}; the first: {first.item}: {first.reason}")
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["item", "reason"])
    writer.writerows([str(item.item), item.reason] for item in skipped)
    path = Path(store.root) / "skipped" / f"{data.fingerprint}.csv"
    try:
        write_atomic(path, text.getvalue())
        where = f"all in {path}"
    except StoreError as error:  # the rows are there: they may well be in a store that others only read
        where = f"the list cannot be kept: {error}"
    note(f"{summary} ({where}); the first: {first.item}: {first.reason}")
