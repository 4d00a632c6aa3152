"""The family of transferability scores: Moments (and rows, where a score needs them) → one number, higher is better.

A score says how promising features are without training anything. No score is reliable enough to decide alone
(METHODS §1): the ranking is by the cross-validated head, and scores stand beside it.

Adding one is a file that holds a :class:`Score` and a line in ``SCORES``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from headstart._base.registry import Family
from headstart._base.typing import Float
from headstart.errors import DataError, NumericsError, OptionError
from headstart.moments.moments import Moments

SCORES = Family(
    "scores",
    {
        "h_score": "headstart.scores.h_score:h_score",
        "knn": "headstart.scores.knn:knn",
        "leep": "headstart.scores.leep:leep",
        "logme": "headstart.scores.logme:logme",
        "nce": "headstart.scores.nce:nce",
    },
)


@dataclass(frozen=True)
class Score:
    """One transferability score: a function with what it declares of itself.

    Attributes
    ----------
    compute : callable
        ``compute(moments, **rows) -> float``. Its keyword-only parameters are what may be given; those without a
        default must be.
    on : {"features", "source"}
        Whether it looks at features (then rotating them changes nothing), or at the source's own class probabilities.
    from_moments : bool
        Whether moments are enough; otherwise they may be None.
    classification_only : bool
        Whether it needs one-hot targets.
    """

    compute: Callable[..., float]
    on: Literal["features", "source"] = "features"
    from_moments: bool = True
    classification_only: bool = True

    def __call__(self, moments: Moments | None, **rows: Any) -> float:
        """Check what was given against what the score takes, and compute it."""
        parameters = list(inspect.signature(self.compute).parameters.values())[1:]
        missing = [p.name for p in parameters if p.default is p.empty and p.name not in rows]
        if self.from_moments and moments is None:
            missing.insert(0, "moments")
        foreign = sorted(set(rows) - {p.name for p in parameters})
        if missing or foreign:
            allowed = ", ".join(p.name for p in parameters) or "moments alone"
            problem = f"needs {', '.join(missing)}" if missing else f"does not take {', '.join(foreign)}"
            raise OptionError(f"This score {problem}. It takes: {allowed}.")
        value = float(self.compute(moments, **rows))
        if not math.isfinite(value):
            raise NumericsError("The score is not finite: the features or targets are beyond what float64 can hold.")
        return value


def score(name: str, moments: Moments | None, **rows: Any) -> float:
    """Score how transferable features are; higher is better.

    Parameters
    ----------
    name : str
        One of :data:`SCORES`: ``"logme"``, ``"h_score"``, ``"nce"``, ``"leep"``, ``"knn"``.
    moments : Moments or None
        Of features and targets. None for the scores that need rows only.
    **rows
        What the score takes besides (``help(SCORES[name].compute)``).

    Raises
    ------
    UnknownName
        When there is no such score.
    OptionError
        When something it needs is missing, or something is given that it does not take.
    DataError
        When the targets are not what the score is for.
    NumericsError
        When the numbers do not allow it: a single class, no rows.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [0.1], [1.0], [1.1]])
    >>> good, bad = (Moments.from_rows(X, np.eye(2)[y]) for y in ([0, 0, 1, 1], [0, 1, 0, 1]))
    >>> score("logme", good) > score("logme", bad)
    True
    """
    if not isinstance(moments, Moments | None):
        raise DataError(f"score() takes Moments; got {type(moments).__name__}. Make them with Moments.from_rows(X, T).")
    member: Score = SCORES[name]
    return member(moments, **rows)


def need_classes(moments: Moments) -> Float:
    """Class counts of one-hot moments, of which at least two are not zero, as float64."""
    if not moments.is_one_hot or not moments.targets:
        raise DataError("This score is for classes: give one-hot targets, T = np.eye(number_of_classes)[labels].")
    counts = moments.class_counts.astype(float)
    if (counts > 0).sum() < 2:
        raise NumericsError(
            f"These {moments.count:,} rows hold {int((counts > 0).sum())} class: a score needs at least two."
        )
    return counts
