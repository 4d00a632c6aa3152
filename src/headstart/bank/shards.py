"""Shard files: written at once, opened by their first kilobytes, read through a memory map. Floor 1."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Damaged,
    Form,
    ShardLayout,
    Vanished,
    form_of,
    parse,
    sums,
)
from headstart.errors import DataError, StoreError

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


# ---- bfloat16 for numpy, which has no such type: the upper half of a float32 kept as uint16. Floor 1. ----


def to_bf16(values: Array) -> Array:
    """Round float32 to bfloat16, to the nearest and ties to even, as hardware does.

    Parameters
    ----------
    values : array of float32, any shape

    Returns
    -------
    array of uint16, same shape
        Raw bits. NaN stays NaN, infinities stay; finite numbers above the largest bfloat16 become infinite.

    Examples
    --------
    >>> from_bf16(to_bf16(np.array([1.0, 3.14159, np.inf], dtype=np.float32))).tolist()
    [1.0, 3.140625, inf]
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding would carry the bits of some NaN into the exponent or the sign: cut those, and keep them quiet.
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """The float32 values, exactly, of raw bfloat16 bits (uint16)."""
    return (np.asarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


# ---- Rows into shards and out of them: packed, checked, gathered in the order asked, merged. Floor 1. ----


Parts: TypeAlias = Sequence[tuple[Shard, Ints]]
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def pack(keys: Array, rows: Array | Sequence[Array], *, bfloat16: bool) -> Packed | None:
    """Rows ready to be written; None when there are none.

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
    form = form_of(rows, ragged=ragged, bfloat16=bfloat16)
    if form is None or len(form.inner) > MAX_INNER:
        wish = "uint16 (raw bfloat16 bits, see to_bf16)" if bfloat16 else "one of " + ", ".join(_storable())
        raise DataError(f"Rows of type {rows.dtype} and shape {rows.shape} cannot be stored; this table takes {wish}.")
    rows = np.ascontiguousarray(rows, dtype=form.numpy)
    checks = sums(keys.view(np.uint8).reshape(len(keys), -1), rows, lengths)
    return Packed(ShardLayout(form, len(keys), len(rows)), keys, checks, lengths, [rows])


def check_form(form: Form, there: Form | None, dtype: str | None) -> None:
    """DataError unless rows of this form belong into a table that has rows ``there`` and a recipe with ``dtype``."""
    if dtype is not None and form.dtype != _NAMES.get(dtype, form.dtype):
        raise DataError(f"the recipe says dtype {dtype!r}, and these rows are of type {form.dtype}: convert them first")
    if there is not None and form != there:
        raise DataError(f"this table has {there}, and these are {form}: another kind of rows needs another recipe")


def gather(
    shards: Sequence[Shard], places: Ints, form: Form | None, *, floats: bool, copy: bool, spill: tuple[int, Path]
) -> Any:
    """Rows at ``places``, in that order.

    ``spill`` is the number of bytes above which they are put into a temporary file, and a folder for it. With ``copy``
    they never are, and never a view.
    """
    if form is None or not len(places):
        return _nothing(form, floats)
    owner, rows = places // MAX_ROWS, places % MAX_ROWS
    plain = not floats or form.dtype == "F32"
    if not copy and not form.ragged and plain and (owner == owner[0]).all() and (np.diff(rows) == 1).all():
        return shards[owner[0]].view(int(rows[0]), int(rows[-1]) + 1)
    order = np.argsort(owner, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    if not copy:
        size = sum(shards[owner[g[0]]].bytes_of(rows[g]) for g in groups)
        if size * (4 if floats else form.numpy.itemsize) // form.numpy.itemsize > spill[0]:
            return _spilled(shards, places, form, floats=floats, folder=spill[1])
    if not form.ragged:
        out = np.empty((len(places), *form.inner), np.float32 if floats else form.numpy)
        for g in groups:
            shards[owner[g[0]]].read(rows[g], out, g, convert=from_bf16 if floats and form.dtype == "BF16" else None)
        return out
    items: list[Any] = [None] * len(places)
    for g in groups:
        for i, item in zip(g.tolist(), shards[owner[g[0]]].read_ragged(rows[g])):
            items[i] = _floats(item, form) if floats else item
    return items


def merge_parts(parts: Parts) -> Packed:
    """One shard from some rows of several; the rows are read, checked and handed on block by block."""
    keys, checks, lengths = zip(*(shard.columns(which) for shard, which in parts))
    form = parts[0][0].layout.form
    steps = np.concatenate(lengths) if form.ragged else None
    count = sum(map(len, keys))
    layout = ShardLayout(form, count, count if steps is None else int(steps.sum()))
    return Packed(layout, np.concatenate(keys), np.concatenate(checks), steps, _blocks(parts))


def _blocks(parts: Parts) -> Iterator[Array]:
    for shard, which in parts:
        per_item = -(-shard.bytes_of(which) // max(1, len(which)))
        step = max(1, BLOCK // max(1, per_item))
        for first in range(0, len(which), step):
            some = which[first : first + step]
            if shard.layout.form.ragged:
                yield np.concatenate(shard.read_ragged(some))
            else:
                block = np.empty((len(some), *shard.layout.form.inner), shard.layout.form.numpy)
                shard.read(some, block, np.arange(len(some)))
                yield block


def _spilled(shards: Sequence[Shard], places: Ints, form: Form, *, floats: bool, folder: Path) -> Any:
    """The rows in an unnamed temporary file, memory-mapped: RAM holds a few blocks of them."""
    dtype = np.dtype(np.float32) if floats else form.numpy
    step = max(1, 4 * BLOCK // max(1, form.width))
    lengths: list[int] = []
    try:
        with _scratch(folder) as file:
            for first in range(0, len(places), step):
                some = gather(shards, places[first : first + step], form, floats=floats, copy=True, spill=(0, folder))
                for block in some if form.ragged else [some]:
                    lengths.append(len(block))
                    file.write(raw(block))
            file.flush()
            whole = np.memmap(file, dtype=dtype, mode="r", shape=(sum(lengths), *form.inner))
    except OSError as error:
        raise StoreError(
            f"Cannot gather {len(places):,} rows into a temporary file in {folder}: {error.strerror or error}. "
            "Free some disk space, or read them in batches."
        ) from error
    return np.split(whole, np.cumsum(lengths)[:-1]) if form.ragged else whole


def _scratch(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder)  # beside the shards: the system's own may lie in memory
    except OSError:
        return tempfile.TemporaryFile()


def _floats(rows: Array, form: Form) -> Array:
    return from_bf16(rows) if form.dtype == "BF16" else rows.astype(np.float32, copy=False)


def _nothing(form: Form | None, floats: bool) -> Any:
    if form is None:
        return np.empty((0, 0), np.float32)
    return [] if form.ragged else np.empty((0, *form.inner), np.float32 if floats else form.numpy)


def _storable() -> list[str]:
    return [str(np.dtype(code)) for name, code in TYPES.items() if name != "BF16"]
