"""Dataset: labelled items, how to read them from folders, tables and arrays, and how to split and sample them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from headstart._base.hashing import fingerprint
from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import MODALITIES, Array, Ints, Modality, RandomState
from headstart.dataset import splits
from headstart.dataset.arrays import parse_arrays, parse_items
from headstart.dataset.duplicates import KeyCache, content_keys, find_same_content, warn_duplicates
from headstart.dataset.folders import canonical_part
from headstart.dataset.loading import load_folder, load_table, parse_groups
from headstart.dataset.splits import group_ids, resolve_seed
from headstart.dataset.targets import Target, make_targets, relabel
from headstart.errors import DataError, OptionError, UnknownName

_SHOWN = 6
_NOUNS = {
    "image": ("image", "images"),
    "text": ("text", "texts"),
    "audio": ("clip", "clips"),
    "vector": ("vector", "vectors"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Items with their targets and groups, a modality and a task. It never changes: every verb returns a new one.

    Made by :meth:`from_folder`, :meth:`from_table` or :meth:`from_arrays` rather than by hand.

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

    items: tuple[Any, ...]
    columns: tuple[Target, ...] = ()
    modality: Modality = field(kw_only=True)
    groups: tuple[Any, ...] | None = field(default=None, kw_only=True)
    parts: tuple[str | None, ...] | None = field(default=None, kw_only=True)
    root: Path | None = field(default=None, kw_only=True)
    meta: dict[str, Any] = field(default_factory=dict, kw_only=True)
    _cache: dict[str, Any] = field(default_factory=dict, init=False)  # content keys, number of reads: found out later

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise UnknownName(unknown_name("modalities", self.modality, list(MODALITIES)))
        for name in ("items", "columns", "groups", "parts"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        object.__setattr__(self, "meta", dict(self.meta or {}))
        if len(set(self.target_names)) < len(self.columns):
            raise DataError(f"Two target columns have the same name: {', '.join(self.target_names)}.")
        per_item = {"groups": self.groups, "parts": self.parts} | {repr(c.name): c.values for c in self.columns}
        for name, values in per_item.items():
            if values is not None and len(values) != len(self.items):
                raise DataError(f"There are {len(self.items):,} items but {len(values):,} values in {name}.")
        self._cache["reads"] = [0]

    # ---- ways in

    @classmethod
    def from_folder(cls, path: str | Path, modality: str | None = None) -> Dataset:
        """Read files in class folders: ``photos/cat/1.jpg`` is of the class "cat".

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
        return cls(**vars(load_folder(Path(path), modality)))

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
        """Read the rows of a csv, tsv, jsonl or parquet file.

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
        return cls(**vars(loaded))

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        y: ArrayLike | Mapping[str, Any] | None = None,
        *,
        groups: Sequence[Any] | None = None,
        task: str | Mapping[str, str] | None = None,
        modality: str | None = None,
        sample_rate: int | None = None,
    ) -> Dataset:
        """Take vectors, images, audio or texts that are in memory.

        Parameters
        ----------
        X : array or list
            uint8 (n, h, w[, c]): images. float (n, h, w[, c]) or (n, c, h, w): images, preprocessed already.
            (n, d): vectors. A list of str: texts. A list of arrays of different sizes: images, or audio. A writable
            array is copied, a read-only one (a memory map) is not.
        y : sequence, array, or mapping name → sequence, optional
            Labels; an (n, t) matrix of 0 and 1 is multilabel, one of floats regression with t outputs.
        groups : sequence, optional
        task, modality : str, optional
            Where the arrays leave it open; ``modality="audio"`` makes (n, samples) audio clips.
        sample_rate : int, optional
            Of audio, in Hz.
        """
        items, kind, preprocessed = parse_arrays(X, modality)
        columns = () if y is None else make_targets(y, len(items), task=task)
        facts = {"preprocessed": preprocessed or None, "sample_rate": sample_rate}
        meta = {key: value for key, value in facts.items() if value is not None}
        return cls(items, columns, modality=kind, groups=parse_groups(groups), meta=meta)

    @classmethod
    def from_items(cls, items: object, modality: str | None = None) -> Dataset:
        """Take items without targets: one path, text or array, or a list of them (what ``predict`` is given)."""
        if isinstance(items, Dataset):
            return items
        is_text = isinstance(items, str) and modality == "text"
        if isinstance(items, (str, Path)) and not is_text and os.path.isdir(items):
            return cls.from_folder(items, modality).without_targets()
        parsed, kind, preprocessed = parse_items(items, modality)
        return cls(parsed, modality=kind, meta={"preprocessed": True} if preprocessed else {})

    # ---- what it holds

    def __len__(self) -> int:
        return len(self.items)

    @property
    def group_ids(self) -> Ints | None:
        """Index of each item's group, from 0; an item without one is a group of its own. Shape (n,)."""
        return None if self.groups is None else group_ids(self.groups)

    def __repr__(self) -> str:
        numbers = self.group_ids
        extras = [] if numbers is None else [f"{len(np.unique(numbers)):,} groups"]
        if self.parts is not None:
            extras.append(", ".join(f"{p} {self.parts.count(p):,}" for p in dict.fromkeys(self.parts) if p is not None))
        return f"Dataset: {describe(self.items, self.modality, self.columns, extras)}"

    def _per_column(self, values: Mapping[str, Any]) -> Any:
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
        return self._per_column({c.name: c.values for c in self.columns})

    @property
    def classes(self) -> Any:
        """The sorted classes (of the whole data, also in a part of it); a dict when there are several columns."""
        return self._per_column({c.name: c.classes for c in self.columns})

    @property
    def task(self) -> Any:
        """The task that the targets stand for; a dict when there are several columns; None without targets."""
        return self._per_column({c.name: c.task for c in self.columns})

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
        """Number of times that this test part, or a subset of it, was used to report a result."""
        return int(self._cache["reads"][0])

    def read(self) -> Self:
        """Count one use of a test part for a reported result, and return it."""
        self._cache["reads"][0] += 1
        return self

    def keys(self, table: KeyCache | None = None) -> list[bytes | None]:
        """Return the 16-byte content key of each item, None for a file that cannot be read.

        Computed once; ``table`` may remember files between runs. **Cost**: one read of every unknown file.
        """
        if "keys" not in self._cache:
            self._cache["keys"] = content_keys(self.items, table)
        return list(self._cache["keys"])

    @property
    def fingerprint(self) -> str:
        """Hex fingerprint of contents and targets: the same items under other names have the same one."""
        keys = [None if key is None else key.hex() for key in self.keys()]
        return fingerprint([keys, [[c.name, c.task, c.values] for c in self.columns]])

    # ---- parts and variants of it

    def take(self, indices: Sequence[int] | Array) -> Self:
        """Return the items at these positions (or where a boolean mask is true), in this order."""
        return self._subset(self._positions(indices))

    def _positions(self, indices: Sequence[int] | Array) -> Ints:
        index = np.asarray(indices)
        if index.dtype == bool and index.shape == (len(self),):
            return np.flatnonzero(index).astype(np.int64)
        fits = index.size == 0 or (index.dtype.kind in "iu" and index.min() >= 0 and index.max() < len(self))
        if index.ndim != 1 or not fits:
            raise OptionError(
                f"take() needs positions from 0 to {len(self) - 1:,} or a mask of {len(self):,} booleans."
            )
        return index.astype(np.int64)

    def _subset(self, indices: Ints, **facts: Any) -> Self:
        def select(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple([values[i] for i in indices.tolist()])

        subset = self._replace(
            items=select(self.items),
            columns=[column.take(indices) for column in self.columns],
            groups=select(self.groups),
            parts=select(self.parts),
            meta={**self.meta, **facts},
        )
        if "keys" in self._cache:
            subset._cache["keys"] = list(select(self._cache["keys"]) or ())
        if self.role == "test":  # the same counter: reading a subset of the test part is reading the test part
            subset._cache["reads"] = self._cache["reads"]
        return subset

    def _replace(self, **changes: Any) -> Self:
        names = ("items", "columns", "modality", "groups", "parts", "root", "meta")
        changed = type(self)(**({name: getattr(self, name) for name in names} | changes))
        if "items" not in changes:  # the same items: the same contents, and reading one is reading the other
            changed._cache.update({name: self._cache[name] for name in ("keys", "reads") if name in self._cache})
        return changed

    def overlap(self, other: Dataset) -> list[tuple[Any, Any]]:
        """Return (item, other's item) for every item whose exact content is also in ``other``. Most are not read."""
        return [(self.items[i], other.items[j]) for i, j in self._shared_content(other)]

    def _shared_content(self, other: Dataset) -> list[tuple[int, int]]:
        return find_same_content(self.items, other.items, (self._cache.get("keys"), other._cache.get("keys")))

    def without(self, other: Dataset) -> Self:
        """Return this data without the items whose exact content is in ``other``."""
        keep = np.ones(len(self), bool)
        keep[[i for i, _ in self._shared_content(other)]] = False
        return self._subset(np.flatnonzero(keep))

    def with_targets(
        self, targets: ArrayLike | Mapping[str, Any], *, task: str | Mapping[str, str] | None = None
    ) -> Self:
        """Return the same items with other labels: a sequence, an array, or a mapping name → sequence."""
        if task is None and len(self.columns) == 1 and not isinstance(targets, Mapping):
            return self._replace(columns=[relabel(self.columns[0], targets)])
        return self._replace(columns=make_targets(targets, len(self), task=task))

    def without_targets(self) -> Self:
        """Return the same items without labels."""
        return self._replace(columns=())

    # ---- ways to divide it

    def split(self, test_size: float = 0.25, random_state: RandomState = 0) -> tuple[Dataset, Dataset]:
        """Split into (train, test), stratified by class; groups, where there are any, stay on one side.

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
        train = self._subset(np.flatnonzero(~mask), role="train", random_state=seed)
        test = self._subset(np.flatnonzero(mask), role="test", random_state=seed)
        warn_duplicates(test.overlap(train), "test", "training", "train = train.without(test)")
        return train, test

    def sample(self, per_class: int | None = None, *, n: int | None = None, random_state: RandomState = 0) -> Dataset:
        """Draw a random sample: ``per_class`` items of every class (or all it has), or ``n`` in all, stratified."""
        seed = resolve_seed(random_state)
        indices = splits.sample_indices(self.columns, len(self), count=n, each=per_class, seed=seed)
        return self._subset(indices, random_state=seed)

    def fold_ids(self, k: int = 5, random_state: RandomState = 0) -> Ints:
        """Return the fold 0 … k-1 that holds each item out: stratified, groups together. Shape (n,)."""
        return splits.fold_ids(self.columns, self.groups, len(self), k, seed=resolve_seed(random_state))

    def folds(self, k: int = 5, random_state: RandomState = 0) -> list[tuple[Dataset, Dataset]]:
        """Return (train, held out) for each of ``k`` folds; every item is held out once."""
        seed = resolve_seed(random_state)
        ids = self.fold_ids(k, seed)
        pairs = []
        for fold in range(k):
            train = self._subset(np.flatnonzero(ids != fold), random_state=seed)
            held_out = self._subset(np.flatnonzero(ids == fold), random_state=seed, fold=fold)
            pairs.append((train, held_out))
        return pairs

    def part(self, name: str) -> Dataset:
        """Return the part called ``name`` of data that came with a split; "val", "valid" and "dev" are the same name.

        Warns
        -----
        HeadstartWarning
            When items of this part are exact duplicates of items in a part that was asked for before.
        """
        part = splits.match_part(self.parts, name)
        requested: dict[str, Dataset] = self._cache.setdefault("parts", {})
        if part not in requested:  # kept, so that the reads of a test part add up
            mask = np.array([p == part for p in self.parts or ()], bool)
            role = canonical_part(part)
            subset = self._subset(np.flatnonzero(mask), role=role if role in ("train", "test") else None)
            subset = subset._replace(parts=None)
            for other, earlier in requested.items():
                warn_duplicates(subset.overlap(earlier), repr(part), repr(other), "one_part.without(other_part)")
            requested[part] = subset
        return requested[part]

    def dirichlet(self, clients: int, alpha: float = 1.0, random_state: RandomState = 0) -> list[Dataset]:
        """Spread the items over clients that differ: the smaller ``alpha``, the fewer classes each has."""
        seed = resolve_seed(random_state)
        ids = splits.client_ids(self.columns, len(self), clients=clients, alpha=alpha, seed=seed)
        return [self._subset(np.flatnonzero(ids == i), random_state=seed, client=i) for i in range(clients)]


def check_has_targets(data: object, verb: str) -> None:
    """Refuse anything but a dataset with targets; ``verb`` is what was called.

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


# ---- One line that describes a Dataset.


def describe(items: Sequence[Any], modality: str, columns: Sequence[Target], extras: Sequence[str]) -> str:
    """``600 images, 6 classes (cardboard 100, glass 100, …), 3 groups``."""
    n = len(items)
    first = items[0] if n else None
    size = " × ".join(map(str, first.shape)) if isinstance(first, np.ndarray) else _text_lengths(items)
    words = f"{n:,} {_NOUNS[modality][n != 1]}" + (f" of {size}" if size else "")
    targets = [_describe_column(column, named=len(columns) > 1) for column in columns] or ["no targets"]
    return ", ".join([words, *targets, *extras])


def _text_lengths(items: Sequence[Any]) -> str:
    """Describe the lengths of texts, where they differ: they tell whether a network will have to cut them."""
    lengths = sorted(len(item) for item in items if isinstance(item, str))
    if not lengths or lengths[0] == lengths[-1]:
        return ""
    return f"{lengths[0]:,} to {lengths[-1]:,} characters (median {lengths[len(lengths) // 2]:,})"


def _describe_column(column: Target, *, named: bool) -> str:
    missing = sum(v is None for v in column.values)
    gaps = f", {missing:,} without a label" if missing else ""
    lead = f"{column.name}: " if named or column.task == "regression" else ""
    if column.task == "regression":
        numbers = column.matrix()
        present = numbers[~np.isnan(numbers)]
        span = f"{present.min():g} to {present.max():g}" if len(present) else "no values"
        outputs = f" in {numbers.shape[1]} outputs" if numbers.shape[1] > 1 else ""
        return f"{lead}{span}{outputs} (regression{gaps})"
    if column.classes is None:
        noun = "transcripts" if column.task == "transcription" else "summaries"
        return f"{lead}{noun}{gaps}"
    counts = Counter(column.pairs()[1].tolist())
    shown = ", ".join(f"{label} {counts[i]:,}" for i, label in enumerate(column.classes[:_SHOWN]))
    more = ", …" if len(column.classes) > _SHOWN else ""
    singular, plural = ("class", "classes") if column.task == "classification" else ("label", "labels")
    noun = singular if len(column.classes) == 1 else plural
    return f"{lead}{len(column.classes)} {noun} ({shown}{more}){gaps}"
