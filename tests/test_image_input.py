"""Preprocessing of pictures: the same pixels as timm's own transform, and what else may be given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.extraction import extract
from headstart.readers import reader
from headstart.sources import load_source
from headstart.sources.inputs.array import ArrayInput, stacked
from headstart.sources.inputs.image import ImageInput

SIZES = [(512, 384), (384, 512), (300, 1000), (100, 100), (224, 224), (257, 641), (40, 30), (17, 500)]


def photo(width: int, height: int) -> np.ndarray:
    """Smooth shapes, edges and some noise: like a photo to a resampling filter."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = np.stack([np.sin(23 * x + 5 * y), np.cos(31 * y * x), np.sign(np.sin(40 * (x - y)))], -1)
    noise = np.random.default_rng(width * height).normal(0, 0.1, waves.shape)
    return np.clip(127.5 + 90 * (waves + noise), 0, 255).astype(np.uint8)


def timm_pixels(pixels: np.ndarray, image_input: ImageInput) -> np.ndarray:
    """What timm's evaluation transform makes of it, as grey levels (c, h, w)."""
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, *image_input.size), is_training=False, mean=image_input.mean, std=image_input.std,
        crop_pct=image_input.crop_pct,
        crop_mode=image_input.crop_mode, interpolation=image_input.interpolation,
    )  # fmt: skip
    normed = transform(Image.fromarray(pixels)).numpy()
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (image_input.mean, image_input.std))
    return (normed * std + mean) * 255


# ---- parity with timm -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(160, 160), (96, 128), (65, 33)])
def test_pixels_are_timms_within_two_grey_levels(interpolation, crop_mode, size):
    pytest.importorskip("timm")
    for crop_pct in (0.875, 1.0, 0.9):
        image_input = ImageInput(size=size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
        for width, height in SIZES:
            pixels = photo(width, height)
            expected = timm_pixels(pixels, image_input)
            result = image_input.prepare(pixels).astype(np.float32)
            assert result.shape == expected.shape
            off = np.abs(result - expected)
            assert off.max() <= (8.01 if interpolation == "bicubic" else 2.01), (width, height, crop_pct)
            assert (off > 1.01).mean() < 1e-4  # a pixel here and there


def test_normalisation_is_timms(tmp_path):
    timm_data = pytest.importorskip("timm.data")
    image_input = ImageInput(size=(64, 64), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    transform = timm_data.create_transform(input_size=(3, 64, 64), mean=image_input.mean, std=image_input.std)
    pixels = photo(90, 80)
    result = image_input.tensors(
        image_input.collate([image_input.prepare(pixels)]), torch.device("cpu"), torch.float32
    )["x"][0]
    expected = transform(Image.fromarray(pixels))
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() <= 2.01 / 255 / 0.2


def test_real_photos_give_timms_features(shared, tmp_path):
    """The whole way: our reader, resizing and forward pass against Pillow, timm's transform and the plain network."""
    timm = pytest.importorskip("timm")
    folder = shared / "weights" / "mobilenetv2_100.imagenet"
    source = load_source(f"timm:{folder}")
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    photos, hands = (sorted(shared.glob(f"images/{name}/*/*.*")) for name in ("trashnet", "sign_digits"))
    paths = [*photos[::150], *hands[:2]]
    data = Dataset.from_items(paths)
    rows = extract(source, data, layers="global_pool", store=tmp_path, engine="torch", precision="fp32", batch_size=4)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=plain))
    image_input = source.input
    with torch.no_grad():
        for path, row in zip(paths, rows.rows("global_pool", data)):
            image = Image.open(path).convert("RGB")
            pixels = image_input.prepare(reader("image", **image_input.reader_options()).read(path)).astype(np.float32)
            assert np.abs(pixels - timm_pixels(np.asarray(image), image_input)).max() <= 2.01
            expected = plain.forward_head(plain.forward_features(transform(image)[None]), pre_logits=True)[0].numpy()
            cosine = float(row @ expected / np.linalg.norm(row) / np.linalg.norm(expected))
            assert cosine > 0.999


