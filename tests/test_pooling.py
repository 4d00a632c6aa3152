"""Pooling: every name against a plain numpy reference, whatever the axes, the masks and the inputs per item."""

from __future__ import annotations

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import OptionError, UnknownName
from headstart.pooling import NAMES, reducer, resolve, width

PLAIN = ("avg", "max", "avg+max", "avg+std", "gem", "cls", "cls+avg", "segments1", "segments3", "segments7")
SHAPES = {"c": (5,), "tc": (4, 5), "ct": (5, 4), "chw": (5, 2, 3), "hwc": (2, 3, 5)}


def batch(counts=None, mask=None):
    return SimpleNamespace(counts=counts, mask=mask)


def positions(item: np.ndarray, axes: str) -> np.ndarray:
    """One input's output → (positions, channels)."""
    moved = {"chw": lambda a: np.moveaxis(a, 0, -1), "ct": lambda a: a.T, "c": lambda a: a[None]}.get(
        axes, lambda a: a
    )(item)
    return moved.reshape(-1, moved.shape[-1])


def reference(name: str, inputs: list[np.ndarray], keep: list[np.ndarray]) -> np.ndarray:
    """One item: its inputs as (positions, channels), and which positions are real. Plain loops, float64."""
    real = np.concatenate([a[k] for a, k in zip(inputs, keep)]).astype(np.float64)
    channels = inputs[0].shape[1]
    if name.startswith("cls"):
        first = inputs[0][0].astype(np.float64)
        if name == "cls" or len(inputs[0]) == 1:
            return first
        rest = np.concatenate([a[1:][k[1:]] for a, k in zip(inputs, keep)]).astype(np.float64)
        return np.concatenate([first, rest.mean(0) if len(rest) else np.zeros(channels)])
    if len(real) == 0:
        real = np.zeros((1, channels))
        if name == "gem":
            return np.zeros(channels)
    parts = {
        "avg": [real.mean(0)],
        "max": [real.max(0)],
        "avg+max": [real.mean(0), real.max(0)],
        "avg+std": [real.mean(0), real.std(0)],
        "gem": [(np.maximum(real, 1e-6) ** 3).mean(0) ** (1 / 3)],
    }
    if name in parts:
        return np.concatenate(parts[name])
    n = int(name.removeprefix("segments"))
    edges = [math.floor(i * len(real) / n + 0.5) for i in range(n + 1)]
    cuts = [(min(a, len(real) - 1), b) for a, b in pairwise(edges)]
    return np.concatenate([real[a : max(b, a + 1)].mean(0) for a, b in cuts])


def rows(name, axes, output, counts=None, mask=None) -> np.ndarray:
    return reducer(name, axes)(torch.from_numpy(output), batch(counts, mask)).numpy()


# ---- against the reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("name", PLAIN)
def test_every_name_on_every_kind_of_output(name, axes):
    output = np.random.default_rng(0).normal(size=(3, *SHAPES[axes])).astype(np.float32)
    expected = [reference(name, [p := positions(item, axes)], [np.ones(len(p), bool)]) for item in output]
    result = rows(name, axes, output)
    assert result.dtype == np.float32
    assert np.allclose(result, expected, atol=1e-5)


