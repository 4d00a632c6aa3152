"""Choose features and a head by cross-validation: ``head="auto"``.

:func:`select_head` goes through five stages; :func:`search` runs the middle three.

1. **Candidates.** Features (a layer's rows, by name) and heads with their grids; folds, drawn three to ten times.
2. **Screening.** Every set of features is cross-validated with the cheap heads (ridge and LDA: all strengths from one
   decomposition). The two best survive.
3. **Finalists.** The survivors get every head that does the task, on plain and on standardised features.
4. **Fusion.** On request, forward selection concatenates several sets of features into one more finalist.
5. **Decision.** Within a finalist the one-standard-error rule picks a setting, with logistic regression at C = 1 as the
   reference to beat (:func:`~headstart.selection.cross_validation.select_one_se`). Between finalists the lowest loss
   wins; on few rows the larger set of features wins unless it is clearly worse
   (:func:`~headstart.selection.cross_validation.prefer_larger_set`).

Settings are compared by held-out *error + log-loss*, row by row: accuracy alone is too coarse on few rows. On small
samples only heads that are safe there take part, on plain features.

Everything is deterministic, and the time budget is counted in operations, not seconds, so that a slow moment never
changes a choice. The score of the winner is the best of many and so slightly too good: a test split says what it is
worth. Standardisation uses the features of all rows, held-out ones included, but never their targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float, Ints
from headstart.dataset.splits import stratified_order
from headstart.errors import DataError, NumericsError, OptionError
from headstart.heads.base import HEADS, Head, LinearHead, Setting, head
from headstart.heads.problem import Problem, check_rows, check_two_classes
from headstart.imbalance import Balance, log_adjustment, resolve, row_weights
from headstart.selection.calibration import fit_temperature
from headstart.selection.cross_validation import (
    CrossValidation,
    CVResult,
    HeadCandidate,
    Scoring,
    complete_results,
    draw_folds,
    is_small_sample,
    prefer_larger_set,
    select_one_se,
)
from headstart.selection.forward_selection import forward_selection

__all__ = ["CVResult", "Selection", "calibrate", "concatenate", "search", "select_head"]

SCREENERS = ("ridge", "lda")  # all their strengths come from one decomposition
N_SURVIVORS = 2
MOST_ROWS = 10_000  # choices are made on at most so many rows
_FLOPS_PER_SECOND = 2e10  # turns the time budget into operations
_TIME_BUDGET = 30.0  # seconds
_LAST_BITS = 1e-6  # features that differ relatively by less count as equal
_SIMPLEST = ("nearest_centroid", "ridge", "lda", "logistic")  # any further head comes after these
_DEFAULT = {"classification": "nearest_centroid", "multilabel": "logistic", "regression": "ridge"}
_METRIC = {"classification": "accuracy", "multilabel": "mean_average_precision", "regression": "r2"}


@dataclass(frozen=True, eq=False)
class Selection:
    """The features and the head that were chosen, with everything they were compared with.

    Attributes
    ----------
    candidates : tuple of str
        The features; several are put side by side, in this order.
    name : str
        The head; ``fields`` are its hyper-parameters.
    metric : str
        The name of ``score``, whose 95 % interval is ``low`` to ``high``; NaN where nothing could be cross-validated.
    temperature : float
        From held-out decisions.
    log_odds : (t,) array or None
        Logit adjustment.
    trials : tuple of CVResult
        Every setting tried, in the order in which they were.
    folds : (R, n) array or None
        The fold assignments.
    reason : str
        One sentence for the record.
    """

    candidates: tuple[str, ...]
    name: str
    fields: Setting
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

    def selected_counts(self, fitted: Head, X_by_candidate: Mapping[str, Array]) -> tuple[int, ...] | None:
        """Count the features of each candidate that a fitted head gives weight; None for heads that use all."""
        if not (fitted.selects_features and isinstance(fitted, LinearHead)):
            return None
        ends = np.cumsum([0, *(X_by_candidate[name].shape[1] for name in self.candidates)])
        return tuple(np.diff(np.searchsorted(fitted.selected_features_, ends).astype(np.int64)).tolist())


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
        The fold in which each row is held out; used as they are. None draws stratified folds, three times or more.
    groups : (n,) array, optional
        Rows of one group stay in one fold, when folds are drawn.
    heads : str, Head, or a sequence of them, optional
        Names compete with their whole grid, heads with their own fields. None are all heads that do the
        task and are ``in_auto``; ``from_moments`` narrows them to those that can be solved from moments.
    balance : {"auto", "none", "logit", "weights"}
        See :mod:`headstart.imbalance`; "none" chooses for accuracy, the others for balanced accuracy.
    fuse : bool
        Whether the best candidates also compete side by side (standardised).
    sample_weight : (n,) array, optional
        Of the rows, in the fits.
    time_budget : float, optional
        Approximate seconds that choosing may take on two ordinary cores (default 30); costlier heads are left out.

    Returns
    -------
    Selection
        ``selection.fit(X_by_candidate, T)`` gives the fitted, calibrated head.

    Raises
    ------
    DataError, NumericsError, OptionError
        When rows, targets or options do not allow a choice; each message says what to do.

    Notes
    -----
    **Cost**: one decomposition per candidate and scaling, O(n·d·min(n, d)), and all heads on the best two. More than
    10,000 rows are thinned to that.
    """
    features = {name: np.asanyarray(X) for name, X in X_by_candidate.items()}
    targets = np.asarray(T, dtype=np.float64)
    _check_inputs(features, targets, task)
    features = _drop_constant(features)
    balanced = resolve(balance, targets.sum(axis=0), task)
    candidates = _head_candidates(heads, task, targets, from_moments=from_moments)
    folds = _check_folds(fold_ids, len(targets))
    if folds is None:
        folds = draw_folds(targets, task, groups=groups, random_state=random_state)
    if folds is None:
        return _without_folds(list(features)[-1], candidates, task, balanced=balanced, T=targets)
    cv = _cross_validation(targets, folds, task, balanced=balanced, sample_weight=sample_weight)
    if len(targets) > MOST_ROWS:
        rows = _sample_rows(cv.T, task, random_state)
        cv, features = cv.take_rows(rows), {name: X[rows] for name, X in features.items()}
    budget = (time_budget or _TIME_BUDGET) * _FLOPS_PER_SECOND
    trials, finalists = search(features, cv, candidates, fuse=fuse, budget=budget)
    winners = [select_one_se([trial for trial in trials if trial.candidates == names]) for names in finalists]
    winner = prefer_larger_set(winners)
    reason = f"best of {len(trials)} settings by cross-validation on {len(cv.T):,} rows"
    return _selection(winner, cv.scoring, balanced, T=targets, reason=reason, trials=tuple(trials), folds=folds)


