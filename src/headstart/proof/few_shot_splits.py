"""Splits of a proof: one locked test set, and nested draws of k training items per class."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._base.hashing import fingerprint_tensors
from headstart._base.progress import listening
from headstart.dataset.dataset import Dataset, check_has_targets
from headstart.errors import DataError, HeadstartWarning, OptionError
from headstart.imbalance import resolve
from headstart.proof.analysis import MIN_GROUPS, TestSet

_MAX_TEST = 1000
_EXTRA_SHOTS = (2, 4, 8)  # times the largest number of labels asked for: how far the baselines' curves go
_MIN_RATIO = 1.25  # two points nearer than this say the same


@dataclass(frozen=True, eq=False)
class FewShotSplits:
    """The items used, as one dataset, and how they are used.

    Attributes
    ----------
    data : Dataset
        Only items that are tested or drawn at least once, all of them with a label.
    T : (n, t) array
        One-hot classes.
    tested : (n,) array of bool
    class_ranks : (repeats, n) array of int
        Rank of an item among those of its class in each draw; -1 for what is not drawn. The draw of k per class are
        the ranks below k: smaller draws are part of larger ones, and the same for every method.
    shots, further : tuple of int
        Labels per class compared at, and those beyond that only baselines are given.
    notes : tuple of str
    """

    data: Dataset
    T: np.ndarray
    tested: np.ndarray
    class_ranks: np.ndarray
    shots: tuple[int, ...]
    extra_shots: tuple[int, ...]
    balanced: bool
    notes: tuple[str, ...] = ()

    @property
    def codes(self) -> np.ndarray:
        """(n,) class of each item."""
        return np.asarray(self.T.argmax(1))

    @property
    def test(self) -> np.ndarray:
        """Positions of the test items."""
        return np.flatnonzero(self.tested)

    @property
    def test_set(self) -> TestSet:
        """The test part as the intervals see it."""
        groups = None if self.groups is None else self.groups[self.test]
        return TestSet(self.codes[self.test], groups, self.balanced)

    @property
    def groups(self) -> np.ndarray | None:
        """(n,) number of each item's group; an item without one is a group of its own."""
        return self.data.group_ids

    def subset(self, count: int, repeat: int) -> np.ndarray:
        """Positions of the training items: ``count`` of every class, fewer of a smaller one."""
        class_ranks = self.class_ranks[repeat]
        return np.flatnonzero((class_ranks >= 0) & (class_ranks < count))

    def restrict(self, mask: np.ndarray) -> FewShotSplits:
        """Return the splits of the items where the mask is True: those that can be read."""
        if mask.all():
            return self
        data = self.data.take(np.flatnonzero(mask))
        T, tested, class_ranks = self.T[mask], self.tested[mask], self.class_ranks[:, mask]
        return dataclasses.replace(self, data=data, T=T, tested=tested, class_ranks=class_ranks)

    @property
    def fingerprint(self) -> str:
        """Of contents, labels, groups and draws."""
        arrays = {"T": self.T, "tested": self.tested, "ranks": self.class_ranks}
        if self.groups is not None:
            arrays["groups"] = self.groups
        return self.data.fingerprint + fingerprint_tensors(arrays)[:16]


def few_shot_splits(
    data: Dataset, target: str | None, *, shots: Sequence[int], repeats: int, test_size: float, seed: int
) -> FewShotSplits:
    """Split off the test part once, stratified and with groups whole, and draw from the rest.

    Raises
    ------
    DataError, OptionError
        Without one classification target, or too few items for the smallest number of labels.
    """
    column = _column(data, target)
    labelled = np.array([value is not None for value in column.values])
    data = data._replace(columns=[column])
    data = data if labelled.all() else data.take(np.flatnonzero(labelled))
    pool, test, notes = _split_test(data, test_size, seed)
    T = np.concatenate([pool.columns[0].matrix(), test.columns[0].matrix()])
    codes = T[: len(pool)].argmax(1)
    sizes = np.bincount(codes, minlength=T.shape[1])
    if (sizes > 0).sum() < 2:
        raise DataError("The training part has items of one class only: there is nothing to learn.")
    feasible, extra_shots = _feasible_shots(shots, sizes, notes)
    if not feasible:
        raise DataError(
            f"The largest class has {sizes.max()} items left for training, fewer than the {min(shots)} labels per "
            "class asked for. Give smaller shots=, or more items."
        )
    largest = max((*feasible, *extra_shots))
    class_ranks = np.full((repeats, len(T)), -1, dtype=np.int64)
    for repeat in range(repeats):
        class_ranks[repeat, : len(pool)] = _class_ranks(codes, np.random.default_rng([seed, repeat]), largest)
    tested = np.arange(len(T)) >= len(pool)
    used = tested | (class_ranks >= 0).any(0)
    data_used = _concatenate(pool, test).take(np.flatnonzero(used))
    balanced = resolve("auto", np.bincount(T.argmax(1))).metric == "balanced_accuracy"
    notes += _few_groups_note(test)
    return FewShotSplits(
        data_used, T[used], tested[used], class_ranks[:, used], feasible, extra_shots, balanced, tuple(notes)
    )


