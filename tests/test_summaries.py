"""Summarization as a task: fit, predict, evaluate, save; what is chosen and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, StoreError, UnreadableItem
from headstart.metrics import evaluate
from headstart.predictor import load
from headstart.pretraining import pretrain
from headstart.summarization import Document, Length
from headstart.transfer import fit
from listeners import Notes
from summaries import stories

pytest.importorskip("rouge_score", reason="rouge-score is not installed")


@pytest.fixture(scope="module")
def data():
    return Dataset.from_arrays(*stories(), task="summarization")


@pytest.fixture(scope="module")
def source(data):
    return pretrain("lstm", data.without_targets(), objective="random")


@pytest.fixture(scope="module")
def predictor(source, data):
    return fit(source, data, store=False)


@pytest.fixture(scope="module")
def test_part():
    return Dataset.from_arrays(*stories(6, seed=1), task="summarization")


def test_it_learns_what_the_references_take(predictor, test_part):
    assert predictor.predict(test_part) == list(test_part.targets)
    assert predictor.predict(test_part.items[0]) == test_part.targets[0]
    assert predictor.targets[0].length == Length("share of sentences", pytest.approx(0.3))
    table = predictor.chosen["selection"]["target"]
    assert table["metric"] == "rouge1" and table["score"] == 1 and len(table["table"]) == 3


def test_metrics_stand_beside_those_of_the_baselines_at_equal_length(predictor, test_part):
    result = predictor.evaluate(test_part)
    names = [before + name for before in ("", "lead.", "textrank.") for name in ("rouge1", "rouge2", "rougeL")]
    assert set(names) <= set(result.metrics) and result.headline == "rouge1"
    assert result.metrics["rouge1"] == 1 > result.metrics["lead.rouge1"] + 0.05
    for name in names:
        assert result.metrics[name].low <= result.metrics[name] <= result.metrics[name].high
        assert result.row_scores[name].shape == (6,)
    leads = []
    for text, message in zip(test_part.items, predictor.predict(test_part)):
        document, expected = Document.from_text(text), Document.from_text(message).lengths.sum()
        sizes = np.cumsum(document.lengths)
        count = int(np.abs(sizes - expected).argmin()) + 1  # the nearest number of leading sentences, in words
        leads.append("\n".join(document.sentences[:count]))
    again = evaluate("summarization", test_part.targets, leads, only=["rouge1"])["rouge1"]
    assert again == result.metrics["lead.rouge1"]


def test_saved_and_loaded_it_writes_the_same(predictor, test_part, tmp_path):
    again = load(predictor.save(tmp_path / "s.headstart"))
    assert again.predict(test_part) == predictor.predict(test_part)
    assert again.targets[0].config() == predictor.targets[0].config()


def test_one_pass_gives_labels_alone(predictor, test_part):
    predictions = predictor.infer(test_part)
    assert predictions.labels == predictor.predict(test_part)
    assert predictions.probabilities is None and predictions.decisions is None and predictions.skipped == ()


def test_a_damaged_record_is_refused(predictor):
    answer = predictor.targets[0]
    for wrong in ({"joint": "<br>"}, {"seen": "everything"}, {"length": {"unit": "pages", "amount": 1.0}}):
        with pytest.raises((ValueError, KeyError)):
            type(answer).from_config({**answer.config(), **wrong}, answer.state())
    other = dict(answer.state())
    other["intercept"] = other["intercept"][:1]
    with pytest.raises((ValueError, StoreError)):
        type(answer).from_config(answer.config(), other)


@pytest.mark.parametrize(("length", "count"), [(1, 1), ("2 sentences", 2), (0.5, 5), ("1 words", 1)])
def test_the_length_can_be_fixed(source, data, length, count):
    message = fit(source, data, length=length, store=False).predict(data.items[0])
    assert len(message.split("\n")) == count


def test_chinese(source):
    documents, summaries = stories(8, chinese=True)
    train = Dataset.from_arrays(documents, summaries, task="summarization")
    predictor = fit(source, train, store=False)
    assert predictor.predict(documents[0]) == summaries[0]
    flat = Dataset.from_arrays(documents, [text.replace("\n", "") for text in summaries], task="summarization")
    assert fit(source, flat, store=False).predict(documents[0]) == summaries[0].replace("\n", "")


def test_documents_stay_whole_in_cross_validation(source, data):
    from headstart.transfer import summarization

    seen = []
    remaining = summarization.select_head
    try:
        summarization.select_head = lambda *args, **how: seen.append(result := remaining(*args, **how)) or result
        fit(source, data, store=False)
    finally:
        summarization.select_head = remaining
    owner = np.repeat(np.arange(12), 10)
    for choice in seen:
        assert all(len(set(folds[owner == i])) == 1 for folds in choice.folds for i in range(12))


def test_what_cannot_be_read_is_left_out_and_named(source, predictor, data):
    texts = [*data.items[:6], " ", "\ud800"]
    value = Dataset.from_arrays(texts, [*data.targets[:6], "a", "b"], task="summarization")
    log = Notes()
    with listening(log):
        fitted = fit(source, value, store=False)
    assert any("empty text" in line for line in log)
    result = predictor.evaluate(value)
    assert [(item.index, item.reason) for item in result.skipped] == [(6, "empty text")]
    assert predictor.predict(texts, on_error="skip")[6] is None
    with pytest.raises(UnreadableItem, match="empty text"):
        predictor.predict(" ")
    assert fitted.predict(data.items[0])


def test_one_document_is_enough_and_says_that_nothing_was_compared(source):
    documents, summaries = stories(1)
    predictor = fit(source, Dataset.from_arrays(documents, summaries, task="summarization"), store=False)
    assert "nothing could be held out" in predictor.chosen["selection"]["target"]["reason"]
    assert predictor.predict(documents[0])


def test_documents_without_a_reference_are_left_out(source, data, predictor):
    subset = data.with_targets([None, *data.targets[1:]])
    assert fit(source, subset, store=False).predict(data.items[1]) == data.targets[1]
    assert any("no label" in note for note in predictor.evaluate(subset).notes)


@pytest.mark.parametrize(
    ("documents", "summaries", "how", "message"),
    [
        (["One two. Three four."] * 3, ["x y z"] * 3, {}, "share no words"),
        (["One two. Three four."] * 3, ["One two. Three four."] * 3, {}, "take every sentence"),
        (["One two. Three four."] * 3, ["One two."] * 3, {"length": "long"}, "length of a summary"),
        (["One two. Three four."] * 3, ["One two."] * 3, {"policy": "full"}, "cannot fine-tune"),
        (["One two. Three four."] * 3, [None, None, " "], {}, "summary in"),
    ],
)
def test_what_is_refused(source, documents, summaries, how, message):
    with pytest.raises((DataError, OptionError), match=message):
        fit(source, Dataset.from_arrays(documents, summaries, task="summarization"), store=False, **how)


def test_length_is_of_summaries_only():
    with pytest.raises(OptionError, match="length= is of summaries"):
        fit("fake:vector", Dataset.from_arrays(np.eye(8, dtype=np.float32), ["a", "b"] * 4), length=3)


def test_numbers_are_not_given(predictor, data):
    with pytest.raises(OptionError, match="Summarization"):
        predictor.predict_proba(data)


def test_references_must_be_texts(predictor, data):
    with pytest.raises(DataError, match="does summarization"):
        predictor.evaluate(Dataset.from_arrays(list(data.items), np.arange(12.0), task="regression"))


def test_a_class_and_a_summary_of_the_same_documents(source, data, test_part):
    """One column reads the documents, the other their sentences."""
    kinds = ["even", "odd"] * 6
    task = {"kind": "classification", "short": "summarization"}
    both = data.with_targets({"kind": kinds, "short": list(data.targets)}, task=task)
    predictor = fit(source, both, store=False)
    results = predictor.predict(test_part)
    assert set(results) == {"kind", "short"}
    assert results["short"] == list(test_part.targets) and set(results["kind"]) <= {"even", "odd"}
    result = predictor.evaluate(both)
    assert {"kind.accuracy", "short.rouge1", "short.lead.rouge1", "short.textrank.rouge1"} <= set(result.metrics)


def test_sentence_vectors_of_several_layers_and_sources_stand_side_by_side(source, data, test_part):
    other = pretrain("lstm", data.without_targets(), objective="random", cell="gru", random_state=1)
    predictor = fit([source, other], data, layers=["recurrent", "state"], head="ridge", store=False)
    assert predictor.predict(test_part) == list(test_part.targets)
    parts = predictor.targets[0].specs
    assert not parts or [(part.source, part.layer) for part in parts] == [
        (0, "recurrent"), (0, "state"), (1, "recurrent"), (1, "state"),
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_predictor(source, data):
    first, second = (fit(source, data, store=False, random_state=3).targets[0] for _ in range(2))
    assert first.config() == second.config()
    assert all(np.array_equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))


def test_a_document_that_cannot_be_read_is_named_and_raised_where_that_is_asked_for(source):
    texts, summaries = stories(8)
    texts[3] = "  "
    data = Dataset.from_arrays(texts, summaries, task="summarization")
    with pytest.raises(UnreadableItem, match="item 3"):
        fit(source, data, on_error="raise", store=False)
