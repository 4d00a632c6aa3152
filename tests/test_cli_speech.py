"""Transcription on the command line: fit, evaluate, predict, and what each says."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from commands import in_process

soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")

RATE = 16_000
WORDS = {"low": 300.0, "high": 2000.0}


def spoken(text: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [np.zeros(1600)]
    for word in text.split():
        t = np.arange(rng.integers(3000, 4000)) / RATE
        parts += [0.3 * np.sin(2 * np.pi * WORDS[word] * t), np.zeros(1600)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty clips, one of them broken, in a table with paths relative to it."""
    folder = tmp_path_factory.mktemp("speech")
    with open(folder / "said.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "said"])
        for i in range(20):
            text = " ".join(np.random.default_rng(i).choice(list(WORDS), 1 + i % 3))
            soundfile.write(folder / f"{i}.wav", spoken(text, i), RATE)
            writer.writerow([f"{i}.wav", text])
        (folder / "broken.wav").write_bytes(b"RIFF no more than that")
        writer.writerow(["broken.wav", "low"])
    return folder / "said.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with in_process(tmp_path_factory.mktemp("cache")) as call:
        yield call


@pytest.fixture(scope="module")
def predictor(run, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "said.headstart"
    words = ["--task", "transcription", "--target", "said", "--source", "identity:audio"]
    done = run(
        "fit", table, *words, "--head", "bilstm:hidden=12,epochs=20,lr=0.01,beam=2,dropout=0", "-o", path, "--json"
    )
    messages = json.loads(done.stdout)
    assert messages["head"]["name"] == "bilstm" and messages["head"]["hidden"] == 12 and messages["head"]["beam"] == 2
    assert messages["policy"] == "frozen" and len(messages["history"]["loss"]) == 20
    assert messages["selection"]["said"]["alphabet"] == {"units": "words", "symbols": 2}
    return path


def test_predictions_are_texts_and_broken_clips_are_named(run, predictor, table):
    clips = [table.parent / "1.wav", table.parent / "broken.wav"]
    messages = json.loads(run("predict", predictor, *clips, "--json").stdout)["predictions"]
    assert set(messages[0]["label"].split()) <= set(WORDS) and "probability" not in messages[0]
    assert messages[0]["label"], "a clip of the training data, and it says nothing"
    assert messages[1]["label"] is None and messages[1]["error"]


def test_a_table_of_predictions_has_the_texts(run, predictor, table, tmp_path):
    out = tmp_path / "said.csv"
    run("predict", predictor, table.parent / "1.wav", table.parent / "2.wav", "-o", out, "--json")
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and {"item", "label"} <= set(rows[0])
    assert all(set(row["label"].split()) <= set(WORDS) for row in rows)


def test_fit_shows_what_was_trained(run, table, tmp_path):
    words = ["--task", "transcription", "--target", "said", "--source", "identity:audio", "-o", tmp_path / "p"]
    shown = run("fit", table, *words, "--head", "linear:epochs=2").stdout
    assert "training" in shown and "2 epochs" in shown and "fine-tuning" not in shown


def test_evaluation_reports_both_error_rates(run, predictor, table):
    messages = json.loads(
        run("evaluate", predictor, table, "--json").stdout
    )  # target and task are those of the predictor
    text = json.dumps(messages)
    assert '"wer"' in text and '"cer"' in text and "broken.wav" in text


def test_people_see_the_text_too(run, predictor, table):
    shown = run("predict", predictor, table.parent / "0.wav").stdout
    assert any(word in shown for word in WORDS)


def test_heads_of_other_tasks_are_refused_with_the_list(run, table, tmp_path):
    words = ["--task", "transcription", "--target", "said", "--source", "identity:audio", "-o", tmp_path / "p"]
    done = run("fit", table, *words, "--head", "ridge", code=1)
    assert "heads for transcription" in done.stderr and "bilstm" in done.stderr
