"""What every runner must satisfy: results in order, few ahead, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import members
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.dataset import Dataset
from headstart.errors import MissingPackage, OptionError
from headstart.extraction import extract
from headstart.runners import RUNNERS
from networks import pictures


def square(x):
    return x * x


def fails_at_five(x):
    if x == 5:
        raise KeyError("five")
    return x


@pytest.fixture(params=members.RUNNERS)
def name(request):
    try:
        RUNNERS[request.param](1)
    except MissingPackage as error:
        pytest.skip(str(error))
    return request.param


@given(count=st.integers(0, 40), workers=st.sampled_from([0, 1, 2, 5]), ahead=st.integers(0, 50))
def test_results_come_in_order(name, count, workers, ahead):
    assert list(RUNNERS[name](workers).map(square, range(count), ahead=ahead)) == [i * i for i in range(count)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_exception_comes_where_its_result_would(name, workers):
    results = RUNNERS[name](workers).map(fails_at_five, range(10), ahead=4)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="five"):
        next(results)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_only_a_few_items_are_taken_ahead(name, workers):
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = RUNNERS[name](workers).map(square, items(), ahead=6)
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + 6 + 1
    results.close()


def test_nothing_runs_on_after_the_last_result_is_not_wanted(name):
    before = threading.active_count()
    results = RUNNERS[name](3).map(square, range(100), ahead=10)
    next(results)
    results.close()
    time.sleep(0.05)
    assert threading.active_count() <= before


def test_an_error_of_the_items_themselves_is_raised(name):
    def items():
        yield 1
        raise ValueError("no more")

    results = RUNNERS[name](2).map(square, items(), ahead=1)
    assert next(results) == 1
    with pytest.raises(ValueError, match="no more"):
        next(results)


@pytest.mark.parametrize("workers", [-1, 1.5, "two", True])
def test_a_number_of_workers_is_a_whole_number(name, workers):
    with pytest.raises(OptionError, match="workers"):
        RUNNERS[name](workers)


def test_features_do_not_depend_on_the_runner(name, tmp_path):
    data = Dataset.from_arrays(pictures(9))
    options = {"layers": "last", "engine": "torch", "precision": "fp32", "batch_size": 4}
    expected = extract("fake:image", data, store=tmp_path / "a", workers=0, **options)
    result = extract("fake:image", data, store=tmp_path / "b", runner=name, workers=2, **options)
    layer = expected.layers[0]
    assert expected.rows(layer, data).tobytes() == result.rows(layer, data).tobytes()
