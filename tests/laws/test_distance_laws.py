"""What every distance must satisfy: zero on itself, never negative, symmetric, larger for what is farther."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import DISTANCES
from scipy.stats import ortho_group

from headstart.distances import DISTANCES as FAMILY
from headstart.distances import Distance, distance
from headstart.errors import DataError, NumericsError, OptionError
from headstart.moments import Moments, Quantiser


def walk(sees=None, between=None):
    """The distances, or those that declare something."""
    chosen = [n for n in DISTANCES if sees is None or sees in FAMILY[n].sees]
    chosen = [n for n in chosen if between in (None, FAMILY[n].between)]
    assert chosen
    return pytest.mark.parametrize("name", chosen)


distances = walk()


@st.composite
def pairs(draw):
    """Two sets of rows in d dimensions, equally many for those that compare two spaces over the same rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(3, 40)), draw(st.sampled_from([1, 3, 12, 50]))
    mix = rng.normal(size=(d, d)) / math.sqrt(d)
    return rng.normal(size=(n, d)) @ mix, rng.normal(size=(n, d)) * rng.uniform(0.2, 3) + rng.normal(size=d)


def sides(name, X, Z):
    """Moments of both, of which the first carries the second's rows where the distance needs the two together."""
    joined = FAMILY[name].between == "features"
    return Moments.from_rows(X, Z if joined else None), Moments.from_rows(Z)


@distances
def test_it_declares_itself(name):
    assert isinstance(FAMILY[name], Distance)
    assert (FAMILY[name].compute.__doc__ or "").strip()


@distances
@given(pair=pairs())
def test_finite_and_never_negative(name, pair):
    value = distance(name, *sides(name, *pair))
    assert type(value) is float and math.isfinite(value) and value >= 0


@distances
@given(pair=pairs(), offset=st.sampled_from([0.0, 1e5]))
def test_zero_on_itself(name, pair, offset):
    moments = Moments.from_rows(pair[0] + offset)
    assert distance(name, moments, moments) == 0
    again = Moments.unpack(*moments.pack())
    assert distance(name, moments, again) == 0


@distances
@given(pair=pairs())
def test_zero_on_the_same_rows_in_another_order(name, pair):
    X = pair[0]
    order = np.random.default_rng(0).permutation(len(X))
    a, b = sides(name, X, X if FAMILY[name].between == "features" else X[order])
    assert distance(name, a, b) <= 1e-11 * (1 + np.trace(a.scatter))


@distances
@given(pair=pairs())
def test_symmetric(name, pair):
    a, b = sides(name, *pair)
    assert distance(name, b, a) == pytest.approx(distance(name, a, b), rel=1e-9, abs=1e-12)


@distances
@given(pair=pairs(), seed=st.integers(0, 99))
def test_turning_both_sides_changes_nothing(name, pair, seed):
    X, Z = pair
    turn = ortho_group.rvs(X.shape[1], random_state=seed) if X.shape[1] > 1 else -np.eye(1)
    turned = distance(name, *sides(name, X @ turn, Z @ turn))
    assert turned == pytest.approx(distance(name, *sides(name, X, Z)), rel=1e-7, abs=1e-9)


@distances
@given(pair=pairs(), parts=st.integers(2, 4))
def test_merged_moments_are_as_far(name, pair, parts):
    X, Z = pair
    chunks = [sides(name, X[i], Z[i]) for i in np.array_split(np.arange(len(X)), parts)]
    merged = [sum(side) for side in zip(*chunks)]
    assert distance(name, *merged) == pytest.approx(distance(name, *sides(name, X, Z)), rel=1e-8, abs=1e-9)


@walk(sees="shift")
@given(pair=pairs())
def test_it_grows_with_a_shift(name, pair):
    X, _ = pair
    step = np.ones(X.shape[1])
    a = Moments.from_rows(X)
    values = [distance(name, a, Moments.from_rows(X + k * step)) for k in (0, 0.5, 1, 4, 100)]
    assert all(low < high for low, high in pairwise(values))


@walk(sees="spread")
@given(pair=pairs())
def test_it_grows_with_the_spread(name, pair):
    X, _ = pair
    a = Moments.from_rows(X)
    values = [distance(name, a, Moments.from_rows(X * k)) for k in (1, 1.5, 2, 5, 50)]
    assert all(low < high for low, high in pairwise(values))
    smaller = [distance(name, a, Moments.from_rows(X * k)) for k in (1, 0.7, 0.3)]
    assert smaller[0] < smaller[1] < smaller[2]


@walk(between="samples")
@given(pair=pairs(), seed=st.integers(0, 99))
def test_targets_are_not_looked_at(name, pair, seed):
    X, Z = pair
    T = np.eye(3)[np.random.default_rng(seed).integers(0, 3, len(X))]
    plain = distance(name, Moments.from_rows(X), Moments.from_rows(Z))
    assert distance(name, Moments.from_rows(X, T), Moments.from_rows(Z, T[:, :2])) == plain


@walk(between="samples")
@given(pair=pairs())
def test_exact_moments_are_about_as_far(name, pair):
    X, Z = pair
    grid = Quantiser.covering(np.vstack([X, Z]))
    plain, exact = (distance(name, Moments.from_rows(X, exact=g), Moments.from_rows(Z, exact=g)) for g in (None, grid))
    assert exact == pytest.approx(plain, rel=2e-2, abs=1e-2 * grid.scale * grid.step * X.shape[1])


@walk(between="features")
@given(pair=pairs(), seed=st.integers(0, 99), factor=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_turn_shift_and_scale_of_one_space_change_nothing(name, pair, seed, factor, shift):
    X, Z = pair
    turn = ortho_group.rvs(X.shape[1], random_state=seed) if X.shape[1] > 1 else -np.eye(1)
    moved = distance(name, *sides(name, factor * X @ turn + shift, Z))
    assert moved == pytest.approx(distance(name, *sides(name, X, Z)), rel=1e-7, abs=1e-9)
    assert moved <= 1


@walk(between="samples")
def test_other_features_are_refused(name):
    with pytest.raises(DataError, match="3 and 2 features"):
        distance(name, Moments.from_rows(np.eye(3)), Moments.from_rows(np.eye(3)[:, :2]))


@distances
def test_no_rows_are_refused(name):
    with pytest.raises(NumericsError, match="rows on both sides"):
        distance(name, Moments.from_rows(np.eye(3)), Moments.zero(3))


@distances
def test_options_that_it_does_not_take_are_refused(name):
    with pytest.raises(OptionError, match="does not take squarred"):
        distance(name, Moments.from_rows(np.eye(3)), Moments.from_rows(np.eye(3)), squarred=True)
