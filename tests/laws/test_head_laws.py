"""What every head must satisfy: rows or moments, order, names, frames, weights, saving, bad input, held-out rows."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import HEAD_CASES, HEAD_FIELDS, HEAD_TOLERANCE, HEADS
from scipy.stats import ortho_group

from headstart._base.constraints import invalid_values
from headstart.errors import DataError, NotFitted, NumericsError, OptionError, StoreError, UnknownName
from headstart.heads import HEADS as FAMILY
from headstart.heads import Head, head
from headstart.heads.base import ABSENT_CLASS_SCORE
from headstart.heads.problem import Problem
from headstart.moments import Moments

cases = pytest.mark.parametrize(("name", "task"), HEAD_CASES)
everyone = pytest.mark.parametrize("name", HEADS)
classifiers = pytest.mark.parametrize("name", [n for n in HEADS if "classification" in FAMILY[n].tasks])
seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from([(40, 5, 3), (40, 5, 2), (24, 24, 3), (18, 60, 4), (9, 200, 2)])  # n, d, t: tall to very wide


def walk(**declared):
    """Cases of the heads that declare something."""
    chosen = [(n, t) for n, t in HEAD_CASES if all(getattr(FAMILY[n], k) == v for k, v in declared.items())]
    assert chosen
    return pytest.mark.parametrize(("name", "task"), chosen)


def targets(rng, n, t, task):
    if task == "classification":
        return np.eye(t)[rng.permutation(np.arange(n) % t)]
    values = rng.normal(size=(n, t))
    if task == "multilabel":
        values = (values > 0).astype(float)
        values[:2] = [[0.0] * t, [1.0] * t]
    return values


def data(seed, shape, task):
    """Features of uneven scale that say something about the targets."""
    n, d, t = shape
    rng = np.random.default_rng(seed)
    T = targets(rng, n, t, task)
    X = rng.normal(size=(n, d)) + 1.5 * T @ rng.normal(size=(t, d))
    return X * rng.uniform(0.3, 3.0, d) + rng.normal(size=d), T


def make(name, **fields) -> Head:
    return head(name, **{**HEAD_FIELDS.get(name, {}), **fields})


def near(name, a, b, slack=1.0):
    """Equal within the head's tolerance, relative to the spread of the decisions."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    tolerance = HEAD_TOLERANCE.get(name, 1e-9) * slack
    assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(a).max()), np.abs(a - b).max()


def other_rows(seed, X):
    return X[:7] + np.random.default_rng(seed + 1).normal(size=X[:7].shape)


# --- members ----------------------------------------------------------------------------------------------------------


@everyone
def test_a_member_declares_what_it_is(name):
    kind = FAMILY[name]
    assert kind.name == name
    assert kind.tasks and kind.tasks <= {"classification", "multilabel", "regression"}
    assert kind.few_shot_tasks <= kind.tasks
    declared = (kind.linear, kind.from_moments, kind.in_auto, kind.rotation_invariant, kind.selects_features)
    assert all(isinstance(value, bool) for value in declared)
    assert "References" in __import__(kind.__module__, fromlist=["x"]).__doc__
    assert (kind.__doc__ or "").count("Parameters") == 1


@everyone
def test_the_constructor_only_stores(name):
    result = head(name, scale="standard")
    assert result.config()["scale"] == "standard"
    assert set(result.config()) == {f.name for f in dataclasses.fields(result) if f.init}
    assert repr(result).startswith(type(result).__name__)
    assert not hasattr(result, "intercept_")


@everyone
def test_an_invalid_field_is_refused_by_fit_with_its_name(name):
    X, T = data(0, (20, 4, 2), sorted(FAMILY[name].tasks)[0])
    tried = list(invalid_values(FAMILY[name]))
    assert tried
    for field, value in tried:
        result = head(name, **{field: value})
        with pytest.raises(OptionError, match=field):
            result.fit(X, T, task=sorted(FAMILY[name].tasks)[0])


def test_unknown_names_and_fields_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'ridge'"):
        head("rigde")
    with pytest.raises(OptionError, match="did you mean 'alpha'"):
        head("ridge", alpa=1.0)


@everyone
def test_before_fit_everything_says_so(name):
    result = head(name)
    for use in (result.decision, result.predict, result.proba):
        with pytest.raises(NotFitted, match="Call fit"):
            use(np.zeros((2, 3)))
    with pytest.raises(NotFitted):
        result.state()
    with pytest.raises(NotFitted):
        result.adjust(np.zeros(2))


