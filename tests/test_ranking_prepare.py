"""What a ranking is made of: columns, sources, usable items, groups, and samples of many rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.ranking.candidates import classifier_layers, load_sources, subsample, target_column, usable_items
from headstart.sources import load_source
from networks import Dense, vector_source, vectors


def data(n: int = 12, **kind) -> Dataset:
    return Dataset.from_arrays(vectors(n), [f"c{i % 3}" for i in range(n)], **kind)


class Bank:
    """A bank that has rows of some items only."""

    def __init__(self, there):
        self.there = np.asarray(there, dtype=bool)

    def keep(self, _):
        return self.there


# ---- columns --------------------------------------------------------------------------------------------------------


def test_the_only_column_needs_no_name():
    one = data()
    assert target_column(one, None) is one.columns[0]
    assert target_column(one, one.columns[0].name) is one.columns[0]


def test_of_several_columns_one_is_named():
    both = Dataset.from_arrays(vectors(6), {"kind": list("ababab"), "size": list("xxyyzz")})
    assert target_column(both, "size").name == "size"
    for wrong in (None, "colour"):
        with pytest.raises(OptionError, match="'kind', 'size'"):
            target_column(both, wrong)


# ---- sources --------------------------------------------------------------------------------------------------------


def test_a_single_source_is_a_list_of_one():
    found, notes = load_sources("fake:vector")
    assert [source.address for source in found] == ["fake:vector"]
    assert notes == []
    source = load_source("fake:vector")
    assert load_sources(source)[0] == [source]


def test_the_same_source_twice_is_ranked_once():
    found, _ = load_sources(["fake:vector", load_source("fake:vector"), "fake:image"])
    assert [source.address for source in found] == ["fake:vector", "fake:image"]


def test_sources_that_do_not_load_are_noted():
    found, notes = load_sources(["fake:vector", "nowhere:net", "fake:nothing"])
    assert len(found) == 1
    assert len(notes) == 2
    assert all("was left out" in note for note in notes)


@pytest.mark.parametrize(("given", "said"), [(["fake:nothing"], "fake:nothing"), ([], "needs a source")])
def test_none_that_loads(given, said):
    with pytest.raises(DataError, match=said):
        load_sources(given)


def test_only_a_classifier_at_the_end_is_an_output():
    assert classifier_layers(vector_source(Dense)) == []
    assert classifier_layers(vector_source(Dense, classifier="c")) in ([], ["output"])
    named = SimpleNamespace(classifier="c", layers=[SimpleNamespace(name="output")])
    assert classifier_layers(named) == ["output"]
    assert classifier_layers(SimpleNamespace(classifier=None, layers=named.layers)) == []


# ---- items ----------------------------------------------------------------------------------------------------------


def test_items_that_all_can_read():
    whole = data(6)
    kept, T = usable_items(whole, whole.columns[0].name, [Bank([1] * 6)])
    assert kept is whole
    assert T.shape == (6, 3)
    kept, T = usable_items(whole, whole.columns[0].name, [Bank([1, 1, 0, 1, 1, 1]), Bank([1, 1, 1, 1, 0, 1])])
    assert list(kept.targets) == [whole.targets[i] for i in (0, 1, 3, 5)]
    np.testing.assert_array_equal(T, whole.columns[0].matrix()[[0, 1, 3, 5]])


def test_items_without_a_label_are_left_out():
    holes = Dataset.from_arrays(vectors(4), ["a", None, "b", "a"])
    kept, T = usable_items(holes, holes.columns[0].name, [Bank([1] * 4)])
    assert len(kept) == len(T) == 3


def test_no_item_at_all():
    whole = data(4)
    with pytest.raises(DataError, match="No item"):
        usable_items(whole, whole.columns[0].name, [Bank([0] * 4)])


# ---- samples --------------------------------------------------------------------------------------------------------


def test_few_rows_are_all_of_them():
    assert subsample(np.eye(3), "classification", 0, 3) == slice(None)


@pytest.mark.parametrize("most", [30, 31, 59])
def test_a_sample_keeps_the_shares_of_classes(most):
    T = np.eye(3)[np.repeat([0, 1, 2], (60, 30, 10))]
    rows = subsample(T, "classification", 0, most)
    assert len(rows) == len(set(rows.tolist())) == most
    assert (np.diff(rows) > 0).all()
    np.testing.assert_allclose(T[rows].mean(0), (0.6, 0.3, 0.1), atol=1.5 / most)


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
