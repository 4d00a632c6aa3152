"""Scores against independent references, and where they break. Their laws are in ``laws/test_score_laws.py``."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import cholesky, null_space, solve_triangular
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf, oas
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import NearestNeighbors

from headstart.errors import DataError, NumericsError, OptionError, UnknownName
from headstart.moments import Moments, Quantiser
from headstart.scores import score
from headstart.scores.logme import _minima, evidence

# ---- LogME: the reference is the n × n Gaussian density, maximised by Nelder and Mead from several starts ----


def direct(X, t, starts=((-6.0, -2.0), (0.0, -2.0), (-3.0, -5.0))):
    """The largest (1/n) log N(t; 0, s I + a X Xᵀ) over log a and log s, with no algebra done first."""
    gram, here = X @ X.T, np.eye(len(t))

    def minus(p):
        root = cholesky(np.exp(p[1]) * here + np.exp(p[0]) * gram, lower=True, check_finite=False)
        centered = solve_triangular(root, t, lower=True, check_finite=False)
        return (np.log(root.diagonal()).sum() + 0.5 * (centered @ centered)) / len(t) + 0.5 * np.log(2 * np.pi)

    options = {"maxiter": 4000, "xatol": 1e-7, "fatol": 1e-12}
    return -min(minimize(minus, start, method="Nelder-Mead", options=options).fun for start in starts)


def centred(X):
    return X - X.mean(axis=0)


def test_logme_is_the_direct_evidence_on_real_digits():
    digits = load_digits()
    index = np.random.default_rng(0).permutation(len(digits.data))[:100]
    X, T = digits.data[index], np.eye(10)[digits.target[index]]
    reference = np.mean([direct(centred(X), t, [(-6.0, -2.0)]) for t in centred(T).T])
    assert score("logme", Moments.from_rows(X, T)) == pytest.approx(reference, abs=1e-8)


@pytest.mark.parametrize(("n", "d"), [(25, 3), (25, 12), (25, 20), (60, 30)])
@pytest.mark.parametrize("skill", [0.0, 0.5, 2.0])
def test_logme_is_the_direct_evidence(n, d, skill):
    rng = np.random.default_rng(n + d)
    y = np.arange(n) % 3
    X, T = rng.normal(size=(n, d)) + skill * np.eye(3, d)[y], np.eye(3)[y]
    reference = np.mean([direct(centred(X), t) for t in centred(T).T])
    assert score("logme", Moments.from_rows(X, T)) == pytest.approx(reference, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(20, 19), (20, 20), (20, 64), (40, 300)])
@pytest.mark.parametrize("skill", [0.0, 1.0])
def test_logme_of_wide_features_is_the_evidence_of_the_dimensions_that_hold_data(n, d, skill):
    """Centring leaves n − 1 of n dimensions; in an orthonormal basis of those the density is that of n − 1 numbers."""
    rng = np.random.default_rng(d)
    y = np.arange(n) % 4
    X, T = rng.normal(size=(n, d)) + skill * np.eye(4, d)[y], np.eye(4)[y]
    basis = null_space(np.ones((1, n)))
    reference = np.mean([direct(basis.T @ X, t) for t in (basis.T @ T).T])
    assert score("logme", Moments.from_rows(X, T)) == pytest.approx(reference, abs=1e-6)


def test_logme_puts_pixels_above_wide_noise():
    """The released code of the paper puts 2048 numbers of noise at 96.5 and the pixels at 0.098 (METHODS §0)."""
    digits, rng = load_digits(), np.random.default_rng(0)
    index = rng.permutation(len(digits.data))[:100]
    T = np.eye(10)[digits.target[index]]
    pixels = score("logme", Moments.from_rows(digits.data[index], T))
    for d in (50, 98, 99, 100, 200, 1000):
        noise = score("logme", Moments.from_rows(rng.normal(size=(100, d)), T))
        assert -0.35 < noise < 0 < pixels


def test_logme_of_noise_is_that_of_no_features():
    """Noise is best not used: the evidence is that of a plain Gaussian, whatever the width."""
    rng = np.random.default_rng(1)
    t = rng.normal(size=(400, 1))
    plain = -0.5 * (np.log(2 * np.pi * t.var()) + 1)
    for d in (1, 20, 200):
        value = score("logme", Moments.from_rows(rng.normal(size=(400, d)), t))
        assert plain - 1e-12 <= value < plain + 0.01
    assert score("logme", Moments.from_rows(np.ones((400, 3)), t)) == pytest.approx(plain, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), filled=st.booleans())
def test_the_maximum_is_the_highest_of_several(seed, filled):
    """Spectra over many decades have several maxima; a scan of the plane of weight and noise finds none higher."""
    rng = np.random.default_rng(seed)
    r = int(rng.integers(1, 8))
    values = np.sort(10.0 ** rng.uniform(-6, 6, r))
    parts = 10.0 ** rng.uniform(-8, 1, (r, 1)) * (rng.random((r, 1)) < 0.8)
    count = r + 1 if filled else r + int(rng.integers(2, 40))
    rest = 0.0 if filled else 10.0 ** rng.uniform(-3, 1)
    square = parts.sum() + rest
    if not square:
        return
    dims = r if filled else count
    result = evidence(values, parts, np.array([square]), count)[0]

    def at(log_weight, log_noise):
        spread = np.exp(log_noise) + np.exp(log_weight)[..., None] * values
        noise = np.exp(log_noise[..., 0])
        cost = (np.log(spread) + parts[:, 0] / spread).sum(-1)
        if not filled:
            cost = cost + (dims - r) * np.log(noise) + rest / noise
        return -0.5 * (cost / dims + np.log(2 * np.pi))

    floor = np.log(1e-8 * square / dims)
    noises = np.linspace(floor, np.log(square / dims) + 2, 150)[None, :, None]
    plane = at(np.linspace(-45, 35, 400)[:, None], noises)
    assert result >= plane.max() - 1e-9
    assert result <= plane.max() + 0.05 * max(1.0, abs(plane.max())), "and it is a value of that plane"


def test_two_maxima_of_which_the_start_decides():
    """A strong direction that explains half and a hundred weak ones that explain the rest."""
    values = np.concatenate([np.full(60, 1e-4), [1e6]])
    parts = np.concatenate([np.full(60, 0.9), [40.0]])[:, None]
    result = evidence(values, parts, np.array([parts.sum() + 0.3]), 70)[0]
    local = []
    for start in (-8.0, 12.0):

        def cost(p):
            spread = np.exp(p[1]) + np.exp(p[0]) * values
            fit = (np.log(spread) + parts[:, 0] / spread).sum() + 9 * p[1] + 0.3 * np.exp(-p[1])
            return 0.5 * (fit / 70 + np.log(2 * np.pi))

        local.append(-minimize(cost, (start, -1.0), method="Nelder-Mead", options={"maxiter": 4000}).fun)
    assert result >= max(local) - 1e-9


def test_every_minimum_of_the_grid_is_refined():
    """Of two that are nearly equal on the grid, either may be the lower one between its points."""
    table = np.array([[5.0, 1.0, 5.0, 0.9, 5.0], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, 1.0, 0.5]]).T
    column, cell = _minima(table)
    assert set(zip(column.tolist(), cell.tolist(), strict=True)) == {(0, 1), (0, 3), (1, 0), (2, 0), (2, 4)}


def test_targets_that_features_reproduce_score_high_and_finite():
    T = np.eye(3)[np.arange(60) % 3]
    noise = np.random.default_rng(0).normal(size=(60, 3))
    clear, nearly = (score("logme", Moments.from_rows(X, T)) for X in (T, T + 0.01 * noise))
    assert math.isfinite(clear) and clear > nearly > 1
    again = score("logme", Moments.from_rows(T[:25], T[:25]) + Moments.from_rows(T[25:], T[25:]))
    assert again == pytest.approx(clear, abs=1e-4), "it does not hang on rounding"


def test_logme_serves_regression_and_labels():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:60] * 20, (y[:60] - 150) / 77
    moments = Moments.from_rows(X, np.column_stack([y, -3 * y + 5]))
    item = score("logme", Moments.from_rows(X, y[:, None]))
    assert item == pytest.approx(direct(centred(X), y - y.mean()), abs=1e-6)
    assert score("logme", moments) == pytest.approx(item - 0.5 * np.log(3), abs=1e-9), "evidence has the targets' unit"
    labels = (X[:, :2] > 0).astype(float)
    assert score("logme", Moments.from_rows(X, labels)) > score("logme", Moments.from_rows(X[:, 5:], labels))


def test_logme_leaves_out_targets_that_never_vary():
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    alone = score("logme", Moments.from_rows(X, t))
    more = np.hstack([t, np.full((30, 1), 1e6), np.zeros((30, 1))])
    assert score("logme", Moments.from_rows(X, more)) == pytest.approx(alone, abs=1e-12)
    tiny = score("logme", Moments.from_rows(X, t * 1e-12))
    assert tiny == pytest.approx(alone + 12 * np.log(10), abs=1e-9), "small is not constant"
    with pytest.raises(NumericsError, match="No target varies"):
        score("logme", Moments.from_rows(X, np.ones((30, 1))))
    with pytest.raises(NumericsError, match="No target varies"):
        score("logme", Moments.from_rows(X))


@pytest.mark.parametrize(("name", "options"), [("logme", {}), ("h_score", {"shrinkage": "none"})])
@pytest.mark.parametrize("d", [5, 29, 80])
def test_features_that_never_vary_add_nothing(name, options, d):
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(30, d)), np.eye(3)[np.arange(30) % 3]
    more = np.hstack([np.full((30, 2), 1e5), X, np.zeros((30, 1))])
    alone, with_dead = (score(name, Moments.from_rows(x, T), **options) for x in (X, more))
    assert with_dead == pytest.approx(alone, abs=1e-9)


def test_exact_moments_give_the_same_bits_of_score():
    digits = load_digits()
    X, T = digits.data[:300], np.eye(10)[digits.target[:300]]
    grid, order = Quantiser(16.0), np.random.default_rng(0).permutation(300)
    values = {
        score("logme", sum(Moments.from_rows(X[i], T[i], exact=grid) for i in np.array_split(order, k)))
        for k in (1, 4, 13)
    }
    assert len(values) == 1


# ---- H-score -------------------------------------------------------------------------------------------------------


def canonical(X, T):
    """The squared canonical correlations, from orthonormal bases of the two centred sides."""
    u, s, _ = np.linalg.svd(centred(X), full_matrices=False)
    v, r, _ = np.linalg.svd(centred(T), full_matrices=False)
    return np.linalg.svd(u[:, s > 1e-9 * s[0]].T @ v[:, r > 1e-9 * r[0]], compute_uv=False) ** 2


@pytest.mark.parametrize(("n", "d"), [(200, 6), (50, 30), (20, 60)])
def test_unshrunken_h_score_is_the_sum_of_squared_canonical_correlations(n, d):
    rng = np.random.default_rng(d)
    y = np.arange(n) % 4
    X, T = rng.normal(size=(n, d)) + np.eye(4, d)[y], np.eye(4)[y]
    assert score("h_score", Moments.from_rows(X, T), shrinkage="none") == pytest.approx(canonical(X, T).sum(), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (50, 30), (20, 60)])
def test_shrunken_h_score_is_its_formula(n, d):
    rng = np.random.default_rng(d)
    y = np.arange(n) % 4
    X, T = rng.normal(size=(n, d)) + 2 * np.eye(4, d)[y], np.eye(4)[y]
    between = centred(T @ np.linalg.pinv(T) @ X)
    for moments, shrunk in ((Moments.from_rows(X, T, fourth=True), ledoit_wolf), (Moments.from_rows(X, T), oas)):
        covariance, rho = shrunk(X)
        expected = (1 - rho) * np.trace(np.linalg.solve(covariance, between.T @ between / n))
        assert score("h_score", moments) == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 2**32 - 1), d=st.sampled_from([1, 3, 40, 464]), shrinkage=st.sampled_from(["auto", "none"]))
def test_h_score_never_leaves_its_bounds(seed, d, shrinkage):
    """Float32 rows, fewer than features, nearly equal features: published code reports 335 where 30 is the bound."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, d)).astype(np.float32)
    X[:, d // 2 :] = X[:, : d - d // 2] * (1 + 1e-6)
    T = np.eye(10)[rng.integers(0, 10, 60)]
    value = score("h_score", Moments.from_rows(X, T), shrinkage=shrinkage)
    assert 0 <= value <= min(d, (T.sum(axis=0) > 0).sum() - 1)


def test_h_score_of_noise_is_near_zero_and_of_classes_near_the_bound():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 5
    noise, clear = rng.normal(size=(300, 600)), np.eye(5, 20)[y] + 0.01 * rng.normal(size=(300, 20))
    assert score("h_score", Moments.from_rows(noise, np.eye(5)[y], fourth=True)) < 0.5
    assert score("h_score", Moments.from_rows(noise, np.eye(5)[y]), shrinkage="none") == pytest.approx(4)
    assert 3.9 < score("h_score", Moments.from_rows(clear, np.eye(5)[y])) <= 4


def test_h_score_says_what_it_needs():
    X, T = np.random.default_rng(0).normal(size=(20, 3)), np.eye(2)[np.arange(20) % 2]
    with pytest.raises(OptionError, match="fourth=True"):
        score("h_score", Moments.from_rows(X, T), shrinkage="ledoit_wolf")
    with pytest.raises(OptionError, match="did you mean 'oas'"):
        score("h_score", Moments.from_rows(X, T), shrinkage="oass")
    with pytest.raises(NumericsError, match="No feature varies"):
        score("h_score", Moments.from_rows(np.ones((20, 3)), T))
    with pytest.raises(NumericsError, match="20 rows hold 1 class"):
        score("h_score", Moments.from_rows(X, np.eye(2)[np.zeros(20, int)]))
    with pytest.raises(DataError, match="one-hot"):
        score("h_score", Moments.from_rows(X))


# ---- NCE and LEEP --------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 999))
def test_nce_is_information_minus_entropy(seed):
    rng = np.random.default_rng(seed)
    z, y = rng.integers(0, 6, 80), rng.integers(0, 4, 80)
    p = np.bincount(y) / 80
    expected = mutual_info_score(z, y) + (p[p > 0] * np.log(p[p > 0])).sum()
    moments = sum(Moments.from_rows(np.eye(6)[z[i]], np.eye(4)[y[i]]) for i in np.array_split(np.arange(80), 5))
    assert score("nce", moments) == pytest.approx(expected, abs=1e-12)
    table = np.eye(6)[z].T @ np.eye(4)[y]
    assert score("nce", None, table=table) == pytest.approx(expected, abs=1e-12)


def test_nce_of_a_source_that_knows_the_classes_is_zero():
    y = np.arange(30) % 3
    assert score("nce", Moments.from_rows(np.eye(5)[y + 2], np.eye(3)[y])) == 0
    assert score("nce", None, table=[[10, 0], [0, 20]]) == 0
    assert score("nce", None, table=[[5, 5], [5, 5]]) == pytest.approx(-math.log(2))


@pytest.mark.parametrize("table", [[1, 2], [[1, -1]], [[np.nan, 1]]])
def test_tables_that_are_not_counts(table):
    with pytest.raises(DataError, match="counts ≥ 0"):
        score("nce", None, table=table)


def test_nce_needs_source_labels():
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(20, 3)), np.eye(2)[np.arange(20) % 2]
    for features in (X, np.ones((20, 3)), np.abs(X) / np.abs(X).sum(axis=1, keepdims=True)):
        with pytest.raises(DataError, match="one-hot source labels"):
            score("nce", Moments.from_rows(features, T))
    with pytest.raises(NumericsError, match="empty"):
        score("nce", None, table=np.zeros((2, 2)))


