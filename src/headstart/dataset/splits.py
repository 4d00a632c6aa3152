"""Stratified and grouped splits, folds, samples and clients.

Everything here works on integers: ``codes`` (n,) is the class of each item with -1 where it has none, ``groups`` (n,)
the group of each item, ``pairs`` the (item, label) coordinates of an indicator matrix. The same seed gives the same
split, on every machine; scikit-learn's splitters would give others (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float, Ints, RandomState
from headstart.dataset.folders import canonical_part
from headstart.dataset.targets import Target
from headstart.errors import DataError, OptionError, UnknownName

_RESTARTS = 20
_NAMED = 5  # classes listed in a note
_SMALL = 2000  # units × bins up to which several orders are tried: a tenth of a second


class _UnitLabels(NamedTuple):
    """Labels of units: unit u has ``amounts[i]`` items of label ``columns[i]`` for i from starts[u] to starts[u+1]."""

    starts: Array
    columns: Array
    amounts: Array


def resolve_seed(random_state: RandomState) -> int:
    """Return the seed to use and record: a whole number as it is, a fresh one for None, one drawn from a generator."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**32))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool) and random_state >= 0:
        return int(random_state)
    raise OptionError(f"random_state must be a whole number ≥ 0, None or a numpy generator; got {random_state!r}.")


def held_out_share(test_size: object, n: int) -> float:
    """Return ``test_size`` as a fraction of ``n`` items.

    Raises
    ------
    OptionError
        Unless it is a fraction between 0 and 1 or a whole number from 1 to n - 1.
    """
    if n < 2:
        raise DataError(f"A split needs at least 2 items; there {'is' if n == 1 else 'are'} {n}.")
    if isinstance(test_size, (float, np.floating)) and 0 < test_size < 1:
        return float(np.clip(test_size, 1 / n, (n - 1) / n))
    if isinstance(test_size, (int, np.integer)) and not isinstance(test_size, bool) and 0 < test_size < n:
        return int(test_size) / n
    raise OptionError(
        f"test_size must be a fraction between 0 and 1 or a number of items from 1 to {n - 1:,}; got {test_size!r}."
    )


def stratified_mask(codes: Ints, share: float, rng: np.random.Generator) -> Array:
    """Return a mask of the items that go to the smaller part, with each class in proportion.

    Every class differs by less than one item from its exact share and is in both parts if it has two items; a class
    with one item stays in the first part. Shape (n,), bool.
    """
    present, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    exact = counts * share
    real = (present >= 0) | (len(present) == 1)  # items without a label are a stratum with no right to both parts
    low = np.where(real & (counts > 1), np.maximum(np.floor(exact), 1), np.where(real, 0, np.floor(exact)))
    high = np.where(real, np.minimum(np.ceil(exact), counts - 1), np.ceil(exact))
    low = np.minimum(low, high)
    adjustable = np.flatnonzero(high > low)
    # Largest remainders first; equal ones in random order.
    order = adjustable[np.lexsort((rng.random(len(adjustable)), low[adjustable] - exact[adjustable]))]
    missing = int(np.floor(len(codes) * share + 0.5) - low.sum())
    take = low.copy()
    take[order[: max(0, missing)]] += 1
    if take.sum() == 0:  # every class has a single item: there is nothing to stratify by
        return stratified_mask(np.zeros_like(codes), share, rng)
    mask: Array = _rank_within(inverse, rng) < take[inverse]
    return mask


def stratified_folds(codes: Ints, k: int, rng: np.random.Generator) -> Ints:
    """Deal the shuffled items, class after class, to the folds in turn. Shape (n,).

    Fold sizes and each class's counts differ by at most one between folds.
    """
    order = stratified_order(codes, rng)
    ids = np.empty(len(codes), np.int64)
    ids[order] = np.arange(len(codes)) % k
    return ids


