"""``head="auto"``: which features, and which head on them, by cross-validation on features that are there already.

1. **Screening.** Every candidate (a layer's features) gets ridge and LDA at all strengths, from one decomposition.
2. **Contest.** The best few get every head that does the task, on plain and standardised features; with ``fuse`` the
   best candidates put side by side compete as well.
3. **Decision.** Settings are compared by held-out *error + log-loss* (accuracy alone is too coarse to choose by on few
   rows), row by row. Logistic regression with C = 1 on plain features is the one to beat: another setting replaces it
   only when it is better by more than a standard error of the paired difference (more on very few rows). Of those the
   best mean wins, up to 200 rows the best lower bound. Folds are drawn three times, on small data up to ten times.
   Above 200 rows a head's whole grid is held out by the first draw, and its best setting by all; only the latter are
   compared. Up to 200 rows, or 30 per class, only heads that are steady there compete, on plain features.
4. **Safety.** Several candidates side by side win over a single one that is not clearly better than they are: on few
   rows the best single one is often only the luckiest.

Everything is deterministic, and a time budget is counted in operations, not seconds, so that a slow moment never
changes a choice. The score of the winner is the best of many and so slightly too good: a test split says what it is
worth.
Standardisation uses all rows, also held-out ones, but never their targets.

Metrics: accuracy or balanced accuracy (classes), mean average precision (labels), R² (values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float, Ints
from headstart.dataset.splits import stratified_order
from headstart.errors import DataError, NumericsError, OptionError
from headstart.heads.base import HEADS, Head, head
from headstart.heads.problem import Problem, check_rows, check_two_classes
from headstart.imbalance import Balance, log_adjustment, resolve, row_weights
from headstart.selection.calibration import fit_temperature
from headstart.selection.cross_validation import (
    FEW_PER_CLASS,
    SCREENERS,
    SMALL_SAMPLE,
    CrossValidation,
    CVResult,
    HeadCandidate,
    Scoring,
    complete_results,
    draw_folds,
    prefer_larger_set,
    select_one_se,
)
from headstart.selection.forward_selection import forward_selection

# ---- The way of candidates through screening and contest. ----


_FINALISTS = 2


def concatenate(blocks: Sequence[Array]) -> Array:
    """The features of several layers put side by side (n, Σd)."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def search(
    features: Mapping[str, Array], contest: CrossValidation, entries: list[HeadCandidate], *, fuse: bool, budget: float
) -> tuple[list[CVResult], list[tuple[str, ...]]]:
    """All trials, and the sets of features that reached the contest."""
    scales = _scales(contest, entries)
    trials, standing = _screened(features, contest, entries, scales[0])
    share = budget / (len(scales) * len(standing) + fuse)
    for name, problem in standing.items():
        for scale in scales:
            done = {trial.head for trial in trials if trial.candidates == (name,)} if scale == scales[0] else ()
            fresh = [entry for entry in entries if entry.name not in done and entry.supports_scale(scale)]
            if fresh:
                scaled = problem.scaled(scale)
                trials += contest.cross_validate((name,), scaled, contest.within_budget(scaled, fresh, share))
    finals: list[tuple[str, ...]] = [(name,) for name in standing]
    able = [entry for entry in entries if entry.supports_scale("standard")]
    fused = forward_selection(features, contest, _by_cost(features, trials)) if fuse and able else ()
    if len(fused) > 1:
        problem = contest.problem(concatenate([features[name] for name in fused]), "standard")
        trials += contest.cross_validate(fused, problem, contest.within_budget(problem, able, share))
        finals.append(fused)
    return trials, finals


def _screened(
    features: Mapping[str, Array], contest: CrossValidation, entries: list[HeadCandidate], scale: str
) -> tuple[list[CVResult], dict[str, Problem]]:
    """A first trial of every candidate, and the best few, ready for more."""
    able = [entry for entry in entries if entry.supports_scale(scale)]
    screeners = [entry for entry in able if entry.name in SCREENERS] or able
    trials: list[CVResult] = []
    standing: dict[str, Problem] = {}
    for name, X in features.items():
        standing[name] = contest.problem(X, scale)
        if len(features) > 1:
            trials += contest.cross_validate((name,), standing[name], screeners)
            best = _by_cost(standing, trials)[:_FINALISTS]
            standing = {kept: standing[kept] for kept in best}  # the others' decompositions are let go
    return trials, standing


