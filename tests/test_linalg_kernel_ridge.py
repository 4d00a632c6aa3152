"""Held-out ridge from products of rows, against fitting without the fold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from headstart.errors import NumericsError
from headstart.linalg.ridge_cv import centered_gram, kernel_out_of_fold


@pytest.mark.parametrize("shape", [(30, 8), (24, 60)])
@pytest.mark.parametrize("penalty", [0.1, 30.0])
def test_equals_refitting(shape, penalty):
    rng = np.random.default_rng(0)
    X, T = rng.normal(3, 2, size=shape), rng.normal(1, 1, size=(shape[0], 3))
    folds = [np.flatnonzero(np.arange(shape[0]) % 4 == k) for k in range(4)]
    result = kernel_out_of_fold(centered_gram(X, standard=False), T, folds, penalty)
    for fold in folds:
        rest = np.setdiff1d(np.arange(shape[0]), fold)
        np.testing.assert_allclose(result[fold], Ridge(penalty).fit(X[rest], T[rest]).predict(X[fold]), atol=1e-8)


def test_products_of_a_union_are_a_sum():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 5)), rng.normal(4, 9, size=(20, 7))
    both = StandardScaler().fit_transform(np.hstack([a, b]))
    np.testing.assert_allclose(
        centered_gram(a, standard=True) + centered_gram(b, standard=True), both @ both.T, atol=1e-9
    )


def test_features_that_do_not_vary_count_nothing():
    X = np.random.default_rng(2).normal(size=(10, 3))
    dead = np.hstack([X, np.full((10, 2), 7.0)])
    np.testing.assert_allclose(centered_gram(dead, standard=True), centered_gram(X, standard=True), atol=1e-9)
    assert not centered_gram(np.ones((4, 2)), standard=True).any()


def test_no_penalty_on_too_few_directions():
    with pytest.raises(NumericsError, match="penalty"):
        kernel_out_of_fold(np.zeros((4, 4)), np.eye(4), [np.arange(2), np.arange(2, 4)], 0.0)
