"""Claim: a group lasso keeps a fraction of the features of fused layers, in seconds. What that costs in accuracy.

* ``photos``: ImageNet and iNaturalist MobileNetV2 on photos, hand signs and written digits, half of the items to fit
  on and half to test, two draws each; in two spaces: the layers that forward selection puts side by side, as ``fit()``
  does, and all candidate layers of both. The plain twin is ridge on all features of the same space; beside it
  ``head="auto"``.
* ``time``: the last layers of both sources (2,560 features) of photos in 80 classes: seconds of one fit, strengths
  chosen, and of the whole cross-validation.

    OMP_NUM_THREADS=1 python benchmarks/selection.py [photos time] [--save]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _features import eighty_classes
from _parts import DATA, run_parts, words
from ranking import images, trained

from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.heads import head
from headstart.selection.search import select_head

HEADS = ("ridge", "group_lasso", "auto")


def photos(_: argparse.Namespace) -> dict:
    """Test accuracy, share of features kept and seconds of choosing, in both spaces."""
    sources = [item for item in trained() if "tf2" not in item.name]
    result = {}
    for name, data in images().items():
        for seed in (0, 1):
            train, test = data.split(test_size=0.5, random_state=seed)
            rows, T = layers(sources, train)
            held_out, truth = layers(sources, test)
            for space, names in spaces(rows, T).items():
                X, Z = (np.concatenate([part[n] for n in names], axis=1) for part in (rows, held_out))
                item = {kind: fitted(kind, (X, T), (Z, truth)) for kind in HEADS}
                result[f"{name} {seed} {space}"] = {"features": X.shape[1], "rows": len(X), "heads": item}
                print(name, seed, space, X.shape, {k: {m: round(v, 3) for m, v in o.items()} for k, o in item.items()},
                      flush=True)  # fmt: skip
    mean = {
        f"{space}, {kind}": {
            m: float(np.mean([item["heads"][kind][m] for key, item in result.items() if key.endswith(space)]))
            for m in ("accuracy", "kept", "seconds")
        }
        for space in ("chosen layers", "all layers")
        for kind in HEADS
    }
    return {"targets": result, "mean": mean}


def layers(sources: list, data: Dataset) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows of every candidate layer of every source, and one-hot targets."""
    result = {}
    for source in sources:
        bank = extract(source, data, layers="auto")
        result |= {f"{source.name}/{layer}": np.array(bank.rows(layer, data)) for layer in bank.layers}
    return result, data.columns[0].matrix()


def spaces(rows: dict[str, np.ndarray], T: np.ndarray) -> dict[str, list[str]]:
    """The layers that forward selection puts side by side, and all of them."""
    trials = select_head(rows, T, heads="ridge", fuse=True).trials
    fused = next(trial.candidates for trial in trials if len(trial.candidates) > 1)
    return {"chosen layers": list(fused), "all layers": list(rows)}


def fitted(kind: str, train: tuple, test: tuple) -> dict[str, float]:
    """One head, its strengths chosen by cross-validation, on standardised features."""
    (X, T), (Z, truth) = train, test
    mean, spread = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    X, Z = ((part - mean) / np.where(spread > 1e-6, spread, np.inf) for part in (X, Z))
    begun = time.perf_counter()
    choice = select_head({"x": X}, T, heads=kind, random_state=0)
    result = choice.fit({"x": X}, T)
    spent = time.perf_counter() - begun
    right = result.decision(Z).argmax(axis=1) == truth.argmax(axis=1)
    remaining = len(result.selected_features_) / X.shape[1] if result.selects_features else 1.0
    return {"accuracy": float(right.mean()), "kept": remaining, "seconds": spent}


def timing(_: argparse.Namespace) -> dict:
    """Seconds with 2,560 features and 80 classes."""
    parts = [eighty_classes(), eighty_classes(weights=DATA / "weights" / "mobilenetv2_100.inat_insect")]
    X = np.concatenate([part["X"] for part in parts], axis=1)
    T = (parts[0]["y"][:, None] == np.unique(parts[0]["y"])).astype(np.float64)
    begun = time.perf_counter()
    created = head("group_lasso", scale="standard").fit(X, T)
    once = time.perf_counter() - begun
    Z = np.concatenate([part["X_test"] for part in parts], axis=1)
    truth = np.searchsorted(np.unique(parts[0]["y"]), parts[0]["y_test"])
    result = {"rows": len(X), "features": X.shape[1], "classes": T.shape[1], "fit_seconds": once,
             "kept": len(created.selected_features_),
             "accuracy": float((created.predict(Z) == truth).mean())}  # fmt: skip
    for kind in ("ridge", "group_lasso"):
        result[kind] = fitted(kind, (X, T), (Z, np.eye(T.shape[1])[truth]))
    return result


PARTS = {"photos": photos, "time": timing}

if __name__ == "__main__":
    run_parts("selection", PARTS, words(__doc__))
