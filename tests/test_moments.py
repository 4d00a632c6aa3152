"""Moments: what is special to them. The laws of merging and removal are in ``laws/test_moments_laws.py``."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf, oas
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from headstart.errors import DataError, NumericsError, OptionError, StoreError
from headstart.moments import Centred, Moments, Quantiser, centred, storage


def sample(n=60, d=5, t=3, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, t, n)
    return rng.normal(size=(n, d)) + y[:, None] * 0.5 + offset, np.eye(t)[y]


# ---- accuracy ------------------------------------------------------------------------------------------------------


def test_the_naive_way_is_wrong_and_this_is_not():
    """Raw float32 sums at an offset of 10⁴ lose everything; these moments of the same float32 rows lose nothing."""
    X = (np.random.default_rng(0).normal(size=(4000, 8)) + 1e4).astype(np.float32)
    centered = X.astype(np.longdouble) - X.astype(np.longdouble).mean(axis=0)
    true = (centered.T @ centered).astype(float)
    naive = X.T @ X - len(X) * np.outer(X.mean(axis=0), X.mean(axis=0))
    assert np.abs(naive - true).max() > true.max()
    assert np.abs(Moments.from_rows(X).scatter - true).max() < 1e-13 * true.max()


def test_the_mean_is_good_to_the_last_bit():
    """One pass of additions at an offset of 10⁵ is off by many last bits, and a merge would square that."""
    X = np.random.default_rng(0).normal(size=(4000, 8)) + 1e5
    true = np.array([math.fsum(column) / len(X) for column in X.T])
    assert np.abs(X.mean(axis=0) - true).max() > 2 * np.spacing(1e5)
    assert np.abs(Moments.from_rows(X).mean - true).max() <= np.spacing(1e5)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_sorted_parts_at_an_offset_merge_and_part(offset):
    """Eleven parts sorted by class, merged, one removed, most removed: within 1e-10 of one pass."""
    X, T = sample(3000, 64, 7, offset=offset)
    order = np.argsort(T.argmax(axis=1), kind="stable")
    parts = [Moments.from_rows(X[i], T[i]) for i in np.array_split(order, 11)]
    total = Moments.from_rows(X, T)
    size = total.scatter.max()
    merged = sum(parts)
    assert np.abs(merged.scatter - total.scatter).max() < 1e-10 * size
    again = merged - parts[3] + parts[3]
    assert np.abs(again.scatter - total.scatter).max() < 1e-10 * size
    left = merged
    for part in parts[:9]:
        left = left - part
    direct = parts[9] + parts[10]
    assert np.abs(left.scatter - direct.scatter).max() < 1e-10 * size
    assert np.abs(left.cross - direct.cross).max() < 1e-10 * size


def test_many_blocks_equal_one(monkeypatch):
    X, T = sample(1000, 5, 3, offset=1e5)
    for options in ({}, {"per_class": True, "fourth": True}):
        total = Moments.from_rows(X, T, **options)
        with monkeypatch.context() as patch:
            patch.setattr(centred, "_BLOCK_BYTES", 1)
            blocked = Moments.from_rows(X, T, **options)
        assert blocked != total, "64 rows at a time round otherwise"
        assert np.abs(blocked.scatter - total.scatter).max() < 1e-11 * total.scatter.max()
        assert (blocked.count, blocked.one_hot) == (1000, 1000)


def test_a_large_float32_array_is_never_copied_whole():
    X = np.ones((200_000, 64), dtype=np.float32)
    tracemalloc.start()
    Moments.from_rows(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes * 1.6, f"{peak / X.nbytes:.2f} of the rows; a float64 copy of them would be 2"


def test_memory_mapped_rows(tmp_path):
    X, T = sample()
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert Moments.from_rows(mapped, T) == Moments.from_rows(X.astype(np.float32), T)


# ---- exact mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 12, 14])
def test_exact_moments_of_real_features_in_any_order(bits):
    digits = load_digits()
    X, T = digits.data, np.eye(10)[digits.target]
    grid = Quantiser.covering(X, bits=bits)
    total = Moments.from_rows(X, T, exact=grid)
    rng = np.random.default_rng(bits)
    for _ in range(3):
        parts = [Moments.from_rows(X[i], T[i], exact=grid) for i in np.array_split(rng.permutation(len(X)), 9)]
        merged = parts[0] + (parts[8] + parts[1]) + sum(parts[2:8])
        assert merged == total
        assert merged.scatter.tobytes() == total.scatter.tobytes()
        assert merged - parts[4] == sum(parts[:4]) + sum(parts[5:])


def test_threads_and_layout_do_not_change_a_bit_of_exact_moments():
    code = (
        "import hashlib, numpy as np; from headstart.moments import Moments, Quantiser\n"
        "X = np.random.default_rng(0).normal(size=(3000, 65)).astype(np.float32)\n"
        "m = Moments.from_rows(X, exact=Quantiser(8.0))\n"
        "print(hashlib.sha256(m.scatter.tobytes() + m.mean.tobytes()).hexdigest())"
    )
    result = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(result) == 1


@given(seed=st.integers(0, 999), bits=st.integers(6, 14), offset=st.sampled_from([0.0, 3.0, 7.5]))
def test_exact_moments_are_those_of_the_rounded_rows(seed, bits, offset):
    """Even where the offset takes up most of the bits: the products are centred before they are rounded."""
    rng = np.random.default_rng(seed)
    X, T = rng.normal(size=(50, 4)) * 0.1 + offset, np.eye(3)[rng.integers(0, 3, 50)]
    grid = Quantiser(scale=8.5, bits=bits)
    total, z = Moments.from_rows(X, T, exact=grid), grid.integers(X).astype(np.longdouble)
    centered = (z - z.mean(axis=0)) * grid.step
    expected = (centered.T @ centered).astype(float)
    np.testing.assert_allclose(total.scatter, expected, rtol=1e-12, atol=1e-14 * expected.max(initial=0))
    np.testing.assert_allclose(total.mean, (z.mean(axis=0) * grid.step).astype(float), rtol=1e-14)
    np.testing.assert_allclose(total.mean, X.mean(axis=0), atol=0.51 * grid.step)


def test_quantised_features_are_close_to_the_features():
    X, T = sample(2000, 16, 4)
    plain, exact = Moments.from_rows(X, T), Moments.from_rows(X, T, exact=Quantiser.covering(X, bits=12))
    assert np.abs(plain.scatter - exact.scatter).max() < 1e-4 * plain.scatter.max()
    np.testing.assert_array_equal(plain.class_counts, exact.class_counts)


def test_too_many_rows_to_be_exact_are_refused():
    grid = Quantiser(1.0, bits=14)
    assert grid.most_rows * 4**14 < 2**53 <= (grid.most_rows + 1) * 4**14
    first = Moments.from_rows(np.ones((1, 1)), exact=grid)
    for _ in range(24):
        first = first + first  # 16,777,216 rows
    assert first.count == 2**24 and first.scatter[0, 0] == 0 and first.mean[0] == 1
    with pytest.raises(NumericsError, match=r"33,554,432 rows of 14 bits .* 33,554,431"):
        first + first


def test_values_beyond_the_grid_are_refused_or_cut():
    X = np.array([[0.5, -3.0], [1.0, 0.25], [2.5, 0.0]])
    with pytest.raises(NumericsError, match=r"2 of 6 features .* 1 \(the largest is about 3\)"):
        Moments.from_rows(X, exact=Quantiser(1.0))
    cut = Moments.from_rows(X, exact=Quantiser(1.0, saturate=True))
    np.testing.assert_allclose(cut.mean, np.clip(X, -1, 1).mean(axis=0), atol=1e-4)


def test_exact_targets_must_be_whole_or_have_a_scale():
    X, T = np.ones((4, 1)), np.array([[0.5], [1.5], [2.0], [-2.0]])
    with pytest.raises(NumericsError, match="target_scale"):
        Moments.from_rows(X, T, exact=Quantiser(1.0))
    assert Moments.from_rows(X, T, exact=Quantiser(1.0, target_scale=4.0)).target_mean == pytest.approx(0.5, abs=1e-3)
    assert Moments.from_rows(X, np.rint(T), exact=Quantiser(1.0)).target_mean == np.rint(T).mean()


@pytest.mark.parametrize("bad", [{"scale": 0.0}, {"scale": -1.0}, {"scale": np.inf}, {"scale": 1.0, "bits": 15}])
def test_grids_that_cannot_be(bad):
    with pytest.raises(OptionError, match="must be"):
        Moments.from_rows(np.zeros((2, 2)), exact=Quantiser(**bad))


def test_a_grid_that_covers():
    X = np.array([[0.25, -7.0], [3.0, 1.0]], dtype=np.float32)
    assert Quantiser.covering(X) == Quantiser(7.0, 14)
    assert Quantiser.covering(X, bits=8, targets=np.array([[2.0]])) == Quantiser(7.0, 8, 2.0)
    assert Quantiser.covering(np.zeros((3, 2))).scale == 1.0
    assert Moments.from_rows(X, exact=Quantiser.covering(X)).count == 2


def test_parts_of_other_grids_do_not_merge():
    X = np.ones((2, 2))
    with pytest.raises(DataError, match="quantiser"):
        Moments.from_rows(X, exact=Quantiser(1.0)) + Moments.from_rows(X, exact=Quantiser(2.0))
    with pytest.raises(DataError, match="quantiser"):
        Moments.from_rows(X, exact=Quantiser(1.0)) + Moments.from_rows(X)
    with pytest.raises(OptionError, match="do not go together"):
        Moments.from_rows(X, exact=Quantiser(1.0), fourth=True)


# ---- derived quantities --------------------------------------------------------------------------------------------


def test_covariance_is_numpys():
    X, T = sample(40, 6, 3, offset=1e3)
    np.testing.assert_allclose(Moments.from_rows(X, T).covariance, np.cov(X.T), rtol=1e-9, atol=1e-12)
    with pytest.raises(NumericsError, match="two rows"):
        Moments.from_rows(X[:1], T[:1]).covariance


def _one_part(X, T):
    return Moments.from_rows(X, T, fourth=True, per_class=True)


def _merged(X, T):
    thirds = np.array_split(np.argsort(T.argmax(axis=1), kind="stable"), 3)
    return sum(_one_part(X[i], T[i]) for i in thirds)


def _left_over(X, T):
    more, labels = sample(30, X.shape[1], T.shape[1], seed=9)
    return _one_part(np.vstack([X, more]), np.vstack([T, labels])) - _one_part(more, labels)


@pytest.mark.parametrize("method", [_one_part, _merged, _left_over])
@pytest.mark.parametrize(("n", "d"), [(60, 5), (12, 30), (200, 3)])
def test_shrinkage_is_scikit_learns(method, n, d):
    X, T = sample(n, d, 3, seed=n)
    moments = method(X, T)
    within = X - (T @ np.linalg.pinv(T)) @ X  # about the class means
    for ours, theirs in (
        (moments.oas(), oas(X)),
        (moments.ledoit_wolf(), ledoit_wolf(X)),
        (moments.oas(within=True), oas(within, assume_centered=True)),
        (moments.ledoit_wolf(within=True), ledoit_wolf(within, assume_centered=True)),
    ):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-9, atol=1e-10)
        assert ours[1] == pytest.approx(theirs[1], rel=1e-9)


@given(seed=st.integers(0, 999), offset=st.sampled_from([0.0, 1e3, 1e5]))
def test_shrinkage_survives_an_offset(seed, offset):
    X, T = sample(50, 4, 3, seed=seed)
    shifted = _merged(X + offset, T)
    assert shifted.ledoit_wolf()[1] == pytest.approx(ledoit_wolf(X)[1], rel=1e-6)
    assert shifted.oas()[1] == pytest.approx(oas(X)[1], rel=1e-6)


def test_shrinkage_asks_for_what_it_needs():
    X, T = sample()
    with pytest.raises(OptionError, match="fourth=True; oas"):
        Moments.from_rows(X, T).ledoit_wolf()
    with pytest.raises(OptionError, match="per_class"):
        Moments.from_rows(X, T, fourth=True).ledoit_wolf(within=True)
    with pytest.raises(NumericsError, match="needs rows"):
        Moments.zero(3, 2).oas()
    constant = Moments.from_rows(np.ones((5, 3)), fourth=True)
    assert constant.oas()[1] == 1.0 and constant.ledoit_wolf()[1] == 0.0


@given(seed=st.integers(0, 999))
def test_class_weights_are_row_weights(seed):
    """Ridge on the reweighted arrays equals scikit-learn's ridge with sample_weight; an absent class is no trouble."""
    X, T = sample(40, 4, 3, seed=seed, offset=5.0)
    T = np.hstack([T, np.zeros((40, 1))])
    weights = np.random.default_rng(seed).uniform(0.1, 5, 4)
    w = Moments.from_rows(X, T, per_class=True).weighted(weights)
    assert isinstance(w, Centred)
    theirs = Ridge(alpha=0.7).fit(X, T, sample_weight=T @ weights)
    coef = np.linalg.solve(w.scatter + 0.7 * np.eye(4), w.cross)
    np.testing.assert_allclose(coef, theirs.coef_.T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(w.target_mean - w.mean @ coef, theirs.intercept_, rtol=1e-8, atol=1e-9)
    assert w.count == pytest.approx(float((T @ weights).sum()))
    target_scatter = ((T @ weights)[:, None] * (T - w.target_mean) ** 2).sum(axis=0)
    np.testing.assert_allclose(w.target_scatter, target_scatter, rtol=1e-9, atol=1e-12)


def test_weights_of_one_change_nothing():
    X, T = sample(50, 4, 3)
    moments = Moments.from_rows(X, T, per_class=True)
    w = moments.weighted(np.ones(3))
    for name in ("mean", "scatter", "target_mean", "cross", "target_scatter"):
        np.testing.assert_allclose(getattr(w, name), getattr(moments, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [1.0, np.nan, 1.0]])
def test_weights_that_cannot_be(weights):
    X, T = sample()
    with pytest.raises(OptionError, match="3 numbers"):
        Moments.from_rows(X, T, per_class=True).weighted(np.array(weights))
    with pytest.raises(OptionError, match="per_class=True"):
        Moments.from_rows(X, T).weighted(np.ones(3))


def test_the_spectrum_is_the_range():
    X, T = sample(12, 30, 3)
    moments = Moments.from_rows(X, T)
    values, vectors = moments.spectrum
    assert values.shape == (11,) and (np.diff(values) >= 0).all()
    np.testing.assert_allclose((vectors * values) @ vectors.T, moments.scatter, atol=1e-10 * values[-1])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(11), atol=1e-12)
    assert moments.spectrum is moments.spectrum, "computed once"
    assert Moments.from_rows(np.ones((5, 3))).spectrum[0].shape == (0,)
    assert Moments.zero(3).spectrum[0].shape == (0,)
    assert len(Moments.from_rows(X[[0, 1, 1, 0]], T[:4]).spectrum[0]) == 1, "rows that repeat add no direction"


