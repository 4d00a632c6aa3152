"""From cross-validated trials to rows: scores, paired differences to the best, groups of ties, layers together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from headstart._base.intervals import paired_difference
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.heads.base import HEADS
from headstart.moments.moments import Moments
from headstart.result.ranking import Fusion, Row
from headstart.scores.base import score
from headstart.selection.cross_validation import CVResult, complete_results
from headstart.selection.search import Selection
from headstart.sources.base import Source, display_names
from headstart.sources.types import Layer

_KNN_ROWS = 2000  # kNN takes n² products: on more rows an evenly spaced sample


def layer_columns(
    X: np.ndarray, T: np.ndarray, *, task: str, bank: FeatureBank, layer: Layer
) -> dict[str, float | None]:
    """Return LogME, H-score, kNN, extraction seconds and megabytes of one layer; None where a score does not apply."""
    columns = transferability_scores(X, T, task=task)
    speed = bank.runtime.speed
    columns["seconds"] = len(X) / speed * layer.depth if speed else None
    columns["mbytes"] = X.nbytes / 1e6
    return columns


def transferability_scores(X: np.ndarray, T: np.ndarray, *, task: str) -> dict[str, float | None]:
    """Return the scores that need rows only: LogME, and of classes H-score and kNN."""
    moments = Moments.from_rows(reduce_to_rank(X), T)
    scores: dict[str, float | None] = {"logme": _score_or_none("logme", moments)}
    if task == "classification":
        scores["h_score"] = _score_or_none("h_score", moments, dimensions=X.shape[1])
        sample = slice(None) if len(X) <= _KNN_ROWS else np.linspace(0, len(X) - 1, _KNN_ROWS).astype(int)
        scores["knn"] = _score_or_none("knn", None, rows=X[sample], targets=T[sample])
    return scores


def source_columns(
    source: Source, bank: FeatureBank, data: Dataset, *, T: np.ndarray, task: str
) -> dict[str, float | None]:
    """Return the columns common to all layers of a source: its size, and NCE and LEEP where it has a classifier."""
    parameters = sum(p.numel() for p in source.module.parameters()) if "torch" in source.engines else None
    columns: dict[str, float | None] = {"static": parameters / 1e6 if parameters else None}
    if task != "classification" or source.classifier is None or "output" not in bank.layers:
        return columns
    probabilities = bank.rows("output", data).astype(np.float64)
    if (
        probabilities.min() < 0 or np.abs(probabilities.sum(1) - 1).max() > 1e-3
    ):  # some networks end in a softmax of their own
        probabilities = softmax(probabilities, axis=1)
    table = T.T @ np.eye(probabilities.shape[1])[probabilities.argmax(1)]
    columns["leep"] = _score_or_none("leep", None, probabilities=probabilities, targets=T)
    columns["nce"] = _score_or_none("nce", None, table=table)
    return columns


def reduce_to_rank(X: np.ndarray) -> np.ndarray:
    """Return rows in at most n dimensions, distances unchanged: rotation-invariant scores cost n³ instead of d³."""
    if len(X) >= X.shape[1]:
        return X
    centered = np.asarray(X, dtype=np.float64) - X.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centered @ centered.T)
    keep = values > values[-1] * 1e-12
    return vectors[:, keep] * np.sqrt(values[keep])


def _score_or_none(name: str, moments: Moments | None, **inputs: Any) -> float | None:
    try:
        return float(score(name, moments, **inputs))
    except HeadstartError:
        return None


Names = Mapping[str, tuple[Source, str]]


def source_titles(names: Names) -> dict[Source, str]:
    """Return the display name of every source."""
    sources = list(dict.fromkeys(source for source, _ in names.values()))
    return dict(zip(sources, display_names(sources), strict=True))


def ranking_rows(
    names: Names,
    rows: Mapping[str, np.ndarray],
    T: np.ndarray,
    *,
    choice: Selection,
    pairing: Pairing,
    banks: Mapping[Source, FeatureBank],
    data: Dataset,
) -> list[Row]:
    """Return one row per candidate, best first."""
    per_source: dict[Source, dict[str, Any]] = {
        source: source_columns(source, bank, data, T=T, task=choice.task) for source, bank in banks.items()
    }
    fingerprints, titles = {source: source.fingerprint for source in banks}, source_titles(names)
    trials = {name: best_result(choice.trials, (name,)) for name in names}
    unscored = {}
    for name, (source, layer) in names.items():
        description = source.layer(layer)
        columns: dict[str, Any] = layer_columns(rows[name], T, task=choice.task, bank=banks[source], layer=description)
        size: dict[str, Any] = {"depth": description.depth, "macs": description.macs / 1e6}
        unscored[name] = Row(titles[source], fingerprints[source], layer, **size, **columns, **per_source[source])
    ordered = sorted(names, key=lambda name: -_sort_score(trials[name]))
    return _group_ties([(unscored[name], trials[name]) for name in ordered], pairing)


def _group_ties(pairs: Sequence[tuple[Row, CVResult | None]], pairing: Pairing) -> list[Row]:
    """Return rows with scores, differences and groups: rows not clearly worse than a group's first belong to it."""
    leaders: list[CVResult] = []
    result = []
    for row, trial in pairs:
        if trial is None:
            result.append(row)
            continue
        group = next((i for i, leader in enumerate(leaders) if pairing.tied(trial, leader)), None)
        if group is None:
            group = len(leaders)
            leaders.append(trial)
        mean, low, high = pairing.difference(trial, leaders[0])
        scored = replace(row, accuracy=trial.score, low=trial.low, high=trial.high, tied=group == 0, group=group + 1)
        result.append(replace(scored, difference=mean, difference_low=low, difference_high=high))
    return result


