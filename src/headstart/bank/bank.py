"""Store and FeatureBank: feature rows by layer, in the order of a dataset, and their moments. Floor 1."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.hashing import fingerprint
from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float, Ints, RuntimeConfig, SkippedItem
from headstart.bank.file_keys import KeyTable
from headstart.bank.table import MemoryTable, Table
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError, OptionError, UnknownName
from headstart.moments.exact import Quantiser
from headstart.moments.moments import Moments

_FOLDS = 5
_BY = ("fold", "class", "domain", "client", "group")
_BATCH_BYTES = 16 << 20


def select_column(data: Dataset, target: str | None, *, needed: bool) -> Target | None:
    """Return the column named, else the only one; None when there is none and it is not needed."""
    columns = {column.name: column for column in data.columns}
    if target is not None:
        if target not in columns:
            raise UnknownName(unknown_name("target columns", target, list(columns)))
        return columns[target]
    if len(columns) > 1:
        raise OptionError(f"There are several target columns; say which: target= one of {', '.join(columns)}.")
    if needed and not columns:
        raise DataError("by='class' needs targets, and this dataset has none.")
    return next(iter(columns.values()), None)


def resolve_groups(
    data: Dataset, by: str | int | Array | Sequence[Hashable], column: Target | None
) -> tuple[list[Any], Ints]:
    """Return the groups' names and each item's group as an index into them, −1 for none."""
    if isinstance(by, str) and by not in _BY:
        raise UnknownName(unknown_name("groupings", by, list(_BY)))
    if isinstance(by, str) and by == "class":
        assert column is not None
        return list(column.classes or ()), column.codes()
    if isinstance(by, bool) or (isinstance(by, Integral) and by < 2):
        raise OptionError(f"by= a number of folds must be a whole number ≥ 2; got {by!r}.")
    labels: list[Any]
    if isinstance(by, (int, np.integer)):
        labels = data.fold_ids(int(by), random_state=0).tolist()
    elif isinstance(by, str) and by == "fold":
        labels = data.fold_ids(_FOLDS, random_state=0).tolist()
    elif isinstance(by, str):
        if data.groups is None:
            raise DataError("This dataset has no groups; give them when it is made: Dataset(…, groups=…).")
        labels = list(data.groups)
    else:
        labels = by.tolist() if isinstance(by, np.ndarray) else list(by)
    if len(labels) != len(data):
        raise DataError(f"by= has {len(labels):,} groups for {len(data):,} items; give one per item.")
    index = {label: i for i, label in enumerate(_unique(labels))}
    return list(index), np.fromiter((index[label] for label in labels), np.int64, len(labels))


def _unique(labels: Sequence[Any]) -> list[Any]:
    """Return each label once: sorted where they can be, else as they come."""
    try:
        return sorted(set(labels))
    except TypeError:
        return list(dict.fromkeys(labels))


@dataclass(frozen=True)
class Store:
    """A folder of tables. Nothing is created before the first row is written.

    Parameters
    ----------
    root : Path

    Examples
    --------
    >>> table = Store(Path("/nowhere")).table({"layer": "pool", "dtype": "float32"})
    >>> table.count
    0
    """

    root: Path

    def table(self, recipe: Mapping[str, Any]) -> Table:
        """Return the table of a recipe: plain data with everything that changes the rows.

        ``recipe["dtype"]``, where it is given as float64, float32, float16 or bfloat16, is enforced.

        Raises
        ------
        OptionError
            When the recipe is not plain data.
        StoreError
            When the folder holds another recipe, or cannot be read.
        """
        try:
            name = fingerprint(dict(recipe))
        except (TypeError, ValueError) as error:
            raise OptionError(f"A recipe holds plain data only (names, numbers, lists, mappings): {error}.") from error
        return Table.open(Path(self.root).expanduser() / name, recipe)

    def key_table(self) -> KeyTable:
        """Return the cache of keys of unchanged files, shared by all recipes: ``with store.key_table() as keys: …``."""
        return KeyTable(Path(self.root).expanduser() / "keys")


_UNKNOWN_RUNTIME = RuntimeConfig("unknown", "unknown")  # of banks that were opened, not extracted


class FeatureBank:
    """Feature rows of a source's layers, and what it took to compute them. Returned by ``extract``.

    Parameters
    ----------
    tables, recipes : mapping
        Per layer, its table and its recipe.
    computed : int
        Items computed by this call; the others were there.
    skipped : sequence of SkippedItem
    seconds : mapping
        Stage → seconds.
    runtime : RuntimeConfig, optional
        How the source was run; also as ``.choice``, its name in version 0.1.

    Attributes
    ----------
    layers : tuple of str
    recipe : dict
        Layer → recipe.
    computed, skipped, seconds
        As given.
    """

    def __init__(
        self,
        tables: Mapping[str, Table | MemoryTable],
        recipes: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        computed: int = 0,
        skipped: Sequence[SkippedItem] = (),
        seconds: Mapping[str, float] | None = None,
        runtime: RuntimeConfig | None = None,
    ) -> None:
        self._tables = dict(tables)
        self.layers = tuple(self._tables)
        self.recipe = dict(recipes) if recipes is not None else {name: t.recipe for name, t in tables.items()}
        self.computed = computed
        self.skipped = list(skipped)
        self.seconds = dict(seconds or {})
        self.runtime = runtime if runtime is not None else _UNKNOWN_RUNTIME

    @property
    def choice(self) -> RuntimeConfig:
        """The runtime that the rows were computed with."""
        return self.runtime

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        return f"FeatureBank(layers={list(self.layers)}, computed={self.computed:,}{skipped})"

    def table(self, layer: str) -> Table | MemoryTable:
        """Return the table of a layer."""
        if layer not in self._tables:
            raise UnknownName(unknown_name("layers of this bank", layer, list(self.layers)))
        return self._tables[layer]

    def keep(self, data: Dataset) -> Array:
        """Return a mask of the items that have rows at every layer, (n,) bool: ``data.take(bank.keep(data))``."""
        keys = data.keys()
        mask = np.ones(len(keys), dtype=bool)
        for table in self._tables.values():
            mask &= table.has(keys)
        return mask

    def rows(self, layer: str, data: Dataset) -> Array:
        """Return features in the order of the dataset.

        Returns
        -------
        ndarray of float32, shape (n, …)
            (n, d) for a pooled layer. Memory-mapped (and read-only) when the rows are one block on the disk or take
            more than 1 GiB.

        Raises
        ------
        DataError
            When items were skipped or never extracted (named, with what to do), or the layer is ragged.
        StoreError
            When rows are found to be damaged.
        """
        if self.table(layer).ragged:
            raise DataError(f"Items have different lengths at layer {layer!r}: use bank.sequences({layer!r}, data).")
        return np.asanyarray(self.table(layer).get(self._keys(layer, data), floats=True))

    def sequences(self, layer: str, data: Dataset) -> list[Array]:
        """Return features of a ragged layer (un-pooled texts, clips): a float32 array (steps, …) per item, in order."""
        return list(self.table(layer).get(self._keys(layer, data), floats=True))

    def batches(self, layer: str, data: Dataset, size: int) -> Iterator[Any]:
        """Yield the rows of :meth:`rows` or :meth:`sequences` in fresh arrays of at most ``size`` items."""
        return self.table(layer).batches(self._keys(layer, data), size, floats=True)

    def summarise(
        self,
        layer: str,
        data: Dataset,
        by: str | int | Array | Sequence[Hashable] | None = None,
        *,
        target: str | None = None,
        exact: Quantiser | None = None,
        per_class: bool = False,
        fourth: bool = False,
    ) -> Any:
        """Summarise the rows and the targets in Moments, streamed: memory does not grow with the number of rows.

        Parameters
        ----------
        layer : str
        data : Dataset
            Items whose target is missing are left out; a dataset without targets gives moments without targets.
        by : optional
            ``"class"``; ``"fold"`` (5 folds, ``random_state=0``), or the number of folds, or every item's fold or group
            as a sequence; ``"domain"``, ``"client"`` or ``"group"``: the dataset's groups, by any of the three names.
        target : str, optional
            Which column, where there are several.
        exact, per_class, fourth
            As for :meth:`headstart.moments.Moments.from_rows`.

        Returns
        -------
        Moments, or a dict of them by group when ``by`` is given (groups without rows are absent)

        Raises
        ------
        DataError
            When rows or groups are missing, or the layer is not pooled to (n, d).
        OptionError
            When ``by`` or ``target`` is unknown, or must be named.

        Notes
        -----
        Cost: O(n·d·(d + t)) time; O(d² + dt) memory for every group.
        """
        keys = self._keys(layer, data)
        shape = self.table(layer).shape
        if self.table(layer).ragged or shape is None or len(shape) != 1:
            raise DataError(f"Moments need one row per item; layer {layer!r} holds {shape}: extract it with pooling.")
        column = select_column(data, target, needed=isinstance(by, str) and by == "class")
        targets = None if column is None else column.matrix()
        usable = np.ones(len(keys), dtype=bool)
        if targets is not None:
            usable &= ~np.isnan(targets).any(axis=1)
        kind = {"exact": exact, "per_class": per_class, "fourth": fourth}
        empty = Moments.zero(shape[0], 0 if targets is None else targets.shape[1], **kind)  # type: ignore[arg-type]
        if by is None:
            return self._stream(layer, keys, targets, np.flatnonzero(usable), start=empty)
        names, codes = resolve_groups(data, by, column)
        order = np.argsort(codes, kind="stable")
        order = order[usable[order] & (codes[order] >= 0)]
        if not len(order):
            return {}
        moments = {}
        for part in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            moments[names[codes[part[0]]]] = self._stream(layer, keys, targets, part, start=empty)
        return moments

    def _stream(
        self, layer: str, keys: Sequence[bytes], targets: Float | None, index: Ints, *, start: Moments
    ) -> Moments:
        width = start.features
        size = max(2 * width, _BATCH_BYTES // (4 * max(1, width)), 1)  # a merge costs d²: batches hold some rows more
        total, first = start, 0
        for rows in self.table(layer).batches([keys[i] for i in index.tolist()], size, floats=True):
            batch = index[first : first + len(rows)]
            first += len(rows)
            total = total.update(rows, None if targets is None else targets[batch])
        return total

    def _keys(self, layer: str, data: Dataset) -> list[bytes]:
        """Return the content keys of the dataset; DataError unless all of them have rows."""
        keys = data.keys()
        table = self.table(layer)
        missing = np.flatnonzero(~table.has(keys))
        if len(missing):
            table.refresh()
            missing = np.flatnonzero(~table.has(keys))
        if len(missing):
            raise DataError(self._describe_missing(layer, data, missing))
        return [key for key in keys if key is not None]

    def _describe_missing(self, layer: str, data: Dataset, missing: Ints) -> str:
        reasons = {str(item.item): item.reason for item in self.skipped}
        shown = []
        for i in missing[:3].tolist():
            item = data.items[i]
            name = str(item) if isinstance(item, (str, Path)) and len(str(item)) < 200 else f"item {i}"
            shown.append(f"{name} ({reasons[name]})" if name in reasons else name)
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        return (
            f"{len(missing):,} of {len(data):,} items have no row at layer {layer!r}: {', '.join(shown)}{more}. "
            "Items that cannot be read were skipped: use data.take(np.flatnonzero(bank.keep(data))). "
            "Others were never extracted with this source: extract them first."
        )
