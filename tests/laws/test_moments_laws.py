"""What moments must satisfy however they are kept: any split, any order, any removal, and an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import MOMENTS

from headstart.errors import DataError, NumericsError
from headstart.moments import Moments


def walk(*, exact=None, targets=None):
    """Every way of keeping moments, or those of one kind."""
    chosen = [k for k in MOMENTS if exact in (None, k.exact) and targets in (None, k.targets)]
    assert chosen
    return pytest.mark.parametrize("mode", chosen, ids=repr)


kinds = walk()
FIELDS = ("mean", "scatter", "target_mean", "cross", "target_scatter")


@st.composite
def samples(draw, least: int = 0):
    """A seed, sizes and an offset: what :func:`rows` makes features and targets from."""
    sizes = draw(st.integers(least, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    return draw(st.integers(0, 2**32 - 1)), sizes, draw(st.sampled_from([0.0, 1.0, 1e5]))


def rows(mode, sample):
    """Features (n, d), of which some are constant, and targets; some classes may be missing."""
    seed, (n, d, t), offset = sample
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.choice([0.0, 0.1, 3.0], size=d) + offset * rng.choice([-1, 1], size=d)
    targets = {
        "one-hot": lambda: np.eye(t)[rng.integers(0, t, n)],
        "multi-label": lambda: rng.integers(0, 2, (n, t)).astype(float),
        "values": lambda: rng.normal(size=(n, t)) * 5 + rng.normal(),
        "none": lambda: None,
    }
    return X, targets[mode.targets]()


def take(T, index):
    return None if T is None else T[index]


def moments_of(mode, X, T):
    return Moments.from_rows(X, T, **mode.options)


def pieces(seed: int, n: int) -> list[np.ndarray]:
    """The n rows dealt to a few parts at random; parts may be empty."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    dealt = rng.integers(0, count, n)
    return [np.flatnonzero(dealt == i) for i in range(count)]


def close(a: Moments, b: Moments, scale: Moments, tolerance: float = 1e-10) -> bool:
    """Whether they are the same: to the bit when exact, else to ``tolerance`` of what ``scale`` holds."""
    if a.quantiser is not None:
        return a == b
    assert (a.count, a.one_hot, a.binary) == (b.count, b.one_hot, b.binary)
    spread, target_spread = (
        np.sqrt(scale.scatter.diagonal().max(initial=0)),
        np.sqrt(scale.target_scatter.max(initial=0)),
    )
    floor = 1e-13 * np.abs(scale.mean).max(initial=0) * scale.count  # the rounding of a mean far from zero
    sizes = (spread + floor, spread**2 + floor, target_spread, spread * target_spread + floor, target_spread**2)
    for name, size in zip(FIELDS, sizes, strict=True):
        limit = tolerance * (size + 1) if "mean" in name else tolerance * size + floor * 1e-3
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-10, atol=limit, err_msg=name)
    _fourth_close(a, b, scale)
    if a.classes is not None:
        assert all(close(x, y, scale, tolerance) for x, y in zip(a.classes, b.classes, strict=True))
    return True


def _fourth_close(a: Moments, b: Moments, scale: Moments) -> None:
    assert a.has_fourth == b.has_fourth
    if a.has_fourth and scale.centred.fourth.power > 1e-6:
        first, second, total = a.centred.fourth, b.centred.fourth, scale.centred.fourth
        np.testing.assert_allclose(first.power, second.power, rtol=1e-7, atol=1e-8 * total.power)
        np.testing.assert_allclose(
            first.skew, second.skew, rtol=1e-7, atol=1e-8 * total.power**0.75 * scale.count**0.25
        )


@kinds
@given(sample=samples(), seed=st.integers(0, 99))
def test_any_split_in_any_order_equals_one_pass(mode, sample, seed):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    parts = [moments_of(mode, X[i], take(T, i)) for i in pieces(seed, len(X))]
    order = np.random.default_rng(seed).permutation(len(parts))
    assert close(sum(parts[i] for i in order), total, total)


@kinds
@given(sample=samples(), seed=st.integers(0, 99))
def test_row_order_does_not_matter(mode, sample, seed):
    X, T = rows(mode, sample)
    order = np.random.default_rng(seed).permutation(len(X))
    total = moments_of(mode, X, T)
    assert close(moments_of(mode, X[order], take(T, order)), total, total)