def _by_cost(names: Mapping[str, Any], trials: Sequence[CVResult]) -> list[str]:
    """Candidates, the one with the cheapest trial first; of equals the first."""
    whole = complete_results(trials)
    least = {name: min((t.mean_loss for t in whole if t.candidates == (name,)), default=np.inf) for name in names}
    return sorted(names, key=lambda name: least[name])


def _scales(contest: CrossValidation, entries: Sequence[HeadCandidate]) -> list[str]:
    """Scalings that compete: on few rows only the plain features, unless a head asks for others."""
    asked = any(entry.fields is not None for entry in entries)
    wanted = ("none", "standard") if asked or not is_small_sample(contest.T, contest.scoring.task) else ("none",)
    return [scale for scale in wanted if any(entry.supports_scale(scale) for entry in entries)]


def is_small_sample(T: Float, task: str) -> bool:
    """Whether there are so few rows that choosing among many settings would be choosing noise."""
    counts = T.sum(axis=0)
    return len(T) <= SMALL_SAMPLE or (
        task == "classification" and float(np.median(counts[counts > 0])) <= FEW_PER_CLASS
    )


__all__ = ["CVResult", "Selection", "calibrate", "select_head"]

_LAST_BITS = 1e-6  # relative
MOST_ROWS = 10_000  # choices are made on at most so many rows
_RATE = 2e10  # operations per second, for the budget
_BUDGET = 30.0
_SIMPLEST = ("nearest_centroid", "ridge", "lda", "logistic")  # any further head comes after these
_DEFAULT = {"classification": "nearest_centroid", "multilabel": "logistic", "regression": "ridge"}
_METRIC = {"classification": "accuracy", "multilabel": "mean_average_precision", "regression": "r2"}


@dataclass(frozen=True, eq=False)
class Selection:
    """What was chosen, and everything it was compared with.

    Attributes
    ----------
    candidates : tuple of str
        The features; several are put side by side, in this order.
    name : str
        The head; ``fields`` are its hyper-parameters.
    metric : str
        What ``score`` is, with its 95 % interval ``low`` to ``high``; NaN where nothing could be cross-validated.
    temperature : float
        From held-out decisions.
    log_odds : (t,) array or None
        Logit adjustment.
    trials : tuple of Trial
        Every setting tried, in the order in which they were.
    reason : str
        One sentence for the record.
    """

    candidates: tuple[str, ...]
    name: str
    fields: dict[str, Any]
    task: str
    metric: str
    score: float
    low: float
    high: float
    temperature: float
    balance: Balance
    log_odds: Float | None
    reason: str
    trials: tuple[CVResult, ...] = field(default=(), repr=False)
    folds: Ints | None = field(default=None, repr=False)

    @property
    def head(self) -> Head:
        """A new, unfitted head with the fields that were chosen."""
        return head(self.name, **self.fields)

    def fit(self, X_by_candidate: Mapping[str, Array], T: Array, *, sample_weight: Array | None = None) -> Head:
        """Fit the chosen head on all rows, with its temperature and its logit adjustment."""
        X = concatenate([X_by_candidate[name] for name in self.candidates])
        T = np.asarray(T)
        weights = sample_weight
        if self.balance.kind == "weights":
            weights = row_weights(T) * (1.0 if sample_weight is None else np.asarray(sample_weight))
        fitted = self.head.fit(X, T, task=self.task, sample_weight=weights)
        fitted.temperature_ = self.temperature
        return fitted if self.log_odds is None else fitted.adjust(self.log_odds)

    def selected_counts(self, fitted: Any, X_by_candidate: Mapping[str, Array]) -> tuple[int, ...] | None:
        """How many features of each candidate a head that selects has kept; None where it keeps all."""
        if not fitted.selects_features:
            return None
        ends = np.cumsum([0, *(X_by_candidate[name].shape[1] for name in self.candidates)])
        return tuple(np.diff(np.searchsorted(fitted.selected_features_, ends)).tolist())


