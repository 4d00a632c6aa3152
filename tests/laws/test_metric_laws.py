"""What every metric must satisfy: bounds, best and worst, weights, order, names, intervals, a reference."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st
from members import METRIC_MEMBERS

from headstart.metrics import HEADLINE, METRICS, evaluate
from headstart.metrics.base import align_rows, always, mean

CLASSES = ("bee", "cat", "dog", "eel", "fox", "gnu", "hen")
COUNTS = dict(zip(CLASSES, (500, 101, 100, 20, 19, 5, 0)))  # two with many, two with some, three with few
WORDS = "the cat sat on a mat while dogs run and a dog was running through fields, a field of houses and lights".split()  # noqa: SIM905

members = pytest.mark.parametrize(("name", "task"), METRIC_MEMBERS, ids=lambda value: str(value))


def sample(task: str, n: int, seed: int, skill: float = 0.6) -> dict:
    """Arguments of ``evaluate`` for n rows of which about ``skill`` are right; every metric of the task applies."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < skill
    if task == "classification":
        truth = np.concatenate([np.arange(7), rng.integers(0, 7, n)])[:n]
        message = np.where(right, truth, rng.integers(0, 7, n))
        proba = rng.dirichlet(np.full(7, 0.5), n)
        best = proba.argmax(1)
        rows = np.arange(n)
        proba[rows, message], proba[rows, best] = proba[rows, best], proba[rows, message]
        names = np.array(CLASSES)
        return {"truth": list(names[truth]), "predicted": list(names[message]), "proba": proba, "classes": CLASSES,
                "train_counts": COUNTS}  # fmt: skip
    if task == "multilabel":
        truth = (rng.random((n, 4)) < 0.4).astype(int)
        truth[0] = 1
        scores = truth * skill + rng.random((n, 4))
        return {"truth": truth, "predicted": (scores > 0.8).astype(int), "proba": scores}
    if task == "regression":
        truth = rng.normal(50, 10, (n, 2))
        return {"truth": truth, "predicted": truth + (1 - skill) * rng.normal(0, 10, (n, 2))}
    truth = [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(n)]
    message = [t if ok else " ".join(rng.choice(WORDS, rng.integers(3, 12))) for t, ok in zip(truth, right)]
    return {"truth": truth, "predicted": message}


def perfect(task: str, n: int) -> dict:
    """The same, all right and, where there are probabilities, certain."""
    value = {**sample(task, n, seed=1)}
    value["predicted"] = value["truth"]
    if task == "classification":
        value["proba"] = np.eye(7)[[CLASSES.index(label) for label in value["truth"]]]
    if task == "multilabel":
        value["proba"] = value["truth"].astype(float)
    return value


def _taken(given: dict, index: np.ndarray) -> dict:
    """The rows of a sample at some places."""
    columns = {key: given[key] for key in ("truth", "predicted", "proba") if key in given}
    return {k: v[index] if isinstance(v, np.ndarray) else [v[i] for i in index] for k, v in columns.items()}


def prepared(name: str, task: str, n: int = 60, seed: int = 0, skill: float = 0.6):
    """(measure, parts) of a sample."""
    measure = METRICS[name]
    return measure, measure.parts(align_rows(task, **sample(task, n, seed, skill)))


@members
def test_a_member_says_what_it_is(name, task):
    measure = METRICS[name]
    assert measure.name == name
    assert measure.better in ("higher", "lower")
    assert measure.bounds[0] < measure.bounds[1]
    assert name in evaluate(task, **sample(task, 80, 0)), "it applies to a full sample"


@pytest.mark.parametrize("task", HEADLINE)
def test_the_headline_comes_first_and_exists(task):
    result = list(evaluate(task, **sample(task, 60, 0)))
    assert result[0] == HEADLINE[task][0]
    assert result[1:] == sorted(result[1:])
    assert all(task in METRICS[name].tasks for name in HEADLINE[task])


