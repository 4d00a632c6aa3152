"""Group lasso: few features, ridge on those; strengths chosen; folds by their moments; what is kept of which layer."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import MultiTaskLasso
from sklearn.linear_model import Ridge as SkRidge
from sklearn.preprocessing import StandardScaler

from headstart.errors import NotFitted, NumericsError
from headstart.heads import head
from headstart.heads.base import HEADS
from headstart.heads.group_lasso import GroupLasso, _LassoPath, largest_penalty
from headstart.heads.problem import Problem
from headstart.moments import Moments
from headstart.selection.search import select_head

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 12, 3), (60, 12, 1), (30, 30, 2), (25, 75, 4)])


def data(seed, shape=(60, 12, 3), task="regression"):
    """The first four features tell everything, the others nothing."""
    n, d, t = shape
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d) + 3
    Y = X[:, :4] @ rng.normal(size=(4, t)) + 0.5 * rng.normal(size=(n, t)) + 5
    if task == "regression":
        return X, Y
    Y = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    return X, np.eye(t)[Y.argmax(axis=1)] if task == "classification" else (Y > 0).astype(float)


def their_features(X, Y, alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = MultiTaskLasso(alpha=alpha, tol=1e-13, max_iter=100_000).fit(X, Y)
    return np.flatnonzero(np.abs(fitted.coef_).max(axis=0) > 1e-9)


def top(X, Y, scale="none"):
    fit = _LassoPath.of(Problem("regression", scale, X=X, T=Y))
    return largest_penalty(fit.rows, fit.targets) / fit.count


@given(seed=seeds, shape=shapes, share=st.sampled_from([0.6, 0.2, 0.05]))
def test_it_is_their_ridge_on_the_features_that_their_lasso_keeps(seed, shape, share):
    X, Y = data(seed, shape)
    alpha = share * top(X, Y)
    ours = head("group_lasso", alpha=alpha, refit=0.7).fit(X, Y, task="regression")
    remaining = their_features(X, Y, alpha)
    assert np.array_equal(ours.selected_features_, remaining) and (ours.alpha_, ours.refit_) == (alpha, 0.7)
    theirs = SkRidge(alpha=0.7).fit(X[:, remaining], Y)
    assert np.allclose(ours.coef_[remaining].T, theirs.coef_.reshape(shape[2], -1), rtol=1e-7, atol=1e-9)
    assert np.allclose(ours.decision(X), theirs.predict(X[:, remaining]).reshape(Y.shape), rtol=1e-8, atol=1e-8)
    assert not np.delete(ours.coef_, remaining, axis=0).any()


@given(seed=seeds, shape=shapes)
def test_standardised_features_are_selected_in_their_units(seed, shape):
    X, Y = data(seed, shape)
    Z = StandardScaler().fit_transform(X)
    alpha = 0.2 * top(Z, Y)
    ours = head("group_lasso", alpha=alpha, refit=2.0, scale="standard").fit(X, Y, task="regression")
    assert np.array_equal(ours.selected_features_, their_features(Z, Y, alpha))


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("shape", [(60, 12, 3), (25, 75, 4)])
def test_too_strong_a_penalty_keeps_nothing_and_predicts_the_prior(task, shape):
    X, Y = data(0, shape, task)
    fitted = head("group_lasso", alpha=1.0001 * top(X, Y)).fit(X, Y, task=task)
    assert len(fitted.selected_features_) == 0 and not fitted.coef_.any()
    prior = Y.mean(axis=0) - (0.5 if task == "multilabel" else 0.0)
    assert np.allclose(fitted.decision(X), prior)
    assert len(head("group_lasso", alpha=0.99 * top(X, Y)).fit(X, Y, task=task).selected_features_) >= 1


@given(seed=seeds, shape=shapes)
def test_permuting_the_features_permutes_what_is_kept(seed, shape):
    X, Y = data(seed, shape)
    order = np.random.default_rng(seed).permutation(shape[1])
    a = head("group_lasso").fit(X, Y, task="regression")
    b = head("group_lasso").fit(X[:, order], Y, task="regression")
    assert np.allclose(a.coef_[order], b.coef_, atol=1e-8)
    assert set(order[b.selected_features_]) == set(a.selected_features_)


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("few", [False, True])
def test_noise_put_beside_the_features_is_left_out(task, few):
    n = 40 if few else 400
    X, Y = data(1, (n, 8, 3), task)
    noise = np.random.default_rng(2).normal(size=(n, 60))
    both = np.column_stack([X, noise])
    choice = select_head({"both": both}, Y, task=task, heads="group_lasso")
    fitted = choice.fit({"both": both}, Y)
    assert len({0, 1, 2, 3} & set(fitted.selected_features_)) >= 3 or few
    assert (fitted.selected_features_ >= 8).sum() <= (10 if few else 4)
    alone = head("group_lasso", scale="standard").fit(both, Y, task=task)
    assert (alone.selected_features_ >= 8).mean() <= 0.5


def test_more_features_than_rows_and_where_few_tell_it_all_it_beats_ridge():
    X, Y = data(3, (460, 4, 3), "classification")
    wide = np.column_stack([X, np.random.default_rng(0).normal(size=(460, 3000))])
    right = {}
    for name in ("group_lasso", "ridge"):
        fitted = head(name, scale="standard").fit(wide[:60], Y[:60])
        right[name] = (fitted.predict(wide[60:]) == Y[60:].argmax(axis=1)).mean()
        if name == "group_lasso":
            assert 0 < len(fitted.selected_features_) < 60
    assert right["group_lasso"] > right["ridge"] + 0.05


@given(seed=seeds, shape=shapes)
def test_moments_are_enough_also_where_rows_are_few(seed, shape):
    X, Y = data(seed, shape)
    rows = head("group_lasso", alpha=0.1 * top(X, Y)).fit(X, Y, task="regression")
    moments = head("group_lasso", alpha=0.1 * top(X, Y)).fit(Moments.from_rows(X, Y), task="regression")
    assert np.array_equal(rows.selected_features_, moments.selected_features_) and np.allclose(
        rows.coef_, moments.coef_, atol=1e-8
    )


@pytest.mark.parametrize("shape", [(60, 12, 3), (25, 75, 4)])
@pytest.mark.parametrize("scale", ["none", "standard"])
def test_moments_without_a_fold_are_those_of_the_other_rows(shape, scale):
    X, Y = data(5, shape)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X))
    problem = Problem("regression", scale, X=X, T=Y, weights=weights)
    fold = np.arange(0, len(X), 5)
    left = _LassoPath.without(problem, fold)
    others = np.delete(np.arange(len(X)), fold)
    spread = 1.0 if problem.feature_scale is None else problem.feature_scale
    mean, ymean = (np.average(V[others], axis=0, weights=weights[others]) for V in (X, Y))
    rows = np.sqrt(weights[others])[:, None] * (X[others] - mean) / spread
    targets = np.sqrt(weights[others])[:, None] * (Y[others] - ymean)
    every = np.arange(shape[1])
    assert np.allclose(left._gram(every), rows.T @ rows)
    assert np.allclose(left.cross, rows.T @ targets)
    assert left.count == pytest.approx(weights[others].sum())
    assert left.target_scatter == pytest.approx((targets**2).sum())
    assert np.allclose(problem.mean + left.shift * spread, mean)
    assert np.allclose(problem.target_mean + left.target_shift, ymean)


@pytest.mark.parametrize("fields", [{}, {"alpha": 0.05}, {"refit": 3.0}])
def test_open_strengths_are_chosen_in_every_fold_alone(fields):
    X, Y = data(7, (60, 12, 3), "classification")
    folds = np.arange(60)[None] % 4
    (result,) = GroupLasso.out_of_fold(Problem("classification", X=X, T=Y), folds, [fields])
    for fold in range(4):
        held_out = folds[0] == fold
        alone = head("group_lasso", **fields).fit(X[~held_out], Y[~held_out]).decision(X[held_out])
        assert np.allclose(result[0, held_out], alone, atol=1e-8)


def test_a_weighted_fit_with_a_prior_is_that_of_reweighted_rows():
    X, Y = data(4, (60, 12, 3), "classification")
    prior = np.array([0.6, 0.3, 0.1])
    weights = Y @ (prior / Y.mean(axis=0))
    a = head("group_lasso", alpha=0.03, refit=1.0).fit(X, Y, prior=prior)
    b = head("group_lasso", alpha=0.03, refit=1.0).fit(X, Y, sample_weight=weights)
    assert np.allclose(a.decision(X), b.decision(X))


def test_features_that_are_all_constant_say_so_and_unfitted_heads_too():
    with pytest.raises(NotFitted):
        _ = head("group_lasso").selected_features_
    with pytest.raises(NumericsError, match="constant"):
        head("group_lasso").fit(np.ones((20, 3)), data(0, (20, 4, 2))[1], task="regression")


def test_targets_that_never_change_are_predicted_without_features():
    X, _ = data(0, (30, 6, 2))
    Y = np.tile([2.0, -1.0], (30, 1))
    fitted = head("group_lasso").fit(X, Y, task="regression")
    assert len(fitted.selected_features_) == 0 and np.allclose(fitted.predict(X), Y)
    choice = select_head({"x": X}, Y, task="regression", heads="group_lasso")
    assert np.allclose(choice.fit({"x": X}, Y).predict(X), Y)


def test_auto_leaves_it_out_and_asking_takes_it():
    X, Y = data(6, (240, 12, 3), "classification")
    assert "group_lasso" not in {trial.head for trial in select_head({"x": X}, Y).trials}
    assert {trial.head for trial in select_head({"x": X}, Y, heads="group_lasso").trials} == {"group_lasso"}
    assert not HEADS["group_lasso"].in_auto and HEADS["ridge"].in_auto


def test_how_many_features_of_each_layer_are_kept():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (240, 2))
    views = {
        name: np.column_stack([bits[:, i] * 3 + rng.normal(size=240), rng.normal(size=(240, 4 + i))])
        for i, name in enumerate(("a", "b"))
    }
    Y = np.eye(4)[bits @ [1, 2]]
    choice = select_head(views, Y, heads="group_lasso", fuse=True)
    assert set(choice.candidates) == {"a", "b"}
    fitted = choice.fit(views, Y)
    remaining = choice.selected_counts(fitted, views)
    ends = np.cumsum([0, *(views[name].shape[1] for name in choice.candidates)])
    assert remaining == tuple(
        ((fitted.selected_features_ >= a) & (fitted.selected_features_ < b)).sum() for a, b in pairwise(ends)
    )
    assert min(remaining) >= 1 and sum(remaining) <= 6 and {0, ends[1]} <= set(fitted.selected_features_)
    plain = select_head(views, Y, heads="ridge", fuse=True)
    assert plain.selected_counts(plain.fit(views, Y), views) is None
