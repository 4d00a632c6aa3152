"""Ridge: scikit-learn's numbers, every strength from one decomposition, alpha_grid chosen, folds from moments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SkRidge
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from headstart.errors import NumericsError, OptionError
from headstart.heads import head
from headstart.heads.problem import Problem
from headstart.heads.ridge import Ridge, alpha_grid, cv_error, gcv, loo
from headstart.moments import Moments

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 8, 2), (60, 8, 1), (30, 30, 3), (20, 75, 2)])


def data(seed, shape=(60, 8, 2)):
    n, d, t = shape
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d) + 3
    return X, X @ rng.normal(size=(d, t)) + rng.normal(size=(n, t)) + 5


@given(seed=seeds, shape=shapes, alpha=st.sampled_from([1e-3, 0.5, 20.0, 1e4]))
def test_equals_scikit_learn(seed, shape, alpha):
    X, Y = data(seed, shape)
    ours = head("ridge", alpha=alpha).fit(X, Y, task="regression")
    theirs = SkRidge(alpha=alpha, solver="svd").fit(X, Y)
    assert ours.alpha_ == alpha
    assert np.allclose(ours.coef_, theirs.coef_.reshape(Y.shape[1], -1).T, rtol=1e-8, atol=1e-9)
    assert np.allclose(ours.intercept_, theirs.intercept_, rtol=1e-8, atol=1e-8)


@given(seed=seeds, shape=shapes)
def test_equals_scikit_learn_with_weights(seed, shape):
    X, Y = data(seed, shape)
    weights = np.random.default_rng(seed).uniform(0.2, 3, len(X))
    ours = head("ridge", alpha=2.0).fit(X, Y, task="regression", sample_weight=weights)
    theirs = SkRidge(alpha=2.0).fit(X, Y, sample_weight=weights)
    assert np.allclose(ours.predict(X), theirs.predict(X).reshape(Y.shape), rtol=1e-8, atol=1e-8)


@given(seed=seeds, shape=shapes)
def test_standardising_is_that_of_scikit_learn_folded_back(seed, shape):
    X, Y = data(seed, shape)
    ours = head("ridge", alpha=3.0, scale="standard").fit(X, Y, task="regression")
    scaler = StandardScaler().fit(X)
    theirs = SkRidge(alpha=3.0).fit(scaler.transform(X), Y)
    assert np.allclose(ours.decision(X), theirs.predict(scaler.transform(X)).reshape(Y.shape), rtol=1e-8, atol=1e-8)


@given(seed=seeds, shape=shapes)
def test_the_smaller_side_gives_the_same_as_the_larger(seed, shape):
    X, Y = data(seed, shape)
    rows = head("ridge", alpha=1.5).fit(X, Y, task="regression")
    moments = head("ridge", alpha=1.5).fit(Moments.from_rows(X, Y), task="regression")
    assert np.allclose(rows.coef_, moments.coef_, rtol=1e-9, atol=1e-10)


@given(seed=seeds, shape=shapes)
def test_leave_one_out_is_exactly_that(seed, shape):
    X, Y = data(seed, shape)
    problem = Problem("regression", X=X, T=Y)
    alphas = np.array([0.05, 1.0, 50.0])
    direct = []
    for alpha in alphas:
        left = [
            Y[i] - SkRidge(alpha=alpha).fit(np.delete(X, i, 0), np.delete(Y, i, 0)).predict(X[i : i + 1]).ravel()
            for i in range(len(X))
        ]
        direct.append(float((np.array(left) ** 2).sum()))
    assert np.allclose(loo(problem, alphas), direct, rtol=1e-7)


def test_leave_one_out_chooses_what_scikit_learn_chooses():
    X, Y = data(3, (40, 12, 1))
    problem = Problem("regression", X=X, T=Y)
    alphas = alpha_grid(problem)
    ours = head("ridge", select="loo").fit(X, Y, task="regression")
    theirs = RidgeCV(alphas=alphas).fit(X, Y[:, 0])
    assert ours.alpha_ == theirs.alpha_
    assert np.allclose(ours.coef_[:, 0], theirs.coef_, rtol=1e-7)
    assert np.isclose(-theirs.best_score_ * len(X), loo(problem, alphas).min(), rtol=1e-7)


@given(seed=seeds, shape=shapes)
def test_gcv_is_its_formula_and_needs_only_moments(seed, shape):
    X, Y = data(seed, shape)
    n = len(X)
    problem = Problem("regression", X=X, T=Y)
    alphas = alpha_grid(problem)[::3]
    Xc, Yc = X - X.mean(0), Y - Y.mean(0)
    direct = []
    for alpha in alphas:
        hat = Xc @ np.linalg.solve(Xc.T @ Xc + alpha * np.eye(X.shape[1]), Xc.T)
        direct.append(n * ((Yc - hat @ Yc) ** 2).sum() / (n - 1 - np.trace(hat)) ** 2)
    assert np.allclose(gcv(problem, alphas), direct, rtol=1e-6)
    m = Moments.from_rows(X, Y)
    assert np.allclose(gcv(Problem("regression", moments=m, precomputed=m.centred), alphas), direct, rtol=1e-6)


def test_selection_by_loo_needs_rows():
    X, Y = data(0)
    with pytest.raises(OptionError, match="needs feature rows"):
        head("ridge", select="loo").fit(Moments.from_rows(X, Y), task="regression")


@given(seed=seeds, shape=shapes)
def test_a_chosen_strength_is_on_the_grid_and_bounded_below(seed, shape):
    X, Y = data(seed, shape)
    problem = Problem("regression", X=X, T=Y)
    grid = alpha_grid(problem)
    level = problem.trace / X.shape[1]
    fitted = head("ridge").fit(X, Y, task="regression")
    assert fitted.alpha_ in grid and fitted.alpha is None
    assert np.isclose(grid[0], 1e-3 * level) and (np.diff(grid) > 0).all()
    assert np.isclose(grid[-1], 10 * problem.trace / min(X.shape[1], len(X) - 1))
    again = head("ridge", alpha=fitted.alpha_).fit(X, Y, task="regression")
    assert np.allclose(again.coef_, fitted.coef_, rtol=1e-7, atol=1e-9)


def test_noise_gets_the_strongest_penalty_and_a_clear_signal_a_weak_one():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 10))
    noise = head("ridge").fit(X, rng.normal(size=(80, 1)), task="regression")
    signal = head("ridge").fit(X, X @ rng.normal(size=(10, 1)), task="regression")
    grid = alpha_grid(Problem("regression", X=X, T=X[:, :1]))
    assert noise.alpha_ >= grid[-3]
    assert signal.alpha_ == grid[0]


@given(seed=seeds, folds=st.integers(2, 5))
def test_held_out_squared_error_from_the_moments_of_the_folds(seed, folds):
    X, Y = data(seed, (50, 6, 2))
    ids = np.random.default_rng(seed).permutation(50) % folds
    alphas = [0.1, 3.0, 100.0]
    parts = [Moments.from_rows(X[ids == k], Y[ids == k]) for k in range(folds)]
    result = cv_error(parts, alphas)
    assert result.shape == (folds, 3, 2)
    for k in range(folds):
        for a, alpha in enumerate(alphas):
            fitted = SkRidge(alpha=alpha).fit(X[ids != k], Y[ids != k])
            direct = ((Y[ids == k] - fitted.predict(X[ids == k])) ** 2).sum(axis=0)
            assert np.allclose(result[k, a], direct, rtol=1e-8)


def test_one_fold_is_no_cross_validation():
    X, Y = data(0)
    with pytest.raises(OptionError, match="two folds"):
        cv_error([Moments.from_rows(X, Y)], [1.0])


@given(seed=seeds, shape=shapes)
def test_held_out_scores_sum_to_the_error_from_moments(seed, shape):
    X, Y = data(seed, shape)
    ids = np.random.default_rng(seed).permutation(len(X)) % 3
    alphas = [0.5, 20.0]
    held_out = Ridge.out_of_fold(Problem("regression", X=X, T=Y), ids[None], [{"alpha": a} for a in alphas])
    by_rows = np.array([[((Y - h[0]) ** 2)[ids == k].sum(axis=0) for h in held_out] for k in range(3)])
    by_moments = cv_error([Moments.from_rows(X[ids == k], Y[ids == k]) for k in range(3)], alphas)
    assert np.allclose(by_rows, by_moments, rtol=1e-7)


@given(seed=seeds, shape=st.sampled_from([(60, 8, 3), (30, 80, 3)]))
def test_a_prior_weighs_the_classes_exactly(seed, shape):
    n, d, t = shape
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 5 % t)  # uneven
    X, T = rng.normal(size=(n, d)) + np.eye(t, d)[y], np.eye(t)[y]
    prior = np.array([0.2, 0.3, 0.5])
    weights = (prior / T.mean(axis=0))[y]
    rows = head("ridge", alpha=1.0).fit(X, T, prior=prior)
    weighted = head("ridge", alpha=1.0).fit(X, T, sample_weight=weights)
    moments = head("ridge", alpha=1.0).fit(Moments.from_rows(X, T, per_class=True), prior=prior)
    assert np.allclose(rows.decision(X), weighted.decision(X), atol=1e-9)
    assert np.allclose(rows.decision(X), moments.decision(X), atol=1e-9)


def test_a_prior_from_moments_needs_the_classes_own():
    X, _ = data(0)
    T = np.eye(2)[np.arange(60) % 2]
    with pytest.raises(OptionError, match="per_class=True"):
        head("ridge", alpha=1.0).fit(Moments.from_rows(X, T), prior=[0.9, 0.1])


def test_labels_are_decided_at_one_half():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    T = (X[:, :2] + 0.1 * rng.normal(size=(60, 2)) > 0).astype(float)
    labels = head("ridge", alpha=1e-3).fit(X, T, task="multilabel")
    values = head("ridge", alpha=1e-3).fit(X, T, task="regression")
    assert np.allclose(labels.decision(X), values.decision(X) - 0.5)
    assert np.array_equal(labels.predict(X), values.predict(X) > 0.5)


def test_a_strength_too_small_for_a_singular_scatter_is_refused_not_wrong():
    X, Y = data(0, (30, 4, 1))
    twice = np.column_stack([X, X])  # singular without a penalty
    fitted = head("ridge", alpha=1e-6).fit(twice, Y, task="regression")
    assert np.allclose(
        fitted.predict(twice), SkRidge(alpha=1e-6).fit(twice, Y).predict(twice).reshape(-1, 1), atol=1e-4
    )


def test_features_far_from_zero_lose_no_digits():
    X, Y = data(1)
    near, far = (head("ridge", alpha=1.0).fit(X + move, Y, task="regression") for move in (0.0, 1e6))
    assert np.allclose(near.predict(X), far.predict(X + 1e6), atol=1e-6)


def test_single_precision_memory_mapped_rows(tmp_path):
    X, Y = data(2, (300, 20, 2))
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    a = head("ridge", alpha=1.0).fit(mapped, Y, task="regression")
    b = head("ridge", alpha=1.0).fit(X.astype(np.float32).astype(np.float64), Y, task="regression")
    assert np.allclose(a.coef_, b.coef_, rtol=1e-10, atol=1e-12)
    assert a.decision(mapped).dtype == np.float64


def test_constant_features_leave_nothing_to_choose_by():
    with pytest.raises(NumericsError, match="constant"):
        alpha_grid(Problem("regression", X=np.ones((5, 3)), T=np.arange(5.0)[:, None]))