@pytest.mark.parametrize("options", [{}, {"per_class": True}, {"exact": Quantiser(9.0)}])
@pytest.mark.parametrize("columns", [slice(1, 4), [0, 3], np.array([True, False, False, True, True])])
def test_some_of_the_features(options, columns):
    X, T = sample()
    selected, direct = (
        Moments.from_rows(X, T, **options).select(columns),
        Moments.from_rows(X[:, columns], T, **options),
    )
    assert selected.count == direct.count and selected.features == direct.features
    np.testing.assert_allclose(selected.scatter, direct.scatter, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(selected.cross, direct.cross, rtol=1e-12, atol=1e-12)
    assert (selected + direct).count == 120
    with pytest.raises(OptionError, match="fourth"):
        Moments.from_rows(X, T, fourth=True).select(columns)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "T", "message"),
    [
        (np.zeros(3), None, r"X must be \(n, d\)"),
        (np.zeros((3, 2, 2)), None, r"got shape \(3, 2, 2\)"),
        (np.zeros((3, 2)), np.zeros(3), "np.eye"),
        (np.zeros((3, 2)), np.zeros((4, 1)), "3 rows and T 4"),
        (np.zeros((3, 2)), np.array([["a"], ["b"], ["c"]]), "dtype <U1"),
        (np.zeros((3, 2), dtype=complex), None, "complex128"),
        (5.0, None, r"shape \(\)"),
    ],
)
def test_shapes_and_kinds_that_do_not_fit(X, T, message):
    with pytest.raises(DataError, match=message):
        Moments.from_rows(X, T)