@members
@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), skill=st.sampled_from([0.0, 0.5, 1.0]))
def test_values_and_intervals_stay_in_bounds(name, task, n, seed, skill):
    result = evaluate(task, **sample(task, n, seed, skill)).get(name)
    if result is None or math.isnan(result):  # a group of classes without test rows
        return
    low, high = METRICS[name].bounds
    assert low <= result <= high
    if result.low is not None:
        assert low <= result.low <= result <= result.high <= high


@members
def test_perfect_is_best(name, task):
    result = evaluate(task, **perfect(task, 40))[name]
    best = METRICS[name].bounds[1] if METRICS[name].better == "higher" else METRICS[name].bounds[0]
    assert float(result) == pytest.approx(best, abs=1e-12)


WORST = {  # value when everything is wrong, and certain
    "accuracy": 0, "balanced_accuracy": 0, "brier": 2, "cer": None, "ece": 1, "few_shot_recall": 0,
    "log_loss": -math.log(np.finfo(float).eps), "macro_f1": 0, "mae": None, "many_shot_recall": 0,
    "mean_average_precision": None, "medium_shot_recall": 0, "micro_f1": 0, "r2": None, "rmse": None, "rouge1": 0,
    "rouge2": 0, "rougeL": 0, "rougeLsum": 0, "top5": 0, "wer": 1, "worst_class_recall": 0,
}  # fmt: skip


@members
def test_worst_is_worst(name, task):
    """None stands for metrics without a worst value (errors have no end, an average precision depends on the share)."""
    value = perfect(task, 40)
    if task == "classification":
        index = (np.argmax(value["proba"], 1) + 1) % 7
        value["predicted"] = [CLASSES[i] for i in index]
        value["proba"] = np.eye(7)[index]
    elif task == "multilabel":
        value["predicted"] = 1 - value["truth"]
        value["proba"] = 1.0 - value["truth"]
    elif task == "regression":
        value["predicted"] = value["truth"] + 1e6
    else:
        value["predicted"] = [" ".join("zzz" for _ in text.split()) for text in value["truth"]]
    result = evaluate(task, **value)[name]
    good = evaluate(task, **perfect(task, 40))[name]
    assert (result < good) if METRICS[name].better == "higher" else (result > good)
    if WORST[name] is not None:
        assert float(result) == pytest.approx(WORST[name], abs=1e-12)


@members
@given(seed=st.integers(0, 10**6), data=st.data())
def test_weights_are_repetitions(name, task, seed, data):
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=14, max_size=14).filter(any)))
    value = sample(task, 14, seed)
    repeated = {**value, **_taken(value, np.repeat(np.arange(14), counts))}
    measure = METRICS[name]
    weighted = measure.value(measure.parts(align_rows(task, **value)), counts[None].astype(float))
    again = measure.value(measure.parts(align_rows(task, **repeated)), np.ones((1, counts.sum())))
    np.testing.assert_allclose(weighted, again, rtol=1e-9, atol=1e-12)


@members
@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 50))
def test_many_weightings_at_once_are_each_alone_and_scale_does_not_matter(name, task, seed, factor):
    measure, parts = prepared(name, task, n=15, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 4, (5, 15)).astype(float)
    weights[:, 0] += 1
    together = measure.value(parts, weights)
    alone = np.concatenate([measure.value(parts, factor * row[None]) for row in weights])
    assert together.shape == (5,)
    np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-12)


