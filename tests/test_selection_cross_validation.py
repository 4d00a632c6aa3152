"""Folds, temperatures, metrics and their intervals: what choosing stands on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, r2_score

from headstart._base.intervals import wilson
from headstart.metrics import evaluate
from headstart.metrics.kernels import cross_entropy, mean_average_precision, r_squared, r_squared_parts
from headstart.selection.calibration import fit_temperature
from headstart.selection.cross_validation import (
    N_FOLDS,
    Scoring,
    draw_folds,
    score_out_of_fold,
)

seeds = st.integers(0, 2**32 - 1)


def one_hot(y, t=None):
    return np.eye(t or y.max() + 1)[y]


# --- folds ------------------------------------------------------------------------------------------------------------


@given(seed=seeds, counts=st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_every_class_is_dealt_evenly(seed, counts):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = draw_folds(one_hot(y, len(counts)), "classification", random_state=seed)
    if max(counts) == 1:
        assert folds is None
        return
    assert folds.shape[1] == len(y)
    for row in folds:
        k = len(np.unique(row))
        assert k == min(N_FOLDS, max(counts))
        assert np.ptp(np.bincount(row)) <= 1
        for c in range(len(counts)):
            assert np.ptp(np.bincount(row[y == c], minlength=k)) <= 1


@given(seed=seeds, groups=st.integers(2, 12))
def test_groups_are_kept_whole(seed, groups):
    rng = np.random.default_rng(seed)
    y, g = rng.integers(0, 3, 80), rng.integers(0, groups, 80)
    y[:4] = [0, 0, 1, 2]
    folds = draw_folds(one_hot(y, 3), "classification", groups=[f"speaker {i}" for i in g], random_state=1)
    if len(np.unique(g)) < 2:
        assert folds is None
        return
    for row in folds:
        assert len(np.unique(row)) == min(N_FOLDS, len(np.unique(g)))
        for group in np.unique(g):
            assert len(np.unique(row[g == group])) == 1


def test_one_group_or_one_row_per_class_cannot_be_folded():
    assert draw_folds(np.eye(4), "classification") is None
    assert draw_folds(one_hot(np.arange(20) % 2), "classification", groups=np.zeros(20)) is None


@pytest.mark.parametrize(("n", "repeats"), [(16, 10), (60, 10), (120, 5), (200, 3), (3000, 3)])
def test_folds_are_drawn_three_times_and_of_few_rows_more_often(n, repeats):
    T = one_hot(np.arange(n) % 4)
    folds = draw_folds(T, "classification")
    assert len(folds) == repeats
    assert len({row.tobytes() for row in folds}) == repeats
    assert len(draw_folds(T, "classification", repeats=2)) == 2


def test_draws_that_part_the_rows_alike_count_once():
    T = one_hot(np.arange(300) % 4)
    assert len(draw_folds(T, "classification", groups=np.arange(300) // 100)) == 1  # three speakers: each once
    assert len(draw_folds(T, "classification", groups=np.arange(300) // 5)) == 3
    assert len(draw_folds(one_hot(np.arange(2) % 1), "classification")) == 1


def test_the_seed_decides():
    T = one_hot(np.arange(40) % 2)
    a, b, c = (draw_folds(T, "classification", random_state=s) for s in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks_are_shuffled(task):
    folds = draw_folds(np.zeros((300, 3)), task)
    assert folds.shape == (3, 300) and all(np.bincount(row).tolist() == [60] * 5 for row in folds)


# --- measuring --------------------------------------------------------------------------------------------------------


@given(seed=seeds, repeats=st.integers(1, 3))
def test_accuracy_and_its_interval(seed, repeats):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 40)
    D = rng.normal(size=(repeats, 40, 3)) + np.eye(3)[y]
    got = score_out_of_fold(D, one_hot(y, 3), np.zeros((repeats, 40), int), Scoring("classification", "accuracy"))
    hits = D.argmax(axis=2) == y
    assert np.isclose(got.score, hits.mean()) and np.allclose(got.row_scores, hits.mean(axis=0))
    assert np.allclose((got.low, got.high), wilson(hits.mean() * 40, 40))
    log_loss = cross_entropy(D / got.temperature, one_hot(y, 3), "classification").mean(axis=0)
    assert np.allclose(got.losses, log_loss + 1 - hits.mean(axis=0))


@given(seed=seeds)
def test_balanced_accuracy_counts_classes_alike_and_moves_log_odds(seed):
    rng = np.random.default_rng(seed)
    y = np.r_[np.zeros(40, int), np.ones(8, int)]
    D = rng.normal(size=(1, 48, 2)) + 1.5 * np.eye(2)[y]
    shift = np.array([-1.0, 1.0])
    weights = np.where(y == 0, 48 / 80, 48 / 16)
    got = score_out_of_fold(
        D, one_hot(y), np.zeros((1, 48), int), Scoring("classification", "balanced_accuracy", shift, weights)
    )
    moved = (D[0] + got.temperature * shift).argmax(axis=1)
    assert np.isclose(got.score, balanced_accuracy_score(y, moved))
    assert got.low < got.score < got.high or got.score in (0, 1)
    assert got.temperature == fit_temperature(D, one_hot(y), "classification")


@given(seed=seeds)
def test_average_precision_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    T = (rng.random((50, 4)) > 0.6).astype(float)
    T[:2] = [[0] * 4, [1] * 4]
    S = rng.normal(size=(50, 4)) + T
    assert np.isclose(mean_average_precision(S, T), average_precision_score(T, S, average="macro"))


def test_average_precision_leaves_out_labels_without_positive_rows():
    T = np.array([[1.0, 1, 0], [0, 1, 0]])
    assert mean_average_precision(np.array([[2.0, 0, 0], [1, 0, 0]]), T) == 1
    assert mean_average_precision(np.zeros((2, 3)), T) == np.mean([0.5, 1])
    assert np.isnan(mean_average_precision(np.zeros((2, 3)), np.zeros((2, 3))))


@given(seed=seeds)
def test_the_score_chosen_by_is_the_one_reported_also_where_scores_tie(seed):
    rng = np.random.default_rng(seed)
    T = (rng.random((40, 3)) > 0.5).astype(float)
    T[:2] = [[0] * 3, [1] * 3]
    decisions = np.round(rng.normal(size=(40, 3)) + T)  # many rows share a score
    folds = np.arange(40)[None] % 5
    chosen_by = score_out_of_fold(decisions[None], T, folds, Scoring("multilabel", "mean_average_precision")).score
    reported = evaluate("multilabel", T, decisions > 0, proba=decisions, only=["mean_average_precision"])
    assert np.isclose(chosen_by, float(reported["mean_average_precision"]))
    assert np.isclose(chosen_by, average_precision_score(T, decisions, average="macro"))


@given(seed=seeds, columns=st.integers(1, 3))
def test_variance_explained_is_scikit_learns(seed, columns):
    rng = np.random.default_rng(seed)
    Y = rng.normal(size=(30, columns))
    P = Y + rng.normal(size=(30, columns))
    assert np.isclose(r_squared(r_squared_parts(P, Y)), r2_score(Y, P))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_pooled_scores_have_an_interval_from_the_folds(task):
    rng = np.random.default_rng(0)
    T = (rng.random((100, 3)) > 0.5).astype(float) if task == "multilabel" else rng.normal(size=(100, 3))
    D = np.stack([T + rng.normal(size=T.shape) for _ in range(2)])
    folds = np.stack([np.arange(100) % 5, np.arange(100) // 20])
    got = score_out_of_fold(D, T, folds, Scoring(task, "mean_average_precision" if task == "multilabel" else "r2"))
    assert got.low < got.score < got.high <= 1
    assert len(got.losses) == (10 if task == "multilabel" else 100)
    better = score_out_of_fold(T + 0.1 * (D - T), T, folds, Scoring(task, "x"))
    assert better.score > got.score and better.losses.mean() < got.losses.mean()
    assert better.high - better.low < got.high - got.low


def test_further_draws_are_no_further_labelled_rows():
    """Average precision is compared fold by fold; the same rows held out ten times over say no more than once."""
    rng = np.random.default_rng(0)
    T = (rng.random((500, 3)) > 0.5).astype(float)
    D = np.repeat((T + rng.normal(size=T.shape))[None], 10, axis=0)
    folds = np.stack([rng.permutation(500) % 5 for _ in range(10)])
    errors = []
    for draws in (1, 10):
        costs = score_out_of_fold(D[:draws], T, folds[:draws], Scoring("multilabel", "mean_average_precision")).losses
        assert len(costs) == 5 * draws
        errors.append(costs.std(ddof=1) / np.sqrt(len(costs)))
    assert 0.5 < errors[1] / errors[0] < 2


@pytest.mark.parametrize("per_class", [1, 2])
def test_groups_of_one_class_each_are_spread_over_the_folds(per_class):
    """Speakers that are the classes, say: no fold may hold everything, or nothing would be left to fit on."""
    groups = np.repeat(np.arange(3 * per_class), 8)
    T = np.eye(3)[groups % 3]
    for folds in draw_folds(T, "classification", groups=groups):
        assert len(np.unique(folds)) == min(5, 3 * per_class)
        assert all(len(np.unique(folds[groups == g])) == 1 for g in groups)