def test_large_photos_decoded_at_reduced_scale_stay_close(tmp_path):
    """A reduced decode may differ by more than rounding, but stays the same picture."""
    pixels = np.asarray(Image.fromarray(photo(640, 480)).resize((2560, 1920), Image.Resampling.BICUBIC))
    path = tmp_path / "large.jpg"
    Image.fromarray(pixels).save(path, quality=92)
    image_input = ImageInput(size=(160, 160))
    small = reader("image", **image_input.reader_options()).read(path)
    assert small.shape[0] < 1920
    assert min(small.shape[:2]) >= 182
    result = image_input.prepare(small).astype(float)
    expected = timm_pixels(np.asarray(Image.open(path)), image_input) if pytest.importorskip("timm") else result
    assert np.abs(result - expected).mean() < 2
    assert np.corrcoef(result.ravel(), expected.ravel())[0, 1] > 0.999


# ---- shapes and channels --------------------------------------------------------------------------------------------


@given(
    width=st.integers(1, 90), height=st.integers(1, 90), crop=st.sampled_from(["center", "squash", "border"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), pct=st.sampled_from([0.7, 0.875, 1.0]),
    last=st.booleans(), channels=st.sampled_from([1, 3]), given_channels=st.sampled_from([0, 1, 3]),
)  # fmt: skip
def test_any_picture_comes_out_in_the_shape_asked_for(width, height, crop, size, pct, last, channels, given_channels):
    rng = np.random.default_rng(width)
    shape = (height, width, given_channels) if given_channels else (height, width)
    mean = (0.5,) * channels
    image_input = ImageInput(
        size=size, channels=channels, mean=mean, std=mean, crop_pct=pct, crop_mode=crop, channels_last=last
    )
    out = image_input.prepare(rng.integers(0, 256, shape, dtype=np.uint8))
    assert out.dtype == np.uint8
    assert out.shape == ((*size, channels) if last else (channels, *size))
    assert out.flags.c_contiguous


@given(level=st.integers(0, 255), interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]))
def test_a_flat_picture_stays_flat(level, interpolation):
    image_input = ImageInput(size=(12, 12), interpolation=interpolation)
    assert (image_input.prepare(np.full((31, 47, 3), level, np.uint8)) == level).all()


def test_colours_become_grey_as_pillow_does_it():
    pixels = photo(40, 30)
    image_input = ImageInput(size=(30, 40), channels=1, mean=(0.5,), std=(0.5,), crop_pct=1.0)
    expected = np.asarray(Image.fromarray(pixels).convert("L"))
    assert np.array_equal(image_input.prepare(pixels)[0], expected)


def test_grey_pictures_fill_three_channels():
    grey = photo(16, 16)[..., 0]
    image_input = ImageInput(size=(16, 16), crop_pct=1.0)
    out = image_input.prepare(grey)
    assert all(np.array_equal(out[c], grey) for c in range(3))
    assert np.array_equal(image_input.prepare(grey[..., None]), out)


def test_border_is_filled_with_the_mean_colour():
    image_input = ImageInput(size=(20, 20), crop_pct=1.0, crop_mode="border", mean=(0.2, 0.4, 0.6))
    out = image_input.prepare(np.zeros((10, 40, 3), np.uint8))
    assert out[:, 0, 0].tolist() == [51, 102, 153]
    assert out[:, 10, 10].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (4, 4, 4), (1, 4, 4, 3), (0, 4, 3), (4, 4, 0)])
def test_what_is_no_picture(shape):
    with pytest.raises(DataError, match="An image is"):
        ImageInput(size=(4, 4)).prepare(np.zeros(shape, np.uint8))


def test_a_strip_is_not_blown_up():
    with pytest.raises(DataError, match="Too elongated: 60000 × 1"):
        ImageInput(size=(2000, 2000)).prepare(np.zeros((1, 60000, 3), np.uint8))


@pytest.mark.parametrize(
    "field",
    [
        {"crop_mode": "middle"}, {"interpolation": "lanczos"}, {"channels": 2, "mean": (0.5,) * 2, "std": (0.5,) * 2},
        {"mean": (0.5,)}, {"std": (0.5, 0.5)},
    ],
)  # fmt: skip
def test_fields_that_are_not_allowed(field):
    with pytest.raises(OptionError, match="must be"):
        ImageInput(size=(4, 4), **field).prepare(np.zeros((5, 5, 3), np.uint8))