def test_every_problem_is_named():
    with pytest.raises(DataError) as caught:
        Moments.from_rows(np.zeros(3), np.zeros((3, 1), dtype=complex))
    assert "X must be" in str(caught.value) and "complex" in str(caught.value)


def test_bad_rows_are_counted_over_all_blocks(monkeypatch):
    monkeypatch.setattr(centred, "_BLOCK_BYTES", 1)
    X, T = sample(1000)
    X[[3, 700, 999], [0, 2, 4]] = np.nan, np.inf, -np.inf
    T[[5, 999]] = np.nan
    with pytest.raises(NumericsError, match="3 of 1,000 rows of features and 2 of targets"):
        Moments.from_rows(X, T)


def test_infinities_that_cancel_are_seen():
    with pytest.raises(NumericsError, match="1 of 2 rows"):
        Moments.from_rows(np.array([[np.inf, -np.inf], [0.0, 0.0]]))


def test_numbers_too_large_to_square():
    with pytest.raises(NumericsError, match="beyond float64"):
        Moments.from_rows(np.array([[1e200], [-1e200]]))
    with pytest.raises(NumericsError, match="beyond float64"):
        Moments.from_rows(np.full((3, 1), 1e308) * [[1], [1], [-1]])
    assert Moments.from_rows(np.array([[1e150], [-1e150]])).scatter[0, 0] == pytest.approx(2e300)


