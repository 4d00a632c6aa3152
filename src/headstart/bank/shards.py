"""Shard files: written at once, opened by their first kilobytes, read through a memory map. Floor 1.

Also rows on their way into shards and out of them: packed, gathered in the order of a request, merged.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from headstart._base.typing import Array, Ints
from headstart.bank.key_index import KEY, MAX_ROWS
from headstart.bank.shard_format import (
    MAX_HEADER,
    MAX_INNER,
    TYPES,
    DamagedShard,
    RowFormat,
    ShardLayout,
    VanishedShard,
    checksums,
    parse_header,
    row_format,
)
from headstart.errors import DataError, StoreError

SUFFIX = ".safetensors"
BLOCK = 16 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Shard:
    """One trusted shard file.

    Nothing of it stays open: files and maps live for one call. Thousands of shards would otherwise use up the process's
    file handles, and pages once touched would count as its memory.
    """

    path: Path
    layout: ShardLayout
    start: int
    size: int

    def view(self, first: int, last: int) -> Array:
        """Return dense rows ``first`` to ``last`` (exclusive), memory-mapped and checked."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        step = self.rows_per_block()
        for at in range(first, last, step):
            block = slice(at, min(at + step, last))
            self._check(data, block, rows[block])
        return rows[first:last]

    def read(self, which: Ints, out: Array, at: Ints) -> None:
        """Copy dense rows ``which`` to ``out[at]``, checked; memory beyond ``out`` stays at one block."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        step = self.rows_per_block()
        for first in range(0, len(which), step):
            block, target = _as_slice(which[first : first + step]), _as_slice(at[first : first + step])
            copied = rows[block]
            self._check(data, block, copied)
            out[target] = copied

    def read_ragged(self, which: Ints) -> list[Array]:
        """Return the steps of every item ``which``: views of one fresh, checked array."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        starts, lengths = self._spans(data, which)
        joined = np.concatenate([rows[a : a + n] for a, n in zip(starts.tolist(), lengths.tolist())])
        self._check(data, which, joined, lengths)
        ends = np.cumsum(lengths)
        return [joined[a:b] for a, b in zip((ends - lengths).tolist(), ends.tolist())]

    def bytes_of(self, which: Ints) -> int:
        """Return the number of bytes that the rows of some items take."""
        steps = int(self._spans(self._map(), which)[1].sum()) if self.layout.form.ragged else len(which)
        return steps * self.layout.form.width

    def columns(self, which: Ints) -> tuple[Array, Array, Ints | None]:
        """Return keys (S16), sums and, when ragged, lengths of some items."""
        data = self._map()
        keys = np.array(self.layout.part(data, "keys")).view(KEY).reshape(-1)
        lengths = self._spans(data, which)[1] if self.layout.form.ragged else None
        return keys[which], np.array(self.layout.part(data, "sums")[which]), lengths

    def rows_per_block(self) -> int:
        """Return the number of rows that are copied at a time."""
        return max(1, BLOCK // max(1, self.layout.form.width))

    def _map(self) -> Array:
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.size:
                    raise DamagedShard(f"it had {self.size:,} bytes and now has {size:,}", self.path)
                return np.memmap(file, dtype=np.uint8, mode="r", shape=(size,))[self.start :]
        except FileNotFoundError as error:
            raise VanishedShard(self.path) from error

    def _spans(self, data: Array, which: Ints) -> tuple[Ints, Ints]:
        ends = self.layout.part(data, "ends")
        starts = np.where(which > 0, ends[which - 1], 0)
        return starts, np.asarray(ends[which] - starts)

    def _check(self, data: Array, which: Ints | slice, rows: Array, lengths: Ints | None = None) -> None:
        """Compare the sums of some items with the stored ones, at every reading: files may be harmed at any time."""
        actual = checksums(self.layout.part(data, "keys")[which], np.asarray(rows), lengths)
        if not np.array_equal(actual, self.layout.part(data, "sums")[which]):
            raise DamagedShard("its rows do not have the sums that were written with them", self.path)


def _as_slice(which: Ints) -> Ints | slice:
    """Return consecutive numbers as a slice, which numpy copies faster and without a temporary."""
    first, last = int(which[0]), int(which[-1])
    if last - first == len(which) - 1 and bool((np.diff(which) == 1).all()):
        return slice(first, last + 1)
    return which


@dataclass(frozen=True)
class PackedRows:
    """The content of a shard to be written.

    Attributes
    ----------
    keys : (n,) array of S16
    sums : (n,) array of uint64
    lengths : (n,) array of int64, or None
        When ragged.
    rows : iterable of arrays
        The rows in any number of blocks.
    """

    layout: ShardLayout
    keys: Array
    sums: Array
    lengths: Ints | None
    rows: Iterable[Array]


def as_bytes(rows: Array) -> memoryview:
    """Return the bytes of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def write_shard(path: Path, packed: PackedRows, recipe: str) -> Shard:
    """Write a shard to ``path`` (a temporary name: the caller renames it)."""
    layout = packed.layout
    prefix = [packed.keys.tobytes(), packed.sums.astype("<u8").tobytes()]
    if packed.lengths is not None:
        prefix.append(np.cumsum(packed.lengths).astype("<i8").tobytes())
    header = layout.header(recipe, layout.digest(recipe, prefix))
    with open(path, "wb") as file:
        file.writelines([header, *prefix])
        for block in packed.rows:
            file.write(as_bytes(block))
        return Shard(path, layout, len(header), file.tell())


def open_shard(path: Path, recipe: str) -> tuple[Shard, Array]:
    """Open and check a shard without reading its rows.

    Returns
    -------
    (Shard, keys)
        ``keys`` (n,) S16 in row order.

    Raises
    ------
    Damaged
        With the reason, for anything that headstart did not write for this recipe, whole.
    OSError
        When it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise DamagedShard("it is cut short or is no safetensors file")
        text = file.read(length)
        layout, digest = parse_header(text, size - 8 - length)
        if layout.header(recipe, digest)[8:] != text:
            raise DamagedShard("its header is not one that headstart writes for this recipe")
        sizes = {name: last - first for name, (_, _, (first, last)) in layout.tensors().items() if name != "rows"}
        prefix = {name: file.read(size_of_part) for name, size_of_part in sizes.items()}
    if layout.digest(recipe, prefix.values()) != digest:
        raise DamagedShard("its keys do not have the digest that was written with them")
    if layout.form.ragged and not _ascending(np.frombuffer(prefix["ends"], "<i8"), layout.total):
        raise DamagedShard("the ends of its items do not fit its rows")
    return Shard(path, layout, 8 + length, size), np.frombuffer(prefix["keys"], KEY)


def _ascending(ends: Array, total: int) -> bool:
    if not len(ends):
        return total == 0
    return bool(ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == total)


# ---- Rows into shards and out of them: packed, checked, gathered in the order of the request, merged.

Parts: TypeAlias = Sequence[tuple[Shard, Ints]]
_TYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def pack(keys: Array, rows: Array | Sequence[Array]) -> PackedRows | None:
    """Return rows ready to be written; None when there are none.

    Raises
    ------
    DataError
        When rows and keys differ in number, or the rows are of a kind that cannot be stored.
    """
    ragged = not isinstance(rows, np.ndarray)
    if len(rows) != len(keys):
        raise DataError(f"There are {len(keys):,} keys and {len(rows):,} rows; give one per item each.")
    if not len(keys):
        return None
    lengths = None
    if not isinstance(rows, np.ndarray):
        kinds = {(r.shape[1:], r.dtype.str) if isinstance(r, np.ndarray) and r.ndim else type(r).__name__ for r in rows}
        if len(kinds) > 1 or isinstance(next(iter(kinds)), str):
            raise DataError(
                f"Ragged rows are arrays (len_i, …) of one type and inner shape; got {sorted(map(str, kinds))[:3]}."
            )
        lengths = np.array([len(r) for r in rows], dtype=np.int64)
        rows = np.concatenate(rows)
    form = row_format(rows, ragged=ragged)
    if form is None or len(form.inner) > MAX_INNER:
        storable = ", ".join(str(dtype) for dtype in TYPES.values())
        raise DataError(f"Rows of type {rows.dtype} and shape {rows.shape} cannot be stored; types are {storable}.")
    rows = np.ascontiguousarray(rows, dtype=form.numpy)
    checks = checksums(keys.view(np.uint8).reshape(len(keys), -1), rows, lengths)
    return PackedRows(ShardLayout(form, len(keys), len(rows)), keys, checks, lengths, [rows])


def check_format(form: RowFormat, existing: RowFormat | None, dtype: str | None) -> None:
    """Raise DataError unless rows of this form fit a table with rows ``existing`` and a recipe with ``dtype``."""
    if dtype is not None and form.dtype != _TYPE_NAMES.get(dtype, form.dtype):
        raise DataError(f"the recipe says dtype {dtype!r}, and these rows are of type {form.dtype}: convert them first")
    if existing is not None and form != existing:
        raise DataError(f"this table has {existing}, and these are {form}: another kind of rows needs another recipe")


def gather(
    shards: Sequence[Shard],
    positions: Ints,
    form: RowFormat | None,
    *,
    floats: bool,
    copy: bool,
    spill: tuple[int, Path],
) -> Any:
    """Return the rows at ``positions``, in that order.

    ``spill`` is the number of bytes above which they are put into a temporary file, and a folder for it. With ``copy``
    they never are, and never a view.
    """
    if form is None or not len(positions):
        return _no_rows(form, floats)
    owner, rows = positions // MAX_ROWS, positions % MAX_ROWS
    plain = not floats or form.dtype == "F32"
    if not copy and not form.ragged and plain and (owner == owner[0]).all() and (np.diff(rows) == 1).all():
        return shards[owner[0]].view(int(rows[0]), int(rows[-1]) + 1)
    order = np.argsort(owner, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    if not copy:
        size = sum(shards[owner[g[0]]].bytes_of(rows[g]) for g in groups)
        if size * (4 if floats else form.numpy.itemsize) // form.numpy.itemsize > spill[0]:
            return _gather_to_file(shards, positions, form, floats=floats, folder=spill[1])
    if not form.ragged:
        out = np.empty((len(positions), *form.inner), np.float32 if floats else form.numpy)
        for g in groups:
            shards[owner[g[0]]].read(rows[g], out, g)  # assignment converts to float32
        return out
    items: list[Any] = [None] * len(positions)
    for g in groups:
        for i, item in zip(g.tolist(), shards[owner[g[0]]].read_ragged(rows[g])):
            items[i] = item.astype(np.float32, copy=False) if floats else item
    return items


def merge_parts(parts: Parts) -> PackedRows:
    """Make one shard from some rows of several; the rows are read, checked and handed on block by block."""
    keys, checks, lengths = zip(*(shard.columns(which) for shard, which in parts))
    form = parts[0][0].layout.form
    steps = np.concatenate(lengths) if form.ragged else None
    count = sum(map(len, keys))
    layout = ShardLayout(form, count, count if steps is None else int(steps.sum()))
    return PackedRows(layout, np.concatenate(keys), np.concatenate(checks), steps, _blocks(parts))


def _blocks(parts: Parts) -> Iterator[Array]:
    for shard, which in parts:
        per_item = -(-shard.bytes_of(which) // max(1, len(which)))
        step = max(1, BLOCK // max(1, per_item))
        for first in range(0, len(which), step):
            block_rows = which[first : first + step]
            if shard.layout.form.ragged:
                yield np.concatenate(shard.read_ragged(block_rows))
            else:
                block = np.empty((len(block_rows), *shard.layout.form.inner), shard.layout.form.numpy)
                shard.read(block_rows, block, np.arange(len(block_rows)))
                yield block


def _gather_to_file(shards: Sequence[Shard], positions: Ints, form: RowFormat, *, floats: bool, folder: Path) -> Any:
    """Gather the rows in an unnamed temporary file, memory-mapped: RAM holds a few blocks of them."""
    dtype = np.dtype(np.float32) if floats else form.numpy
    block_rows = max(1, 4 * BLOCK // max(1, form.width))
    lengths: list[int] = []
    try:
        with _temporary_file(folder) as file:
            for first in range(0, len(positions), block_rows):
                rows = gather(
                    shards, positions[first : first + block_rows], form, floats=floats, copy=True, spill=(0, folder)
                )
                for block in rows if form.ragged else [rows]:
                    lengths.append(len(block))
                    file.write(as_bytes(block))
            file.flush()
            gathered = np.memmap(file, dtype=dtype, mode="r", shape=(sum(lengths), *form.inner))
    except OSError as error:
        raise StoreError(
            f"Cannot gather {len(positions):,} rows into a temporary file in {folder}: {error.strerror or error}. "
            "Free some disk space, or read them in batches."
        ) from error
    return np.split(gathered, np.cumsum(lengths)[:-1]) if form.ragged else gathered


def _temporary_file(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder)  # beside the shards: the system's own may lie in memory
    except OSError:
        return tempfile.TemporaryFile()


def _no_rows(form: RowFormat | None, floats: bool) -> Any:
    if form is None:
        return np.empty((0, 0), np.float32)
    return [] if form.ragged else np.empty((0, *form.inner), np.float32 if floats else form.numpy)
