"""A table that lives in memory only: for predicting a few items without leaving anything on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from headstart._typing import Array
from headstart.errors import StoreError


class MemoryTable:
    """The same verbs as :class:`~headstart.bank.Table`, on a dictionary."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.recipe = dict(recipe)
        self._rows: dict[bytes, Array] = {}
        self.ragged = False

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of one row, or of one step of a ragged one; None while there is none."""
        first = next(iter(self._rows.values()), None)
        return None if first is None else first.shape[1:] if self.ragged else first.shape

    @property
    def count(self) -> int:
        """Rows kept."""
        return len(self._rows)

    def has(self, keys: Sequence[bytes | None]) -> Array:
        """Which keys have a row, (n,) bool."""
        return np.fromiter((key in self._rows for key in keys), bool, len(keys))

    def append(self, keys: Sequence[bytes], rows: Sequence[Array] | Array) -> None:
        """Keep rows; a list of them has any number of steps each, also where they happen to agree."""
        self.ragged = not isinstance(rows, np.ndarray)
        self._rows.update(zip(keys, rows))

    def get(self, keys: Sequence[bytes], *, floats: bool = False) -> Any:
        """Rows in the order of the keys: an array, or a list when the table is ragged.

        Raises
        ------
        StoreError
            When some have none.
        """
        missing = sum(key not in self._rows for key in keys)
        if missing:
            raise StoreError(f"{missing} of {len(keys)} rows are not in memory.")
        rows = [self._rows[key] for key in keys]
        return rows if self.ragged else np.stack(rows) if rows else np.empty((0, *(self.shape or ())), np.float32)

    def batches(self, keys: Sequence[bytes], size: int, *, floats: bool = False) -> Iterator[Any]:
        """The rows of :meth:`get`, at most ``size`` at a time."""
        for first in range(0, len(keys), size):
            yield self.get(list(keys[first : first + size]), floats=floats)

    def refresh(self) -> None:
        """Nothing to see: there are no other writers."""


class MemoryStore:
    """A store without a folder."""

    root = None

    def table(self, recipe: Mapping[str, Any]) -> MemoryTable:
        """An empty table."""
        return MemoryTable(recipe)
