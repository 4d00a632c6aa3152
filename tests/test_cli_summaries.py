"""Summarization on the command line: fit, predict, evaluate, their JSON, and what is refused."""

from __future__ import annotations

import json

import pytest

from commands import in_process
from headstart.pretraining import pretrain
from summaries import stories

pytest.importorskip("rouge_score", reason="rouge-score is not installed")
COLUMNS = ("--input", "document", "--target", "summary", "--task", "summarization")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source of texts, a table of documents with summaries, and a document of its own."""
    from headstart.dataset import Dataset

    home = tmp_path_factory.mktemp("minutes")
    documents, summaries = stories(12)
    rows = [json.dumps({"document": d, "summary": s}) for d, s in zip(documents, summaries)]
    (home / "minutes.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (home / "article.txt").write_text(documents[0], encoding="utf-8")
    pretrain("lstm", Dataset.from_items(documents, "text"), objective="random").save(home / "source")
    return home


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run a command: what it printed, on standard output or, where it fails, on standard error."""
    with in_process(tmp_path_factory.mktemp("cache")) as run:

        def command(*words, code=0):
            done = run(*words, code=code)
            return done.stdout if code == 0 else done.stderr

        yield command


@pytest.fixture(scope="module")
def fitted(call, folder):
    path = folder / "minutes.headstart"
    words = ("fit", folder / "minutes.jsonl", *COLUMNS, "--source", f"saved:{folder / 'source'}", "-o", path, "--json")
    return path, json.loads(call(*words))


def test_fit_tells_what_was_chosen(fitted):
    _, messages = fitted
    picked = messages["selection"]["summary"]
    assert picked["metric"] == "rouge1" and picked["score"] == 1
    assert picked["length"].endswith("30 % of the sentences") and len(picked["table"]) == 3


def test_a_summary_is_printed_whole(call, fitted, folder):
    _, summaries = stories(12)
    printed = call("predict", fitted[0], folder / "article.txt")
    for sentence in summaries[0].split("\n"):
        assert sentence in " ".join(printed.split())
    messages = json.loads(call("predict", fitted[0], folder / "article.txt", "--json"))
    assert messages["predictions"][0]["label"] == summaries[0]


def test_a_text_in_quotes_and_one_that_is_empty(call, fitted):
    documents, summaries = stories(12)
    messages = json.loads(call("predict", fitted[0], documents[1], " ", "--json"))
    assert messages["predictions"][0]["label"] == summaries[1]
    assert "empty" in messages["predictions"][1]["error"]


def test_a_table_of_summaries(call, fitted, folder):
    out = folder / "out.csv"
    words = ("predict", fitted[0], folder / "minutes.jsonl", "--input", "document", "-o", out)
    call(*words)
    assert out.read_text(encoding="utf-8").count("The ") >= 12 * 3


def test_evaluate_prints_the_baselines_beside_it(call, fitted, folder):
    printed = call("evaluate", fitted[0], folder / "minutes.jsonl", *COLUMNS)
    reference = call("evaluate", fitted[0], folder / "minutes.jsonl")  # its target and task are those of the predictor
    assert [line for line in reference.splitlines() if "rouge" in line] == [
        line for line in printed.splitlines() if "rouge" in line
    ]
    for name in ("rouge1", "lead.rouge1", "textrank.rouge1"):
        assert name in printed
    assert "copies of training items" in " ".join(printed.split())


def test_the_length_is_an_option(call, folder):
    path = folder / "short.headstart"
    words = ("fit", folder / "minutes.jsonl", *COLUMNS, "--source", f"saved:{folder / 'source'}", "-o", path)
    printed = call(*words, "--length", "1 sentence")
    assert "asked for: 1 sentences" in printed
    messages = json.loads(call("predict", path, folder / "article.txt", "--json"))
    assert "\n" not in messages["predictions"][0]["label"]


def test_a_length_that_means_nothing(call, folder):
    words = ("fit", folder / "minutes.jsonl", *COLUMNS, "--source", f"saved:{folder / 'source'}", "-o", folder / "x")
    message = call(*words, "--length", "long", code=1)
    assert "length of a summary" in " ".join(message.split())
