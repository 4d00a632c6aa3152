"""Splits, folds, samples and clients: the corners. What holds for all of them is in laws/test_dataset_laws.py."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.dataset.splits import (
    balanced_bins,
    dirichlet_bins,
    held_out_share,
    proportional,
    resolve_seed,
    stratified_mask,
)
from headstart.errors import DataError, HeadstartWarning, OptionError
from listeners import Notes


def labelled(labels, **options) -> Dataset:
    """Vectors that are all different, with these labels."""
    n = len(next(iter(labels.values())) if isinstance(labels, dict) else labels)
    return Dataset.from_arrays(np.arange(n, dtype=float)[:, None], labels, **options)


def positions(data: Dataset) -> list[int]:
    return [int(item[0]) for item in data.items]


def noted(work) -> str:
    notes = Notes()
    with listening(notes):
        work()
    return " | ".join(notes)


# ---- split --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "n"), [(0.25, 25), (0.3, 30), (10, 10), (0.005, 1), (99, 99), (np.float32(0.5), 50)])
def test_sizes(size, n):
    train, test = labelled(["a"] * 100).split(test_size=size)
    assert (len(train), len(test)) == (100 - n, n)


@pytest.mark.parametrize("size", [0, 1.0, -0.1, 100, 101, True, "half", None, float("nan"), 1.5])
def test_impossible_sizes(size):
    with pytest.raises(
        OptionError, match=r"test_size must be a fraction between 0 and 1 or a number of items from 1 to 99"
    ):
        labelled(["a"] * 100).split(test_size=size)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_to_split(n):
    data = labelled(["a", "b"]).take(range(n))
    with pytest.raises(DataError, match=r"at least 2 items"):
        data.split()


def test_two_items():
    train, test = labelled(["a", "b"]).split()
    assert len(train) == len(test) == 1


def test_a_class_with_one_item_stays_in_training():
    data = labelled(["a"] * 10 + ["b"] * 10 + ["rare"])
    notes = Notes()
    for seed in range(20):
        with listening(notes):
            train, test = data.split(test_size=0.5, random_state=seed)
        assert "rare" in train.targets and "rare" not in test.targets
    assert "only in the training part: 'rare' (1)" in notes[0]


def test_a_class_with_two_items_is_on_both_sides():
    data = labelled(["a"] * 40 + ["b"] * 40 + ["rare"] * 2)
    for size in (0.05, 0.5, 0.95):
        train, test = data.split(test_size=size, random_state=1)
        assert train.targets.count("rare") == test.targets.count("rare") == 1


def test_all_classes_with_one_item():
    train, test = labelled([f"name {i}" for i in range(8)]).split(test_size=0.25)
    assert (len(train), len(test)) == (6, 2)


def test_missing_labels_are_spread_too():
    data = labelled(["a"] * 40 + [None] * 40)
    train, test = data.split(test_size=0.25)
    assert test.targets.count(None) == 10 and train.targets.count("a") == 30


def test_halves_are_in_data_order_and_say_what_they_are():
    train, test = labelled(list("ab") * 20).split(random_state=3)
    assert positions(train) == sorted(positions(train)) and positions(test) == sorted(positions(test))
    assert (train.role, test.role) == ("train", "test")
    assert train.meta["random_state"] == test.meta["random_state"] == 3


def test_different_seeds_differ():
    data = labelled(list("ab") * 50)
    assert positions(data.split(random_state=0)[1]) != positions(data.split(random_state=1)[1])


def test_no_seed_is_recorded_and_can_be_repeated():
    data = labelled(list("ab") * 50)
    first, second = data.split(random_state=None)[1], data.split(random_state=None)[1]
    assert positions(first) != positions(second)
    assert positions(data.split(random_state=first.meta["random_state"])[1]) == positions(first)


def test_regression_is_shuffled():
    _train, test = labelled(np.linspace(0, 1, 100)).split(test_size=0.2)
    assert len(test) == 20 and 0.2 < np.mean(test.targets) < 0.8


def test_no_targets():
    train, test = labelled([0] * 10).without_targets().split()
    assert len(train) + len(test) == 10 and train.targets is None


def test_a_split_of_data_with_parts_says_that_it_does_not_look(tmp_path):
    data = labelled(["a"] * 8)
    with_parts = Dataset(data.items, data.columns, modality="vector", parts=("train", "test") * 4)
    assert 'data.part("train")' in noted(with_parts.split)


# ---- groups -------------------------------------------------------------------------------------------------------


def test_groups_stay_together():
    groups = np.repeat(np.arange(12), 10)
    data = labelled(list("abcde") * 24, groups=groups)
    train, test = data.split(test_size=0.25, random_state=0)
    assert not set(train.groups) & set(test.groups)
    assert len(test) == 30 and Counter(test.targets) == dict.fromkeys("abcde", 6)


def test_groups_of_unequal_size():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), rng.integers(1, 60, 30))
    labels = rng.integers(0, 3, len(groups))
    for seed in range(5):
        train, test = labelled(labels, groups=groups).split(test_size=0.3, random_state=seed)
        assert not set(train.groups) & set(test.groups)
        assert abs(len(test) / len(groups) - 0.3) < 0.03
        for c in range(3):
            assert abs(test.targets.count(c) / (labels == c).sum() - 0.3) < 0.06


def test_groups_as_good_as_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 800)
    shares = rng.dirichlet(np.full(5, 0.5), 40)
    labels = np.array([rng.choice(5, p=shares[g]) for g in groups])
    theirs = np.zeros(800, int)
    for i, (_, held_out) in enumerate(
        StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    ):
        theirs[held_out] = i

    def unevenness(ids):
        counts = np.array([np.bincount(labels[ids == i], minlength=5) for i in range(5)])
        expected = np.bincount(labels) / 5
        return ((counts - expected) ** 2 / expected).sum()

    assert unevenness(labelled(labels, groups=groups).fold_ids(5)) <= unevenness(theirs)


def test_one_group_cannot_be_split():
    with pytest.raises(DataError, match=r"2 parts need at least 2 groups, and there is 1: groups are never torn apart"):
        labelled(["a", "b"] * 5, groups=["g"] * 10).split()


def test_a_small_share_of_large_groups_is_one_group():
    labels = np.repeat(["a", "b", "c", "d"], 10)
    train, test = labelled(labels, groups=labels).split(test_size=1)
    assert (len(train), len(test)) == (30, 10)


def test_an_item_without_a_group_is_its_own():
    data = labelled(["a", "b"] * 5, groups=["g"] * 5 + [None] * 5)
    train, test = data.split(test_size=0.4)
    assert ("g" in train.groups) != ("g" in test.groups)
    assert "6 groups" in repr(data)


def test_a_class_of_one_group_is_told():
    labels = ["a", "b"] * 10 + ["c"] * 5
    groups = [i // 2 for i in range(20)] + ["only"] * 5
    notes = noted(lambda: labelled(labels, groups=groups).split())
    assert "'c' (5)" in notes and "only in the" in notes


def test_groups_of_regression():
    data = labelled(np.linspace(0, 1, 60), groups=np.arange(60) // 6)
    train, test = data.split(test_size=0.3)
    assert len(test) == 18 and not set(train.groups) & set(test.groups)


# ---- several labels -----------------------------------------------------------------------------------------------


def test_multilabel_is_stratified():
    rng = np.random.default_rng(0)
    y = (rng.random((2000, 12)) < np.linspace(0.01, 0.5, 12)).astype(int)
    _train, test = labelled(y).split(test_size=0.25, random_state=0)
    share = test.columns[0].matrix().sum(axis=0) / y.sum(axis=0)
    assert len(test) == 500 and np.abs(share - 0.25).max() < 0.05
    ids = labelled(y).fold_ids(5)
    counts = np.array([y[ids == i].sum(axis=0) for i in range(5)])
    assert (np.ptp(counts, axis=0) <= np.maximum(3, 0.1 * counts.mean(axis=0))).all()


def test_a_rare_label_is_on_both_sides():
    y = np.zeros((60, 4), int)
    y[:, 0] = 1
    y[:30, 1] = 1
    y[[5, 45], 3] = 1
    for seed in range(10):
        train, test = labelled(y).split(test_size=0.1, random_state=seed)
        assert train.columns[0].matrix()[:, 3].sum() == test.columns[0].matrix()[:, 3].sum() == 1


def test_several_columns_are_stratified_together():
    rng = np.random.default_rng(0)
    y = {"kind": rng.choice(["x", "y", "z"], 300), "colour": rng.choice(["red", "blue"], 300), "size": rng.random(300)}
    _train, test = labelled(y).split(test_size=0.2)
    assert len(test) == 60
    for name in ("kind", "colour"):
        for label, count in Counter(y[name].tolist()).items():
            assert abs(test.targets[name].count(label) - count / 5) <= 2


# ---- folds --------------------------------------------------------------------------------------------------------


def test_folds_are_even():
    labels = np.repeat(["a", "b", "c"], [50, 33, 20]).tolist()
    ids = labelled(labels).fold_ids(5, random_state=2)
    assert ids.dtype == np.int64 and np.ptp(np.bincount(ids)) <= 1
    for label in "abc":
        assert np.ptp(np.bincount(ids[np.array(labels) == label], minlength=5)) <= 1


def test_folds_hold_each_item_out_once():
    data = labelled(list("abc") * 7)
    folds = data.folds(4, random_state=1)
    assert sorted(p for _, held_out in folds for p in positions(held_out)) == list(range(21))
    for i, (train, held_out) in enumerate(folds):
        assert sorted(positions(train) + positions(held_out)) == list(range(21))
        assert held_out.meta["fold"] == i and held_out.meta["random_state"] == 1
        np.testing.assert_array_equal(np.flatnonzero(data.fold_ids(4, random_state=1) == i), positions(held_out))


def test_a_class_rarer_than_folds_is_told():
    data = labelled(["a"] * 20 + ["rare"] * 2)
    assert "'rare' (2)" in noted(lambda: data.fold_ids(5)) and "fewer than 5 folds" in noted(lambda: data.fold_ids(5))
    ids = data.fold_ids(5)
    assert len(set(ids[20:].tolist())) == 2, "the two lie in different folds"


@pytest.mark.parametrize("k", [1, 0, -3, 11, 2.5, "5", True, None])
def test_impossible_folds(k):
    with pytest.raises(OptionError, match=r"a whole number from 2 to the number of items \(10\)"):
        labelled(["a"] * 10).fold_ids(k)


def test_leave_one_out():
    assert sorted(labelled(list("aabbc")).fold_ids(5).tolist()) == [0, 1, 2, 3, 4]


def test_folds_of_official_groups(shared):
    data = Dataset.from_table(shared / "audio/esc10.csv", input="path", target="label", groups="fold")
    ids = data.fold_ids(5)
    assert len({(i, g) for i, g in zip(ids.tolist(), data.groups)}) == 5, "each fold is one official fold"
    with pytest.raises(DataError, match=r"6 parts need at least 6 groups, and there are 5"):
        data.fold_ids(6)


# ---- sample -------------------------------------------------------------------------------------------------------


def test_per_class():
    sample = labelled(list("aabbbcccc") * 5).sample(per_class=3, random_state=7)
    assert Counter(sample.targets) == {"a": 3, "b": 3, "c": 3}
    assert positions(sample) == sorted(positions(sample)) and sample.meta["random_state"] == 7


def test_a_smaller_class_gives_all_it_has():
    data = labelled(["a"] * 10 + ["b"] * 2 + [None] * 5)
    sample = data.sample(per_class=4)
    assert Counter(sample.targets) == {"a": 4, "b": 2}
    assert "'b' (2)" in noted(lambda: data.sample(per_class=4))


def test_per_label():
    rng = np.random.default_rng(0)
    y = (rng.random((500, 6)) < 0.2).astype(int)
    sample = labelled(y).sample(per_class=5)
    counts = sample.columns[0].matrix().sum(axis=0)
    assert (counts >= 5).all() and len(sample) <= 30


def test_n_in_all():
    data = labelled(["a"] * 80 + ["b"] * 20)
    assert Counter(data.sample(n=10).targets) == {"a": 8, "b": 2}
    assert len(data.sample(n=1)) == 1 and len(data.sample(n=100)) == len(data.sample(n=1000)) == 100
    assert "all are taken" in noted(lambda: data.sample(n=1000))
    assert len(labelled(np.linspace(0, 1, 50)).sample(n=7)) == 7
    assert len(labelled(np.eye(50, dtype=int)).sample(n=7)) == 7


def test_sample_needs_one_number():
    data = labelled(list("ab") * 5)
    for wrong in ({}, {"per_class": 1, "n": 1}):
        with pytest.raises(OptionError, match=r"either per_class= or n="):
            data.sample(**wrong)
    for wrong in ({"per_class": 0}, {"n": -1}, {"per_class": 1.5}, {"n": True}, {"per_class": "3"}):
        with pytest.raises(OptionError, match=r"whole number of items ≥ 1"):
            data.sample(**wrong)
    with pytest.raises(DataError, match=r"sample\(n=\) draws any"):
        labelled([0.5, 1.5, 2.5]).sample(per_class=1)


def test_draws_differ():
    data = labelled(list("ab") * 50)
    assert len({tuple(positions(data.sample(per_class=5, random_state=i))) for i in range(10)}) == 10


# ---- clients ------------------------------------------------------------------------------------------------------


def test_clients_differ_more_with_small_alpha():
    data = labelled(list(range(10)) * 100)

    def classes_held(alpha):
        return np.mean([len(set(c.targets)) for c in data.dirichlet(clients=10, alpha=alpha, random_state=0)])

    assert classes_held(0.05) < 4 < 9 < classes_held(100)


def test_each_class_is_dealt_on_its_own():
    clients = labelled(list(range(10)) * 100).dirichlet(clients=10, alpha=0.05, random_state=0)
    held_out = np.array([np.bincount(c.targets, minlength=10) for c in clients])
    assert len(set(held_out.argmax(axis=0).tolist())) > 3, "different classes are mostly with different clients"


def test_clients_are_numbered_and_never_empty():
    clients = labelled(list("ab") * 10).dirichlet(clients=20, alpha=0.01)
    assert [len(c) for c in clients] == [1] * 20
    assert [c.meta["client"] for c in clients] == list(range(20))


def test_more_clients_than_items():
    data = labelled(list("ab"))
    clients = data.dirichlet(clients=5)
    assert sorted(len(c) for c in clients) == [0, 0, 0, 1, 1]
    assert "some clients are empty" in noted(lambda: data.dirichlet(clients=5))


@pytest.mark.parametrize("labels", [np.linspace(0, 1, 30), np.eye(30, dtype=int)[:, :3], [None, "a"] * 15])
def test_clients_of_any_targets(labels):
    clients = labelled(labels).dirichlet(clients=4, alpha=1.0)
    assert sorted(p for c in clients for p in positions(c)) == list(range(30))


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e6])
def test_extreme_alpha(alpha):
    clients = labelled(list("abc") * 20).dirichlet(clients=4, alpha=alpha)
    assert sum(map(len, clients)) == 60 and min(map(len, clients)) > 0


IMPOSSIBLE = [{"clients": n} for n in (0, 1.5, True, "2")]
IMPOSSIBLE += [{"clients": 2, "alpha": a} for a in (0, -1, "x", True, float("nan"), float("inf"))]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_clients(wrong):
    with pytest.raises(OptionError, match=r"clients must be|alpha must be"):
        labelled(list("ab") * 5).dirichlet(**wrong)


# ---- the integers beneath -----------------------------------------------------------------------------------------


def test_seeds():
    assert resolve_seed(5) == 5 and resolve_seed(np.int64(7)) == 7
    assert resolve_seed(np.random.default_rng(0)) == resolve_seed(np.random.default_rng(0))
    assert resolve_seed(np.random.RandomState(0)) == resolve_seed(np.random.RandomState(0))
    assert resolve_seed(None) != resolve_seed(None)
    for wrong in (-1, True, 0.5, "0", [1]):
        with pytest.raises(OptionError, match=r"random_state must be a whole number"):
            resolve_seed(wrong)


def test_shares_are_never_all_or_nothing():
    assert held_out_share(0.001, 10) == 0.1 and held_out_share(0.999, 10) == 0.9 and held_out_share(3, 10) == 0.3


def test_equal_remainders_are_drawn_at_random():
    codes = np.arange(10).repeat(3)
    held_out = [tuple(np.bincount(codes[stratified_mask(codes, 0.5, np.random.default_rng(s))])) for s in range(20)]
    assert all(sum(h) == 15 for h in held_out) and len(set(held_out)) > 5


def test_every_item_is_held_out_sometimes():
    codes = np.array([0] * 9 + [1] * 3)
    seen = np.mean([stratified_mask(codes, 0.25, np.random.default_rng(s)) for s in range(2000)], axis=0)
    # 2 of the 9 and, since both sides want one, 1 of the 3.
    assert np.abs(seen - np.array([2 / 9] * 9 + [1 / 3] * 3)).max() < 0.05


def test_proportional_draws_every_item_alike():
    codes = np.array([0] * 7 + [1] * 3)
    seen = np.zeros(10)
    for s in range(3000):
        seen[proportional(codes, 4, np.random.default_rng(s))] += 1
    assert np.abs(seen / 3000 - 0.4).max() < 0.05


def test_bins_get_their_shares():
    rng = np.random.default_rng(0)
    units = np.arange(300)
    labels = rng.integers(0, 3, 300)
    bins = balanced_bins(units, (units, labels), np.array([0.6, 0.3, 0.1]), rng)
    assert np.abs(np.bincount(bins) - [180, 90, 30]).max() <= 2
    for c in range(3):
        expected = (labels == c).sum() * np.array([0.6, 0.3, 0.1])
        assert np.abs(np.bincount(bins[labels == c], minlength=3) - expected).max() <= 2


def test_no_bin_is_empty_when_there_are_units_enough():
    units = np.array([0] * 100 + [1] + [2])
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    for seed in range(10):
        bins = balanced_bins(units, nothing, np.full(3, 1 / 3), np.random.default_rng(seed))
        assert set(bins.tolist()) == {0, 1, 2}


def test_dirichlet_without_items():
    assert len(dirichlet_bins(np.empty(0, np.int64), 3, 1.0, np.random.default_rng(0))) == 0


def test_many_items_are_quick_enough_to_split():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HeadstartWarning)
        data = labelled(rng.integers(0, 1000, 200_000), task="classification")
        train, test = data.split(test_size=0.1)
    assert len(test) == 20_000 and len(train) == 180_000
