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

# The columns beside the cross-validated score: LogME, H-score, kNN from rows; NCE, LEEP from the source's own
# head.


_KNN_ROWS = 2000


def layer_columns(
    X: np.ndarray, T: np.ndarray, *, task: str, bank: FeatureBank, layer: Layer
) -> dict[str, float | None]:
    """LogME, H-score, kNN, extraction seconds and megabytes of one layer; None where a score does not apply."""
    found = transferability_scores(X, T, task=task)
    speed = bank.runtime.speed
    found["seconds"] = len(X) / speed * layer.depth if speed else None
    found["mbytes"] = X.nbytes / 1e6
    return found


def transferability_scores(X: np.ndarray, T: np.ndarray, *, task: str) -> dict[str, float | None]:
    """The scores that need nothing but rows: LogME, and of classes H-score and kNN."""
    moments = Moments.from_rows(reduce_to_rank(X), T)
    found: dict[str, float | None] = {"logme": _score_or_none("logme", moments)}
    if task == "classification":
        found["h_score"] = _score_or_none("h_score", moments, dimensions=X.shape[1])
        few = slice(None) if len(X) <= _KNN_ROWS else np.linspace(0, len(X) - 1, _KNN_ROWS).astype(int)
        found["knn"] = _score_or_none("knn", None, rows=X[few], targets=T[few])
    return found


def source_columns(
    source: Source, bank: FeatureBank, data: Dataset, *, T: np.ndarray, task: str
) -> dict[str, float | None]:
    """What is the same for all layers of a source: its size (the static list), and NCE and LEEP where it has a head."""
    parameters = sum(p.numel() for p in source.module.parameters()) if "torch" in source.engines else None
    found: dict[str, float | None] = {"static": parameters / 1e6 if parameters else None}
    if task != "classification" or source.classifier is None or "output" not in bank.layers:
        return found
    theta = bank.rows("output", data).astype(np.float64)
    if theta.min() < 0 or np.abs(theta.sum(1) - 1).max() > 1e-3:  # some networks end in a softmax of their own
        theta = softmax(theta, axis=1)
    table = T.T @ np.eye(theta.shape[1])[theta.argmax(1)]
    found["leep"] = _score_or_none("leep", None, probabilities=theta, targets=T)
    found["nce"] = _score_or_none("nce", None, table=table)
    return found


def reduce_to_rank(X: np.ndarray) -> np.ndarray:
    """Rows in at most n dimensions, distances unchanged: scores that do not see rotations cost n³ instead of d³."""
    if len(X) >= X.shape[1]:
        return X
    away = np.asarray(X, dtype=np.float64) - X.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(away @ away.T)
    keep = values > values[-1] * 1e-12
    return vectors[:, keep] * np.sqrt(values[keep])


def _score_or_none(name: str, moments: Moments | None, **rest: Any) -> float | None:
    try:
        return float(score(name, moments, **rest))
    except HeadstartError:
        return None


Names = Mapping[str, tuple[Source, str]]


def source_titles(names: Names) -> dict[Source, str]:
    """What every source is called in rows."""
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
    """One row per candidate, best first."""
    own: dict[Source, dict[str, Any]] = {
        source: source_columns(source, bank, data, T=T, task=choice.task) for source, bank in banks.items()
    }
    prints, titles = {source: source.fingerprint for source in banks}, source_titles(names)
    trials = {name: best_result(choice.trials, (name,)) for name in names}
    found = {}
    for name, (source, layer) in names.items():
        place = source.layer(layer)
        columns: dict[str, Any] = layer_columns(rows[name], T, task=choice.task, bank=banks[source], layer=place)
        where: dict[str, Any] = {"depth": place.depth, "macs": place.macs / 1e6}
        found[name] = Row(titles[source], prints[source], layer, **where, **columns, **own[source])
    ordered = sorted(names, key=lambda name: -_sort_score(trials[name]))
    return _group_ties([(found[name], trials[name]) for name in ordered], pairing)


