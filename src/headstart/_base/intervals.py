"""Metrics with confidence intervals, and how the intervals are computed. Floor 0: numpy and scipy.special only.

All intervals are at 95 % unless a level is given.

* a share of independent rows (accuracy, recall, precision): Wilson's score interval, right at 0 and 1 and for small n;
* a mean of independent shares (balanced accuracy): Wilson per class, put together by MOVER;
* a difference: Bonett–Price when the rows are paired, MOVER (Newcombe's hybrid) when only two intervals are known;
* everything else: the bootstrap in :func:`bootstrap`.

References
----------
Wilson 1927; Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857); Zou & Donner 2008 (MOVER);
Bonett & Price 2012 (paired proportions); Efron 1987 (BCa); Guo et al. 2017 is in ``metrics/classification.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from headstart._base.typing import Array, Float

LEVEL = 0.95
RESAMPLES = 1000
MAX_ROWS = 10_000  # more rows than this are thinned, and the interval rescaled: the time stays bounded
_CELLS = 4_000_000  # weights held at once (32 MB)
_JACKKNIFE = 200

Better: TypeAlias = Literal["higher", "lower"]
Statistic: TypeAlias = Callable[[Any, Float], Float]


class Metric(float):
    """A number that carries its interval: it is a float, and prints as ``0.873 [0.841, 0.901]``.

    Parameters
    ----------
    value : float
        The measured number.
    low, high : float or None
        Ends of the 95 % interval; None when there is none.
    better : {"higher", "lower"}
        Which direction is good.

    Examples
    --------
    >>> accuracy = Metric(0.873, 0.841, 0.901)
    >>> accuracy
    0.873 [0.841, 0.901]
    >>> accuracy > 0.85, accuracy.low, f"{accuracy:.1f}"
    (True, 0.841, '0.9')
    """

    __slots__ = ("better", "high", "low")
    low: float | None
    high: float | None
    better: Better

    def __new__(
        cls, value: float, low: float | None = None, high: float | None = None, better: Better = "higher"
    ) -> Metric:
        self = super().__new__(cls, value)
        for name, end in (("low", low), ("high", high)):
            object.__setattr__(self, name, None if end is None or math.isnan(end) else float(end))
        object.__setattr__(self, "better", better)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Metric is frozen; {name} cannot be changed")

    def __repr__(self) -> str:
        if self.low is None or self.high is None:
            return format_number(float(self))
        return f"{format_number(float(self))} [{format_number(self.low)}, {format_number(self.high)}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (float(self), self.low, self.high, self.better)

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Metric:
        """Rebuild a metric from its ``value``, ``low``, ``high`` and ``better``; no value is NaN."""
        value = data["value"]
        return cls(math.nan if value is None else value, data["low"], data["high"], data["better"])


def format_number(value: float) -> str:
    """Format a number: three decimals, or two figures when it is tiny, four when it is big.

    >>> format_number(0.5), format_number(0.00012), format_number(12345.678), format_number(float("nan"))
    ('0.500', '0.00012', '1.235e+04', 'nan')
    """
    if value != 0 and abs(value) < 0.0095:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:.4g}"


def wilson(successes: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Any, Any]:
    """Return Wilson's score interval for ``successes`` out of ``n``; arrays broadcast, and n = 0 gives (0, 1).

    >>> low, high = wilson(9, 10)
    >>> f"{low:.3f} {high:.3f}"
    '0.596 0.982'
    """
    k, n = np.asarray(successes, float), np.asarray(n, float)
    z = float(ndtri(0.5 + level / 2))
    size = np.where(n > 0, n, 1.0)
    share = np.clip(k / size, 0, 1)
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * np.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    low = np.where((k <= 0) | (n <= 0), 0.0, np.clip(centre - half, 0, share))
    high = np.where((k >= n) | (n <= 0), 1.0, np.clip(centre + half, share, 1))
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def mover_mean(values: Float, low: Float, high: Float) -> tuple[float, float]:
    """Return the interval of the mean of independent estimates from theirs (MOVER): squared arms add up."""
    middle, k = float(np.mean(values)), len(values)
    down = float(np.sqrt(np.sum((values - low) ** 2))) / k
    up = float(np.sqrt(np.sum((high - values) ** 2))) / k
    return middle - down, middle + up


def mover_difference(a: Metric, b: Metric) -> tuple[float | None, float | None]:
    """Return the interval of ``a - b`` for two independent numbers with intervals; (None, None) when one has none."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None, None
    d = float(a) - float(b)
    return d - math.hypot(a - a.low, b.high - b), d + math.hypot(a.high - a, b - b.low)


