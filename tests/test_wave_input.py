"""The waveform as network input: lengths, loudness, what is cut; and clips as patches with other steps."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import DataError, OptionError, UnknownName
from headstart.readers.base import Clip
from headstart.sources import load_source
from headstart.sources.inputs.audio import WaveInput
from headstart.sources.inputs.log_mel import LogMel, PatchInput

HOW = WaveInput(sample_rate=8000, convolutions=((10, 5), (4, 4)), max_seconds=0.5)


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(0.1, 0.3, n).astype(np.float32)


def convolved(n, convolutions):
    """Frames counted by walking, not by a formula."""
    for kernel, stride in convolutions:
        start, count = 0, 0
        while start + kernel <= n:
            start, count = start + stride, count + 1
        n = count
    return n


@given(st.integers(1, 3000))
def test_frames_are_counted_as_a_convolution_walks(n):
    assert HOW.frames(max(n, HOW.shortest)) == convolved(max(n, HOW.shortest), HOW.convolutions)
    wide = WaveInput()
    assert wide.frames(n + 400) == convolved(n + 400, wide.convolutions)


def test_the_shortest_clip_gives_one_frame():
    for wave_input in (HOW, WaveInput()):
        assert (
            wave_input.frames(wave_input.shortest) == 1
            and convolved(wave_input.shortest - 1, wave_input.convolutions) == 0
        )
    assert WaveInput().shortest == 400


@given(st.integers(50, 3000), st.floats(0.1, 100), st.floats(-1, 1))
def test_loudness_and_offset_are_taken_away(n, gain, offset):
    item, other = HOW.prepare(noise(n))["x"], HOW.prepare((noise(n) * gain + offset).astype(np.float32))["x"]
    assert np.allclose(item, other, atol=2e-3 * max(1, abs(offset) / gain))


def test_without_normalisation_samples_stay():
    plain = dataclasses.replace(HOW, normalise=False)
    assert np.array_equal(plain.prepare(noise(900))["x"], noise(900))
    assert len(plain.prepare(noise(3))["x"]) == HOW.shortest and not plain.prepare(noise(3))["x"][3:].any()


def test_a_batch_is_filled_up_and_masked():
    samples = [HOW.prepare(noise(n, n)) for n in (100, 900, 30)]
    batch = HOW.collate(samples)
    assert batch.inputs["x"].shape == (3, 900) and batch.inputs["samples"].tolist() == [100, 900, 30]
    assert batch.mask.shape == (3, HOW.frames(900)) and batch.mask.sum(1).tolist() == [
        HOW.frames(n) for n in (100, 900, 30)
    ]
    for row, sample in zip(batch.inputs["x"], samples, strict=True):
        assert np.array_equal(row[: len(sample["x"])], sample["x"]) and not row[len(sample["x"]) :].any()


def test_what_is_longer_is_cut_and_said():
    long, silent = HOW.prepare(noise(4001)), HOW.prepare(Clip(np.zeros(800, np.float32), 8000))
    assert len(long["x"]) == 4000 and "longer than 0.5 s" in HOW.warning(long)
    assert HOW.warning(HOW.prepare(noise(4000))) is None and HOW.warning(silent) == "silent"
    assert np.isfinite(silent["x"]).all()
    assert HOW.collate([long, silent]).timing.lengths.tolist() == [0, HOW.frames(800)]


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (np.zeros(0, np.float32), "without samples"),
        (np.array([0.1, np.nan] * 100, np.float32), "not finite"),
        (Clip(noise(900), 16_000), "wants 8000 Hz"),
    ],
)
def test_clips_that_cannot_be_used(clip, words):
    with pytest.raises(DataError, match=words):
        HOW.prepare(clip)


@pytest.mark.parametrize(
    "change",
    [{"sample_rate": 16_000}, {"normalise": False}, {"convolutions": ((10, 5),)}, {"max_seconds": 1.0}],
    ids=str,
)
def test_descriptions_follow_what_changes_numbers(change):
    other = dataclasses.replace(HOW, **change).describe()
    assert other != HOW.describe() and json.loads(json.dumps(other)) is not None
    assert HOW.describe() == dataclasses.replace(HOW).describe()


def test_examples_are_always_the_same_and_differ_in_length():
    item, two = HOW.example(3), HOW.example(3)
    assert np.array_equal(item.inputs["x"], two.inputs["x"]) and len(set(item.inputs["samples"].tolist())) == 3


# ---- patches with another step --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny network that listens to patches, in timm's local-dir form."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("listening") / "net"
    path.mkdir()
    network = timm.create_model("test_resnet", in_chans=1, num_classes=3)
    save_file(network.state_dict(), path / "model.safetensors")
    front = {"sample_rate": 16_000, "patch_frames": 96, "patch_hop_frames": 48, "n_mels": 64}
    (path / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "model_args": {"in_chans": 1}, "num_classes": 3,
                    "audio_frontend": front})
    )  # fmt: skip
    return path


def test_step_and_limit_of_patches_are_options_of_the_source(folder):
    usual = load_source(f"timm:{folder}")
    fine = load_source(f"timm:{folder}", input={"patch_hop_frames": 12, "max_patches": 900})
    assert (usual.input.front_end.patch_hop_frames, usual.input.max_patches) == (48, 240)
    assert (fine.input.front_end.patch_hop_frames, fine.input.max_patches) == (12, 900)
    assert usual.fingerprint != fine.fingerprint
    clip = noise(3 * 16_000)
    small, large = (len(item.input.prepare(clip)["x"]) for item in (usual, fine))
    assert large >= 3 * small


def test_the_step_is_saved_with_the_source(folder, tmp_path):
    fine = load_source(f"timm:{folder}", input={"patch_hop_frames": 12, "max_patches": 900})
    back = load_source(f"saved:{fine.save(tmp_path / 's')}")
    assert back.input == fine.input and back.fingerprint == fine.fingerprint


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many"])
def test_limits_that_are_none(folder, wrong):
    with pytest.raises(OptionError, match="max_patches"):
        load_source(f"timm:{folder}", input={"max_patches": wrong})


def test_image_networks_have_no_patches():
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(OptionError, match="only networks for audio"):
        load_source("timm:test_resnet", pretrained=False, input={"patch_hop_frames": 12})
    with pytest.raises(UnknownName, match="did you mean 'patch_hop_frames'"):
        load_source("timm:test_resnet", pretrained=False, input={"patch_hop_frame": 12})


@given(st.integers(1, 40_000), st.integers(1, 20))
def test_timing_says_where_patches_lie_and_how_long_the_clip_is(samples, hop):
    front = LogMel(8000, 0.02, 0.01, n_fft=256, n_mels=8, f_max=3800.0, patch_frames=20, patch_hop_frames=hop)
    wave_input = PatchInput(front, max_patches=50)
    sample = wave_input.prepare(Clip(noise(samples), 8000))
    timing = wave_input.collate([sample]).timing
    assert timing.starts.tolist() == [hop * i for i in range(len(sample["x"]))] and timing.span == 20
    full = int(sample["total"]) <= 50
    assert timing.lengths.tolist() == [max(1, len(front.frames(noise(samples)))) if full else 0]