@members
@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(name, task, seed):
    value = sample(task, 30, seed)
    moved = {**value, **_taken(value, np.random.default_rng(seed).permutation(30))}
    measure = METRICS[name]
    items = np.ones((1, 30))
    values = [measure.value(measure.parts(align_rows(task, **rows)), items)[0] for rows in (value, moved)]
    assert values[0] == pytest.approx(values[1], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", [name for name, task in METRIC_MEMBERS if task == "classification"])
@given(seed=st.integers(0, 10**6), order=st.permutations(range(7)))
def test_the_names_and_order_of_classes_do_not_matter(name, seed, order):
    value = sample("classification", 40, seed)
    names = {label: f"renamed {i}" for i, label in enumerate(CLASSES)}
    renamed = {
        "truth": [names[label] for label in value["truth"]],
        "predicted": [names[label] for label in value["predicted"]],
        "proba": value["proba"][:, order],
        "classes": [names[CLASSES[i]] for i in order],
        "train_counts": {names[label]: count for label, count in COUNTS.items()},
    }
    a, b = (evaluate("classification", **rows, only=[name])[name] for rows in (value, renamed))
    assert float(a) == pytest.approx(float(b), rel=1e-9)


@members
def test_the_same_seed_gives_the_same_interval_and_another_one_nearly(name, task):
    rows = align_rows(task, **sample(task, 120, 3))
    first, again, other = (METRICS[name](rows, seed) for seed in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    width = first.high - first.low
    assert width > 0
    assert abs(first.low - other.low) < 0.35 * width and abs(first.high - other.high) < 0.35 * width


@members
def test_more_rows_give_a_narrower_interval(name, task):
    measure = METRICS[name]
    small, n_items = (measure(align_rows(task, **sample(task, n, 5))) for n in (60, 960))
    assert n_items.high - n_items.low < 0.6 * (small.high - small.low)


# ---- independent references ----------------------------------------------------------------------------------------


def _codes(rows):
    return [np.array([CLASSES.index(label) for label in rows[key]]) for key in ("truth", "predicted")]


def _recalls(rows):
    truth, message = rows["truth"], rows["predicted"]
    return dict(
        zip(CLASSES, reference.recall_score(truth, message, labels=CLASSES, average=None, zero_division=np.nan))
    )


def _group(rows, low, high):
    return np.nanmean([r for label, r in _recalls(rows).items() if low <= COUNTS[label] <= high])


def _ece(rows):
    truth, _ = _codes(rows)
    total, bins = 0.0, [[] for _ in range(15)]
    for p, t in zip(rows["proba"], truth):
        bins[min(int(p.max() * 15), 14)].append((p.argmax() == t, p.max()))
    for entries in filter(None, bins):
        right, sure = np.mean(entries, axis=0)
        total += len(entries) / len(truth) * abs(right - sure)
    return total


def _distance(a, b):
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


def _rate(rows, split):
    pairs = [(split(t), split(p)) for t, p in zip(rows["truth"], rows["predicted"])]
    return sum(_distance(t, p) for t, p in pairs) / sum(len(t) for t, _ in pairs)


def _tokens(text):
    from nltk.stem.porter import PorterStemmer

    return [PorterStemmer().stem(w) if len(w) > 3 else w for w in re.findall("[a-z0-9]+", text.lower())]


def _ngrams(n):
    def overlap(truth, said):
        a, b = (Counter(zip(*(tokens[i:] for i in range(n)))) for tokens in (truth, said))
        return sum((a & b).values()), sum(a.values()), sum(b.values())

    return overlap


def _subsequence(truth, said):
    """Longest common subsequence by the distance that only inserts and deletes."""
    table = np.zeros((len(truth) + 1, len(said) + 1), int)
    for i, x in enumerate(truth, 1):
        for j, y in enumerate(said, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if x == y else max(table[i - 1, j], table[i, j - 1])
    return table[-1, -1], len(truth), len(said)


def _rouge(rows, overlap):
    scores = []
    for truth, message in zip(rows["truth"], rows["predicted"]):
        hit, a, b = overlap(_tokens(truth), _tokens(message))
        scores.append(2 * hit / (a + b) if a + b and hit else 0.0)
    return np.mean(scores)


def _average_precision(rows):
    return reference.average_precision_score(rows["truth"], rows["proba"], average="macro")


REFERENCES = {
    ("accuracy", "classification"): lambda r: reference.accuracy_score(r["truth"], r["predicted"]),
    ("balanced_accuracy", "classification"): lambda r: reference.balanced_accuracy_score(r["truth"], r["predicted"]),
    ("brier", "classification"): lambda r: np.mean(((r["proba"] - np.eye(7)[_codes(r)[0]]) ** 2).sum(1)),
    ("cer", "transcription"): lambda r: _rate(r, list),
    ("ece", "classification"): _ece,
    ("few_shot_recall", "classification"): lambda r: _group(r, 0, 19),
    ("log_loss", "classification"): lambda r: reference.log_loss(r["truth"], r["proba"], labels=CLASSES),
    ("macro_f1", "classification"): lambda r: reference.f1_score(r["truth"], r["predicted"], average="macro"),
    ("macro_f1", "multilabel"): lambda r: reference.f1_score(r["truth"], r["predicted"], average="macro"),
    ("mae", "regression"): lambda r: reference.mean_absolute_error(r["truth"], r["predicted"]),
    ("many_shot_recall", "classification"): lambda r: _group(r, 101, math.inf),
    ("mean_average_precision", "multilabel"): _average_precision,
    ("medium_shot_recall", "classification"): lambda r: _group(r, 20, 100),
    ("micro_f1", "multilabel"): lambda r: reference.f1_score(r["truth"], r["predicted"], average="micro"),
    ("r2", "regression"): lambda r: reference.r2_score(r["truth"], r["predicted"]),
    ("rmse", "regression"): lambda r: reference.root_mean_squared_error(r["truth"], r["predicted"]),
    ("rouge1", "summarization"): lambda r: _rouge(r, _ngrams(1)),
    ("rouge2", "summarization"): lambda r: _rouge(r, _ngrams(2)),
    ("rougeL", "summarization"): lambda r: _rouge(r, _subsequence),
    ("rougeLsum", "summarization"): lambda r: _rouge(r, _subsequence),  # the same where texts are single lines
    ("top5", "classification"): lambda r: reference.top_k_accuracy_score(_codes(r)[0], r["proba"], k=5),
    ("wer", "transcription"): lambda r: _rate(r, str.split),
    ("worst_class_recall", "classification"): lambda r: np.nanmin(list(_recalls(r).values())),
}


@members
@given(seed=st.integers(0, 10**6), skill=st.sampled_from([0.2, 0.6, 0.95]))
def test_it_equals_an_independent_reference(name, task, seed, skill):
    assert (name, task) in REFERENCES, f"give {name} an independent reference in this file"
    rows = sample(task, 25, seed, skill)
    measure = METRICS[name]
    value = measure.value(measure.parts(align_rows(task, **rows)), np.ones((1, 25)))[0]
    assert value == pytest.approx(REFERENCES[name, task](rows), rel=1e-9, abs=1e-12)


@members
def test_row_scores_of_a_mean_average_to_it(name, task):
    measure, parts = prepared(name, task)
    assert measure.by_row == (measure.value is mean)
    if measure.by_row:
        assert parts.shape == (60,)
        assert parts.mean() == pytest.approx(float(evaluate(task, **sample(task, 60, 0))[name]))


@members
def test_a_condition_is_a_condition(name, task):
    """Metrics that need probabilities, or counts of training rows, are left out without them, never wrong."""
    bare = {key: value for key, value in sample(task, 30, 0).items() if key in ("truth", "predicted")}
    assert (name in evaluate(task, **bare)) == (METRICS[name].applies is always)


COVERED = "accuracy balanced_accuracy brier log_loss macro_f1 mae mean_average_precision micro_f1 r2 rmse"


@pytest.mark.parametrize("name", COVERED.split())
@pytest.mark.parametrize("n", [25, 100])
def test_intervals_cover(name, n):
    """Of 300 samples, at least 88 in 100 intervals hold the value of the population (a bootstrap of 25 is short)."""
    measure = METRICS[name]
    task = min(measure.tasks)
    population = measure.parts(align_rows(task, **sample(task, 20_000, 99)))
    truth = measure.value(population, np.ones((1, 20_000)))[0]
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(300):
        _, low, high = measure.interval(measure, population[rng.choice(20_000, n)], seed)
        inside += low <= truth <= high
    assert inside >= 0.88 * 300, f"{inside / 300:.2f} of the intervals hold {truth:.3f}"
