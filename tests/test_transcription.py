"""Transcription: CTC decoding against brute force, frames in the order of time, the whole way from clips to text."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, StoreError, UnknownName, UnreadableItem
from headstart.extraction import extract
from headstart.pooling import _frame_order
from headstart.predictor import load
from headstart.sources import Source
from headstart.sources.inputs.log_mel import LogMel, PatchInput
from headstart.speech_heads import Alphabet, Recogniser, alphabet_of, beam_search, ctc, greedy
from headstart.transfer import fit
from networks import seeded

RATE = 8000
MEL = LogMel(RATE, 0.02, 0.01, n_fft=256, n_mels=12, f_max=3800.0, patch_frames=16, patch_hop_frames=8)
TONES = {"low": 400, "mid": 1200, "high": 2600}
QUICK = ctc("bilstm", hidden=16, width=24, epochs=25, lr=1e-2, batch_size=8, dropout=0.0)


def quick(epochs):
    return dataclasses.replace(QUICK, training=dataclasses.replace(QUICK.training, epochs=epochs))


class Pooled(torch.nn.Module):
    """Two convolutions, the second at half the frame rate."""

    def __init__(self):
        super().__init__()
        self.fine = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
        self.coarse = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1, stride=2), torch.nn.ReLU())

    def forward(self, x):
        return self.coarse(self.fine(x))


@pytest.fixture(scope="module")
def source():
    return Source.from_module(seeded(Pooled), preprocess=PatchInput(MEL, max_patches=40), modality="audio")


def spoken(text: str, seed: int = 0) -> np.ndarray:
    """One tone per word, with gaps."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(400)]
    for word in text.split():
        t = np.arange(rng.integers(900, 1300)) / RATE
        parts += [0.3 * np.sin(2 * np.pi * TONES[word] * t), np.zeros(rng.integers(300, 600))]
    clip = np.concatenate(parts)
    return (clip + 0.002 * rng.normal(size=len(clip))).astype(np.float32)


def sentences(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(list(TONES), rng.integers(1, 4))) for _ in range(n)]


def spoken_data(n: int, seed: int = 0, **how) -> Dataset:
    texts = sentences(n, seed)
    clips = [spoken(text, 1000 * seed + i) for i, text in enumerate(texts)]
    return Dataset.from_arrays(clips, texts, task="transcription", modality="audio", sample_rate=RATE, **how)


# ---- decoding -------------------------------------------------------------------------------------------------------


def by_brute_force(emissions: np.ndarray) -> dict[tuple[int, ...], float]:
    """Every text and its probability, from every path."""
    result: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(emissions.shape[1]), repeat=len(emissions)):
        merged = tuple(n for n, _ in itertools.groupby(path) if n)
        result[merged] = result.get(merged, 0.0) + float(np.exp(sum(emissions[t, n] for t, n in enumerate(path))))
    return result


def logs(frames: int, symbols: int, seed: int) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 1.5, (frames, symbols))
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 10_000))
def test_a_wide_beam_finds_the_most_probable_text(frames, symbols, seed):
    emissions = logs(frames, symbols, seed)
    expected = by_brute_force(emissions)
    result = tuple(beam_search(emissions, 1000))
    assert expected[result] == pytest.approx(max(expected.values()), rel=1e-9)


@given(st.integers(1, 6), st.integers(2, 4), st.integers(0, 10_000))
def test_greedy_is_the_text_of_the_best_path(frames, symbols, seed):
    emissions = logs(frames, symbols, seed)
    best = [int(n) for n in emissions.argmax(1)]
    assert greedy(emissions) == [n for n, _ in itertools.groupby(best) if n]


def test_equal_symbols_need_a_blank_between_them():
    sure = np.log(np.full((3, 2), 1e-9) + np.array([[0, 1], [1, 0], [0, 1]]))
    assert greedy(sure) == beam_search(sure) == [1, 1]
    assert greedy(sure[[0, 2]]) == beam_search(sure[[0, 2]]) == [1]


def test_alphabets():
    assert alphabet_of(["1 2 3", "3 2"] * 9) == Alphabet(("1", "2", "3"), "words")
    assert alphabet_of(["1 2 3", "3 2"] * 9, "characters").symbols == (" ", "1", "2", "3")
    assert alphabet_of(["日本", "本"]).units == "characters"
    for alphabet in (alphabet_of(["to be", "be to"] * 5), alphabet_of(["tobe"])):
        assert alphabet.text(alphabet.numbers("to be")) == ("to be" if alphabet.units == "words" else "tobe")
    with pytest.raises(DataError, match="empty"):
        alphabet_of(["", " "], "words")


