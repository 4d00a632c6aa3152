"""Patches of sounds: how many, which of a long clip, pooling over all of a clip's, batches cut by patches."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import OptionError
from headstart.extraction import extract, pipeline
from headstart.readers.base import Clip
from headstart.sources import Source
from headstart.sources.inputs.log_mel import LogMel, PatchInput
from listeners import Notes
from networks import seeded

RATE = 8000
# 0.1 s patches, half overlapping
TINY = LogMel(RATE, 0.02, 0.01, n_fft=256, n_mels=12, f_max=3800.0, patch_frames=10, patch_hop_frames=5)
HOW = PatchInput(TINY, max_patches=20)
PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False}


def tone(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * (300 + 200 * seed) * t) + 0.02 * rng.normal(size=len(t))).astype(np.float32)


def expected_patches(samples: int) -> int:
    """Counted one by one: patches are added until the last one ends at or after the last sample."""
    count, end = 1, TINY.patch_samples
    while end < samples:
        count, end = count + 1, end + TINY.patch_hop_frames * TINY.hop_samples
    return count


def network():
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture(scope="module")
def source():
    return Source.from_module(seeded(network), preprocess=HOW, modality="audio")


@pytest.fixture
def sounds(tmp_path):
    """Clips of several lengths as wav files, in the order of their names."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    paths = []
    for i, seconds in enumerate((0.05, 0.3, 0.9, 0.11, 0.6)):
        paths.append(tmp_path / f"{i}.wav")
        soundfile.write(paths[-1], tone(seconds, i), RATE, subtype="FLOAT")
    return paths


@given(st.integers(1, 9000))
def test_every_sample_is_in_a_patch(samples):
    patch_input = dataclasses.replace(HOW, max_patches=1000)
    sample = patch_input.prepare(Clip(tone(2)[:samples], RATE))
    assert sample["x"].shape == (expected_patches(samples), 1, 10, 12)
    assert sample["x"].dtype == np.float32
    assert patch_input.n_windows(sample) == int(sample["total"]) == expected_patches(samples)
    assert patch_input.warning(sample) is None


def test_a_long_clip_is_thinned_evenly_and_remarked():
    clip = Clip(tone(3), RATE)
    full = dataclasses.replace(HOW, max_patches=10_000).prepare(clip)["x"]
    sample = HOW.prepare(clip)
    assert len(full) > 50
    assert HOW.n_windows(sample) == 20
    assert int(sample["total"]) == len(full)
    assert np.array_equal(sample["x"][0], full[0])
    assert np.array_equal(sample["x"][-1], full[-1])
    places = [next(i for i, w in enumerate(full) if np.array_equal(w, x)) for x in sample["x"]]
    steps = np.diff(places)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1
    assert "longer than 20 patches" in HOW.warning(sample)