def select_head(
    X_by_candidate: Mapping[str, Array],
    T: Array,
    *,
    task: str = "classification",
    fold_ids: Array | None = None,
    groups: Array | None = None,
    heads: str | Head | Sequence[str | Head] | None = None,
    balance: str = "none",
    fuse: bool = False,
    sample_weight: Array | None = None,
    random_state: int = 0,
    time_budget: float | None = None,
    from_moments: bool = False,
) -> Selection:
    """Choose features and a head by cross-validation.

    Parameters
    ----------
    X_by_candidate : mapping of str to (n, d) array
        Name of a layer → its features; all have the same rows. Of equals the first wins.
    T : (n, t) array
        One-hot classes, 0 and 1 labels, or values.
    task : {"classification", "multilabel", "regression"}
    fold_ids : (n,) or (R, n) array of int, optional
        Which fold each row is held out in; used as they are. None draws stratified folds, three times or more.
    groups : (n,) array, optional
        Rows of one group stay in one fold, when folds are drawn.
    heads : str, Head, or a sequence of them, optional
        Names compete with their whole grid, heads with their own fields. None is every head that does
        the task and competes; with ``from_moments``, and is a function of moments.
    balance : {"auto", "none", "logit", "weights"}
        See :mod:`headstart.imbalance`; "none" chooses for accuracy, the others for balanced accuracy.
    fuse : bool
        Whether the best candidates also compete side by side (standardised).
    sample_weight : (n,) array, optional
        Of the rows, in the fits.
    time_budget : float, optional
        Seconds that choosing may take on two usual cores, about; costlier heads are left out (default 30).

    Returns
    -------
    Choice
        ``choice.fit(X_by_candidate, T)`` gives the fitted, calibrated head.

    Notes
    -----
    Cost: one decomposition per candidate and scaling, O(n·d·min(n, d)), and the contest of the best two. More than
    10,000 rows are thinned to that.
    """
    features = {name: np.asanyarray(X) for name, X in X_by_candidate.items()}
    targets = np.asarray(T, dtype=np.float64)
    _need_rows(features, targets, task)
    features = _varying(features)
    balanced = resolve(balance, targets.sum(axis=0), task)
    folds = _checked_folds(fold_ids, len(targets))
    if folds is None:
        folds = draw_folds(targets, task, groups=groups, random_state=random_state)
    entries = _entries(heads, task, targets, from_moments)
    if folds is None:
        return _without_folds(list(features)[-1], entries, task, balanced=balanced, T=targets)
    contest = _contest(targets, folds, task, balanced=balanced, sample_weight=sample_weight)
    if len(targets) > MOST_ROWS:
        kept = _thinned(contest.T, task, random_state)
        contest, features = contest.take_rows(kept), {name: X[kept] for name, X in features.items()}
    trials, finals = search(features, contest, entries, fuse=fuse, budget=(time_budget or _BUDGET) * _RATE)
    winners = [select_one_se([trial for trial in trials if trial.candidates == final]) for final in finals]
    won = prefer_larger_set(winners)
    reason = f"best of {len(trials)} settings by cross-validation on {len(contest.T):,} rows"
    return _choice(won, contest.scoring, balanced=balanced, T=targets, reason=reason, trials=tuple(trials), folds=folds)


def calibrate(fitted: Head, decisions: Array, T: Array) -> Head:
    """Set ``temperature_`` so that held-out decisions become the best probabilities; returns the head.

    Parameters
    ----------
    fitted : Head
    decisions : (n, t) or (R, n, t) array
        Of rows that the head, or its like, was not fitted on: ``Head.out_of_fold`` or a validation split.
    T : (n, t) array
    """
    held_out, targets = np.asarray(decisions, dtype=np.float64), np.asarray(T, dtype=np.float64)
    if held_out.shape[-2:] != targets.shape or not np.isfinite(held_out).all():
        raise DataError(f"Decisions {held_out.shape} and targets {targets.shape} must be finite and of the same rows.")
    fitted.temperature_ = fit_temperature(held_out, targets, fitted.task_)
    return fitted


def _entries(heads: str | Head | Sequence[str | Head] | None, task: str, T: Float, solved: bool) -> list[HeadCandidate]:
    """The heads that compete, the simplest first."""
    if heads is None or (isinstance(heads, str) and heads == "auto"):
        able = [name for name in (*_SIMPLEST, *HEADS) if HEADS[name].in_auto and task in HEADS[name].tasks]
        able = [name for name in able if HEADS[name].from_moments or not solved]
        if is_small_sample(T, task):
            able = [name for name in able if task in HEADS[name].few_shot_tasks]
        return [HeadCandidate(name) for name in dict.fromkeys(able)]
    asked = [heads] if isinstance(heads, (str, Head)) else list(heads)
    entries = [HeadCandidate(one) if isinstance(one, str) else HeadCandidate(one.name, one.config()) for one in asked]
    wrong = [entry.name for entry in entries if task not in entry.kind.tasks]
    if wrong or not entries:
        raise OptionError(
            f"None of the heads {wrong} does {task!r}." if wrong else "heads=[] leaves nothing to choose."
        )
    return entries