def test_padding_changes_no_text():
    frames = [np.random.default_rng(i).normal(size=(n, 5)).astype(np.float32) for i, n in enumerate((3, 17, 1, 8))]
    for name in ("linear", "bilstm"):
        result = Recogniser.fresh(ctc(name), Alphabet(("a", "b"), "characters"), frames)
        together = result.emissions(frames)
        for item, alone in zip(together, (result.emissions([item])[0] for item in frames), strict=True):
            assert item.shape == alone.shape and np.allclose(item, alone, atol=1e-5)
            assert np.allclose(np.exp(item).sum(1), 1, atol=1e-5)


# ---- frames in time -------------------------------------------------------------------------------------------------


def test_frames_stand_in_the_order_of_time(source):
    """A layer that only copies the spectrogram gives the spectrogram back, patches or not."""
    copying = Source.from_module(
        torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU()),
        preprocess=PatchInput(dataclasses.replace(MEL, log_offset=1.5)),  # logarithms above 0: the ReLU changes nothing
        modality="audio",
    )
    clips = [spoken("low mid high mid", 3), spoken("low", 1), np.full(50, 0.1, np.float32)]
    data = Dataset.from_arrays(clips, modality="audio", sample_rate=RATE)
    bank = extract(copying, data, layers="1", pooling="frames", store=False, precision="fp32")
    for clip, result in zip(clips, bank.sequences("1", data), strict=True):
        expected = copying.input.front_end.frames(clip)
        assert len(result) == max(1, len(expected))
        assert np.allclose(result[: len(expected)], expected, atol=1e-4)


def test_of_several_steps_of_one_moment_that_nearest_its_patchs_middle_is_taken():
    starts = np.arange(4) * 8
    patch, step = np.divmod(_frame_order(starts, 16, 16, 40), 16)
    moments = starts[patch] + step
    assert moments.tolist() == list(range(40))
    assert np.abs(step - 7.5)[4:36].max() <= 4


