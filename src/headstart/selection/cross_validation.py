"""Settings of heads against each other on one set of features, and the rule that decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.special import stdtrit

from headstart._base.typing import Array, Float, Ints
from headstart.dataset.splits import stratified_folds
from headstart.heads.base import HEADS, Head
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

# ---- What choosing needs: folds, and scores of held-out decisions with their intervals. ----


FOLDS = 5
FEW_PER_CLASS = 30  # rows per class up to which only steady heads compete
SMALL_SAMPLE = 200  # rows up to which little is taken for granted: only steady heads compete, all settings on all draws
_TARGET_HELD_OUT = 600  # held-out rows, over all draws of the folds
_REPEATS = 3, 10  # of the folds, on many and on very few rows


@dataclass(frozen=True, eq=False)
class Scoring:
    """What choices aim at.

    Attributes
    ----------
    task : str
    metric : {"accuracy", "balanced_accuracy", "mean_average_precision", "r2"}
    shift : (t,) array or None
        Moves log-odds before classes are decided (logit adjustment).
    weights : (n,) array or None
        What each row counts, mean 1; None is 1 each.
    """

    task: str
    metric: str
    shift: Float | None = None
    weights: Float | None = None


@dataclass(frozen=True, eq=False)
class OofScore:
    """A cross-validated score.

    Attributes
    ----------
    score, low, high : float
        The metric, and its 95 % interval.
    row_scores : (n,) array
        Share of the fold assignments in which each row was predicted well (classes); minus its loss elsewhere.
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


def draw_folds(
    T: Float, task: str, *, groups: Array | None = None, repeats: int | None = None, random_state: int = 0
) -> Ints | None:
    """Fold numbers (R, n): stratified by class, groups kept whole; None where no two folds can be had.

    Five folds; fewer where no class, or no grouping, has five members. Drawn three times, of few rows up to ten;
    draws that part the rows alike (three groups can be parted in one way only) count once.
    """
    rng = np.random.default_rng(random_state)
    labels = T.argmax(axis=1) if task == "classification" else np.zeros(len(T), dtype=np.int64)
    counts = np.bincount(labels)
    if repeats is None:
        repeats = min(max(round(_TARGET_HELD_OUT / len(T)), _REPEATS[0]), _REPEATS[1])
    if groups is None:
        folds = min(FOLDS, int(counts.max()))
        return None if folds < 2 else _distinct([stratified_folds(labels, folds, rng) for _ in range(repeats)])
    numbers = np.unique(np.asarray(groups), return_inverse=True)[1].ravel()
    folds = min(FOLDS, int(numbers.max()) + 1, int(counts.max()))
    return None if folds < 2 else _distinct([_grouped(labels, numbers, folds, rng) for _ in range(repeats)])


def _distinct(draws: list[Ints]) -> Ints:
    """The draws (R, n) that differ by more than the names of their folds."""
    kept: dict[bytes, Ints] = {}
    for ids in draws:
        first, names = np.unique(ids, return_index=True, return_inverse=True)[1:]
        kept.setdefault(np.argsort(np.argsort(first))[names].tobytes(), ids)
    return np.stack(list(kept.values()))


