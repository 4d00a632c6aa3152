"""Choosing features and a head: what wins, what stands when nothing is better, thin data, balance, reproducibility."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from headstart.errors import DataError, NumericsError, OptionError, UnknownName
from headstart.heads import HEADS, head
from headstart.heads.problem import Problem
from headstart.selection.cross_validation import (
    BASELINE,
    SMALL_SAMPLE,
    CVResult,
    Scoring,
    complete_results,
    is_small_sample,
    score_out_of_fold,
    select_one_se,
)
from headstart.selection.search import MOST_ROWS, calibrate, select_head

seeds = st.integers(0, 2**32 - 1)


def blobs(seed=0, n=150, d=8, t=3, gap=2.0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % t)
    return rng.normal(size=(n, d)) + gap * rng.normal(size=(t, d))[y] / np.sqrt(2), y


def layers(seed=0, n=150, **more):
    """One useful layer among noise."""
    X, y = blobs(seed, n, **more)
    rng = np.random.default_rng(seed + 1)
    return {"noise": rng.normal(size=(n, 20)), "good": X, "half": X + 3 * rng.normal(size=X.shape)}, np.eye(
        y.max() + 1
    )[y]


# --- what wins --------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(seed=seeds, n=st.sampled_from([24, 90, 300]))
def test_the_useful_layer_wins(seed, n):
    X, T = layers(seed, n, gap=4.0)
    choice = select_head(X, T)
    assert choice.candidates == ("good",)
    assert choice.score > 0.7 and choice.low <= choice.score <= choice.high
    assert choice.metric == "accuracy" and choice.task == "classification"


def test_the_choice_fits_and_carries_its_temperature():
    X, T = layers()
    choice = select_head(X, T)
    fitted = choice.fit(X, T)
    assert fitted.temperature_ == choice.temperature and fitted.name == choice.name
    assert fitted.config() == choice.head.config()
    assert (fitted.predict(X["good"]) == T.argmax(axis=1)).mean() >= choice.score - 0.05
    assert not hasattr(choice.head, "intercept_")


def test_everything_tried_is_on_the_table():
    X, T = layers(n=240)
    choice = select_head(X, T)
    seen = {(trial.candidates, trial.head, trial.fields["scale"]) for trial in choice.trials}
    assert {c for c, _, _ in seen} == {("noise",), ("good",), ("half",)}
    competing = {name for name in HEADS if HEADS[name].in_auto}
    assert set(HEADS) - competing == {"group_lasso"}
    assert {h for c, h, s in seen if c == ("good",) and s == "none"} == competing
    assert {h for c, h, s in seen if c == ("good",) and s == "standard"} == competing
    assert {h for c, h, _ in seen if c == ("noise",)} == {"ridge", "lda"}  # screened, and out
    for trial in choice.trials:
        assert trial.row_scores.shape == (240,) and trial.low <= trial.score <= trial.high
        assert np.isclose(trial.row_scores.mean(), trial.score)
    assert str(len(choice.trials)) in choice.reason


@pytest.mark.parametrize("name", list(HEADS))
def test_a_head_as_it_comes_can_be_asked_for(name):
    """Strengths of None are chosen by the head itself; the same head by name has them chosen by cross-validation."""
    X, T = layers(n=90)
    result = select_head({"good": X["good"]}, T, heads=head(name))
    assert result.name == name and result.fields == head(name).config()
    assert result.score > 0.7 and result.fit(X, T).decision(X["good"]).shape == T.shape


@pytest.mark.parametrize("select", ["gcv", "loo"])
def test_a_ridge_without_a_strength_is_judged_at_the_one_it_chooses(select):
    X, T = layers(n=90)
    own_values = head("ridge", select=select)
    result = own_values.fit(X["good"], T, task="classification").alpha_
    item, two = (
        select_head({"good": X["good"]}, T, heads=h, random_state=0) for h in (own_values, head("ridge", alpha=result))
    )
    assert np.allclose(item.trials[0].row_scores, two.trials[0].row_scores)


def test_layers_side_by_side_win_where_each_has_half_of_it():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    item = rng.normal(size=(400, 5)) + 2.5 * np.eye(2, 5)[y % 2]
    two = rng.normal(size=(400, 5)) + 2.5 * np.eye(2, 5)[y // 2]
    T = np.eye(4)[y]
    alone, both = select_head({"one": item, "two": two}, T), select_head({"one": item, "two": two}, T, fuse=True)
    assert len(alone.candidates) == 1 and set(both.candidates) == {"one", "two"}
    assert both.score > alone.score + 0.2
    fitted = both.fit({"one": item, "two": two}, T)
    assert fitted.coef_.shape == (10, 4) if fitted.linear else True
    both_rows = np.concatenate([{"one": item, "two": two}[name] for name in both.candidates], axis=1)
    assert (fitted.predict(both_rows) == y).mean() > 0.8


def test_the_same_seed_gives_the_same_choice():
    X, T = layers(n=60)
    a, b = select_head(X, T, random_state=3), select_head(X, T, random_state=3)
    assert (a.candidates, a.name, a.fields, a.score, a.temperature) == (
        b.candidates,
        b.name,
        b.fields,
        b.score,
        b.temperature,
    )
    assert np.array_equal(a.folds, b.folds)
    assert all(np.array_equal(x.losses, y.losses) for x, y in zip(a.trials, b.trials, strict=True))


def test_labels_that_mean_nothing_score_at_chance():
    X, T = layers(n=240)
    shuffled = T[np.random.default_rng(5).permutation(240)]
    choice = select_head(X, shuffled)
    assert choice.low < 1 / 3 + 0.05


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_above_200_rows_the_best_of_each_grid_is_held_out_by_every_draw(task):
    X, T = layers(n=240)
    if task != "classification":
        T = T[:, :2] if task == "multilabel" else T[:, :2] + X["half"][:, :2]
    choice = select_head(X, T, task=task, fuse=True)
    assert len(choice.folds) == 3 and {trial.n_repeats for trial in choice.trials} == {1, 3}
    grids: dict[tuple, list[CVResult]] = {}
    for item in choice.trials:
        grids.setdefault((item.candidates, item.head, item.fields["scale"]), []).append(item)
    for (names, name, scale), trials in grids.items():
        problem = Problem(task, scale, np.concatenate([X[n] for n in names], axis=1), T)
        full = [item for item in trials if item.n_repeats == 3]
        assert len([item for item in full if not item.is_baseline]) <= 1 <= len(full)
        for item in full:
            fields = {key: value for key, value in item.fields.items() if key != "scale"}
            (held_out,) = HEADS[name].out_of_fold(problem, choice.folds, [fields])
            again = score_out_of_fold(held_out, T, choice.folds, Scoring(task, choice.metric))
            assert len(item.losses) == len(again.losses)
            assert np.allclose([item.score, item.low, item.high], [again.score, again.low, again.high], atol=0.01)
    assert choice.score in {item.score for item in choice.trials if item.n_repeats == 3}


def test_only_trials_that_saw_every_draw_are_compared():
    lucky, full, other = (
        trial(np.full(300, 0.1)),
        trial(np.full(300, 0.3), n_repeats=3),
        trial(np.full(300, 0.2), n_repeats=3),
    )
    assert complete_results([lucky, full, other]) == [full, other]
    assert select_one_se([lucky, full, other]) is other and select_one_se([lucky]) is lucky


# --- the rule ---------------------------------------------------------------------------------------------------------


def trial(costs, name="lda", rows=300, n_repeats=1, **fields):
    fields = {"scale": "none", **fields}
    return CVResult(("x",), name, fields, 0.5, 0.4, 0.6, np.zeros(rows), np.asarray(costs, dtype=float), 1.0, n_repeats)


def test_the_anchor_stands_unless_another_is_better_by_a_standard_error():
    rng = np.random.default_rng(0)
    base = rng.normal(1.0, 0.1, 300)
    anchor = trial(base, BASELINE[0], **{k: v for k, v in BASELINE[1].items() if k != "scale"})
    assert anchor.is_baseline and not trial(base).is_baseline
    noise = rng.normal(0, 1, 300)
    noise -= noise.mean()
    error = noise.std(ddof=1) / np.sqrt(300)
    slightly, clearly = trial(base + noise - 1.0 * error), trial(base + noise - 1.2 * error)
    assert select_one_se([slightly, anchor]) is anchor
    assert select_one_se([clearly, anchor]) is clearly
    assert select_one_se([anchor]) is anchor


def test_on_few_rows_a_sure_gain_beats_a_larger_doubtful_one():
    base = np.ones(100)
    wide = np.tile([-3.0, 2.0], 50)
    doubtful, sure = trial(base + wide - 0.2, rows=100), trial(base - 0.3, rows=100)
    anchor = trial(base, "logistic", rows=100, C=1.0)
    assert (doubtful.mean_loss, sure.mean_loss) == pytest.approx((0.3, 0.7))
    assert select_one_se([anchor, doubtful, sure]) is doubtful  # mean 0.7 less 0.25 is still more than 0.3
    sure = trial(base - 0.6, rows=100)
    assert select_one_se([anchor, doubtful, sure]) is sure
    n_items = [trial(np.tile(t.losses, 3), t.head, rows=3 * SMALL_SAMPLE, **t.fields) for t in (anchor, doubtful, sure)]
    assert select_one_se(n_items).mean_loss == pytest.approx(0.3)


def test_without_the_anchor_the_least_mean_wins_and_of_equals_the_first():
    a, b, c = trial(np.ones(9)), trial(np.ones(9)), trial(np.full(9, 2.0))
    assert select_one_se([c, a, b]) is a


# --- thin data --------------------------------------------------------------------------------------------------------


def test_one_row_per_class_gets_the_default():
    X, y = blobs(n=3)
    choice = select_head({"a": X, "b": X + 1}, np.eye(3)[y])
    assert choice.name == "nearest_centroid" and choice.candidates == ("b",)
    assert np.isnan(choice.score) and choice.trials == () and "nothing was compared" in choice.reason
    assert (choice.fit({"a": X, "b": X + 1}, np.eye(3)[y]).predict(X + 1) == y).all()


def test_one_row_per_class_with_a_head_asked_for():
    X, y = blobs(n=3)
    choice = select_head({"a": X}, np.eye(3)[y], heads=head("ridge", alpha=2.0))
    assert choice.name == "ridge" and choice.fit({"a": X}, np.eye(3)[y]).alpha_ == 2.0


@settings(max_examples=15)
@given(seed=seeds, per_class=st.integers(2, 8), d=st.sampled_from([4, 400]))
def test_few_rows_per_class_work_and_only_steady_heads_compete(seed, per_class, d):
    X, y = blobs(seed, n=3 * per_class, d=d)
    choice = select_head({"x": X}, np.eye(3)[y])
    assert {t.head for t in choice.trials} == {n for n in HEADS if "classification" in HEADS[n].few_shot_tasks}
    assert {t.fields["scale"] for t in choice.trials} == {"none"}
    assert np.isfinite(choice.fit({"x": X}, np.eye(3)[y]).proba(X)).all()
    assert is_small_sample(np.eye(3)[y], "classification")


def test_a_class_of_one_among_many():
    X, y = blobs(n=60)
    y[y == 2] = 0
    y[0] = 2
    choice = select_head({"x": X}, np.eye(3)[y])
    assert np.isfinite(choice.score) and np.isfinite(choice.fit({"x": X}, np.eye(3)[y]).decision(X)).all()


def test_a_class_that_nobody_has():
    X, y = blobs(n=60)
    T = np.eye(5)[y]
    choice = select_head({"x": X}, T)
    fitted = choice.fit({"x": X}, T)
    assert fitted.decision(X).shape == (60, 5) and set(fitted.predict(X)) <= {0, 1, 2}


@settings(max_examples=8)
@given(seed=seeds)
def test_unit_rows_are_not_drowned_in_the_penalty(seed):
    """Rows of length 1, like sentence embeddings, where C = 1 penalises strongly: at least as good as that."""
    X, y = blobs(seed, n=600, d=50, gap=1.2)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    train, test = slice(0, 120), slice(120, 600)
    theirs = LogisticRegression().fit(X[train], y[train]).score(X[test], y[test])
    choice = select_head({"x": X[train]}, np.eye(3)[y[train]])
    ours = (choice.fit({"x": X[train]}, np.eye(3)[y[train]]).predict(X[test]) == y[test]).mean()
    assert ours >= theirs - 0.03


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_labels():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6))
    T = (X[:, :3] + 0.3 * rng.normal(size=(240, 3)) > 0.4).astype(float)
    choice = select_head({"noise": rng.normal(size=(240, 6)), "x": X}, T, task="multilabel")
    assert choice.candidates == ("x",) and choice.metric == "mean_average_precision" and choice.score > 0.9
    assert {t.head for t in choice.trials} == {"ridge", "logistic", "knn"}
    fitted = choice.fit({"x": X}, T)
    assert (fitted.predict(X) == T).mean() > 0.85
    assert fitted.temperature_ == choice.temperature


def test_values():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6))
    Y = X[:, :2] @ rng.normal(size=(2, 2)) + 0.1 * rng.normal(size=(200, 2))
    choice = select_head({"noise": rng.normal(size=(200, 6)), "x": X}, Y, task="regression")
    assert (choice.candidates, choice.name, choice.metric) == (("x",), "ridge", "r2") and choice.score > 0.9
    assert choice.low < choice.score < choice.high <= 1
    assert choice.fit({"x": X}, Y).predict(X).shape == (200, 2)
    assert choice.temperature == 1.0


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_few_rows_of_other_tasks(task):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(14, 40))
    T = rng.normal(size=(14, 2)) if task == "regression" else np.eye(2)[np.arange(14) % 2]
    choice = select_head({"x": X}, T, task=task)
    assert np.isfinite(choice.score) and np.isfinite(choice.fit({"x": X}, T).decision(X)).all()


# --- balance ----------------------------------------------------------------------------------------------------------


def uneven(seed, n=400, share=0.06):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    y[:6] = 1
    return rng.normal(size=(n, 6)) + 1.3 * y[:, None] * np.array([1, 1, 0, 0, 0, 0]), y


@pytest.mark.parametrize("balance", ["auto", "logit", "weights"])
def test_balance_aims_at_balanced_accuracy_and_reaches_more_of_it(balance):
    gains = []
    for seed in range(4):
        X, y = uneven(seed)
        test, truth = uneven(seed + 100, n=2000)
        T = np.eye(2)[y]
        plain, even = select_head({"x": X}, T), select_head({"x": X}, T, balance=balance)
        assert (plain.metric, even.metric) == ("accuracy", "balanced_accuracy")
        assert even.balance.kind == ("logit" if balance == "auto" else balance)
        assert (even.log_odds is None) == (balance == "weights")
        a, b = (balanced_accuracy_score(truth, c.fit({"x": X}, T).predict(test)) for c in (plain, even))
        gains.append(b - a)
    assert np.mean(gains) > 0.05


def test_a_head_that_knows_no_frequencies_is_not_adjusted():
    X, y = uneven(0)
    T = np.eye(2)[y]
    plainly = head("nearest_centroid", scale="none")
    choice = select_head({"x": X}, T, balance="logit", heads=plainly)
    assert choice.log_odds is None and choice.balance.kind == "logit"
    assert select_head({"x": X}, T, balance="logit", heads=["lda"]).log_odds is not None
    plain = select_head({"x": X}, T, heads=plainly)
    assert np.array_equal(choice.fit({"x": X}, T).predict(X), plain.fit({"x": X}, T).predict(X))


def test_auto_leaves_an_even_set_alone():
    X, T = layers()
    assert select_head(X, T, balance="auto").balance.kind == "none"
    with pytest.raises(OptionError):
        select_head(X, T, balance="always")


# --- what may be asked ------------------------------------------------------------------------------------------------


def test_heads_may_be_named_given_or_mixed():
    X, T = layers()
    assert {t.head for t in select_head(X, T, heads="ridge").trials} == {"ridge"}
    assert {t.head for t in select_head(X, T, heads=["lda", "knn"]).trials} == {"lda", "knn"}
    choice = select_head(X, T, heads=head("lda", shrinkage=0.25, scale="standard", correction=False))
    assert choice.fields == {"shrinkage": 0.25, "scale": "standard", "correction": False}
    assert {t.fields["shrinkage"] for t in choice.trials} == {0.25}
    mixed = select_head(X, T, heads=["nearest_centroid", head("logistic", C=3.0)])
    assert {t.head for t in mixed.trials} == {"nearest_centroid", "logistic"}
    assert select_head(X, T, heads="auto").name == select_head(X, T).name


def test_a_head_of_fixed_fields_keeps_them_all():
    X, T = layers()
    for requested in (
        head("ridge", alpha=3.0),
        head("knn", n_neighbors=3, metric="euclidean", weights="uniform"),
        head("lda"),
    ):
        choice = select_head({"good": X["good"]}, T, heads=requested)
        assert choice.head.config() == requested.config()


def test_folds_may_be_given():
    X, T = layers()
    ids = np.arange(150) % 3
    choice = select_head(X, T, fold_ids=ids)
    assert np.array_equal(choice.folds, ids[None])
    twice = select_head(X, T, fold_ids=np.stack([ids, (ids + np.arange(150) // 50) % 3]))
    assert len(twice.folds) == 2


def test_groups_are_kept_whole_and_change_what_is_measured():
    """Each group has a mark of its own that says its class: only keeping groups whole shows that it is worthless."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 4)
    y = groups % 2
    X = rng.normal(size=(200, 60)) * 0.1 + rng.normal(size=(50, 60))[groups] * 2
    T = np.eye(2)[y]
    loose, strict = select_head({"x": X}, T), select_head({"x": X}, T, groups=groups)
    assert loose.score > 0.95 and strict.score < 0.75


