"""The nearest class mean: scikit-learn's predictions, log-odds of one common variance, folds without a refit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid as SkNearestCentroid

from headstart.heads import head
from headstart.heads.nearest_centroid import NearestCentroid
from headstart.heads.problem import Problem

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 5, 3), (60, 5, 2), (12, 80, 4)])


def data(seed, shape):
    n, d, t = shape
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 7 % t)
    return rng.normal(size=(n, d)) * 2 + rng.normal(size=(t, d))[y] + 4, y


@given(seed=seeds, shape=shapes)
def test_predictions_are_scikit_learns(seed, shape):
    X, y = data(seed, shape)
    fresh = data(seed + 1, shape)[0]
    ours = head("nearest_centroid").fit(X, np.eye(shape[2])[y])
    assert np.array_equal(ours.predict(fresh), SkNearestCentroid().fit(X, y).predict(fresh))


@given(seed=seeds, shape=shapes)
def test_decisions_are_log_odds_of_a_common_variance(seed, shape):
    X, y = data(seed, shape)
    t = shape[2]
    means = np.stack([X[y == c].mean(axis=0) for c in range(t)])
    variance = ((X - means[y]) ** 2).mean()
    prior = np.arange(1.0, t + 1) / np.arange(1, t + 1).sum()
    direct = -((X[:, None] - means) ** 2).sum(axis=2) / (2 * variance) + np.log(prior)
    result = head("nearest_centroid").fit(X, np.eye(t)[y], prior=prior).decision(X)
    assert np.allclose(result - result.mean(axis=1, keepdims=True), direct - direct.mean(axis=1, keepdims=True))


@given(seed=seeds)
def test_without_a_prior_all_classes_count_alike(seed):
    X, y = data(seed, (60, 5, 3))
    T = np.eye(3)[y]
    plain, even = head("nearest_centroid").fit(X, T), head("nearest_centroid").fit(X, T, prior=[1, 1, 1])
    assert np.allclose(plain.proba(X), even.proba(X))
    assert np.array_equal(plain.predict(X), SkNearestCentroid().fit(X, y).predict(X))


@given(seed=seeds)
def test_standardising_measures_in_deviations(seed):
    X, y = data(seed, (60, 5, 3))
    units = np.array([1e-3, 1, 10, 1e4, 7.0])
    ours = head("nearest_centroid", scale="standard").fit(X * units, np.eye(3)[y])
    z = (X - X.mean(0)) / X.std(0)
    assert np.array_equal(ours.predict(X * units), SkNearestCentroid().fit(z, y).predict(z))


def test_a_class_of_a_single_fold_is_absent_without_it():
    X, y = data(0, (60, 5, 3))
    folds = np.where(y == 1, 0, 1 + np.arange(60) % 2)[None]
    out = NearestCentroid.out_of_fold(Problem("classification", X=X, T=np.eye(3)[y]), folds, [{}])[0, 0]
    assert (out[y == 1].argmax(axis=1) != 1).all()


def test_rows_that_are_their_means_are_measured_by_all_rows():
    X = np.repeat(np.eye(3) * 4, 2, axis=0)
    fitted = head("nearest_centroid").fit(X, np.repeat(np.eye(3), 2, axis=0))
    assert np.isfinite(fitted.coef_).all() and fitted.predict(X).tolist() == [0, 0, 1, 1, 2, 2]
