"""Byte format of one shard of a table: its header, and the check sums of its rows. Floor 1.

::

    8 bytes   length of the header
    header    JSON: the tensors below, the fingerprint of the recipe, a digest of header, keys, sums and ends
    keys      U8  (n, 16)   content keys
    sums      U64 (n,)      one check sum per item, over its key and its rows
    ends      I64 (n,)      ragged tables only: where the steps of the item end
    rows      (n, …) or, ragged, (steps of all items, …)

Any safetensors reader can open it. A header is accepted when it equals, byte for byte, the one that this module would
have written for the same form, counts and digest: unknown tensors, gaps, overlaps, offsets out of range and repeated
names need no checks of their own. Sums and digest find damage (a flipped bit, a page of zeros, rows under the wrong
keys), not an adversary who writes matching ones.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from headstart._base.hashing import KEY_BYTES
from headstart._base.typing import Array, Ints
from headstart.bank.key_index import MAX_ROWS

MAX_HEADER = 1 << 16
_FORMAT = "headstart.bank/1"
_ALIGN = 64
MAX_INNER = 14
_MAX_SIZE = 1 << 60
_CODES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2",
    "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
TYPES: dict[str, np.dtype[Any]] = {"BF16": BFLOAT16, **{name: np.dtype(code) for name, code in _CODES.items()}}


class DamagedShard(Exception):
    """A shard cannot be trusted. It never leaves the table.

    ``reason`` completes "it was set aside because …"; ``path`` is the shard's when its rows, read later, gave it away.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


class VanishedShard(Exception):
    """A shard that was there is not any more: another process merged it into another. It never leaves the table.

    Not an OSError: writing a merged shard must not take it for a disk that is full.
    """


@dataclass(frozen=True)
class RowFormat:
    """Format of all shards of a table: element type (safetensors' name), shape of a row or step, ragged or not."""

    dtype: str
    inner: tuple[int, ...]
    ragged: bool

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type of the rows; bfloat16 is that of ml_dtypes."""
        return TYPES[self.dtype]

    @property
    def width(self) -> int:
        """Bytes of one row or step."""
        return self.numpy.itemsize * math.prod(self.inner)

    def __str__(self) -> str:
        return f"{'ragged ' if self.ragged else ''}rows of shape {self.inner} and type {self.dtype}"


@dataclass(frozen=True)
class ShardLayout:
    """Form, number of items and number of rows (for dense tables the same) of one shard."""

    form: RowFormat
    count: int
    total: int

    def tensors(self) -> dict[str, tuple[str, list[int], list[int]]]:
        """Return type, shape and byte range of every tensor by name, in the order of the file."""
        parts: dict[str, tuple[str, list[int]]] = {
            "keys": ("U8", [self.count, KEY_BYTES]),
            "sums": ("U64", [self.count]),
        }
        if self.form.ragged:
            parts["ends"] = ("I64", [self.count])
        parts["rows"] = (self.form.dtype, [self.total, *self.form.inner])
        out, end = {}, 0
        for name, (dtype, shape) in parts.items():
            first, end = end, end + TYPES[dtype].itemsize * math.prod(shape)
            out[name] = (dtype, shape, [first, end])
        return out

    def part(self, data: Array, name: str) -> Array:
        """View one tensor in the shard's bytes after the header."""
        dtype, shape, (first, last) = self.tensors()[name]
        return data[first:last].view(TYPES[dtype]).reshape(shape)

    def header(self, recipe: str, digest: str) -> bytes:
        """Return the length and the header, padded so that the rows start at a multiple of 64 bytes."""
        tensors = self.tensors()
        content: dict[str, Any] = {"__metadata__": {"digest": digest, "format": _FORMAT, "recipe": recipe}}
        content |= {n: {"dtype": d, "shape": s, "data_offsets": o} for n, (d, s, o) in tensors.items()}
        text = json.dumps(content, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text) + tensors["rows"][2][0]) % _ALIGN)
        return len(text).to_bytes(8, "little") + text

    def digest(self, recipe: str, prefix: Iterable[bytes]) -> str:
        """Hash of the header and of the bytes before the rows."""
        digest = hashlib.sha256(self.header(recipe, ""))
        for part in prefix:
            digest.update(part)
        return digest.hexdigest()[:32]


def row_format(rows: Array, *, ragged: bool) -> RowFormat | None:
    """Return the format of rows (n, …) to be written; None when safetensors has no such type."""
    little_endian = rows.dtype.newbyteorder("<")
    for name, dtype in TYPES.items():
        if dtype == little_endian:
            return RowFormat(name, rows.shape[1:], ragged)
    return None


def parse_header(text: bytes, size: int) -> tuple[ShardLayout, str]:
    """Return layout and digest as a header claims them, filling the ``size`` bytes that the file has after it.

    Raises
    ------
    Damaged
        For anything impossible. The header's other claims are checked by writing it again and comparing.
    """
    try:
        header = json.loads(text)
        digest, rows = header["__metadata__"]["digest"], header["rows"]
        form = RowFormat(rows["dtype"], tuple(rows["shape"][1:]), "ends" in header)
        layout = ShardLayout(form, header["keys"]["shape"][0], rows["shape"][0])
        numbers = [layout.count, layout.total, *form.inner]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedShard("its header cannot be read") from error
    if not (isinstance(digest, str) and isinstance(form.dtype, str) and form.dtype in TYPES):
        raise DamagedShard("its header names no type or digest that headstart writes")
    if len(form.inner) > MAX_INNER or any(type(n) is not int or not 0 <= n < _MAX_SIZE for n in numbers):
        raise DamagedShard("its header claims an impossible shape")
    if layout.count >= MAX_ROWS or math.prod(max(1, n) for n in numbers[1:]) >= _MAX_SIZE:
        raise DamagedShard("its header claims an impossible shape")
    if layout.tensors()["rows"][2][1] != size or (not form.ragged and layout.total != layout.count):
        raise DamagedShard("it is cut short, or longer than its header says")
    return layout, digest


def checksums(keys: Array, rows: Array, lengths: Ints | None = None) -> Array:
    """Return one 64-bit check sum per item over its key and its rows: a product with odd numbers, modulo 2^64.

    ``keys`` is (n, 16) uint8; ``rows`` (n, …), or the items' steps one after the other with ``lengths`` (n,). Any
    single changed word changes the sum. Cost: one pass over the bytes at the speed of memory (20 GB/s measured).
    """
    steps = len(rows)
    width = rows.nbytes // steps if steps else 0
    word = next(size for size in (8, 4, 2, 1) if width % size == 0)
    words = np.ascontiguousarray(rows).reshape(-1).view(f"<u{word}").reshape(steps, width // word)
    sums = np.einsum("ij,j->i", words, _odd(np.arange(width // word)), dtype=np.uint64, casting="unsafe")
    if lengths is not None:
        ends = np.cumsum(lengths)
        within = np.arange(steps) - np.repeat(ends - lengths, lengths)
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(sums * _odd(within), dtype=np.uint64)])
        sums = running[ends] - running[ends - lengths] + lengths.astype(np.uint64)
    halves = np.ascontiguousarray(keys).view("<u8").astype(np.uint64)
    return np.asarray(sums + halves @ _odd(np.arange(2) + (1 << 40)), dtype=np.uint64)


def _odd(index: Array) -> Array:
    """Return fixed odd 64-bit numbers, well mixed (the splitmix64 sequence)."""
    mixed = (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return np.asarray((mixed ^ (mixed >> np.uint64(27))) | np.uint64(1))
