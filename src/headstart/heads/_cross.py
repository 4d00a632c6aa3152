"""What choosing needs: folds, and scores of held-out decisions with their intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_expit, stdtrit

from headstart._intervals import mover_mean, wilson
from headstart._typing import Array, Float, Ints
from headstart.heads._temperature import temperature_of

FOLDS = 5
FEW = 30  # rows per class up to which only steady heads compete
CAUTIOUS = 200  # rows up to which little is taken for granted: only steady heads compete, all settings on all draws
_ROWS_WANTED = 600  # held-out rows, over all draws of the folds
_DRAWS = 3, 10  # of the folds, on many and on very few rows


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
    rows : (n,) array
        Share of the fold assignments in which each row was predicted well (classes); minus its loss elsewhere.
    costs : (u,) array
        What is compared between settings, unit by unit (rows; folds for labels): error + log-loss at the best
        temperature, minus average precision, or the squared error.
    temperature : float
    """

    score: float
    low: float
    high: float
    rows: Float
    costs: Float
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
        repeats = min(max(round(_ROWS_WANTED / len(T)), _DRAWS[0]), _DRAWS[1])
    if groups is None:
        folds = min(FOLDS, int(counts.max()))
        return None if folds < 2 else _distinct([_stratified(labels, folds, rng) for _ in range(repeats)])
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


def _stratified(labels: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Deal the shuffled rows of one class after another to the folds in turn."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    out = np.empty(len(labels), dtype=np.int64)
    out[order] = np.arange(len(labels)) % folds
    return out


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


def losses(log_odds: Float, T: Float, task: str) -> Float:
    """Log-loss (n,) of each row, averaged over repeats (R, n, t); of labels, their mean."""
    if task == "classification":
        classes = np.ascontiguousarray(np.moveaxis(log_odds, -1, 0))  # sums run along memory
        top = classes.max(axis=0)
        given = np.einsum("rnt,nt->rn", log_odds, T)
        return np.asarray((np.log(np.exp(classes - top).sum(axis=0)) + top - given).mean(axis=0))
    return -np.asarray((T * log_expit(log_odds) + (1 - T) * log_expit(-log_odds)).mean(axis=(0, -1)))


def score_out_of_fold(decisions: Float, T: Float, folds: Ints, aim: Scoring) -> OofScore:
    """Score held-out decisions (R, n, t)."""
    if aim.task == "classification":
        return _measure_classes(decisions, T, aim)
    if aim.task == "multilabel":
        temperature = temperature_of(decisions, T, aim.task)
        rows = -losses(decisions / temperature, T, aim.task)
        score, low, high = _jackknifed(mean_average_precision, decisions, T, folds)
        return OofScore(score, low, high, rows, _fold_costs(decisions, T, folds), temperature)
    around = np.maximum(T.var(axis=0), 1e-300)
    costs = (((decisions - T) ** 2) / around).mean(axis=(0, 2))
    score, low, high = _jackknifed(r_squared, decisions, T, folds)
    return OofScore(score, low, high, -costs, costs, 1.0)


def _fold_costs(decisions: Float, T: Float, folds: Ints) -> Float:
    """Minus average precision (R·folds,) of each fold, so spread that their mean has the standard error of one draw.

    Further draws hold the same rows out: they make the mean steadier, but are no new rows.
    """
    costs = np.array(
        [
            -mean_average_precision(held[ids == fold], T[ids == fold])
            for held, ids in zip(decisions, folds, strict=True)
            for fold in np.unique(ids)
        ]
    )
    return np.asarray(costs.mean() + np.sqrt(len(folds)) * (costs - costs.mean()))


def _measure_classes(decisions: Float, T: Float, aim: Scoring) -> OofScore:
    temperature = temperature_of(decisions, T, aim.task, aim.weights if aim.shift is None else None)
    log_odds = decisions / temperature + (0.0 if aim.shift is None else aim.shift)
    rows = (log_odds.argmax(axis=-1) == T.argmax(axis=1)).mean(axis=0)
    costs = losses(log_odds, T, aim.task) + 1.0 - rows
    if aim.weights is not None:
        costs = costs * aim.weights
    score, low, high = _share(rows, T, balanced=aim.metric == "balanced_accuracy")
    return OofScore(score, low, high, rows, costs, temperature)


def _share(rows: Float, T: Float, *, balanced: bool) -> tuple[float, float, float]:
    """A share of rows, or the mean of the classes' shares, with Wilson's interval."""
    if not balanced:
        score = float(rows.mean())
        low, high = wilson(score * len(rows), len(rows))
        return score, low, high
    counts = T.sum(axis=0)
    seen = counts > 0
    shares = (rows @ T)[seen] / counts[seen]
    low, high = wilson(shares * counts[seen], counts[seen])
    ends = mover_mean(shares, low, high)
    return float(shares.mean()), max(ends[0], 0.0), min(ends[1], 1.0)


def _jackknifed(
    statistic: Callable[[Float, Float], float], decisions: Float, T: Float, folds: Ints
) -> tuple[float, float, float]:
    """A pooled statistic, averaged over repeats, and its interval from leaving out one fold after another."""
    score = float(np.mean([statistic(one, T) for one in decisions]))
    ids = folds[0]
    left = np.array(
        [np.mean([statistic(one[ids != fold], T[ids != fold]) for one in decisions]) for fold in np.unique(ids)]
    )
    k = len(left)
    error = float(np.sqrt((k - 1) / k * ((left - left.mean()) ** 2).sum()))
    half = float(stdtrit(k - 1, 0.975)) * error
    return score, score - half, min(score + half, 1.0)


def r_squared(values: Float, T: Float) -> float:
    """Share of variance explained, averaged over the target columns."""
    around = ((T - T.mean(axis=0)) ** 2).sum(axis=0)
    left = ((T - values) ** 2).sum(axis=0)
    return float(np.mean(np.where(around > 0, 1 - left / np.where(around > 0, around, 1.0), left == 0)))


def mean_average_precision(scores: Float, T: Float) -> float:
    """Average precision of each label that has both kinds of rows, averaged; of equal scores the pessimistic order."""
    found = []
    for column, wanted in zip(scores.T, T.T, strict=True):
        if not 0 < wanted.sum() < len(wanted):
            continue
        hits = wanted[np.lexsort((wanted, -column))]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found.append(float((precision * hits).sum() / hits.sum()))
    return float(np.mean(found)) if found else 0.0
