"""What is special to metrics: what callers may hand in, what is refused, per class, confusion, whole results."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

import headstart._base.extras
from headstart.errors import DataError, MissingPackage, OptionError, UnknownName
from headstart.metrics import METRICS, assess, confusion, evaluate, per_class
from headstart.metrics.text import UnicodeWords
from headstart.result import Result

TRUTH = ["ant", "ant", "bee", "bee", "bee", "cat"]
SAID = ["ant", "bee", "bee", "bee", "cat", "cat"]


def proba(labels, classes, sure=0.8):
    rest = (1 - sure) / (len(classes) - 1)
    return np.array([[sure if c == label else rest for c in classes] for label in labels])


# ---- what may be handed in -----------------------------------------------------------------------------------------


def test_labels_of_any_type_mean_the_same():
    want = evaluate("classification", TRUTH, SAID)
    codes = {"ant": 0, "bee": 1, "cat": 2}
    numbers = [[codes[label] for label in labels] for labels in (TRUTH, SAID)]
    for kind in (tuple, np.array, lambda v: np.array(v, object)):
        assert evaluate("classification", kind(TRUTH), kind(SAID)) == want
        assert evaluate("classification", kind(numbers[0]), kind(numbers[1])) == want
    assert evaluate("classification", np.array(numbers[0]), numbers[1], classes=range(3)) == want


def test_labels_of_mixed_types_are_sorted_somehow():
    rows = per_class([1, "a", None, (1, 2)], [1, 1, 1, (1, 2)])
    assert [row.label for row in rows] == [1, "a", (1, 2)]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan")])
def test_rows_without_a_truth_are_left_out(missing):
    with_gap = evaluate("classification", [*TRUTH, missing], [*SAID, "ant"])
    assert with_gap == evaluate("classification", TRUTH, SAID)


@pytest.mark.parametrize(
    ("task", "truth", "said", "clean"),
    [
        ("regression", [1.0, None, 3.0, 5.0], [1, 2, 2, 5], 3),
        ("regression", np.array([[1, 2], [np.nan, 1], [3, 4]]), np.ones((3, 2)), 2),
        ("regression", [(1.0, 2.0), (float("nan"), 1.0), (3.0, 4.0)], np.ones((3, 2)), 2),
        ("multilabel", [{"a"}, None, {"b"}], [{"a"}, {"a"}, {"b"}], 2),
        ("transcription", ["a b", None], ["a b", "c"], 1),
    ],
)
def test_gaps_in_every_task(task, truth, said, clean):
    remaining = [i for i in range(len(truth)) if i != 1]
    result = assess(task, truth, said)
    want = assess(task, [truth[i] for i in remaining], [said[i] for i in remaining])
    assert result.metrics == want.metrics
    assert len(remaining) == clean


def test_proba_follows_its_rows_when_some_are_left_out():
    classes = ["ant", "bee", "cat"]
    full = evaluate("classification", TRUTH, SAID, proba=proba(SAID, classes), classes=classes)
    gap = evaluate(
        "classification", [None, *TRUTH], ["cat", *SAID], proba=proba(["cat", *SAID], classes), classes=classes
    )
    assert full == gap


def test_a_class_unknown_to_the_predictor_is_an_error_that_counts():
    classes = ["ant", "bee"]
    message = ["ant", "bee", "bee"]
    result = assess("classification", ["ant", "bee", "yak"], message, proba=proba(message, classes), classes=classes)
    assert result.metrics["accuracy"] == pytest.approx(2 / 3)
    assert result.metrics["log_loss"] > 10
    assert [row.label for row in result.per_class] == ["ant", "bee", "yak"]
    assert result.per_class[2].recall == 0


def test_a_class_without_test_rows_stays_out_of_the_means():
    small = evaluate("classification", ["a", "b"], ["a", "b"], classes=["a", "b", "c"])
    assert small["balanced_accuracy"] == small["macro_f1"] == small["worst_class_recall"] == 1
    row = per_class(["a", "b"], ["a", "b"], ["a", "b", "c"])[2]
    assert row.n == 0 and np.isnan(row.recall) and (row.recall.low, row.recall.high) == (0, 1)


def test_probabilities_are_made_to_add_up():
    nearly = proba(TRUTH, ["ant", "bee", "cat"]).astype(np.float16)
    result = evaluate("classification", TRUTH, SAID, proba=nearly)
    assert result["log_loss"] == pytest.approx(-np.log(0.8), abs=1e-3)


def test_two_classes_have_half_the_brier_score():
    p = proba(["a", "b", "b"], ["a", "b"], 0.7)
    result = evaluate("classification", ["a", "b", "a"], ["a", "b", "b"], proba=p)
    assert result["brier"] == pytest.approx(reference.brier_score_loss([0, 1, 0], p[:, 1]))
    assert "top5" not in result, "five guesses among two classes are no feat"


def test_equal_probabilities_earn_no_top5():
    flat = np.full((12, 12), 1 / 12)
    assert evaluate("classification", range(12), [0] * 12, proba=flat)["top5"] == 0


def test_multilabel_takes_names_or_matrices():
    truth, message = [{"a", "b"}, {"c"}, set()], [["a"], ["c"], ["b"]]
    names = evaluate("multilabel", truth, message, classes=["a", "b", "c"])
    matrix = evaluate(
        "multilabel", np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]]), np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    )
    assert names == matrix == evaluate("multilabel", truth, message)
    assert next(iter(names)) == "micro_f1", "without scores the headline is micro-F1"
    rows = list(np.array([[1, 1, 0], [0, 0, 1]]))
    assert evaluate("multilabel", rows, rows)["micro_f1"] == 1


def test_average_precision_leaves_labels_out_that_never_occur():
    truth = np.array([[1, 0], [0, 0], [1, 0]])
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.5]])
    result = evaluate("multilabel", truth, truth, proba=scores)["mean_average_precision"]
    assert result == pytest.approx(reference.average_precision_score(truth[:, 0], scores[:, 0]))
    assert np.isnan(evaluate("multilabel", 0 * truth, truth, proba=scores)["mean_average_precision"])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30))
def test_average_precision_with_ties(rows):
    truth, scores = np.array(rows, float).T
    truth[0] = 1
    result = evaluate("multilabel", truth[:, None], truth[:, None], proba=scores[:, None])["mean_average_precision"]
    assert result == pytest.approx(reference.average_precision_score(truth, scores))


def test_regression_takes_one_or_several_outputs():
    item = evaluate("regression", [1, 2, 4.0], [1, 2, 3.0])
    assert item == evaluate("regression", np.array([[1], [2], [4.0]]), np.array([[1], [2], [3.0]]))
    assert list(item) == ["r2", "mae", "rmse"]


@pytest.mark.parametrize(("truth", "said"), [([5, 5, 5], [5, 5, 5]), ([5, 5, 5], [5, 5, 6]), ([7], [7]), ([7], [8])])
def test_r2_of_a_constant_truth_is_as_in_scikit_learn(truth, said):
    want = reference.r2_score(truth, said) if len(truth) > 1 else float(truth == said)
    assert evaluate("regression", truth, said)["r2"] == want


def test_r2_survives_a_big_offset():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    message = truth + 0.5 * rng.normal(size=300)
    near, far = (evaluate("regression", truth + c, message + c)["r2"] for c in (0, 1e9))
    assert near == pytest.approx(far, rel=1e-6)
    assert near.low == pytest.approx(far.low, rel=1e-4)


# ---- texts ---------------------------------------------------------------------------------------------------------


def test_error_rates_count_insertions_and_empty_texts():
    result = evaluate("transcription", ["one two", "", "three"], ["one two", "noise", ""])
    assert result["wer"] == pytest.approx(2 / 3)
    assert evaluate("transcription", ["a"], ["a b c"])["wer"] == 2
    assert next(iter(result)) == "wer"
    assert np.isnan(evaluate("transcription", [""], ["x"])["wer"]), "no length to divide by"


def test_rouge_lsum_takes_lines_as_sentences():
    from rouge_score.rouge_scorer import RougeScorer

    truth = "the cat sat on the mat\nthe dogs ran away"
    message = "dogs are running\na cat was sitting on the mat"
    want = RougeScorer(["rougeLsum"], use_stemmer=True).score(truth, message)["rougeLsum"].fmeasure
    result = evaluate("summarization", [truth], [message])
    assert result["rougeLsum"] == pytest.approx(want)
    assert result["rougeLsum"] > result["rougeL"], "sentences may come in another order"


def test_rouge_sees_scripts_that_are_not_ascii():
    result = evaluate("summarization", ["股市今日大幅上涨", "Сегодня рынок вырос"], ["股市大幅上涨", "рынок вырос"])
    assert result["rouge1"] > 0.7
    assert UnicodeWords().tokenize("Ökonomie: 3 Äpfel、東京タワー") == [
        "ökonomie",
        "3",
        "äpfel",
        "東",
        "京",
        "タ",
        "ワ",
        "ー",
    ]


def test_rouge_of_nothing_is_zero():
    assert evaluate("summarization", ["", "a b c"], ["", ""])["rouge1"] == 0


def test_rouge_is_computed_once_for_its_four_members(monkeypatch):
    from rouge_score import rouge_scorer

    calls = []
    score = rouge_scorer.RougeScorer.score
    monkeypatch.setattr(rouge_scorer.RougeScorer, "score", lambda *a: calls.append(1) or score(*a))
    assess("summarization", ["a b", "c"], ["a", "c"])
    assert len(calls) == 2


@pytest.mark.parametrize(("task", "module"), [("transcription", "jiwer"), ("summarization", "rouge_score")])
def test_missing_packages_are_named_with_the_pip_line(task, module, monkeypatch):
    find = headstart._base.extras.find_spec
    monkeypatch.setattr(
        headstart._base.extras, "find_spec", lambda name: None if name.startswith(module) else find(name)
    )
    with pytest.raises(MissingPackage, match="pip install") as error:
        evaluate(task, ["a"], ["b"])
    assert module.replace("_", "-") in str(error.value)


def test_real_summaries_score_what_the_readme_of_the_data_says(shared):
    """BBC: ROUGE-1/2 of the leading 40 % of sentences are 0.600 and 0.477 there; sentences are split roughly here."""
    import json
    import re

    rows = [json.loads(line) for line in (shared / "summarization/bbc100.jsonl").read_text("utf-8").splitlines()][:20]
    leads = []
    for row in rows:
        sentences = re.split(r"(?<=[.!?])\s+", row["document"])
        leads.append(" ".join(sentences[: max(1, round(0.4 * len(sentences)))]))
    result = evaluate("summarization", [row["summary"] for row in rows], leads)
    assert 0.5 < result["rouge1"] < 0.72
    assert result["rouge2"] < result["rouge1"]


# ---- refusals ------------------------------------------------------------------------------------------------------

THREE = np.full((3, 3), 1 / 3)
REFUSED = {
    "counts": (("classification", ["a"] * 3, ["a"] * 2), {}, DataError, "3 truth, 2 predicted"),
    "proba count": (("classification", ["a"] * 2, ["a"] * 2), {"proba": THREE}, DataError, "3 proba"),
    "proba columns": (("classification", ["a"] * 3, ["b"] * 3), {"proba": THREE}, DataError, "3 columns for 2 classes"),
    "decisions": (("classification", list("abc"), list("abc")), {"proba": 9 * THREE}, DataError, "decisions"),
    "negative": (("classification", list("abc"), list("abc")), {"proba": [[-1, 1, 1]] * 3}, DataError, "0 or more"),
    "nan proba": (("classification", list("abc"), list("abc")), {"proba": THREE * np.nan}, DataError, "not finite"),
    "cube": (("regression", np.ones((2, 2, 2)), np.ones((2, 2, 2))), {}, DataError, "one or two dimensional"),
    "nothing": (("classification", [None, None], ["a", "a"]), {}, DataError, "none of the 2 rows"),
    "empty": (("classification", [], []), {}, DataError, "nothing to evaluate"),
    "task": (("clasification", ["a"], ["a"]), {}, UnknownName, "did you mean 'classification'"),
    "nan numbers": (("regression", [1.0, 2.0], [np.nan, 1.0]), {}, DataError, "1 of 2 rows of the predictions"),
    "widths": (("regression", np.ones((3, 2)), np.ones((3, 1))), {}, DataError, r"\(3, 2\).*\(3, 1\)"),
    "half labels": (("multilabel", np.full((2, 2), 0.5), np.ones((2, 2))), {}, DataError, "0 or 1"),
    "label widths": (("multilabel", np.ones((2, 2)), np.ones((2, 3))), {}, DataError, r"\(2, 2\) and \(2, 3\)"),
    "strange label": (("multilabel", [["a"]], [["z"]]), {"classes": ["a"]}, DataError, "'z'"),
    "one label": (("multilabel", ["ab"], [["a"]]), {"classes": ["a", "b"]}, DataError, "collection of labels"),
    "other task": (("regression", [1.0], [1.0]), {"only": ["accuracy"]}, OptionError, "these can: .*r2"),
    "no proba": (("classification", ["a"], ["a"]), {"only": ["ece"]}, OptionError, "these can: .*accuracy"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_explained(case):
    args, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        evaluate(*args, **options)


def test_only_gives_what_was_asked_in_that_order():
    assert list(evaluate("classification", TRUTH, SAID, only=["macro_f1", "accuracy"])) == ["macro_f1", "accuracy"]


def test_unknown_metrics_answer_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'accuracy'"):
        METRICS["acuracy"]


# ---- per class, confusion, results ---------------------------------------------------------------------------------

labels = st.lists(st.sampled_from("abcd"), min_size=1, max_size=40)


@given(labels, st.randoms())
def test_per_class_equals_scikit_learn(truth, random):
    message = [random.choice("abcd") for _ in truth]
    rows = per_class(truth, message, "abcd", train_counts={"a": 9})
    want = reference.precision_recall_fscore_support(truth, message, labels=list("abcd"), zero_division=np.nan)
    for i, row in enumerate(rows):
        for name, figures in zip(("precision", "recall", "f1"), want):
            value = getattr(row, name)
            if name != "f1" or not np.isnan(figures[i]):
                assert float(value) == pytest.approx(figures[i], nan_ok=True)
            assert 0 <= value.low <= value.high <= 1
            assert np.isnan(value) or value.low <= value <= value.high
        assert row.n == want[3][i]
        assert row.n_train == (9 if row.label == "a" else 0)


def test_per_class_of_labels():
    rows = per_class([{"a"}, {"a", "b"}], [{"a"}, {"a"}], ["a", "b"], task="multilabel")
    assert [(row.label, row.n, float(row.recall)) for row in rows] == [("a", 2, 1.0), ("b", 1, 0.0)]
    assert all(row.n_train is None for row in rows)


@given(labels, st.randoms())
def test_confusion_equals_scikit_learn(truth, random):
    message = [random.choice("abcd") for _ in truth]
    result = confusion(truth, message, "abcd")
    np.testing.assert_array_equal(result.counts, reference.confusion_matrix(truth, message, labels=list("abcd")))
    assert result.labels == tuple("abcd")
    for true, predicted, count in result.mistakes():
        assert true != predicted
        assert count == sum(t == true and p == predicted for t, p in zip(truth, message))


def test_assess_gives_a_whole_result():
    classes = ["ant", "bee", "cat"]
    result = assess("classification", TRUTH, SAID, proba=proba(SAID, classes), classes=classes, notes=["hello"],
                   train_counts={"ant": 3}, cost={"rows": 6}, provenance={"source": "s"})  # fmt: skip
    assert isinstance(result, Result)
    assert result.headline == "accuracy"
    assert result.notes == ("hello",) and result.cost == {"rows": 6}
    assert result.provenance["source"] == "s" and result.provenance["seed"] == 0
    assert set(result.row_scores) == {"accuracy", "brier", "log_loss"}
    assert result.row_scores["accuracy"].tolist() == [1, 0, 1, 1, 0, 1]
    assert result.confusion.counts.sum() == 6
    assert result.per_class[0].n_train == 3
    assert assess("regression", [1.0], [1.0]).per_class == ()


def test_assess_knows_the_same_rows_again():
    a, b, c = (assess("classification", truth, SAID) for truth in (TRUTH, TRUTH, TRUTH[::-1]))
    assert a.compare(b)["accuracy"].paired
    assert not a.compare(c)["accuracy"].paired


def test_very_many_classes_have_no_confusion_table():
    result = assess("classification", range(1200), range(1200))
    assert result.confusion is None
    assert len(result.per_class) == 1200
    assert "of 1200" in str(result)


def test_big_evaluations_stay_bounded():
    """100,000 rows: the bootstrap is done on 10,000 of them, and its interval is as narrow as 100,000 rows make it."""
    rng = np.random.default_rng(0)
    error = rng.normal(size=100_000)
    result = evaluate("regression", error, np.zeros(100_000), only=["mae"])["mae"]
    assert result.high - result.low == pytest.approx(2 * 1.96 * np.abs(error).std() / np.sqrt(100_000), rel=0.15)


def test_no_heavy_package_is_loaded_for_accuracy():
    import subprocess

    code = (
        "import sys; from headstart.metrics import evaluate; evaluate('classification', ['a'], ['a'])\n"
        "print([m for m in ('torch', 'nltk', 'jiwer', 'rouge_score', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_numbers_whose_squares_overflow_are_refused():
    with pytest.raises(DataError, match="1e\\+150"):
        evaluate("regression", [1e300, 2e300, 4e300], [1e300, 2e300, 3e300])
