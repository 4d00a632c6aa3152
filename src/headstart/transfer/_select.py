"""Which layers, which head: chosen by cross-validation on the rows at hand. Never on anything held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._progress import note
from headstart.bank import Skipped
from headstart.dataset import Dataset, Target
from headstart.errors import DataError
from headstart.predictor import Answer, Part
from headstart.sources.base import Source

Place = tuple[int, str]


@dataclass(frozen=True)
class Candidates:
    """Rows of every candidate layer, for the items that every source can read.

    Attributes
    ----------
    rows, poolings : mapping (source number, layer) → (n, d) rows, and how they were pooled
    skipped : items that could not be read
    """

    sources: tuple[Source, ...]
    data: Dataset
    rows: Mapping[Place, np.ndarray]
    poolings: Mapping[Place, str]
    skipped: tuple[Skipped, ...] = ()

    def labelled(self, target: str) -> tuple[Candidates, np.ndarray]:
        """The items that have a label in one column, and their (n, t) targets."""
        column = next(c for c in self.data.columns if c.name == target)
        T = column.matrix()
        there = ~np.isnan(T).any(1)
        if there.all():
            return self, T
        if not there.any():
            raise DataError(f"No item has a label in {target!r}.")
        index = np.flatnonzero(there)
        note(f"{len(T) - len(index)} of {len(T)} items have no label in {target!r} and are left out.")
        rows = {place: X[index] for place, X in self.rows.items()}
        return Candidates(self.sources, self.data.take(index), rows, self.poolings, self.skipped), T[index]

    def part(self, place: Place, scale: float = 1.0) -> Part:
        """A candidate as a part of an answer."""
        return Part(place[0], place[1], self.poolings[place], scale)

    def label(self, place: Place) -> str:
        """How a candidate is called in tables: the layer, with its source when there are several."""
        return place[1] if len(self.sources) == 1 else f"{self.sources[place[0]].name}/{place[1]}"
