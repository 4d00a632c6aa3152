"""Intervals for scores that vary twice: with the draw of the training items, and with the test items.

Row r, column i of a table is the score of test item i after training on draw r. The variance of its weighted mean is
the sum of what the row means and what the column means vary by; what belongs to both is counted twice, so intervals
are a little too wide rather than too narrow. Each part has its own Student's t and the squared arms add up (MOVER):
with two or three draws the luck of the draw is known badly, and the interval shows it. Columns of one group (a speaker)
vary together, which is taken into account from five groups on.

References
----------
Owen (2007), The pigeonhole bootstrap. Zou & Donner (2008), MOVER. Agresti & Caffo (2000): two made-up items, one at
each end, keep an interval from claiming certainty where every item came out the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

FEWEST_GROUPS = 5
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class TestSet:
    """The locked test part.

    Attributes
    ----------
    codes : (n,) array of int
        Class of each item.
    groups : (n,) array of int or None
    balanced : bool
        Whether every class counts the same, however many items it has.
    """

    codes: np.ndarray
    groups: np.ndarray | None = None
    balanced: bool = False

    @property
    def weights(self) -> np.ndarray:
        """(n,) weights of the items; they add up to 1."""
        if not self.balanced:
            return np.full(len(self.codes), 1 / len(self.codes))
        classes, inverse, counts = np.unique(self.codes, return_inverse=True, return_counts=True)
        return 1 / (len(classes) * counts[inverse])

    @property
    def strata(self) -> np.ndarray:
        """(n,) items of equal weight: the classes of a balanced score, else all together."""
        return self.codes if self.balanced else np.zeros(len(self.codes), dtype=np.int64)

    @property
    def clusters(self) -> np.ndarray | None:
        """Groups, where there are enough of them to see how much they differ."""
        if self.groups is None or len(np.unique(self.groups)) < FEWEST_GROUPS:
            return None
        return self.groups

    @property
    def chance(self) -> float:
        """What always saying the same gives at best."""
        counts = np.unique(self.codes, return_counts=True)[1]
        return float(1 / len(counts) if self.balanced else counts.max() / counts.sum())


def interval(
    table: np.ndarray, test: TestSet, *, ends: tuple[float, float], tail: float = 0.025
) -> tuple[float, float, float]:
    """Mean of a table (draws, items) and its interval; ``tail`` is the chance of missing on either side.

    With a single draw the luck of the draw is unknown, and the interval speaks for that draw alone.
    """
    draws = len(table)
    weights = test.weights
    means = table @ weights
    mean = float(np.clip(means.mean(), *ends))  # rounding must not carry it past an end
    by_item, freedom = _between_items(table.mean(0), test, ends)
    arms = by_item * float(stdtrit(freedom, 1 - tail)) ** 2
    if draws > 1:
        arms += float(means.var(ddof=1)) / draws * float(stdtrit(draws - 1, 1 - tail)) ** 2
    half = float(np.sqrt(arms))
    return mean, max(ends[0], mean - half), min(ends[1], mean + half)


def _between_items(items: np.ndarray, test: TestSet, ends: tuple[float, float]) -> tuple[float, float]:
    """Variance of the weighted mean of independent items (or groups), and its degrees of freedom."""
    total = 0.0
    for stratum in np.unique(test.strata):
        inside = test.strata == stratum
        widened = np.append(items[inside], ends)
        total += float(test.weights[inside].sum()) ** 2 * float(widened.var()) / len(widened)
    freedom = max(1.0, len(items) - 1.0)
    clusters = test.clusters
    if clusters is not None:
        weights = test.weights
        away = weights * (items - weights @ items)
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=away)
        between = len(sums) / (len(sums) - 1) * float((sums**2).sum())
        if between > total:
            return between, len(sums) - 1.0
    return total, freedom


def labels_at(counts: Sequence[int], scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where rising curves reach a score: 0 below their first point, infinite above their last.

    Shapes: (b, k), (b,) → (b,). The curve is made monotone by pooling neighbours (isotonic regression), and is straight
    on a logarithmic axis.
    """
    out = np.empty(len(scores))
    axis = np.log(np.asarray(counts, dtype=np.float64))
    for i, (curve, score) in enumerate(zip(_monotone(scores), wanted)):
        reached = np.flatnonzero(curve >= score)
        if not len(reached):
            out[i] = np.inf
        elif reached[0] == 0:
            out[i] = np.exp(axis[0]) if curve[0] == score else 0.0
        else:
            j = int(reached[0])
            share = (score - curve[j - 1]) / (curve[j] - curve[j - 1])
            out[i] = np.exp(axis[j - 1] + share * (axis[j] - axis[j - 1]))
    return out


def _monotone(scores: np.ndarray) -> np.ndarray:
    """Isotonic regression of every row, by its max-min formula. Shapes: (b, k) → (b, k)."""
    k = scores.shape[1]
    sums = np.concatenate([np.zeros((len(scores), 1)), np.cumsum(scores, 1)], 1)
    out = np.empty_like(scores, dtype=np.float64)
    for j in range(k):
        best = np.full(len(scores), -np.inf)
        for start in range(j + 1):
            worst = np.min([(sums[:, end] - sums[:, start]) / (end - start) for end in range(j + 1, k + 1)], axis=0)
            best = np.maximum(best, worst)
        out[:, j] = best
    return out


def resampled(tables: dict[Any, np.ndarray], test: TestSet, *, seed: int) -> dict[Any, np.ndarray]:
    """Means of every table (draws, items) when draws and items are drawn again, alike for all tables: (b,) each.

    One draw fewer than there are is drawn: that has the variance of the mean of all of them, without its bias. Items
    are drawn within their strata; groups, where there are enough, as a whole.
    """
    draws = len(next(iter(tables.values())))
    rng = np.random.default_rng(seed)
    many = max(1, draws - 1)
    by_draw = rng.multinomial(many, np.full(draws, 1 / draws), size=RESAMPLES) / many
    by_item = _item_weights(test, rng)
    return {name: np.einsum("br,rn,bn->b", by_draw, table, by_item, optimize=True) for name, table in tables.items()}


def _item_weights(test: TestSet, rng: np.random.Generator) -> np.ndarray:
    weights = np.tile(test.weights, (RESAMPLES, 1))
    if (clusters := test.clusters) is not None:
        inverse = np.unique(clusters, return_inverse=True)[1]
        many = int(inverse.max()) + 1
        weights *= rng.multinomial(many, np.full(many, 1 / many), size=RESAMPLES)[:, inverse]
    else:
        for stratum in np.unique(test.strata):
            inside = np.flatnonzero(test.strata == stratum)
            weights[:, inside] *= rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=RESAMPLES)
    totals = weights.sum(1, keepdims=True)
    return weights / np.where(totals > 0, totals, 1.0)
