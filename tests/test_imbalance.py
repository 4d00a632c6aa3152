"""One switch for class imbalance: what it comes to, weights that even out, adjustments that undo the prior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import DataError, OptionError
from headstart.heads import head
from headstart.imbalance import BALANCES, RATIO, class_weights, log_adjustment, prior, ratio, resolve, row_weights

counts = st.lists(st.integers(1, 500), min_size=2, max_size=8)


@given(counts=counts)
def test_auto_is_logit_from_three_to_one(counts):
    result = resolve("auto", counts)
    uneven = max(counts) / min(counts) >= RATIO
    assert result.kind == ("logit" if uneven else "none")
    assert result.metric == ("balanced_accuracy" if uneven else "accuracy")
    assert f"{ratio(counts):.1f} times" in result.reason


@given(counts=counts, balance=st.sampled_from(["none", "logit", "weights"]))
def test_what_is_asked_for_is_done(counts, balance):
    result = resolve(balance, counts)
    assert result.kind == balance and balance in result.reason
    assert result.metric == ("accuracy" if balance == "none" else "balanced_accuracy")


def test_an_unknown_word_is_answered_with_the_list():
    with pytest.raises(OptionError, match="did you mean 'logit'"):
        resolve("logits", [1, 2])
    assert set(BALANCES.names) == {"auto", "none", "logit", "weights"}


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_only_classes_can_be_balanced(task):
    assert resolve("auto", [1, 100], task).kind == "none"
    assert resolve("none", [1, 100], task).kind == "none"
    for balance in ("logit", "weights"):
        with pytest.raises(OptionError, match="needs classes"):
            resolve(balance, [1, 100], task)


def test_classes_without_rows_do_not_count():
    assert ratio([10, 0, 10]) == 1
    assert resolve("auto", [10, 0, 9]).kind == "none"
    assert log_adjustment([10, 0, 10]).tolist() == [0, 0, 0]
    assert class_weights([10, 0, 30]).tolist() == [2.0, 0.0, 2 / 3]


@pytest.mark.parametrize("wrong", [[], [0, 0], [1, -1], [1, np.nan], [[1, 2]], [np.inf, 1]])
@pytest.mark.parametrize("use", [ratio, prior, log_adjustment, class_weights])
def test_counts_must_be_counts(use, wrong):
    with pytest.raises(DataError, match="Class counts"):
        use(wrong)


@given(counts=counts)
def test_the_prior_is_the_share(counts):
    assert np.isclose(prior(counts).sum(), 1)
    assert np.allclose(prior(counts) * sum(counts), counts)


@given(counts=counts, tau=st.floats(0, 2))
def test_the_adjustment_undoes_the_prior(counts, tau):
    moved = tau * np.log(prior(counts)) + log_adjustment(counts, tau)
    assert np.allclose(moved, moved[0])
    assert np.isclose(log_adjustment(counts, tau).mean(), 0, atol=1e-12)


@given(counts=counts)
def test_weights_give_every_class_the_same_total_and_keep_the_sum(counts):
    weights = class_weights(counts)
    assert np.allclose(weights * counts, sum(counts) / len(counts))
    assert np.isclose((weights * counts).sum(), sum(counts))


@given(counts=counts)
def test_row_weights_are_those_of_their_class(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    T = np.eye(len(counts))[y]
    assert np.allclose(row_weights(T), class_weights(counts)[y])


def test_row_weights_need_one_hot_targets():
    for wrong in (np.ones((3, 2)), np.zeros((3, 2)), np.ones(3)):
        with pytest.raises(DataError, match="one-hot"):
            row_weights(wrong)


@pytest.mark.parametrize("name", ["logistic", "lda", "knn", "ridge"])
def test_adjusting_finds_rare_classes_more_often(name):
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(300, int), np.ones(20, int)]
    X = rng.normal(size=(320, 5)) + 1.2 * y[:, None]
    test = rng.normal(size=(500, 5)) + 1.2
    T = np.eye(2)[y]
    fitted = head(name).fit(X, T)
    fitted.temperature_ = 0.25 if name == "ridge" else 1.0
    before = (fitted.predict(test) == 1).mean()
    after = (fitted.adjust(log_adjustment(T.sum(axis=0))).predict(test) == 1).mean()
    assert after > before + 0.02


def test_a_balanced_set_is_left_alone():
    assert resolve("auto", [50, 40, 45]).kind == "none"
    assert np.array_equal(log_adjustment([7, 7, 7]), np.zeros(3))
    assert np.array_equal(class_weights([7, 7, 7]), np.ones(3))