@dataclass(frozen=True, eq=False)
class Pairing:
    """How trials are compared on the same examples, in units of the metric.

    Attributes
    ----------
    task : str
    weights : (n,) array or None
        What every row counts in the metric; None where all count the same.
    """

    task: str
    weights: np.ndarray | None = None

    @classmethod
    def of(cls, choice: Selection, T: np.ndarray) -> Pairing:
        """Return the pairing for the trials of a selection made on these targets."""
        if choice.metric != "balanced_accuracy":
            return cls(choice.task)
        labels = T.argmax(1)
        counts = np.bincount(labels)
        return cls(choice.task, len(labels) / (np.count_nonzero(counts) * counts[labels]))

    def difference(self, trial: CVResult, other: CVResult) -> tuple[float, float, float]:
        """Return (mean, low, high) of ``trial`` minus ``other``: paired by rows, of labels by folds."""
        if trial is other:
            return 0.0, 0.0, 0.0
        mean, low, high = paired_difference(self._units(trial), self._units(other))
        exact = trial.score - other.score  # of a pooled metric the mean of units is a little off
        return exact, exact + low - mean, exact + high - mean

    def tied(self, trial: CVResult, top: CVResult) -> bool:
        """Return True if a trial is not clearly worse than the top one."""
        return self.difference(trial, top)[2] >= 0

    def _units(self, trial: CVResult) -> np.ndarray:
        if self.task != "classification":
            return -trial.losses
        return trial.row_scores if self.weights is None else trial.row_scores * self.weights


def fusion(
    choice: Selection, names: Names, pairing: Pairing, *, rows: Mapping[str, np.ndarray], T: np.ndarray
) -> Fusion | None:
    """Return the best set of layers tried together, against the best single one."""
    together = [trial for trial in choice.trials if len(trial.candidates) > 1]
    singles = [best_result(choice.trials, (name,)) for name in names]
    single = max((trial for trial in singles if trial is not None), key=_sort_score, default=None)
    if not together or single is None:
        return None
    best = best_result(together, together[0].candidates)
    assert best is not None
    mean, low, high = pairing.difference(best, single)
    parts, titles = [names[name] for name in best.candidates], source_titles(names)
    n_selected = None
    if HEADS[best.head].selects_features:
        selection = replace(choice, candidates=best.candidates, name=best.head, fields=best.fields)
        n_selected = selection.selected_counts(selection.fit(rows, T), rows)
    return Fusion(
        tuple((titles[source], layer) for source, layer in parts),
        accuracy=best.score,
        low=best.low,
        high=best.high,
        difference=mean,
        difference_low=low,
        difference_high=high,
        wins=len(choice.candidates) > 1,
        fingerprints=tuple(source.fingerprint for source, _ in parts),
        features=tuple(rows[name].shape[1] for name in best.candidates),
        n_selected=n_selected,
    )


def subsample(T: np.ndarray, task: str, seed: int, max_rows: int) -> np.ndarray | slice:
    """Return the index of at most ``max_rows`` rows, ascending, stratified by class."""
    if len(T) <= max_rows:
        return slice(None)
    labels = T.argmax(1) if task == "classification" else np.zeros(len(T))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(T)), labels))
    return np.sort(order[np.linspace(0, len(T) - 1, max_rows).astype(int)])


def best_result(trials: Sequence[CVResult], candidates: tuple[str, ...]) -> CVResult | None:
    """Return the trial of least mean loss on these candidates, of those that saw every draw of the folds."""
    complete = complete_results([trial for trial in trials if trial.candidates == candidates])
    return min(complete, key=lambda trial: trial.mean_loss, default=None)


def _sort_score(trial: CVResult | None) -> float:
    return -math.inf if trial is None or math.isnan(trial.score) else trial.score


def describe_ties(rows: Sequence[Row], items: int) -> str:
    """Return ``These 3 rows cannot be told apart on 240 examples: …``, and the cheapest of them."""
    tied = [row for row in rows if row.tied]
    if len(tied) < 2:
        return f"The best row is clearly better than all others on {items:,} examples." if len(rows) > 1 else ""
    several = len({row.fingerprint for row in tied}) > 1
    labels = [f"{row.source}/{row.layer}" if several else row.layer for row in tied]
    shown = ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
    text = f"These {len(tied)} rows cannot be told apart on {items:,} examples: {shown}."
    cheapest = min(range(len(tied)), key=lambda i: (tied[i].macs or 0.0, i))
    if cheapest and (tied[cheapest].macs or 0) < 0.8 * (tied[0].macs or 0):
        share = (tied[cheapest].macs or 0) / (tied[0].macs or 1)
        text += f" The cheapest of them is {labels[cheapest]}, at {share:.0%} of the first one's multiply-adds."
    return text
