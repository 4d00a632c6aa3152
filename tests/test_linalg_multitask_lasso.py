"""The group lasso from products alone: scikit-learn's solutions, conditions of optimality, paths, screening."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import MultiTaskLasso

from headstart.linalg import multitask_lasso
from headstart.linalg.multitask_lasso import Kept, OfRows, OfScatter, largest, path

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 12, 3), (60, 12, 1), (40, 40, 2), (25, 90, 4), (12, 200, 2)])  # n, d, t
SHARES = (0.7, 0.3, 0.1, 0.03)


def data(seed, shape):
    """Centred rows with a common factor, so that features are correlated, and targets that a few of them make."""
    n, d, t = shape
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + rng.normal(size=(n, 1)) * rng.uniform(0, 1.5, d)
    weights = rng.normal(size=(d, t)) * (np.arange(d) < 5)[:, None]
    Y = X @ weights + rng.normal(size=(n, t))
    return X - X.mean(axis=0), Y - Y.mean(axis=0)


def both(X, Y):
    return OfScatter(X.T @ X, X.T @ Y), OfRows(X, Y)


def dense(kept: Kept, d: int):
    coef = np.zeros((d, kept.coef.shape[1]))
    coef[kept.features] = kept.coef
    return coef


def penalties(products, shares=SHARES):
    return [largest(products) * share for share in shares]


def reference(X, Y, alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MultiTaskLasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=200_000).fit(X, Y)
    return fitted.coef_.T


@given(seed=seeds, shape=st.sampled_from([(60, 12, 3), (60, 12, 1), (40, 40, 2), (25, 90, 4)]))
def test_equals_scikit_learn(seed, shape):
    X, Y = data(seed, shape)
    for products in both(X, Y):
        wished = penalties(products)
        for penalty, kept in zip(wished, path(products, wished), strict=True):
            theirs = reference(X, Y, penalty / len(X))
            assert np.abs(dense(kept, X.shape[1]) - theirs).max() <= 1e-6 * max(1.0, np.abs(theirs).max())


@given(seed=seeds, shape=shapes)
def test_the_conditions_of_optimality_hold(seed, shape):
    """Weights that are not 0 pull exactly as hard as the penalty pushes, in its direction; others at most as hard."""
    X, Y = data(seed, shape)
    for products in both(X, Y):
        wished = penalties(products)
        for penalty, kept in zip(wished, path(products, wished), strict=True):
            pull = X.T @ (Y - X[:, kept.features] @ kept.coef)
            assert np.linalg.norm(pull, axis=1).max() <= penalty * (1 + 1e-7)
            unit = kept.coef / np.linalg.norm(kept.coef, axis=1, keepdims=True)
            assert np.abs(pull[kept.features] - penalty * unit).max(initial=0) <= 1e-7 * penalty
            assert kept.coef.any(axis=1).all() and (np.diff(kept.features) > 0).all()


@given(seed=seeds, shape=shapes)
def test_from_the_largest_penalty_on_nothing_is_kept_and_below_it_something_is(seed, shape):
    X, Y = data(seed, shape)
    for products in both(X, Y):
        most = largest(products)
        assert most == pytest.approx(np.linalg.norm(X.T @ Y, axis=1).max())
        none, nothing, some = path(products, [2 * most, most, 0.99 * most])
        assert len(none.features) == len(nothing.features) == 0
        assert len(some.features) >= 1


@given(seed=seeds, shape=shapes)
def test_where_it_starts_does_not_matter(seed, shape):
    X, Y = data(seed, shape)
    products = OfRows(X, Y)
    wished = penalties(products)
    plain = list(path(products, wished))
    rng = np.random.default_rng(seed)
    wild = [Kept(np.arange(5), rng.normal(size=(5, Y.shape[1]))) for _ in wished]
    for here, alone, again in zip(
        plain, (next(path(products, [p])) for p in wished), path(products, wished, wild), strict=True
    ):
        for other in (alone, again):
            assert np.abs(dense(here, X.shape[1]) - dense(other, X.shape[1])).max() <= 1e-5 * np.abs(here.coef).max(
                initial=1e-9
            )


@given(seed=seeds, shape=shapes)
def test_turning_the_targets_turns_the_weights(seed, shape):
    X, Y = data(seed, shape)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[2], shape[2])))[0]
    wished = penalties(OfRows(X, Y))
    for here, there in zip(path(OfRows(X, Y), wished), path(OfRows(X, Y @ turn), wished), strict=True):
        assert np.abs(dense(here, shape[1]) @ turn - dense(there, shape[1])).max() <= 1e-6


def test_copies_and_constant_features_do_no_harm():
    X, Y = data(0, (40, 6, 3))
    more = np.column_stack([X, X[:, :2], np.zeros((40, 2))])
    for products, plain in zip(both(more, Y), both(X, Y), strict=True):
        wished = penalties(plain)
        for here, there in zip(path(products, wished), path(plain, wished), strict=True):
            assert np.allclose(more @ dense(here, 10), X @ dense(there, 6), atol=1e-6)
            assert not set(here.features.tolist()) & {8, 9}


def test_what_screening_left_out_wrongly_comes_back(monkeypatch):
    """The strong rule may err: made to leave out nearly everything, it gives the same solutions."""
    X, Y = data(3, (40, 40, 2))
    products = OfRows(X, Y)
    wished = penalties(products)
    right = list(path(products, wished))
    monkeypatch.setattr(multitask_lasso, "_likely", lambda slope, *_: np.arange(len(slope)) == 7)
    for here, there in zip(right, path(products, wished), strict=True):
        assert np.array_equal(here.features, there.features)
        assert np.allclose(here.coef, there.coef, atol=1e-6)
