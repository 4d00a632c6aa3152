"""Centred sums of rows: count, means and centred products, and how two of them merge or part.

.. math:: n = n_a + n_b,\\quad δ = μ_b - μ_a,\\quad μ = μ_a + δ\\,n_b/n,\\quad S = S_a + S_b + (n_a n_b/n)\\,δδ^T

Removal is the same update with the sign turned. Everything is float64 and centred: a raw sum of squares loses as many
digits as the offset has, twice. Rows are checked here before they are summed, and covariances shrunken afterwards.

References
----------
Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance.
Chen, Wiesel, Eldar, Hero (2010), Shrinkage algorithms for MMSE covariance estimation (OAS).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from headstart._base.typing import Array, Float
from headstart.errors import DataError, NumericsError

_EPS = float(np.finfo(np.float64).eps)
_BLOCK_BYTES = 32 << 20

AnyArray = TypeVar("AnyArray", bound=Array)


def read_only(array: AnyArray) -> AnyArray:
    """Make an array read-only, in place, and return it: records are shared, not copied."""
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
    """Return the sums of no rows: the neutral element of :func:`merge`."""
    return Centred(
        count=0,
        mean=np.zeros(features),
        scatter=np.zeros((features, features)),
        target_mean=np.zeros(targets),
        cross=np.zeros((features, targets)),
        target_scatter=np.zeros(targets),
        fourth=Fourth(0.0, np.zeros(features)) if fourth else None,
    )


def sum_block(rows: Float, targets: Float, *, fourth: bool = False) -> Centred:
    """Sum one block of at least one row. ``rows`` is overwritten; both are float64.

    The mean is corrected by the mean of the residuals, so that at a large offset it is good to the last bit.
    """
    count = len(rows)
    mean, target_mean = rows.mean(axis=0), targets.mean(axis=0)
    rows -= mean
    mean += rows.mean(axis=0)
    residuals = targets - target_mean
    accumulators = None
    if fourth:
        norms = np.einsum("nd,nd->n", rows, rows)
        accumulators = Fourth(float(norms @ norms), rows.T @ norms)
    return Centred(
        count=count,
        mean=mean,
        scatter=rows.T @ rows,
        target_mean=target_mean,
        cross=rows.T @ residuals,
        target_scatter=np.einsum("nt,nt->t", residuals, residuals),
        fourth=accumulators,
    )


def merge(a: Centred, b: Centred) -> Centred:
    """Return the moments of the rows of both. **Cost**: O(d² + dt)."""
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


def remove(total: Centred, part: Centred) -> Centred:
    """Return the moments of the rows of ``total`` less those of ``part``: :func:`merge` with the sign turned.

    Raises
    ------
    NumericsError
        When ``part`` has more rows, or more spread, than ``total``: it was never merged into it.
    """
    if not part.count:
        return total
    count = total.count - part.count
    if count < 0:
        raise NumericsError(
            f"Cannot remove {part.count:,} rows from {total.count:,}: remove only what was merged before."
        )
    if not count:
        return zero(len(total.mean), len(total.target_mean), fourth=total.fourth is not None)
    mean = total.mean + (total.mean - part.mean) * (part.count / count)
    target_mean = total.target_mean + (total.target_mean - part.target_mean) * (part.count / count)
    weight = np.sqrt(count * (part.count / total.count))
    v, w = weight * (part.mean - mean), weight * (part.target_mean - target_mean)
    scatter = total.scatter - part.scatter - np.outer(v, v)
    _check_variances(scatter, total, count)
    left = Centred(
        count,
        mean,
        scatter,
        target_mean,
        total.cross - part.cross - np.outer(v, w),
        np.maximum(total.target_scatter - part.target_scatter - w * w, 0.0),
    )
    if total.fourth is None or part.fourth is None:
        return left
    return _remove_fourth(left, total, part)


def _check_variances(scatter: Float, total: Centred, count: float) -> None:
    """Refuse a variance that is negative beyond rounding; set one that is negative by rounding to zero."""
    variances = scatter.diagonal()  # times the count
    # The mean that is left carries the rounding of the total mean, magnified by total.count / count.
    drift = (_EPS * np.abs(total.mean) * total.count) ** 2 / count
    allowed = 1e-8 * total.scatter.diagonal() + 64 * drift
    bad = int(np.count_nonzero(variances < -allowed))
    if bad:
        raise NumericsError(
            f"Removing these rows would leave {bad} of {len(variances)} features with a negative variance: "
            "they were never part of these moments. Remove only what was merged before."
        )
    np.fill_diagonal(scatter, np.maximum(variances, 0.0))


def _recentred(part: Centred, centre: Float) -> Fourth:
    """Return the fourth-order accumulators about another centre (Σ(x−μ) = 0 drops half of the terms)."""
    assert part.fourth is not None
    shift = part.mean - centre
    square, trace, scatter_shift = float(shift @ shift), float(np.trace(part.scatter)), part.scatter @ shift
    power = part.fourth.power + 4 * float(shift @ scatter_shift) + 4 * float(part.fourth.skew @ shift)
    power += 2 * square * trace + part.count * square**2
    skew = part.fourth.skew + trace * shift + 2 * scatter_shift + (part.count * square) * shift
    return Fourth(power, skew)


def _merge_fourth(a: Centred, b: Centred, mean: Float) -> Fourth | None:
    if a.fourth is None or b.fourth is None:
        return None
    first, second = _recentred(a, mean), _recentred(b, mean)
    return Fourth(first.power + second.power, first.skew + second.skew)


def _remove_fourth(left: Centred, total: Centred, part: Centred) -> Centred:
    """Move both to the mean that is left, where they subtract."""
    all_rows, removed = _recentred(total, left.mean), _recentred(part, left.mean)
    fourth = Fourth(max(all_rows.power - removed.power, 0.0), all_rows.skew - removed.skew)
    return replace(left, fourth=fourth)


# ---- Rows as they come in: checked, and handed out in float64 blocks.


def check_rows(X: ArrayLike, T: ArrayLike | None) -> tuple[Array, Array]:
    """Return features (n, d) and targets (n, t) as arrays of real numbers; one DataError says all that is wrong."""
    X = np.asarray(X)
    T = np.zeros((len(X) if X.ndim else 0, 0)) if T is None else np.asarray(T)
    problems = []
    for name, array, expected in (("X", X, "(n, d) features"), ("T", T, "(n, t) targets")):
        if array.ndim != 2:
            problems.append(f"{name} must be {expected}; got shape {array.shape}.")
        elif array.dtype.kind not in "fiub":
            problems.append(f"{name} must hold real numbers; got dtype {array.dtype}.")
    if T.ndim == 1:
        problems.append("For classes give T = np.eye(number_of_classes)[labels]; for one column of values, T[:, None].")
    if not problems and len(X) != len(T):
        problems.append(f"X has {len(X):,} rows and T {len(T):,}; they must have one row per item each.")
    if problems:
        raise DataError("\n".join(problems))
    return X, T


def float_blocks(X: Array, T: Array) -> Iterator[tuple[Float, Float]]:
    """Yield float64 copies of blocks of about 32 MiB, so that a large X is never copied as a total.

    Raises
    ------
    NumericsError
        When rows are not finite; it counts them over all of X and T.
    """
    size = max(64, _BLOCK_BYTES // (8 * max(1, X.shape[1] + T.shape[1])))
    for start in range(0, len(X), size):
        rows = X[start : start + size].astype(np.float64)
        targets = T[start : start + size].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(rows.sum()) and np.isfinite(targets.sum())
        if not finite:  # a sum can also overflow over finite rows: then none is counted, and the scatter will say it
            _refuse_non_finite(X, T, size)
        yield rows, targets


def _refuse_non_finite(X: Array, T: Array, size: int) -> None:
    counts = []
    for array in (X, T):
        count = 0
        for start in range(0, len(array), size):
            count += int((~np.isfinite(array[start : start + size]).all(axis=1)).sum())
        counts.append(count)
    if any(counts):
        raise NumericsError(
            f"{counts[0]:,} of {len(X):,} rows of features and {counts[1]:,} of targets are not finite (NaN or inf). "
            "Leave them out, with their targets: keep = np.isfinite(X).all(axis=1) & np.isfinite(T).all(axis=1)."
        )


# ---- Shrinkage of a covariance towards a multiple of the identity.


def oas_share(trace: float, square: float, *, rows: float, features: int) -> float:
    """Return the OAS shrinkage ρ for a covariance of this trace and squared norm ‖S‖²."""
    mean_variance, mean_square = trace / features, square / features**2
    denominator = (rows + 1) * (mean_square - mean_variance**2 / features)
    return 1.0 if denominator <= 0 else min((mean_square + mean_variance**2) / denominator, 1.0)


def shrink(sample: Float, shrinkage: float) -> Float:
    """Return ``(1−ρ)·S + ρ·tr(S)/d·I`` for a covariance S (d, d) and its shrinkage ρ."""
    covariance = (1 - shrinkage) * sample
    covariance.flat[:: len(sample) + 1] += shrinkage * float(np.trace(sample)) / len(sample)
    return covariance