def test_a_small_budget_leaves_out_what_costs_most():
    X, T = layers(n=240)
    short = select_head(X, T, time_budget=1e-9)
    assert {t.head for t in short.trials} == {"ridge", "lda", "nearest_centroid"}
    assert len(short.trials) < len(select_head(X, T).trials)


def test_many_rows_are_thinned_for_choosing_only():
    rng = np.random.default_rng(0)
    n = MOST_ROWS + 3000
    y = np.arange(n) % 2
    X = (rng.normal(size=(n, 3)) + y[:, None]).astype(np.float32)
    choice = select_head({"x": X}, np.eye(2)[y], heads=["ridge", "nearest_centroid"])
    assert {len(t.row_scores) for t in choice.trials} == {MOST_ROWS}
    assert f"{MOST_ROWS:,} rows" in choice.reason
    assert choice.fit({"x": X}, np.eye(2)[y]).coef_.shape == (3, 2)


def test_weights_of_rows_reach_every_fit():
    X, y = blobs(n=200)
    broken = y.copy()
    broken[:80] = (y[:80] + 1) % 3
    weights = np.where(np.arange(200) < 80, 1e-6, 1.0)
    trusted = select_head({"x": X}, np.eye(3)[broken], sample_weight=weights)
    fitted = trusted.fit({"x": X}, np.eye(3)[broken], sample_weight=weights)
    assert (fitted.predict(X) == y).mean() > 0.85


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"task": "summarization"}, OptionError),
        ({"heads": "lda", "task": "regression"}, OptionError),
        ({"heads": []}, OptionError),
        ({"heads": "no such head"}, UnknownName),
        ({"fold_ids": np.zeros(150, int)}, OptionError),
        ({"fold_ids": np.zeros(10, int)}, DataError),
        ({"fold_ids": np.linspace(0, 1, 150)}, DataError),
        ({"X_by_candidate": {}}, DataError),
        ({"X_by_candidate": {"a": np.zeros((7, 2))}}, DataError),
        ({"X_by_candidate": {"a": np.full((150, 2), np.nan)}}, NumericsError),
        ({"T": np.zeros(150)}, DataError),
        ({"T": np.ones((150, 3))}, DataError),
    ],
)
def test_what_does_not_fit_is_refused(change, error):
    X, T = layers()
    requested = {"X_by_candidate": X, "T": T, **change}
    with pytest.raises(error):
        select_head(requested.pop("X_by_candidate"), requested.pop("T"), **requested)