def paired_difference(a: Array, b: Array, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the mean of ``a - b`` over the same rows, with its interval.

    Shares (0 or 1 in every row) get the Bonett–Price interval, other scores Student's. Shapes: a, b (n,). Cost: O(n).
    """
    d = np.asarray(a, float) - np.asarray(b, float)
    n, mean = len(d), float(d.mean())
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        up, down = ((d > 0).sum() + 1) / (n + 2), ((d < 0).sum() + 1) / (n + 2)
        half = float(ndtri(0.5 + level / 2)) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
        return mean, max(-1.0, min(mean, up - down - half)), min(1.0, max(mean, up - down + half))
    if n < 2:
        return mean, -math.inf, math.inf
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(d.std(ddof=1)) / math.sqrt(n)
    return mean, mean - half, mean + half


def bootstrap(
    statistic: Statistic,
    parts: Any,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    random_state: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Return value and bias-corrected, accelerated (BCa) bootstrap interval of a statistic of weighted rows.

    Parameters
    ----------
    statistic : callable
        ``statistic(parts, weights)`` with weights (b, n) gives (b,) values: one per row of weights.
    parts : array or sparse matrix (n, …)
        Whatever the statistic needs of each row.
    bounds : (float, float)
        Least and greatest value that the statistic can have.

    Notes
    -----
    The acceleration comes from a jackknife over at most 200 groups of rows. Above ``MAX_ROWS`` rows, resampling is done
    on that many of them and the deviations are scaled by √(m/n). When no resample differs (every row right, say), the
    bootstrap would claim certainty; then a share 1 - 0.025^(1/n) of the future rows, the most that n rows can have
    missed, is taken to be at the worst or the best bound. Cost: O(resamples · min(n, MAX_ROWS)) time, 32 MB.
    """
    n = parts.shape[0]
    value = float(statistic(parts, np.ones((1, n)))[0])
    rng = np.random.default_rng(random_state)
    m = min(n, MAX_ROWS)
    if m < n:
        parts = parts[np.sort(rng.choice(n, m, replace=False))]
    middle = value if m == n else float(statistic(parts, np.ones((1, m)))[0])
    drawn = _resample(statistic, parts, resamples, rng)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) < resamples / 2:
        return value, math.nan, math.nan
    if np.ptp(drawn) <= 1e-12 * max(1.0, abs(middle)):
        low, high = _unseen(value, n, bounds)
    else:
        ends = np.quantile(drawn, _bca_levels(statistic, parts, drawn, middle=middle, rng=rng))
        low, high = value + math.sqrt(m / n) * (ends - middle)
    return value, max(bounds[0], min(low, value)), min(bounds[1], max(high, value))


def _resample(statistic: Statistic, parts: Any, resamples: int, rng: np.random.Generator) -> Float:
    m = parts.shape[0]
    block = max(1, min(resamples, _CELLS // m))
    drawn = []
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        picks = rng.integers(0, m, (b, m)) + m * np.arange(b)[:, None]
        weights = np.bincount(picks.ravel(), minlength=b * m).reshape(b, m).astype(float)
        drawn.append(statistic(parts, weights))
    return np.concatenate(drawn)


def _bca_levels(
    statistic: Statistic, parts: Any, drawn: Float, *, middle: float, rng: np.random.Generator
) -> tuple[float, float]:
    below = float(np.mean(drawn < middle) + 0.5 * np.mean(drawn == middle))
    # A statistic that is biased upwards by resampling (a calibration error) would push the correction to infinity.
    z0 = float(np.clip(ndtri(below), -1.5, 1.5))
    m = parts.shape[0]
    groups = min(m, _JACKKNIFE)
    weights = np.ones((groups, m))
    weights[rng.permutation(m) * groups // m, np.arange(m)] = 0.0
    left = statistic(parts, weights) if groups > 1 else np.zeros(1)
    left = left[np.isfinite(left)]
    d = left.mean() - left if len(left) else np.zeros(1)
    spread = float(np.sum(d**2)) ** 1.5
    a = float(np.sum(d**3)) / (6 * spread) if spread > 0 else 0.0
    z = z0 + np.array([-1.0, 1.0]) * float(ndtri(0.5 + LEVEL / 2))
    low, high = ndtr(z0 + z / np.maximum(1 - a * z, 0.05))
    return float(low), float(high)


def _unseen(value: float, n: int, bounds: tuple[float, float]) -> tuple[float, float]:
    share = 1 - (0.5 - LEVEL / 2) ** (1 / n)
    low, high = (value + share * (end - value) if math.isfinite(end) else value for end in bounds)
    return low, high
