"""One table of a store: the rows of one recipe by content key. Floor 1."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.files import read_json, write_json
from headstart._base.hashing import canonical_json, fingerprint
from headstart._base.typing import Array
from headstart.bank.key_index import MISSING, Keys, as_keys
from headstart.bank.shard_folder import ShardFolder
from headstart.bank.shard_format import DamagedShard, VanishedShard
from headstart.bank.shards import check_format, gather, pack
from headstart.errors import OptionError, StoreError

RECIPE = "recipe.json"
_TRIES = 8  # times that shards may vanish under a reader (merged by another process) before it gives up


class Table:
    """Rows by content key, in a folder of append-only shards. Made by :meth:`headstart.bank.Store.table`.

    Any number of processes and threads may read and write one table at once, without locks: a shard is written under a
    temporary name, flushed and renamed, and never changed. A key found twice is read from the shard whose name sorts
    first. Files that are no whole, untouched shard of this recipe are ignored, named in ``damaged`` and reported; their
    rows count as missing.

    Attributes
    ----------
    folder : Path
    recipe : dict
        Everything that changes the rows; equal to ``recipe.json`` in the folder.
    spill : int
        Results of more bytes than this are put into a temporary file and memory-mapped (default 1 GiB).
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.folder = folder
        self.recipe = _plain(recipe)
        self.spill = 1 << 30
        self._shards = ShardFolder(folder, recipe=fingerprint(self.recipe, 64), dtype=self.recipe.get("dtype"))

    @classmethod
    def open(cls, folder: Path, recipe: Mapping[str, Any]) -> Table:
        """Open a table, which need not exist yet.

        Raises
        ------
        StoreError
            When the folder holds another recipe, or cannot be read.
        """
        table = cls(folder, recipe)
        path = folder / RECIPE
        if _exists(path) and canonical_json(read_json(path, "recipe")) != canonical_json(table.recipe):
            raise StoreError(
                f"{path} is not the recipe asked for: the file was changed, or two recipes share a fingerprint. "
                f"Delete the folder {folder} (its rows are computed again) or use another store."
            )
        table._shards.sweep()
        table.refresh()
        return table

    def __reduce__(self) -> tuple[Any, ...]:
        return Table.open, (self.folder, self.recipe)

    def __repr__(self) -> str:
        return f"Table({self.folder.name}: {self.count:,} items in {self.shards:,} shards)"

    @property
    def count(self) -> int:
        """Number of different items."""
        return len(self._shards.state.index)

    @property
    def nbytes(self) -> int:
        """Bytes on disk of the shards that are trusted."""
        return sum(shard.size for shard in self._shards.state.shards)

    @property
    def shards(self) -> int:
        """Number of shard files that are trusted; :meth:`compact` merges them."""
        return len(self._shards.state.shards)

    @property
    def damaged(self) -> dict[str, str]:
        """Reason why a file is not trusted, by its name."""
        return dict(self._shards.damaged)

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type of the rows (for bfloat16 that of ml_dtypes); None while the table is empty."""
        form = self._shards.state.form
        return None if form is None else form.numpy

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of one row, or of one step of a ragged one; None while the table is empty."""
        form = self._shards.state.form
        return None if form is None else form.inner

    @property
    def ragged(self) -> bool:
        """True where items have any number of steps each."""
        form = self._shards.state.form
        return form is not None and form.ragged

    def has(self, keys: Keys) -> Array:
        """Return a mask of the keys that have rows; None (an unreadable item) has none. Shape (n,), bool."""
        if isinstance(keys, np.ndarray) or None not in keys:
            return np.asarray(self._shards.state.index.find(as_keys(keys)) != MISSING)
        mask = np.zeros(len(keys), dtype=bool)
        index = [i for i, key in enumerate(keys) if key is not None]
        mask[index] = self.has([keys[i] for i in index])
        return mask

    def keys(self) -> Array:
        """Return the keys of all rows, in the order of writing. Shape (count,), dtype S16."""
        return self._shards.state.index.items()[0]

    def append(self, keys: Keys, rows: Array | Sequence[Array]) -> None:
        """Write rows as one shard, which other processes see whole or not at all.

        Parameters
        ----------
        keys : sequence of n 16-byte keys
        rows : (n, …) array, or n arrays (len_i, …)
            All rows of a table have one shape and type; of a ragged one, all steps have.
            bfloat16 is the type of ``ml_dtypes``.

        Raises
        ------
        DataError
            When the rows do not fit the keys, the recipe's ``dtype`` or the rows that are there.
        StoreError
            When the disk is full or the folder cannot be written; then nothing has changed.
        """
        packed = pack(as_keys(keys), rows)
        if packed is None:
            return
        check_format(packed.layout.form, self._shards.state.form, self.recipe.get("dtype"))
        if not _exists(self.folder / RECIPE):
            write_json(self.folder / RECIPE, self.recipe)
        self._shards.add(packed)

    def get(self, keys: Keys, *, floats: bool = False) -> Any:
        """Return rows in the order of the keys.

        Parameters
        ----------
        keys : sequence of 16-byte keys
        floats : bool
            Give float32 whatever the table's type.

        Returns
        -------
        (n, …) array, or a list of n arrays (len_i, …) when the table is ragged
            A read-only memory map when the rows are one block of one shard or take more than ``spill`` bytes, else a
            fresh array. Every row is compared with its check sum.

        Raises
        ------
        StoreError
            When rows are missing: it says how many.
        """
        complete = isinstance(keys, np.ndarray) or None not in keys
        return self._fetch(as_keys(keys) if complete else self._checked(keys), floats=floats, copy=False)

    def batches(self, keys: Keys, size: int, *, floats: bool = False) -> Iterator[Any]:
        """Yield the rows of :meth:`get` in fresh arrays of at most ``size``; memory stays at one of them.

        StoreError for missing rows comes before the first batch.
        """
        if isinstance(size, bool) or not size >= 1:
            raise OptionError(f"batches(size=…) must be a whole number ≥ 1; got {size!r}.")
        checked = self._checked(keys)
        return (self._fetch(checked[i : i + size], floats=floats, copy=True) for i in range(0, len(checked), size))

    def refresh(self) -> None:
        """Take in what other writers have added, merged or removed; reads one listing and the keys of new shards."""
        self._shards.refresh()

    def compact(self, *, below: int = 256 << 20) -> int:
        """Merge all shards of fewer than ``below`` bytes into one, in the order of writing; duplicates are dropped.

        Safe beside readers and writers, and against a kill: the merged shard is complete before the first old one is
        removed. Cost: the bytes are read and written once; memory stays at a few blocks.

        Returns
        -------
        int
            How many shards were merged.
        """
        for _ in range(_TRIES):
            try:
                return self._shards.merge(below)
            except VanishedShard:  # another process merges too
                continue
            except DamagedShard as damage:
                self._shards.set_aside(damage)
        raise StoreError(f"The shards of {self.folder} change faster than they can be merged. Try again later.")

    def _checked(self, keys: Keys) -> Array:
        """Return keys as an array; StoreError unless all of them have rows."""
        missing = np.flatnonzero(~self.has(keys))
        if len(missing):
            self.refresh()
            missing = np.flatnonzero(~self.has(keys))
        if len(missing):
            damaged = sorted(self.damaged)
            hint = f" Set aside as damaged: {', '.join(damaged[:3])}." if damaged else ""
            raise StoreError(
                f"{len(missing):,} of {len(keys):,} rows are not in {self.folder} (the first is number {missing[0]})."
                f"{hint} Extract again: only missing rows are computed."
            )
        return as_keys(keys)

    def _fetch(self, keys: Array, *, floats: bool, copy: bool) -> Any:
        for _ in range(_TRIES):
            state = self._shards.state
            positions = state.index.find(keys)
            if (positions == MISSING).any():
                self._checked(keys)  # raises, or has refreshed
                continue
            try:
                spill = (self.spill, self.folder)
                return gather(state.shards, positions, state.form, floats=floats, copy=copy, spill=spill)
            except VanishedShard:  # merged into another shard by another process
                self.refresh()
            except DamagedShard as damage:
                self._shards.set_aside(damage)
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                raise StoreError(f"Cannot read rows from {self.folder}: {error.strerror or error}.") from error
        raise StoreError(f"The shards of {self.folder} change faster than they can be read. Try again later.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise StoreError(f"Cannot read the store at {path.parent}: {error.strerror}.") from error


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as it reads back from its file."""
    try:
        return dict(json.loads(canonical_json(dict(recipe))))
    except (TypeError, ValueError) as error:
        raise OptionError(f"A recipe holds plain data only (names, numbers, lists, mappings): {error}.") from error


# ---- A table in memory: for predicting a few items without leaving anything on the disk.


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
        if first is None:
            return None
        return first.shape[1:] if self.ragged else first.shape

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def has(self, keys: Sequence[bytes | None]) -> Array:
        """Return a mask of the keys that have a row, (n,) bool."""
        return np.fromiter((key in self._rows for key in keys), bool, len(keys))

    def append(self, keys: Sequence[bytes], rows: Sequence[Array] | Array) -> None:
        """Add rows; a list of them has any number of steps each, also where they happen to agree."""
        self.ragged = not isinstance(rows, np.ndarray)
        self._rows.update(zip(keys, rows))

    def get(self, keys: Sequence[bytes], *, floats: bool = False) -> Any:
        """Return rows in the order of the keys: an array, or a list when the table is ragged.

        Raises
        ------
        StoreError
            When some have none.
        """
        missing = sum(key not in self._rows for key in keys)
        if missing:
            raise StoreError(f"{missing} of {len(keys)} rows are not in memory.")
        rows = [self._rows[key] for key in keys]
        if self.ragged:
            return rows
        return np.stack(rows) if rows else np.empty((0, *(self.shape or ())), np.float32)

    def batches(self, keys: Sequence[bytes], size: int, *, floats: bool = False) -> Iterator[Any]:
        """Yield the rows of :meth:`get`, at most ``size`` at a time."""
        for first in range(0, len(keys), size):
            yield self.get(list(keys[first : first + size]), floats=floats)

    def refresh(self) -> None:
        """Do nothing: there are no other writers."""


class MemoryStore:
    """A store without a folder."""

    root = None

    def table(self, recipe: Mapping[str, Any]) -> MemoryTable:
        """Return an empty table."""
        return MemoryTable(recipe)