# --- rows, moments, merged moments ------------------------------------------------------------------------------------


@walk(from_moments=True)
@pytest.mark.parametrize("scale", ["none", "standard"])
@given(seed=seeds, shape=shapes, parts=st.integers(1, 5))
def test_rows_moments_and_merged_moments_give_the_same_fit(name, task, scale, *, seed, shape, parts):
    X, T = data(seed, shape, task)
    by_rows = make(name, scale=scale).fit(X, T, task=task)
    full = make(name, scale=scale).fit(Moments.from_rows(X, T), task=task)
    order = np.argsort(T[:, 0], kind="stable")  # parts of one class or nearly
    merged = sum(Moments.from_rows(X[i], T[i]) for i in np.array_split(order, parts))
    pieces = make(name, scale=scale).fit(merged, task=task)
    fresh = other_rows(seed, X)
    near(name, by_rows.decision(fresh), full.decision(fresh))
    near(name, by_rows.decision(fresh), pieces.decision(fresh))
    near(name, by_rows.coef_, full.coef_)
    near(name, by_rows.intercept_, pieces.intercept_)


@walk(from_moments=True)
@given(seed=seeds)
def test_a_removed_part_was_never_there(name, task, *, seed):
    X, T = data(seed, (60, 5, 3), task)
    part = Moments.from_rows(X[45:], T[45:])
    left = make(name).fit(Moments.from_rows(X, T) - part, task=task)
    never = make(name).fit(X[:45], T[:45], task=task)
    near(name, left.coef_, never.coef_, slack=10)


@walk(from_moments=False)
def test_a_head_that_needs_rows_says_so(name, task):
    X, T = data(0, (20, 4, 2), task)
    with pytest.raises(OptionError, match="needs rows"):
        make(name).fit(Moments.from_rows(X, T), task=task)


@walk(from_moments=True)
def test_moments_take_no_targets_or_weights_beside_them(name, task):
    X, T = data(0, (20, 4, 2), task)
    moments = Moments.from_rows(X, T)
    for extra in ({"T": T}, {"sample_weight": np.ones(20)}):
        with pytest.raises(OptionError, match="Moments hold their targets"):
            make(name).fit(moments, task=task, **extra)
    with pytest.raises(DataError):
        make(name).fit(Moments.from_rows(X), task=task)
    with pytest.raises(DataError):
        make(name).fit(Moments.zero(4, 2), task=task)


@walk(from_moments=True)
def test_moments_of_values_are_no_classes(name, task):
    X, _ = data(0, (20, 4, 2), task)
    values = Moments.from_rows(X, np.random.default_rng(0).normal(size=(20, 2)))
    if task == "regression":
        assert make(name).fit(values, task=task).predict(X).shape == (20, 2)
    else:
        with pytest.raises(DataError):
            make(name).fit(values, task=task)


# --- order, names, frames ---------------------------------------------------------------------------------------------


