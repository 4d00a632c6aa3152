"""Paths of the group lasso, from rows and from roots of moments: optimality, warm starts, invariances."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import MultiTaskLasso

from headstart.heads import group_lasso
from headstart.heads.group_lasso import SparseCoef, _roots, largest_penalty, lasso_solutions

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
    return _roots(X.T @ X, X.T @ Y), (X, Y)


def dense(solution: SparseCoef, d: int):
    coef = np.zeros((d, solution.coef.shape[1]))
    coef[solution.features] = solution.coef
    return coef


def penalties(products, shares=SHARES):
    return [largest_penalty(*products) * share for share in shares]


def reference(X, Y, alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MultiTaskLasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=200_000).fit(X, Y)
    return fitted.coef_.T


@given(seed=seeds, shape=st.sampled_from([(60, 12, 3), (60, 12, 1), (40, 40, 2), (25, 90, 4)]))
def test_equals_scikit_learn(seed, shape):
    X, Y = data(seed, shape)
    for products in both(X, Y):
        path_penalties = penalties(products)
        for penalty, solution in zip(path_penalties, lasso_solutions(*products, path_penalties), strict=True):
            expected = reference(X, Y, penalty / len(X))
            assert np.abs(dense(solution, X.shape[1]) - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@given(seed=seeds, shape=shapes)
def test_the_conditions_of_optimality_hold(seed, shape):
    """Weights that are not 0 pull exactly as hard as the penalty pushes, in its direction; others at most as hard."""
    X, Y = data(seed, shape)
    for products in both(X, Y):
        path_penalties = penalties(products)
        for penalty, solution in zip(path_penalties, lasso_solutions(*products, path_penalties), strict=True):
            gradient_ = X.T @ (Y - X[:, solution.features] @ solution.coef)
            assert np.linalg.norm(gradient_, axis=1).max() <= penalty * (1 + 1e-2)
            unit = solution.coef / np.linalg.norm(solution.coef, axis=1, keepdims=True)
            assert np.abs(gradient_[solution.features] - penalty * unit).max(initial=0) <= 1e-2 * penalty
            assert solution.coef.any(axis=1).all() and (np.diff(solution.features) > 0).all()


@given(seed=seeds, shape=shapes)
def test_from_the_largest_penalty_on_nothing_is_kept_and_below_it_something_is(seed, shape):
    X, Y = data(seed, shape)
    for products in both(X, Y):
        limit = largest_penalty(*products)
        assert limit == pytest.approx(np.linalg.norm(X.T @ Y, axis=1).max())
        none, nothing, subset = lasso_solutions(*products, [2 * limit, limit, 0.99 * limit])
        assert len(none.features) == len(nothing.features) == 0
        assert len(subset.features) >= 1


@given(seed=seeds, shape=shapes)
def test_where_it_starts_does_not_matter(seed, shape):
    X, Y = data(seed, shape)
    penalties_ = penalties((X, Y))
    path = list(lasso_solutions(X, Y, penalties_))
    for warm, penalty in zip(path, penalties_, strict=True):
        cold = next(lasso_solutions(X, Y, [penalty]))
        scale = np.abs(warm.coef).max(initial=1e-9)
        assert np.abs(dense(warm, X.shape[1]) - dense(cold, X.shape[1])).max() <= 1e-3 * scale


@given(seed=seeds, shape=shapes)
def test_turning_the_targets_turns_the_weights(seed, shape):
    X, Y = data(seed, shape)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(shape[2], shape[2])))[0]
    path_penalties = penalties((X, Y))
    for here, present in zip(
        lasso_solutions(X, Y, path_penalties), lasso_solutions(X, Y @ turn, path_penalties), strict=True
    ):
        assert np.abs(dense(here, shape[1]) @ turn - dense(present, shape[1])).max() <= 1e-3


def test_copies_and_constant_features_do_no_harm():
    X, Y = data(0, (40, 6, 3))
    more = np.column_stack([X, X[:, :2], np.zeros((40, 2))])
    for products, plain in zip(both(more, Y), both(X, Y), strict=True):
        path_penalties = penalties(plain)
        for here, present in zip(
            lasso_solutions(*products, path_penalties), lasso_solutions(*plain, path_penalties), strict=True
        ):
            assert np.allclose(more @ dense(here, 10), X @ dense(present, 6), atol=1e-3)
            assert not set(here.features.tolist()) & {8, 9}


def test_what_does_not_converge_is_said(monkeypatch):
    X, Y = data(0, (25, 90, 4))
    message = []
    monkeypatch.setattr(group_lasso, "_MAX_SWEEPS", 1)
    monkeypatch.setattr(group_lasso, "note", message.append)
    list(lasso_solutions(X, Y, [0.05 * largest_penalty(X, Y)]))
    assert len(message) == 1 and "standardise" in message[0]