def test_a_single_class_is_refused():
    with pytest.raises(NumericsError, match="at least two classes"):
        select_head({"x": blobs()[0]}, np.eye(2)[np.zeros(150, int)])


def test_features_that_are_all_constant_are_refused():
    _, T = layers()
    with pytest.raises(NumericsError, match="constant"):
        select_head({"x": np.ones((150, 4))}, T)


def test_a_dead_layer_is_no_candidate():
    X, T = layers()
    choice = select_head({**X, "dead": np.full((150, 9), 2.0)}, T)
    assert {t.candidates for t in choice.trials} == {("noise",), ("good",), ("half",)}


# --- calibration ------------------------------------------------------------------------------------------------------


def log_loss(fitted, X, y):
    return -np.log(np.maximum(fitted.proba(X)[np.arange(len(y)), y], 1e-300)).mean()


@pytest.mark.parametrize("name", ["ridge", "lda", "nearest_centroid", "knn", "logistic"])
def test_calibration_on_held_out_rows_lowers_the_loss_of_new_ones(name):
    X, y = blobs(1, n=1500, d=20, gap=0.8)
    fitted = head(name).fit(X[:300], np.eye(3)[y[:300]])
    before, predicted = log_loss(fitted, X[900:], y[900:]), fitted.predict(X[900:])
    calibrate(fitted, fitted.decision(X[300:900]), np.eye(3)[y[300:900]])
    assert log_loss(fitted, X[900:], y[900:]) <= before + 0.005
    assert np.array_equal(fitted.predict(X[900:]), predicted)
    if name == "ridge":  # whose decisions are no log-odds
        assert log_loss(fitted, X[900:], y[900:]) < before - 0.02


