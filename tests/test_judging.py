"""The verdict on tuned weights: clearly better on held-out items, or not returned."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.transfer.acceptance import (
    PairedPredictions,
    improvement,
    per_item_error,
    sample_weights,
    scorer,
    significantly_better,
)


def verdict(frozen, tuned, T, task="classification", *, balanced=False, choices=2):
    return significantly_better([PairedPredictions(frozen, tuned, T)], task, balanced=balanced, choices=choices)


def truth(n, classes=6, seed=0):
    return np.eye(classes)[np.random.default_rng(seed).integers(0, classes, n)]


def noisy(T, accuracy, rng, sharp=3.0):
    """Decisions that are right about so often, in whichever rows the generator says."""
    right = rng.random(len(T)) < accuracy
    other = rng.permuted(np.eye(T.shape[1]), axis=0)[rng.integers(0, T.shape[1], len(T))]
    return sharp * np.where(right[:, None], T, other)


def test_what_is_clearly_better_is_kept():
    T, rng = truth(72), np.random.default_rng(1)
    assert verdict(noisy(T, 0.5, rng), noisy(T, 0.95, rng), T)


def test_what_is_the_same_or_worse_is_not():
    T, rng = truth(72), np.random.default_rng(1)
    frozen = noisy(T, 0.8, rng)
    assert not verdict(frozen, frozen.copy(), T)
    assert not verdict(frozen, noisy(T, 0.6, rng), T)


def test_items_of_several_folds_are_pooled_and_more_choices_ask_for_more():
    T = truth(36)
    frozen = 3 * T
    frozen[:4] = 3 * np.roll(T[:4], 1, axis=1)
    frozen[4:8] = 3 * np.roll(T[4:8], 1, axis=1)
    tuned = 3 * T
    tuned[2:6] = 3 * np.roll(T[2:6], 2, axis=1)
    item = PairedPredictions(frozen, tuned, T)
    mean, error, n = improvement([item], "classification", balanced=False)
    assert n == 36 and mean == pytest.approx(4 / 36) and error > 0
    twice = improvement([item, item], "classification", balanced=False)
    assert twice[0] == pytest.approx(mean) and twice[2] == 72 and twice[1] < error / 1.39
    assert significantly_better([item], "classification", balanced=False, choices=2)
    assert not significantly_better([item], "classification", balanced=False, choices=40)
    assert significantly_better([item, item], "classification", balanced=False, choices=20)


def test_what_cannot_be_told_on_few_items_is_not_kept():
    """Two fewer mistakes on nine items may be luck; two hundred on nine hundred are not."""
    for n, remaining in ((9, False), (900, True)):
        T = truth(n)
        frozen, held_out = 3 * T, 3 * T
        frozen[: n // 3] = 3 * (1 - T[: n // 3])
        held_out[n // 3 - n // 9 : n // 3 + n // 9] = 3 * (1 - T[n // 3 - n // 9 : n // 3 + n // 9])
        assert verdict(frozen, held_out, T) == remaining, n


def test_weights_that_are_no_better_are_seldom_kept():
    """A quarter of the items is decided anew, as often right as before: one comparison, at 8 %."""
    remaining = naive = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        T = truth(72, seed=seed)
        base = noisy(T, 0.78, rng)
        other = np.where(rng.random((72, 1)) < 0.25, noisy(T, 0.78, rng), base)
        remaining += verdict(base, other, T)
        watched = scorer(T, "classification", balanced=False)
        naive += watched(other) > watched(base)
    assert remaining <= 40 and naive > 100, (
        remaining,
        naive,
    )  # 8 % of 300 is 24; the law allows three standard deviations


def test_errors_are_counted_item_by_item():
    T, rng = truth(40), np.random.default_rng(2)
    decision = rng.normal(size=T.shape)
    result = per_item_error(decision, T, "classification")
    assert (
        np.array_equal(result, [float(a.argmax() != b.argmax()) for a, b in zip(decision, T)]) and 0 < result.mean() < 1
    )
    labels = (rng.random((40, 3)) > 0.5).astype(float)
    scores = rng.normal(size=labels.shape)
    wrong = [sum((a > 0) != (b > 0) for a, b in zip(*row)) / 3 for row in zip(scores, labels)]
    assert np.allclose(per_item_error(scores, labels, "multilabel"), wrong)
    values = rng.normal(size=(40, 2)) * [1.0, 1000.0]
    assert np.allclose(per_item_error(np.tile(values.mean(0), (40, 1)), values, "regression").mean(), 1.0)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks(task):
    rng = np.random.default_rng(3)
    T = rng.normal(size=(80, 2)) if task == "regression" else (rng.random((80, 2)) > 0.5).astype(float)
    good = T + 0.1 * rng.normal(size=T.shape) if task == "regression" else 4 * T - 2
    poor = T + rng.normal(size=T.shape) if task == "regression" else rng.normal(size=T.shape)
    assert verdict(poor, good, T, task)
    assert not verdict(good, poor, T, task)


def test_with_balance_every_class_counts_the_same():
    T = np.eye(2)[np.r_[np.zeros(90, int), np.ones(10, int)]]
    share = sample_weights(T, balanced=True)
    assert np.isclose(share.sum(), 1) and np.allclose(T.T @ share, 0.5)
    assert np.allclose(sample_weights(T, balanced=False), 0.01)
    # better on the ten, worse on some of the ninety: worth it only where classes count alike
    frozen, held_out = 3 * np.tile([[1.0, 0.0]], (100, 1)), 3 * T
    held_out[:12] = 3 * T[::-1][:12][:, ::-1]
    held_out[:12] = [[0.0, 3.0]] * 12
    assert verdict(frozen, held_out, T, balanced=True)
    assert not verdict(frozen, held_out, T, balanced=False)