def test_silence_is_remarked():
    quiet = HOW.prepare(Clip(np.zeros(RATE // 2, np.float32), RATE))
    assert HOW.warning(quiet) == "silent"
    assert np.allclose(quiet["x"], np.log(0.001), atol=1e-5)
    assert HOW.warning(HOW.prepare(Clip(tone(0.5), RATE))) is None


def test_batches_know_whose_patches_they_hold():
    samples = [HOW.prepare(Clip(tone(seconds), RATE)) for seconds in (0.05, 0.4, 0.2)]
    batch = HOW.collate(samples)
    assert batch.counts == tuple(len(s["x"]) for s in samples)
    assert np.array_equal(batch.inputs["x"], np.concatenate([s["x"] for s in samples]))
    tensors = HOW.tensors(batch, torch.device("cpu"), torch.float32)
    assert tensors["x"].shape == (sum(batch.counts), 1, 10, 12)
    example = HOW.example(3)
    assert example.inputs["x"].shape == (3, 1, 10, 12)
    assert np.array_equal(example.inputs["x"], HOW.example(3).inputs["x"])


@pytest.mark.parametrize(
    "change", [f.name for f in dataclasses.fields(LogMel) if f.name not in ("sample_rate", "n_fft")]
)
def test_descriptions_follow_the_front_end(change):
    value = getattr(TINY, change)
    other = PatchInput(dataclasses.replace(TINY, **{change: value + 1 if isinstance(value, int) else value * 1.01}), 20)
    assert other.describe() != HOW.describe()
    json.dumps(other.describe())
    first, second = (Source.from_module(seeded(network), preprocess=front, modality="audio") for front in (HOW, other))
    assert first.fingerprint != second.fingerprint


def test_descriptions_follow_the_limit():
    assert dataclasses.replace(HOW, max_patches=21).describe() != HOW.describe()
    assert PatchInput(TINY, 20).describe() == HOW.describe()


def test_the_front_end_of_a_model_folder():
    config = {
        "kind": "log_mel", "window": "periodic_hann", "mel_scale": "htk", "magnitude": "abs", "sample_rate": 16000,
        "window_seconds": 0.025, "hop_seconds": 0.01, "n_fft": 512, "n_mels": 64, "f_min": 125.0, "f_max": 7500.0,
        "log": "log(mel + 0.001)", "patch_frames": 96, "patch_hop_frames": 48,
    }  # fmt: skip
    patch_input = PatchInput.from_config(config)
    assert patch_input == PatchInput()
    assert patch_input.reader_options() == {"sample_rate": 16000}
    assert patch_input.front_end.patch_samples == 15_600
    for wrong in ({"mel_scale": "slaney"}, {"pcen": True}, {"log": "log10(mel)"}):
        with pytest.raises(OptionError):
            PatchInput.from_config({**config, **wrong})


# ---- extraction -----------------------------------------------------------------------------------------------------


def by_hand(samples: np.ndarray) -> np.ndarray:
    """Every patch alone through the network, up to the first layer: (patches, 3, 10, 12)."""
    inner = seeded(network).eval()[0]
    with torch.inference_mode():
        return np.concatenate([inner(torch.tensor(p[None, None])).numpy() for p in TINY.patches(samples)])


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_rows_pool_over_all_patches_of_a_clip(pooling, source, sounds):
    data = Dataset.from_items(sounds)
    result = extract(source, data, layers="0", pooling=pooling, **PLAIN).rows("0", data)
    for row in range(len(sounds)):
        out = by_hand(tone((0.05, 0.3, 0.9, 0.11, 0.6)[row], row))
        assert np.allclose(result[row], getattr(np, {"avg": "mean", "max": "max"}[pooling])(out, (0, 2, 3)), atol=1e-5)
    alone = [extract(source, Dataset.from_items([p]), layers="0", pooling=pooling, **PLAIN) for p in sounds]
    rows = np.concatenate([bank.rows("0", Dataset.from_items([p])) for bank, p in zip(alone, sounds, strict=True)])
    assert np.allclose(rows, result, atol=1e-6)


def test_what_was_thinned_or_silent_is_counted(source, tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    clips = {"long.wav": tone(3), "quiet.wav": np.zeros(4000, np.float32), "short.wav": tone(0.2)}
    for name, samples in clips.items():
        soundfile.write(tmp_path / name, samples, RATE)
    data = Dataset.from_items([tmp_path / name for name in clips])
    with listening(notes := Notes()):
        bank = extract(source, data, layers="last", **PLAIN)
    assert np.isfinite(bank.rows(bank.layers[0], data)).all()
    assert any("1 of 3 items: longer than 20 patches" in text for text in notes)
    assert any("1 of 3 items: silent" in text for text in notes)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 8))
def test_batches_end_before_they_hold_too_many_patches(counts, size):
    works = [pipeline.WorkItem(i, b"", {"x": np.empty((n, 0))}) for i, n in enumerate(counts)]
    batches = pipeline._split_batches(works, size, HOW.n_windows)
    assert [work.position for batch in batches for work in batch] == list(range(len(counts)))
    count = [sum(counts[work.position] for work in batch) for batch in batches]
    assert all(1 <= len(batch) <= size for batch in batches)
    assert all(
        n <= size * pipeline._WINDOWS_PER_ITEM or len(batch) == 1 for n, batch in zip(count, batches, strict=True)
    )
    # none ended early without need
    for batch, n, after in zip(batches, count, batches[1:], strict=False):
        assert len(batch) == size or n + counts[after[0].position] > size * pipeline._WINDOWS_PER_ITEM
