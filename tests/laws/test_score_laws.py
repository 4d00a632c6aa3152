"""What every score must satisfy: names, order and rotation do not matter; shuffled labels score less."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import SCORE_INPUTS, SCORES
from scipy.stats import ortho_group

from headstart.errors import DataError, HeadstartError, NumericsError, OptionError
from headstart.moments import Moments
from headstart.scores import SCORES as FAMILY
from headstart.scores import Score, score


def walk(**declared):
    """The scores, or those that declare something."""
    names = [n for n in SCORES if all(getattr(FAMILY[n], key) == value for key, value in declared.items())]
    assert names
    return pytest.mark.parametrize("name", names)


scores = walk()


@st.composite
def problems(draw):
    """Features with some class structure (d above and below n), labels, and the number of classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d, classes = draw(st.integers(12, 50)), draw(st.sampled_from([4, 12, 60])), draw(st.integers(2, 4))
    y = rng.permutation(np.arange(n) % classes)
    skill = draw(st.floats(0, 3))
    return rng.normal(size=(n, d)) + skill * rng.normal(size=(classes, d))[y], y, classes


def of(name, X, y, classes):
    moments, rows = SCORE_INPUTS[name](X, y, classes)
    return score(name, moments, **rows)


def test_every_score_is_enrolled():
    assert set(SCORE_INPUTS) == set(SCORES)
    for name in SCORES:
        member = FAMILY[name]
        assert isinstance(member, Score)
        assert (member.compute.__doc__ or "").strip(), "rows are explained on compute"
        assert all(p.kind is p.KEYWORD_ONLY for p in list(inspect.signature(member.compute).parameters.values())[1:])


@scores
@given(problem=problems())
def test_a_finite_float(name, problem):
    value = of(name, *problem)
    assert type(value) is float and math.isfinite(value)


@scores
@given(problem=problems(), seed=st.integers(0, 99))
def test_class_names_do_not_matter(name, problem, seed):
    X, y, classes = problem
    renamed = np.random.default_rng(seed).permutation(classes)[y]
    assert of(name, X, renamed, classes) == pytest.approx(of(name, X, y, classes), rel=1e-9, abs=1e-9)


@scores
@given(problem=problems(), absent=st.integers(1, 3))
def test_classes_without_rows_do_not_matter(name, problem, absent):
    X, y, classes = problem
    assert of(name, X, y, classes + absent) == pytest.approx(of(name, X, y, classes), rel=1e-9, abs=1e-9)


@scores
@given(problem=problems(), seed=st.integers(0, 99))
def test_row_order_does_not_matter(name, problem, seed):
    X, y, classes = problem
    order = np.random.default_rng(seed).permutation(len(X))
    assert of(name, X[order], y[order], classes) == pytest.approx(of(name, X, y, classes), rel=1e-8, abs=1e-8)


@walk(on="features")
@given(problem=problems(), seed=st.integers(0, 99))
def test_rotation_does_not_matter(name, problem, seed):
    X, y, classes = problem
    turn = ortho_group.rvs(X.shape[1], random_state=seed)
    assert of(name, X @ turn, y, classes) == pytest.approx(of(name, X, y, classes), rel=1e-7, abs=1e-7)


@walk(on="features")
@given(problem=problems(), shift=st.sampled_from([-3.0, 1e3, 1e5]), factor=st.sampled_from([1e-3, 1.0, 50.0]))
def test_shift_and_scale_do_not_matter(name, problem, shift, factor):
    X, y, classes = problem
    moved = of(name, factor * (X + shift), y, classes)
    assert moved == pytest.approx(of(name, X, y, classes), rel=1e-5, abs=1e-5)


@walk(on="features", from_moments=True)
@given(problem=problems(), parts=st.integers(2, 5))
def test_merged_moments_score_the_same(name, problem, parts):
    X, y, classes = problem
    order = np.argsort(y, kind="stable")
    given_parts = [SCORE_INPUTS[name](X[i], y[i], classes)[0] for i in np.array_split(order, parts)]
    assert score(name, sum(given_parts)) == pytest.approx(of(name, X, y, classes), rel=1e-9, abs=1e-9)


@scores
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_score_less(name, seed):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(120) % 3)
    X = rng.normal(size=(120, 6)) + 2 * np.eye(3, 6)[y]
    assert of(name, X, y, 3) > of(name, X, rng.permutation(y), 3)


@scores
@pytest.mark.parametrize("seed", range(3))
def test_clearer_features_score_more(name, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(150) % 3
    noise = rng.normal(size=(150, 5))
    values = [of(name, noise + skill * np.eye(3, 5)[y], y, 3) for skill in (0.0, 1.5, 4.0)]
    assert values[0] < values[1] < values[2]


@scores
def test_float32_features_and_wide_ones(name):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 200)).astype(np.float32), np.arange(30) % 5
    assert of(name, X, y, 5) == pytest.approx(of(name, X.astype(float), y, 5), rel=1e-5)


@walk(on="features", classification_only=True)
def test_targets_of_values_are_refused(name):
    rng = np.random.default_rng(0)
    X, values = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    moments, rows = SCORE_INPUTS[name](X, np.arange(20) % 2, 2)
    with pytest.raises(DataError, match="one-hot"):
        score(name, moments and Moments.from_rows(X, values), **({"rows": X, "targets": values} if rows else {}))


@walk(on="features", from_moments=True)
@given(rows=st.integers(0, 5))
def test_one_class_alone_is_refused(name, rows):
    X = np.random.default_rng(0).normal(size=(rows, 3))
    with pytest.raises(NumericsError):
        of(name, X, np.zeros(rows, int), 2)


@scores
def test_what_it_does_not_take_is_refused(name):
    moments, rows = SCORE_INPUTS[name](np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3, 3)
    with pytest.raises(OptionError, match=r"does not take temprature\. It takes"):
        score(name, moments, **rows, temprature=1.0)


@scores
def test_what_it_needs_is_asked_for(name):
    with pytest.raises(HeadstartError, match="needs"):
        score(name, None)


@walk(from_moments=True)
@given(problem=problems())
def test_copies_of_all_rows_are_no_trouble(name, problem):
    """Duplicates with equal labels leave directions without any noise, which would drive a likelihood to infinity."""
    X, y, classes = problem
    doubled = of(name, np.vstack([X, X]), np.concatenate([y, y]), classes)
    assert abs(doubled - of(name, X, y, classes)) < 10
