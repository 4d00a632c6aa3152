"""Prepared samples of a dataset, read once and kept in memory while they fit, else read each time. Floor 4."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MEMORY = 2 << 30


@dataclass(frozen=True)
class Views:
    """Random variants of items: ``read(index, view)`` for views 1, 2, …; the recipe says all that changes them."""

    read: Callable[[int, int], Any]
    recipe: str


class Samples:
    """``samples.batch(indices)`` collates prepared samples; what has been read stays, up to 2 GiB.

    Attributes
    ----------
    keys : sequence of bytes, optional
        Content keys of the items: what is computed from them can be kept and found again.
    views : Views, optional
        Random variants of the items.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        collate: Callable[[Sequence[Any]], Any],
        count: int,
        *,
        keys: Sequence[bytes] | None = None,
        views: Views | None = None,
    ) -> None:
        self._read, self._collate = read, collate
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        self.count = count
        self.keys = keys
        self.views = views

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, views: np.ndarray | None = None) -> Any:
        """The samples at these places as one batch; ``views`` names the variant of each, 0 the item as it is."""
        if views is None:
            return self._collate([self.read(int(i)) for i in indices])
        return self._collate([self.read(int(i), int(v)) for i, v in zip(indices, views)])

    def read(self, index: int, view: int = 0) -> Any:
        """One prepared sample."""
        if view:
            assert self.views is not None
            return self.views.read(index, view)
        if index in self._kept:
            return self._kept[index]
        sample = self._read(index)
        size = sum(v.nbytes for v in sample.values()) if isinstance(sample, dict) else sample.nbytes
        if self._bytes + size <= _MEMORY:
            self._kept[index] = sample
            self._bytes += size
        return sample
