"""The temperature of held-out decisions: where the log-loss is least, finite, and weighed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from headstart.selection.calibration import fit_temperature

seeds = st.integers(0, 2**32 - 1)


def one_hot(y):
    return np.eye(y.max() + 1)[y]


def smoothed(T, even):
    uncertainty = 1 / (len(T) + 1)
    return T * (1 - uncertainty) + uncertainty * even


@given(seed=seeds, size=st.sampled_from([1e-4, 1.0, 300.0]), repeats=st.integers(1, 3))
def test_the_temperature_is_where_the_loss_is_least(seed, size, repeats):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 50)
    D = (rng.normal(size=(repeats, 50, 3)) + 1.2 * np.eye(3)[y]) * size
    W = smoothed(np.eye(3)[y], 1 / 3)

    def loss(log_beta):
        z = D * np.exp(log_beta) / size
        return float((logsumexp(z, axis=-1) - (z * W).sum(axis=-1)).sum())

    best = minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x
    assert np.isclose(np.log(size / fit_temperature(D, np.eye(3)[y], "classification")), best, atol=1e-3)


@given(seed=seeds)
def test_the_temperature_of_labels(seed):
    rng = np.random.default_rng(seed)
    T = (rng.random((60, 4)) > 0.5).astype(float)
    D = rng.normal(size=(1, 60, 4)) + 1.5 * (2 * T - 1)
    W = smoothed(T, 0.5)

    def loss(log_beta):
        z = D[0] * np.exp(log_beta)
        return float((np.logaddexp(0, z) - W * z).sum())

    best = minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x
    assert np.isclose(-np.log(fit_temperature(D, T, "multilabel")), best, atol=1e-3)


def test_decisions_that_are_always_right_stay_finite():
    T = one_hot(np.arange(12) % 3)
    result = fit_temperature(10 * T[None], T, "classification")
    chance = np.exp(log_softmax(10 * T / result, axis=1)).max(axis=1)
    assert 0 < result < np.inf
    assert np.allclose(chance, 1 - (2 / 3) / 13, atol=1e-3)  # a row's worth of doubt


def test_decisions_that_say_nothing_become_even_chances():
    rng = np.random.default_rng(0)
    T = one_hot(rng.integers(0, 2, 400))
    D = rng.normal(size=(1, 400, 2)) - 0.5 * T  # worse than nothing
    chance = np.exp(log_softmax(D[0] / fit_temperature(D, T, "classification"), axis=1))
    assert np.abs(chance - 0.5).max() < 0.01
    assert fit_temperature(np.zeros((1, 400, 2)), T, "classification") > 0


def test_values_have_no_temperature():
    assert fit_temperature(np.ones((1, 5, 2)), np.ones((5, 2)), "regression") == 1.0


def test_weights_weigh_the_loss():
    rng = np.random.default_rng(0)
    T = one_hot(rng.integers(0, 2, 100))
    D = rng.normal(size=(1, 100, 2)) + T
    half = np.r_[np.ones(50), np.zeros(50)]
    a = fit_temperature(D, T, "classification", half)
    b = fit_temperature(D[:, :50], T[:50], "classification")
    assert np.isclose(a, b, rtol=0.05)