def _grouped(labels: Ints, groups: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Give whole groups, the largest first, each to the fold where it evens out the classes most."""
    table = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(table, (groups, labels), 1.0)
    shuffled = rng.permutation(len(table))
    held = np.zeros((folds, table.shape[1]))
    wished = table.sum(axis=0) / folds
    home = np.empty(len(table), dtype=np.int64)
    for group in shuffled[np.argsort(-table[shuffled].sum(axis=1), kind="stable")]:
        excess = (((held + table[group] - wished) ** 2 - (held - wished) ** 2) / np.maximum(wished, 1)).sum(axis=1)
        # a class of its own is no worse off anywhere: then the smallest fold, or all groups would end up in the first
        home[group] = int(np.lexsort((held.sum(axis=1), excess))[0])
        held[home[group]] += table[group]
    return home[groups]


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
    return (fold_ids == np.unique(fold_ids)[:, None]).astype(np.float64)


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


SCREENERS = ("ridge", "lda")  # all their strengths come from one decomposition
_SE_INFLATION = 32.0
BASELINE = ("logistic", {"C": 1.0, "scale": "none"})  # the setting to beat


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
        Share of the fold assignments in which each row was predicted well; minus its loss where there are no classes.
    losses : (u,) array
        What settings are compared by, unit by unit; small is good.
    temperature : float
        Makes its held-out decisions the best probabilities.
    n_repeats : int
        How many fold assignments it was held out by; see :func:`finished`.
    """

    candidates: tuple[str, ...]
    head: str
    fields: dict[str, Any]
    score: float
    low: float
    high: float
    row_scores: Float
    losses: Float
    temperature: float
    n_repeats: int = 1

    @property
    def mean_loss(self) -> float:
        """Mean of ``costs``."""
        return float(self.losses.mean())

    @property
    def is_baseline(self) -> bool:
        """Whether this is the setting to beat."""
        name, fields = BASELINE
        return self.head == name and all(self.fields.get(key) == value for key, value in fields.items())


@dataclass(frozen=True)
class HeadCandidate:
    """A head that may compete: all of its grid, or one setting that was asked for."""

    name: str
    fields: dict[str, Any] | None = None

    @property
    def kind(self) -> type[Head]:
        """The head's class."""
        kind: type[Head] = HEADS[self.name]
        return kind

    def supports_scale(self, scale: str) -> bool:
        """Whether it competes at this scaling."""
        if self.fields is not None:
            return bool(self.fields.get("scale", "none") == scale)
        return scale == "none" or any(field.name == "scale" for field in dataclasses.fields(self.kind))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The rows, folds and aim that all trials share."""

    T: Float
    folds: Ints
    scoring: Scoring
    weights: Float | None = None

    def problem(self, X: Array, scale: str = "none") -> Problem:
        """The rows of one set of features, ready for every head."""
        return Problem(self.scoring.task, scale, X, self.T, self.weights)

    @property
    def grid_folds(self) -> Ints:
        """The fold assignments by which whole grids are held out: all on few rows, else one."""
        return self.folds if len(self.T) <= SMALL_SAMPLE else self.folds[:1]

    def cross_validate(
        self, candidates: tuple[str, ...], problem: Problem, entries: Sequence[HeadCandidate]
    ) -> list[CVResult]:
        """Cross-validate the settings of some heads; where whole grids see one draw, the best of each sees them all."""
        found = []
        for entry in entries:
            if not entry.supports_scale(problem.scale):
                continue
            grid = entry.kind.grid(problem) if entry.fields is None else [_bare(entry.fields)]
            decisions = list(entry.kind.out_of_fold(problem, self.grid_folds, grid))
            told = partial(self._trial, candidates, entry, scale=problem.scale)
            trials = [told(setting, held_out) for setting, held_out in zip(grid, decisions, strict=True)]
            others = self.folds[len(self.grid_folds) :]
            if len(others):
                best = min(range(len(grid)), key=lambda place: trials[place].mean_loss)
                again = [place for place, trial in enumerate(trials) if place == best or trial.is_baseline]
                more = entry.kind.out_of_fold(problem, others, [grid[place] for place in again])
                for place, held_out in zip(again, more, strict=True):
                    trials[place] = told(grid[place], np.concatenate([decisions[place], held_out]))
            found += trials
        return found

    def _trial(
        self, candidates: tuple[str, ...], entry: HeadCandidate, setting: dict[str, Any], held_out: Float, *, scale: str
    ) -> CVResult:
        """A setting by its held-out decisions (R, n, t)."""
        aim = self.scoring if entry.kind.learns_prior else replace(self.scoring, shift=None)
        got = score_out_of_fold(held_out, self.T, self.folds[: len(held_out)], aim)
        fields = {**(entry.fields or {}), **setting, "scale": scale}
        row = (got.score, got.low, got.high, got.row_scores, got.losses, got.temperature, len(held_out))
        return CVResult(candidates, entry.name, fields, *row)

    def within_budget(self, problem: Problem, entries: Sequence[HeadCandidate], budget: float) -> list[HeadCandidate]:
        """The entries, cheapest first, whose operations fit the budget together; always one."""
        efforts = [(entry.kind.flops(problem, self.grid_folds), place) for place, entry in enumerate(entries)]
        kept: list[int] = []
        spent = 0.0
        for effort, place in sorted(efforts):
            spent += effort
            if not kept or spent <= budget:
                kept.append(place)
        return [entries[place] for place in sorted(kept)]

    def take_rows(self, rows: Ints) -> CrossValidation:
        """The same contest on some of the rows."""
        aim = (
            self.scoring if self.scoring.weights is None else replace(self.scoring, weights=self.scoring.weights[rows])
        )
        weights = None if self.weights is None else self.weights[rows]
        return CrossValidation(self.T[rows], self.folds[:, rows], aim, weights)


def complete_results(trials: Sequence[CVResult]) -> list[CVResult]:
    """The trials that saw every draw of the folds: only they are compared with each other.

    Of many settings that saw one draw the best is also the luckiest: its cost is too low beside a mean over several.
    """
    most = max((trial.n_repeats for trial in trials), default=0)
    return [trial for trial in trials if trial.n_repeats == most]


def select_one_se(trials: Sequence[CVResult]) -> CVResult:
    """The winner of the finished trials of one set of features.

    The anchor stands unless another setting's mean cost is lower by more than 1 + 32 / n standard errors of the paired
    differences: held-out rows share most of what they were predicted from, so that on few rows the standard error is
    too small. Of those that pass, on few rows the one with the best lower bound wins, which keeps to the anchor's
    neighbourhood; on more the one with the lowest mean cost. Without an anchor the lowest mean does. Of equals the
    first, which is the simplest.
    """
    trials = complete_results(trials)
    anchor = next((trial for trial in trials if trial.is_baseline), None)
    if anchor is None:
        return trials[int(np.argmin([trial.mean_loss for trial in trials]))]
    doubt = 1.0 + _SE_INFLATION / len(anchor.row_scores)
    gains = [_gain(anchor, trial) for trial in trials]
    passed = [place for place, (mean, error) in enumerate(gains) if mean > doubt * error]
    if not passed:
        return anchor
    caution = doubt if len(anchor.row_scores) <= SMALL_SAMPLE else 0.0
    return trials[max(passed, key=lambda place: gains[place][0] - caution * gains[place][1])]


def prefer_larger_set(winners: Sequence[CVResult]) -> CVResult:
    """Of the winners of several sets of features the one of least cost; on few rows a larger set that ties with it.

    A set that holds several candidates hedges against the luck of the draw: of 16 draws of 50 digits there was one in
    which a single layer looked best by two rows and was worse by 8 points on new ones; side by side nothing was lost.
    On more rows it has to win.
    """
    best = winners[int(np.argmin([winner.mean_loss for winner in winners]))]
    if len(best.row_scores) > SMALL_SAMPLE:
        return best
    larger = [w for w in winners if len(w.candidates) > len(best.candidates) and not _clearly_worse(w, best)]
    return min(larger, key=lambda winner: winner.mean_loss, default=best)


def _clearly_worse(trial: CVResult, best: CVResult) -> bool:
    """Whether the mean paired difference of costs is more than 1.96 standard errors above 0."""
    difference = trial.losses - best.losses
    if len(difference) < 2:
        return True
    return bool(difference.mean() > 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))


def _gain(anchor: CVResult, trial: CVResult) -> tuple[float, float]:
    """How much cheaper than the anchor a trial is, and the standard error of that."""
    difference = anchor.losses - trial.losses
    if len(difference) < 2:
        return float(difference.sum()), 0.0
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _bare(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "scale"}