def test_per_class_needs_classes():
    X, T = sample()
    for targets in (T * 2, np.ones_like(T), T[:, :1]):
        with pytest.raises(DataError, match="one-hot"):
            Moments.from_rows(X, targets, per_class=True)


def test_moments_that_do_not_fit_together():
    X, T = sample()
    first = Moments.from_rows(X, T)
    with pytest.raises(DataError, match="features: 5 and 4; targets: 3 and 0"):
        first + Moments.from_rows(X[:, :4])
    with pytest.raises(DataError, match="per_class: False and True"):
        first - Moments.from_rows(X, T, per_class=True)
    with pytest.raises(DataError, match="fourth"):
        first + Moments.from_rows(X, T, fourth=True)
    for wrong in (1, None, X):
        with pytest.raises(TypeError):
            first + wrong
        with pytest.raises(TypeError):
            first - wrong
    assert first != 3 and first.__eq__(3) is NotImplemented


def test_rows_that_were_never_there_cannot_be_removed():
    X, T = sample(60, 3, 3)
    total = Moments.from_rows(X, T)
    with pytest.raises(NumericsError, match="class with fewer than no rows"):
        total - Moments.from_rows(X[:40], np.eye(3)[np.zeros(40, int)])
    with pytest.raises(NumericsError, match="negative variance"):
        total - Moments.from_rows(X[:30] * 100, T[:30])
    with pytest.raises(NumericsError, match="class with fewer"):
        Moments.from_rows(X, T * 0.5) - Moments.from_rows(X[:3], T[:3])
    grid = Quantiser(500.0)
    with pytest.raises(NumericsError, match="negative sum of squares"):
        Moments.from_rows(X, exact=grid) - Moments.from_rows(X[:30] * 100, exact=grid)


