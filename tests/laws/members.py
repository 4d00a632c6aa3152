"""The members that the laws walk over, family by family. A line in a family's table enrols it here by itself.

Each family adds one list (and what a law needs to know about a member that the member cannot say itself).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.distances import DISTANCES as DISTANCE_FAMILY
from headstart.metrics import METRICS
from headstart.moments import Moments, Quantiser
from headstart.readers import READERS
from headstart.scores import SCORES as SCORE_FAMILY

# (name, task) of every metric; a metric that serves two tasks is walked over twice.
METRIC_MEMBERS = [(name, task) for name in METRICS for task in sorted(METRICS[name].tasks)]

# --- moments: every way of keeping them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """One way of keeping moments: the kind of targets, the options of ``from_rows``."""

    name: str
    targets: str = "one-hot"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return "exact" in self.options

    def __repr__(self) -> str:
        return self.name


_GRID = Quantiser(scale=1.1e5 + 100, bits=14, target_scale=64.0)
MOMENTS = (
    Kept("one-hot"),
    Kept("multi-label", "multi-label"),
    Kept("regression", "values"),
    Kept("no targets", "none"),
    Kept("per class", options={"per_class": True}),
    Kept("fourth order", options={"fourth": True}),
    Kept("per class, fourth order", options={"per_class": True, "fourth": True}),
    Kept("exact, 14 bits", options={"exact": Quantiser(scale=1.1e5 + 100, bits=14)}),
    Kept("exact, 8 bits, saturating", options={"exact": Quantiser(scale=2.0, bits=8, saturate=True)}),
    Kept("exact, per class", options={"exact": Quantiser(scale=1.1e5 + 100, bits=12), "per_class": True}),
    Kept("exact regression", "values", {"exact": _GRID}),
)


# --- scores: what each is given for features X (n, d) and labels y of `classes` classes ------------------------------


def _features(X, y, classes):
    return Moments.from_rows(X, np.eye(classes)[y]), {}


def _softmax(X):
    theta = np.exp(X - X.max(axis=1, keepdims=True))
    return theta / theta.sum(axis=1, keepdims=True)


SCORE_INPUTS = {
    "h_score": _features,
    "knn": lambda X, y, classes: (None, {"rows": X, "targets": np.eye(classes)[y]}),
    "leep": lambda X, y, classes: (None, {"probabilities": _softmax(X), "targets": np.eye(classes)[y]}),
    "logme": _features,
    "nce": lambda X, y, classes: (Moments.from_rows(np.eye(X.shape[1])[X.argmax(axis=1)], np.eye(classes)[y]), {}),
}
SCORES = tuple(SCORE_FAMILY)

# --- distances ------------------------------------------------------------------------------------------------------

DISTANCES = tuple(DISTANCE_FAMILY)

# Every reader, by modality; test_reader_laws.py holds one good file of each.
READER_MEMBERS = list(READERS)
