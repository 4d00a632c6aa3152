"""LogME: the logarithm of the maximised evidence of a linear model on the features, per row, averaged over targets.

For a centred target y and centred features F (n, d), with weights ~ N(0, a·I) and noise ~ N(0, s·I),

    LogME = max over a ≥ 0, s > 0 of (1/n) · log N(y; 0, s·I + a·F·Fᵀ).

In the eigenbasis of FᵀF (values σ_j, j ≤ r), with z_j² the part of ‖y‖² along the j-th left singular vector, λ = s/a
and g(λ) = Σ_j z_j² λ/(λ+σ_j) + (‖y‖² − Σ_j z_j²), the best noise for a given λ is s = g/n, and

    −2 log evidence = n·log s + g/s + Σ_{j≤r} log(1 + σ_j/λ) + n·log 2π

is left to minimise over one number. It may have several minima, so that a fixed point finds the one that is near its
start; here all minima of a grid are refined and λ → ∞ (no use of the features) is compared too.

Two cases have no finite maximum. Targets that the features reproduce exactly drive s → 0: the noise is held above 1e-8
of the target's variance. And when r = n − 1 (n ≤ d) nothing is left but the direction of ones, from which centring has
removed all data: it is left out, and the evidence is that of the n − 1 dimensions that hold data.

Shapes: features (n, d), targets (n, t) of any kind. Cost: O(d³ + d²·t) from moments; the rows are not needed.
Reference: You, Liu, Wang, Long (2021), LogME: practical assessment of pre-trained models for transfer learning. Their
code sums min(n, d) terms where d are due; see METHODS §0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from headstart._base.typing import Float, Ints
from headstart.errors import NumericsError
from headstart.moments.moments import Moments
from headstart.scores.base import Score

_LEAST_NOISE = 1e-8  # of the target's variance: a relative error of 1e-4
_STEP = 0.25  # of the grid over log λ; the terms λ/(λ+σ) are about two wide
_GOLDEN = (np.sqrt(5) - 1) / 2
_CHUNK = 1 << 22  # numbers held at once while refining


def _logme(moments: Moments) -> float:
    """Mean over the target columns; a column that never varies (an absent class) has no evidence and is left out.

    Parameters
    ----------
    moments : Moments
        Of features and targets: one-hot, multi-label or values.
    """
    squares = moments.target_scatter
    if moments.is_binary:
        varies = (moments.class_counts > 0) & (moments.class_counts < moments.count)
    else:
        varies = squares > 1e-14 * moments.count * moments.target_mean**2
    if not varies.any():
        raise NumericsError(f"No target varies over these {moments.count:,} rows; LogME needs one that does.")
    values, vectors = moments.spectrum
    parts = (vectors.T @ moments.cross[:, varies]) ** 2
    parts /= values[:, None]
    return float(np.mean(evidence(values, parts, squares[varies], moments.count)))


def evidence(values: Float, parts: Float, squares: Float, count: int) -> Float:
    """The maximised log evidence per row of each target.

    Parameters
    ----------
    values : (r,) array
        The non-zero eigenvalues σ of FᵀF, ascending.
    parts : (r, t) array
        z², the squared projections of the centred targets.
    squares : (t,) array
        ‖y‖².
    count : int
        n.
    """
    filled = len(values) == count - 1
    dims = count - 1 if filled else count
    rest = np.zeros(len(squares)) if filled else np.maximum(squares - parts.sum(axis=0), 0.0)
    profile = _Profile(values, parts, rest, _LEAST_NOISE * squares / dims, dims)
    best = dims * np.log(squares / dims) + dims  # λ → ∞
    if len(values):
        low = np.log(values[0]) + np.log(_LEAST_NOISE) - 3
        high = np.log(values[-1]) + np.log(dims) + 10
        grid = np.arange(low, high + _STEP, _STEP)
        column, cell = _minima(profile.table(grid))
        np.minimum.at(best, column, _refined(profile, grid[cell], column))
    return np.asarray(-0.5 * (best / dims + np.log(2 * np.pi)))


@dataclass(frozen=True)
class _Profile:
    """−2 log evidence, without its constant, as a function of log λ alone: the best noise for it is taken."""

    values: Float
    parts: Float
    rest: Float  # ‖y‖² outside the range of the features
    least: Float  # noise is not less
    dims: int

    def table(self, grid: Float) -> Float:
        """At every log λ of a grid for all targets, (grid, targets)."""
        ratio = self.values / np.exp(grid)[:, None]
        left: Float = (1 / (1 + ratio)) @ self.parts + self.rest
        spent: Float = np.log1p(ratio).sum(axis=1)[:, None]
        return self._fit(left) + spent

    def at(self, log_ratio: Float) -> Float:
        """At one log λ for each target, (targets,)."""
        ratio = self.values[:, None] / np.exp(log_ratio)
        left: Float = (self.parts / (1 + ratio)).sum(axis=0) + self.rest
        spent: Float = np.log1p(ratio).sum(axis=0)
        return self._fit(left) + spent

    def of(self, columns: Ints) -> _Profile:
        """That of some targets, in that order, repeated where they repeat."""
        return replace(self, parts=self.parts[:, columns], rest=self.rest[columns], least=self.least[columns])

    def _fit(self, left: Float) -> Float:
        noise = np.maximum(left / self.dims, self.least)
        return np.asarray(self.dims * np.log(noise) + left / noise)


def _minima(table: Float) -> tuple[Ints, Ints]:
    """Target and grid cell of every local minimum of the columns, ends included; of a level stretch, its lowest."""
    wall = np.full((1, table.shape[1]), np.inf)
    padded = np.concatenate([wall, table, wall])
    lowest = np.zeros(table.shape, dtype=bool)
    lowest[table.argmin(axis=0), np.arange(table.shape[1])] = True
    cell, column = np.nonzero(lowest | ((table < padded[:-2] - 1e-9) & (table <= padded[2:])))
    return column, cell


def _refined(profile: _Profile, start: Float, column: Ints) -> Float:
    """Every minimum of the grid, refined, in chunks that keep memory low."""
    size = max(1, _CHUNK // len(profile.values))
    steps = range(0, len(start), size)
    return np.concatenate([_golden(profile.of(column[i : i + size]), start[i : i + size]) for i in steps])


def _golden(profile: _Profile, start: Float) -> Float:
    """Golden-section search within one step of the grid on either side of each start, for all of them at once.

    scipy's bounded search takes one problem a call; its vectorised one wants scipy 1.15 and a minimum in the bracket.
    """
    low, high = start - _STEP, start + _STEP
    a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_a, at_b = profile.at(a), profile.at(b)
    for _ in range(34):  # 0.5 · 0.618³⁴ < 1e-7 in log λ: 1e-14 per row in the value
        left = at_a < at_b
        low, high = np.where(left, low, a), np.where(left, b, high)
        new = np.where(left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        at_new = profile.at(new)
        a, b = np.where(left, new, b), np.where(left, a, new)
        at_a, at_b = np.where(left, at_new, at_b), np.where(left, at_a, at_new)
    return np.minimum(at_a, at_b)


logme = Score(_logme, classification_only=False)
