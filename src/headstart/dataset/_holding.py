"""What a Dataset holds, and the pieces and comparisons that follow from it; how to divide it is in ``_dataset``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from headstart._hashing import fingerprint
from headstart._registry import unknown
from headstart._typing import MODALITIES, Array, Ints, Modality
from headstart.dataset._describe import describe
from headstart.dataset._duplicates import KeyCache, keys_of, same_content
from headstart.dataset._partition import numbered
from headstart.dataset._target import Target, columns_from, relabel
from headstart.errors import DataError, OptionError, UnknownName


@dataclass(frozen=True, eq=False, repr=False)
class Holding:
    """Items with what is known about them. It never changes: every verb returns a new one.

    Attributes
    ----------
    items : tuple
        ``Path`` (a file), ``str`` (a text), ``bytes`` (a file's content) or numpy arrays.
    columns : tuple of Target
    modality : {"image", "text", "audio", "vector"}
    groups : tuple or None
        What must not be torn apart by a split: a speaker, a patient, a hospital. None in it is a group of its own.
    parts : tuple of str or None
        The part each item belongs to when the data came with a split.
    root : Path or None
        The folder that the items' paths start with.
    meta : dict
        Further facts: ``random_state``, ``role``, ``fold``, ``client``, ``ignored``, ``notes``,
        ``preprocessed``, ``sample_rate``.
    """

    items: tuple[Any, ...]
    columns: tuple[Target, ...] = ()
    modality: Modality = field(kw_only=True)
    groups: tuple[Any, ...] | None = field(default=None, kw_only=True)
    parts: tuple[str | None, ...] | None = field(default=None, kw_only=True)
    root: Path | None = field(default=None, kw_only=True)
    meta: dict[str, Any] = field(default_factory=dict, kw_only=True)
    _known: dict[str, Any] = field(default_factory=dict, init=False)  # content keys, number of reads: found out later

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise UnknownName(unknown("modalities", self.modality, list(MODALITIES)))
        for name in ("items", "columns", "groups", "parts"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        object.__setattr__(self, "meta", dict(self.meta or {}))
        if len(set(self.target_names)) < len(self.columns):
            raise DataError(f"Two target columns have the same name: {', '.join(self.target_names)}.")
        given = {"groups": self.groups, "parts": self.parts} | {repr(c.name): c.values for c in self.columns}
        for name, values in given.items():
            if values is not None and len(values) != len(self.items):
                raise DataError(f"There are {len(self.items):,} items but {len(values):,} values in {name}.")
        self._known["reads"] = [0]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def group_numbers(self) -> Ints | None:
        """Number of each item's group, from 0; an item without one is a group of its own. Shape (n,)."""
        return None if self.groups is None else numbered(self.groups)

    def __repr__(self) -> str:
        numbers = self.group_numbers
        extras = [] if numbers is None else [f"{len(np.unique(numbers)):,} groups"]
        if self.parts is not None:
            extras.append(", ".join(f"{p} {self.parts.count(p):,}" for p in dict.fromkeys(self.parts) if p is not None))
        return f"Dataset: {describe(self.items, self.modality, self.columns, extras)}"

    def _of_columns(self, values: Mapping[str, Any]) -> Any:
        if not self.columns:
            return None
        return values[self.columns[0].name] if len(self.columns) == 1 else dict(values)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names of the target columns."""
        return tuple(c.name for c in self.columns)

    @property
    def targets(self) -> Any:
        """The labels, one per item; with several columns a dict name → labels; None without targets."""
        return self._of_columns({c.name: c.values for c in self.columns})

    @property
    def classes(self) -> Any:
        """The sorted classes (of the whole data, also in a part of it); a dict when there are several columns."""
        return self._of_columns({c.name: c.classes for c in self.columns})

    @property
    def task(self) -> Any:
        """What the targets ask for; a dict when there are several columns; None without targets."""
        return self._of_columns({c.name: c.task for c in self.columns})

    @property
    def role(self) -> str | None:
        """``"train"`` or ``"test"`` for what came out of a split."""
        return self.meta.get("role")

    @property
    def ignored(self) -> tuple[Path, ...]:
        """The files of the folder that were left out: of another modality, or beside the class folders."""
        return tuple(self.meta.get("ignored", ()))

    @property
    def reads(self) -> int:
        """How often this test part, or a piece of it, was used to report a result."""
        return int(self._known["reads"][0])

    def read(self) -> Self:
        """Count one use of a test part for a reported result, and return it."""
        self._known["reads"][0] += 1
        return self

    def keys(self, table: KeyCache | None = None) -> list[bytes | None]:
        """The 16-byte content key of each item, None for a file that cannot be read.

        Found once and remembered; ``table`` may remember files between runs. Cost: one read of every unknown file.
        """
        if "keys" not in self._known:
            self._known["keys"] = keys_of(self.items, table)
        return list(self._known["keys"])

    @property
    def fingerprint(self) -> str:
        """Hex fingerprint of contents and targets: the same items under other names have the same one."""
        keys = [None if key is None else key.hex() for key in self.keys()]
        return fingerprint([keys, [[c.name, c.task, c.values] for c in self.columns]])

    def take(self, indices: Sequence[int] | Array) -> Self:
        """The items at these positions (or where a boolean mask is true), in this order."""
        return self._piece(self._checked(indices))

    def _checked(self, indices: Sequence[int] | Array) -> Ints:
        wanted = np.asarray(indices)
        if wanted.dtype == bool and wanted.shape == (len(self),):
            return np.flatnonzero(wanted).astype(np.int64)
        fits = wanted.size == 0 or (wanted.dtype.kind in "iu" and wanted.min() >= 0 and wanted.max() < len(self))
        if wanted.ndim != 1 or not fits:
            raise OptionError(
                f"take() needs positions from 0 to {len(self) - 1:,} or a mask of {len(self):,} booleans."
            )
        return wanted.astype(np.int64)

    def _piece(self, indices: Ints, **facts: Any) -> Self:
        def some(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple([values[i] for i in indices.tolist()])

        piece = self._with(
            items=some(self.items), columns=[c.take(indices) for c in self.columns], groups=some(self.groups),
            parts=some(self.parts), meta={**self.meta, **facts},
        )  # fmt: skip
        if "keys" in self._known:
            piece._known["keys"] = list(some(self._known["keys"]) or ())
        if self.role == "test":
            piece._known["reads"] = self._known["reads"]
        return piece

    def _with(self, **changes: Any) -> Self:
        names = ("items", "columns", "modality", "groups", "parts", "root", "meta")
        changed = type(self)(**({name: getattr(self, name) for name in names} | changes))
        if "items" not in changes:  # the same items: the same contents, and reading one is reading the other
            changed._known.update({name: self._known[name] for name in ("keys", "reads") if name in self._known})
        return changed

    def overlap(self, other: Holding) -> list[tuple[Any, Any]]:
        """(item, other's item) for every item whose exact content is also in ``other``. Cheap: see ``same_content``."""
        return [(self.items[i], other.items[j]) for i, j in self._same(other)]

    def _same(self, other: Holding) -> list[tuple[int, int]]:
        return same_content(self.items, other.items, (self._known.get("keys"), other._known.get("keys")))

    def without(self, other: Holding) -> Self:
        """This data less the items whose exact content is in ``other``."""
        keep = np.ones(len(self), bool)
        keep[[i for i, _ in self._same(other)]] = False
        return self._piece(np.flatnonzero(keep))

    def with_targets(self, targets: Any, *, task: str | Mapping[str, str] | None = None) -> Self:
        """The same items with other labels: a sequence, an array, or a mapping name → sequence."""
        if task is None and len(self.columns) == 1 and not isinstance(targets, Mapping):
            return self._with(columns=[relabel(self.columns[0], targets)])
        return self._with(columns=columns_from(targets, len(self), task=task))

    def without_targets(self) -> Self:
        """The same items without labels."""
        return self._with(columns=())
