"""One class per item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.dataset import Target
from headstart.metrics import assess
from headstart.predictor._with_head import HeadModel, known_labels, never_seen
from headstart.result import Result


@dataclass(frozen=True, eq=False)
class Classification(HeadModel):
    """The class of the greatest decision."""

    task = "classification"
    allowed = (str, int, float, bool)

    def _named(self, X: np.ndarray) -> list[Any]:
        assert self.classes is not None
        return [self.classes[i] for i in self.decision(X).argmax(1)]

    def _known(self, column: Target) -> list[Any]:
        return known_labels(column, self.classes)

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        known = tuple(self.classes or ())
        counts = dict(self.counts) if self.counts else None
        _, notes = never_seen(truth, known, several=False)
        scores: dict[str, Any] = {"proba": self.proba(X), "classes": known, "train_counts": counts}
        return assess("classification", truth, predicted, **scores, notes=notes)
