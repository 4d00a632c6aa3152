"""Small fitted predictors of every kind, for the tests of predicting, saving and fitting."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.dataset import Dataset
from headstart.predictor import Predictor
from headstart.sources.base import load_source
from headstart.transfer import fit
from networks import Dense, separable, vector_source

LABELS: dict[str, list[Any]] = {
    "str": ["b", "a", "c"],
    "unicode": ["naïve ☕", "日本\u2028語", "caf\udce9 \x00\n\"'"],
    "int": [10, 2, -7],
    "huge": [10**30, -(10**25), 0],
    "bool": [True, False, True],
    "whole floats": [1.0, 2.0, 3.0],
}


def labelled(labels: list[Any], n: int = 36, **how: Any) -> Dataset:
    X, y = separable(n, **how)
    return Dataset.from_arrays(X, [labels[i] for i in y], task="classification")


def kinds() -> dict[str, Dataset]:
    """Every kind of target on the same vectors."""
    X, y = separable(36)
    rng = np.random.default_rng(1)
    sets = [tuple(name for j, name in enumerate("xyz") if X[i, j] > 0) or ("z",) for i in range(36)]
    return {
        "classification": labelled(["b", "a", "c"]),
        "multilabel": Dataset.from_arrays(X, sets, task="multilabel"),
        "regression": Dataset.from_arrays(X, X[:, 0] + 0.1 * rng.normal(size=36), task="regression"),
        "two outputs": Dataset.from_arrays(X, X[:, :2].astype(float), task="regression"),
        "several columns": Dataset.from_arrays(
            X,
            {"kind": [f"class {i}" for i in y], "side": (X[:, 0] > 0).tolist()},
            task={"kind": "classification", "side": "classification"},
        ),
    }


def fitted(data: Dataset | None = None, source: Any = "fake:vector", **how: Any) -> Predictor:
    options = {"head": "ridge", "layers": "last", "store": False, "precision": "fp32"}
    return fit(source, data if data is not None else labelled(["b", "a", "c"]), **{**options, **how})


def module_source(seed: int = 0) -> Any:
    """A Python object: it cannot be saved."""
    return vector_source(Dense, seed=seed)


def two_sources() -> list[Any]:
    return [load_source("fake:vector"), load_source("fake:vector", seed=5)]