def search(
    features: Mapping[str, Array], cv: CrossValidation, candidates: list[HeadCandidate], *, fuse: bool, budget: float
) -> tuple[list[CVResult], list[tuple[str, ...]]]:
    """Screen all features, cross-validate every head on the survivors, and on several side by side.

    Parameters
    ----------
    features : mapping of str to (n, d) array
    cv : CrossValidation
        The targets, folds and scoring that all settings share.
    candidates : list of HeadCandidate
    fuse : bool
        Whether sets of features are also put side by side.
    budget : float
        Floating-point operations that the finalists may take together.

    Returns
    -------
    trials : list of CVResult
        Every setting that was cross-validated.
    finalists : list of tuple of str
        The sets of features between which the decision is.
    """
    scales = _scales(cv, candidates)
    trials, survivors = _screen(features, cv, candidates, scales[0])
    share = budget / (len(scales) * len(survivors) + fuse)
    for name, problem in survivors.items():
        for scale in scales:
            screened = {trial.head for trial in trials if trial.candidates == (name,)} if scale == scales[0] else set()
            remaining = [c for c in candidates if c.name not in screened and c.supports_scale(scale)]
            if remaining:
                trials += cv.cross_validate((name,), problem.scaled(scale), remaining, budget=share)
    finalists: list[tuple[str, ...]] = [(name,) for name in survivors]
    fusible = [c for c in candidates if c.supports_scale("standard")]
    if fuse and fusible:
        names = forward_selection(features, cv, _by_loss(features, trials))
        if len(names) > 1:
            problem = cv.problem(concatenate([features[name] for name in names]), "standard")
            trials += cv.cross_validate(names, problem, fusible, budget=share)
            finalists.append(names)
    return trials, finalists


