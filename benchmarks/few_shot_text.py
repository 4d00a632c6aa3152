"""Claim: on few labelled texts the automatic head is at least as accurate as the usual logistic regression.

MiniLM sentence embeddings (unit length, as sentence-transformers gives them), 8 and 64 texts per class, ten draws, the
official test files of TREC-6 and SST-2. The plain twin is MTEB's protocol: ``LogisticRegression(max_iter=100)`` on the
same embeddings. The bar: mean accuracy ≥ the twin's − 0.003.

    python benchmarks/few_shot_text.py [--draws 10] [--shots 8 64] [--save]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
from _features import texts
from sklearn.linear_model import LogisticRegression

from headstart.heads.auto import choose

HERE = Path(__file__).resolve().parent
TASKS = {"TREC-6": ("trec6/train.csv", "trec6/test.csv"), "SST-2": ("sst2/train.csv", "sst2/test.csv")}


def draw(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """So many rows of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])


def compare(train: dict, test: dict, shots: int, draws: int) -> dict[str, object]:
    classes, y = np.unique(train["y"], return_inverse=True)
    truth = np.searchsorted(classes, test["y"])
    ours, theirs, seconds, heads = [], [], [], Counter()
    for seed in range(draws):
        few = draw(y, shots, seed)
        X, T = {"output": train["X"][few]}, np.eye(len(classes))[y[few]]
        start = time.perf_counter()
        choice = choose(X, T, random_state=seed)
        fitted = choice.fit(X, T)
        seconds.append(time.perf_counter() - start)
        heads[choice.name] += 1
        ours.append(float((fitted.predict(test["X"]) == truth).mean()))
        theirs.append(float(LogisticRegression(max_iter=100).fit(train["X"][few], y[few]).score(test["X"], truth)))
    gaps = np.subtract(ours, theirs)
    return {
        "headstart": statistics.mean(ours),
        "LogisticRegression(max_iter=100)": statistics.mean(theirs),
        "mean_gap": float(gaps.mean()),
        "standard_error_of_gap": float(gaps.std(ddof=1) / np.sqrt(draws)),
        "gaps": [round(float(gap), 4) for gap in gaps],
        "heads": dict(heads),
        "median_seconds": statistics.median(seconds),
        "holds": bool(gaps.mean() >= -0.003),
    }


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("--draws", type=int, default=10)
    words.add_argument("--shots", type=int, nargs="+", default=[8, 64])
    words.add_argument("--save", action="store_true")
    asked = words.parse_args()
    report: dict[str, object] = {"draws": asked.draws}
    for name, (train, test) in TASKS.items():
        for shots in asked.shots:
            report[f"{name}, {shots} per class"] = compare(texts(train), texts(test), shots, asked.draws)
    text = json.dumps(report, indent=1)
    print(text)
    if asked.save:
        (HERE / "results" / "few_shot_text.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
