"""Prepared samples of a dataset, read once and kept in memory while they fit, else read each time. Floor 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_MEMORY = 2 << 30


class Samples:
    """``samples.batch(indices)`` collates prepared samples; what has been read stays, up to 2 GiB."""

    def __init__(self, read: Callable[[int], Any], collate: Callable[[Sequence[Any]], Any], count: int) -> None:
        self._read, self._collate = read, collate
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray) -> Any:
        """The samples at these places as one batch."""
        return self._collate([self._one(int(i)) for i in indices])

    def _one(self, index: int) -> Any:
        if index in self._kept:
            return self._kept[index]
        sample = self._read(index)
        size = sum(v.nbytes for v in sample.values()) if isinstance(sample, dict) else sample.nbytes
        if self._bytes + size <= _MEMORY:
            self._kept[index] = sample
            self._bytes += size
        return sample
