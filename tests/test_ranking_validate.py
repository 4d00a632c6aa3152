"""ranking.validate(k): really fitted, on rows that were held out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import weightedtau

from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.ranking import Validation, rank, validate
from headstart.result import Row
from networks import separable, vectors
from test_ranking import dense, good_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


SCORES = ("accuracy", "logme", "h_score", "knn", "static")


def validation_options(truths: dict[str, float], *, n: int = 40, **scores):
    """Arguments of validate() for layers whose test scores are given (see ``fixed_test_scores``)."""
    names = {f"0 {layer}": (SimpleNamespace(fingerprint="f"), layer) for layer in truths}
    values = {name: dict(zip(truths, column, strict=True)) for name, column in scores.items()}
    result = [Row("s", "f", layer, **{name: column[layer] for name, column in values.items()}) for layer in truths]
    rows = {name: np.full((n, 2), truth) for name, truth in zip(names, truths.values(), strict=True)}
    T = np.eye(2)[np.arange(n) % 2]
    return {"rows": rows, "T": T, "names": names, "task": "classification", "ranked": result, "seed": 0}


@pytest.fixture
def fixed_test_scores(monkeypatch):
    """Test scores are what the rows say, and scores those of the ranking."""
    monkeypatch.setattr(validate, "select_head", lambda *_, **__: None)
    monkeypatch.setattr(validate, "_test_score_of_head", lambda choice, X, *_: float(X[0, 0]))
    monkeypatch.setattr(
        validate, "_scores_on_training_part", lambda row, *_: {name: getattr(row, name) for name in validate._SCORES}
    )


@pytest.mark.usefixtures("fixed_test_scores")
def test_tau_and_regret():
    truths = {"a": 0.7, "b": 0.9, "c": 0.8, "d": 0.5}
    result = validate.validate(
        4, **validation_options(truths, accuracy=[4, 3, 2, 1], logme=[1, 4, 3, 0], static=[2, 2, 2, 2])
    )
    assert [row[1:] for row in result.rows] == list(truths.items())
    assert result.tau["accuracy"] == pytest.approx(weightedtau([4, 3, 2, 1], list(truths.values())).statistic)
    assert result.tau["logme"] == pytest.approx(1)
    assert result.tau["static"] == 0.0
    assert result.regret["accuracy"] == pytest.approx(0.2)  # it puts a first, and b is best
    assert result.regret["logme"] == pytest.approx(0)
    assert result.regret["static"] == pytest.approx(0.9 - (0.7 + 0.9 + 0.8 + 0.5) / 4), "of equals: any of them"
    assert set(result.tau) == set(result.regret) == {"accuracy", "logme", "static"}


@pytest.mark.usefixtures("fixed_test_scores")
def test_scores_that_some_rows_lack_are_not_judged():
    result = validate.validate(
        2, **validation_options({"a": 0.7, "b": 0.9}, accuracy=[2, 1], nce=[None, 0.1], leep=[-1, -2])
    )
    assert set(result.tau) == {"accuracy", "leep"}


@pytest.mark.usefixtures("fixed_test_scores")
def test_equal_truths_have_no_order():
    result = validate.validate(3, **validation_options({"a": 0.9, "b": 0.9, "c": 0.9}, accuracy=[3, 2, 1]))
    assert result.tau["accuracy"] == 0.0
    assert result.regret["accuracy"] == 0.0
    assert "nan" not in str(result)


@pytest.mark.usefixtures("fixed_test_scores")
@pytest.mark.parametrize("k", [1, 3, 8, 12, 50])
def test_the_first_k_and_up_to_four_others(k):
    truths = {f"l{i}": 1 - i / 100 for i in range(12)}
    result = validate.validate(k, **validation_options(truths, accuracy=list(range(12, 0, -1))))
    layers = [layer for _, layer, _ in result.rows]
    assert layers[:k] == list(truths)[:k]
    assert len(set(layers)) == len(layers) == min(12, k + 4)
    assert layers[-1] == "l11"


def test_truth_is_from_rows_that_were_held_out(monkeypatch):
    seen = []
    select_head = validate.select_head

    def spy(rows, T, **options):
        seen.append(next(iter(rows.values())))
        return select_head(rows, T, **options)

    monkeypatch.setattr(validate, "select_head", spy)
    X, y = separable(100)
    T = np.eye(3)[y]
    arguments = {"names": {"0 a": (SimpleNamespace(fingerprint="f"), "a")}, "task": "classification", "seed": 3}
    result = validate.validate(1, rows={"0 a": X}, T=T, ranked=[Row("s", "f", "a", accuracy=1.0)], **arguments)
    keys = {row.tobytes() for row in seen[0]}
    train = np.array([row.tobytes() in keys for row in X])
    assert len(seen) == 1
    assert 0.55 < train.mean() < 0.65
    head = select_head({"x": X[train]}, T[train], task="classification", random_state=3).fit({"x": X[train]}, T[train])
    right = head.decision(X[~train]).argmax(1) == y[~train]
    assert result.rows[0][2] == pytest.approx(right.mean())
    assert result.tau == {}


def test_scores_have_not_seen_what_they_are_judged_by():
    """A layer that copies the labels of the test rows only: the ranking is taken in, the validation is not."""
    X, y = separable(200)
    T = np.eye(3)[y]
    test = validate.draw_folds(T, "classification", repeats=1, random_state=1)[0] % 2 == 1
    spy = np.random.default_rng(0).normal(size=(200, 3)) + 9 * T * test[:, None]
    names = {"0 spy": (SimpleNamespace(fingerprint="f"), "spy"), "0 real": (SimpleNamespace(fingerprint="f"), "real")}
    result = [Row("s", "f", "spy", accuracy=1.0, logme=9.0), Row("s", "f", "real", accuracy=0.9, logme=1.0)]
    created = validate.validate(
        2, rows={"0 spy": spy, "0 real": X}, T=T, names=names, task="classification", ranked=result, seed=0
    )
    assert created.regret["accuracy"] == pytest.approx(0)
    assert created.regret["logme"] == pytest.approx(0)


def test_the_whole_job_is_run_where_it_is_asked_for():
    requested = []

    class Fitted:
        def evaluate(self, data):
            requested[-1]["test"] = data
            return SimpleNamespace(metrics={"accuracy": 0.5 + len(requested) / 10})

    def fit(source, data, **options):
        requested.append({"source": source, "train": data, **options})
        return Fitted()

    source, data = dense(), good_data(60)
    result = rank(source, data)
    created = result.validate(2, fit=fit, policy="full")
    assert [round(row[2], 3) for row in created.rows] == [0.6, 0.7, 0.8][: len(created.rows)]
    assert [item["layers"] for item in requested] == [[row.layer] for row in result.rows]
    assert all(item["policy"] == "full" and item["source"] is source for item in requested)
    assert all(len(item["train"]) + len(item["test"]) == 60 for item in requested)
    assert len(requested[0]["train"].without(requested[0]["test"])) == len(requested[0]["train"])
    assert created.items == len(requested[0]["test"])


@pytest.mark.parametrize(("k", "options"), [(0, {}), (True, {}), (1.5, {}), (2, {"policy": "full"})])
def test_what_makes_no_sense_is_refused(k, options):
    with pytest.raises(OptionError, match=r"k must|fit=hs\.fit"):
        validate.validate(k, **validation_options({"a": 0.7, "b": 0.9}, accuracy=[2, 1]), **options)


def solved(X, T, test, task):
    choice = validate.select_head({"x": X[~test]}, T[~test], task=task, random_state=0)
    return validate._test_score_of_head(choice, X, T, test)


def test_memorised_rows_do_not_count():
    X = vectors(60, d=200)
    T = np.eye(2)[np.random.default_rng(0).permutation(60) % 2]
    test = np.arange(60) % 2 == 0
    assert solved(X, T, test, "classification") < 0.8


def test_tasks_of_fits():
    X = vectors(120)
    test = np.arange(120) % 2 == 0
    line = X @ np.arange(8.0)[:, None]
    assert solved(X, line, test, "regression") > 0.95
    noise = np.random.default_rng(0).normal(size=(120, 1))
    assert solved(X, noise, test, "regression") < 0.2
    labels = (X[:, :3] > 0).astype(float)
    assert solved(X, labels, test, "multilabel") > 0.85


def test_groups_stay_together(monkeypatch):
    halves = []
    draw = validate.draw_folds
    monkeypatch.setattr(validate, "draw_folds", lambda *a, **k: halves.append(draw(*a, **k)) or halves[-1])
    groups = np.arange(90) // 6
    rank(dense(), good_data(90, groups=groups.tolist())).validate(1)
    test = halves[0][0] % 2 == 1
    assert all(len(set(test[groups == g])) == 1 for g in range(15))
    assert 0 < test.sum() < 90


def test_a_single_group_cannot_be_validated():
    result = rank(dense(), good_data(30, groups=["one"] * 30))
    with pytest.raises(DataError, match="one group"):
        result.validate(1)


def test_of_a_ranking():
    result = rank([dense(0), dense(1)], good_data(120))
    created = result.validate(2)
    assert isinstance(created, Validation)
    assert [row[:2] for row in created.rows[:2]] == [(row.source, row.layer) for row in result.rows[:2]]
    assert set(created.tau) == set(SCORES)
    assert all(-1 <= tau <= 1 for tau in created.tau.values())
    assert all(0 <= regret <= 1 for regret in created.regret.values())
    assert all(truth > 0.6 for *_, truth in created.rows)
    assert result.validate(2) == created
    assert len(result.validate(99).rows) == len(result.rows)
    text = str(created)
    assert "weighted tau" in text
    assert all(row.layer in text for row in result.rows[:2])
    assert max(len(line) for line in text.splitlines()) <= 100


def test_of_noise():
    X, y = separable(120)
    data = Dataset.from_arrays(X, [f"c{i}" for i in np.random.default_rng(0).permutation(y)])
    created = rank(dense(), data).validate(3)
    assert all(truth < 0.6 for *_, truth in created.rows)
