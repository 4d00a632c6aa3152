"""A number, or several, per item."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from headstart.dataset import Target
from headstart.metrics import assess
from headstart.predictor._with_head import HeadModel
from headstart.result import Result


@dataclass(frozen=True, eq=False)
class Regression(HeadModel):
    """The head's values: a float, or a tuple of several outputs."""

    task = "regression"
    gives = MappingProxyType({"decision": HeadModel.gives["decision"]})
    allowed = (int, float, tuple)

    def _named(self, X: np.ndarray) -> list[Any]:
        values = np.asarray(self.head.predict(X), dtype=np.float64)
        return [float(row[0]) if len(row) == 1 else tuple(map(float, row)) for row in values.reshape(len(X), -1)]

    def _known(self, column: Target) -> list[Any]:
        return list(column.values)

    def _compared(self, truth: list[Any], predicted: list[Any], X: np.ndarray) -> Result:
        return assess("regression", truth, predicted)