def _contest(T: Float, folds: Ints, task: str, *, balanced: Balance, sample_weight: Array | None) -> CrossValidation:
    seen = T.sum(axis=0) > 0 if task == "classification" else np.ones(T.shape[1], dtype=bool)
    T = T[:, seen]
    shift = log_adjustment(T.sum(axis=0)) if balanced.kind == "logit" else None
    even = row_weights(T) if balanced.kind != "none" else None
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if balanced.kind == "weights" and even is not None:
        weights = even if weights is None else even * weights
    metric = balanced.metric if task == "classification" else _METRIC[task]
    return CrossValidation(T, folds, Scoring(task, metric, shift, even), weights)


def _choice(won: CVResult, aim: Scoring, *, balanced: Balance, T: Float, **record: Any) -> Selection:
    due = balanced.kind == "logit" and HEADS[won.head].learns_prior
    log_odds = log_adjustment(T.sum(axis=0)) if due else None
    score = (aim.metric, won.score, won.low, won.high, won.temperature)
    return Selection(won.candidates, won.head, won.fields, aim.task, *score, balanced, log_odds, **record)


def _without_folds(last: str, entries: list[HeadCandidate], task: str, *, balanced: Balance, T: Float) -> Selection:
    """One row per class, or a single group: nothing can be held out, so the default it is, on the last candidate."""
    wanted = _DEFAULT[task]
    entry = next((entry for entry in entries if entry.name == wanted), entries[0])
    nothing = np.zeros(0)
    metric = balanced.metric if task == "classification" else _METRIC[task]
    fields = entry.fields or {}
    won = CVResult((last,), entry.name, fields, np.nan, np.nan, np.nan, nothing, nothing, 1.0)
    reason = "no two folds can be had (one row per class, or one group), so nothing was compared"
    return _choice(won, Scoring(task, metric), balanced=balanced, T=T, reason=reason)


def _need_rows(features: Mapping[str, Array], T: Float, task: str) -> None:
    if task not in _METRIC:
        raise OptionError(unknown_name("tasks that have heads", task, list(_METRIC)))
    if not features:
        raise DataError("There are no features to choose from: give {name: (n, d) array}.")
    wrong = [f"{name}: {X.shape}" for name, X in features.items() if X.ndim != 2 or len(X) != len(T)]
    if wrong or T.ndim != 2:
        raise DataError(f"Features must be (n, d) and targets (n, t) of the same rows; T is {T.shape}, {wrong}.")
    for X in features.values():
        check_rows(X, T, task)
    if task == "classification":
        check_two_classes(T.sum(axis=0))


def _varies(X: Array) -> bool:
    """Whether rows differ by more than their last bits: equal items in batches of different sizes differ in those."""
    return bool((np.abs(X - X[:1]) > _LAST_BITS * np.abs(X[:1])).any())


def _varying(features: Mapping[str, Array]) -> dict[str, Array]:
    """The candidates that vary from row to row; a layer that does not (all dead) is no candidate."""
    kept = {name: X for name, X in features.items() if _varies(X if X.dtype.kind == "f" else X.astype(np.float64))}
    if not kept:
        raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
    for name in features.keys() - kept.keys():
        note(f"{name}: its features are constant, so it is left out of the choice.")
    return kept


def _checked_folds(fold_ids: Array | None, rows: int) -> Ints | None:
    if fold_ids is None:
        return None
    folds = np.atleast_2d(np.asarray(fold_ids))
    if folds.ndim != 2 or folds.shape[1] != rows or folds.dtype.kind not in "iu":
        raise DataError(f"fold_ids must be {rows:,} whole numbers, or (R, {rows:,}); got {folds.shape} {folds.dtype}.")
    if any(len(np.unique(row)) < 2 for row in folds):
        raise OptionError("fold_ids must name two folds or more; with one, nothing would be left to fit on.")
    return folds.astype(np.int64)


def _thinned(T: Float, task: str, random_state: int) -> Ints:
    """So many of the rows that choosing stays quick, of every class its share, in their order."""
    rng = np.random.default_rng(random_state)
    labels = T.argmax(axis=1) if task == "classification" else np.zeros(len(T), dtype=np.int64)
    order = stratified_order(labels, rng)
    return np.sort(order[np.linspace(0, len(T) - 1, MOST_ROWS).astype(np.int64)])