def test_kinds_of_targets_are_told_apart():
    X, T = sample(10, 2, 3)
    hot, multilabel, values = (Moments.from_rows(X, t) for t in (T, np.ones((10, 3)), T * 0.5))
    assert hot.is_one_hot and hot.is_binary
    assert multilabel.is_binary and not multilabel.is_one_hot
    assert not values.is_binary
    assert not (hot + values).is_binary
    assert (hot + values - values).is_one_hot, "removal gives the kind back"
    with pytest.raises(DataError, match="one-hot"):
        multilabel.within


def test_moments_are_frozen_and_show_themselves():
    X, T = sample()
    moments = Moments.from_rows(X, T)
    with pytest.raises(AttributeError):
        moments.one_hot = 3
    with pytest.raises(TypeError):
        hash(moments)
    assert repr(moments) == "Moments(count=60, features=5, targets=3)"
    assert repr(Moments.from_rows(X, exact=Quantiser(9.0, 12))).endswith("exact in 12 bits)")
    assert (moments.count, moments.features, moments.targets) == (60, 5, 3)


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    X, T = sample()
    moments = Moments.from_rows(X, T, per_class=True, fourth=True)
    moments.save(tmp_path / "m.safetensors")
    return moments, tmp_path / "m.safetensors"


def test_a_file_holds_the_triangle_only(tmp_path):
    Moments.from_rows(np.random.default_rng(0).normal(size=(600, 512))).save(tmp_path / "m")
    assert (tmp_path / "m").stat().st_size < 1.02 * (4 * 512 * 513) + 20_000


