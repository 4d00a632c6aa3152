"""Forward selection of features: each step against refitting ridge on the concatenation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from headstart.selection import forward_selection as _fusion
from headstart.selection.cross_validation import CrossValidation, Scoring, draw_folds, score_out_of_fold
from headstart.selection.forward_selection import forward_selection
from headstart.selection.search import select_head


def contest_of(T, task="classification", metric="accuracy") -> CrossValidation:
    return CrossValidation(T, draw_folds(T, task, repeats=1), Scoring(task, metric))


def three_views(n: int = 240, seed: int = 0):
    """Eight classes told by three bits; every view sees one bit well, and ``copy`` is the first view again."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, 3))
    views = {
        name: bits[:, [i]] * rng.normal(3, 0.1, 6) + rng.normal(size=(n, 6)) for i, name in enumerate(("a", "b", "c"))
    }
    views["copy"] = views["a"] + rng.normal(size=(n, 6)) * 0.05
    views["noise"] = rng.normal(size=(n, 6))
    return views, np.eye(8)[bits @ [1, 2, 4]]


def test_views_that_add_something_come_before_copies():
    views, T = three_views()
    chosen = forward_selection(views, contest_of(T), ["a", "copy", "b", "c", "noise"])
    assert chosen[0] == "a"
    assert set(chosen[1:3]) == {"b", "c"}
    assert "noise" not in chosen


def test_the_best_three_by_themselves_would_be_copies():
    """What forward selection is for: ranked by themselves the copy comes second and adds nothing."""
    views, T = three_views(seed=1)
    won = select_head(views, T, fuse=True)
    assert {"b", "c"} <= set(won.candidates)
    assert won.score > 0.8
    assert max(t.score for t in won.trials if len(t.candidates) == 1) < 0.4


@pytest.mark.parametrize("shape", [(60, 4), (40, 90)])
def test_costs_are_those_of_refitting_the_concatenation(shape):
    rng = np.random.default_rng(0)
    y = np.arange(shape[0]) % 3
    views = {name: rng.normal(size=shape) + y[:, None] * k for k, name in ((0.3, "a"), (0.2, "b"))}
    T = np.eye(3)[y]
    contest = contest_of(T)
    search = _fusion._KernelSearch(contest, {n: _fusion.centered_gram(X, standard=True) for n, X in views.items()})
    K = search.kernels["a"] + search.kernels["b"]
    both = StandardScaler().fit_transform(np.hstack(list(views.values())))
    penalty = 0.1 * np.trace(both @ both.T) / len(both)
    held_out = np.empty_like(T)
    for fold in range(5):
        out = contest.folds[0] == fold
        held_out[out] = Ridge(penalty).fit(both[~out], T[~out]).predict(both[out])
    expected = score_out_of_fold(held_out[None], T, contest.folds, contest.scoring).losses.mean()
    assert search.loss(K, 0.1) == pytest.approx(expected, rel=1e-6)


def test_every_step_lowers_the_cost():
    views, T = three_views(seed=2)
    contest = contest_of(T)
    search = _fusion._KernelSearch(contest, {n: _fusion.centered_gram(X, standard=True) for n, X in views.items()})

    def least(names):
        total = sum(search.kernels[name] for name in names)
        return min(search.loss(total, p) for p in _fusion._PENALTIES)

    chosen = forward_selection(views, contest, list(views))
    costs = [least(chosen[: k + 1]) for k in range(1, len(chosen))]
    assert all(a > b for a, b in pairwise(costs))


def test_two_are_always_tried_and_never_more_than_four():
    rng = np.random.default_rng(0)
    T = np.eye(2)[np.arange(60) % 2]
    noise = {f"n{i}": rng.normal(size=(60, 3)) for i in range(9)}
    assert 2 <= len(forward_selection(noise, contest_of(T), list(noise))) <= _fusion.MAX_SETS
    assert forward_selection({"one": noise["n0"]}, contest_of(T), ["one"]) == ("one",)
    assert forward_selection({}, contest_of(T), []) == ()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_labels_and_values(task):
    rng = np.random.default_rng(0)
    views = {name: rng.normal(size=(150, 5)) for name in "abcd"}
    T = np.stack([views["a"][:, 0], views["c"][:, 0]], axis=1)
    T = (T > 0).astype(float) if task == "multilabel" else T
    metric = "mean_average_precision" if task == "multilabel" else "r2"
    chosen = forward_selection(views, contest_of(T, task, metric), ["a", "b", "c", "d"])
    assert chosen[:2] == ("a", "c")


def test_many_rows_are_thinned(monkeypatch):
    views, T = three_views()
    seen = []
    monkeypatch.setattr(_fusion, "_MAX_ROWS", 120)
    monkeypatch.setattr(_fusion, "_SCREENING_ROWS", 60)
    monkeypatch.setattr(_fusion, "centered_gram", lambda X, standard: seen.append(len(X)) or X @ X.T)
    forward_selection(views, contest_of(T), list(views))
    assert seen == [60] * len(views) + [120] * len(views)


def test_features_that_do_not_vary_are_never_first_choice():
    views, T = three_views()
    views["dead"] = np.ones((len(T), 4))
    assert "dead" not in forward_selection(views, contest_of(T), ["a", "dead", "b"])[:2]
