"""The columns beside the cross-validated score: LogME, H-score, kNN from rows; NCE, LEEP from the source's own head."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from headstart.bank import FeatureBank
from headstart.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.moments import Moments
from headstart.scores import score
from headstart.sources.base import Layer, Source

_KNN_ROWS = 2000


def columns_of(X: np.ndarray, T: np.ndarray, *, task: str, bank: FeatureBank, layer: Layer) -> dict[str, float | None]:
    """LogME, H-score, kNN, extraction seconds and megabytes of one layer; None where a score does not apply."""
    found = scores_of(X, T, task=task)
    speed = bank.choice.speed if bank.choice is not None else 0.0
    found["seconds"] = len(X) / speed * layer.depth if speed else None
    found["mbytes"] = X.nbytes / 1e6
    return found


def scores_of(X: np.ndarray, T: np.ndarray, *, task: str) -> dict[str, float | None]:
    """The scores that need nothing but rows: LogME, and of classes H-score and kNN."""
    moments = Moments.from_rows(compact(X), T)
    found: dict[str, float | None] = {"logme": _try("logme", moments)}
    if task == "classification":
        found["h_score"] = _try("h_score", moments, dimensions=X.shape[1])
        few = slice(None) if len(X) <= _KNN_ROWS else np.linspace(0, len(X) - 1, _KNN_ROWS).astype(int)
        found["knn"] = _try("knn", None, rows=X[few], targets=T[few])
    return found


def source_columns(
    source: Source, bank: FeatureBank, data: Dataset, *, T: np.ndarray, task: str
) -> dict[str, float | None]:
    """What is the same for all layers of a source: its size (the static list), and NCE and LEEP where it has a head."""
    parameters = sum(p.numel() for p in source.module.parameters()) if "torch" in source.engines else None
    found: dict[str, float | None] = {"static": parameters / 1e6 if parameters else None}
    if task != "classification" or source.classifier is None or "output" not in bank.layers:
        return found
    theta = bank.rows("output", data).astype(np.float64)
    if theta.min() < 0 or np.abs(theta.sum(1) - 1).max() > 1e-3:  # some networks end in a softmax of their own
        theta = softmax(theta, axis=1)
    table = T.T @ np.eye(theta.shape[1])[theta.argmax(1)]
    found["leep"] = _try("leep", None, probabilities=theta, targets=T)
    found["nce"] = _try("nce", None, table=table)
    return found


def compact(X: np.ndarray) -> np.ndarray:
    """Rows in at most n dimensions, distances unchanged: scores that do not see rotations cost n³ instead of d³."""
    if len(X) >= X.shape[1]:
        return X
    away = np.asarray(X, dtype=np.float64) - X.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(away @ away.T)
    keep = values > values[-1] * 1e-12
    return vectors[:, keep] * np.sqrt(values[keep])


def _try(name: str, moments: Moments | None, **rest: Any) -> float | None:
    try:
        return float(score(name, moments, **rest))
    except HeadstartError:
        return None
