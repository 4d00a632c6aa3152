"""Texts on the command line: words are texts and not paths, books are not printed whole, empty ones are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from commands import in_process

GOOD, BAD = ("good great fine lovely", "bad poor awful dull")
ODD = ["~nobody knows this good", "see http://a.org//b/../c: bad", "", "good " * 3000]


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run a command in this process: what it printed on standard output, and on standard error."""
    with in_process(tmp_path_factory.mktemp("cache")) as run:

        def command(*words, code=0):
            done = run(*words, code=code)
            return done.stdout, done.stderr

        yield command


@pytest.fixture(scope="module")
def home(call, tmp_path_factory):
    """A table of texts of which two are empty, a source trained on it, and a predictor."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [(f"{word} thing {i}", label) for label in ("good", "bad") for i in range(6)
            for word in (GOOD if label == "good" else BAD).split()]  # fmt: skip
    rows[3], rows[30] = ("", "good"), ("  ", "bad")
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    (folder / "said.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result, source = folder / "said.headstart", folder / "source"
    message = {
        "pretrain": call("pretrain", "lstm", folder / "said.csv", "--target", "label", "--epochs", 2, "-o", source)
    }
    message["fit"] = call("fit", folder / "said.csv", "--target", "label", "-s", f"saved:{source}", "-o", result)
    return result, message


@pytest.mark.parametrize("command", ["pretrain", "fit"])
def test_empty_texts_are_left_out_by_number(command, home):
    _, noted = home[1][command]
    assert "item 3: empty text" in " ".join(noted.split())


def test_words_are_texts_and_stay_as_they_are(call, home):
    messages = json.loads(call("predict", home[0], *ODD, "--json")[0])["predictions"]
    assert [row["item"] for row in messages] == ODD
    assert all(messages[i]["label"] in ("good", "bad") for i in (0, 1, 3))
    assert messages[2]["label"] is None and messages[2]["error"] == "empty text"


def test_texts_are_shown_as_written_and_cut_where_they_are_long(call, home):
    shown, _ = call("predict", home[0], *ODD)
    assert "see http://a.org//b/../c: bad" in shown
    assert "1 of 4 items could not be read" in shown
    assert len(shown) < 3000
    again, _ = call("predict", home[0], "good " * 3000)
    assert len(again) < 3000 and "TEXT -o predictions.csv" in again


def test_extract_of_steps_in_time(call, home, tmp_path):
    """Items of different lengths: how wide a step is, and in the file all steps and how many each item has."""
    table, source, file = home[0].with_name("said.csv"), home[0].with_name("source"), tmp_path / "steps.npz"
    words = ["extract", table, "--input", "text", "-s", f"saved:{source}", "-l", "recurrent", "--pooling", "frames"]
    document = json.loads(call(*words, "-o", file, "--json")[0])
    assert document["layers"] == [{"name": "recurrent", "pooling": "frames", "width": 64}]
    assert "64 a step" in call(*words)[0]
    with np.load(file) as arrays:
        assert len(arrays["steps:recurrent"]) == document["rows"] == len(arrays["items"])
        assert arrays["recurrent"].shape == (arrays["steps:recurrent"].sum(), 64)