def _group_ties(pairs: Sequence[tuple[Row, CVResult | None]], pairing: Pairing) -> list[Row]:
    """Rows with their scores, differences and groups: what cannot be told from a group's first row belongs to it."""
    leaders: list[CVResult] = []
    found = []
    for row, trial in pairs:
        if trial is None:
            found.append(row)
            continue
        group = next((i for i, one in enumerate(leaders) if pairing.tied(trial, one)), None)
        if group is None:
            group = len(leaders)
            leaders.append(trial)
        mean, low, high = pairing.difference(trial, leaders[0])
        paired: dict[str, Any] = {"difference": mean, "difference_low": low, "difference_high": high}
        scored: dict[str, Any] = {"accuracy": trial.score, "low": trial.low, "high": trial.high}
        found.append(replace(row, **scored, **paired, tied=group == 0, group=group + 1))
    return found


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
        """For the trials of a choice made on these targets."""
        if choice.metric != "balanced_accuracy":
            return cls(choice.task)
        labels = T.argmax(1)
        counts = np.bincount(labels)
        return cls(choice.task, len(labels) / (np.count_nonzero(counts) * counts[labels]))

    def difference(self, trial: CVResult, other: CVResult) -> tuple[float, float, float]:
        """(mean, low, high) of ``trial`` minus ``other``: paired by rows, where there are labels by folds."""
        if trial is other:
            return 0.0, 0.0, 0.0
        mean, low, high = paired_difference(self._units(trial), self._units(other))
        exact = trial.score - other.score  # of a pooled metric the mean of units is a little off
        return exact, exact + low - mean, exact + high - mean

    def tied(self, trial: CVResult, top: CVResult) -> bool:
        """Whether a trial is not clearly worse than the top one."""
        return self.difference(trial, top)[2] >= 0

    def _units(self, trial: CVResult) -> np.ndarray:
        if self.task != "classification":
            return -trial.losses
        return trial.row_scores if self.weights is None else trial.row_scores * self.weights


def fusion(
    choice: Selection, names: Names, pairing: Pairing, *, rows: Mapping[str, np.ndarray], T: np.ndarray
) -> Fusion | None:
    """The layers that were tried side by side, against the best single one."""
    together = [trial for trial in choice.trials if len(trial.candidates) > 1]
    single = max(
        (t for n in names if (t := best_result(choice.trials, (n,))) is not None), key=_sort_score, default=None
    )
    if not together or single is None:
        return None
    best = best_result(together, together[0].candidates)
    assert best is not None
    mean, low, high = pairing.difference(best, single)
    parts, titles = [names[name] for name in best.candidates], source_titles(names)
    kept = None
    if HEADS[best.head].selects_features:
        taken = replace(choice, candidates=best.candidates, name=best.head, fields=best.fields)
        kept = taken.selected_counts(taken.fit(rows, T), rows)
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
        n_selected=kept,
    )


def best_result(trials: Sequence[CVResult], candidates: tuple[str, ...]) -> CVResult | None:
    """The trial of least cost on these features, of those that saw every draw of the folds."""
    whole = complete_results([trial for trial in trials if trial.candidates == candidates])
    return min(whole, key=lambda trial: trial.mean_loss, default=None)


def _sort_score(trial: CVResult | None) -> float:
    return -math.inf if trial is None or math.isnan(trial.score) else trial.score


def describe_ties(found: Sequence[Row], items: int) -> str:
    """``These 3 rows cannot be told apart on 240 examples: …``, and which of them costs least."""
    first = [row for row in found if row.tied]
    if len(first) < 2:
        return f"The best row is clearly better than all others on {items:,} examples." if len(found) > 1 else ""
    several = len({row.fingerprint for row in first}) > 1
    words = [f"{row.source}/{row.layer}" if several else row.layer for row in first]
    shown = ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")
    text = f"These {len(first)} rows cannot be told apart on {items:,} examples: {shown}."
    cheapest = min(range(len(first)), key=lambda i: (first[i].macs or 0.0, i))
    if cheapest and (first[cheapest].macs or 0) < 0.8 * (first[0].macs or 0):
        share = (first[cheapest].macs or 0) / (first[0].macs or 1)
        text += f" The cheapest of them is {words[cheapest]}, at {share:.0%} of the first one's multiply-adds."
    return text
