"""Shard files: written at once, opened by their first kilobytes, read through a memory map. Floor 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from headstart._typing import Array, Ints
from headstart.bank._key_index import KEY
from headstart.bank._shard_format import MAX_HEADER, Damaged, ShardLayout, Vanished, parse, sums

Convert: TypeAlias = Callable[[Array], Array]

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
        """Dense rows ``first`` to ``last`` (exclusive), memory-mapped and checked."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        step = self.rows_per_block()
        for at in range(first, last, step):
            some = slice(at, min(at + step, last))
            self._check(data, some, rows[some])
        return rows[first:last]

    def read(self, which: Ints, out: Array, at: Ints, *, convert: Convert | None = None) -> None:
        """Copy dense rows ``which`` to ``out[at]``, checked; memory beyond ``out`` stays at one block."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        step = self.rows_per_block()
        for first in range(0, len(which), step):
            some, there = _run(which[first : first + step]), _run(at[first : first + step])
            copied = rows[some]
            self._check(data, some, copied)
            out[there] = convert(copied) if convert else copied

    def read_ragged(self, which: Ints) -> list[Array]:
        """The steps of every item ``which``: views of one fresh, checked array."""
        data = self._map()
        rows = self.layout.part(data, "rows")
        starts, lengths = self._spans(data, which)
        joined = np.concatenate([rows[a : a + n] for a, n in zip(starts.tolist(), lengths.tolist())])
        self._check(data, which, joined, lengths)
        ends = np.cumsum(lengths)
        return [joined[a:b] for a, b in zip((ends - lengths).tolist(), ends.tolist())]

    def bytes_of(self, which: Ints) -> int:
        """How many bytes the rows of some items take."""
        steps = int(self._spans(self._map(), which)[1].sum()) if self.layout.form.ragged else len(which)
        return steps * self.layout.form.width

    def columns(self, which: Ints) -> tuple[Array, Array, Ints | None]:
        """Keys (S16), sums and, when ragged, lengths of some items."""
        data = self._map()
        keys = np.array(self.layout.part(data, "keys")).view(KEY).reshape(-1)
        lengths = self._spans(data, which)[1] if self.layout.form.ragged else None
        return keys[which], np.array(self.layout.part(data, "sums")[which]), lengths

    def rows_per_block(self) -> int:
        """How many rows are copied at a time."""
        return max(1, BLOCK // max(1, self.layout.form.width))

    def _map(self) -> Array:
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.size:
                    raise Damaged(f"it had {self.size:,} bytes and now has {size:,}", self.path)
                return np.memmap(file, dtype=np.uint8, mode="r", shape=(size,))[self.start :]
        except FileNotFoundError as error:
            raise Vanished(self.path) from error

    def _spans(self, data: Array, which: Ints) -> tuple[Ints, Ints]:
        ends = self.layout.part(data, "ends")
        starts = np.where(which > 0, ends[which - 1], 0)
        return starts, np.asarray(ends[which] - starts)

    def _check(self, data: Array, which: Ints | slice, rows: Array, lengths: Ints | None = None) -> None:
        """Compare the sums of some items with the stored ones, at every reading: files may be harmed at any time."""
        found = sums(self.layout.part(data, "keys")[which], np.asarray(rows), lengths)
        if not np.array_equal(found, self.layout.part(data, "sums")[which]):
            raise Damaged("its rows do not have the sums that were written with them", self.path)


def _run(which: Ints) -> Ints | slice:
    """Consecutive numbers as a slice, which numpy copies faster and without a temporary."""
    first, last = int(which[0]), int(which[-1])
    if last - first == len(which) - 1 and bool((np.diff(which) == 1).all()):
        return slice(first, last + 1)
    return which


@dataclass(frozen=True)
class Packed:
    """What a shard is written from: ``keys`` S16 (n,), ``sums`` (n,), ``lengths`` (n,) when ragged, and the rows in any
    number of blocks."""

    layout: ShardLayout
    keys: Array
    sums: Array
    lengths: Ints | None
    rows: Iterable[Array]


def raw(rows: Array) -> memoryview:
    """The bytes of an array, without a copy where it is contiguous."""
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def write_shard(path: Path, packed: Packed, recipe: str) -> Shard:
    """Write a shard to ``path`` (a temporary name: the caller renames it)."""
    layout = packed.layout
    prefix = [packed.keys.tobytes(), packed.sums.astype("<u8").tobytes()]
    if packed.lengths is not None:
        prefix.append(np.cumsum(packed.lengths).astype("<i8").tobytes())
    header = layout.header(recipe, layout.digest(recipe, prefix))
    with open(path, "wb") as file:
        file.writelines([header, *prefix])
        for block in packed.rows:
            file.write(raw(block))
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
            raise Damaged("it is cut short or is no safetensors file")
        text = file.read(length)
        layout, digest = parse(text, size - 8 - length)
        if layout.header(recipe, digest)[8:] != text:
            raise Damaged("its header is not one that headstart writes for this recipe")
        places = {name: last - first for name, (_, _, (first, last)) in layout.tensors().items() if name != "rows"}
        prefix = {name: file.read(room) for name, room in places.items()}
    if layout.digest(recipe, prefix.values()) != digest:
        raise Damaged("its keys do not have the digest that was written with them")
    if layout.form.ragged and not _ascending(np.frombuffer(prefix["ends"], "<i8"), layout.total):
        raise Damaged("the ends of its items do not fit its rows")
    return Shard(path, layout, 8 + length, size), np.frombuffer(prefix["keys"], KEY)


def _ascending(ends: Array, total: int) -> bool:
    if not len(ends):
        return total == 0
    return bool(ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == total)