@kinds
@given(sample=samples(), seed=st.integers(0, 99))
def test_merging_is_associative_and_commutative(mode, sample, seed):
    X, T = rows(mode, sample)
    dealt = np.random.default_rng(seed).integers(0, 3, len(X))
    a, b, c = (moments_of(mode, X[dealt == i], take(T, dealt == i)) for i in range(3))
    total = a + b + c
    assert close(a + (b + c), total, total)
    assert close(b + a, a + b, total)


@kinds
@given(sample=samples())
def test_zero_changes_nothing(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    zero = Moments.zero(total.features, total.targets, **mode.options)
    assert zero.count == 0
    assert zero == moments_of(mode, X[:0], take(T, slice(0, 0)))
    assert total + zero == zero + total == total - zero == total
    assert total - total == zero


@kinds
@given(sample=samples(least=1), seed=st.integers(0, 99))
def test_removal_undoes_a_merge_and_a_merge_a_removal(mode, sample, seed):
    X, T = rows(mode, sample)
    out = np.random.default_rng(seed).random(len(X)) < 0.4
    part, rest = moments_of(mode, X[out], take(T, out)), moments_of(mode, X[~out], take(T, ~out))
    total = moments_of(mode, X, T)
    assert close(total - part, rest, total, 1e-9)
    assert close((total - part) + part, total, total, 1e-9)


@walk(targets="one-hot")
@given(sample=samples(least=2))
def test_parts_of_one_class_each_merge(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    merged = sum(moments_of(mode, X[T[:, c] == 1], T[T[:, c] == 1]) for c in range(T.shape[1]))
    assert close(merged, total, total)
    np.testing.assert_array_equal(merged.class_counts, T.sum(axis=0))


@kinds
@given(sample=samples(least=2))
def test_update_is_a_merge(mode, sample):
    X, T = rows(mode, sample)
    half = len(X) // 2
    first = moments_of(mode, X[:half], take(T, slice(0, half)))
    total = moments_of(mode, X, T)
    before, record = first.pack()
    assert close(first.update(X[half:], take(T, slice(half, None))), total, total)
    assert first == Moments.unpack(before, record), "the first is left as it was"


@kinds
@given(sample=samples(least=1))
def test_equal_to_a_pass_in_longer_numbers(mode, sample):
    """The reference is two passes in extended precision over all rows at once."""
    X, T = rows(mode, sample)
    T = np.zeros((len(X), 0)) if T is None else T
    total = moments_of(mode, X, T)
    if mode.exact:  # it counts the quantised rows: those are the reference's
        grid = mode.options["exact"]
        X, T = grid.integers(X) * grid.step, grid.target_integers(T) * grid.target_step
    x, t = X.astype(np.longdouble), T.astype(np.longdouble)
    mean, target_mean = x.mean(axis=0), t.mean(axis=0)
    centered, target_centered = x - mean, t - target_mean
    expected = (
        mean,
        centered.T @ centered,
        target_mean,
        centered.T @ target_centered,
        (target_centered**2).sum(axis=0),
    )
    offset = float(np.abs(X).max())
    for name, value in zip(FIELDS, expected, strict=True):
        size = float(np.abs(value).max(initial=0))
        drift = len(X) * (1e-15 * offset) ** 2 + 1e-15 * offset * 30 * (name == "cross")
        np.testing.assert_allclose(
            getattr(total, name), value.astype(float), rtol=1e-10, atol=1e-10 * size + drift, err_msg=name
        )


@kinds
@given(sample=samples(least=1))
def test_symmetric_float64_and_read_only(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    part = moments_of(mode, X[: len(X) // 2], take(T, slice(0, len(X) // 2)))
    for moments in (total, total + part, total - part):
        np.testing.assert_array_equal(moments.scatter, moments.scatter.T)
        assert (moments.scatter.diagonal() >= 0).all() and (moments.target_scatter >= 0).all()
        for name in FIELDS:
            array = getattr(moments, name)
            assert array.dtype == np.float64
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@kinds
@given(sample=samples(least=1), dtype=st.sampled_from([np.float32, np.float16, ">f4"]))
def test_narrow_rows_are_raised_to_float64_first(mode, sample, dtype):
    X, T = rows(mode, (sample[0], sample[1], min(sample[2], 1.0)))
    narrow = X.astype(dtype)
    before = narrow.copy()
    assert moments_of(mode, narrow, T) == moments_of(mode, narrow.astype(np.float64), T)
    np.testing.assert_array_equal(narrow, before)


@kinds
@given(sample=samples(least=1))
def test_rows_given_are_left_alone_and_layout_does_not_matter(mode, sample):
    X, T = rows(mode, sample)
    before = X.copy()
    total = moments_of(mode, X, T)
    np.testing.assert_array_equal(X, before)
    wide = np.empty((len(X), 2 * X.shape[1]))
    wide[:, ::2] = X
    for other in (np.asfortranarray(X), wide[:, ::2]):
        assert close(moments_of(mode, other, T), total, total)


@kinds
@given(sample=samples())
def test_packing_keeps_every_bit(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    back = Moments.unpack(*total.pack())
    assert back == total and repr(back) == repr(total)


@kinds
def test_saving_keeps_every_bit(mode, tmp_path):
    X, T = rows(mode, (3, (30, 5, 3), 1.0))
    total = moments_of(mode, X, T)
    total.save(tmp_path / "folder" / "m.safetensors")
    assert Moments.load(tmp_path / "folder" / "m.safetensors") == total


@walk(exact=True)
@given(sample=samples(least=1), seed=st.integers(0, 99))
def test_exact_arrays_add_as_they_are(mode, sample, seed):
    """What masked sums rest on: the packed arrays of parts add to those of the whole, bit by bit."""
    X, T = rows(mode, sample)
    packed = [moments_of(mode, X[i], take(T, i)).pack() for i in pieces(seed, len(X))]
    added = {name: sum(arrays[name] for arrays, _ in packed) for name in packed[0][0]}
    assert Moments.unpack(added, packed[0][1]) == moments_of(mode, X, T)


@kinds
@given(sample=samples(least=1))
def test_targets_do_not_touch_the_features(mode, sample):
    X, T = rows(mode, sample)
    options = {name: value for name, value in mode.options.items() if name != "per_class"}
    alone, total = Moments.from_rows(X, None, **options), moments_of(mode, X, T)
    np.testing.assert_array_equal(alone.scatter, total.scatter)
    np.testing.assert_array_equal(alone.mean, total.mean)


@walk(targets="values")
@given(sample=samples(least=2))
def test_values_have_no_classes(mode, sample):
    total = moments_of(mode, *rows(mode, sample))
    for name in ("class_counts", "class_means", "between", "within"):
        with pytest.raises(DataError, match=r"0 and 1|one-hot"):
            getattr(total, name)


@walk(targets="multi-label")
@given(sample=samples(least=2))
def test_labels_that_go_together_have_counts_and_means(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    for c, count in enumerate(T.sum(axis=0)):
        assert total.class_counts[c] == count
        if count:
            np.testing.assert_allclose(total.class_means[c], X[T[:, c] == 1].mean(axis=0), rtol=1e-12, atol=1e-9)


@walk(targets="one-hot")
@given(sample=samples(least=2))
def test_classes_between_and_within(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    if mode.exact:
        X = mode.options["exact"].integers(X) * mode.options["exact"].step
    size = total.scatter.max() + 1e-12 * np.abs(total.mean).max()
    np.testing.assert_allclose(total.between + total.within, total.scatter, atol=1e-9 * size)
    within = np.zeros_like(total.scatter)
    for c, count in enumerate(T.sum(axis=0)):
        assert total.class_counts[c] == count
        members = X[T[:, c] == 1]
        if len(members):
            np.testing.assert_allclose(total.class_means[c], members.mean(axis=0), rtol=1e-12, atol=1e-9)
            within += (members - members.mean(axis=0)).T @ (members - members.mean(axis=0))
        else:
            assert np.isnan(total.class_means[c]).all()
    np.testing.assert_allclose(total.within, within, atol=1e-9 * size)


@kinds
@given(sample=samples(least=2))
def test_what_was_never_merged_cannot_be_removed(mode, sample):
    X, T = rows(mode, sample)
    total = moments_of(mode, X, T)
    with pytest.raises(NumericsError, match="only what was merged"):
        moments_of(mode, X[:-1], take(T, slice(0, -1))) - total


@kinds
@given(sample=samples(least=3), bad=st.sampled_from([np.nan, np.inf, -np.inf]), share=st.integers(1, 3))
def test_rows_that_are_not_finite_are_counted(mode, sample, bad, share):
    X, T = rows(mode, sample)
    X[:share, -1] = bad
    with pytest.raises(NumericsError, match=f"{share} of {len(X)} rows of features and 0 of targets"):
        moments_of(mode, X, T)
