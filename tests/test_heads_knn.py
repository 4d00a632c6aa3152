"""k nearest neighbours: scikit-learn's votes and means, ties, blocks, weights, folds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from headstart.heads import head, knn
from headstart.heads.knn import Knn
from headstart.heads.problem import Problem

seeds = st.integers(0, 2**32 - 1)
metrics = pytest.mark.parametrize("metric", ["cosine", "euclidean"])


def data(seed, n=60, d=6, t=3):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % t)
    return rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(t, d))[y], y


@metrics
@given(seed=seeds, k=st.integers(1, 9))
def test_votes_are_scikit_learns(metric, seed, k):
    X, y = data(seed)
    fresh = data(seed + 1)[0]
    ours = head("knn", n_neighbors=k, metric=metric, weights="uniform").fit(X, np.eye(3)[y])
    theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(X, y)
    uncertainty = 0.5 / (k + 1)
    expected = (1 - uncertainty) * theirs.predict_proba(fresh) + uncertainty / 3
    assert np.allclose(ours.proba(fresh), expected, atol=1e-9)


@metrics
@given(seed=seeds, k=st.integers(1, 9))
def test_means_of_values_are_scikit_learns(metric, seed, k):
    X, _ = data(seed)
    Y = np.random.default_rng(seed).normal(size=(60, 2))
    fresh = data(seed + 1)[0]
    ours = head("knn", n_neighbors=k, metric=metric, weights="uniform").fit(X, Y, task="regression")
    theirs = KNeighborsRegressor(k, metric=metric, algorithm="brute").fit(X, Y)
    assert np.allclose(ours.predict(fresh), theirs.predict(fresh), atol=1e-9)


@given(seed=seeds, k=st.integers(1, 9))
def test_labels_are_decided_by_the_majority(seed, k):
    X, _ = data(seed)
    T = (np.random.default_rng(seed).random((60, 3)) > 0.4).astype(float)
    fresh = data(seed + 1)[0]
    ours = head("knn", n_neighbors=k, weights="uniform").fit(X, T, task="multilabel")
    shares = KNeighborsRegressor(k, metric="cosine", algorithm="brute").fit(X, T).predict(fresh)
    assert np.array_equal(ours.predict(fresh), shares > 0.5)


@metrics
@given(seed=seeds)
def test_nearer_neighbours_weigh_more(metric, seed):
    X, y = data(seed)
    fresh = data(seed + 1)[0]
    fitted = head("knn", n_neighbors=len(X), metric=metric, weights="softmax").fit(X, np.eye(3)[y])
    if metric == "cosine":
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (fresh, X)]
        similar = unit[0] @ unit[1].T
    else:
        similar = -((fresh[:, None] - X) ** 2).sum(axis=2) / (X**2).sum(axis=1).mean()
    weight = np.exp(10 * (similar - similar.max(axis=1, keepdims=True)))
    shares = weight @ np.eye(3)[y] / weight.sum(axis=1, keepdims=True)
    uncertainty = 0.5 / (len(X) + 1)
    assert np.allclose(fitted.proba(fresh), (1 - uncertainty) * shares + uncertainty / 3, atol=1e-5)


@metrics
def test_blocks_of_any_size_give_the_same(metric, monkeypatch):
    X, y = data(0, n=50)
    fitted = head("knn", metric=metric).fit(X, np.eye(3)[y])
    full = fitted.decision(X)
    folds = np.stack([np.arange(50) % 4, np.arange(50) // 13])
    problem = Problem("classification", X=X, T=np.eye(3)[y])
    grid = [{"n_neighbors": k, "metric": metric, "weights": w} for k in (1, 7) for w in ("uniform", "softmax")]
    held_out = Knn.out_of_fold(problem, folds, grid)
    monkeypatch.setattr(knn, "_CELLS", 120)
    assert np.allclose(fitted.decision(X), full, atol=1e-6)
    assert np.allclose(Knn.out_of_fold(problem, folds, grid), held_out, atol=1e-6)


def test_of_equally_near_rows_the_first_counts():
    X = np.array([[1.0, 0], [1.0, 0], [1.0, 0], [0, 1.0]])
    fitted = head("knn", n_neighbors=1).fit(X, np.eye(4))
    assert fitted.predict(np.array([[2.0, 0]])).tolist() == [0]
    ten = head("knn", n_neighbors=3, weights="uniform").fit(np.ones((10, 2)), np.eye(10))
    assert sorted(np.argsort(-ten.decision(np.ones((1, 2)))[0], kind="stable")[:3]) == [0, 1, 2]


def test_more_neighbours_than_rows_are_all_rows():
    X, y = data(0, n=6)
    n_items = head("knn", n_neighbors=50, weights="uniform").fit(X, np.eye(3)[y])
    assert np.allclose(n_items.proba(X), 1 / 3)


@given(seed=seeds)
def test_a_weight_is_so_many_votes(seed):
    X, y = data(seed, n=12)
    weights = np.random.default_rng(seed).uniform(0.5, 3, 12)
    fitted = head("knn", n_neighbors=12, weights="uniform").fit(X, np.eye(3)[y], sample_weight=weights)
    shares = np.bincount(y, weights=weights) / weights.sum()
    assert np.allclose(fitted.proba(X[:1])[0], (1 - 0.5 / 13) * shares + 0.5 / 13 / 3)


def test_a_prior_moves_the_votes():
    X, y = data(0)
    plain = head("knn").fit(X, np.eye(3)[y])
    moved = head("knn").fit(X, np.eye(3)[y], prior=[0.5, 0.25, 0.25])
    assert np.allclose(moved.decision(X) - plain.decision(X), np.log([1.5, 0.75, 0.75]))


def test_a_row_of_zeros_has_no_direction_but_an_answer():
    X, y = data(0)
    fitted = head("knn").fit(np.r_[X, np.zeros((1, 6))], np.eye(3)[np.r_[y, 0]])
    assert np.isfinite(fitted.decision(np.zeros((2, 6)))).all()


@given(seed=seeds)
def test_a_row_is_never_its_own_neighbour_when_held_out(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30, 4))
    T = np.eye(30)  # each row its own class: only itself could vote for it
    out = Knn.out_of_fold(
        Problem("classification", X=X, T=T),
        np.arange(30)[None],
        [{"n_neighbors": 3, "metric": "cosine", "weights": "uniform"}],
    )
    assert (out[0, 0].argmax(axis=1) != np.arange(30)).all()


def test_fewer_rows_than_neighbours_outside_a_fold():
    X, y = data(0, n=8, t=2)
    folds = np.array([[0, 0, 0, 0, 0, 0, 1, 1]])
    out = Knn.out_of_fold(
        Problem("classification", X=X, T=np.eye(2)[y]),
        folds,
        [{"n_neighbors": 5, "metric": "cosine", "weights": "softmax"}],
    )
    assert np.isfinite(out).all()


def test_rows_are_kept_in_single_precision_and_saved():
    X, y = data(0)
    fitted = head("knn").fit(X, np.eye(3)[y])
    assert fitted.rows_.dtype == np.float32 and not fitted.linear
    assert set(fitted.state()) == {"rows", "targets", "mass", "mean", "spread", "intercept", "temperature", "task"}


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_euclidean_distances_of_numbers_far_from_one(size):
    """Their squares lie beyond float32, in which rows are kept."""
    y = np.arange(40) % 3
    X, T = np.random.default_rng(0).normal(size=(40, 5)) + 2 * y[:, None], np.eye(3)[y]
    plain, far = (head("knn", metric="euclidean").fit(X * s, T).proba(X[:9] * s) for s in (np.float64(1), size))
    assert np.allclose(plain, far, atol=1e-5)