def test_calibration_refuses_decisions_of_other_rows():
    X, y = blobs()
    fitted = head("ridge").fit(X, np.eye(3)[y])
    for wrong in (np.zeros((10, 3)), np.full((150, 3), np.nan), np.zeros((150, 2))):
        with pytest.raises(DataError, match="same rows"):
            calibrate(fitted, wrong, np.eye(3)[y])


def _winner(candidates, costs):
    from headstart.selection.cross_validation import CVResult

    costs = np.asarray(costs, dtype=float)
    return CVResult(tuple(candidates), "ridge", {}, 0.9, 0.8, 1.0, 1 - costs, costs, 1.0)


def test_on_many_rows_a_larger_set_has_to_win():
    from headstart.selection.cross_validation import prefer_larger_set

    luck = np.random.default_rng(0).normal(0.3, 0.2, 300)
    single, close, better = _winner("a", luck), _winner("ab", luck + 1e-3), _winner("ab", luck - 1e-3)
    assert prefer_larger_set([single, close]) is single
    assert prefer_larger_set([single, better]) is better


def test_on_few_rows_a_larger_set_wins_unless_it_is_clearly_worse():
    from headstart.selection.cross_validation import prefer_larger_set

    rng = np.random.default_rng(0)
    luck = rng.normal(0.3, 0.2, 50)
    single, close = _winner("a", luck), _winner("ab", luck + rng.normal(0.01, 0.1, 50))
    assert prefer_larger_set([single, close]) is close
    clearly = _winner("ab", luck + rng.normal(0.2, 0.1, 50))
    assert prefer_larger_set([single, clearly]) is single
    better = _winner("ab", luck - 0.1)
    assert prefer_larger_set([single, better]) is better
    assert prefer_larger_set([single]) is single