def plain_leep(theta, y, classes):
    """LEEP by the definition, one number at a time."""
    n, Z = theta.shape
    joint = [[sum(theta[i, z] for i in range(n) if y[i] == c) / n for c in range(classes)] for z in range(Z)]
    total = 0.0
    for i in range(n):
        total += math.log(sum(theta[i, z] * joint[z][y[i]] / sum(joint[z]) for z in range(Z)))
    return total / n


def probabilities(rng, n, Z):
    theta = rng.exponential(size=(n, Z)) ** 3
    return theta / theta.sum(axis=1, keepdims=True)


@given(seed=st.integers(0, 999))
def test_leep_is_its_definition_and_its_table_merges(seed):
    rng = np.random.default_rng(seed)
    theta, y = probabilities(rng, 25, 4), rng.integers(0, 3, 25)
    T, expected = np.eye(3)[y], plain_leep(theta, y, 3)
    assert score("leep", None, probabilities=theta, targets=T) == pytest.approx(expected, abs=1e-12)
    table = Moments.from_rows(theta[:9], T[:9]) + Moments.from_rows(theta[9:], T[9:])
    halves = [score("leep", table, probabilities=theta[i], targets=T[i]) for i in (slice(0, 9), slice(9, 25))]
    assert (9 * halves[0] + 16 * halves[1]) / 25 == pytest.approx(expected, abs=1e-9)


