"""Sums that are exact integers: merge, removal and masked sums give the same bits in any order, on any machine.

Features become integers z = round(x / step) of at most 14 bits. While n·2^(2b) < 2^53 every partial sum of products is
an integer that float64 holds exactly, so no order of additions, thread count or BLAS changes a bit. The centred
quantities are derived from the integer sums about the rounded mean, exactly too; one rounding is left at the end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import numpy as np

from headstart._base.constraints import Allow, Interval, validate
from headstart._base.typing import Array, Float
from headstart.errors import NumericsError
from headstart.moments.centred import Centred, read_only


@dataclass(frozen=True)
class Quantiser:
    """The fixed grid on which exact moments count; parts merge only when theirs are equal.

    Parameters
    ----------
    scale : float
        The largest magnitude of a feature that can be held; the step is ``scale / (2**(bits - 1) - 1)``.
    bits : int
        2 to 14. Twelve bits hold 536 million rows, fourteen 33 million.
    target_scale : float, optional
        The same for targets. None: targets are whole numbers already (one-hot, multi-label, counts).
    saturate : bool
        Cut larger magnitudes to ``scale`` instead of refusing them.

    Examples
    --------
    >>> Quantiser(scale=127.0, bits=8).integers(np.array([[1.2, -126.9]]))
    array([[   1., -127.]])
    """

    scale: Annotated[float, Interval(1e-100, 1e100)]
    bits: Annotated[int, Interval(2, 14, integer=True)] = 14
    target_scale: Annotated[float | None, Interval(1e-100, 1e100), Allow(None)] = None
    saturate: Annotated[bool, Allow(True), Allow(False)] = False

    @classmethod
    def covering(cls, rows: Array, *, bits: int = 14, targets: Array | None = None) -> Quantiser:
        """The finest grid that holds every value of ``rows`` (and of ``targets``, when given)."""
        target_scale = None if targets is None else _largest_magnitude(targets) or 1.0
        return cls(_largest_magnitude(rows) or 1.0, bits, target_scale)

    @property
    def top(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def step(self) -> float:
        """The width of one step of a feature."""
        return self.scale / self.top

    @property
    def target_step(self) -> float:
        """The width of one step of a target."""
        return 1.0 if self.target_scale is None else self.target_scale / self.top

    @property
    def most_rows(self) -> int:
        """How many rows can be summed exactly."""
        return int(2 ** (53 - 2 * self.bits) - 1)

    def config(self) -> dict[str, Any]:
        """Return its fields as plain data."""
        return asdict(self)

    def integers(self, rows: Float) -> Float:
        """Round features (n, d) to integers, held in float64."""
        return self._rounded(rows, self.step, "features")

    def target_integers(self, targets: Float) -> Float:
        """Round targets (n, t) to integers, held in float64; without a target scale they must be whole numbers."""
        if self.target_scale is None and np.any(targets != np.rint(targets)):
            raise NumericsError(
                "Exact moments need targets that are whole numbers (one-hot, 0 and 1), or a scale for them: "
                "give Quantiser(…, target_scale=largest magnitude)."
            )
        return self._rounded(targets, self.target_step, "targets")

    def check(self, count: int) -> None:
        """Raise NumericsError when ``count`` rows could no longer be summed exactly."""
        if count > self.most_rows:
            raise NumericsError(
                f"{count:,} rows of {self.bits} bits do not sum exactly in float64; {self.bits} bits allow "
                f"{self.most_rows:,} rows. Use a Quantiser with fewer bits."
            )

    def _rounded(self, values: Float, step: float, what: str) -> Float:
        validate(self)
        integers = values / step
        np.rint(integers, out=integers)
        largest = max(float(integers.max(initial=0)), -float(integers.min(initial=0)))
        if largest <= self.top:
            return integers
        if not self.saturate:
            beyond = int(np.count_nonzero(np.abs(integers) > self.top))
            raise NumericsError(
                f"{beyond:,} of {integers.size:,} {what} are beyond the quantiser's largest magnitude "
                f"{step * self.top:g} (the largest is about {step * largest:g}). Use a larger scale, "
                "Quantiser.covering(rows), or saturate=True to cut them."
            )
        return np.clip(integers, -self.top, self.top, out=integers)


def _largest_magnitude(array: Array) -> float:
    return max(abs(float(array.max(initial=0))), abs(float(array.min(initial=0))))


@dataclass(frozen=True, eq=False)
class Sums:
    """Raw sums of quantised rows z (n, d) and targets y (n, t); every entry is an integer held in float64.

    Attributes
    ----------
    total, target_total : (d,) and (t,) arrays
        Σz and Σy.
    gram, cross : (d, d) and (d, t) arrays
        Σzzᵀ and Σzyᵀ.
    target_squares : (t,) array
        Σy², per column.
    """

    quantiser: Quantiser
    count: int
    total: Float
    gram: Float
    target_total: Float
    cross: Float
    target_squares: Float

    def __post_init__(self) -> None:
        for name in ARRAYS:
            read_only(getattr(self, name))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of features and of targets."""
        return self.cross.shape[0], self.cross.shape[1]

    def centred(self) -> Centred:
        """Return the six centred arrays, rounded once: the same sums give the same bits.

        About the rounded mean m, with r = Σz − n·m: Σ(z−m)(z−m)ᵀ is exact, and S = Σ(z−m)(z−m)ᵀ − rrᵀ/n.
        """
        n, step, target_step = self.count, self.quantiser.step, self.quantiser.target_step
        if not n:
            return Centred(0, self.total, self.gram, self.target_total, self.cross, self.target_squares)
        middle, target_middle = np.rint(self.total / n), np.rint(self.target_total / n)
        rest, target_rest = self.total - n * middle, self.target_total - n * target_middle
        about = np.outer(middle, self.total)
        gram = self.gram - (about + about.T) + n * np.outer(middle, middle)
        gram -= np.outer(rest, rest) / n
        cross = self.cross - np.outer(middle, self.target_total) - np.outer(self.total, target_middle)
        cross += n * np.outer(middle, target_middle)
        cross -= np.outer(rest, target_rest) / n
        squares = self.target_squares - 2 * target_middle * self.target_total + n * target_middle**2
        squares -= target_rest**2 / n
        mean, target_mean = step * (middle + rest / n), target_step * (target_middle + target_rest / n)
        return Centred(
            n, mean, step**2 * gram, target_mean, step * target_step * cross, target_step**2 * np.maximum(squares, 0.0)
        )