def _screen(
    features: Mapping[str, Array], cv: CrossValidation, candidates: list[HeadCandidate], scale: str
) -> tuple[list[CVResult], dict[str, Problem]]:
    """Cross-validate the cheap heads on every set of features; keep the problems of the best two."""
    fitting = [c for c in candidates if c.supports_scale(scale)]
    screeners = [c for c in fitting if c.name in SCREENERS] or fitting
    trials: list[CVResult] = []
    survivors: dict[str, Problem] = {}
    for name, X in features.items():
        survivors[name] = cv.problem(X, scale)
        if len(features) > 1:
            trials += cv.cross_validate((name,), survivors[name], screeners)
            best = _by_loss(survivors, trials)[:N_SURVIVORS]
            # the decompositions of the others are let go at once: memory holds three, not one per layer
            survivors = {survivor: survivors[survivor] for survivor in best}
    return trials, survivors


def _by_loss(names: Iterable[str], trials: Sequence[CVResult]) -> list[str]:
    """Sort sets of features by their best setting, the lowest loss first; equals stay in order."""
    complete = complete_results(trials)

    def lowest(name: str) -> float:
        return min((trial.mean_loss for trial in complete if trial.candidates == (name,)), default=np.inf)

    return sorted(names, key=lowest)


def _scales(cv: CrossValidation, candidates: Sequence[HeadCandidate]) -> list[str]:
    """Scalings that compete: on small samples only the plain features, unless a head asks for others."""
    requested = any(c.fields is not None for c in candidates)
    plain_only = is_small_sample(cv.T, cv.scoring.task) and not requested
    scales = ("none",) if plain_only else ("none", "standard")
    return [scale for scale in scales if any(c.supports_scale(scale) for c in candidates)]


