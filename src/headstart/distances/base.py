"""The family of distances: Moments × Moments → one number ≥ 0, and 0 for identical ones.

They tell how far one domain's features are from another's (drift, choice of source), or how alike two layers are.
Targets are not looked at, except by CKA. Adding one is a file that holds a :class:`Distance` and a line in
``DISTANCES``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headstart._base.registry import Family
from headstart.errors import DataError, NumericsError, OptionError
from headstart.moments.moments import Moments

DISTANCES = Family(
    "distances",
    {
        "cka": "headstart.distances.cka:cka",
        "coral": "headstart.distances.coral:coral",
        "frechet": "headstart.distances.frechet:frechet",
        "mean": "headstart.distances.mean:mean",
    },
)


@dataclass(frozen=True)
class Distance:
    """One distance: a function with what it declares of itself.

    Attributes
    ----------
    compute : callable
        ``compute(a, b, **options) -> float``, symmetric in its two moments.
    between : {"samples", "features"}
        Whether it compares two sets of rows in the same feature space, or two feature spaces over the same rows.
    sees : tuple of {"shift", "spread"}
        Which changes of the rows it must grow with.
    """

    compute: Callable[..., float]
    between: Literal["samples", "features"] = "samples"
    sees: tuple[Literal["shift", "spread"], ...] = ()

    def __call__(self, a: Moments, b: Moments, **options: Any) -> float:
        """Check that the two can be compared, and compute it."""
        option_names = list(inspect.signature(self.compute).parameters)[2:]
        unexpected = sorted(set(options) - set(option_names))
        if unexpected:
            raise OptionError(
                f"This distance does not take {', '.join(unexpected)}. It takes: {', '.join(option_names) or '–'}."
            )
        if self.between == "samples" and a.features != b.features:
            raise DataError(f"The moments have {a.features} and {b.features} features; they must be of the same layer.")
        if not a.count or not b.count:
            raise NumericsError(f"A distance needs rows on both sides; got {a.count:,} and {b.count:,}.")
        with np.errstate(over="ignore", invalid="ignore"):
            value = float(self.compute(a, b, **options))
        if not math.isfinite(value):
            raise NumericsError("The distance is not finite: the features are beyond what float64 can hold.")
        return max(value, 0.0)  # rounding


def distance(name: str, a: Moments, b: Moments, **options: Any) -> float:
    """Measure how far two sets of features are from each other; 0 for identical ones.

    Parameters
    ----------
    name : str
        One of :data:`DISTANCES`: ``"coral"``, ``"frechet"``, ``"mean"``, ``"cka"``.
    a, b : Moments
        Of the two; their targets are not looked at, except by ``"cka"``.
    **options
        What the distance takes besides (``help(DISTANCES[name].compute)``).

    Raises
    ------
    UnknownName
        When there is no such distance.
    DataError
        When the two cannot be compared.
    NumericsError
        When there are too few rows.

    Examples
    --------
    >>> import numpy as np
    >>> a = Moments.from_rows(np.array([[0.0, 0.0], [2.0, 0.0]]))
    >>> b = Moments.from_rows(np.array([[3.0, 4.0], [5.0, 4.0]]))
    >>> distance("mean", a, b), distance("coral", a, b)
    (5.0, 0.0)
    """
    for moments in (a, b):
        if not isinstance(moments, Moments):
            raise DataError(f"distance() takes two Moments; got {type(moments).__name__}. Use Moments.from_rows(X).")
    member: Distance = DISTANCES[name]
    return member(a, b, **options)
