"""Rows into shards and out of them: packed, checked, gathered in the order asked, merged. Floor 1."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from headstart._typing import Array, Ints
from headstart.bank._bfloat16 import from_bf16
from headstart.bank._key_index import MAX_ROWS
from headstart.bank._shard_format import MAX_INNER, TYPES, Form, ShardLayout, form_of, sums
from headstart.bank._shards import BLOCK, Packed, Shard, raw
from headstart.errors import DataError, StoreError

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
