"""Hostile sounds, end to end: each is read and said, or left out and named; never replaced, never a crash."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import UnreadableItem
from headstart.extraction import extract
from headstart.sources import Source, load_source
from headstart.sources.inputs.log_mel import PatchInput
from headstart.speech_heads import ctc
from headstart.transfer import fit
from listeners import Notes
from networks import seeded

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
RATE = 16_000
WORDS = {"low": 300.0, "high": 2000.0}


def tone(word: str, seconds: float = 0.5, seed: int = 0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.005, len(t))
    return (0.4 * np.sin(2 * np.pi * WORDS[word] * t) + noise).astype(np.float32)


BROKEN = {
    "empty.wav": b"",
    "no samples.wav": "nothing",
    "video.wav": b"\x00\x00\x00\x18ftypmp42" + bytes(2000),
    "nan.wav": "nan",
    "text.wav": b"this is no sound at all " * 40,
}
READ = {"8 bit.wav": "PCM_U8", "24 bit.wav": "PCM_24", "float.wav": "FLOAT", "double.wav": "DOUBLE"}


def write(path: Path, content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "nothing":
        soundfile.write(path, np.zeros(0, np.float32), RATE)
    elif content == "nan":
        soundfile.write(path, np.where(np.arange(4000) == 77, np.nan, tone("low", 0.25)), RATE, subtype="FLOAT")
    else:
        soundfile.write(path, tone("low", seed=5), RATE, subtype=content)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six good clips of each word; beside them the broken and the odd ones, all called "low"."""
    root = tmp_path_factory.mktemp("clips")
    for word in WORDS:
        (root / word).mkdir()
        for i in range(6):
            soundfile.write(root / word / f"{i}.wav", tone(word, 0.4 + 0.1 * i, i), RATE)
    for name, content in {**BROKEN, **READ}.items():
        write(root / "low" / name, content)
    soundfile.write(root / "low" / "quiet.wav", np.zeros(RATE, np.float32), RATE)
    return root


@pytest.fixture(scope="module")
def source():
    network = lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 4, (4, 8), stride=(4, 8)), torch.nn.ReLU())  # noqa: E731
    return Source.from_module(seeded(network), preprocess=PatchInput(), modality="audio")


def test_the_broken_are_named_and_the_odd_are_used(folder, source):
    data = Dataset.from_folder(folder)
    with listening(notes := Notes()):
        predictor = fit(source, data, layers="1", head="ridge", store=False, precision="fp32")
    result = predictor.evaluate(data)
    assert {Path(item.item).name for item in result.skipped} == set(BROKEN)
    reasons = {Path(item.item).name: item.reason for item in result.skipped}
    assert "empty" in reasons["empty.wav"] and "no samples" in reasons["no samples.wav"]
    assert "NaN" in reasons["nan.wav"] and "MP4 video" in reasons["video.wav"]
    assert "not an audio file" in reasons["text.wav"]
    assert any("silent" in text for text in notes) and any("5 of 22 items are left out" in text for text in notes)
    for name in READ:
        assert predictor.predict(folder / "low" / name) == "low"
    for name in BROKEN:
        with pytest.raises(UnreadableItem, match=name):
            predictor.predict(folder / "low" / name)


def test_the_same_for_transcripts(folder, source):
    paths = sorted(folder.glob("*/*.wav"))
    data = Dataset.from_items(paths, "audio").with_targets([p.parent.name for p in paths], task="transcription")
    head = ctc("bilstm", epochs=40, hidden=8, width=8, lr=2e-2, dropout=0.0, batch_size=4)
    predictor = fit(source, data, layers="1", head=head, store=False, precision="fp32")
    result = predictor.evaluate(data)
    assert {Path(item.item).name for item in result.skipped} == set(BROKEN) and result.metrics["wer"] < 0.3
    results = dict(zip((p.name for p in paths), predictor.predict(data, on_error="skip"), strict=True))
    assert all(results[name] is None for name in BROKEN) and all(isinstance(results[name], str) for name in READ)


def test_bit_depth_changes_features_by_no_more_than_its_rounding(folder, source):
    data = Dataset.from_items([folder / "low" / name for name in READ])
    rows = extract(source, data, layers="1", pooling="avg", store=False, precision="fp32").rows("1", data)
    assert np.allclose(rows[1:], rows[-1], atol=1e-4) and np.allclose(rows[0], rows[-1], atol=0.3)


@pytest.mark.slow
def test_an_hour_is_thinned_said_and_never_transcribed(source, tmp_path):
    hour = tmp_path / "hour.wav"
    minute = tone("high", 60)
    with soundfile.SoundFile(hour, "w", RATE, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    data = Dataset.from_items([hour])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bank = extract(source, data, layers="1", pooling="avg+max", store=False, precision="fp32")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert bank.rows("1", data).shape[0] == 1 and grown < 1500  # MB; the samples alone are 230
    words = Dataset.from_arrays([tone("low"), tone("high")], ["low", "high"], task="transcription",
                                modality="audio", sample_rate=RATE)  # fmt: skip
    head = ctc("linear", epochs=1)
    predictor = fit(source, words, layers="1", head=head, store=False, precision="fp32")
    long = tmp_path / "three minutes.wav"  # is too long already
    soundfile.write(long, np.tile(minute, 3), RATE)
    with pytest.raises(UnreadableItem, match="too long for frame-level features"):
        predictor.predict(long)
    assert predictor.predict([long], on_error="skip") == [None]


def test_raw_spectra_are_a_source_too(folder):
    source = load_source("identity:audio")
    data = Dataset.from_items(sorted((folder / "high").glob("*.wav")))
    bank = extract(source, data, layers="last", pooling="avg+max", store=False)
    (layer,) = bank.layers
    assert bank.rows(layer, data).shape == (6, 128)
    (frames, *_) = extract(source, data, layers=layer, pooling="frames", store=False).sequences(layer, data)
    clip = soundfile.read(data.items[0], dtype="float32")[0]
    assert np.allclose(frames, source.input.front_end.frames(clip), atol=1e-4)
