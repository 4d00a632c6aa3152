"""Principal coordinates, and ridge with folds left out: every number against a refit, and discriminants from ridge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import NumericsError
from headstart.linalg.pca import feature_scale, pca_of_rows, pca_of_scatter
from headstart.linalg.ridge_cv import FoldPrediction, FoldRidge, _NormalEquations, lda_scores

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 8), (60, 50), (40, 40), (25, 70)])


def data(seed, shape, classes=3):
    n, d = shape
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return rng.normal(size=(n, d)) * rng.uniform(0.3, 2, d) + rng.normal(size=(classes, d))[y] + 3, np.eye(classes)[y]


def basis_of(X, weights):
    mean = weights @ X / weights.sum()
    centered = np.sqrt(weights)[:, None] * (X - mean)
    return (
        pca_of_rows(centered, mean, None) if len(X) <= X.shape[1] else pca_of_scatter(mean, centered.T @ centered, None)
    )


def weighted(X, T, w, alpha):
    """Means, weights of ridge, and what it explains, by the book."""
    mean, target_mean = w @ X / w.sum(), w @ T / w.sum()
    centered, targets = X - mean, T - target_mean
    S, C = (centered * w[:, None]).T @ centered, (centered * w[:, None]).T @ targets
    coef = np.linalg.solve(S + alpha * np.eye(X.shape[1]), C)
    return mean, target_mean, coef, C.T @ coef


# --- principal coordinates --------------------------------------------------------------------------------------------


@given(seed=seeds, shape=shapes)
def test_coordinates_are_uncorrelated_and_keep_all_distances(seed, shape):
    X, _ = data(seed, shape)
    basis = basis_of(X, np.ones(len(X)))
    Z = basis.coordinates(X)
    assert np.allclose(basis.vectors.T @ basis.vectors, np.eye(len(basis.values)), atol=1e-7)
    assert np.allclose(Z.T @ Z, np.diag(basis.values), atol=1e-8 * basis.values.max())
    centered = X - X.mean(axis=0)
    assert np.allclose(Z @ Z.T, centered @ centered.T, atol=1e-8 * basis.values.max())
    assert len(basis.values) == min(len(X) - 1, X.shape[1])


@given(seed=seeds, shape=shapes)
def test_weights_in_coordinates_unfold_to_weights_on_features(seed, shape):
    X, _ = data(seed, shape)
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.5, 2, X.shape[1])
    mean = X.mean(axis=0)
    centered = (X - mean) / spread
    basis = (
        pca_of_rows(centered, mean, spread)
        if len(X) <= X.shape[1]
        else pca_of_scatter(mean, (X - mean).T @ (X - mean), spread)
    )
    coef, offset = rng.normal(size=(len(basis.values), 2)), rng.normal(size=2)
    W, b = basis.to_input_space(coef, offset)
    assert np.allclose(X @ W + b, basis.coordinates(X) @ coef + offset, atol=1e-8)


def test_directions_that_are_only_rounding_are_left_out():
    X, _ = data(0, (30, 5))
    twice = np.column_stack([X, X @ np.ones((5, 3))])
    basis = basis_of(twice, np.ones(30))
    assert len(basis.values) == 5


def test_the_divisor_of_a_constant_feature_is_one():
    X = np.column_stack([np.full(9, 0.1, np.float32), np.arange(9.0), np.zeros(9)]).astype(np.float64)
    assert feature_scale(X.var(axis=0), X.mean(axis=0), "none") is None
    spread = feature_scale(X.var(axis=0), X.mean(axis=0), "standard")
    assert spread[0] == 1 and spread[2] == 1 and np.isclose(spread[1], X[:, 1].std())


def test_a_scatter_that_is_not_finite_is_refused():
    with pytest.raises(NumericsError, match="cannot be decomposed"):
        pca_of_scatter(np.zeros(3), np.full((3, 3), np.nan), None)


# --- folds left out ---------------------------------------------------------------------------------------------------


@given(seed=seeds, shape=shapes, folds=st.integers(2, 6), uneven=st.booleans())
def test_left_out_is_as_if_never_seen(seed, shape, folds, uneven):
    X, T = data(seed, shape)
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.3, 3, len(X)) if uneven else np.ones(len(X))
    ids = rng.permutation(len(X)) % folds
    members = [np.flatnonzero(ids == k) for k in range(folds)]
    alphas = np.array([0.05, 2.0, 300.0])
    basis = basis_of(X, w)
    engine = FoldRidge(basis.coordinates(X), basis.values, T, w)
    for alpha, parts in zip(alphas, engine.left_out(members, alphas), strict=True):
        assert [part.rows.tolist() for part in parts] == [m.tolist() for m in members]
        for part in parts:
            others = np.setdiff1d(np.arange(len(X)), part.rows)
            mean, target_mean, coef, explained = weighted(X[others], T[others], w[others], alpha)
            assert np.allclose(part.scores, (X[part.rows] - mean) @ coef + target_mean, atol=1e-7)
            assert np.allclose(part.explained, explained, atol=1e-7 * max(1, np.abs(explained).max()))


@given(seed=seeds, shape=st.sampled_from([(60, 20), (60, 30)]))
def test_both_ways_of_leaving_out_agree(seed, shape):
    """Small folds go through the hat matrix, large ones through the normal equations."""
    X, T = data(seed, shape)
    basis = basis_of(X, np.ones(60))
    engine = FoldRidge(basis.coordinates(X), basis.values, T, np.ones(60))
    full, fold = engine.full_fit, slice(12)
    for alpha in (0.1, 10.0):
        a, b = full.at(alpha).leave_out_by_hat(fold), _NormalEquations.of(full, fold).at(alpha)
        assert np.allclose(a[0], b[0], atol=1e-9)
        assert np.allclose(a[1], b[1], atol=1e-8)


@given(seed=seeds, shape=shapes, alpha=st.sampled_from([0.3, 20.0]))
def test_discriminants_follow_from_ridge(seed, shape, alpha):
    X, T = data(seed, shape)
    fold = np.arange(0, len(X), 4)
    others = np.setdiff1d(np.arange(len(X)), fold)
    items = np.ones(len(X))
    basis = basis_of(X, items)
    left = next(FoldRidge(basis.coordinates(X), basis.values, T, items).left_out([fold], np.array([alpha])))[0]
    counts = T[others].sum(axis=0)
    ((linear, norm),) = lda_scores([left], (counts / counts.sum())[None], counts[None])
    mean = X[others].mean(axis=0)
    means = (T[others].T @ (X[others] - mean)) / counts[:, None]
    within = X[others] - mean - T[others] @ means
    Q = np.linalg.inv(within.T @ within + alpha * np.eye(X.shape[1]))
    assert np.allclose(linear, (X[fold] - mean) @ Q @ means.T, rtol=1e-6, atol=1e-7)
    assert np.allclose(norm, np.einsum("td,de,te->t", means, Q, means), rtol=1e-6, atol=1e-8)


def test_classes_without_any_spread_and_shrinkage_are_refused():
    left = FoldPrediction(np.arange(2), np.zeros((2, 2)), np.diag([3.0, 3.0]))
    with pytest.raises(NumericsError, match="Raise shrinkage"):
        lda_scores([left], np.full((1, 2), 0.5), np.full((1, 2), 3.0))
