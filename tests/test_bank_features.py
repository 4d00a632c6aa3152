"""FeatureBank: rows in the order of a dataset, and their moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart._base.hashing import key_of_array
from headstart.bank import FeatureBank, SkippedItem, Store
from headstart.bank import bank as _bank
from headstart.bank.shard_format import BFLOAT16
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, StoreError, UnknownName
from headstart.moments import Moments, Quantiser

N, D = 60, 5
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((N, 3))
FEATURES = RNG.standard_normal((N, D)).astype(np.float32)
LABELS = [["ant", "bee", "cow"][i % 3] for i in range(N)]


@pytest.fixture
def data():
    return Dataset.from_arrays(INPUTS, LABELS, groups=[f"site {i % 6}" for i in range(N)])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def bank_of(store, data, features=FEATURES, *, pieces=4, dtype=None, **facts):
    """A bank with one layer, written in a few shards of shuffled items."""
    table = store.table({"layer": "pool", **({"dtype": dtype} if dtype else {})})
    keys = data.keys()
    for part in np.array_split(np.random.default_rng(1).permutation(len(keys)), pieces):
        table.append([keys[i] for i in part], features[part])
    return FeatureBank({"pool": table}, **facts)


def one_hot(labels=LABELS, classes=("ant", "bee", "cow")):
    return np.array([[label == c for c in classes] for label in labels], dtype=float)


def close(a, b) -> bool:
    names = ("count", "mean", "scatter", "target_mean", "cross", "target_scatter")
    return all(np.allclose(getattr(a, n), getattr(b, n), rtol=1e-10, atol=1e-10) for n in names)


# ---- rows


def test_rows_are_in_the_order_of_any_dataset(store, data):
    bank = bank_of(store, data)
    assert np.array_equal(bank.rows("pool", data), FEATURES)
    for order in (np.arange(N)[::-1], np.random.default_rng(2).permutation(N), np.array([3, 3, 0, 59])):
        assert np.array_equal(bank.rows("pool", data.take(order)), FEATURES[order])
    assert bank.rows("pool", data).dtype == np.float32


def test_equal_items_share_a_row(store):
    twice = Dataset.from_arrays(np.concatenate([INPUTS, INPUTS[:5]]))
    bank = bank_of(store, Dataset.from_arrays(INPUTS))
    assert np.array_equal(bank.rows("pool", twice), np.concatenate([FEATURES, FEATURES[:5]]))
    assert bank.table("pool").count == N


def test_rows_written_in_order_are_mapped_from_the_file(store, data):
    table = store.table({"layer": "pool"})
    table.append(data.keys(), FEATURES)
    rows = FeatureBank({"pool": table}).rows("pool", data)
    assert isinstance(rows, np.memmap)
    assert np.array_equal(rows, FEATURES)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_precisions_come_as_float32(store, data, dtype):
    stored = FEATURES.astype(BFLOAT16) if dtype == "bfloat16" else FEATURES.astype(dtype)
    want = stored.astype(np.float32)
    bank = bank_of(store, data, stored, dtype=dtype)
    assert bank.rows("pool", data).dtype == np.float32
    assert np.array_equal(bank.rows("pool", data), want)
    assert close(bank.summarise("pool", data), Moments.from_rows(want, one_hot()))


def test_maps_and_sequences(store, data):
    maps, texts = store.table({"kind": "map"}), store.table({"kind": "text"})
    values = RNG.standard_normal((N, 2, 3, 3)).astype(np.float32)
    items = [RNG.standard_normal((i % 4, 6)).astype(np.float16) for i in range(N)]
    maps.append(data.keys(), values)
    texts.append(data.keys(), items)
    bank = FeatureBank({"map": maps, "text": texts})
    assert np.array_equal(bank.rows("map", data), values)
    result = bank.sequences("text", data)
    assert all(np.array_equal(a, b) and a.dtype == np.float32 for a, b in zip(result, items, strict=True))
    batches = list(bank.batches("text", data, 7))
    assert [len(batch) for batch in batches] == [7] * 8 + [4]
    assert np.array_equal(np.concatenate(list(bank.batches("map", data, 7))), values)
    with pytest.raises(DataError, match=r"bank.sequences\('text', data\)"):
        bank.rows("text", data)
    for layer in ("map", "text"):
        with pytest.raises(DataError, match="extract it with pooling"):
            bank.summarise(layer, data)


def test_what_it_says_about_itself(store, data):
    skipped = [SkippedItem(Path("a.jpg"), "truncated", 3)]
    bank = bank_of(store, data, computed=7, skipped=skipped, seconds={"forward": 1.5}, recipes={"pool": {"a": 1}})
    assert bank.layers == ("pool",)
    assert bank.recipe == {"pool": {"a": 1}}
    assert (bank.computed, bank.skipped, bank.seconds) == (7, skipped, {"forward": 1.5})
    assert repr(bank) == "FeatureBank(layers=['pool'], computed=7, 1 skipped)"
    assert FeatureBank({"pool": bank.table("pool")}).recipe == {"pool": {"layer": "pool"}}
    for verb in (bank.rows, bank.summarise, bank.sequences):
        with pytest.raises(UnknownName, match="did you mean 'pool'"):
            verb("poll", data)


# ---- items without rows


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "texts" / name / f"{i}.txt").write_text(f"{name} {i}")
    return tmp_path / "texts"


def test_skipped_and_new_items_are_named_with_what_to_do(store, folder):
    data = Dataset.from_folder(folder)
    keys, table = data.keys(), store.table({"layer": "pool"})
    table.append([key for i, key in enumerate(keys) if i not in (2, 5)], FEATURES[:6])
    (folder / "dog" / "9.txt").write_text("a new one")
    data = Dataset.from_folder(folder)
    broken = data.items[2]
    bank = FeatureBank({"pool": table}, skipped=[SkippedItem(broken, "is no text", 2)])
    assert bank.keep(data).tolist() == [True, True, False, True, True, False, True, True, False]
    with pytest.raises(DataError) as caught:
        bank.rows("pool", data)
    message = str(caught.value)
    assert "3 of 9 items have no row at layer 'pool'" in message
    assert f"{broken} (is no text)" in message
    assert "9.txt" in message
    assert "data.take(np.flatnonzero(bank.keep(data)))" in message
    remaining = data.take(np.flatnonzero(bank.keep(data)))
    assert np.array_equal(bank.rows("pool", remaining), FEATURES[:6])
    with pytest.raises(DataError, match="3 of 9"):
        bank.summarise("pool", data)


def test_a_file_that_cannot_be_read_has_no_row(store, folder):
    (folder / "dog" / "x.txt").symlink_to("nothing-there")
    data = Dataset.from_folder(folder)
    if None not in data.keys():  # a dataset is no mapping
        pytest.skip("the dataset leaves broken links out")
    table = store.table({"layer": "pool"})
    table.append([key for key in data.keys() if key is not None], FEATURES[:8])
    bank = FeatureBank({"pool": table})
    assert bank.keep(data).sum() == 8
    with pytest.raises(DataError, match="1 of 9 items"):
        bank.rows("pool", data)


def test_many_missing_items_are_not_all_listed(store, data):
    bank = FeatureBank({"pool": store.table({"layer": "pool"})})
    with pytest.raises(DataError, match=r"60 of 60 items .*item 0, item 1, item 2 and 57 more"):
        bank.rows("pool", data)


def test_rows_of_another_process_are_seen(store, data):
    bank = FeatureBank({"pool": store.table({"layer": "pool"})})
    bank_of(store, data)
    assert np.array_equal(bank.rows("pool", data), FEATURES)


def test_keep_means_every_layer(store, data):
    bank = bank_of(store, data)
    half = store.table({"layer": "half"})
    half.append(data.keys()[:10], FEATURES[:10])
    both = FeatureBank({"pool": bank.table("pool"), "half": half})
    assert both.keep(data).tolist() == [True] * 10 + [False] * 50
    assert bank.keep(data).all()


def test_damaged_rows_are_an_error_of_the_store(store, data):
    bank = bank_of(store, data, pieces=1)
    (shard,) = bank.table("pool").folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-2] ^= 8
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="Extract again"):
        bank.rows("pool", data)
    assert not bank.keep(data).any()


# ---- moments


@given(st.integers(1, 9), st.integers(1, 70))
def test_moments_do_not_depend_on_shards_or_batches(tmp_path_factory, pieces, size):
    data = Dataset.from_arrays(INPUTS, LABELS)
    bank = bank_of(Store(tmp_path_factory.mktemp("bank")), data, pieces=pieces)
    before, _bank._BATCH_BYTES = _bank._BATCH_BYTES, 4 * D * size
    try:
        result = bank.summarise("pool", data)
        assert close(result, Moments.from_rows(FEATURES, one_hot()))
        grid = Quantiser(8.0)
        assert bank.summarise("pool", data, exact=grid) == Moments.from_rows(FEATURES, one_hot(), exact=grid)
    finally:
        _bank._BATCH_BYTES = before


@pytest.mark.parametrize("options", [{}, {"per_class": True}, {"fourth": True}])
@pytest.mark.parametrize("by", ["class", "fold", "client", "domain", "group", 3])
def test_groups_merge_to_the_whole(store, data, by, options):
    bank = bank_of(store, data)
    parts = bank.summarise("pool", data, by=by, **options)
    full = bank.summarise("pool", data, **options)
    assert close(sum(parts.values()), full)
    assert full.has_fourth == options.get("fourth", False)
    assert (full.classes is not None) == options.get("per_class", False)


def test_each_group_holds_its_rows(store, data):
    bank = bank_of(store, data)
    by_class = bank.summarise("pool", data, by="class")
    assert list(by_class) == ["ant", "bee", "cow"]
    assert close(by_class["bee"], Moments.from_rows(FEATURES[1::3], one_hot()[1::3]))
    by_site = bank.summarise("pool", data, by="domain")
    assert list(by_site) == [f"site {i}" for i in range(6)]
    assert close(by_site["site 2"], Moments.from_rows(FEATURES[2::6], one_hot()[2::6]))
    folds = data.fold_ids(5, random_state=0)
    by_fold = bank.summarise("pool", data, by="fold")
    assert list(by_fold) == list(range(5))
    assert close(by_fold[4], Moments.from_rows(FEATURES[folds == 4], one_hot()[folds == 4]))
    given_folds = bank.summarise("pool", data, by=folds)
    assert all(by_fold[k] == given_folds[k] for k in range(5))
    assert list(bank.summarise("pool", data, by=np.int64(2))) == [0, 1]


def test_groups_may_be_anything_that_can_be_told_apart(store, data):
    bank = bank_of(store, data)
    mixed = [("a", 1) if i % 2 else None for i in range(N)]
    result = bank.summarise("pool", data, by=mixed)
    assert list(result) == [None, ("a", 1)]
    assert result[None].count == 30


def test_items_without_a_label_are_left_out(store):
    labels = [None if i % 5 == 0 else label for i, label in enumerate(LABELS)]
    data = Dataset.from_arrays(INPUTS, labels)
    bank = bank_of(store, data)
    present = np.array([label is not None for label in labels])
    want = Moments.from_rows(FEATURES[present], one_hot()[present])
    assert close(bank.summarise("pool", data), want)
    by_class = bank.summarise("pool", data, by="class")
    assert sum(m.count for m in by_class.values()) == present.sum()
    by_group = bank.summarise("pool", data, by=[i % 2 for i in range(N)])
    assert close(by_group[1], Moments.from_rows(FEATURES[1::2][present[1::2]], one_hot()[1::2][present[1::2]]))
    assert close(bank.summarise("pool", data.without_targets()), Moments.from_rows(FEATURES))
    assert bank.rows("pool", data).shape == (N, D)


def test_regression_multilabel_and_no_targets(store):
    values = RNG.standard_normal((N, 2))
    bank = bank_of(store, Dataset.from_arrays(INPUTS))
    regression = Dataset.from_arrays(INPUTS, values, task="regression")
    assert close(bank.summarise("pool", regression), Moments.from_rows(FEATURES, values))
    assert bank.summarise("pool", Dataset.from_arrays(INPUTS)).targets == 0
    labels = [["x", "y"], ["x"], []] * 20
    several = Dataset.from_arrays(INPUTS, labels, task="multilabel")
    matrix = np.array([[1, 1], [1, 0], [0, 0]] * 20, float)
    assert close(bank.summarise("pool", several), Moments.from_rows(FEATURES, matrix))
    for data in (regression, several):
        with pytest.raises(DataError):
            bank.summarise("pool", data, by="class")


def test_several_target_columns_must_be_named(store):
    data = Dataset.from_arrays(INPUTS, {"animal": LABELS, "size": list(np.linspace(0, 1, N))})
    bank = bank_of(store, data)
    assert bank.summarise("pool", data, target="animal").targets == 3
    assert bank.summarise("pool", data, target="size").targets == 1
    assert list(bank.summarise("pool", data, by="class", target="animal")) == ["ant", "bee", "cow"]
    with pytest.raises(OptionError, match="target= one of animal, size"):
        bank.summarise("pool", data)
    with pytest.raises(UnknownName, match="did you mean 'animal'"):
        bank.summarise("pool", data, target="anmal")


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        ("klass", UnknownName, "did you mean 'class'"),
        (1, OptionError, "≥ 2"),
        (0, OptionError, "≥ 2"),
        (True, OptionError, "≥ 2"),
        ([1, 2], DataError, "2 groups for 60 items"),
        (np.zeros(61), DataError, "61 groups for 60 items"),
        ("domain", DataError, "has no groups"),
        ("class", DataError, "needs targets"),
    ],
)
def test_groupings_that_make_no_sense(store, by, error, message):
    data = Dataset.from_arrays(INPUTS)
    with pytest.raises(error, match=message):
        bank_of(store, data).summarise("pool", data, by=by)


def test_a_class_without_rows_is_absent_but_keeps_its_column(store, data):
    bank = bank_of(store, data)
    subset = data.take([i for i in range(N) if LABELS[i] != "bee"])
    by_class = bank.summarise("pool", subset, by="class")
    assert list(by_class) == ["ant", "cow"]
    assert by_class["cow"].targets == 3


def test_keys_of_the_dataset_are_those_of_its_items(data):
    assert data.keys()[7] == key_of_array(data.items[7])