# ---- float arrays: preprocessed already -----------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_pass_in_either_layout(last, channels):
    image_input = ImageInput(
        size=(5, 6), channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels, channels_last=last
    )
    first = np.random.default_rng(0).normal(size=(channels, 5, 6))
    expected = np.moveaxis(first, 0, -1) if last else first
    for array in (first, np.moveaxis(first, 0, -1), first.astype(np.float32)):
        assert np.allclose(image_input.prepare(array), expected)
        assert image_input.prepare(array).dtype == np.float32
    if channels == 1:
        assert np.allclose(image_input.prepare(first[0]), expected)


@given(
    hnp.arrays(
        np.float32, st.tuples(st.just(3), st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-3, 3, width=32)
    )
)
def test_values_of_floats_are_never_touched(array):
    image_input = ImageInput(size=(array.shape[1], array.shape[2]))
    if array.shape[2] == 3 and array.shape[:2] == image_input.size:
        return  # 3 × 3 × 3: nothing tells the layouts apart, channels-last is assumed
    sample = image_input.prepare(array)
    tensors = image_input.tensors(image_input.collate([sample]), torch.device("cpu"), torch.float32)
    assert np.array_equal(tensors["x"][0].numpy(), array)


def test_where_both_layouts_would_do_the_size_decides():
    image_input = ImageInput(size=(8, 3))
    first, last = np.zeros((3, 8, 3)), np.zeros((8, 3, 3))
    assert image_input.prepare(first).shape == (3, 8, 3)
    assert image_input.prepare(last).shape == (3, 8, 3)


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (3, 8, 8, 1), (8,)])
def test_floats_without_the_right_channels(shape):
    with pytest.raises(DataError, match=r"needs 3 channel\(s\)"):
        ImageInput(size=(8, 8)).prepare(np.zeros(shape))


def test_layouts_give_the_same_features(tmp_path):
    first = np.random.default_rng(1).normal(size=(6, 3, 16, 16)).astype(np.float32)
    rows = []
    for array in (first, np.ascontiguousarray(np.moveaxis(first, 1, -1))):
        data = Dataset.from_arrays(array)
        rows.append(extract("fake:image", data, layers="7", store=tmp_path).rows("7", data))
    assert np.array_equal(rows[0], rows[1])


# ---- batches --------------------------------------------------------------------------------------------------------


def test_a_network_that_writes_into_its_input_harms_nobody():
    for image_input, sample in (
        (ImageInput(size=(4, 4)), np.ones((3, 4, 4), np.float32)),
        (ArrayInput((3,)), np.ones(3)),
    ):
        batch = image_input.collate([image_input.prepare(sample)])
        image_input.tensors(batch, torch.device("cpu"), torch.float32)["x"].zero_()
        assert batch.inputs["x"].min() == 1


def test_samples_of_different_shapes_are_named():
    with pytest.raises(DataError, match=r"one shape.*\(3, 4, 4\).*\(3, 5, 4\)"):
        ImageInput().collate([np.zeros((3, 4, 4)), np.zeros((3, 5, 4))])
    with pytest.raises(DataError, match=r"uint8.*float32"):
        stacked([np.zeros(3, np.uint8), np.zeros(3, np.float32)])
    assert stacked([np.zeros(3), np.ones(3)]).shape == (2, 3)


def test_examples_repeat_and_do_not_depend_on_their_number():
    image_input = ImageInput(size=(20, 30))
    five, three = image_input.example(5).inputs["x"], image_input.example(3).inputs["x"]
    assert np.array_equal(five[:3], three)
    assert five.shape == (5, 3, 20, 30)
    assert five.std() > 50


def test_every_field_is_described():
    image_input = ImageInput()
    described = image_input.describe()
    assert described.pop("kind") == "image"
    assert described.keys() == {field.name for field in dataclasses.fields(image_input)}


def test_arrays_are_checked():
    image_input = ArrayInput((3,))
    with pytest.raises(DataError, match=r"shape \(3,\); got \(4,\)"):
        image_input.prepare(np.zeros(4))
    with pytest.raises(DataError, match="not finite, or too large for float32"):
        image_input.prepare(np.array([1e300, 0, 0]))
    with pytest.raises(DataError, match="takes arrays of numbers; got str"):
        image_input.prepare("abc")
    assert image_input.describe() == {"kind": "array", "shape": (3,), "modality": "vector"}
    assert ArrayInput(None).prepare([1, 2]).dtype == np.float32