def test_frames_of_a_map_have_all_frequencies_and_half_the_rate(source):
    data = spoken_data(3)
    bank = extract(source, data, layers=["fine", "coarse"], pooling="frames", store=False, precision="fp32")
    fine, coarse = bank.sequences("fine", data), bank.sequences("coarse", data)
    assert [item.shape[1] for item in fine + coarse] == [4 * 12] * 3 + [6 * 6] * 3
    for i, clip in enumerate(data.items):
        frames = len(MEL.frames(clip))
        assert len(fine[i]) == frames and len(coarse[i]) == -(-frames // 2)


@pytest.mark.parametrize(("hop", "frames"), [(16, 8), (8, 8), (4, 4), (1, 1)])
def test_a_smaller_step_between_patches_gives_more_frames(hop, frames):
    options = PatchInput(dataclasses.replace(MEL, patch_hop_frames=hop), max_patches=10_000)
    network = torch.nn.Sequential(torch.nn.AvgPool2d((8, 1)), torch.nn.ReLU())
    source = Source.from_module(network, preprocess=options, modality="audio")
    data = Dataset.from_arrays([spoken("low mid high", 5)], modality="audio", sample_rate=RATE)
    bank = extract(source, data, layers="1", pooling="frames", store=False, precision="fp32")
    total = len(MEL.frames(data.items[0]))
    (result,) = bank.sequences("1", data)
    # moments lie a greatest common divisor of hop and step apart, but for the two ends
    assert len(result) == pytest.approx(total / frames, abs=2 + 16 / frames)


def test_pictures_have_no_frames():
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(OptionError, match="for audio and texts"):
        extract("fake:image", Dataset.from_arrays(pixels), layers="last", pooling="frames", store=False)


def test_a_clip_that_was_cut_has_no_frames_and_is_named(source):
    long = np.concatenate([spoken("low mid", i) for i in range(30)])
    data = Dataset.from_arrays([spoken("low"), long], modality="audio", sample_rate=RATE)
    bank = extract(source, data, layers="coarse", pooling="frames", store=False, precision="fp32")
    assert [len(item) > 0 for item in bank.sequences("coarse", data)] == [True, False]


# ---- the whole way --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train_data():
    return spoken_data(48)


@pytest.fixture(scope="module")
def predictor(source, train_data):
    return fit(source, train_data, layers="coarse", head=QUICK, store=False, precision="fp32")


def test_words_are_learned(predictor, train_data):
    test = spoken_data(16, seed=9)
    result = predictor.evaluate(test)
    assert list(result.metrics) == ["wer", "cer"] and result.task == "transcription"
    assert (
        result.metrics["wer"] < 0.15
        and result.metrics["wer"].low <= result.metrics["wer"] <= result.metrics["wer"].high
    )
    assert predictor.targets[0].recogniser.alphabet == Alphabet(("high", "low", "mid"), "words")
    assert predictor.predict(test) == [predictor.predict(test.take([i]))[0] for i in range(16)]
    assert len(predictor.history["loss"]) == 25 and predictor.history["loss"][-1] < predictor.history["loss"][0] / 3


def test_there_are_no_probabilities(predictor, train_data):
    for verb in ("predict_proba", "decision_function"):
        with pytest.raises(OptionError, match=r"Transcription \(target\) has no"):
            getattr(predictor, verb)(train_data)


def test_same_seed_same_bytes_another_seed_another_head(source, train_data, predictor):
    small = train_data.take(range(12))
    options = {"layers": "coarse", "head": quick(2), "store": False, "precision": "fp32"}
    item, two, other = (fit(source, small, random_state=seed, **options).targets[0].state() for seed in (3, 3, 4))
    assert all(np.array_equal(item[name], two[name]) for name in item)
    assert not np.array_equal(item["out.weight"], other["out.weight"])


def test_interrupted_and_resumed_is_uninterrupted(source, train_data, tmp_path, monkeypatch):
    from headstart.training import checkpoint

    small = train_data.take(range(12))
    options = {"layers": "coarse", "head": quick(3), "store": False, "precision": "fp32"}
    full = fit(source, small, **options).targets[0].state()
    real, calls = checkpoint.save, []

    def dying(*args):
        real(*args)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        fit(source, small, checkpoint=tmp_path / "c", **options)
    monkeypatch.setattr(checkpoint, "save", real)
    resumed = fit(source, small, checkpoint=tmp_path / "c", **options).targets[0].state()
    assert all(np.array_equal(full[name], resumed[name]) for name in full)


def test_saved_and_loaded_it_writes_the_same(predictor, source, train_data, tmp_path):
    back = load(predictor.save(tmp_path / "p"), sources=source)
    predictions = back.infer(train_data)
    assert predictions.labels == predictor.predict(train_data)
    assert predictions.probabilities is None and predictions.decisions is None
    assert back.targets[0].recogniser.head == QUICK
    again = load(back.save(tmp_path / "q"), sources=source)
    assert again.evaluate(train_data).metrics == predictor.evaluate(train_data).metrics


WRONG = [
    lambda a: a.update(alphabet={"units": "words", "symbols": ["b", "a", "c"]}),
    lambda a: a["alphabet"].update(units="letters"),
    lambda a: a["alphabet"].update(symbols=["high", "low"]),
    lambda a: a["head"].update(name="rnn"),
    lambda a: a["head"]["fields"].update(hidden=17),
    lambda a: a["head"]["fields"].update(beam=0),
    lambda a: a["parts"][0].update(pooling="avg"),
    lambda a: a.update(parts=[]),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_crafted_records_are_refused(number, predictor, source, tmp_path):
    from headstart._base.hashing import fingerprint

    folder = predictor.save(tmp_path / "p")
    record = json.loads((folder / "predictor.json").read_text())
    record.pop("checksum")
    WRONG[number](record["answers"][0])
    record["checksum"] = fingerprint(record, 64)
    (folder / "predictor.json").write_text(json.dumps(record))
    with pytest.raises(StoreError):
        load(folder, sources=source)


def test_layers_and_head_are_chosen_on_held_out_clips(source, train_data):
    predictor = fit(source, train_data.take(range(20)), store=False, precision="fp32", budget=None)
    table = predictor.chosen["selection"]["target"]["table"]
    assert {row["head"] for row in table} == {"linear", "bilstm"} and {row["layers"] for row in table} >= {"fine.1"}
    scores = [row["score"] for row in table]
    assert scores == sorted(scores) and predictor.chosen["selection"]["target"]["score"] == scores[0]
    assert json.loads(json.dumps(predictor.chosen, allow_nan=False)) == predictor.chosen


def test_speakers_are_not_torn_apart(source, monkeypatch):
    from headstart.transfer import transcription

    data = spoken_data(10, groups=["x", "y"] * 5)
    seen = []
    real = transcription._cross_validate

    def watching(trial, speech, split, **how):
        seen.append([{speech.data.groups[i] for i in half} for half in split])
        return dataclasses.replace(trial, cer=None)

    monkeypatch.setattr(transcription, "_cross_validate", watching)
    fit(source, data, layers=["fine", "coarse"], head=quick(1), store=False)
    assert seen and all(not item & other and item and other for item, other in seen)
    assert real is not watching


def test_items_without_a_transcript_are_left_out_of_both(source, train_data):
    texts = [None if i % 3 == 0 else text for i, text in enumerate(train_data.targets)]
    data = train_data.with_targets(texts, task="transcription")
    predictor = fit(source, data, layers="coarse", head=quick(1), store=False)
    result = predictor.evaluate(data)
    assert any("16 of 48 items have no label" in note for note in result.notes)


@pytest.mark.slow
def test_several_columns_at_once(source, train_data):
    both = {"said": list(train_data.targets), "first": [text.split()[0] for text in train_data.targets]}
    data = train_data.with_targets(both, task={"said": "transcription", "first": "classification"})
    predictor = fit(source, data, layers="coarse", head="auto", store=False, precision="fp32")
    assert [answer.task for answer in predictor.targets] == ["transcription", "classification"]
    result = predictor.predict(data.take([0, 1]))
    assert set(result) == {"said", "first"} and isinstance(result["said"][0], str)
    assert {"said.wer", "said.cer", "first.accuracy"} <= set(predictor.evaluate(data).metrics)


class TestRefused:
    def test_heads_and_policies_of_other_tasks(self, source, train_data):
        with pytest.raises(UnknownName, match="did you mean 'bilstm'"):
            fit(source, train_data, head="bilstn")
        with pytest.raises(OptionError, match="cannot fine-tune"):
            fit(source, train_data, policy="full")
        with pytest.raises(OptionError, match="pooling='frames'"):
            fit(source, train_data, pooling="avg")
        with pytest.raises(OptionError, match="takes none"):
            fit("fake:image", train_data)
        with pytest.raises(OptionError, match="beam"):
            fit(source, train_data, layers="coarse", head=ctc("linear", beam=0), store=False)
        with pytest.raises(UnknownName):
            ctc("gru")
        with pytest.raises(OptionError, match="did you mean 'hidden'"):
            ctc("bilstm", hiden=3)

    def test_nothing_to_learn_from(self, source, train_data):
        with pytest.raises(DataError, match="transcript"):
            fit(source, train_data.with_targets([""] * 48, task="transcription"))

    def test_more_symbols_than_frames(self, source):
        data = Dataset.from_arrays(
            [spoken("low", i) for i in range(6)], ["low low mid high " * 30] * 6, task="transcription",
            modality="audio", sample_rate=RATE,
        )  # fmt: skip
        with pytest.raises(DataError, match=r"Too few frames.*patch_hop_frames"):
            fit(source, data, layers="coarse", store=False)

    def test_clips_that_are_too_long_are_named(self, predictor):
        long = np.concatenate([spoken("low mid", i) for i in range(30)])
        data = Dataset.from_arrays([spoken("low", 77), long], modality="audio", sample_rate=RATE)
        with pytest.raises(UnreadableItem, match="item 1: too long for frame-level features"):
            predictor.predict(data)
        result = predictor.predict(data, on_error="skip")
        assert isinstance(result[0], str) and result[1] is None
        labelled = data.with_targets(["low", "low mid"], task="transcription")
        assert [item.index for item in predictor.evaluate(labelled).skipped] == [1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 99))
def test_emissions_depend_on_the_item_alone(lengths, seed):
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    result = Recogniser.fresh(ctc("bilstm", hidden=4, width=4), Alphabet(("a",), "characters"), frames, seed)
    for item, alone in zip(result.emissions(frames), frames, strict=True):
        assert np.allclose(item, result.emissions([alone])[0], atol=1e-5)
