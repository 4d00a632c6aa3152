"""Logistic regression: scikit-learn's optimum, reached from few passes; paths, labels, weights, priors, sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from headstart._base.progress import listening
from headstart.heads import head
from headstart.heads.logistic import Logistic
from headstart.heads.problem import Problem
from listeners import Notes

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(80, 5, 2), (80, 5, 3), (30, 30, 4), (20, 90, 3), (16, 120, 2)])
strengths = st.sampled_from([0.01, 1.0, 30.0])


def data(seed, shape=(80, 5, 3)):
    n, d, t = shape
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % t)
    return (rng.normal(size=(n, d)) + rng.normal(size=(t, d))[y]) * rng.uniform(0.2, 3, d) + 1, y


def loss(coef, intercept, X, T, C, weights=None):
    """scikit-learn's objective for softmax, divided by C, of weights (d, t)."""
    z = X @ coef + intercept
    each = logsumexp(z, axis=1) - (z * T).sum(axis=1)
    return float((each if weights is None else weights * each).sum()) + 0.5 / C * float((coef**2).sum())


def binary_loss(w, b, X, y, C):
    """The objective of two classes: one sigmoid."""
    z = X @ w + b
    return float((np.logaddexp(0, z) - y * z).sum()) + 0.5 / C * float((w**2).sum())


@given(seed=seeds, shape=st.sampled_from([(80, 5, 3), (30, 30, 4), (20, 90, 3)]), C=strengths)
def test_the_optimum_of_several_classes_is_scikit_learns(seed, shape, C):
    X, y = data(seed, shape)
    T = np.eye(shape[2])[y]
    ours = head("logistic", C=C, tol=1e-13).fit(X, T)
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=20000, solver="newton-cholesky").fit(X, y)
    a = loss(ours.coef_, ours.intercept_, X, T, C)
    b = loss(theirs.coef_.T, theirs.intercept_, X, T, C)
    assert a <= b * (1 + 1e-7) + 1e-9
    assert np.allclose(ours.proba(X), theirs.predict_proba(X), atol=2e-4)


@given(seed=seeds, shape=st.sampled_from([(80, 5, 2), (16, 120, 2)]), C=strengths)
def test_the_optimum_of_two_classes_is_scikit_learns(seed, shape, C):
    X, y = data(seed, shape)
    ours = head("logistic", C=C, tol=1e-13).fit(X, np.eye(2)[y])
    theirs = LogisticRegression(C=C, tol=1e-10, max_iter=20000, solver="newton-cg").fit(X, y)
    w, b = ours.coef_[:, 1] - ours.coef_[:, 0], ours.intercept_[1] - ours.intercept_[0]
    assert binary_loss(w, b, X, y, C) <= binary_loss(theirs.coef_[0], theirs.intercept_[0], X, y, C) * (1 + 1e-7) + 1e-9
    assert np.allclose(w, theirs.coef_[0], atol=1e-3 * max(1, np.abs(w).max()))
    assert np.allclose(ours.coef_[:, 0], -ours.coef_[:, 1])


@given(seed=seeds, C=strengths)
def test_labels_are_one_sigmoid_each(seed, C):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 6))
    T = (X[:, :3] + rng.normal(size=(60, 3)) > 0.3).astype(float)
    T[:2] = [[0] * 3, [1] * 3]
    ours = head("logistic", C=C, tol=1e-13).fit(X, T, task="multilabel")
    for label in range(3):
        theirs = LogisticRegression(C=C, tol=1e-10, max_iter=20000, solver="newton-cg").fit(X, T[:, label])
        assert np.allclose(ours.coef_[:, label], theirs.coef_[0], atol=1e-3)
        assert np.allclose(ours.proba(X)[:, label], theirs.predict_proba(X)[:, 1], atol=1e-4)


@given(seed=seeds, shape=shapes)
def test_the_gradient_vanishes_where_it_stops(seed, shape):
    X, y = data(seed, shape)
    T = np.eye(shape[2])[y]
    fitted = head("logistic", C=0.5, tol=1e-14).fit(X, T)
    penalty = fitted.coef_ / 0.5 * (1 if shape[2] > 2 else 2)  # two columns share the penalty of one sigmoid
    gradient = X.T @ (fitted.proba(X) - T) + penalty
    scale = np.abs(X.T @ T).max()
    assert np.abs(gradient).max() < 1e-4 * scale
    assert np.abs((fitted.proba(X) - T).sum(axis=0)).max() < 1e-4 * len(X)


@given(seed=seeds, shape=st.sampled_from([(80, 5, 3), (20, 90, 3)]))
def test_weights_count_rows(seed, shape):
    X, y = data(seed, shape)
    weights = np.random.default_rng(seed).uniform(0.2, 3, len(X))
    ours = head("logistic", tol=1e-13).fit(X, np.eye(3)[y], sample_weight=weights)
    theirs = LogisticRegression(tol=1e-10, max_iter=20000, solver="newton-cg").fit(X, y, sample_weight=weights)
    assert np.allclose(ours.proba(X), theirs.predict_proba(X), atol=2e-4)