ARRAYS = tuple(f.name for f in fields(Sums) if f.name not in ("quantiser", "count"))


def zero(quantiser: Quantiser, features: int, targets: int) -> Sums:
    """Return the sums of no rows: the neutral element of :func:`add`."""
    square, flat = np.zeros((features, features)), np.zeros((features, targets))
    return Sums(quantiser, 0, np.zeros(features), square, np.zeros(targets), flat, np.zeros(targets))


def sum_block(quantiser: Quantiser, rows: Float, targets: Float) -> Sums:
    """Sum one block of float64 rows."""
    quantiser.check(len(rows))
    z, y = quantiser.integers(rows), quantiser.target_integers(targets)
    return Sums(quantiser, len(z), z.sum(axis=0), z.T @ z, y.sum(axis=0), z.T @ y, np.einsum("nt,nt->t", y, y))


def add(a: Sums, b: Sums, sign: int = 1) -> Sums:
    """Merge (``sign`` 1) or remove (−1) ``b``, without rounding."""
    count = a.count + sign * b.count
    if count < 0:
        raise NumericsError(f"Cannot remove {b.count:,} rows from {a.count:,}: remove only what was merged before.")
    a.quantiser.check(count)
    arrays = [getattr(a, name) + sign * getattr(b, name) + 0.0 for name in ARRAYS]
    if sign < 0 and np.any(arrays[1].diagonal() < 0):
        raise NumericsError("Removing these rows would leave a negative sum of squares: they were never merged here.")
    return Sums(a.quantiser, count, *arrays)