def test_source_classes_that_never_come_up_do_not_matter_to_leep():
    rng = np.random.default_rng(0)
    theta, T = probabilities(rng, 25, 4), np.eye(3)[rng.integers(0, 3, 25)]
    more = np.hstack([theta, np.zeros((25, 2))])
    alone = score("leep", None, probabilities=theta, targets=T)
    assert score("leep", None, probabilities=more, targets=T) == pytest.approx(alone, abs=1e-12)


def test_leep_of_certain_source_classes_is_nce():
    rng = np.random.default_rng(0)
    z, y = rng.integers(0, 5, 60), rng.integers(0, 3, 60)
    nce = score("nce", Moments.from_rows(np.eye(5)[z], np.eye(3)[y]))
    assert score("leep", None, probabilities=np.eye(5)[z], targets=np.eye(3)[y]) == pytest.approx(nce, abs=1e-12)


@pytest.mark.parametrize(
    ("theta", "T", "message"),
    [
        (np.ones((4, 2)), np.eye(2)[[0, 1, 0, 1]], "softmax"),
        (np.array([[1.5, -0.5]] * 4), np.eye(2)[[0, 1, 0, 1]], "softmax"),
        (np.full((4, 2), np.nan), np.eye(2)[[0, 1, 0, 1]], "softmax"),
        (np.full((4, 2), 0.5), np.ones((4, 2)), "one-hot"),
        (np.full((4, 2), 0.5), np.eye(2), "got"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "got"),
    ],
)
def test_leep_refuses_what_is_not_a_distribution(theta, T, message):
    with pytest.raises(DataError, match=message):
        score("leep", None, probabilities=theta, targets=T)


