"""The verdict's three ways: clearly, clearly not, and by permutation; and what the sentence says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from headstart.ranking import verdict
from headstart.result import Row
from networks import separable, vectors


def never(*_, **__):
    raise AssertionError("nothing was to be permuted")


def verdict_arguments(score: float, *, n: int = 100, classes: int = 2, **more) -> dict:
    """Arguments of verdict() where every setting has this held-out score."""
    T = np.eye(classes)[np.arange(n) % classes]
    right = (np.random.default_rng(0).permutation(n) < score * n).astype(float)
    trial = SimpleNamespace(row_scores=right)
    choice = SimpleNamespace(
        trials=[trial] * 3, folds=(np.arange(n) % 5)[None], task="classification", metric="accuracy"
    )
    row = Row("net", "f", "blocks.6", accuracy=score, low=score - 0.1, high=min(score + 0.1, 1.0))
    return {"ranked": [row], "rows": {"x": vectors(n)}, "T": T, "choice": choice, "groups": None, **more}


def run_verdict(arguments: dict) -> tuple[bool, float, str]:
    return verdict.verdict(
        arguments["ranked"], arguments["rows"], arguments["T"], choice=arguments["choice"], groups=arguments["groups"]
    )


@pytest.mark.parametrize(("score", "transfers"), [(0.95, True), (0.5, False), (0.3, False)])
def test_what_is_clear_needs_no_permutation(monkeypatch, score, transfers):
    monkeypatch.setattr(verdict, "permutation_p_value", never)
    result, baseline, sentence = run_verdict(verdict_arguments(score))
    assert result is transfers
    assert baseline == 0.5
    assert sentence.startswith("Use blocks.6 of net" if transfers else "Nothing transfers")
    assert "always predicting one class gives 0.500" in sentence


@pytest.mark.parametrize(("p", "transfers"), [(0.005, True), (0.01, True), (0.015, False), (0.4, False)])
def test_between_the_two_labels_are_permuted(monkeypatch, p, transfers):
    monkeypatch.setattr(verdict, "permutation_p_value", lambda *_, **__: p)
    assert run_verdict(verdict_arguments(0.65))[0] is transfers


def test_on_many_rows_it_takes_more_than_independent_rows_would(monkeypatch):
    monkeypatch.setattr(verdict, "permutation_p_value", never)
    n = 2 * verdict._MAX_PERMUTED_ROWS
    edge = 0.5 + 3.5 * 0.5 / n**0.5
    assert run_verdict(verdict_arguments(edge + 0.01, n=n))[0]
    assert not run_verdict(verdict_arguments(edge - 0.01, n=n))[0]


def test_nothing_was_held_out():
    arguments = verdict_arguments(0.9)
    arguments["choice"].folds = None
    assert run_verdict(arguments) == (False, 0.0, "There are too few examples to hold any out: nothing can be said.")
    arguments = verdict_arguments(0.9)
    arguments["ranked"] = [Row("net", "f", "l")]
    assert not run_verdict(arguments)[0]


def test_values_above_nothing_by_luck_alone(monkeypatch):
    """An R² of 0.05 may be luck: the labels are asked."""
    calls = []
    arguments = verdict_arguments(0.05)
    arguments["choice"].task = "regression"
    arguments["choice"].metric = "r2"
    monkeypatch.setattr(verdict, "permutation_p_value", lambda *_, **__: calls.append(1) or 0.3)
    assert not run_verdict(arguments)[0]
    assert calls == [1]
    arguments["ranked"] = [Row("net", "f", "l", accuracy=-0.1, low=-0.2, high=0.0)]
    assert not run_verdict(arguments)[0]
    assert calls == [1], "below nothing there is nothing to ask"


def test_the_largest_of_many_layers_is_held_against_the_largest_of_many():
    """With 30 layers of noise the best one looks good; its permutations do, too."""
    rng = np.random.default_rng(3)
    rows = {f"l{i}": rng.normal(size=(40, 6)) for i in range(30)}
    T = np.eye(2)[rng.permutation(40) % 2]
    choice = SimpleNamespace(folds=(np.arange(40) % 5)[None], task="classification", metric="accuracy")
    each = [verdict.permutation_p_value({name: X}, T, choice=choice, groups=None) for name, X in rows.items()]
    assert min(each) <= 0.05 < verdict.permutation_p_value(rows, T, choice=choice, groups=None)


def test_one_good_layer_among_many_is_found():
    X, y = separable(36)
    rng = np.random.default_rng(0)
    rows = {**{f"l{i}": rng.normal(size=(36, 8)) for i in range(20)}, "good": X}
    choice = SimpleNamespace(folds=(np.arange(36) % 4)[None], task="classification", metric="accuracy")
    assert verdict.permutation_p_value(rows, np.eye(3)[y], choice=choice, groups=None) <= 0.01


def test_the_score_of_permutations_is_that_of_ridge_fitted_anew():
    from sklearn.linear_model import Ridge

    X, y = separable(30, seed=4)
    X = X.astype(float)
    labels = np.stack([np.eye(3)[y], np.eye(3)[np.random.default_rng(0).permutation(y)]])
    parts = [np.flatnonzero(np.arange(30) % 3 == k) for k in range(3)]
    choice = SimpleNamespace(task="classification", metric="accuracy")
    centered = X - X.mean(0)
    result = verdict._out_of_fold_scores(centered @ centered.T, labels, parts, penalty=5.0, choice=choice)
    for score, T in zip(result, labels, strict=True):
        right = 0
        for part in parts:
            rest = np.setdiff1d(np.arange(30), part)
            right += (Ridge(5.0).fit(X[rest], T[rest]).predict(X[part]).argmax(1) == T[part].argmax(1)).sum()
        assert score == pytest.approx(right / 30)


def test_dead_layers_say_nothing():
    T = np.eye(2)[np.arange(20) % 2]
    choice = SimpleNamespace(folds=(np.arange(20) % 5)[None], task="classification", metric="accuracy")
    assert verdict.permutation_p_value({"dead": np.ones((20, 3))}, T, choice=choice, groups=None) == 1.0
