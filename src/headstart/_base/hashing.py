"""Content keys and fingerprints. Floor 0: numpy only.

One hash everywhere: SHA-256 from the standard library (1.7 GB/s here), cut to 128 bits where it is an item's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

KEY_BYTES = 16
_BLOCK = 1 << 20


def key_of_bytes(content: bytes) -> bytes:
    """Return the 16-byte content key of an item given as bytes."""
    return hashlib.sha256(content).digest()[:KEY_BYTES]


def key_of_file(path: Path | str) -> bytes:
    """Return the 16-byte content key of a file, read in blocks (memory stays at 1 MiB)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()[:KEY_BYTES]


def key_of_text(text: str) -> bytes:
    """Return the 16-byte content key of a text; lone surrogates are allowed."""
    return hashlib.sha256(b"text\0" + text.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]


def key_of_array(array: np.ndarray) -> bytes:
    """Return the 16-byte content key of an array: dtype, shape and bytes."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"array\0{array.dtype.str}\0{array.shape}\0".encode())
    digest.update(array.tobytes())
    return digest.digest()[:KEY_BYTES]


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)


def fingerprint(value: object, length: int = 16) -> str:
    """Return the hex fingerprint of anything that is plain data (mappings, lists, strings, numbers, paths).

    >>> fingerprint({"b": 1, "a": 2}) == fingerprint({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def fingerprint_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the hex fingerprint of named arrays: names, dtypes, shapes and bytes. Cost: one pass over the bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes() if array.ndim == 0 else array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()[:32]


def _plain(value: object) -> Any:
    """Return what json cannot write as plain data."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")
