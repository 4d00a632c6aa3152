"""Six small arrays that describe rows: count, means and centred products, and how two of them merge or part.

.. math:: n = n_a + n_b,\\quad δ = μ_b - μ_a,\\quad μ = μ_a + δ\\,n_b/n,\\quad S = S_a + S_b + (n_a n_b/n)\\,δδ^T

Removal is the same update with the sign turned. Everything is float64 and centred: a raw sum of squares loses as many
digits as the offset has, twice. References: Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import NumericsError

_EPS = float(np.finfo(np.float64).eps)


AnyArray = TypeVar("AnyArray", bound=Array)


def read_only(array: AnyArray) -> AnyArray:
    """The same array, read-only from now on: records are shared, not copied."""
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Fourth:
    """Fourth-order accumulators about the mean: what Ledoit–Wolf needs beyond the scatter.

    ``power`` is Σ‖x−μ‖⁴, ``skew (d,)`` is Σ‖x−μ‖²(x−μ); the second is needed only to move the centre of the first.
    """

    power: float
    skew: Float


@dataclass(frozen=True, eq=False)
class Centred:
    """Count, means and centred products of rows (n, d) and targets (n, t).

    Attributes
    ----------
    count : float
        Number of rows (a sum of weights where rows are weighted).
    mean : (d,) array
    scatter : (d, d) array
        Σ (x−μ)(x−μ)ᵀ, symmetric to the last bit.
    target_mean : (t,) array
    cross : (d, t) array
        Σ (x−μ)(y−ȳ)ᵀ.
    target_scatter : (t,) array
        Σ (y−ȳ)², per column.
    fourth : Fourth or None
    """

    count: float
    mean: Float
    scatter: Float
    target_mean: Float
    cross: Float
    target_scatter: Float
    fourth: Fourth | None = None

    def __post_init__(self) -> None:
        for array in (self.mean, self.scatter, self.target_mean, self.cross, self.target_scatter):
            read_only(array)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of features and of targets."""
        return self.cross.shape[0], self.cross.shape[1]


def zero(features: int, targets: int, *, fourth: bool = False) -> Centred:
    """No rows at all: the neutral element of :func:`merge`."""
    more = Fourth(0.0, np.zeros(features)) if fourth else None
    square, flat = np.zeros((features, features)), np.zeros((features, targets))
    return Centred(0, np.zeros(features), square, np.zeros(targets), flat, np.zeros(targets), more)


def of_block(rows: Float, targets: Float, *, fourth: bool = False) -> Centred:
    """One block of at least one row. ``rows`` is overwritten; both are float64.

    The mean is corrected by the mean of the residuals, so that at a large offset it is good to the last bit.
    """
    count = len(rows)
    mean, target_mean = rows.mean(axis=0), targets.mean(axis=0)
    rows -= mean
    mean += rows.mean(axis=0)
    away = targets - target_mean
    more = None
    if fourth:
        norms = np.einsum("nd,nd->n", rows, rows)
        more = Fourth(float(norms @ norms), rows.T @ norms)
    return Centred(count, mean, rows.T @ rows, target_mean, rows.T @ away, np.einsum("nt,nt->t", away, away), more)


def merge(a: Centred, b: Centred) -> Centred:
    """The moments of the rows of both. Cost: O(d² + dt)."""
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    share = b.count / count
    delta, target_delta = b.mean - a.mean, b.target_mean - a.target_mean
    weight = np.sqrt(a.count * share)
    v, w = weight * delta, weight * target_delta
    mean = a.mean + share * delta
    return Centred(
        count,
        mean,
        a.scatter + b.scatter + np.outer(v, v),
        a.target_mean + share * target_delta,
        a.cross + b.cross + np.outer(v, w),
        a.target_scatter + b.target_scatter + w * w,
        _merge_fourth(a, b, mean),
    )


def remove(whole: Centred, part: Centred) -> Centred:
    """The moments of the rows of ``whole`` that are not in ``part``: :func:`merge` with the sign turned.

    Raises
    ------
    NumericsError
        When ``part`` has more rows, or more spread, than ``whole``: it was never merged into it.
    """
    if not part.count:
        return whole
    count = whole.count - part.count
    if count < 0:
        raise NumericsError(
            f"Cannot remove {part.count:,} rows from {whole.count:,}: remove only what was merged before."
        )
    if not count:
        return zero(len(whole.mean), len(whole.target_mean), fourth=whole.fourth is not None)
    mean = whole.mean + (whole.mean - part.mean) * (part.count / count)
    target_mean = whole.target_mean + (whole.target_mean - part.target_mean) * (part.count / count)
    weight = np.sqrt(count * (part.count / whole.count))
    v, w = weight * (part.mean - mean), weight * (part.target_mean - target_mean)
    scatter = whole.scatter - part.scatter - np.outer(v, v)
    _check_spread(scatter, whole, count)
    left = Centred(
        count,
        mean,
        scatter,
        target_mean,
        whole.cross - part.cross - np.outer(v, w),
        np.maximum(whole.target_scatter - part.target_scatter - w * w, 0.0),
    )
    if whole.fourth is None or part.fourth is None:
        return left
    return _remove_fourth(left, whole, part)


def _check_spread(scatter: Float, whole: Centred, count: float) -> None:
    """Refuse a variance that is negative beyond rounding; set one that is negative by rounding to zero."""
    spread = scatter.diagonal()
    # the mean that is left carries the rounding of the whole mean, magnified by whole.count / count
    drift = (_EPS * np.abs(whole.mean) * whole.count) ** 2 / count
    allowed = 1e-8 * whole.scatter.diagonal() + 64 * drift
    bad = int(np.count_nonzero(spread < -allowed))
    if bad:
        raise NumericsError(
            f"Removing these rows would leave {bad} of {len(spread)} features with a negative variance: "
            "they were never part of these moments. Remove only what was merged before."
        )
    np.fill_diagonal(scatter, np.maximum(spread, 0.0))


def _recentred(part: Centred, centre: Float) -> Fourth:
    """The fourth-order accumulators of ``part`` about another centre (Σ(x−μ) = 0 drops half of the terms)."""
    assert part.fourth is not None
    move = part.mean - centre
    square, trace, pulled = float(move @ move), float(np.trace(part.scatter)), part.scatter @ move
    power = part.fourth.power + 4 * float(move @ pulled) + 4 * float(part.fourth.skew @ move)
    power += 2 * square * trace + part.count * square**2
    skew = part.fourth.skew + trace * move + 2 * pulled + (part.count * square) * move
    return Fourth(power, skew)


def _merge_fourth(a: Centred, b: Centred, mean: Float) -> Fourth | None:
    if a.fourth is None or b.fourth is None:
        return None
    one, two = _recentred(a, mean), _recentred(b, mean)
    return Fourth(one.power + two.power, one.skew + two.skew)


def _remove_fourth(left: Centred, whole: Centred, part: Centred) -> Centred:
    """Move both to the mean that is left, where they subtract."""
    one, two = _recentred(whole, left.mean), _recentred(part, left.mean)
    fourth = Fourth(max(one.power - two.power, 0.0), one.skew - two.skew)
    return replace(left, fourth=fourth)
