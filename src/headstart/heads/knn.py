"""k nearest neighbours: the vote, or the mean, of the most similar training rows.

Decisions are the logarithm of smoothed vote shares (classes), their log-odds (labels), or the mean target (values).
Rows are compared in blocks, so memory stays bounded whatever n is. **Cost**: O(n·d) per row predicted.
**Moments**: no, it needs rows.

References
----------
Cover & Hart (1967), Nearest neighbor pattern classification. Wu et al. (2018), Unsupervised feature learning via
non-parametric instance discrimination (softmax weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from headstart._base.constraints import Interval, Options
from headstart._base.typing import Array, Float, Ints
from headstart.heads.base import ABSENT_CLASS_SCORE, SCALES, Head, expand_intercept
from headstart.heads.problem import Problem

_CELLS = 8 << 20  # similarities held at once
_SHARP = 10.0  # softmax weights: exp(similarity · 10), a temperature of 0.1
_GRID = (20, 10, 5, 3, 1)


@dataclass(eq=False)
class Knn(Head):
    """k nearest neighbours.

    Parameters
    ----------
    n_neighbors : int
        Fewer are taken where there are not so many rows.
    metric : {"cosine", "euclidean"}
    weights : {"uniform", "softmax"}
        "softmax" weighs a neighbour by exp(10 · similarity); distances are squared, in units of their mean.
    scale : {"none", "standard"}
        "standard" divides each feature by its standard deviation, and for cosine takes off its mean, first.

    Attributes
    ----------
    rows_ : (n, d) float32 array
        The training rows, as they are compared.
    targets_ : (n, t) array
        Their targets, times their weights.
    """

    n_neighbors: Annotated[int, Interval(1, None, integer=True)] = 5
    metric: Annotated[str, Options("cosine", "euclidean")] = "cosine"
    weights: Annotated[str, Options("uniform", "softmax")] = "softmax"
    scale: Annotated[str, SCALES] = "none"

    name = "knn"
    tasks = frozenset({"classification", "multilabel", "regression"})
    linear = False
    few_shot_tasks = frozenset()
    from_moments = False
    rows_: Array = field(init=False, repr=False)
    targets_: Float = field(init=False, repr=False)
    mass_: Float = field(init=False, repr=False)
    mean_: Float = field(init=False, repr=False)
    spread_: Float = field(init=False, repr=False)

    def _solve(self, problem: Problem, prior: Float | None) -> None:
        self.mean_, self.spread_ = _center_and_scale_of(problem)
        self.rows_ = _prepare_rows(problem.rows, self.mean_, self.spread_, self.metric)
        self.mass_ = problem.row_weights / problem.row_weights.mean()
        self.targets_ = problem.targets
        self.intercept_ = np.zeros(problem.targets.shape[1])
        if prior is not None:
            self.intercept_ = np.log(prior) - np.log(problem.counts / problem.count)

    def _scores(self, X: Array) -> Float:
        rows = _prepare_rows(X, self.mean_, self.spread_, self.metric)
        k = min(self.n_neighbors, len(self.rows_))
        n_classes = int((self.intercept_ > ABSENT_CLASS_SCORE / 2).sum())
        out = np.empty((len(rows), self.targets_.shape[1]))
        for part in _row_blocks(len(rows), len(self.rows_)):
            similarity = _similarity(rows[part], self.rows_, self.metric)
            nearest, order = _nearest_neighbors(similarity, k)
            weight = self.mass_[order] * _vote_weights(nearest, self.weights)
            out[part] = _vote_decisions(weight, self.targets_[order], self.task_, n_classes)
        return out

    @classmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """Numbers of neighbours, from the smoothest down."""
        max_neighbors = max(1, int(len(problem.rows) * 0.75))
        counts = [k for k in _GRID if k <= max_neighbors]
        return [{"n_neighbors": k, "metric": "cosine", "weights": "softmax"} for k in counts]

    @classmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """One table of similarities serves all folds and settings of a metric. Cost: O(n²·(d + R))."""
        out = np.empty((len(grid), *folds.shape, problem.targets.shape[1]))
        sample_weight = problem.row_weights / problem.row_weights.mean()
        for metric in sorted({setting["metric"] for setting in grid}):
            index = [i for i, setting in enumerate(grid) if setting["metric"] == metric]
            max_neighbors = max(grid[i]["n_neighbors"] for i in index)
            rows = _prepare_rows(problem.rows, *_center_and_scale_of(problem), metric)
            for part in _row_blocks(len(rows), len(rows)):
                similarity = _similarity(rows[part], rows, metric)
                for repeat, ids in enumerate(folds):
                    nearest, order = _nearest_neighbors(
                        np.where(ids[part, None] == ids, -np.inf, similarity), max_neighbors
                    )
                    for i in index:
                        k = grid[i]["n_neighbors"]
                        usable = np.where(np.isfinite(nearest[:, :k]), sample_weight[order[:, :k]], 0.0)
                        weight = usable * _vote_weights(nearest[:, :k], grid[i]["weights"])
                        out[i, repeat, part] = _vote_decisions(
                            weight, problem.targets[order[:, :k]], problem.task, problem.targets.shape[1]
                        )
        return out

    @classmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """All pairs of rows: their products, and finding the largest."""
        n, d = problem.rows.shape
        return float(n**2 * (2.0 * d + 200.0 * len(folds)))

    def _learned(self) -> dict[str, Array]:
        names = ("rows", "targets", "mass", "mean", "spread")
        return {name: getattr(self, f"{name}_") for name in names}

    def _restore(self, arrays: Mapping[str, Array]) -> None:
        for name in ("rows", "targets", "mass", "mean", "spread"):
            setattr(self, f"{name}_", np.asarray(arrays[name]))

    def _expand_classes(self, present: Array) -> None:
        targets = np.zeros((len(self.targets_), len(present)))
        targets[:, present] = self.targets_
        self.targets_, self.intercept_ = targets, expand_intercept(self.intercept_, present)

    @property
    def _features(self) -> int:
        return int(self.rows_.shape[1])


def _center_and_scale_of(problem: Problem) -> tuple[Float, Float]:
    """Centre and divisor of the features, applied before rows are compared."""
    if problem.feature_scale is None:
        # a power of two changes no digit, and keeps squared distances within float32
        size = float(np.sqrt(problem.trace / problem.count))
        unit = 2.0 ** np.round(np.log2(size)) if size > 0 else 1.0
        return np.zeros(problem.features), np.full(problem.features, unit)
    return problem.mean, problem.feature_scale


def _prepare_rows(X: Array, mean: Float, scale: Float, metric: str) -> Array:
    rows = np.subtract(X, mean, dtype=np.float64) / scale
    if metric == "cosine":
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        rows /= np.where(norms > 0, norms, 1.0)[:, None]
    return rows.astype(np.float32)


def _row_blocks(rows: int, against: int) -> list[slice]:
    size = max(1, _CELLS // max(1, against))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _similarity(rows: Array, against: Array, metric: str) -> Array:
    """Cosine, or minus the squared distance in units of the mean squared norm."""
    similarity: Array = rows @ against.T
    if metric == "cosine":
        return similarity
    norms = np.einsum("nd,nd->n", against, against)
    row_norms = np.einsum("nd,nd->n", rows, rows)
    return np.asarray((2 * similarity - norms - row_norms[:, None]) / max(float(norms.mean()), 1e-30))


def _nearest_neighbors(similarity: Array, k: int) -> tuple[Float, Ints]:
    """Similarities (n, k) and places of the k most similar, the most similar first; of equals, the first row."""
    k = min(k, similarity.shape[1])
    order = (
        np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        if k < similarity.shape[1]
        else np.argsort(-similarity, axis=1)
    )
    nearest = np.take_along_axis(similarity, order, axis=1)
    inner = np.lexsort((order, -nearest))
    return np.take_along_axis(nearest, inner, axis=1).astype(np.float64), np.take_along_axis(order, inner, axis=1)


def _vote_weights(nearest: Float, weights: str) -> Float:
    if weights == "uniform":
        return np.ones_like(nearest)
    return np.asarray(np.exp(_SHARP * (nearest - nearest[:, :1])))


def _vote_decisions(weight: Float, targets: Float, task: str, n_classes: int) -> Float:
    """Votes (m, t) of weighted neighbours (m, k) with targets (m, k, t)."""
    total = weight.sum(axis=1)
    votes = np.einsum("mk,mkt->mt", weight, targets) / np.where(total > 0, total, 1.0)[:, None]
    if task == "regression":
        return np.asarray(votes)
    # half a neighbour of doubt keeps every logarithm finite
    smoothing = 0.5 / (weight.shape[1] + 1.0)
    votes = (1 - smoothing) * votes + smoothing * (1.0 / n_classes if task == "classification" else 0.5)
    return np.asarray(np.log(votes) if task == "classification" else np.log(votes) - np.log1p(-votes))