@cases
@given(seed=seeds, shape=shapes)
def test_row_order_does_not_matter(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    order = np.random.default_rng(seed).permutation(len(X))
    fresh = other_rows(seed, X)
    a, b = make(name).fit(X, T, task=task), make(name).fit(X[order], T[order], task=task)
    near(name, a.decision(fresh), b.decision(fresh))


@cases
@given(seed=seeds, shape=shapes)
def test_names_of_classes_do_not_matter(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    names = np.random.default_rng(seed).permutation(T.shape[1])
    fresh = other_rows(seed, X)
    a, b = make(name).fit(X, T, task=task), make(name).fit(X, T[:, names], task=task)
    near(name, a.decision(fresh)[:, names], b.decision(fresh))
    near(name, a.intercept_[names], b.intercept_, slack=10)


@walk(rotation_invariant=True)
@given(seed=seeds, shape=shapes)
def test_rotating_the_features_does_not_matter(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    turn = ortho_group.rvs(X.shape[1], random_state=seed)
    fresh = other_rows(seed, X)
    a, b = make(name).fit(X, T, task=task), make(name).fit(X @ turn, T, task=task)
    near(name, a.decision(fresh), b.decision(fresh @ turn), slack=30)


@walk(rotation_invariant=False)
def test_where_rotation_is_declared_to_matter_it_does(name, task):
    """The limitation is none that could be left out; and what the head sees is the features, not their order."""
    X, T = data(0, (40, 24, 3), task)
    turn = ortho_group.rvs(24, random_state=0)
    a, b = make(name).fit(X, T, task=task), make(name).fit(X @ turn, T, task=task)
    assert np.abs(a.decision(X) - b.decision(X @ turn)).max() > 1e-3
    order = np.random.default_rng(0).permutation(24)
    near(name, a.decision(X), make(name).fit(X[:, order], T, task=task).decision(X[:, order]))


@walk(selects_features=True)
@given(seed=seeds, shape=shapes)
def test_a_head_that_selects_has_weights_of_exactly_0_for_all_it_left_out(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    fitted = make(name).fit(X, T, task=task)
    left = np.setdiff1d(np.arange(X.shape[1]), fitted.selected_features_)
    changed = X.copy()
    changed[:, left] = 1e3
    assert not fitted.coef_[left].any()
    assert np.array_equal(fitted.decision(changed), fitted.decision(X))


@walk(linear=True)
@pytest.mark.parametrize("scale", ["none", "standard"])
@given(seed=seeds, shape=shapes)
def test_moving_the_features_does_not_matter_to_a_linear_head(name, task, scale, *, seed, shape):
    X, T = data(seed, shape, task)
    move = np.random.default_rng(seed).normal(size=X.shape[1]) * 30
    fresh = other_rows(seed, X)
    a, b = make(name, scale=scale).fit(X, T, task=task), make(name, scale=scale).fit(X + move, T, task=task)
    near(name, a.decision(fresh), b.decision(fresh + move), slack=30)


@cases
@given(seed=seeds, shape=shapes)
def test_units_of_features_do_not_matter_to_a_standardised_head(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    units = np.exp(np.random.default_rng(seed).normal(size=X.shape[1]) * 2)
    fresh = other_rows(seed, X)
    a = make(name, scale="standard").fit(X, T, task=task)
    b = make(name, scale="standard").fit(X * units, T, task=task)
    near(name, a.decision(fresh), b.decision(fresh * units), slack=30)


@cases
@given(seed=seeds, dtype=st.sampled_from([np.float32, np.float64]))
def test_the_type_of_the_numbers_does_not_matter(name, task, *, seed, dtype):
    X, T = data(seed, (30, 6, 3), task)
    X = np.round(X * 8) / 8  # exact in both
    a, b = (
        make(name).fit(X, T, task=task),
        make(name).fit(X.astype(dtype), T.astype(np.int64) if task != "regression" else T, task=task),
    )
    near(name, a.decision(X), b.decision(X.astype(dtype)))
    assert a.decision(X).dtype == np.float64


# --- what comes out ---------------------------------------------------------------------------------------------------


@cases
@given(seed=seeds, shape=shapes)
def test_decisions_probabilities_and_predictions_agree(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    fitted = make(name).fit(X, T, task=task)
    decision = fitted.decision(X)
    assert decision.shape == T.shape and np.isfinite(decision).all()
    predicted = fitted.predict(X)
    if task == "regression":
        assert np.array_equal(predicted, decision)
        with pytest.raises(OptionError, match="no probabilities"):
            fitted.proba(X)
        return
    chance = fitted.proba(X)
    assert ((chance >= 0) & (chance <= 1)).all()
    if task == "classification":
        assert np.allclose(chance.sum(axis=1), 1)
        assert np.array_equal(predicted, decision.argmax(axis=1)) and predicted.shape == (len(X),)
    else:
        assert np.array_equal(predicted == 1, decision > 0)
        assert np.array_equal(chance > 0.5, decision > 0)


@cases
def test_it_learns(name, task):
    X, T = data(3, (200, 6, 3), task)
    fitted = make(name).fit(X[:150], T[:150], task=task)
    predicted = fitted.predict(X[150:])
    if task == "regression":
        left = ((predicted - T[150:]) ** 2).sum() / ((T[150:] - T[:150].mean(axis=0)) ** 2).sum()
        assert left < 0.6
    elif task == "classification":
        assert (predicted == T[150:].argmax(axis=1)).mean() > 0.6
    else:
        assert (predicted == T[150:]).mean() > 0.75


@walk(linear=True)
@given(seed=seeds, shape=shapes)
def test_a_linear_head_is_its_weights_on_the_features_as_given(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    fitted = make(name, scale="standard").fit(X, T, task=task)
    assert fitted.coef_.shape == (X.shape[1], T.shape[1]) and fitted.intercept_.shape == (T.shape[1],)
    assert np.allclose(fitted.decision(X), X @ fitted.coef_ + fitted.intercept_, rtol=1e-9, atol=1e-9)


@classifiers
@given(seed=seeds)
def test_adjusting_moves_log_odds(name, *, seed):
    X, T = data(seed, (30, 6, 3), "classification")
    fitted = make(name).fit(X, T)
    fitted.temperature_ = 2.5
    before = np.log(fitted.proba(X))
    move = np.array([0.5, -1.0, 2.0])
    after = np.log(fitted.adjust(move).proba(X))
    assert np.allclose((after - before) - move, ((after - before) - move).mean(axis=1, keepdims=True), atol=1e-8)


@classifiers
@given(seed=seeds)
def test_a_larger_prior_makes_a_class_likelier(name, *, seed):
    X, T = data(seed, (30, 6, 3), "classification")
    even, first = (make(name).fit(X, T, prior=p) for p in ([1, 1, 1], [8, 1, 1]))
    gain = first.decision(X) - even.decision(X)
    if name in ("ridge", "group_lasso"):  # a prior weighs the rows there
        assert first.predict(X).tolist().count(0) >= even.predict(X).tolist().count(0)
    else:
        assert np.allclose(gain[:, 0] - gain[:, 1], np.log(8), atol=1e-6)


@classifiers
@pytest.mark.parametrize("prior", [[1, 1], [1, 1, 0], [1, 1, -1], [1, 1, np.nan]])
def test_a_prior_must_fit(name, prior):
    X, T = data(0, (30, 6, 3), "classification")
    with pytest.raises(OptionError, match="prior"):
        make(name).fit(X, T, prior=prior)


@classifiers
def test_decisions_carry_the_class_frequencies_or_say_that_they_do_not(name):
    """The same two clouds, once with ten times the rows of the first: whoever learns priors then leans towards it."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(600, 3)) + move for move in (0.0, 1.5)]
    middle = (clouds[0] + clouds[1]) / 2
    shares = []
    for count in (60, 600):
        X, y = np.concatenate([clouds[0][:count], clouds[1][:60]]), np.r_[np.zeros(count, int), np.ones(60, int)]
        shares.append((make(name).fit(X, np.eye(2)[y]).predict(middle) == 0).mean())
    assert (shares[1] > shares[0] + 0.2) == FAMILY[name].learns_prior


# --- weights ----------------------------------------------------------------------------------------------------------


@walk(linear=True)
@given(seed=seeds, shape=st.sampled_from([(40, 5, 3), (18, 60, 3)]))
def test_a_weight_of_two_is_the_row_twice(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    weights = np.random.default_rng(seed).integers(1, 4, len(X))
    fields = {"alpha": 2.0} if name == "ridge" else {"shrinkage": 0.3} if name == "lda" else {}
    weighted = make(name, **fields).fit(X, T, task=task, sample_weight=weights)
    repeated = make(name, **fields).fit(np.repeat(X, weights, axis=0), np.repeat(T, weights, axis=0), task=task)
    near(name, weighted.decision(X), repeated.decision(X), slack=10)


@cases
@given(seed=seeds)
def test_a_row_without_weight_might_as_well_be_absent(name, task, *, seed):
    X, T = data(seed, (40, 5, 3), task)
    weights = np.ones(40)
    weights[30:] = 0
    fields = (
        {"alpha": 2.0}
        if name == "ridge"
        else {"n_neighbors": 1}
        if name == "knn"
        else {"shrinkage": 0.3}
        if name == "lda"
        else {}
    )
    if name == "knn":
        pytest.skip("a neighbour without weight still takes a place among the k")
    weighted = make(name, **fields).fit(X, T, task=task, sample_weight=weights)
    absent = make(name, **fields).fit(X[:30], T[:30], task=task)
    near(name, weighted.decision(X), absent.decision(X), slack=1000)


@cases
@pytest.mark.parametrize("weights", [np.ones(3), -np.ones(20), np.zeros(20), np.full(20, np.nan)])
def test_weights_must_fit(name, task, weights):
    X, T = data(0, (20, 4, 2), task)
    with pytest.raises(OptionError, match="sample_weight"):
        make(name).fit(X, T, task=task, sample_weight=weights)


# --- saving -----------------------------------------------------------------------------------------------------------


@cases
@given(seed=seeds, shape=shapes, scale=st.sampled_from(["none", "standard"]))
def test_saved_and_loaded_predicts_the_same_bits(name, task, *, seed, shape, scale):
    X, T = data(seed, shape, task)
    fitted = make(name, scale=scale).fit(X, T, task=task)
    fitted.temperature_ = 1.7
    file = io.BytesIO()
    np.savez(file, **fitted.state())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = FAMILY[name].from_config(fitted.config(), dict(arrays))
    fresh = other_rows(seed, X)
    assert np.array_equal(back.decision(fresh), fitted.decision(fresh))
    assert back.task_ == task and back.temperature_ == 1.7 and back.config() == fitted.config()
    if task != "regression":
        assert np.array_equal(back.proba(fresh), fitted.proba(fresh))


@cases
def test_damaged_arrays_are_refused(name, task):
    X, T = data(0, (20, 4, 2), task)
    fitted = make(name).fit(X, T, task=task)
    for missing in ("task", "intercept", "temperature"):
        arrays = {key: value for key, value in fitted.state().items() if key != missing}
        with pytest.raises(StoreError, match="no saved"):
            FAMILY[name].from_config(fitted.config(), arrays)
    with pytest.raises(StoreError):
        FAMILY[name].from_config({"no_such_field": 1}, fitted.state())
    with pytest.raises(StoreError):
        FAMILY[name].from_config(fitted.config(), {**fitted.state(), "task": np.array(99)})


# --- bad and thin data ------------------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_with_their_count(name, task, bad):
    X, T = data(0, (20, 4, 2), task)
    broken = X.copy()
    broken[[2, 5], 1] = bad
    with pytest.raises(NumericsError, match=r"2 of 20 rows of features"):
        make(name).fit(broken, T, task=task)
    fitted = make(name).fit(X, T, task=task)
    with pytest.raises(NumericsError, match="not finite"):
        fitted.decision(broken)
    missing = T.copy()
    missing[4] = np.nan
    with pytest.raises(NumericsError, match=r"1 of 20 rows of targets"):
        make(name).fit(X, missing, task=task)


@cases
def test_shapes_that_do_not_fit_are_refused(name, task):
    X, T = data(0, (20, 4, 2), task)
    for a, b in ((X[:, 0], T), (X, T[:, 0]), (X[:5], T), (X[:0], T[:0]), (X.astype(str), T), (X[:, :0], T)):
        with pytest.raises(DataError):
            make(name).fit(a, b, task=task)
    with pytest.raises(DataError, match="needs targets"):
        make(name).fit(X, task=task)
    fitted = make(name).fit(X, T, task=task)
    for a in (X[:, :3], X[0], X.astype(str)):
        with pytest.raises(DataError, match="4 features"):
            fitted.decision(a)
    assert fitted.decision(X[:0]).shape == (0, 2)


@everyone
def test_a_task_that_the_head_cannot_do_is_refused(name):
    X, T = data(0, (20, 4, 2), "classification")
    for task in {"classification", "multilabel", "regression", "transcription"} - FAMILY[name].tasks:
        with pytest.raises(OptionError, match=f"cannot do '{task}'"):
            make(name).fit(X, T, task=task)


@classifiers
def test_targets_must_be_of_one_class_each(name):
    X, T = data(0, (20, 4, 2), "classification")
    for wrong in (T * 2, np.ones_like(T), np.zeros_like(T), T + 0.5):
        with pytest.raises(DataError):
            make(name).fit(X, wrong)


@classifiers
def test_a_single_class_is_refused_with_a_remedy(name):
    X, _ = data(0, (20, 4, 2), "classification")
    with pytest.raises(NumericsError, match="at least two classes"):
        make(name).fit(X, np.eye(3)[np.ones(20, dtype=int)])
    with pytest.raises(NumericsError):
        make(name).fit(X, np.ones((20, 1)))


@classifiers
@given(
    seed=seeds, d=st.sampled_from([2, 6, 300]), classes=st.integers(2, 5), scale=st.sampled_from(["none", "standard"])
)
def test_one_row_per_class_is_enough(name, *, seed, d, classes, scale):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(classes, d)) * 3
    fitted = make(name, scale=scale).fit(X, np.eye(classes))
    assert np.isfinite(fitted.decision(X)).all()
    if d == 300:  # far enough apart that every head knows its own row
        assert np.array_equal(fitted.predict(X), np.arange(classes))


@cases
@given(seed=seeds, shape=shapes)
def test_a_constant_feature_changes_nothing(name, task, *, seed, shape):
    X, T = data(seed, shape, task)
    more = np.column_stack([X, np.full(len(X), 0.1), np.zeros(len(X))])
    fields = {"alpha": 2.0} if name == "ridge" else {"metric": "euclidean"} if name == "knn" else {}
    if name == "lda":
        fields = {"shrinkage": 0.2}  # whose target is tr/d: it does depend on the number of features
    for scale in ("none", "standard"):
        a = make(name, scale=scale, **fields).fit(X, T, task=task)
        b = make(name, scale=scale, **fields).fit(more, T, task=task)
        assert np.isfinite(b.decision(more)).all()
        if name not in ("lda", "nearest_centroid"):
            near(name, a.decision(X), b.decision(more), slack=100)


@walk(linear=True)
def test_features_that_are_all_constant_are_refused(name, task):
    _, T = data(0, (20, 4, 2), task)
    with pytest.raises(NumericsError, match="constant"):
        make(name).fit(np.full((20, 4), 3.0), T, task=task)


@classifiers
@given(seed=seeds, shape=st.sampled_from([(30, 5, 4), (15, 50, 4)]))
def test_a_class_without_rows_is_never_predicted(name, *, seed, shape):
    X, T = data(seed, shape, "classification")
    T[T[:, 1] == 1] = np.eye(4)[0]
    fitted = make(name).fit(X, T, prior=[1, 5, 1, 1])
    assert fitted.decision(X).shape == (len(X), 4)
    assert (fitted.predict(X) != 1).all() and (fitted.proba(X)[:, 1] == 0).all()
    assert fitted.intercept_[1] <= ABSENT_CLASS_SCORE / 2
    three = make(name).fit(X, T[:, [0, 2, 3]], prior=[1, 1, 1])
    near(name, fitted.decision(X)[:, [0, 2, 3]], three.decision(X))


# --- held-out decisions -----------------------------------------------------------------------------------------------


@cases
@given(seed=seeds, shape=st.sampled_from([(40, 5, 3), (40, 5, 2), (25, 60, 3)]), repeats=st.integers(1, 2))
def test_held_out_decisions_are_those_of_a_fit_without_the_fold(name, task, *, seed, shape, repeats):
    X, T = data(seed, shape, task)
    rng = np.random.default_rng(seed)
    folds = np.stack([rng.permutation(len(X)) % 4 for _ in range(repeats)])
    problem = Problem(task, X=X, T=T)
    grid = FAMILY[name].grid(problem)[::3][:2]  # the weakly penalised ends of a path are solved less exactly
    held_out = FAMILY[name].out_of_fold(problem, folds, grid)
    assert held_out.shape == (len(grid), repeats, *T.shape) and np.isfinite(held_out).all()
    if name == "lda":
        return  # one strength for all folds, not one shrinkage: see test_heads_lda.py
    for setting, decisions in zip(grid, held_out, strict=True):
        for ids, result in zip(folds, decisions, strict=True):
            for fold in range(4):
                if task == "classification" and not T[ids != fold].any(axis=0).all():
                    continue
                alone = make(name, **setting).fit(X[ids != fold], T[ids != fold], task=task).decision(X[ids == fold])
                a, b = (
                    v - v.mean(axis=1, keepdims=True) * (task == "classification") for v in (alone, result[ids == fold])
                )
                slack = 5e-2 if name == "logistic" else 1e-5 if name == "knn" else 1e-8
                assert np.abs(a - b).max() <= slack * max(1.0, np.abs(a).max())


@cases
def test_the_grid_is_ready_to_use_and_has_a_price(name, task):
    X, T = data(1, (30, 8, 3), task)
    problem = Problem(task, X=X, T=T)
    grid = FAMILY[name].grid(problem)
    assert grid and all("scale" not in setting for setting in grid)
    for setting in grid:
        make(name, **setting).fit(X, T, task=task)
    folds = np.arange(30)[None] % 5
    assert 0 < FAMILY[name].flops(problem, folds) < 1e9
    more = Problem(task, X=np.tile(X, (10, 1)), T=np.tile(T, (10, 1)))
    assert FAMILY[name].flops(more, np.arange(300)[None] % 5) > FAMILY[name].flops(problem, folds)


@classifiers
def test_a_class_that_a_fold_takes_away_whole_gets_no_chance_there(name):
    X, T = data(2, (30, 6, 3), "classification")
    folds = T.argmax(axis=1)[None].astype(np.int64)
    problem = Problem("classification", X=X, T=T)
    held_out = FAMILY[name].out_of_fold(problem, folds, FAMILY[name].grid(problem)[:2])
    assert np.isfinite(held_out).all()
    assert (held_out[:, 0].argmax(axis=2) != T.argmax(axis=1)).all()
