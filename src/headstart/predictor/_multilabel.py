"""Any number of labels per item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.dataset import Target
from headstart.metrics import assess
from headstart.predictor._with_head import HeadModel, never_seen
from headstart.result import Result


@dataclass(frozen=True, eq=False)
class Multilabel(HeadModel):
    """The labels whose decision is above zero, as a tuple."""

    task = "multilabel"
    allowed = (tuple, str, int, bool)

    def _named(self, X: np.ndarray) -> list[Any]:
        assert self.classes is not None
        chosen = self.head.predict(X) > 0
        return [tuple(c for c, on in zip(self.classes, row) if on) for row in chosen]

    def _known(self, column: Target) -> list[Any]:
        return [value if value is None or isinstance(value, tuple) else (value,) for value in column.values]

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        known = tuple(self.classes or ())
        counts = dict(self.counts) if self.counts else None
        strange, notes = never_seen(truth, known, several=True)
        # a label that only the test has is never predicted
        proba = np.hstack([self.proba(X), np.zeros((len(X), len(strange)))])
        scores: dict[str, Any] = {"proba": proba, "classes": (*known, *strange), "train_counts": counts}
        return assess("multilabel", truth, predicted, **scores, notes=notes)
