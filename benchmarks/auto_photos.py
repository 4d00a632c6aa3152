"""Claim: on photos the automatic head and layer are at least as accurate as the usual probe of the last layer.

MobileNetV2 features of trashnet (600 photos, 6 classes), split 70/30 by class, several seeds. The plain twin is what a
user would write: ``StandardScaler`` and ``LogisticRegression(C=0.01)`` on the last layer. Ours is given the last layer
alone, all layers, and all layers that may be put side by side. The bar: mean accuracy ≥ the twin's − 0.005.

    python benchmarks/auto_photos.py [--seeds 10] [--data trashnet] [--save]
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from _features import photos
from _parts import finish, words
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headstart.selection.search import select_head


def split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and to test on, 70/30 of each class."""
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    cut = [int(0.7 * len(part)) for part in parts]
    return tuple(
        np.concatenate([p[s] for p, s in zip(parts, k)]) for k in zip(*[(slice(c), slice(c, None)) for c in cut])
    )


def ours(layers: dict[str, np.ndarray], y: np.ndarray, rows: tuple[np.ndarray, np.ndarray], *, fuse: bool) -> tuple:
    train, test = rows
    T = np.eye(y.max() + 1)[y[train]]
    X = {name: values[train] for name, values in layers.items()}
    start = time.perf_counter()
    choice = select_head(X, T, fuse=fuse)
    fitted = choice.fit(X, T)
    seconds = time.perf_counter() - start
    fresh = np.concatenate([layers[name][test] for name in choice.candidates], axis=1)
    return float((fitted.predict(fresh) == y[test]).mean()), seconds, f"{'+'.join(choice.candidates)}: {choice.name}"


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", default="trashnet")
    requested = parser.parse_args()
    layers = photos(requested.data)
    y = np.unique(layers.pop("y"), return_inverse=True)[1]
    ways = {"last layer": ({"last": layers["last"]}, False), "all layers": (layers, False), "fused": (layers, True)}
    result: dict[str, list] = {name: [] for name in ways}
    twin = []
    for seed in range(requested.seeds):
        rows = split(y, seed)
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        twin.append(float(probe.fit(layers["last"][rows[0]], y[rows[0]]).score(layers["last"][rows[1]], y[rows[1]])))
        for name, (value, fuse) in ways.items():
            result[name].append(ours(value, y, rows, fuse=fuse))
    report: dict[str, object] = {"data": requested.data, "seeds": requested.seeds, "twin": statistics.mean(twin)}
    for name, runs in result.items():
        gaps = np.subtract([run[0] for run in runs], twin)
        report[name] = {
            "accuracy": statistics.mean(run[0] for run in runs),
            "mean_gap": float(gaps.mean()),
            "standard_error_of_gap": float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
            "median_seconds": statistics.median(run[1] for run in runs),
            "chosen": [run[2] for run in runs],
            "holds": bool(gaps.mean() >= -0.005),
        }
    finish(f"auto_photos_{requested.data}", report, save=requested.save)


if __name__ == "__main__":
    main()
