"""Dataset: the ways in, and how to divide it into parts, folds, samples and clients."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from headstart._base.hashing import fingerprint
from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import MODALITIES, Array, Ints, Modality
from headstart.dataset import splits
from headstart.dataset.arrays import parse_arrays, parse_items
from headstart.dataset.duplicates import KeyCache, content_keys, find_same_content, warn_duplicates
from headstart.dataset.folders import canonical_part
from headstart.dataset.loading import load_folder, load_table, parse_groups
from headstart.dataset.splits import group_ids, resolve_seed
from headstart.dataset.targets import Target, make_targets, relabel
from headstart.errors import DataError, OptionError, UnknownName

# ---- One line that tells what a Dataset holds. ----


_SHOWN = 6
_NOUNS = {
    "image": ("image", "images"),
    "text": ("text", "texts"),
    "audio": ("clip", "clips"),
    "vector": ("vector", "vectors"),
}


def describe(items: Sequence[Any], modality: str, columns: Sequence[Target], extras: Sequence[str]) -> str:
    """``600 images, 6 classes (cardboard 100, glass 100, …), 3 groups``."""
    n = len(items)
    first = items[0] if n else None
    size = _size(first) if isinstance(first, np.ndarray) else _lengths(items)
    words = f"{n:,} {_NOUNS[modality][n != 1]}" + (f" of {size}" if size else "")
    parts = [words, *(_column(c, named=len(columns) > 1) for c in columns), *extras]
    return ", ".join(parts if columns else [words, "no targets", *extras])


def _size(row: np.ndarray[Any, Any]) -> str:
    return " × ".join(map(str, row.shape))


def _lengths(items: Sequence[Any]) -> str:
    """How long texts are, where they differ: what tells whether a network will have to cut them."""
    found = sorted(len(item) for item in items if isinstance(item, str))
    if not found or found[0] == found[-1]:
        return ""
    return f"{found[0]:,} to {found[-1]:,} characters (median {found[len(found) // 2]:,})"


def _column(column: Target, *, named: bool) -> str:
    missing = sum(v is None for v in column.values)
    lack = f", {missing:,} without a label" if missing else ""
    lead = f"{column.name}: " if named or column.task == "regression" else ""
    if column.task == "regression":
        numbers = column.matrix()
        seen = numbers[~np.isnan(numbers)]
        span = f"{seen.min():g} to {seen.max():g}" if len(seen) else "no values"
        return f"{lead}{span}{f' in {numbers.shape[1]} outputs' if numbers.shape[1] > 1 else ''} (regression{lack})"
    if column.classes is None:
        return f"{lead}{'transcripts' if column.task == 'transcription' else 'summaries'}{lack}"
    counts = Counter(column.pairs()[1].tolist())
    shown = ", ".join(f"{label} {counts[i]:,}" for i, label in enumerate(column.classes[:_SHOWN]))
    more = ", …" if len(column.classes) > _SHOWN else ""
    noun = {"classification": ("class", "classes"), "multilabel": ("label", "labels")}[column.task]
    return f"{lead}{len(column.classes)} {noun[len(column.classes) != 1]} ({shown}{more}){lack}"


# What a Dataset holds, and the pieces and comparisons that follow from it; how to divide it is in ``_dataset``.


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
            raise UnknownName(unknown_name("modalities", self.modality, list(MODALITIES)))
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
    def group_ids(self) -> Ints | None:
        """Number of each item's group, from 0; an item without one is a group of its own. Shape (n,)."""
        return None if self.groups is None else group_ids(self.groups)

    def __repr__(self) -> str:
        numbers = self.group_ids
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
            self._known["keys"] = content_keys(self.items, table)
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
        return find_same_content(self.items, other.items, (self._known.get("keys"), other._known.get("keys")))

    def without(self, other: Holding) -> Self:
        """This data less the items whose exact content is in ``other``."""
        keep = np.ones(len(self), bool)
        keep[[i for i, _ in self._same(other)]] = False
        return self._piece(np.flatnonzero(keep))

    def with_targets(self, targets: Any, *, task: str | Mapping[str, str] | None = None) -> Self:
        """The same items with other labels: a sequence, an array, or a mapping name → sequence."""
        if task is None and len(self.columns) == 1 and not isinstance(targets, Mapping):
            return self._with(columns=[relabel(self.columns[0], targets)])
        return self._with(columns=make_targets(targets, len(self), task=task))

    def without_targets(self) -> Self:
        """The same items without labels."""
        return self._with(columns=())


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(Holding):
    """Items with what is known about them. It never changes: every verb returns a new one.

    Made by :meth:`from_folder`, :meth:`from_table` or :meth:`from_arrays` rather than by hand.

    Examples
    --------
    >>> import numpy as np
    >>> data = Dataset.from_arrays(np.eye(8), ["cat", "dog"] * 4)
    >>> data
    Dataset: 8 vectors of 8, 2 classes (cat 4, dog 4)
    >>> train, test = data.split(test_size=0.25, random_state=0)
    >>> len(train), len(test), sorted(test.targets)
    (6, 2, ['cat', 'dog'])
    """

    # ---- ways in

    @classmethod
    def from_folder(cls, path: str | Path, modality: str | None = None) -> Dataset:
        """Files in class folders: ``photos/cat/1.jpg`` is of the class "cat".

        Folders nested deeper belong to their class. ``train/`` and ``test/`` (or ``val/``) at the top are parts, to be
        had by ``data.part("train")``. A folder without folders gives items without targets. Files of another kind are
        left out, counted and listed in ``data.ignored``.

        Parameters
        ----------
        path : str or Path
        modality : {"image", "audio", "text"}, optional
            Needed only when there are files of several modalities.

        Raises
        ------
        DataError
            No such folder, nothing usable in it, or several modalities.
        """
        return cls(**load_folder(Path(path), modality))

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        input: str | None = None,
        target: str | Sequence[str] | None = None,
        *,
        task: str | Mapping[str, str] | None = None,
        groups: str | None = None,
        split: str | None = None,
        modality: str | None = None,
    ) -> Dataset:
        """Rows of a csv, tsv, jsonl or parquet file.

        Parameters
        ----------
        path : str or Path
        input : str, optional
            The column with texts or with paths (relative to the table's folder). It may be left out when one column
            has an obvious name such as "path" or "text".
        target : str or list of str, optional
            One column or several. An empty cell is a missing label.
        task : str or mapping column → str, optional
            Inferred when not given, except for "transcription" and "summarization". With "multilabel" a cell is a JSON
            list, or labels separated by ``;`` or ``|``.
        groups, split : str, optional
            Columns with the group and the part of each row.
        modality : {"image", "audio", "text"}, optional
            Inferred from the input column.

        Raises
        ------
        DataError, UnknownName
            A damaged table (with its line), an unknown column, or paths none of which exists.
        """
        names = [target] if isinstance(target, str) else list(target or ())
        loaded = load_table(Path(path), input, names, task=task, groups=groups, split=split, modality=modality)
        return cls(**loaded)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any = None,
        *,
        groups: Sequence[Any] | None = None,
        task: str | Mapping[str, str] | None = None,
        modality: str | None = None,
        sample_rate: int | None = None,
    ) -> Dataset:
        """Vectors, pictures, sounds or texts that are in memory.

        Parameters
        ----------
        X : array or list
            uint8 (n, h, w[, c]): pictures. float (n, h, w[, c]) or (n, c, h, w): pictures, preprocessed already.
            (n, d): vectors. A list of str: texts. A list of arrays of different sizes: pictures, or sounds. A writable
            array is copied, a read-only one (a memory map) is not.
        y : sequence, array, or mapping name → sequence, optional
            Labels; an (n, t) matrix of 0 and 1 is multilabel, one of floats regression with t outputs.
        groups : sequence, optional
        task, modality : str, optional
            Where the arrays leave it open; ``modality="audio"`` makes (n, samples) sounds.
        sample_rate : int, optional
            Of sounds, in Hz.
        """
        items, kind, preprocessed = parse_arrays(X, modality)
        columns = () if y is None else make_targets(y, len(items), task=task)
        facts = {"preprocessed": preprocessed or None, "sample_rate": sample_rate}
        meta = {key: value for key, value in facts.items() if value is not None}
        return cls(items, columns, modality=kind, groups=parse_groups(groups), meta=meta)

    @classmethod
    def from_items(cls, items: Any, modality: str | None = None) -> Dataset:
        """Items without targets: one path, text or array, or a list of them (what ``predict`` is given)."""
        if isinstance(items, Dataset):
            return items
        a_text = isinstance(items, str) and modality == "text"
        if isinstance(items, (str, Path)) and not a_text and os.path.isdir(items):
            return cls.from_folder(items, modality).without_targets()
        found, kind, preprocessed = parse_items(items, modality)
        return cls(found, modality=kind, meta={"preprocessed": True} if preprocessed else {})

    # ---- ways to divide it

    def split(self, test_size: float = 0.25, random_state: Any = 0) -> tuple[Dataset, Dataset]:
        """(train, test): stratified by class; groups, where there are any, stay on one side.

        Parameters
        ----------
        test_size : float or int
            A fraction, or a number of items.
        random_state : int, Generator or None
            The seed; the one used is in ``train.meta["random_state"]``.

        Warns
        -----
        HeadstartWarning
            When items of the test part are exact duplicates of training items.
        """
        seed = resolve_seed(random_state)
        mask = splits.split_mask(self.columns, self.groups, len(self), test_size, seed=seed)
        if self.parts is not None:
            note('The data has parts of its own, to be had by data.part("train"); this split does not look at them.')
        train = self._piece(np.flatnonzero(~mask), role="train", random_state=seed)
        test = self._piece(np.flatnonzero(mask), role="test", random_state=seed)
        warn_duplicates(test.overlap(train), "test", "training", "train = train.without(test)")
        return train, test

    def sample(self, per_class: int | None = None, *, n: int | None = None, random_state: Any = 0) -> Dataset:
        """A random sample: ``per_class`` items of every class (all of a smaller one), or ``n`` in all, stratified."""
        seed = resolve_seed(random_state)
        indices = splits.sample_indices(self.columns, len(self), count=n, each=per_class, seed=seed)
        return self._piece(indices, random_state=seed)

    def fold_ids(self, k: int = 5, random_state: Any = 0) -> Ints:
        """The fold 0 … k-1 that holds each item out: stratified, groups together. Shape (n,)."""
        return splits.fold_ids(self.columns, self.groups, len(self), k, seed=resolve_seed(random_state))

    def folds(self, k: int = 5, random_state: Any = 0) -> list[tuple[Dataset, Dataset]]:
        """(train, held out) for each of ``k`` folds; every item is held out once."""
        seed = resolve_seed(random_state)
        ids = self.fold_ids(k, seed)
        facts = {"random_state": seed}
        return [
            (self._piece(np.flatnonzero(ids != i), **facts), self._piece(np.flatnonzero(ids == i), **facts, fold=i))
            for i in range(k)
        ]

    def part(self, name: str) -> Dataset:
        """The part called ``name`` of data that came with a split; "val", "valid" and "dev" are the same name.

        Warns
        -----
        HeadstartWarning
            When items of this part are exact duplicates of items in a part that was asked for before.
        """
        found = splits.match_part(self.parts, name)
        pieces: dict[str, Dataset] = self._known.setdefault("parts", {})
        if found not in pieces:  # kept, so that the reads of a test part add up
            mask = np.array([p == found for p in self.parts or ()], bool)
            role = canonical_part(found) if canonical_part(found) in ("train", "test") else None
            pieces[found] = self._piece(np.flatnonzero(mask), role=role)._with(parts=None)
            for known in [p for p in pieces if p != found]:
                pairs = pieces[found].overlap(pieces[known])
                warn_duplicates(pairs, repr(found), repr(known), "one_part.without(other_part)")
        return pieces[found]

    def dirichlet(self, clients: int, alpha: float = 1.0, random_state: Any = 0) -> list[Dataset]:
        """The items spread over clients that differ: the smaller ``alpha``, the fewer classes each has."""
        seed = resolve_seed(random_state)
        ids = splits.client_ids(self.columns, len(self), clients=clients, alpha=alpha, seed=seed)
        return [self._piece(np.flatnonzero(ids == i), random_state=seed, client=i) for i in range(clients)]


def check_has_targets(data: Any, verb: str) -> None:
    """Refuse what is no dataset, and one without targets; ``verb`` is what was called.

    Raises
    ------
    DataError
    """
    if not isinstance(data, Dataset):
        raise DataError(
            f"{verb}() takes a Dataset; got {type(data).__name__}. Make one with Dataset.from_folder(PATH), "
            "Dataset.from_table(PATH, target=NAME) or Dataset.from_arrays(X, y)."
        )
    if not data.columns:
        raise DataError(
            f"{verb}() needs targets; this dataset has none. Name the column of the table that has them (target=, or "
            "--target); put the files of each class into a folder of their own (cat/1.jpg); or give labels with "
            "data.with_targets(labels)."
        )