def test_leep_with_moments_of_other_rows():
    theta, T = np.eye(2)[[0, 1]], np.eye(2)[[0, 1]]
    with pytest.raises(NumericsError, match="do not cover"):
        score("leep", Moments.from_rows(theta, T[::-1]), probabilities=theta, targets=T)
    with pytest.raises(DataError, match=r"\(3, 2\)"):
        score("leep", Moments.from_rows(np.eye(3)[:2], T), probabilities=theta, targets=T)


# ---- kNN -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_knn_is_scikit_learns_neighbours_and_a_vote(metric, k, monkeypatch):
    digits = load_digits()
    X, y = centred(digits.data[:150]), digits.target[:150]
    near = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(X).kneighbors(return_distance=False)
    right = 0
    for voters, own_values in zip(y[near], y, strict=True):
        names, votes = np.unique(voters, return_counts=True)
        tied = set(names[votes == votes.max()])
        right += own_values == next(v for v in voters if v in tied)  # of those that tie, the nearer
    rows = {"rows": digits.data[:150].astype(np.float32), "targets": np.eye(10)[y], "n_neighbors": k, "metric": metric}
    ours = score("knn", None, **rows)
    assert ours == pytest.approx(right / 150, abs=1e-12)
    monkeypatch.setattr("headstart.scores.knn._BLOCK", 1000)
    assert score("knn", None, **rows) == ours, "block by block"