def proportional(codes: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Draw exactly ``count`` random items, in increasing order, each class within one item of its exact share."""
    order = stratified_order(codes, rng)
    positions = ((np.arange(count) + rng.random()) * (len(codes) / count)).astype(np.int64)
    return np.sort(order[np.minimum(positions, len(codes) - 1)])


def per_class(codes: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Draw at most ``count`` random items of each class, in increasing order; items without a class are left out."""
    return np.flatnonzero((codes >= 0) & (_rank_within(codes, rng) < count)).astype(np.int64)


def per_label(pairs: tuple[Ints, Ints], count: int, rng: np.random.Generator) -> Ints:
    """Draw items such that each label is carried by ``count`` of them where it can be; the rarest labels first."""
    items, labels = pairs
    chosen: set[int] = set()
    names, counts = np.unique(labels, return_counts=True)
    for label in names[np.argsort(counts, kind="stable")]:
        members = rng.permutation(items[labels == label]).tolist()
        missing = count - sum(i in chosen for i in members)
        chosen.update([i for i in members if i not in chosen][: max(0, missing)])
    return np.array(sorted(chosen), np.int64)


def balanced_bins(units: Ints, pairs: tuple[Ints, Ints], shares: Float, rng: np.random.Generator) -> Ints:
    """Distribute units (groups, or single items with several labels) over bins as evenly as their labels allow.

    Greedy: the units that hold most of the rarest labels (or simply the largest) go first, each to the bin where it
    least disturbs the target shares of its labels and of the sizes; with few units the best of several orders is taken.

    Parameters
    ----------
    units : ndarray of int64, shape (n,)
        Unit 0 … u-1 of each item; a unit is never torn apart.
    pairs : tuple of ndarray
        (item, label) coordinates.
    shares : ndarray, shape (k,)
        Target share of each bin; they sum to 1.

    Returns
    -------
    ndarray of int64, shape (n,)
        Bin of each item. No bin is empty when there are k units.

    Notes
    -----
    Cost: O(u (k + labels per unit)) per order.
    """
    count = int(units.max()) + 1
    labels = int(pairs[1].max()) + 2 if len(pairs[1]) else 1
    # The last column counts items, so that sizes are balanced together with the labels.
    rows = np.concatenate([units[pairs[0]], units])
    columns = np.concatenate([pairs[1], np.full(len(units), labels - 1)])
    cells, amounts = np.unique(rows * labels + columns, return_counts=True)
    starts = np.searchsorted(cells // labels, np.arange(count + 1))
    columns = cells % labels
    totals = np.bincount(columns, amounts, labels).clip(1)
    unit_labels = _UnitLabels(starts, columns, amounts)
    scarcity = np.add.reduceat(amounts / totals[columns], starts[:-1])
    sizes = np.bincount(units, minlength=count)
    best: tuple[float, Ints] | None = None
    for attempt in range(_RESTARTS if count * len(shares) <= _SMALL else 1):
        by = sizes if attempt % 2 else scarcity
        noise = rng.uniform(0.5, 1.5, count) if attempt > 1 else 1 + 1e-9 * rng.random(count)
        bins, loss = _fill(np.argsort(-by * noise), unit_labels, np.outer(shares, totals))
        if best is None or loss < best[0]:
            best = loss, bins
    assert best is not None
    bins = _fill_empty_bins(best[1], sizes, len(shares))
    return _spread(bins, cells // labels, columns, len(shares))[units]


def _fill(order: Array, units: _UnitLabels, expected: Float) -> tuple[Ints, float]:
    """Put units into bins in this order; return the bins and how far they are from the expected counts."""
    excess = -expected
    bins = np.zeros(len(order), np.int64)
    for unit in order:
        cells = slice(units.starts[unit], units.starts[unit + 1])
        labels, amount = units.columns[cells], units.amounts[cells]
        # Change of Σ excess² / expected when the unit is added to each bin.
        change = ((2 * excess[:, labels] + amount) * amount / expected[:, labels]).sum(axis=1)
        bins[unit] = chosen = int(np.argmin(change))
        excess[chosen, labels] += amount
    return bins, float((excess**2 / expected).sum())


def _spread(bins: Ints, units: Array, columns: Array, k: int) -> Ints:
    """Give every bin a unit of each label that enough units hold, where no other label goes missing by it."""
    labels = int(columns.max()) + 1
    present = np.bincount(bins[units] * labels + columns, minlength=k * labels).reshape(k, labels)
    totals = present.sum(axis=0)
    lacking = [(totals[c], c, b) for b, c in np.argwhere((present == 0) & (totals >= k)).tolist()]
    for _, label, empty in sorted(lacking):
        for unit in units[columns == label].tolist():
            others = columns[np.searchsorted(units, unit) : np.searchsorted(units, unit, "right")]
            if present[empty, label] == 0 and (present[bins[unit], others] > 1).all():
                present[bins[unit], others] -= 1
                present[empty, others] += 1
                bins[unit] = empty
    return bins


def _fill_empty_bins(bins: Ints, sizes: Ints, k: int) -> Ints:
    """Move the smallest unit of the fullest bin into each empty bin, while a bin has two."""
    for empty in sorted(set(range(k)) - set(bins.tolist())):
        members = np.bincount(bins, minlength=k)
        if members.max() < 2:
            break
        donors = np.flatnonzero(bins == members.argmax())
        bins[donors[sizes[donors].argmin()]] = empty
    return bins


def dirichlet_bins(codes: Ints, clients: int, alpha: float, rng: np.random.Generator) -> Ints:
    """Spread each class over the clients in proportions drawn from a Dirichlet distribution; return each item's client.

    Small ``alpha`` gives clients of few classes, a large one clients that are alike. No client is empty when there are
    at least as many items. Shape (n,).
    """
    bins = np.empty(len(codes), np.int64)
    for label in np.unique(codes):
        members = rng.permutation(np.flatnonzero(codes == label))
        shares = rng.dirichlet(np.full(clients, alpha))
        if not np.isfinite(shares).all():  # alpha too small for float64: the limit is one client for each class
            shares = np.eye(clients)[rng.integers(clients)]
        cuts = np.floor(np.cumsum(shares)[:-1] * len(members) + 0.5).astype(np.int64)
        bins[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    return _fill_empty_bins(bins, np.ones(len(codes), np.int64), clients)


def stratified_order(codes: Ints, rng: np.random.Generator) -> Array:
    """Return item indices sorted by class, in random order within each. Shape (n,)."""
    shuffled = rng.permutation(len(codes))
    return shuffled[np.argsort(codes[shuffled], kind="stable")]


def _rank_within(codes: Ints, rng: np.random.Generator) -> Array:
    """Return a random rank of each item within its class, from 0. Shape (n,)."""
    order = stratified_order(codes, rng)
    ordered = codes[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.empty(len(codes), np.int64)
    rank[order] = np.arange(len(codes)) - np.repeat(first, np.diff(np.r_[first, len(codes)]))
    return rank


# ---- From target columns and groups to the integers above.


def split_mask(
    columns: Sequence[Target], groups: Sequence[Any] | None, n: int, test_size: float, *, seed: int
) -> Array:
    """Return a mask of the items to hold out of ``n``: stratified, groups kept together. Shape (n,), bool."""
    share, rng = held_out_share(test_size, n), np.random.default_rng(seed)
    codes = _codes(columns, n)
    if groups is None and codes is not None:
        mask = stratified_mask(codes, share, rng)
    else:
        units = _units(groups, n, 2)
        mask = balanced_bins(units, _pairs(columns), np.array([1 - share, share]), rng) == 1
    for column in columns:
        _note_one_sided(column, mask)
    return mask


def fold_ids(columns: Sequence[Target], groups: Sequence[Any] | None, n: int, k: int, *, seed: int) -> Ints:
    """Return fold 0 … k-1 of each item: stratified, groups kept together. Shape (n,)."""
    if not _is_integer(k) or not 2 <= k <= n:
        raise OptionError(
            f"The number of folds must be a whole number from 2 to the number of items ({n:,}); got {k!r}."
        )
    k, rng = int(k), np.random.default_rng(seed)
    codes = _codes(columns, n)
    for column in columns:
        _note_rare(column, k, f"fewer than {k} folds: some folds hold none of them")
    if groups is None and codes is not None:
        ids = stratified_folds(codes, k, rng)
        return np.asarray(rng.permutation(k)[ids], dtype=np.int64)  # or the first folds would be the largest
    return balanced_bins(_units(groups, n, k), _pairs(columns), np.full(k, 1 / k), rng)


def sample_indices(columns: Sequence[Target], n: int, *, count: int | None, each: int | None, seed: int) -> Ints:
    """Draw random items, in increasing order: ``each`` of every class, or ``count`` in all, classes in proportion."""
    if (count is None) == (each is None):
        raise OptionError("sample() takes either per_class= or n=.")
    size = each if count is None else count
    if not _is_integer(size) or size < 1:
        raise OptionError(f"sample() needs a whole number of items ≥ 1; got {size!r}.")
    rng, codes = np.random.default_rng(seed), _codes(columns, n)
    if each is None:
        if size >= n:
            note(f"A sample of {size:,} was asked for; there are {n:,} items and all are taken.")
            return np.arange(n, dtype=np.int64)
        return proportional(np.zeros(n, np.int64) if codes is None else codes, int(size), rng)
    pairs = _pairs(columns)
    if not len(pairs[0]):
        raise DataError("sample(per_class=) needs classes, and these items have none; sample(n=) draws any items.")
    for column in columns:
        _note_rare(column, int(size), f"fewer than the {size} asked for: all are taken")
    return per_label(pairs, int(size), rng) if codes is None else per_class(codes, int(size), rng)


def client_ids(columns: Sequence[Target], n: int, *, clients: int, alpha: float, seed: int) -> Ints:
    """Return the client of each item, the classes spread unevenly (Dirichlet). Shape (n,)."""
    if not _is_integer(clients) or clients < 1:
        raise OptionError(f"clients must be a whole number ≥ 1; got {clients!r}.")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)) or not 0 < float(alpha) < np.inf:
        raise OptionError(f"alpha must be a number > 0 (small: clients of few classes); got {alpha!r}.")
    if n < clients:
        note(f"{n:,} items for {clients:,} clients: some clients are empty.")
    pairs = _pairs(columns)
    codes = np.full(n, -1, np.int64)
    codes[pairs[0][::-1]] = pairs[1][::-1]  # with several labels the first one decides
    return dirichlet_bins(codes, int(clients), float(alpha), np.random.default_rng(seed))


def match_part(parts: Sequence[str | None] | None, name: str) -> str:
    """Return the part of this name, or of one that means the same: "validation" matches "dev"."""
    if parts is None:
        raise DataError("The data has no parts: name its split column with from_table(split=), or use data.split().")
    names = sorted({p for p in parts if p is not None})
    if name in names:
        return name
    synonyms = {meaning: p for p in names if (meaning := canonical_part(p)) is not None}
    part = synonyms.get(canonical_part(str(name)) or "")
    if part is None:
        raise UnknownName(unknown_name("parts", name, names))
    return part


def _codes(columns: Sequence[Target], n: int) -> Ints | None:
    """Return the class of each item, zeros when no column has classes, None when there are several labels per item."""
    labelled = [c for c in columns if c.classes is not None]
    if not labelled:
        return np.zeros(n, np.int64)
    return labelled[0].codes() if len(labelled) == 1 and labelled[0].task == "classification" else None


def _pairs(columns: Sequence[Target]) -> tuple[Ints, Ints]:
    """Return (item, label) of all columns together, each column's labels numbered after those of the one before."""
    items, labels, offset = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for column in columns:
        rows, classes = column.pairs()
        items.append(rows)
        labels.append(classes + offset)
        offset += len(column.classes or ())
    return np.concatenate(items), np.concatenate(labels)


def _units(groups: Sequence[Any] | None, n: int, n_parts: int) -> Ints:
    """Return the index of each item's group; an item without a group is one of its own."""
    if groups is None:
        return np.arange(n, dtype=np.int64)
    units = group_ids(groups)
    n_groups = int(units.max(initial=-1)) + 1
    if n_groups < n_parts:
        verb = "is" if n_groups == 1 else "are"
        raise DataError(
            f"{n_parts} parts need at least {n_parts} groups, and there {verb} {n_groups}: groups are "
            "never torn apart. Ask for fewer parts, or leave the groups out."
        )
    return units


def group_ids(groups: Sequence[Any]) -> Ints:
    """Return the index of each item's group, in the order in which groups come first. Shape (n,)."""
    index: dict[Any, int] = {}
    names = ((i,) if group is None else (0, group) for i, group in enumerate(groups))
    return np.array([index.setdefault(name, len(index)) for name in names], np.int64)


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _counts(column: Target) -> Ints:
    return np.bincount(column.pairs()[1], minlength=len(column.classes or ()))


def _list_classes(column: Target, which: Array, counts: Ints) -> str:
    classes = column.classes or ()
    shown = ", ".join(f"{classes[i]!r} ({counts[i]})" for i in which[:_NAMED].tolist())
    return shown + (f" and {len(which) - _NAMED} more" if len(which) > _NAMED else "")


def _note_rare(column: Target, limit: int, consequence: str) -> None:
    counts = _counts(column)
    rare = np.flatnonzero((counts > 0) & (counts < limit))
    if len(rare):
        note(
            f"Target {column.name!r} has classes with few items, {consequence}: {_list_classes(column, rare, counts)}."
        )


def _note_one_sided(column: Target, mask: Array) -> None:
    items, classes = column.pairs()
    counts = _counts(column)
    held_out = np.bincount(classes[mask[items]], minlength=len(counts))
    for which, part in ((held_out == 0, "training"), (held_out == counts, "test")):
        only = np.flatnonzero(which & (counts > 0))
        if len(only):
            listed = _list_classes(column, only, counts)
            note(f"Target {column.name!r}: classes that are only in the {part} part: {listed}.")
