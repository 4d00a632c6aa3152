"""Moments on disk: named arrays in one safetensors file, checked when read. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from headstart._base.constraints import validate
from headstart._base.files import write_atomic
from headstart._base.hashing import canonical_json, fingerprint, fingerprint_tensors
from headstart._base.typing import Array, Float
from headstart.errors import StoreError
from headstart.moments.centred import Centred, Fourth
from headstart.moments.exact import ARRAYS, Quantiser, Sums

VERSION = 1
_CENTRED = ("mean", "scatter", "target_mean", "cross", "target_scatter")
_LARGEST = 1 << 26  # features or targets: d² would still fit a float64's integers
_DAMAGE = (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)


def pack_state(state: Centred | Sums, kinds: tuple[int, int], *, prefix: str = "") -> dict[str, Array]:
    """Return the arrays by name; the symmetric one is packed to its upper triangle, the counts are one array."""
    names = ARRAYS if isinstance(state, Sums) else _CENTRED
    arrays: dict[str, Array] = {name: np.ascontiguousarray(getattr(state, name)) for name in names}
    symmetric = names[1]
    arrays[symmetric] = arrays[symmetric][np.triu_indices(state.shape[0])]
    arrays["counts"] = np.array([state.count, *kinds], dtype=np.int64)
    if isinstance(state, Centred) and state.fourth is not None:
        arrays |= {"power": np.array([state.fourth.power]), "skew": np.ascontiguousarray(state.fourth.skew)}
    return {prefix + name: array for name, array in arrays.items()}


def write(path: Path, arrays: Mapping[str, Array], record: Mapping[str, Any]) -> None:
    """Write one file, atomically, with a checksum over the record and the arrays."""
    text = canonical_json({**record, "version": VERSION})
    metadata = {"headstart": "moments", "record": text, "sum": _checksum(arrays, text)}
    write_atomic(path, lambda temporary: save_file(dict(arrays), temporary, metadata=metadata))


def read(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the record of a file, as they were written, or raise StoreError."""
    if not path.is_file():
        raise StoreError(f"There is no file of moments at {path}.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("headstart") != "moments":
                raise ValueError("it does not hold moments")
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if _checksum(arrays, metadata["record"]) != metadata["sum"]:
            raise ValueError("its checksum does not fit its content")
        record = json.loads(metadata["record"])
        if record.pop("version") != VERSION:
            raise ValueError("it was written by another version of headstart, which can read it")
    except _DAMAGE as error:
        raise StoreError(f"{path} is damaged and cannot be read as moments: {error}") from error
    return arrays, record


def _checksum(arrays: Mapping[str, Array], text: str) -> str:
    return fingerprint({"arrays": fingerprint_tensors(arrays), "record": text})


@dataclass(frozen=True)
class MomentsLayout:
    """Shapes that a record claims for its arrays."""

    features: int
    targets: int
    classes: int | None
    fourth: bool
    quantiser: Quantiser | None

    @classmethod
    def from_config(cls, record: Mapping[str, Any], names: list[str]) -> MomentsLayout:
        """Read a record; ValueError when it does not fit the names of the arrays."""
        d, t = _dimension(record["features"]), _dimension(record["targets"])
        classes = None if record["classes"] is None else _dimension(record["classes"])
        if classes is not None and (classes != t or classes > len(names)):
            raise ValueError(f"{classes} classes for {t} targets in {len(names)} arrays")
        quantiser = None if record["exact"] is None else Quantiser(**record["exact"])
        if quantiser is not None:
            validate(quantiser)
        fourth = bool(record["fourth"])
        expected = {*(_CENTRED if quantiser is None else ARRAYS), "counts"}
        if fourth:
            expected |= {"power", "skew"}
        of_classes = {f"class{c}.{name}" for c in range(classes or 0) for name in expected}
        if set(names) != expected | of_classes:
            raise ValueError(f"the arrays are {sorted(names)[:9]}")
        return cls(d, t, classes, fourth, quantiser)

    def state(self, arrays: Mapping[str, Array], prefix: str, targets: int) -> tuple[Centred | Sums, int, int]:
        """Return the state, and how many rows were one-hot and binary, every number checked."""
        count, one_hot, binary = _counts(arrays[prefix + "counts"])
        d = self.features
        names = _CENTRED if self.quantiser is None else ARRAYS
        shapes = ((d,), (d * (d + 1) // 2,), (targets,), (d, targets), (targets,))
        # In the order of the names: sums or means, their products, and the same of the targets.
        first, triangle, target_first, cross, target_squares = (
            _finite(arrays[prefix + name], name, shape) for name, shape in zip(names, shapes, strict=True)
        )
        products = _unpack_triangle(triangle, d)
        sums = (first, products, target_first, cross, target_squares)
        if (products.diagonal() < 0).any() or (target_squares < 0).any():
            raise ValueError("a sum of squares is negative")
        if not count and any(array.any() for array in sums):
            raise ValueError("there are sums of no rows")
        if self.quantiser is None:
            return Centred(count, *sums, self._fourth(arrays, prefix)), one_hot, binary
        self.quantiser.check(count)
        if any(np.any(array != np.rint(array)) for array in sums):
            raise ValueError("exact sums are not whole numbers")
        return Sums(self.quantiser, count, *sums), one_hot, binary

    def _fourth(self, arrays: Mapping[str, Array], prefix: str) -> Fourth | None:
        if not self.fourth:
            return None
        power = _finite(arrays[prefix + "power"], "power", (1,))
        if power[0] < 0:
            raise ValueError("a sum of fourth powers is negative")
        return Fourth(float(power[0]), _finite(arrays[prefix + "skew"], "skew", (self.features,)))


def _counts(array: Array) -> tuple[int, int, int]:
    if array.dtype != np.int64 or array.shape != (3,):
        raise ValueError("the counts are not three whole numbers")
    count, one_hot, binary = (int(value) for value in array)
    if not 0 <= one_hot <= binary <= count:
        raise ValueError(f"the counts {count}, {binary}, {one_hot} contradict each other")
    return count, one_hot, binary


def _finite(array: Array, name: str, shape: tuple[int, ...]) -> Float:
    if array.dtype != np.float64 or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, not float64 {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite")
    return np.array(array)


def _unpack_triangle(triangle: Float, d: int) -> Float:
    square = np.zeros((d, d))
    square[np.triu_indices(d)] = triangle
    return square + np.triu(square, 1).T


def _dimension(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{value!r} is not a dimension")
    return value
