"""What is shared: principal directions, distances, similarity of layers, each against a straight computation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch import nn

from headstart import source_statistics
from headstart.dataset import Dataset
from headstart.distances import distance
from headstart.moments import Moments
from headstart.ranking import rank, similarity, verdict
from headstart.result import Ranking, Row
from networks import Dense, separable, vector_source, vectors
from test_ranking import dense, good_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def overlap(X, y, directions) -> dict:
    T = np.eye(int(y.max()) + 1)[y]
    return similarity._subspace_overlap(("s", "l"), X, T, directions, against="classifier")


def test_differences_that_lie_in_the_sources_directions():
    """Classes differ in the first two of 30 features; one classifier reads those, another the last two."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    X = rng.normal(size=(300, 30))
    X[:, :2] += np.array([[3, 0], [0, 3], [-3, -3]])[y]
    mine, others = np.zeros((30, 3)), np.zeros((30, 3))
    mine[:2], others[-2:] = np.array([[1, 0, -1], [0, 1, -1]]), np.array([[1, 0, -1], [0, 1, -1]])
    close, apart = overlap(X, y, mine), overlap(X, y, others)
    assert close["share"] > 0.5 > 0.1 > close["chance"] + 0.02
    assert apart["share"] < 0.02
    assert apart["degrees"][0] > 75 and min(close["degrees"]) < 15
    assert (close["directions"], close["dimensions"]) == (2, 30)


def test_share_does_not_depend_on_units_of_features():
    X, y = separable(90)
    W = np.random.default_rng(1).normal(size=(8, 5))
    scale = np.logspace(-2, 2, 8)
    item, other = overlap(X, y, W), overlap(X * scale, y, W / scale[:, None])
    assert item["share"] == pytest.approx(other["share"], rel=1e-4)


def test_basis_is_that_of_the_svd():
    rng = np.random.default_rng(0)
    for shape in ((9, 4), (4, 9)):
        A = rng.normal(size=shape)
        left, values, _ = np.linalg.svd(A, full_matrices=False)
        Q = similarity._orthonormal_basis(A)
        np.testing.assert_allclose(Q @ Q.T, left @ left.T, atol=1e-8)
        half = similarity._orthonormal_basis(A, energy=0.5)
        power = np.cumsum(values**2) / (values**2).sum()
        assert half.shape[1] == int(np.searchsorted(power, 0.5)) + 1
        np.testing.assert_allclose(np.abs(half.T @ left[:, : half.shape[1]]), np.eye(half.shape[1]), atol=1e-3)