def _column(data: Dataset, target: str | None) -> Any:
    check_has_targets(data, "prove")
    named = [c for c in data.columns if target in (None, c.name)]
    if len(named) != 1:
        names = ", ".join(repr(c.name) for c in data.columns)
        raise OptionError(f"target= must be one of {names}; got {target!r}.")
    if named[0].task != "classification":
        raise OptionError(
            f"prove() compares classifiers, and {named[0].name!r} is a {named[0].task} target. For other tasks compare "
            "by hand: evaluate hs.fit(...) on this source and on hs.pretrain(..., objective='random')."
        )
    return named[0]


def _split_test(data: Dataset, test_size: float, seed: int) -> tuple[Dataset, Dataset, list[str]]:
    notes = []
    with listening(None), warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadstartWarning)  # of copies, which are seen to below
        if data.parts is not None and {"train", "test"} <= set(data.parts):
            pool, test = data.part("train"), data.part("test")
            notes.append("Training and test part are those that the data came with.")
        else:
            pool, test = data._replace(parts=None).split(test_size, random_state=seed)
        if len(test) > _MAX_TEST:
            notes.append(f"Of {len(test):,} test items a stratified sample of {_MAX_TEST:,} is used.")
            test = test.sample(n=_MAX_TEST, random_state=seed)
        alone = pool.without(test)
    if len(alone) < len(pool):
        notes.append(f"{len(pool) - len(alone)} training items are exact copies of test items and are left out.")
    return alone, test, notes


def _feasible_shots(
    shots: Sequence[int], sizes: np.ndarray, notes: list[str]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of labels that the classes can give, and further ones for the baselines."""
    largest = int(sizes.max())
    feasible = tuple(sorted({int(count) for count in shots if count <= largest}))
    if infeasible := sorted({int(count) for count in shots} - set(feasible)):
        notes.append(f"No class has {_join_numbers(infeasible)} items left for training: left out.")
    if not feasible:
        return (), ()
    top = feasible[-1]
    small = sizes[(sizes > 0) & (sizes < top)]
    if len(small):
        notes.append(f"{len(small)} of {len(sizes)} classes have fewer than {top} items: all of theirs are drawn.")
    multiples = [min(top * times, largest) for times in _EXTRA_SHOTS]
    extra_shots = [count for count in dict.fromkeys(multiples) if count >= _MIN_RATIO * top]
    distinct = [count for count, after in zip(extra_shots, [*extra_shots[1:], np.inf]) if after >= _MIN_RATIO * count]
    return feasible, tuple(distinct)


def _join_numbers(counts: Sequence[int]) -> str:
    return " or ".join(map(str, counts))


def _class_ranks(codes: np.ndarray, rng: np.random.Generator, limit: int) -> np.ndarray:
    """A random place of each item among those of its class; -1 from ``limit`` on."""
    class_ranks = np.full(len(codes), -1, dtype=np.int64)
    for code in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == code))[:limit]
        class_ranks[members] = np.arange(len(members))
    return class_ranks


def _concatenate(pool: Dataset, test: Dataset) -> Dataset:
    columns = [
        dataclasses.replace(ours, values=(*ours.values, *theirs.values))
        for ours, theirs in zip(pool.columns, test.columns)
    ]
    groups = None if pool.groups is None else (*pool.groups, *(test.groups or ()))
    meta = {key: value for key, value in pool.meta.items() if key != "role"}
    return pool._replace(items=(*pool.items, *test.items), columns=columns, groups=groups, parts=None, meta=meta)


def _few_groups_note(test: Dataset) -> list[str]:
    n_groups = MIN_GROUPS if test.group_ids is None else len(np.unique(test.group_ids))
    if n_groups >= MIN_GROUPS:
        return []
    return [
        f"The test part has only {n_groups} group{'s' * (n_groups != 1)} of its own: the intervals speak for "
        f"{'those' if n_groups != 1 else 'that one'}, not for new ones."
    ]
