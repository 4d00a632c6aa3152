"""What a predictor knows about one target column: which features it reads, and the head that turns them into labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.heads.base import Head


@dataclass(frozen=True)
class Part:
    """One layer of one source, and how it is pooled."""

    source: int
    layer: str
    pooling: str


@dataclass(frozen=True, eq=False)
class Answer:
    """A target column's features and head.

    Attributes
    ----------
    log_ratio : (t,) array or None
        The logit adjustment for uneven classes, where there is one; the head has taken it in already.
    counts : mapping, optional
        Training examples per class.
    """

    target: str
    task: str
    classes: tuple[Any, ...] | None
    parts: tuple[Part, ...]
    head: Head
    log_ratio: np.ndarray | None = None
    counts: Mapping[Any, int] | None = None

    def features(self, rows: Mapping[tuple[int, str], np.ndarray]) -> np.ndarray:
        """(n, d) float32: the parts side by side. ``rows`` has every (source, layer)."""
        return joined(rows, self.parts)

    def decision(self, X: np.ndarray) -> np.ndarray:
        """(n, t) decision values."""
        return self.head.decision(X)

    def proba(self, X: np.ndarray) -> np.ndarray:
        """(n, t) probabilities."""
        return self.head.proba(X)

    def labels(self, X: np.ndarray) -> Sequence[Any]:
        """One label (classification), tuple of labels (multilabel) or number(s) (regression) per row."""
        if self.task == "classification":
            assert self.classes is not None
            return [self.classes[i] for i in self.decision(X).argmax(1)]
        if self.task == "multilabel":
            assert self.classes is not None
            chosen = self.head.predict(X) > 0
            return [tuple(c for c, on in zip(self.classes, row) if on) for row in chosen]
        values = np.asarray(self.head.predict(X), dtype=np.float64)
        return [float(row[0]) if len(row) == 1 else tuple(map(float, row)) for row in values.reshape(len(X), -1)]


def joined(rows: Mapping[tuple[int, str], np.ndarray], parts: Sequence[Part]) -> np.ndarray:
    """Parts side by side, (n, d) float32."""
    if len(parts) == 1:
        return rows[parts[0].source, parts[0].layer]
    return np.concatenate([rows[p.source, p.layer] for p in parts], axis=1)