@given(st.data())
@settings(max_examples=150)
def test_every_name_with_masks_and_several_inputs(data):
    name = data.draw(st.sampled_from(PLAIN))
    axes = data.draw(st.sampled_from(["tc", "ct"]))
    counts = data.draw(st.one_of(st.none(), st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    n, length = sum(counts) if counts else data.draw(st.integers(1, 4)), data.draw(st.integers(2, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    tokens = rng.normal(size=(n, length, 3)).astype(np.float32)
    lengths = [data.draw(st.integers(1, length)) for _ in range(n)]
    mask = (np.arange(length)[None] < np.array(lengths)[:, None]).astype(np.int64)
    masked = data.draw(st.booleans())
    keep = mask.astype(bool) if masked else np.ones((n, length), bool)
    starts = np.cumsum([0, *(counts or [1] * n)])
    expected = [reference(name, list(tokens[a:b]), list(keep[a:b])) for a, b in pairwise(starts)]
    output = tokens if axes == "tc" else np.ascontiguousarray(tokens.transpose(0, 2, 1))
    result = rows(name, axes, output, tuple(counts) if counts else None, mask if masked else None)
    assert np.allclose(result, expected, atol=1e-5)


@given(st.data())
def test_padding_never_changes_a_row(data):
    """More padding, other numbers in it, other texts beside it: the row stays."""
    name = data.draw(st.sampled_from(PLAIN))
    length, extra = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    text = rng.normal(size=(length, 3)).astype(np.float32)
    alone = rows(name, "tc", text[None], mask=np.ones((1, length)))[0]
    padded = rng.normal(size=(3, length + extra, 3)).astype(np.float32) * 100
    padded[1, :length] = text
    mask = np.ones((3, length + extra), np.int64)
    mask[1, length:] = 0
    beside = rows(name, "tc", padded, mask=mask)[1]
    assert np.allclose(alone, beside, atol=1e-5)


@given(scale=st.sampled_from([1.0, 1e4]), seed=st.integers(0, 99))
def test_sums_are_made_in_float32_whatever_comes_in(scale, seed):
    output = (np.random.default_rng(seed).normal(size=(2, 8, 5, 5)) + 1).astype(np.float32) * scale
    half = torch.from_numpy(output).bfloat16()
    exact = half.float().numpy()
    for name in ("avg", "max", "avg+max", "avg+std"):
        result = reducer(name, "chw")(half, batch())
        expected = [reference(name, [positions(item, "chw")], [np.ones(25, bool)]) for item in exact]
        assert result.dtype == torch.float32
        assert np.allclose(result.numpy(), expected, rtol=2e-3, atol=1e-3 * scale)


def test_the_fast_way_for_maps_is_the_slow_one():
    output = np.random.default_rng(0).normal(size=(4, 6, 3, 3)).astype(np.float32)
    for name in ("avg", "max", "avg+max"):
        assert np.allclose(rows(name, "chw", output), rows(name, "chw", output, counts=(1,) * 4), atol=1e-6)


# ---- flatten and none -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", SHAPES)
def test_flatten_keeps_every_number_in_its_place(axes):
    output = np.random.default_rng(0).normal(size=(3, *SHAPES[axes])).astype(np.float32)
    assert np.array_equal(rows("flatten", axes, output), output.reshape(3, -1))


def test_flatten_does_not_depend_on_the_memory_format():
    output = torch.randn(2, 3, 4, 5)
    last = output.contiguous(memory_format=torch.channels_last)
    assert last.stride() != output.stride()
    pool = reducer("flatten", "chw")
    assert torch.equal(pool(output, batch()), pool(last, batch()))


@pytest.mark.parametrize("name", ["flatten", "none", *PLAIN])
@pytest.mark.parametrize("axes", SHAPES)
def test_what_is_taken_does_not_change_when_the_output_does(name, axes):
    output = torch.randn(2, *SHAPES[axes])
    result = reducer(name, axes)(output, batch())
    before = result.clone()
    output.zero_()
    assert torch.equal(result, before)


def test_flatten_refuses_what_has_no_fixed_length():
    output = torch.zeros(3, 4, 5)
    with pytest.raises(OptionError, match="one input per item"):
        reducer("flatten", "tc")(output, batch(counts=(1, 2)))
    with pytest.raises(OptionError, match="items of one length"):
        reducer("flatten", "tc")(output, batch(mask=np.ones((3, 4))))
    assert reducer("flatten", "tc")(output, batch(counts=(1, 1, 1))).shape == (3, 20)
    assert reducer("flatten", "c")(torch.zeros(3, 5), batch(mask=np.ones((3, 4)))).shape == (3, 5)


def test_none_gives_what_the_layer_gave():
    output = torch.randn(3, 5, 2, 2)
    assert torch.equal(reducer("none", "chw")(output, batch()), output)


def test_none_gives_real_positions_only():
    output = torch.arange(24.0).view(3, 4, 2)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    result = reducer("none", "tc")(output, batch(mask=mask))
    assert [len(item) for item in result] == [2, 4, 1]
    assert torch.equal(result[0], output[0, :2])
    several = reducer("none", "tc")(output, batch(counts=(2, 1), mask=mask))
    assert torch.equal(several[0], torch.cat([output[0, :2], output[1]]))
    assert torch.equal(several[1], output[2, :1])


def test_none_keeps_an_items_inputs_together():
    output = torch.randn(5, 3, 2, 2)
    result = reducer("none", "chw")(output, batch(counts=(2, 3)))
    assert [tuple(item.shape) for item in result] == [(2, 3, 2, 2), (3, 3, 2, 2)]
    assert torch.equal(result[1], output[2:])


def test_none_is_a_list_for_every_batch_of_texts():
    """Also where the batch happens to need no padding: one table holds one form."""
    for length in (1, 3):
        result = reducer("none", "tc")(torch.zeros(2, length, 5), batch(mask=np.ones((2, length))))
        assert isinstance(result, list)
        assert result[0].shape == (length, 5)


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_shortened_sequences_keep_the_real_fraction():
    """A convolutional front end makes 100 samples 10 positions: the mask is scaled along."""
    output = torch.arange(10.0).view(1, 10, 1).repeat(2, 1, 1)
    mask = np.zeros((2, 100))
    mask[0, :50], mask[1] = 1, 1
    result = reducer("max", "tc")(output, batch(mask=mask))
    assert result.ravel().tolist() == [4, 9]


def test_an_item_without_a_real_position_is_finite():
    mask = np.array([[0, 0], [1, 1]])
    for name in PLAIN:
        result = rows(name, "tc", np.ones((2, 2, 3), np.float32), mask=mask)
        assert np.isfinite(result).all(), name


def test_the_first_input_gives_the_class_token():
    output = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    assert np.array_equal(rows("cls", "tc", output, counts=(2, 3)), output[[0, 2], 0])


@pytest.mark.parametrize("name", ["avg", "max", "avg+max", "avg+std", "gem", "cls+avg", "segments2", "flatten"])
def test_gradients_are_finite_even_where_nothing_varies(name):
    """The root in the standard deviation once turned constant features into NaN."""
    output = torch.ones(2, 4, 3, requires_grad=True)
    reducer(name, "tc")(output, batch()).sum().backward()
    assert torch.isfinite(output.grad).all()


def test_unknown_axes_are_averaged_as_one_position():
    output = torch.randn(2, 2, 3, 4, 5)
    assert torch.equal(reducer("avg", "any")(output, batch()), output.flatten(1))


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shape", "facts", "chosen"),
    [
        ("c", (1280,), {}, "avg"),
        ("chw", (32, 8, 8), {}, "flatten"),
        ("chw", (33, 8, 8), {}, "avg"),
        ("hwc", (4, 4, 128), {}, "flatten"),
        ("chw", (8, -1, 4), {}, "avg"),
        ("chw", (32, 4, 4), {"modality": "audio"}, "avg+max"),
        ("tc", (197, 192), {"class_token": True}, "cls+avg"),
        ("tc", (-1, 384), {"modality": "text"}, "avg"),
        ("ct", (64, 100), {}, "avg"),
        ("any", (2, 3, 4, 5), {}, "avg"),
    ],
)
def test_auto(axes, shape, facts, chosen):
    assert resolve("auto", axes=axes, shape=shape, **facts) == chosen


@pytest.mark.parametrize("name", [*PLAIN, "flatten", "none", "segments99"])
def test_a_name_is_kept(name):
    assert resolve(name, axes="chw", shape=(4, 4, 4)) == name


@pytest.mark.parametrize(
    "name", ["mean", "", "segmentsN", "segments0", "segments100", "segments-1", "AVG", "avg+", "max+avg"]
)
def test_a_name_that_is_not_known(name):
    with pytest.raises(UnknownName, match="poolings"):
        resolve(name, axes="chw", shape=(4, 4, 4))


def test_near_names_are_offered():
    with pytest.raises(UnknownName, match="did you mean 'flatten'"):
        resolve("flaten", axes="c", shape=(3,))


def test_the_list_of_names_is_whole():
    assert {n for n in NAMES if n not in ("auto", "segmentsN")} == {*PLAIN, "flatten", "frames", "none"} - {
        "segments1", "segments3", "segments7",
    }  # fmt: skip


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("name", [*PLAIN, "flatten", "none"])
def test_widths_are_what_comes_out(name, axes):
    if name == "cls+avg" and axes == "c":
        pytest.skip("a vector is its own class token")
    output = np.ones((1, *SHAPES[axes]), np.float32)
    assert width(name, axes=axes, shape=SHAPES[axes]) == rows(name, axes, output).size


# ---- frames ---------------------------------------------------------------------------------------------------------


def in_time(axes, output, **facts):
    result = reducer("frames", axes)(torch.from_numpy(output), SimpleNamespace(counts=None, mask=None, **facts))
    return [item.numpy() for item in result]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(["tc", "ct"]))
def test_frames_of_sequences_are_their_real_positions(lengths, axes):
    rng = np.random.default_rng(0)
    output = rng.normal(size=(len(lengths), 6, 3)).astype(np.float32)
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int64)
    given_ = output if axes == "tc" else np.ascontiguousarray(output.transpose(0, 2, 1))
    result = reducer("frames", axes)(torch.from_numpy(given_), batch(mask=mask))
    assert [item.shape for item in result] == [(n, 3) for n in lengths]
    assert all(np.array_equal(item, values[:n]) for item, values, n in zip(result, output, lengths, strict=True))


def test_frames_without_a_mask_are_everything():
    output = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    assert all(np.array_equal(item, values) for item, values in zip(in_time("tc", output), output, strict=True))


@pytest.mark.parametrize("axes", ["chw", "hwc"])
def test_a_frame_of_a_map_is_one_moment_at_all_frequencies(axes):
    output = np.random.default_rng(2).normal(size=(1, 5, 4, 3)).astype(np.float32)  # c, t, f
    timing = SimpleNamespace(starts=np.array([0]), lengths=np.array([8]), span=8)
    given_ = output if axes == "chw" else np.ascontiguousarray(output.transpose(0, 2, 3, 1))
    (result,) = in_time(axes, given_, timing=timing)
    assert result.shape == (4, 15)
    for t in range(4):
        item = output[0, :, t] if axes == "chw" else output[0, :, t].T
        assert np.array_equal(result[t], item.ravel())


def test_frames_keep_items_apart_and_leave_padding_out():
    output = np.arange(3 * 4, dtype=np.float32).reshape(3, 4, 1)  # item 0: two patches of 4 steps, item 1: one
    timing = SimpleNamespace(starts=np.array([0, 4, 0]), lengths=np.array([6, 3]), span=4)
    result = reducer("frames", "tc")(torch.from_numpy(output), SimpleNamespace(counts=(2, 1), mask=None, timing=timing))
    assert [item[:, 0].tolist() for item in result] == [[0, 1, 2, 3, 4, 5], [8, 9, 10]]


def test_a_vector_per_patch_is_a_frame_per_patch():
    output = np.arange(6, dtype=np.float32).reshape(3, 2)
    timing = SimpleNamespace(starts=np.array([0, 4, 8]), lengths=np.array([12]), span=4)
    result = reducer("frames", "c")(torch.from_numpy(output), SimpleNamespace(counts=(3,), mask=None, timing=timing))
    assert np.array_equal(result[0], output)


@pytest.mark.parametrize("axes", ["c", "chw", "hwc", "any"])
def test_what_has_no_time_has_no_frames(axes):
    with pytest.raises(OptionError, match="no steps in time"):
        reducer("frames", axes)(torch.zeros(2, *SHAPES.get(axes, (3,))), batch())


@pytest.mark.parametrize(
    ("axes", "shape", "wide"), [("chw", (5, 4, 3), 15), ("hwc", (4, 3, 5), 15), ("tc", (-1, 7), 7), ("ct", (7, -1), 7)]
)
def test_widths_of_frames(axes, shape, wide):
    assert width("frames", axes=axes, shape=shape) == wide
