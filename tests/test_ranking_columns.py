"""The columns beside the cross-validated score, each against the score computed straight."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from torch import nn

from headstart.extraction import extract
from headstart.moments import Moments
from headstart.ranking import rank
from headstart.ranking.table import layer_columns, reduce_to_rank, source_columns, transferability_scores
from headstart.scores import score
from networks import Dense, separable, vector_source
from test_ranking import dense, good_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def bank(speed: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(runtime=SimpleNamespace(speed=speed))


LAYER = SimpleNamespace(depth=0.5)


@st.composite
def problems(draw, *, wide: bool):
    n = draw(st.integers(8, 30))
    d = draw(st.integers(n + 1, 80) if wide else st.integers(2, n - 2))
    t = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    y = np.arange(n) % t
    scale = 10.0 ** draw(st.integers(-2, 2))
    X = (rng.normal(size=(n, d)) + rng.normal(size=(t, d))[y] + draw(st.sampled_from([0.0, 5.0]))) * scale
    return X.astype(np.float32), np.eye(t)[y]


@pytest.mark.parametrize("wide", [True, False])
def test_scores_are_those_of_all_dimensions(wide):
    @given(problems(wide=wide))
    def check(problem):
        X, T = problem
        full = Moments.from_rows(X, T)
        result = layer_columns(X, T, task="classification", bank=bank(), layer=LAYER)
        assert result["logme"] == pytest.approx(score("logme", full), rel=1e-3, abs=1e-3)
        assert result["h_score"] == pytest.approx(score("h_score", full), rel=1e-3, abs=1e-3)
        assert result["knn"] == score("knn", None, rows=X, targets=T)

    check()


@given(problems(wide=True))
def test_compact_keeps_distances(problem):
    X, _ = problem
    small = reduce_to_rank(X)
    assert small.shape[1] < len(X) < X.shape[1]
    far = pdist(X.astype(np.float64))
    np.testing.assert_allclose(pdist(small), far, atol=1e-5 * far.max())


def test_compact_leaves_tall_rows_alone():
    X = np.ones((5, 5))
    assert reduce_to_rank(X) is X


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_rows_that_are_all_the_same_have_no_bad_scores(shape):
    T = np.eye(2)[np.arange(shape[0]) % 2]
    result = layer_columns(np.zeros(shape, np.float32), T, task="classification", bank=bank(), layer=LAYER)
    assert all(value is None or np.isfinite(value) for value in result.values())


def test_one_class_has_no_scores_of_classes():
    X = np.random.default_rng(0).normal(size=(10, 4))
    result = layer_columns(X, np.ones((10, 1)), task="classification", bank=bank(), layer=LAYER)
    assert result["h_score"] is None


def test_values_have_no_scores_of_classes():
    X = np.random.default_rng(0).normal(size=(30, 4))
    result = layer_columns(X, X[:, :1], task="regression", bank=bank(), layer=LAYER)
    assert "h_score" not in result
    assert "knn" not in result
    assert result["logme"] == pytest.approx(score("logme", Moments.from_rows(X, X[:, :1])))


def test_time_and_disk():
    X = np.zeros((50, 4), np.float32)
    T = np.eye(2)[np.arange(50) % 2]
    result = layer_columns(X, T, task="classification", bank=bank(10.0), layer=LAYER)
    assert result["seconds"] == pytest.approx(50 / 10 * 0.5)
    assert result["mbytes"] == pytest.approx(800 / 1e6)
    assert layer_columns(X, T, task="classification", bank=bank(), layer=LAYER)["seconds"] is None


def test_many_rows_are_thinned_for_neighbours_alone(monkeypatch):
    monkeypatch.setattr("headstart.ranking.table._KNN_ROWS", 30)
    X, y = separable(90)
    T = np.eye(3)[y]
    sample = np.linspace(0, 89, 30).astype(int)
    result = layer_columns(X, T, task="classification", bank=bank(), layer=LAYER)
    assert result["knn"] == score("knn", None, rows=X[sample], targets=T[sample])
    assert result["logme"] == pytest.approx(score("logme", Moments.from_rows(X, T)))


def test_columns_of_a_ranking_are_the_scores_of_its_rows():
    source, data = dense(), good_data(60)
    rows = extract(source, data)
    T = data.columns[0].matrix()
    for row in rank(source, data).rows:
        moments = Moments.from_rows(rows.rows(row.layer, data), T)
        assert row.logme == pytest.approx(score("logme", moments), rel=1e-6)
        assert row.h_score == pytest.approx(score("h_score", moments), rel=1e-6)
        assert (row.nce, row.leep) == (None, None)


def test_static_is_millions_of_parameters():
    expected = (8 * 16 + 16) + (16 * 12 + 12) + (12 * 6 + 6)
    assert {row.static for row in rank(dense(), good_data(30)).rows} == {expected / 1e6}


# ---- the source's own classifier ------------------------------------------------------------------------------------


def classifier_columns(theta_of, n: int = 60, **options) -> tuple[dict, np.ndarray, np.ndarray]:
    """source_columns for outputs that are given."""
    data = good_data(n)
    T = data.columns[0].matrix()
    arguments = theta_of(T)
    source = SimpleNamespace(engines=("torch",), module=nn.Linear(3, 2), classifier="c", **options)
    readable = SimpleNamespace(layers=("output",), rows=lambda layer, _: arguments.astype(np.float32))
    return source_columns(source, readable, data, T=T, task="classification"), arguments, T


def softmax_of(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_nce_and_leep_are_those_of_the_softmax():
    result, logits, T = classifier_columns(
        lambda T: np.random.default_rng(0).normal(size=(60, 5)) * 2 + T @ np.eye(3, 5)
    )
    theta = softmax_of(logits.astype(np.float32).astype(np.float64))
    table = np.zeros((3, 5))
    for label, message in zip(T.argmax(1), theta.argmax(1), strict=True):
        table[label, message] += 1
    assert result["leep"] == pytest.approx(score("leep", None, probabilities=theta, targets=T))
    assert result["nce"] == pytest.approx(score("nce", None, table=table))
    assert result["nce"] < 0


def test_outputs_that_are_probabilities_already_stay_as_they_are():
    result, theta, T = classifier_columns(lambda T: softmax_of(np.random.default_rng(0).normal(size=(60, 5)) * 3))
    exact = theta.astype(np.float32).astype(np.float64)
    assert result["leep"] == pytest.approx(score("leep", None, probabilities=exact, targets=T), rel=1e-5)


def test_a_classifier_that_knows_the_classes_has_better_nce():
    good, _, _ = classifier_columns(lambda T: T * 9)
    bad, _, _ = classifier_columns(lambda T: np.random.default_rng(0).permutation(T) * 9)
    assert good["nce"] == pytest.approx(0, abs=1e-9)
    assert good["nce"] > bad["nce"] + 0.5
    assert good["leep"] > bad["leep"] + 0.5


def test_only_sources_with_a_classifier_have_them():
    data = good_data(60)
    with_head = vector_source(Dense, classifier="c", name="with")
    result = rank([with_head, vector_source(Dense, seed=1, name="without")], data)
    logits = extract(with_head, data, layers=[with_head.layers[-1].name]).rows(with_head.layers[-1].name, data)
    T = data.columns[0].matrix()
    expected = score("leep", None, probabilities=softmax_of(logits.astype(np.float64)), targets=T)
    for row in result.rows:
        if row.source == "without":
            assert (row.nce, row.leep) == (None, None)
        else:
            assert row.leep == pytest.approx(expected, rel=1e-6)
            assert row.nce is not None


def test_values_have_neither():
    X, _ = separable(60)
    data = type(good_data()).from_arrays(X, X[:, 0].astype(float), task="regression")
    row = rank(vector_source(Dense, classifier="c"), data).best
    assert (row.nce, row.leep) == (None, None)


@pytest.mark.parametrize("shape", [(20, 64), (30, 31), (12, 500)])
def test_h_score_of_compact_rows_knows_how_many_dimensions_there_were(shape):
    rng = np.random.default_rng(0)
    y = np.arange(shape[0]) % 3
    X = rng.normal(size=shape) + rng.normal(size=(3, shape[1]))[y]
    T = np.eye(3)[y]
    full = score("h_score", Moments.from_rows(X, T))
    small = Moments.from_rows(reduce_to_rank(X), T)
    assert small.features < shape[1]
    assert score("h_score", small, dimensions=shape[1]) == pytest.approx(full, rel=1e-8)
    assert score("h_score", small) != pytest.approx(full, rel=1e-3)


def test_scores_need_nothing_but_rows():
    X, y = separable(40)
    T = np.eye(3)[y]
    result = transferability_scores(X, T, task="classification")
    assert set(result) == {"logme", "h_score", "knn"}
    assert set(transferability_scores(X, X[:, :2], task="regression")) == {"logme"}
    labels = (X[:, :2] > 0).astype(float)
    assert set(transferability_scores(X, labels, task="multilabel")) == {"logme"}
