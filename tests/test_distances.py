"""Distances against independent references. Their laws are in ``laws/test_distance_laws.py``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_digits

from headstart.distances import distance
from headstart.errors import DataError, NumericsError, OptionError, UnknownName
from headstart.moments import Moments


def two(seed, n=80, d=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(2 * n, d)) * 1.5 + rng.normal(size=d)


@given(seed=st.integers(0, 999))
def test_frechet_is_its_formula(seed):
    X, Z = two(seed)
    a, b = np.cov(X.T), np.cov(Z.T)
    shift = X.mean(axis=0) - Z.mean(axis=0)
    expected = shift @ shift + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert distance("frechet", Moments.from_rows(X), Moments.from_rows(Z)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_frechet_of_known_gaussians(offset):
    """Diagonal covariances: Σ (difference of standard deviations)² + ‖shift‖²; a shift is exact at an offset too."""
    corners = np.array([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)]) * np.sqrt(3 / 4)  # covariance I
    a = Moments.from_rows(corners * [1, 2] + offset)
    b = Moments.from_rows(corners * [4, 2] + [3, 4] + offset)
    assert distance("frechet", a, b) == pytest.approx(9 + 25, rel=1e-9)
    c = Moments.from_rows(corners * [1, 2] + [0.5, 0] + offset)
    assert distance("frechet", a, c) == pytest.approx(0.25, rel=1e-9)


def test_frechet_in_one_dimension_is_wasserstein_of_gaussians():
    grid = np.sqrt(2) * np.array([-1.5, -0.5, 0.5, 1.5])[:, None]
    value = distance("frechet", Moments.from_rows(grid), Moments.from_rows(grid + 2))
    assert np.sqrt(value) == pytest.approx(wasserstein_distance(grid[:, 0], grid[:, 0] + 2))


@pytest.mark.parametrize("n", [5, 20, 100])
def test_frechet_with_fewer_rows_than_features(n):
    """Rows of a low-dimensional space, turned into a wide one: no root of a rounding error is added."""
    rng = np.random.default_rng(n)
    X, Z = rng.normal(size=(n, 4)), 2 * rng.normal(size=(n, 4)) + 1
    turn = np.linalg.qr(rng.normal(size=(200, 4)))[0].T
    narrow = distance("frechet", Moments.from_rows(X), Moments.from_rows(Z))
    wide = distance("frechet", Moments.from_rows(X @ turn), Moments.from_rows(Z @ turn))
    assert wide == pytest.approx(narrow, rel=1e-10)


def test_frechet_of_points_and_of_one_row():
    a, b = Moments.from_rows(np.zeros((3, 2))), Moments.from_rows(np.full((3, 2), 2.0))
    assert distance("frechet", a, b) == 8
    for name in ("frechet", "coral"):
        with pytest.raises(NumericsError, match="two rows"):
            distance(name, a, Moments.from_rows(np.zeros((1, 2))))
    assert distance("mean", a, Moments.from_rows(np.ones((1, 2)))) == pytest.approx(np.sqrt(2))


@given(seed=st.integers(0, 999))
def test_coral_is_its_formula(seed):
    X, Z = two(seed)
    expected = ((np.cov(X.T) - np.cov(Z.T)) ** 2).sum() / (4 * 6**2)
    assert distance("coral", Moments.from_rows(X), Moments.from_rows(Z)) == pytest.approx(expected, rel=1e-9)
    shifted = distance("coral", Moments.from_rows(X), Moments.from_rows(X + 100))
    assert shifted < 1e-20 * np.trace(np.cov(X.T)) ** 2 + 1e-20


@given(seed=st.integers(0, 999))
def test_mean_is_its_formula(seed):
    X, Z = two(seed)
    expected = np.linalg.norm(X.mean(axis=0) - Z.mean(axis=0))
    assert distance("mean", Moments.from_rows(X), Moments.from_rows(Z)) == pytest.approx(expected, rel=1e-12)


def hsic_cka(X, Z):
    """CKA from the n × n side: the two centred Gram matrices."""
    centre = np.eye(len(X)) - 1 / len(X)
    K, L = centre @ X @ X.T @ centre, centre @ Z @ Z.T @ centre
    return 1 - (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())


@pytest.mark.parametrize(("d", "e"), [(5, 3), (3, 60), (60, 60)])
def test_cka_is_that_of_the_row_by_row_side_in_every_way_of_asking(d, e):
    rng = np.random.default_rng(d)
    X = rng.normal(size=(40, d)) + 10
    Z = np.tanh(X @ rng.normal(size=(d, e)) / 5) + 0.3 * rng.normal(size=(40, e))
    expected = hsic_cka(X, Z)
    a, b = Moments.from_rows(X), Moments.from_rows(Z)
    joint = Moments.from_rows(np.hstack([X, Z]))
    result = [
        distance("cka", Moments.from_rows(X, Z), b),
        distance("cka", a, Moments.from_rows(Z, X)),
        distance("cka", a, b, cross=joint.scatter[:d, d:]),
        distance("cka", joint.select(slice(0, d)), joint.select(slice(d, None)), cross=joint.scatter[:d, d:]),
    ]
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_cka_of_real_features():
    digits = load_digits().data
    halves = Moments.from_rows(digits[:, :32], digits[:, 32:]), Moments.from_rows(digits[:, 32:])
    noise = np.random.default_rng(0).normal(size=(len(digits), 32))
    other = Moments.from_rows(noise, digits[:, 32:]), halves[1]
    assert 0 < distance("cka", *halves) < 0.95 < distance("cka", *other) <= 1


def test_cka_says_what_it_needs():
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    a, b = Moments.from_rows(X), Moments.from_rows(Z)
    with pytest.raises(OptionError, match="product of the two sides' rows"):
        distance("cka", a, b)
    with pytest.raises(OptionError, match="product"):  # targets of the right number that are not b's rows
        distance("cka", Moments.from_rows(X, Z + 1), b)
    with pytest.raises(DataError, match="30 and 29"):
        distance("cka", a, Moments.from_rows(Z[1:]))
    with pytest.raises(OptionError, match=r"cross must be \(4, 3\)"):
        distance("cka", a, b, cross=np.zeros((3, 4)))
    with pytest.raises(DataError, match="does not belong"):
        distance("cka", a, b, cross=np.full((4, 3), 1e3))
    with pytest.raises(NumericsError, match="No feature varies"):
        distance("cka", Moments.from_rows(np.ones((30, 2)), Z), b)


def test_unknown_distances_and_what_is_not_moments():
    a = Moments.from_rows(np.eye(3))
    with pytest.raises(UnknownName, match=r"did you mean 'frechet'\? Known: cka, coral, frechet, mean\."):
        distance("fréchet", a, a)
    with pytest.raises(DataError, match="takes two Moments; got ndarray"):
        distance("mean", a, np.eye(3))


def test_numbers_beyond_float64_are_refused():
    a, b = (Moments.from_rows(np.array([[0.0], [x]])) for x in (1e90, 1e120))
    with pytest.raises(NumericsError, match="not finite"):
        distance("coral", a, b)
