"""kNN: leave-one-out accuracy of the nearest neighbours, the plain score that is hard to beat.

Rows are centred and, with the cosine metric, scaled to length one; the k nearest others vote. Votes that tie go to the
class whose neighbours are nearer, never to the class with the lower number.

Cost: O(n²·d) time, 32 MiB of similarities at a time. Reference: METHODS §1 (42,000 comparisons, arXiv 2503.18528).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float, Ints
from headstart.errors import DataError, NumericsError, OptionError, UnknownName
from headstart.moments.moments import Moments
from headstart.scores.base import Score

_BLOCK = 1 << 22


def _knn(
    moments: Moments | None,
    *,
    rows: Array,
    targets: Array,
    n_neighbors: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> float:
    """Compute it.

    Parameters
    ----------
    moments : Moments or None
        Whose mean is taken off the rows; None takes off their own mean.
    rows : (n, d) array
        Features.
    targets : (n, C) array
        One-hot.
    n_neighbors : int
        Votes; at most n − 1 are cast.
    metric : {"cosine", "euclidean"}
    """
    X, T = np.asarray(rows, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    _check(X, T, n_neighbors, metric)
    X = X - (X.mean(axis=0) if moments is None else moments.mean)
    if metric == "cosine":
        lengths = np.sqrt(np.einsum("nd,nd->n", X, X))[:, None]
        X = np.divide(X, lengths, out=np.zeros_like(X), where=lengths > 0)
    labels = T.argmax(axis=1)
    size = max(1, _BLOCK // len(X))
    blocks = (slice(start, start + size) for start in range(0, len(X), size))
    return sum(_right(X, labels, block, n_neighbors) for block in blocks) / len(X)


def _right(X: Float, labels: Ints, rows: slice, k: int) -> int:
    """Count the rows of a block whose neighbours vote for their class."""
    block = X[rows]
    near = 2 * block @ X.T - np.einsum("nd,nd->n", X, X)  # minus the squared distance, up to a constant of the row
    here = np.arange(len(block))
    near[here, rows.start + here] = -np.inf
    k = min(k, len(X) - 1)
    neighbors = np.argpartition(-near, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(near, neighbors, axis=1), axis=1, kind="stable")
    voters = labels[np.take_along_axis(neighbors, order, axis=1)]
    weights = 1 + 0.5 ** np.arange(2, k + 2)  # together less than half a vote more: they only break ties
    votes = np.zeros((len(block), int(labels.max()) + 1))
    np.add.at(votes, (here[:, None], voters), weights)
    return int((votes.argmax(axis=1) == labels[rows]).sum())


def _check(X: Float, T: Float, k: int, metric: str) -> None:
    if metric not in ("cosine", "euclidean"):
        raise UnknownName(unknown_name("metrics", metric, ["cosine", "euclidean"]))
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise OptionError(f"n_neighbors must be a whole number ≥ 1; got {k!r}.")
    if X.ndim != 2 or T.ndim != 2 or len(X) != len(T):
        raise DataError(f"kNN needs rows (n, d) and targets (n, C); got {X.shape} and {T.shape}.")
    if not ((T == 0) | (T == 1)).all() or not (T.sum(axis=1) == 1).all():
        raise DataError("kNN needs one-hot targets: np.eye(number_of_classes)[labels].")
    if len(X) < 2:
        raise NumericsError(f"kNN needs at least two rows; got {len(X)}.")
    bad = int((~np.isfinite(X).all(axis=1)).sum())
    if bad:
        raise NumericsError(f"{bad:,} of {len(X):,} rows are not finite (NaN or inf); leave them out.")


knn = Score(_knn, from_moments=False)