@given(seed=seeds, shape=shapes)
def test_standardising_is_folded_back(seed, shape):
    X, y = data(seed, shape)
    T = np.eye(shape[2])[y]
    a = head("logistic", scale="standard", tol=1e-13).fit(X, T)
    b = head("logistic", tol=1e-13).fit((X - X.mean(0)) / X.std(0), T)
    assert np.allclose(a.proba(X), b.proba((X - X.mean(0)) / X.std(0)), atol=1e-5)


@given(seed=seeds, shape=shapes)
def test_a_prior_adds_its_log_ratio(seed, shape):
    X, y = data(seed, shape)
    t = shape[2]
    prior = np.random.default_rng(seed).dirichlet(np.full(t, 4.0))
    own_values, wished = head("logistic").fit(X, np.eye(t)[y]), head("logistic").fit(X, np.eye(t)[y], prior=prior)
    ratio = np.log(prior) - np.log(np.bincount(y) / len(y))
    assert np.allclose(wished.decision(X) - own_values.decision(X), ratio)


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("t", [2, 3])
def test_the_path_meets_each_strength_solved_alone(task, t):
    X, y = data(5, (90, 6, t))
    T = np.eye(t)[y] if task == "classification" else (X[:, :t] > 1).astype(float)
    ids = np.arange(90) % 3
    grid = [{"C": C} for C in (3.0, 0.03, 0.3)]  # in any order
    held_out = Logistic.out_of_fold(Problem(task, X=X, T=T), np.stack([ids, (ids + 1) % 3, np.arange(90) // 30]), grid)
    assert held_out.shape == (3, 3, 90, t)
    assert np.allclose(held_out[:, 0], held_out[:, 1], atol=1e-6)  # the same folds under other numbers
    for setting, result in zip(grid, held_out, strict=True):
        for k in range(3):
            alone = (
                head("logistic", tol=1e-12, **setting).fit(X[ids != k], T[ids != k], task=task).decision(X[ids == k])
            )
            assert np.abs(result[0][ids == k] - alone).max() < 0.1 * np.abs(alone).max()


def test_the_grid_holds_one_and_follows_the_size_of_the_features():
    X, y = data(0)
    for factor in (1.0, 1e3, 1e-3):
        problem = Problem("classification", X=X * factor, T=np.eye(3)[y])
        grid = [setting["C"] for setting in Logistic.grid(problem)]
        assert 1.0 in grid and grid == sorted(grid)
        size = problem.trace / problem.count
        assert min(grid) * size <= 0.11 or min(grid) == 1.0
        assert max(grid) * size >= 99


def test_separable_classes_stay_finite_at_a_weak_penalty():
    X = np.r_[np.linspace(-2, -1, 20), np.linspace(1, 2, 20)][:, None]
    y = np.repeat([0, 1], 20)
    fitted = head("logistic", C=1e6).fit(X, np.eye(2)[y])
    assert np.isfinite(fitted.coef_).all() and (fitted.predict(X) == y).all()
    assert fitted.proba(X)[0, 0] > 0.99


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_features_of_any_size_and_offset_converge(factor):
    X, y = data(1, (100, 8, 3))
    fitted = head("logistic", C=1.0 / factor**2).fit(X * factor + 50 * factor, np.eye(3)[y])
    plain = head("logistic").fit(X, np.eye(3)[y])
    assert fitted.n_iter_ < 100
    assert np.allclose(fitted.proba(X * factor + 50 * factor), plain.proba(X), atol=1e-3)


def test_stopping_early_is_said_not_hidden():
    X, y = data(0, (80, 5, 3))
    ear = Notes()
    with listening(ear):
        fitted = head("logistic", C=100.0, max_iter=2, tol=1e-12).fit(X, np.eye(3)[y])
    assert fitted.n_iter_ == 2
    assert any("max_iter=2" in text for text in ear)
    assert np.isfinite(fitted.decision(X)).all()


def test_it_is_deterministic():
    X, y = data(0, (80, 5, 3))
    a, b = (head("logistic").fit(X, np.eye(3)[y]) for _ in range(2))
    assert np.array_equal(a.coef_, b.coef_) and np.array_equal(a.intercept_, b.intercept_)


def test_it_needs_few_passes_where_features_are_badly_scaled():
    """The point of principal coordinates: scikit-learn's solver needs hundreds of steps here."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    X = (rng.normal(size=(400, 60)) + rng.normal(size=(4, 60))[y]) * np.logspace(-2, 2, 60)
    ours = head("logistic", tol=1e-7).fit(X, np.eye(4)[y])
    theirs = LogisticRegression(max_iter=100_000, tol=1e-6).fit(X, y)
    a = loss(ours.coef_, ours.intercept_, X, np.eye(4)[y], 1.0)
    b = loss(theirs.coef_.T, theirs.intercept_, X, np.eye(4)[y], 1.0)
    assert a <= b + 1e-6 * abs(b) + 1e-6
    assert ours.n_iter_ * 3 < theirs.n_iter_[0]