def test_knn_ties_go_to_the_nearer():
    X = np.array([[0.0], [1.0], [-2.0], [100.0], [101.0]])
    for y in ([0, 0, 1, 1, 1], [1, 1, 0, 0, 0]):
        value = score("knn", None, rows=X, targets=np.eye(2)[y], n_neighbors=2, metric="euclidean")
        assert value == pytest.approx(4 / 5), "the third row alone is named wrongly"


def test_knn_takes_the_mean_of_the_moments():
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(40, 3)) + 5, np.eye(2)[np.arange(40) % 2]
    assert score("knn", Moments.from_rows(X), rows=X, targets=T) == score("knn", None, rows=X, targets=T)


def test_knn_of_equal_rows_and_more_neighbours_than_rows():
    T = np.eye(2)[[0, 0, 1]]
    assert 0 <= score("knn", None, rows=np.ones((3, 2)), targets=T, n_neighbors=50) <= 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rows": np.full((4, 2), np.nan)}, NumericsError, "4 of 4 rows are not finite"),
        ({"targets": np.ones((4, 2))}, DataError, "one-hot"),
        ({"targets": np.eye(3)}, DataError, "got"),
        ({"n_neighbors": 0}, OptionError, "whole number ≥ 1"),
        ({"n_neighbors": True}, OptionError, "whole number ≥ 1"),
        ({"metric": "cosin"}, OptionError, "did you mean 'cosine'"),
        ({"rows": np.zeros((1, 2)), "targets": np.eye(2)[:1]}, NumericsError, "two rows"),
    ],
)
def test_knn_refusals(change, error, message):
    rows = {"rows": np.zeros((4, 2)), "targets": np.eye(2)[[0, 1, 0, 1]], **change}
    with pytest.raises(error, match=message):
        score("knn", None, **rows)


# ---- the family ----------------------------------------------------------------------------------------------------


def test_unknown_scores_and_what_is_not_moments():
    moments = Moments.from_rows(np.eye(3), np.eye(3))
    with pytest.raises(UnknownName, match=r"did you mean 'logme'\? Known: h_score, knn, leep, logme, nce\."):
        score("log_me", moments)
    with pytest.raises(DataError, match="takes Moments; got ndarray"):
        score("logme", np.eye(3))
    with pytest.raises(OptionError, match="needs moments"):
        score("logme", None)
    with pytest.raises(OptionError, match="needs probabilities, targets"):
        score("leep", moments)
