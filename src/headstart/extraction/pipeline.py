"""Reading, forward pass and writing at the same time, in bounded memory.

Decoding runs in a runner's workers a few batches ahead, the forward pass in the calling thread, writing in one more
thread. Rows are flushed in whole windows, in order, so that an interrupted run resumes at a boundary and forms the same
batches: its rows come out bit for bit as an uninterrupted run's.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from headstart._base.progress import Track
from headstart.errors import UnreadableItem
from headstart.sources.base import Input, Source

_FLUSH_SECONDS = 2.0
_FLUSH_SHARE = 0.02  # of the time so far: long runs write fewer, larger shards
_FLUSH_BYTES = 64 << 20
_SORTED_BATCHES = 16
_WINDOWS_PER_ITEM = 4  # in one batch, on average


@dataclass
class WorkItem:
    """One item on its way: its key, the sample that was read, or the problem that reading it met."""

    position: int
    key: bytes
    sample: Any = None
    problem: UnreadableItem | None = None


@dataclass
class PipelineStats:
    """Seconds per stage and counts of one run.

    Reading is counted over all workers, so the stages may add up to more than the total. Several threads report to one
    of these: ``+=`` on a field is not atomic, so what workers write goes through :meth:`add_read`.
    """

    read: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    rows: int = 0
    problems: list[WorkItem] = field(default_factory=list)
    warnings: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add_read(self, seconds: float, warning: str | None = None) -> None:
        """Count an item that was read, and what is to be said about it."""
        with self._lock:
            self.read += seconds
            if warning:
                self.warnings[warning] += 1


def make_reader(
    read: Callable[[int], Any], stats: PipelineStats, warning: Callable[[Any], str | None] | None = None
) -> Callable[[tuple[int, bytes]], WorkItem]:
    """Return a function for the runner: (position, key) → WorkItem. Only UnreadableItem is taken as the item's fault.

    ``warning`` says what is worth counting about a sample (a text that was cut).
    """

    def read_item(entry: tuple[int, bytes]) -> WorkItem:
        start = time.perf_counter()
        item = WorkItem(*entry)
        text = None
        try:
            item.sample = read(item.position)
        except UnreadableItem as problem:
            item.problem = problem
        else:
            text = warning(item.sample) if warning is not None else None
        stats.add_read(time.perf_counter() - start, text)
        return item

    return read_item


def drop_unreadable(
    items: Iterator[WorkItem], stats: PipelineStats, done: Track, *, raising: bool
) -> Iterator[WorkItem]:  # fmt: skip
    """Yield the items that were read; the others are kept in ``stats.problems``, or raised."""
    for item in items:
        if item.problem is None:
            yield item
            continue
        if raising:
            raise item.problem
        stats.problems.append(item)
        done(1)


def window_size(batch_size: int, source_input: Input) -> int:
    """Return how many items are looked at together: where lengths are known, sixteen batches are sorted by length."""
    return batch_size * (_SORTED_BATCHES if getattr(source_input, "length", None) is not None else 1)


def iter_windows(items: Iterator[WorkItem], batch_size: int, source_input: Input) -> Iterator[list[list[WorkItem]]]:
    """Yield groups of batches that are to be written together.

    Where the source's input knows lengths, items are sorted by length inside a group; where one item gives several
    windows (patches of a clip), a batch ends before it holds more than a few per item.
    """
    length, n_windows = getattr(source_input, "length", None), getattr(source_input, "n_windows", None)
    count = window_size(batch_size, source_input)
    while group := list(islice(items, count)):
        if length is not None:
            group.sort(key=lambda item: length(item.sample))
        yield _split_batches(group, batch_size, n_windows)


def _split_batches(
    group: list[WorkItem], batch_size: int, n_windows: Callable[[Any], int] | None
) -> list[list[WorkItem]]:  # fmt: skip
    batches: list[list[WorkItem]] = []
    total = 0
    for item in group:
        weight = 1 if n_windows is None else n_windows(item.sample)
        full = not batches or len(batches[-1]) == batch_size or total + weight > batch_size * _WINDOWS_PER_ITEM
        if full:
            batches.append([])
            total = 0
        batches[-1].append(item)
        total += weight
    return batches


class Writer:
    """Collects rows and appends them to the tables, one shard at a time: in another thread, the last in this one."""

    def __init__(self, tables: dict[str, Any], stats: PipelineStats) -> None:
        self._tables, self.stats = tables, stats
        self._pool: ThreadPoolExecutor | None = None  # started by the first flush: most runs end before it
        self._keys: list[bytes] = []
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in tables}
        self._bytes = 0
        self._begun = self._last = time.monotonic()
        self._pending: Future[None] | None = None

    def add(self, keys: Sequence[bytes], rows: dict[str, Any]) -> None:
        """Take the rows of one batch."""
        self._keys.extend(keys)
        for name, values in rows.items():
            self._rows[name].append(values)
            self._bytes += sum(v.nbytes for v in values) if isinstance(values, list) else values.nbytes

    def window_ended(self) -> None:
        """Flush when enough time or bytes have gathered. Only here: shards hold whole windows."""
        now = time.monotonic()
        wait = max(_FLUSH_SECONDS, _FLUSH_SHARE * (now - self._begun))
        if self._bytes >= _FLUSH_BYTES or now - self._last >= wait:
            self.flush()

    def flush(self) -> None:
        """Hand what has gathered to the writing thread, after what it was given before."""
        self._join()
        if not self._keys:
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="headstart-write")
        self._pending = self._pool.submit(self._write, *self._take())
        self._last = time.monotonic()

    def close(self, *, failed: bool) -> None:
        """Write the rest, or after a failure only wait for what was handed over."""
        try:
            self._join()
            if self._keys and not failed:
                self._write(*self._take())  # nothing is left to overlap with
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=True)

    def _take(self) -> tuple[list[bytes], dict[str, list[np.ndarray]]]:
        """Hand over what has gathered."""
        keys, rows = self._keys, self._rows
        self._keys, self._rows, self._bytes = [], {name: [] for name in self._tables}, 0
        return keys, rows

    def _join(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, keys: list[bytes], rows: dict[str, list[np.ndarray]]) -> None:
        start = time.perf_counter()
        for name, table in self._tables.items():
            parts = rows[name]
            ragged = isinstance(parts[0], list)
            values: Any = [row for part in parts for row in part] if ragged else np.concatenate(parts)
            new = np.flatnonzero(~table.has(keys))  # another layer may lack items that this one has
            if len(new) < len(keys):
                values = [values[i] for i in new] if ragged else values[new]
            table.append([keys[i] for i in new], values)
        self.stats.write += time.perf_counter() - start


_extracting = 0
_limits: Any = None
_counted = Lock()


@lru_cache(maxsize=1)
def _thread_pools(_modules: int) -> ThreadpoolController:
    """Find the loaded BLAS libraries: 7 ms, so only again when another module, and maybe a library, was loaded."""
    return ThreadpoolController()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """The workers are the parallelism: BLAS threads that spin in them stall the forward pass.

    2 to 4 times slower on 2 cores, measured on clips, whose log-mel front end multiplies matrices. Of several passes at
    once the first sets the limit and the last takes it back.
    """
    global _extracting, _limits
    with _counted:
        if not _extracting:
            _limits = _thread_pools(len(sys.modules)).limit(limits=1, user_api="blas")
        _extracting += 1
    try:
        yield
    finally:
        with _counted:
            _extracting -= 1
            if not _extracting:
                _limits.restore_original_limits()


def run_pipeline(
    items: Iterator[WorkItem],
    session: Callable[[Any], dict[str, Any]],
    writer: Writer,
    *,
    source: Source,
    batch_size: int,
    done: Track,
) -> None:
    """Form batches, run them, hand the rows to the writer. ``writer`` is closed here, whatever happens."""
    stats = writer.stats
    failed = True
    try:
        with _one_blas_thread():
            for window in iter_windows(items, batch_size, source.input):
                for batch in window:
                    start = time.perf_counter()
                    rows = session(source.input.collate([item.sample for item in batch]))
                    stats.forward += time.perf_counter() - start
                    writer.add([item.key for item in batch], rows)
                    stats.rows += len(batch)
                    done(len(batch))
                writer.window_ended()
        failed = False
    finally:
        writer.close(failed=failed)
