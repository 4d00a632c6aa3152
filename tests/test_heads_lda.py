"""LDA: scikit-learn's numbers, any prior, the rare-class correction, shrinkage, held-out scores from ridge's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from headstart.heads import head
from headstart.heads.base import ABSENT_CLASS_SCORE
from headstart.heads.lda import Lda
from headstart.heads.problem import Problem
from headstart.moments import Moments

seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(60, 6, 3), (60, 6, 2), (30, 30, 4), (24, 90, 3)])


def data(seed, shape=(60, 6, 3), uneven=False):
    n, d, t = shape
    rng = np.random.default_rng(seed)
    y = np.sort(np.minimum(rng.geometric(0.5, n) - 1, t - 1)) if uneven else np.arange(n) % t
    y[:t] = np.arange(t)
    y = rng.permutation(y)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2 * rng.normal(size=(t, d))[y], y


def log_odds(decision):
    return decision - decision.mean(axis=1, keepdims=True)


@given(seed=seeds, shape=shapes, shrinkage=st.sampled_from([0.05, 0.4, 1.0]))
def test_equals_scikit_learn_at_a_fixed_shrinkage(seed, shape, shrinkage):
    X, y = data(seed, shape)
    t = shape[2]
    ours = head("lda", shrinkage=shrinkage, correction=False).fit(X, np.eye(t)[y])
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    assert np.allclose(ours.proba(X), theirs.predict_proba(X), atol=1e-7)
    if t > 2:
        assert np.allclose(log_odds(ours.decision(X)), log_odds(theirs.decision_function(X)), rtol=1e-6, atol=1e-6)


@given(seed=seeds, shape=shapes)
def test_any_prior_is_the_same_rule_with_other_intercepts(seed, shape):
    X, y = data(seed, shape, uneven=True)
    t = shape[2]
    T = np.eye(t)[y]
    prior = np.random.default_rng(seed).dirichlet(np.full(t, 5.0))
    own_values, wished = head("lda").fit(X, T), head("lda").fit(X, T, prior=prior)
    assert np.allclose(own_values.coef_, wished.coef_)
    assert np.allclose(wished.intercept_ - own_values.intercept_, np.log(prior) - np.log(T.mean(axis=0)))
    moments = head("lda").fit(Moments.from_rows(X, T), prior=prior)
    assert np.allclose(moments.decision(X), wished.decision(X), rtol=1e-8, atol=1e-8)
    adjusted = head("lda").fit(X, T).adjust(np.log(prior) - np.log(T.mean(axis=0)))
    assert np.allclose(adjusted.decision(X), wished.decision(X))


@given(seed=seeds, shape=shapes)
def test_a_prior_of_scikit_learn_at_equal_counts(seed, shape):
    X, y = data(seed, (shape[0] // shape[2] * shape[2], *shape[1:]))
    t = shape[2]
    prior = np.arange(1.0, t + 1) / np.arange(1, t + 1).sum()
    # its covariance is weighted by the prior; with shrinkage 1 only the trace is left of it, so that is compared
    centred = X - np.stack([X[y == c].mean(axis=0) for c in range(t)])[y]
    ours = head("lda", shrinkage=0.3, correction=False).fit(X, np.eye(t)[y], prior=prior)
    covariance = 0.7 * centred.T @ centred / len(X) + 0.3 * (centred**2).sum() / X.size * np.eye(X.shape[1])
    means = np.stack([X[y == c].mean(axis=0) for c in range(t)])
    weights = np.linalg.solve(covariance, means.T)
    direct = X @ weights - 0.5 * np.einsum("td,dt->t", means, weights) + np.log(prior)
    assert np.allclose(log_odds(ours.decision(X)), log_odds(direct), rtol=1e-7, atol=1e-7)


@given(seed=seeds, shape=shapes)
def test_the_correction_is_half_the_trace_over_the_count(seed, shape):
    X, y = data(seed, shape, uneven=True)
    t = shape[2]
    T = np.eye(t)[y]
    plain, corrected = (head("lda", shrinkage=0.2, correction=c).fit(X, T) for c in (False, True))
    within = X - np.stack([X[y == c].mean(axis=0) for c in range(t)])[y]
    S = within.T @ within / len(X)
    P = np.linalg.inv(0.8 * S + 0.2 * np.trace(S) / len(S) * np.eye(len(S)))
    assert np.allclose(corrected.coef_, plain.coef_)
    assert np.allclose(corrected.intercept_ - plain.intercept_, 0.5 * np.trace(P @ S) / np.bincount(y, minlength=t))


def test_the_correction_gives_rare_classes_their_due():
    """Without it a class of few rows is pushed down: the estimated norm of its mean is too large."""
    recalls = {True: [], False: []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = np.r_[np.zeros(120, int), np.ones(6, int)]
        means = np.zeros((2, 40))
        means[1, :4] = 1.0
        X, test = rng.normal(size=(126, 40)) + means[y], rng.normal(size=(400, 40)) + means[1]
        for correction in recalls:
            fitted = head("lda", correction=correction).fit(X, np.eye(2)[y], prior=[0.5, 0.5])
            recalls[correction].append((fitted.predict(test) == 1).mean())
    assert np.mean(recalls[True]) > np.mean(recalls[False]) + 0.1


@given(seed=seeds, shape=shapes)
def test_oas_is_that_of_scikit_learn_on_rows_about_their_class_means(seed, shape):
    X, y = data(seed, shape)
    t = shape[2]
    within = X - np.stack([X[y == c].mean(axis=0) for c in range(t)])[y]
    fitted = head("lda", shrinkage="oas").fit(X, np.eye(t)[y])
    assert np.isclose(fitted.shrinkage_, OAS(assume_centered=True).fit(within).shrinkage_, rtol=1e-8)
    assert np.isclose(fitted.shrinkage_, Moments.from_rows(X, np.eye(t)[y]).oas(within=True)[1], rtol=1e-7)


@given(seed=seeds, shape=shapes)
def test_empirical_bayes_adds_the_mean_variance_of_a_row(seed, shape):
    X, y = data(seed, shape)
    n, d, t = shape
    fitted = head("lda", shrinkage="eb").fit(X, np.eye(t)[y])
    rho = fitted.shrinkage_
    within = X - np.stack([X[y == c].mean(axis=0) for c in range(t)])[y]
    S = within.T @ within / n
    ratio = (rho * np.trace(S) / d) / (1 - rho)
    assert np.isclose(ratio, np.trace(S) / n)


@given(seed=seeds, d=st.sampled_from([3, 50]), t=st.integers(2, 5))
def test_with_one_row_per_class_it_is_the_nearest_mean(seed, d, t):
    rng = np.random.default_rng(seed)
    X, fresh = rng.normal(size=(t, d)), rng.normal(size=(40, d))
    fitted = head("lda").fit(X, np.eye(t))
    nearest = ((fresh[:, None] - X) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(fitted.predict(fresh), nearest)


@given(seed=seeds, shape=shapes, shrinkage=st.sampled_from([0.05, 0.3, 0.9]))
def test_held_out_scores_are_those_of_the_shrinkage_that_the_strength_is_in_the_fold(seed, shape, shrinkage):
    """One strength for all folds: it is the asked shrinkage on average, and some shrinkage exactly in each."""
    X, y = data(seed, shape)
    n, d, t = shape
    T = np.eye(t)[y]
    ids = np.random.default_rng(seed).permutation(n) % 3
    problem = Problem("classification", X=X, T=T)
    held_out = Lda.out_of_fold(problem, ids[None], [{"shrinkage": shrinkage}])[0, 0]
    for k in range(3):
        train, test = ids != k, ids == k
        if not T[train].any(axis=0).all():
            continue
        means = np.stack([X[train & (y == c)].mean(axis=0) for c in range(t)])
        full = np.stack([X[y == c].mean(axis=0) for c in range(t)])
        alpha = shrinkage / (1 - shrinkage) * ((X - full[y]) ** 2).sum() / d * (2 / 3)
        within = X[train] - means[y[train]]
        ratio = alpha * d / (within**2).sum()
        rho = ratio / (1 + ratio)
        assert abs(rho - shrinkage) < 0.25
        direct = head("lda", shrinkage=rho, correction=False).fit(X[train], T[train]).decision(X[test])
        values = problem.principal.values
        counts = T[train].sum(axis=0)
        more = 0.5 * (values / (values + alpha)).sum() / (1 - rho) / counts
        assert np.allclose(log_odds(held_out[test] - more), log_odds(direct), rtol=1e-5, atol=1e-5)


def test_names_of_shrinkages_are_settings_of_the_contest_too():
    X, y = data(0)
    problem = Problem("classification", X=X, T=np.eye(3)[y])
    folds = (np.arange(60) // 3 % 4)[None]
    named = Lda.out_of_fold(problem, folds, [{"shrinkage": "oas"}, {"shrinkage": "eb"}, {"shrinkage": 1.0}])
    assert np.isfinite(named).all()
    rho = head("lda", shrinkage="eb").fit(X, np.eye(3)[y]).shrinkage_
    number = Lda.out_of_fold(problem, folds, [{"shrinkage": rho}])
    assert np.allclose(named[1], number[0])


def test_a_class_that_one_fold_holds_whole_is_absent_there():
    X, y = data(0, uneven=True)
    folds = np.where(y == 2, 0, 1 + np.arange(60) % 2)[None]
    out = Lda.out_of_fold(Problem("classification", X=X, T=np.eye(3)[y]), folds, [{"shrinkage": 0.2}])[0, 0]
    assert (out[y == 2, 2] == ABSENT_CLASS_SCORE).all() and (out[y != 2, 2] > ABSENT_CLASS_SCORE).all()


@pytest.mark.parametrize("shrinkage", [0, -0.1, 1.1, "auto", None, True])
def test_a_shrinkage_that_is_none_is_refused(shrinkage):
    X, y = data(0)
    with pytest.raises(ValueError, match="shrinkage"):
        head("lda", shrinkage=shrinkage).fit(X, np.eye(3)[y])
