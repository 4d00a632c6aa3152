"""Dataset: the ways in, and how to divide it into parts, folds, samples and clients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._typing import Ints
from headstart.dataset import _partition
from headstart.dataset._arrays import items_from, items_of
from headstart.dataset._duplicates import warn_duplicates
from headstart.dataset._holding import Holding
from headstart.dataset._loading import load_folder, load_table, plain_groups
from headstart.dataset._media import part_called
from headstart.dataset._splitting import seed_of
from headstart.dataset._target import columns_from
from headstart.errors import DataError


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
        items, kind, preprocessed = items_from(X, modality)
        columns = () if y is None else columns_from(y, len(items), task=task)
        facts = {"preprocessed": preprocessed or None, "sample_rate": sample_rate}
        meta = {key: value for key, value in facts.items() if value is not None}
        return cls(items, columns, modality=kind, groups=plain_groups(groups), meta=meta)

    @classmethod
    def from_items(cls, items: Any, modality: str | None = None) -> Dataset:
        """Items without targets: one path, text or array, or a list of them (what ``predict`` is given)."""
        if isinstance(items, Dataset):
            return items
        a_text = isinstance(items, str) and modality == "text"
        if isinstance(items, (str, Path)) and not a_text and os.path.isdir(items):
            return cls.from_folder(items, modality).without_targets()
        found, kind, preprocessed = items_of(items, modality)
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
        seed = seed_of(random_state)
        mask = _partition.split_mask(self.columns, self.groups, len(self), test_size, seed=seed)
        if self.parts is not None:
            note('The data has parts of its own, to be had by data.part("train"); this split does not look at them.')
        train = self._piece(np.flatnonzero(~mask), role="train", random_state=seed)
        test = self._piece(np.flatnonzero(mask), role="test", random_state=seed)
        warn_duplicates(test.overlap(train), "test", "training", "train = train.without(test)")
        return train, test

    def sample(self, per_class: int | None = None, *, n: int | None = None, random_state: Any = 0) -> Dataset:
        """A random sample: ``per_class`` items of every class (all of a smaller one), or ``n`` in all, stratified."""
        seed = seed_of(random_state)
        indices = _partition.sample_indices(self.columns, len(self), count=n, each=per_class, seed=seed)
        return self._piece(indices, random_state=seed)

    def fold_ids(self, k: int = 5, random_state: Any = 0) -> Ints:
        """The fold 0 … k-1 that holds each item out: stratified, groups together. Shape (n,)."""
        return _partition.fold_ids(self.columns, self.groups, len(self), k, seed=seed_of(random_state))

    def folds(self, k: int = 5, random_state: Any = 0) -> list[tuple[Dataset, Dataset]]:
        """(train, held out) for each of ``k`` folds; every item is held out once."""
        seed = seed_of(random_state)
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
        found = _partition.find_part(self.parts, name)
        pieces: dict[str, Dataset] = self._known.setdefault("parts", {})
        if found not in pieces:  # kept, so that the reads of a test part add up
            mask = np.array([p == found for p in self.parts or ()], bool)
            role = part_called(found) if part_called(found) in ("train", "test") else None
            pieces[found] = self._piece(np.flatnonzero(mask), role=role)._with(parts=None)
            for known in [p for p in pieces if p != found]:
                pairs = pieces[found].overlap(pieces[known])
                warn_duplicates(pairs, repr(found), repr(known), "one_part.without(other_part)")
        return pieces[found]

    def dirichlet(self, clients: int, alpha: float = 1.0, random_state: Any = 0) -> list[Dataset]:
        """The items spread over clients that differ: the smaller ``alpha``, the fewer classes each has."""
        seed = seed_of(random_state)
        ids = _partition.client_ids(self.columns, len(self), clients=clients, alpha=alpha, seed=seed)
        return [self._piece(np.flatnonzero(ids == i), random_state=seed, client=i) for i in range(clients)]


def need_targets(data: Any, verb: str) -> None:
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