def test_every_cut_of_a_file_is_refused(saved):
    _, path = saved
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 8, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="damaged"):
            Moments.load(path)
    path.write_bytes(content + b"\0" * 8)
    with pytest.raises(StoreError):
        Moments.load(path)


@settings(max_examples=150)
@given(where=st.floats(0, 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused_or_harmless(tmp_path_factory, where, bit):
    """The header may hold bits that mean nothing (spaces); everything that is loaded is what was saved."""
    folder = tmp_path_factory.mktemp("flip")
    X, T = sample(20, 3, 2)
    moments = Moments.from_rows(X, T, exact=Quantiser(9.0))
    moments.save(folder / "m")
    content = bytearray((folder / "m").read_bytes())
    content[int(where * (len(content) - 1))] ^= 1 << bit
    (folder / "m").write_bytes(content)
    try:
        assert Moments.load(folder / "m") == moments
    except StoreError as error:
        assert str(folder / "m") in str(error)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not moments",
        pickle.dumps(Bomb()),
        b"PK\x03\x04" + bytes(100),
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 70) + json.dumps({"a": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 8]}}).encode(),
        b"\xff" * 64,
    ],
)
def test_files_of_something_else_are_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        Moments.load(tmp_path / "m")
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(StoreError, match="no file"):
        Moments.load(tmp_path / "m")
    with pytest.raises(StoreError, match="no file"):
        Moments.load(str(tmp_path))


def _changed(name, value):
    def change(arrays, record):
        arrays[name] = value(arrays[name]) if callable(value) else value

    return change


def _recorded(**values):
    return lambda arrays, record: record.update(values)