def test_similarity_is_the_unbiased_cka():
    """Of a map and its rotation 1, of independent ones about 0 even where n < d; and that of the double sums."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 200))
    turned = X @ np.linalg.qr(rng.normal(size=(200, 200)))[0] * 3
    apart = rng.normal(size=(30, 200))
    a, b, c = (similarity._u_centered_kernel(item).ravel().astype(float) for item in (X, turned, apart))
    assert a @ b == pytest.approx(1, abs=1e-5)
    assert abs(a @ c) < 0.2

    def hsic(X, Z):
        n = len(X)
        K, L = ((item - item.mean(0)) @ (item - item.mean(0)).T for item in (X, Z))
        np.fill_diagonal(K, 0)
        np.fill_diagonal(L, 0)
        rest = K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (K.sum(0) @ L.sum(0))
        return (np.trace(K @ L) + rest) / (n * (n - 3))

    expected = hsic(X, apart) / np.sqrt(hsic(X, X) * hsic(apart, apart))
    assert a @ c == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("shared")))
    sources = [vector_source(Dense, classifier="c", name="with"), dense(1)]
    result = rank(sources, good_data(90))
    patch.undo()
    return result


def test_a_ranking_tells_what_is_shared(shared):
    cka = shared.shared["cka"]
    assert len(cka["labels"]) == 5 or len(cka["labels"]) == 6
    values = np.array(cka["values"])
    np.testing.assert_allclose(values, values.T)
    np.testing.assert_allclose(values.diagonal(), 1, atol=1e-4)
    assert ((values >= 0) & (values <= 1)).all()
    assert [item["source"] for item in shared.shared["subspace"]] == ["with"]
    assert shared.shared["distance"] == []
    assert "What is shared" in str(shared)
    assert any("classifier" in word for word in shared.shared["words"])
    back = Ranking.from_dict(json.loads(json.dumps(shared.to_dict())))
    assert str(back) == str(shared)


def test_values_are_told_of_too():
    X = vectors(60)
    result = rank(vector_source(Dense, classifier="c"), Dataset.from_arrays(X, X[:, 0], task="regression"))
    assert result.shared["subspace"][0]["directions"] == 1


def test_source_statistics_give_distances_and_classes(tmp_path):
    source = dense(0)
    X, y = separable(120, seed=5)
    source_data = Dataset.from_arrays(X + 2, [f"s{i}" for i in y])
    statistics = source_statistics(source, source_data)
    object.__setattr__(source, "statistics", statistics)
    data = good_data(90)
    result = rank(source, data)
    rows = {item["layer"]: item for item in result.shared["distance"]}
    assert set(rows) == set(source.select("auto"))
    from headstart.extraction import extract

    bank = extract(source, data)
    for layer, item in rows.items():
        mine = Moments.from_rows(bank.rows(layer, data))
        assert item["frechet"] == pytest.approx(distance("frechet", statistics.moments(layer), mine), rel=1e-5)
        assert (item["source_items"], item["items"]) == (120, 90)
    against = {item["against"]: item for item in result.shared["subspace"]}
    mine = against["classes"]
    assert mine["share"] > mine["chance"] + 0.2, "the source's classes are the same three centres"
    assert any("times the spread" in word for word in result.shared["words"])


def test_statistics_are_saved_beside_a_source_and_found_again(tmp_path):
    from headstart.pretraining import pretrain
    from headstart.sources import load_source
    from headstart.sources.statistics import Statistics, statistics_of

    data = Dataset.from_arrays(
        np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8), ["a", "b"] * 6
    )
    source = pretrain("cnn", data, epochs=1, image_size=16, statistics=True)
    folder = source.save(tmp_path / "mine")
    again = load_source(f"saved:{folder}")
    result = statistics_of(again)
    assert isinstance(result, Statistics)
    assert (result.items, result.classes, result.data) == (12, ("a", "b"), data.fingerprint)
    for layer in again.select("auto"):
        assert result.moments(layer) == source.statistics.moments(layer)
        assert result.moments(layer).class_counts.tolist() == [6, 6]
    assert statistics_of(load_source("fake:image")) is None
    other = pretrain("cnn", data, objective="random", image_size=16)
    object.__setattr__(other, "statistics", result)
    assert statistics_of(other) is None, "they are of other weights"
    assert not (other.save(tmp_path / "other") / "moments").exists()
    (folder / "moments" / "statistics.json").write_text("{}")
    assert statistics_of(load_source(f"saved:{folder}")) is None, "damaged: left out, never in the way"


@pytest.mark.parametrize(("share", "message"), [(0.5, "much"), (0.3, "some"), (0.21, "hardly")])
def test_words_follow_the_numbers(share, message):
    item = {"source": "s", "layer": "l", "against": "classifier", "share": share, "chance": 0.2}
    cka = {"labels": [{"source": "s", "layer": "l"}], "values": [[1.0]]}
    (sentence,) = verdict.describe_similarity({"subspace": [item], "distance": [], "cka": cka}, Row("s", "f", "l"))
    assert message in sentence and f"{share:.0%}" in sentence


def test_a_classifier_that_cannot_be_read_is_no_reason_to_stop():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(8, 6), nn.Identity()

        def forward(self, x):
            return self.c(self.a(x).tanh())

    assert rank(vector_source(Odd, classifier="c"), good_data(60)).shared["subspace"] == []
