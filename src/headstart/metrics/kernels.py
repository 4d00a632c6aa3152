"""Array functions behind the metrics: one implementation and one treatment of ties for what is reported and chosen by.

:mod:`headstart.metrics.classification` and :mod:`~headstart.metrics.regression` put names and intervals on them; the
selection of heads calls them directly, hundreds of times. Like every metric they take *weighted* rows, for many
weightings at once: weights of one give the value, a row of weight 0 is left out, so that all folds of a jackknife cost
one sort.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_expit

from headstart._base.intervals import mover_mean, wilson
from headstart._base.typing import Array, Float

_CONSTANT = 1e-12  # of the sum of squares: less variation than this is rounding


def weighted_sums(parts: Array, weights: Float) -> Float:
    """Weighted sums of the columns. Shapes: parts (n, k) dense or sparse, weights (b, n) → (b, k)."""
    return np.asarray((parts.T @ weights.T).T, float)


def average_precision(scores: Float, truth: Float, weights: Float | None = None) -> Float:
    """Mean precision at the rank of each positive row, as scikit-learn's ``average_precision_score``.

    Rows of equal score share one rank: the precision at their end counts for all of them.

    Parameters
    ----------
    scores, truth : (n,) arrays
        The score of each row, and 1 for positive rows, else 0.
    weights : (b, n) array, optional
        None is one weighting, of 1 each.

    Returns
    -------
    (b,) array
        NaN where no positive row has weight.

    Notes
    -----
    **Cost**: O(n log n + b·n).
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    run_ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    weights = weights[:, order]
    seen = np.cumsum(weights, axis=1)[:, run_ends]
    hits = np.cumsum(weights * truth[order], axis=1)[:, run_ends]
    gained = np.diff(hits, axis=1, prepend=0.0)
    precision = hits / np.maximum(seen, np.finfo(float).tiny)
    with np.errstate(invalid="ignore"):
        return np.asarray((precision * gained).sum(1) / np.where(hits[:, -1] > 0, hits[:, -1], math.nan))


def mean_average_precision(scores: Float, truth: Float, weights: Float | None = None) -> Float:
    """Average precision of each label that has positive rows, averaged. Shapes: (n, t), (n, t), (b, n) → (b,)."""
    columns = [average_precision(scores[:, j], truth[:, j], weights) for j in range(scores.shape[1])]
    values = np.stack(columns, axis=1)
    defined = np.isfinite(values)
    return np.asarray(np.where(defined, values, 0).sum(1) / np.where(defined.any(1), defined.sum(1), math.nan))


def r_squared_parts(predicted: Float, truth: Float) -> Float:
    """Columns (n, 3 t) from which :func:`r_squared` follows: the truth about its mean, its square, squared errors."""
    centered = truth - truth.mean(0)  # keeps big offsets exact
    return np.hstack([centered, centered**2, (truth - predicted) ** 2])


def r_squared(parts: Float, weights: Float | None = None) -> Float:
    """Share of variance explained, averaged over targets. Shapes: parts (n, 3 t), weights (b, n) → (b,).

    A constant target gives 1 when it is met exactly, else 0, as in scikit-learn.
    """
    weights = np.ones((1, len(parts))) if weights is None else weights
    first, second, error = np.split(weighted_sums(parts, weights), 3, axis=1)
    total = second - first**2 / weights.sum(1, keepdims=True)
    varies = total > _CONSTANT * np.maximum(second, np.finfo(float).tiny)
    constant = np.where(error > 0, 0.0, 1.0)
    return np.asarray(np.where(varies, 1 - error / np.where(varies, total, 1), constant).mean(1))


def share_with_interval(correct: Float) -> tuple[float, float, float]:
    """Mean of rows (n,) that are right (1) or wrong (0), with Wilson's interval."""
    value = float(correct.mean())
    return value, *wilson(value * len(correct), len(correct))


def mean_recall_with_interval(correct: Float, counts: Float) -> tuple[float, float, float]:
    """Balanced accuracy: the mean over classes of their recall, with Wilson's intervals put together by MOVER.

    Parameters
    ----------
    correct, counts : (t,) arrays
        Rows of each class that are right, and all of them; classes without rows are left out.
    """
    present = counts > 0
    recall = correct[present] / counts[present]
    low, high = wilson(recall * counts[present], counts[present])
    low, high = mover_mean(recall, low, high)
    return float(recall.mean()), max(low, 0.0), min(high, 1.0)


def cross_entropy(log_odds: Float, truth: Float, task: str) -> Float:
    """Log-loss of each row from its decisions, of labels their mean.

    The metric ``log_loss`` takes probabilities, which are clipped; this one takes their logarithms and never saturates.

    Parameters
    ----------
    log_odds : (…, n, t) array
    truth : (n, t) array
        One-hot (classification), or 0 and 1 (multilabel).
    task : {"classification", "multilabel"}

    Returns
    -------
    (…, n) array
    """
    if task != "classification":
        return -np.asarray((truth * log_expit(log_odds) + (1 - truth) * log_expit(-log_odds)).mean(axis=-1))
    classes = np.ascontiguousarray(np.moveaxis(log_odds, -1, 0))  # sums run along memory
    top = classes.max(axis=0)
    of_truth = np.einsum("...nt,nt->...n", log_odds, truth)
    return np.asarray(np.log(np.exp(classes - top).sum(axis=0)) + top - of_truth)