HOSTILE = {
    "not finite": _changed("mean", lambda a: a * np.nan),
    "another shape": _changed("mean", lambda a: a[:-1]),
    "another dtype": _changed("cross", lambda a: a.astype(np.float32)),
    "negative squares": _changed("scatter", lambda a: -a),
    "negative target squares": _changed("target_scatter", lambda a: -1 - a),
    "negative fourth power": _changed("power", lambda a: -a),
    "skew of another shape": _changed("skew", lambda a: np.zeros(2)),
    "negative count": _changed("counts", np.array([-1, -1, -1])),
    "more one-hot than rows": _changed("counts", np.array([60, 61, 61])),
    "counts of floats": _changed("counts", lambda a: a.astype(float)),
    "sums of no rows": _changed("counts", np.array([0, 0, 0])),
    "fewer rows": _changed("counts", np.array([59, 59, 59])),
    "counts of classes in parts": _changed("target_mean", lambda a: a + np.array([0.004, -0.004, 0])),
    "a class too small": _changed("class1.counts", np.array([1, 1, 1])),
    "an array too many": _changed("extra", np.zeros(1)),
    "an array missing": lambda arrays, record: arrays.pop("mean"),
    "no features": lambda arrays, record: record.pop("features"),
    "features of text": _recorded(features="5"),
    "features of a bool": _recorded(features=True),
    "features beyond all": _recorded(features=2**60),
    "more features": _recorded(features=6),
    "more classes": _recorded(classes=4, targets=4),
    "classes beyond all": _recorded(classes=2**26, targets=2**26),
    "exact after all": _recorded(exact={"scale": 1.0, "bits": 14, "target_scale": None, "saturate": False}),
    "a grid of nonsense": _recorded(exact={"scale": "x"}),
    "a grid of unknown words": _recorded(exact={"path": "/etc/passwd"}),
    "a grid that is a list": _recorded(exact=[1, 2]),
    "fourth missing": _recorded(fourth=False),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_arrays_that_contradict_themselves_are_refused(saved, change, tmp_path):
    moments, _ = saved
    arrays, record = moments.pack()
    change(arrays, record)
    with pytest.raises(StoreError, match="not the arrays of moments"):
        Moments.unpack(arrays, record)
    storage.write(tmp_path / "hostile", arrays, record)  # with a checksum that fits
    with pytest.raises(StoreError, match="hostile is damaged"):
        Moments.load(tmp_path / "hostile")


@pytest.mark.parametrize(
    "change",
    [
        _changed("gram", lambda a: a + 0.5),
        _changed("counts", np.array([2**40, 0, 0])),
        _recorded(exact={"scale": float("inf"), "bits": 14, "target_scale": None, "saturate": False}),
        _recorded(exact={"scale": 1.0, "bits": 40, "target_scale": None, "saturate": False}),
    ],
)
def test_exact_arrays_that_are_not_exact_are_refused(change):
    arrays, record = Moments.from_rows(np.eye(3), exact=Quantiser(1.0)).pack()
    change(arrays, record)
    with pytest.raises(StoreError):
        Moments.unpack(arrays, record)


def test_files_of_another_version_say_so(saved, monkeypatch):
    moments, path = saved
    with monkeypatch.context() as patch:
        patch.setattr(storage, "VERSION", 99)
        moments.save(path)
    with pytest.raises(StoreError, match="another version"):
        Moments.load(path)


def test_a_file_is_there_whole_or_not_at_all(saved, monkeypatch):
    """A failure while writing leaves the old file and no other."""
    moments, path = saved

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", broken)
    with pytest.raises(StoreError, match="No space left"):
        Moments.from_rows(np.eye(3)).save(path)
    assert Moments.load(path) == moments
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_merge_beyond_float64_is_told_where_it_is_needed():
    first, other = (Moments.from_rows(np.array([[0.0, 1.0], [end, 3.0]])) for end in (1.2e154, -1.2e154))
    with np.errstate(over="ignore", invalid="ignore"):
        total = first + other
    with pytest.raises(NumericsError, match="Rescale"):
        _ = total.spectrum
