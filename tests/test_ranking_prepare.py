"""What a ranking is made of: columns, sources, usable items, groups, and samples of many rows."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.ranking.table import subsample
from headstart.sources import load_source
from networks import Dense, vector_source, vectors

_rank = import_module("headstart.ranking.rank")  # the package gives the function of that name


def data(n: int = 12, **kind) -> Dataset:
    return Dataset.from_arrays(vectors(n), [f"c{i % 3}" for i in range(n)], **kind)


class Bank:
    """A bank that has rows of some items only."""

    def __init__(self, readable):
        self.readable = np.asarray(readable, dtype=bool)

    def keep(self, _):
        return self.readable


# ---- columns --------------------------------------------------------------------------------------------------------


def test_the_only_column_needs_no_name():
    item = data()
    assert _rank.target_column(item, None) is item.columns[0]
    assert _rank.target_column(item, item.columns[0].name) is item.columns[0]


def test_of_several_columns_one_is_named():
    both = Dataset.from_arrays(vectors(6), {"kind": list("ababab"), "size": list("xxyyzz")})
    assert _rank.target_column(both, "size").name == "size"
    for wrong in (None, "colour"):
        with pytest.raises(OptionError, match="'kind', 'size'"):
            _rank.target_column(both, wrong)


# ---- sources --------------------------------------------------------------------------------------------------------


def test_a_single_source_is_a_list_of_one():
    result, notes = _rank.load_sources("fake:vector")
    assert [source.address for source in result] == ["fake:vector"]
    assert notes == []
    source = load_source("fake:vector")
    assert _rank.load_sources(source)[0] == [source]


def test_the_same_source_twice_is_ranked_once():
    result, _ = _rank.load_sources(["fake:vector", load_source("fake:vector"), "fake:image"])
    assert [source.address for source in result] == ["fake:vector", "fake:image"]


def test_sources_that_do_not_load_are_noted():
    result, notes = _rank.load_sources(["fake:vector", "nowhere:net", "fake:nothing"])
    assert len(result) == 1
    assert len(notes) == 2
    assert all("was left out" in note for note in notes)


@pytest.mark.parametrize(("sources", "message"), [(["fake:nothing"], "fake:nothing"), ([], "needs a source")])
def test_none_that_loads(sources, message):
    with pytest.raises(DataError, match=message):
        _rank.load_sources(sources)


def test_only_a_classifier_at_the_end_is_an_output():
    assert _rank.classifier_layers(vector_source(Dense)) == []
    assert _rank.classifier_layers(vector_source(Dense, classifier="c")) in ([], ["output"])
    named = SimpleNamespace(classifier="c", layers=[SimpleNamespace(name="output")])
    assert _rank.classifier_layers(named) == ["output"]
    assert _rank.classifier_layers(SimpleNamespace(classifier=None, layers=named.layers)) == []


# ---- items ----------------------------------------------------------------------------------------------------------


def test_items_that_all_can_read():
    full = data(6)
    usable, T = _rank.usable_items(full, full.columns[0].name, [Bank([1] * 6)])
    assert usable is full
    assert T.shape == (6, 3)
    usable, T = _rank.usable_items(full, full.columns[0].name, [Bank([1, 1, 0, 1, 1, 1]), Bank([1, 1, 1, 1, 0, 1])])
    assert list(usable.targets) == [full.targets[i] for i in (0, 1, 3, 5)]
    np.testing.assert_array_equal(T, full.columns[0].matrix()[[0, 1, 3, 5]])


def test_items_without_a_label_are_left_out():
    holes = Dataset.from_arrays(vectors(4), ["a", None, "b", "a"])
    usable, T = _rank.usable_items(holes, holes.columns[0].name, [Bank([1] * 4)])
    assert len(usable) == len(T) == 3


def test_no_item_at_all():
    full = data(4)
    with pytest.raises(DataError, match="No item"):
        _rank.usable_items(full, full.columns[0].name, [Bank([0] * 4)])


# ---- samples --------------------------------------------------------------------------------------------------------


def test_few_rows_are_all_of_them():
    assert subsample(np.eye(3), "classification", 0, 3) == slice(None)


@pytest.mark.parametrize("max_rows", [30, 31, 59])
def test_a_sample_keeps_the_shares_of_classes(max_rows):
    T = np.eye(3)[np.repeat([0, 1, 2], (60, 30, 10))]
    rows = subsample(T, "classification", 0, max_rows)
    assert len(rows) == len(set(rows.tolist())) == max_rows
    assert (np.diff(rows) > 0).all()
    np.testing.assert_allclose(T[rows].mean(0), (0.6, 0.3, 0.1), atol=1.5 / max_rows)


def test_a_sample_depends_on_the_seed_alone():
    T = np.eye(2)[np.arange(100) % 2]
    same, again, other = (subsample(T, "classification", seed, 40) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_values_are_sampled_anywhere():
    rows = subsample(np.linspace(0, 1, 200)[:, None], "regression", 0, 50)
    assert len(rows) == 50
    assert rows.min() < 20
    assert rows.max() > 180
