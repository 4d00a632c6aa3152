"""Settings of heads against each other on one set of features, and the rule that decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from headstart._typing import Array, Float, Ints
from headstart.heads._cross import CAUTIOUS, Scoring, score_out_of_fold
from headstart.heads.base import HEADS, Head, Problem

SCREENERS = ("ridge", "lda")  # all their strengths come from one decomposition
_SMALL_SAMPLE = 32.0
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
    rows : (n,) array
        Share of the fold assignments in which each row was predicted well; minus its loss where there are no classes.
    costs : (u,) array
        What settings are compared by, unit by unit; small is good.
    temperature : float
        Makes its held-out decisions the best probabilities.
    draws : int
        How many fold assignments it was held out by; see :func:`finished`.
    """

    candidates: tuple[str, ...]
    head: str
    fields: dict[str, Any]
    score: float
    low: float
    high: float
    rows: Float
    costs: Float
    temperature: float
    draws: int = 1

    @property
    def cost(self) -> float:
        """Mean of ``costs``."""
        return float(self.costs.mean())

    @property
    def is_anchor(self) -> bool:
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

    def takes(self, scale: str) -> bool:
        """Whether it competes at this scaling."""
        if self.fields is not None:
            return bool(self.fields.get("scale", "none") == scale)
        return scale == "none" or any(field.name == "scale" for field in dataclasses.fields(self.kind))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The rows, folds and aim that all trials share."""

    T: Float
    folds: Ints
    aim: Scoring
    weights: Float | None = None

    def problem(self, X: Array, scale: str = "none") -> Problem:
        """The rows of one set of features, ready for every head."""
        return Problem(self.aim.task, scale, X, self.T, self.weights)

    @property
    def first(self) -> Ints:
        """The fold assignments by which whole grids are held out: all on few rows, else one."""
        return self.folds if len(self.T) <= CAUTIOUS else self.folds[:1]

    def enter(self, candidates: tuple[str, ...], problem: Problem, entries: Sequence[HeadCandidate]) -> list[CVResult]:
        """Cross-validate the settings of some heads; where whole grids see one draw, the best of each sees them all."""
        found = []
        for entry in entries:
            if not entry.takes(problem.scale):
                continue
            grid = entry.kind.grid(problem) if entry.fields is None else [_bare(entry.fields)]
            decisions = list(entry.kind.out_of_fold(problem, self.first, grid))
            told = partial(self._trial, candidates, entry, scale=problem.scale)
            trials = [told(setting, held_out) for setting, held_out in zip(grid, decisions, strict=True)]
            others = self.folds[len(self.first) :]
            if len(others):
                best = min(range(len(grid)), key=lambda place: trials[place].cost)
                again = [place for place, trial in enumerate(trials) if place == best or trial.is_anchor]
                more = entry.kind.out_of_fold(problem, others, [grid[place] for place in again])
                for place, held_out in zip(again, more, strict=True):
                    trials[place] = told(grid[place], np.concatenate([decisions[place], held_out]))
            found += trials
        return found

    def _trial(
        self, candidates: tuple[str, ...], entry: HeadCandidate, setting: dict[str, Any], held_out: Float, *, scale: str
    ) -> CVResult:
        """A setting by its held-out decisions (R, n, t)."""
        aim = self.aim if entry.kind.learns_prior else replace(self.aim, shift=None)
        got = score_out_of_fold(held_out, self.T, self.folds[: len(held_out)], aim)
        fields = {**(entry.fields or {}), **setting, "scale": scale}
        row = (got.score, got.low, got.high, got.rows, got.costs, got.temperature, len(held_out))
        return CVResult(candidates, entry.name, fields, *row)

    def affordable(self, problem: Problem, entries: Sequence[HeadCandidate], budget: float) -> list[HeadCandidate]:
        """The entries, cheapest first, whose operations fit the budget together; always one."""
        efforts = [(entry.kind.effort(problem, self.first), place) for place, entry in enumerate(entries)]
        kept: list[int] = []
        spent = 0.0
        for effort, place in sorted(efforts):
            spent += effort
            if not kept or spent <= budget:
                kept.append(place)
        return [entries[place] for place in sorted(kept)]

    def thinned(self, rows: Ints) -> CrossValidation:
        """The same contest on some of the rows."""
        aim = self.aim if self.aim.weights is None else replace(self.aim, weights=self.aim.weights[rows])
        weights = None if self.weights is None else self.weights[rows]
        return CrossValidation(self.T[rows], self.folds[:, rows], aim, weights)


def complete_results(trials: Sequence[CVResult]) -> list[CVResult]:
    """The trials that saw every draw of the folds: only they are compared with each other.

    Of many settings that saw one draw the best is also the luckiest: its cost is too low beside a mean over several.
    """
    most = max((trial.draws for trial in trials), default=0)
    return [trial for trial in trials if trial.draws == most]


def select_one_se(trials: Sequence[CVResult]) -> CVResult:
    """The winner of the finished trials of one set of features.

    The anchor stands unless another setting's mean cost is lower by more than 1 + 32 / n standard errors of the paired
    differences: held-out rows share most of what they were predicted from, so that on few rows the standard error is
    too small. Of those that pass, on few rows the one with the best lower bound wins, which keeps to the anchor's
    neighbourhood; on more the one with the lowest mean cost. Without an anchor the lowest mean does. Of equals the
    first, which is the simplest.
    """
    trials = complete_results(trials)
    anchor = next((trial for trial in trials if trial.is_anchor), None)
    if anchor is None:
        return trials[int(np.argmin([trial.cost for trial in trials]))]
    doubt = 1.0 + _SMALL_SAMPLE / len(anchor.rows)
    gains = [_gain(anchor, trial) for trial in trials]
    passed = [place for place, (mean, error) in enumerate(gains) if mean > doubt * error]
    if not passed:
        return anchor
    caution = doubt if len(anchor.rows) <= CAUTIOUS else 0.0
    return trials[max(passed, key=lambda place: gains[place][0] - caution * gains[place][1])]


def prefer_larger_set(winners: Sequence[CVResult]) -> CVResult:
    """Of the winners of several sets of features the one of least cost; on few rows a larger set that ties with it.

    A set that holds several candidates hedges against the luck of the draw: of 16 draws of 50 digits there was one in
    which a single layer looked best by two rows and was worse by 8 points on new ones; side by side nothing was lost.
    On more rows it has to win.
    """
    best = winners[int(np.argmin([winner.cost for winner in winners]))]
    if len(best.rows) > CAUTIOUS:
        return best
    larger = [w for w in winners if len(w.candidates) > len(best.candidates) and not _clearly_worse(w, best)]
    return min(larger, key=lambda winner: winner.cost, default=best)


def _clearly_worse(trial: CVResult, best: CVResult) -> bool:
    """Whether the mean paired difference of costs is more than 1.96 standard errors above 0."""
    difference = trial.costs - best.costs
    if len(difference) < 2:
        return True
    return bool(difference.mean() > 1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))


def _gain(anchor: CVResult, trial: CVResult) -> tuple[float, float]:
    """How much cheaper than the anchor a trial is, and the standard error of that."""
    difference = anchor.costs - trial.costs
    if len(difference) < 2:
        return float(difference.sum()), 0.0
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _bare(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "scale"}
