"""Splits, folds, samples and clients: from targets and groups to the integers of ``_splitting``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._registry import unknown
from headstart._typing import Array, Ints
from headstart.dataset._media import part_called
from headstart.dataset._splitting import (
    balanced_bins,
    dirichlet_bins,
    per_class,
    per_label,
    proportional,
    share_of,
    stratified_folds,
    stratified_mask,
)
from headstart.dataset._target import Target
from headstart.errors import DataError, OptionError, UnknownName

_NAMED = 5


def split_mask(columns: Sequence[Target], groups: Sequence[Any] | None, n: int, test_size: Any, *, seed: int) -> Array:
    """Which of ``n`` items are held out: stratified, groups kept together. Shape (n,), bool."""
    share, rng = share_of(test_size, n), np.random.default_rng(seed)
    codes = _codes(columns, n)
    if groups is None and codes is not None:
        mask = stratified_mask(codes, share, rng)
    else:
        units = _units(groups, n, 2)
        mask = balanced_bins(units, _pairs(columns), np.array([1 - share, share]), rng) == 1
    for column in columns:
        _mention_one_sided(column, mask)
    return mask


def fold_ids(columns: Sequence[Target], groups: Sequence[Any] | None, n: int, k: Any, *, seed: int) -> Ints:
    """Fold 0 … k-1 of each item: stratified, groups kept together. Shape (n,)."""
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 2 <= k <= n:
        raise OptionError(
            f"The number of folds must be a whole number from 2 to the number of items ({n:,}); got {k!r}."
        )
    k, rng = int(k), np.random.default_rng(seed)
    codes = _codes(columns, n)
    for column in columns:
        _mention_rare(column, k, f"fewer than {k} folds: some folds hold none of them")
    if groups is None and codes is not None:
        return stratified_folds(codes, k, rng)
    return balanced_bins(_units(groups, n, k), _pairs(columns), np.full(k, 1 / k), rng)


def sample_indices(columns: Sequence[Target], n: int, *, count: Any, each: Any, seed: int) -> Ints:
    """Random items, in increasing order: ``each`` of every class, or ``count`` in all, the classes in proportion."""
    if (count is None) == (each is None):
        raise OptionError("sample() takes either per_class= or n=.")
    wanted = each if count is None else count
    if not isinstance(wanted, (int, np.integer)) or isinstance(wanted, bool) or wanted < 1:
        raise OptionError(f"sample() needs a whole number of items ≥ 1; got {wanted!r}.")
    rng, codes = np.random.default_rng(seed), _codes(columns, n)
    if count is not None:
        if count >= n:
            note(f"A sample of {count:,} was asked for; there are {n:,} items and all are taken.")
            return np.arange(n, dtype=np.int64)
        return proportional(np.zeros(n, np.int64) if codes is None else codes, int(count), rng)
    pairs = _pairs(columns)
    if not len(pairs[0]):
        raise DataError("sample(per_class=) needs classes, and these items have none; sample(n=) draws any items.")
    for column in columns:
        _mention_rare(column, int(each), f"fewer than the {each} asked for: all are taken")
    return per_label(pairs, int(each), rng) if codes is None else per_class(codes, int(each), rng)


def client_ids(columns: Sequence[Target], n: int, *, clients: Any, alpha: Any, seed: int) -> Ints:
    """Client of each item, the classes spread unevenly (Dirichlet). Shape (n,)."""
    if not isinstance(clients, (int, np.integer)) or isinstance(clients, bool) or clients < 1:
        raise OptionError(f"clients must be a whole number ≥ 1; got {clients!r}.")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)) or not 0 < float(alpha) < np.inf:
        raise OptionError(f"alpha must be a number > 0 (small: clients of few classes); got {alpha!r}.")
    if n < clients:
        note(f"{n:,} items for {clients:,} clients: some clients are empty.")
    pairs = _pairs(columns)
    codes = np.full(n, -1, np.int64)
    codes[pairs[0][::-1]] = pairs[1][::-1]  # with several labels the first one decides
    return dirichlet_bins(codes, int(clients), float(alpha), np.random.default_rng(seed))


def find_part(parts: Sequence[str | None] | None, name: str) -> str:
    """The part that is called so, or that means the same: "validation" finds "dev"."""
    if parts is None:
        raise DataError("The data has no parts: name its split column with from_table(split=), or use data.split().")
    names = sorted({p for p in parts if p is not None})
    alike = {meaning: p for p in names if (meaning := part_called(p)) is not None}
    found = name if name in names else alike.get(part_called(str(name)) or "")
    if found is None:
        raise UnknownName(unknown("parts", name, names))
    return found


def _codes(columns: Sequence[Target], n: int) -> Ints | None:
    """The one class of each item, zeros when no column has classes, None when there are several labels per item."""
    labelled = [c for c in columns if c.classes is not None]
    if not labelled:
        return np.zeros(n, np.int64)
    return labelled[0].codes() if len(labelled) == 1 and labelled[0].task == "classification" else None


def _pairs(columns: Sequence[Target]) -> tuple[Ints, Ints]:
    """(item, label) of all columns together, each column's labels numbered after those of the one before."""
    items, labels, offset = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for column in columns:
        rows, classes = column.pairs()
        items.append(rows)
        labels.append(classes + offset)
        offset += len(column.classes or ())
    return np.concatenate(items), np.concatenate(labels)


def _units(groups: Sequence[Any] | None, n: int, least: int) -> Ints:
    """Number of the group of each item; an item without a group is one of its own."""
    if groups is None:
        return np.arange(n, dtype=np.int64)
    units = numbered(groups)
    many = int(units.max(initial=-1)) + 1
    if many < least:
        raise DataError(
            f"{least} parts need at least {least} groups, and there {'is' if many == 1 else 'are'} {many}: groups are "
            "never torn apart. Ask for fewer parts, or leave the groups out."
        )
    return units


def numbered(groups: Sequence[Any]) -> Ints:
    """Number of the group of each item, in the order in which groups come first. Shape (n,)."""
    index: dict[Any, int] = {}
    named = ((i,) if g is None else (0, g) for i, g in enumerate(groups))
    return np.array([index.setdefault(one, len(index)) for one in named], np.int64)


def _counts(column: Target) -> Ints:
    return np.bincount(column.pairs()[1], minlength=len(column.classes or ()))


def _list(column: Target, which: Array, counts: Ints) -> str:
    classes = column.classes or ()
    shown = ", ".join(f"{classes[i]!r} ({counts[i]})" for i in which[:_NAMED].tolist())
    return shown + (f" and {len(which) - _NAMED} more" if len(which) > _NAMED else "")


def _mention_rare(column: Target, least: int, what: str) -> None:
    counts = _counts(column)
    rare = np.flatnonzero((counts > 0) & (counts < least))
    if len(rare):
        note(f"Target {column.name!r} has classes with few items, {what}: {_list(column, rare, counts)}.")


def _mention_one_sided(column: Target, mask: Array) -> None:
    items, classes = column.pairs()
    counts = _counts(column)
    held = np.bincount(classes[mask[items]], minlength=len(counts))
    for which, part in ((held == 0, "training"), (held == counts, "test")):
        only = np.flatnonzero(which & (counts > 0))
        if len(only):
            note(f"Target {column.name!r}: classes that are only in the {part} part: {_list(column, only, counts)}.")
