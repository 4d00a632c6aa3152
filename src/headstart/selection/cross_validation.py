"""Cross-validation of heads: fold assignments, scores of held-out decisions, and the one-standard-error rule.

A *setting* is a head with its hyper-parameters on one set of features. :class:`CrossValidation` holds rows out by R
assignments of folds, gets the decisions of all settings of a head at once (``Head.out_of_fold``) and scores each into a
:class:`CVResult`. Two settings are compared by their ``losses``, unit by unit, on the same held-out rows.

References
----------
Breiman et al. (1984), Classification and regression trees (the one-standard-error rule). Nadeau & Bengio (2003),
Inference for the generalization error (why cross-validated standard errors are too small).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from headstart._base.typing import Array, Float, Ints
from headstart.dataset.splits import stratified_folds
from headstart.heads.base import HEADS, Head, Setting
from headstart.heads.problem import Problem
from headstart.metrics.kernels import (
    cross_entropy,
    mean_average_precision,
    mean_recall_with_interval,
    r_squared,
    r_squared_parts,
    share_with_interval,
)
from headstart.selection.calibration import fit_temperature

N_FOLDS = 5
SMALL_SAMPLE = 200  # rows up to which only heads that are safe there compete, and whole grids see every repeat
FEW_PER_CLASS = 30  # rows of the median class up to which a sample is small as well
BASELINE = ("logistic", {"C": 1.0, "scale": "none"})  # the setting to beat
_TARGET_HELD_OUT = 600  # held-out rows, over all repeats
_MIN_REPEATS, _MAX_REPEATS = 3, 10
_SE_INFLATION = 32.0  # standard errors count 1 + 32 / n times: held-out rows share most of what predicted them
_CLEARLY = 1.96  # standard errors


# --- folds ------------------------------------------------------------------------------------------------------------


def draw_folds(
    T: Float, task: str, *, groups: Array | None = None, repeats: int | None = None, random_state: int = 0
) -> Ints | None:
    """Draw fold numbers (R, n), stratified by class, with groups in one fold; None where no two folds can be had.

    Five folds; fewer where no class, or no grouping, has five members. Drawn three times, of few rows up to ten;
    assignments that part the rows alike (three groups can be parted in one way only) count once.

    Parameters
    ----------
    T : (n, t) array
        Targets; one-hot for classification.
    task : str
    groups : (n,) array, optional
    repeats : int, optional
    random_state : int
    """
    rng = np.random.default_rng(random_state)
    labels = T.argmax(axis=1) if task == "classification" else np.zeros(len(T), dtype=np.int64)
    counts = np.bincount(labels)
    if repeats is None:
        repeats = min(max(round(_TARGET_HELD_OUT / len(T)), _MIN_REPEATS), _MAX_REPEATS)
    n_folds = min(N_FOLDS, int(counts.max()))
    if groups is None:
        return None if n_folds < 2 else _distinct([stratified_folds(labels, n_folds, rng) for _ in range(repeats)])
    group_ids = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    n_folds = min(n_folds, int(group_ids.max()) + 1)
    return None if n_folds < 2 else _distinct([_grouped(labels, group_ids, n_folds, rng) for _ in range(repeats)])


def _distinct(assignments: list[Ints]) -> Ints:
    """Keep the assignments (R, n) that differ by more than the names of their folds."""
    distinct: dict[bytes, Ints] = {}
    for fold_ids in assignments:
        first, names = np.unique(fold_ids, return_index=True, return_inverse=True)[1:]
        by_first_row = np.argsort(np.argsort(first))[names]  # folds numbered by their first row
        distinct.setdefault(by_first_row.tobytes(), fold_ids)
    return np.stack(list(distinct.values()))


def _grouped(labels: Ints, groups: Ints, n_folds: int, rng: np.random.Generator) -> Ints:
    """Give whole groups, the largest first, each to the fold where it evens out the classes best."""
    counts = np.zeros((groups.max() + 1, labels.max() + 1))  # of rows, by group and class
    np.add.at(counts, (groups, labels), 1.0)
    shuffled = rng.permutation(len(counts))
    fold_counts = np.zeros((n_folds, counts.shape[1]))
    target = counts.sum(axis=0) / n_folds
    fold_of_group = np.empty(len(counts), dtype=np.int64)
    for group in shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]:
        before, after = (fold_counts - target) ** 2, (fold_counts + counts[group] - target) ** 2
        excess = ((after - before) / np.maximum(target, 1)).sum(axis=1)
        # a group that is all of its class is no worse off anywhere: then the smallest fold, or the first would get all
        fold = int(np.lexsort((fold_counts.sum(axis=1), excess))[0])
        fold_of_group[group] = fold
        fold_counts[fold] += counts[group]
    return fold_of_group[groups]


def is_small_sample(T: Float, task: str) -> bool:
    """Tell whether there are so few rows that choosing among many settings would be choosing noise."""
    counts = T.sum(axis=0)
    if len(T) <= SMALL_SAMPLE:
        return True
    return task == "classification" and float(np.median(counts[counts > 0])) <= FEW_PER_CLASS


# --- scores of held-out decisions -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scoring:
    """The metric that choices maximise, with what balancing classes changes about it.

    Attributes
    ----------
    task : str
    metric : {"accuracy", "balanced_accuracy", "mean_average_precision", "r2"}
    shift : (t,) array or None
        Moves log-odds before classes are decided (logit adjustment).
    weights : (n,) array or None
        Of the rows in the loss, mean 1; None is 1 each.
    """

    task: str
    metric: str
    shift: Float | None = None
    weights: Float | None = None


@dataclass(frozen=True, eq=False)
class OofScore:
    """The score of out-of-fold decisions.

    Attributes
    ----------
    score, low, high : float
        The metric, and its 95 % interval.
    row_scores : (n,) array
        Share of the repeats in which each row was predicted well (classes); minus its loss elsewhere.
    losses : (u,) array
        What is compared between settings, unit by unit (rows; folds for labels): error + log-loss at the best
        temperature, minus average precision, or the squared error.
    temperature : float
    """

    score: float
    low: float
    high: float
    row_scores: Float
    losses: Float
    temperature: float


def score_out_of_fold(decisions: Float, T: Float, folds: Ints, scoring: Scoring) -> OofScore:
    """Score held-out decisions (R, n, t), one for each of R fold assignments (R, n)."""
    if scoring.task == "classification":
        return _score_classes(decisions, T, scoring)
    if scoring.task == "multilabel":
        return _score_labels(decisions, T, folds)
    return _score_values(decisions, T, folds)


def _score_classes(decisions: Float, T: Float, scoring: Scoring) -> OofScore:
    # with logit adjustment the temperature is that of the plain log-odds, before they are moved
    weights = scoring.weights if scoring.shift is None else None
    temperature = fit_temperature(decisions, T, scoring.task, weights)
    log_odds = decisions / temperature + (0.0 if scoring.shift is None else scoring.shift)
    correct = (log_odds.argmax(axis=-1) == T.argmax(axis=1)).mean(axis=0)
    losses = cross_entropy(log_odds, T, scoring.task).mean(axis=0) + 1.0 - correct
    if scoring.weights is not None:
        losses = losses * scoring.weights
    if scoring.metric == "balanced_accuracy":
        score, low, high = mean_recall_with_interval(correct @ T, T.sum(axis=0))
    else:
        score, low, high = share_with_interval(correct)
    return OofScore(score, low, high, correct, losses, temperature)


def _score_labels(decisions: Float, T: Float, folds: Ints) -> OofScore:
    """Average precision of all rows, without each fold (for the interval) and of each fold (for the comparison)."""
    temperature = fit_temperature(decisions, T, "multilabel")
    row_scores = -cross_entropy(decisions / temperature, T, "multilabel").mean(axis=0)
    every_fold_but_one = _jackknife_weights(folds[0])
    pooled, by_fold = [], []
    for decision, ids in zip(decisions, folds, strict=True):
        weights = np.concatenate([every_fold_but_one, _fold_weights(ids)])
        # a fold in which no label has a positive row tells settings apart as little as one where all get 0
        values = np.nan_to_num(mean_average_precision(decision, T, weights))
        pooled.append(values[: len(every_fold_but_one)])
        by_fold.append(-values[len(every_fold_but_one) :])
    losses = np.concatenate(by_fold)
    # Further repeats hold the same rows out: they make the mean steadier, but are no new rows. Spread the losses so
    # that their mean has the standard error of a single repeat.
    losses = losses.mean() + np.sqrt(len(folds)) * (losses - losses.mean())
    return OofScore(*_jackknife_interval(np.mean(pooled, axis=0)), row_scores, losses, temperature)


def _score_values(decisions: Float, T: Float, folds: Ints) -> OofScore:
    variance = np.maximum(T.var(axis=0), 1e-300)
    losses = (((decisions - T) ** 2) / variance).mean(axis=(0, 2))
    weights = _jackknife_weights(folds[0])
    values = np.mean([r_squared(r_squared_parts(decision, T), weights) for decision in decisions], axis=0)
    return OofScore(*_jackknife_interval(values), -losses, losses, 1.0)


def _fold_weights(fold_ids: Ints) -> Float:
    """1 for the rows of each fold (k, n), 0 elsewhere."""
    return np.asarray((fold_ids == np.unique(fold_ids)[:, None]).astype(np.float64))


def _jackknife_weights(fold_ids: Ints) -> Float:
    """Weightings (k + 1, n): all rows, then all but each of the k folds."""
    return np.concatenate([np.ones((1, len(fold_ids))), 1.0 - _fold_weights(fold_ids)])


def _jackknife_interval(values: Float) -> tuple[float, float, float]:
    """A score and its interval from the values (k + 1,) of all rows and without each fold."""
    score, left_out = float(values[0]), values[1:]
    k = len(left_out)
    error = float(np.sqrt((k - 1) / k * ((left_out - left_out.mean()) ** 2).sum()))
    half = float(stdtrit(k - 1, 0.975)) * error
    return score, score - half, min(score + half, 1.0)


# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CVResult:
    """One setting of one head on one set of features, cross-validated.

    Attributes
    ----------
    candidates : tuple of str
        The features; several are put side by side, in this order.
    head : str
    fields : dict
    score, low, high : float
        The metric aimed at, and its 95 % interval.
    row_scores : (n,) array
        Share of the repeats in which each row was predicted well; minus its loss where there are no classes.
    losses : (u,) array
        What settings are compared by, unit by unit; small is good.
    temperature : float
        Makes its held-out decisions the best probabilities.
    n_repeats : int
        The fold assignments it was held out by; see :func:`complete_results`.
    """

    candidates: tuple[str, ...]
    head: str
    fields: Setting
    score: float
    low: float
    high: float
    row_scores: Float
    losses: Float
    temperature: float
    n_repeats: int = 1

    @property
    def mean_loss(self) -> float:
        """Mean of ``losses``."""
        return float(self.losses.mean())

    @property
    def is_baseline(self) -> bool:
        """True for the setting to beat."""
        name, fields = BASELINE
        return self.head == name and all(self.fields.get(key) == value for key, value in fields.items())


@dataclass(frozen=True)
class HeadCandidate:
    """A head that competes: with its whole grid, or with the fields that were asked for."""

    name: str
    fields: Setting | None = None

    @property
    def kind(self) -> type[Head]:
        """The head's class."""
        kind: type[Head] = HEADS[self.name]
        return kind

    def supports_scale(self, scale: str) -> bool:
        """Tell whether it competes at this scaling."""
        if self.fields is not None:
            return bool(self.fields.get("scale", "none") == scale)
        return scale == "none" or any(item.name == "scale" for item in dataclasses.fields(self.kind))  # type: ignore[arg-type]

    def grid(self, problem: Problem) -> list[Setting]:
        """List the settings to try, without ``scale``, which is the problem's."""
        if self.fields is None:
            return self.kind.grid(problem)
        return [{key: value for key, value in self.fields.items() if key != "scale"}]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The targets, folds and scoring that all settings share.

    Attributes
    ----------
    T : (n, t) array
    folds : (R, n) array of int
    scoring : Scoring
    weights : (n,) array or None
        Of the rows, in the fits.
    """

    T: Float
    folds: Ints
    scoring: Scoring
    weights: Float | None = None

    def problem(self, X: Array, scale: str = "none") -> Problem:
        """One set of features with the shared targets, ready for every head."""
        return Problem(self.scoring.task, scale, X, self.T, self.weights)

    @property
    def grid_folds(self) -> Ints:
        """The fold assignments by which whole grids are held out: all on few rows, else one."""
        return self.folds if len(self.T) <= SMALL_SAMPLE else self.folds[:1]

    def cross_validate(
        self,
        names: tuple[str, ...],
        problem: Problem,
        candidates: Sequence[HeadCandidate],
        *,
        budget: float | None = None,
    ) -> list[CVResult]:
        """Cross-validate the grids of some heads on one set of features.

        Where whole grids see one fold assignment only, the best setting of each head, and the baseline, see all.

        Parameters
        ----------
        names : tuple of str
            Of the features.
        problem : Problem
        candidates : sequence of HeadCandidate
            Those that do not support the problem's scaling are passed over.
        budget : float, optional
            Floating-point operations for all heads together; the costlier ones are left out.
        """
        if budget is not None:
            candidates = self.within_budget(problem, candidates, budget)
        results: list[CVResult] = []
        for candidate in candidates:
            if candidate.supports_scale(problem.scale):
                results += self._grid_results(names, problem, candidate)
        return results

    def _grid_results(self, names: tuple[str, ...], problem: Problem, candidate: HeadCandidate) -> list[CVResult]:
        grid = candidate.grid(problem)
        decisions = list(candidate.kind.out_of_fold(problem, self.grid_folds, grid))
        results = [
            self._result(names, candidate, {**setting, "scale": problem.scale}, held_out)
            for setting, held_out in zip(grid, decisions, strict=True)
        ]
        other_folds = self.folds[len(self.grid_folds) :]
        if not len(other_folds):
            return results
        best = int(np.argmin([result.mean_loss for result in results]))
        repeated = [i for i, result in enumerate(results) if i == best or result.is_baseline]
        more = candidate.kind.out_of_fold(problem, other_folds, [grid[i] for i in repeated])
        for i, held_out in zip(repeated, more, strict=True):
            setting = {**grid[i], "scale": problem.scale}
            results[i] = self._result(names, candidate, setting, np.concatenate([decisions[i], held_out]))
        return results

    def _result(self, names: tuple[str, ...], candidate: HeadCandidate, setting: Setting, held_out: Float) -> CVResult:
        """Score a setting by its held-out decisions (R, n, t)."""
        scoring = self.scoring if candidate.kind.learns_prior else replace(self.scoring, shift=None)
        oof = score_out_of_fold(held_out, self.T, self.folds[: len(held_out)], scoring)
        return CVResult(
            candidates=names,
            head=candidate.name,
            fields={**(candidate.fields or {}), **setting},
            score=oof.score,
            low=oof.low,
            high=oof.high,
            row_scores=oof.row_scores,
            losses=oof.losses,
            temperature=oof.temperature,
            n_repeats=len(held_out),
        )

    def within_budget(
        self, problem: Problem, candidates: Sequence[HeadCandidate], budget: float
    ) -> list[HeadCandidate]:
        """Keep the cheapest heads whose operations fit the budget together; always one, in their order."""
        costs = [(candidate.kind.flops(problem, self.grid_folds), i) for i, candidate in enumerate(candidates)]
        selected: list[int] = []
        spent = 0.0
        for cost, i in sorted(costs):
            spent += cost
            if not selected or spent <= budget:
                selected.append(i)
        return [candidates[i] for i in sorted(selected)]

    def take_rows(self, rows: Ints) -> CrossValidation:
        """The same cross-validation on some of the rows."""
        scoring = self.scoring
        if scoring.weights is not None:
            scoring = replace(scoring, weights=scoring.weights[rows])
        weights = None if self.weights is None else self.weights[rows]
        return CrossValidation(self.T[rows], self.folds[:, rows], scoring, weights)


# --- the decision -----------------------------------------------------------------------------------------------------


def complete_results(results: Sequence[CVResult]) -> list[CVResult]:
    """Keep the results over every fold assignment: only they are compared with each other.

    Of many settings that saw one assignment the best is also the luckiest: its loss is too low beside a mean over
    several.
    """
    n_repeats = max((result.n_repeats for result in results), default=0)
    return [result for result in results if result.n_repeats == n_repeats]


def select_one_se(results: Sequence[CVResult]) -> CVResult:
    """Select one setting among the complete results of one set of features.

    The baseline stands unless another setting's mean loss is lower by more than 1 + 32 / n standard errors of the
    paired differences: held-out rows share most of what they were predicted from, so that on few rows the standard
    error is too small. Of those that pass, on few rows the one with the best lower bound wins, which keeps to the
    baseline's neighbourhood; on more the one with the lowest mean loss. Without a baseline the lowest mean does. Of
    equals the first, which is the simplest.
    """
    results = complete_results(results)
    baseline = next((result for result in results if result.is_baseline), None)
    if baseline is None:
        return results[int(np.argmin([result.mean_loss for result in results]))]
    n_rows = len(baseline.row_scores)
    n_errors = 1.0 + _SE_INFLATION / n_rows
    gains = [_improvement(baseline, result) for result in results]
    better = [i for i, (mean, error) in enumerate(gains) if mean > n_errors * error]
    if not better:
        return baseline
    caution = n_errors if n_rows <= SMALL_SAMPLE else 0.0
    return results[max(better, key=lambda i: gains[i][0] - caution * gains[i][1])]


def _improvement(baseline: CVResult, result: CVResult) -> tuple[float, float]:
    """Mean by which a result's loss is lower than the baseline's, and the standard error of that."""
    difference = baseline.losses - result.losses
    if len(difference) < 2:
        return float(difference.sum()), 0.0
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def prefer_larger_set(winners: Sequence[CVResult]) -> CVResult:
    """Select the set of features of least loss; on few rows a larger set that ties with it.

    A set of several candidates hedges against the luck of the draw: of 16 draws of 50 digits there was one in
    which a single layer looked best by two rows and was worse by 8 points on new ones; side by side nothing was lost.
    On more rows it has to win.
    """
    best = winners[int(np.argmin([winner.mean_loss for winner in winners]))]
    if len(best.row_scores) > SMALL_SAMPLE:
        return best
    larger = [w for w in winners if len(w.candidates) > len(best.candidates) and not _clearly_worse(w, best)]
    return min(larger, key=lambda winner: winner.mean_loss, default=best)


def _clearly_worse(result: CVResult, best: CVResult) -> bool:
    """Tell whether the mean paired difference of losses is more than 1.96 standard errors above 0."""
    difference = result.losses - best.losses
    if len(difference) < 2:
        return True
    return bool(difference.mean() > _CLEARLY * difference.std(ddof=1) / np.sqrt(len(difference)))
