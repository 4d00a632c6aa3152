"""The batched minimiser: optima of quadratics, each problem on its own, hard functions, honest ends."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp

from headstart.linalg.softmax_regression import CrossEntropyBatch, minimize_batch

seeds = st.integers(0, 2**32 - 1)


def quadratics(seed, p=6, b=4, t=2):
    """b problems ½ xᵀAx − cᵀx over x (p·t), badly conditioned, and their optima."""
    rng = np.random.default_rng(seed)
    size = p * t
    A = []
    for _ in range(b):
        turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
        A.append(turn @ np.diag(np.logspace(0, 2, size)) @ turn.T)
    A, c = np.stack(A), rng.normal(size=(b, size))
    best = np.linalg.solve(A, c[:, :, None])[:, :, 0]

    def objective(x, which):
        flat = np.moveaxis(x, 1, 0).reshape(len(which), -1)
        gradient = np.einsum("bij,bj->bi", A[which], flat)
        value = 0.5 * (gradient * flat).sum(axis=1) - (c[which] * flat).sum(axis=1)
        return value, np.moveaxis((gradient - c[which]).reshape(len(which), p, t), 0, 1)

    inverse = np.moveaxis((1 / np.einsum("bii->bi", A)).reshape(b, p, t), 0, 1)
    return objective, inverse, np.moveaxis(best.reshape(b, p, t), 0, 1)


@given(seed=seeds)
def test_quadratics_are_solved(seed):
    objective, inverse, best = quadratics(seed)
    result = minimize_batch(objective, np.zeros_like(best), inverse, tolerance=1e-16, max_steps=500)
    assert result.converged.all()
    assert np.allclose(result.x, best, atol=1e-5 * np.abs(best).max())
    assert np.allclose(result.value, objective(result.x, np.arange(4))[0])


@given(seed=seeds)
def test_a_problem_does_not_feel_the_others_of_its_batch(seed):
    objective, inverse, best = quadratics(seed)
    together = minimize_batch(objective, np.zeros_like(best), inverse, tolerance=1e-12, max_steps=500)
    for i in range(4):
        alone = minimize_batch(
            lambda x, which, i=i: objective(x, np.array([i])),
            np.zeros_like(best[:, [i]]),
            inverse[:, [i]],
            tolerance=1e-12,
            max_steps=500,
        )
        assert abs(alone.steps[0] - together.steps[i]) <= 3  # the last bits differ, as matrix products do
        assert np.allclose(alone.x[:, 0], together.x[:, i], atol=1e-5)


def test_a_start_at_the_optimum_stays_there():
    objective, inverse, best = quadratics(0)
    result = minimize_batch(objective, best, inverse, tolerance=1e-10, max_steps=10)
    assert np.array_equal(result.x, best) and (result.steps == 0).all() and result.converged.all()


def test_the_start_is_not_written_to():
    objective, inverse, best = quadratics(0)
    start = np.zeros_like(best)
    minimize_batch(objective, start, inverse, tolerance=1e-10, max_steps=50)
    assert not start.any()


def test_too_few_steps_are_said():
    objective, inverse, best = quadratics(0)
    result = minimize_batch(objective, np.zeros_like(best), inverse, tolerance=1e-16, max_steps=3)
    assert (result.steps == 3).all() and not result.converged.any()
    assert (result.value < objective(np.zeros_like(best), np.arange(4))[0]).all()


def test_a_tolerance_beyond_rounding_ends_all_the_same():
    objective, inverse, best = quadratics(1)
    result = minimize_batch(objective, np.zeros_like(best), inverse, tolerance=0.0, max_steps=5000)
    assert result.steps.max() < 5000
    assert np.allclose(result.x, best, atol=1e-5 * np.abs(best).max())


def test_steps_that_are_too_long_at_first_are_shortened():
    """A start far out on a function like |x|: the first quasi-Newton step goes far beyond the optimum."""

    def objective(x, which):
        return np.sqrt(1 + x**2).sum(axis=(0, 2)), x / np.sqrt(1 + x**2)

    start = np.array([10.0, -300.0, 0.5]).reshape(1, 3, 1)
    result = minimize_batch(objective, start, np.full((1, 3, 1), 1e3), tolerance=1e-12, max_steps=200)
    assert result.converged.all() and np.abs(result.x).max() < 1e-6


def entropy_data(seed, n=40, r=5, t=3, b=3):
    rng = np.random.default_rng(seed)
    rows = np.column_stack([rng.normal(size=(n, r)) * np.logspace(1, -1, r), np.ones(n)])
    return rows, np.eye(t)[rng.integers(0, t, n)], rng.uniform(0, 2, (n, b))


@given(seed=seeds, penalty=st.sampled_from([0.01, 1.0, 50.0]))
def test_softmax_reaches_scipys_optimum(seed, penalty):
    rows, T, weights = entropy_data(seed)
    result = CrossEntropyBatch(rows, T[:, None], weights, "softmax").solve(penalty, tolerance=1e-13)

    def direct(flat, w):
        x = flat.reshape(6, 3)
        z = rows @ x
        return w @ (logsumexp(z, axis=1) - (z * T).sum(axis=1)) + 0.5 * penalty * (x[:-1] ** 2).sum()

    for i in range(3):
        best = minimize(direct, np.zeros(18), (weights[:, i],), method="BFGS", options={"gtol": 1e-8}).fun
        assert result.value[i] <= best + 1e-7 * max(1, best)
        assert np.isclose(direct(result.x[:, i].ravel(), weights[:, i]), result.value[i])


@given(seed=seeds)
def test_gradients_are_slopes(seed):
    rows, T, weights = entropy_data(seed)
    rng = np.random.default_rng(seed)
    for problem, t in (
        (CrossEntropyBatch(rows, T[:, None], weights, "softmax"), 3),
        (CrossEntropyBatch(rows, T[:, None, :1], weights, "sigmoid"), 1),
        (CrossEntropyBatch(rows, np.repeat(T, 1, axis=1)[:, :, None], weights, "sigmoid"), 1),
    ):
        x, step = rng.normal(size=(6, 3, t)), rng.normal(size=(6, 3, t)) * 1e-6
        which = np.arange(3)
        _, gradient = problem.value(x, which, 0.7)
        up, down = problem.value(x + step, which, 0.7)[0], problem.value(x - step, which, 0.7)[0]
        assert np.allclose(up - down, 2 * (gradient * step).sum(axis=(0, 2)), rtol=1e-4, atol=1e-9)


@given(seed=seeds)
def test_a_warm_start_ends_at_the_same_place_sooner(seed):
    rows, T, weights = entropy_data(seed)
    problem = CrossEntropyBatch(rows, T[:, None], weights, "softmax")
    cold = problem.solve(0.1, tolerance=1e-12)
    warm = problem.solve(0.1, cold.x, tolerance=1e-12)
    assert np.allclose(warm.value, cold.value)
    assert warm.steps.max() <= 3


def test_scores_beyond_any_exponent_do_not_overflow():
    rows = np.column_stack([np.array([[1e4], [-1e4]]), np.ones(2)])
    for link, T in (("softmax", np.eye(2)[:, None]), ("sigmoid", np.eye(2)[:, None, :1])):
        with np.errstate(over="raise", invalid="raise"):
            problem = CrossEntropyBatch(rows, T, np.ones((2, 1)), link)
            value, gradient = problem.value(np.ones((2, 1, T.shape[2])), np.array([0]), 1.0)
        assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_a_class_without_weight_keeps_a_finite_intercept():
    rows, T, weights = entropy_data(0)
    weights[T[:, 1] == 1] = 0
    result = CrossEntropyBatch(rows, T[:, None], weights, "softmax").solve(1.0)
    assert np.isfinite(result.x).all()
    assert (result.x[-1, :, 1] < result.x[-1, :, 0]).all()