def concatenate(blocks: Sequence[Array]) -> Array:
    """Put the features of several layers side by side (n, Σd)."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def calibrate(fitted: Head, decisions: Array, T: Array) -> Head:
    """Set ``temperature_`` so that held-out decisions become the best probabilities; returns the head.

    Parameters
    ----------
    fitted : Head
    decisions : (n, t) or (R, n, t) array
        Of rows that the head, or its like, was not fitted on: ``Head.out_of_fold`` or a validation split.
    T : (n, t) array

    Raises
    ------
    DataError
        When shapes do not match or decisions are not finite.
    """
    held_out, targets = np.asarray(decisions, dtype=np.float64), np.asarray(T, dtype=np.float64)
    if held_out.shape[-2:] != targets.shape or not np.isfinite(held_out).all():
        raise DataError(f"Decisions {held_out.shape} and targets {targets.shape} must be finite and of the same rows.")
    fitted.temperature_ = fit_temperature(held_out, targets, fitted.task_)
    return fitted


def _head_candidates(
    heads: str | Head | Sequence[str | Head] | None, task: str, T: Float, *, from_moments: bool
) -> list[HeadCandidate]:
    """List the heads that compete, the simplest first."""
    if heads is None or (isinstance(heads, str) and heads == "auto"):
        names = [name for name in (*_SIMPLEST, *HEADS) if HEADS[name].in_auto and task in HEADS[name].tasks]
        if from_moments:
            names = [name for name in names if HEADS[name].from_moments]
        if is_small_sample(T, task):
            names = [name for name in names if task in HEADS[name].few_shot_tasks]
        return [HeadCandidate(name) for name in dict.fromkeys(names)]
    requested = [heads] if isinstance(heads, (str, Head)) else list(heads)
    candidates = [
        HeadCandidate(item) if isinstance(item, str) else HeadCandidate(item.name, item.config()) for item in requested
    ]
    wrong = [candidate.name for candidate in candidates if task not in candidate.kind.tasks]
    if wrong:
        raise OptionError(f"None of the heads {wrong} does {task!r}.")
    if not candidates:
        raise OptionError("heads=[] leaves nothing to choose.")
    return candidates


def _cross_validation(
    T: Float, folds: Ints, task: str, *, balanced: Balance, sample_weight: Array | None
) -> CrossValidation:
    """Join targets, folds and the scoring that ``balance=`` asks for; classes without rows are left out."""
    present = T.sum(axis=0) > 0 if task == "classification" else np.ones(T.shape[1], dtype=bool)
    T = T[:, present]
    shift = log_adjustment(T.sum(axis=0)) if balanced.kind == "logit" else None
    even = row_weights(T) if balanced.kind != "none" else None
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if balanced.kind == "weights" and even is not None:
        weights = even if weights is None else even * weights
    return CrossValidation(T, folds, Scoring(task, _metric(task, balanced), shift, even), weights)


def _metric(task: str, balanced: Balance) -> str:
    return balanced.metric if task == "classification" else _METRIC[task]


def _selection(
    winner: CVResult,
    scoring: Scoring,
    balanced: Balance,
    *,
    T: Float,
    reason: str,
    trials: tuple[CVResult, ...] = (),
    folds: Ints | None = None,
) -> Selection:
    adjusts = balanced.kind == "logit" and HEADS[winner.head].learns_prior
    return Selection(
        candidates=winner.candidates,
        name=winner.head,
        fields=winner.fields,
        task=scoring.task,
        metric=scoring.metric,
        score=winner.score,
        low=winner.low,
        high=winner.high,
        temperature=winner.temperature,
        balance=balanced,
        log_odds=log_adjustment(T.sum(axis=0)) if adjusts else None,
        reason=reason,
        trials=trials,
        folds=folds,
    )


def _without_folds(last: str, candidates: list[HeadCandidate], task: str, *, balanced: Balance, T: Float) -> Selection:
    """Fall back to the default head on the last features: one row per class, or one group, cannot be held out."""
    default = next((c for c in candidates if c.name == _DEFAULT[task]), candidates[0])
    empty = np.zeros(0)
    winner = CVResult((last,), default.name, default.fields or {}, np.nan, np.nan, np.nan, empty, empty, 1.0)
    reason = "no two folds can be had (one row per class, or one group), so nothing was compared"
    return _selection(winner, Scoring(task, _metric(task, balanced)), balanced, T=T, reason=reason)


def _check_inputs(features: Mapping[str, Array], T: Float, task: str) -> None:
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


def _drop_constant(features: Mapping[str, Array]) -> dict[str, Array]:
    """Leave out candidates that do not vary from row to row (a dead layer)."""
    varying = {name: X for name, X in features.items() if _varies(X if X.dtype.kind == "f" else X.astype(np.float64))}
    if not varying:
        raise NumericsError("All features are constant: there is nothing to learn from. Choose another layer.")
    for name in features.keys() - varying.keys():
        note(f"{name}: its features are constant, so it is left out of the choice.")
    return varying


def _varies(X: Array) -> bool:
    """Tell whether rows differ by more than rounding: equal items differ in last bits between batches."""
    return bool((np.abs(X - X[:1]) > _LAST_BITS * np.abs(X[:1])).any())


def _check_folds(fold_ids: Array | None, rows: int) -> Ints | None:
    if fold_ids is None:
        return None
    folds = np.atleast_2d(np.asarray(fold_ids))
    if folds.ndim != 2 or folds.shape[1] != rows or folds.dtype.kind not in "iu":
        raise DataError(f"fold_ids must be {rows:,} whole numbers, or (R, {rows:,}); got {folds.shape} {folds.dtype}.")
    if any(len(np.unique(row)) < 2 for row in folds):
        raise OptionError("fold_ids must name two folds or more; with one, nothing would be left to fit on.")
    return folds.astype(np.int64)


def _sample_rows(T: Float, task: str, random_state: int) -> Ints:
    """Draw so many rows that choosing stays quick, of every class its share, in their order."""
    rng = np.random.default_rng(random_state)
    labels = T.argmax(axis=1) if task == "classification" else np.zeros(len(T), dtype=np.int64)
    order = stratified_order(labels, rng)
    return np.sort(order[np.linspace(0, len(T) - 1, MOST_ROWS).astype(np.int64)])
