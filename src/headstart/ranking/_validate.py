"""ranking.validate(k): fit the top rows and some others for real, and see what every score was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import weightedtau

from headstart._printing import table
from headstart.errors import DataError
from headstart.heads._cross import draw_folds
from headstart.heads.auto import choose
from headstart.result import Row

_SCORES = ("accuracy", "logme", "h_score", "nce", "leep", "knn", "static")
_OTHERS = 4


@dataclass(frozen=True)
class Validation:
    """What really fitting some rows showed.

    Attributes
    ----------
    rows : tuple of (source, layer, test score)
    tau : mapping
        Weighted Kendall τ of every score against the test scores; 1 is the same order.
    regret : mapping
        How much is lost by taking the row that the score puts first.
    """

    rows: tuple[tuple[str, str, float], ...]
    tau: Mapping[str, float] = field(default_factory=dict)
    regret: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        fitted = table(["source", "layer", "test score"], [[s, layer, f"{v:.3f}"] for s, layer, v in self.rows], "llr")
        body = [[name, f"{self.tau[name]:.2f}", f"{self.regret[name]:.3f}"] for name in self.tau]
        return fitted + "\n\n" + table(["score", "weighted tau", "regret"], body, "lrr")


def validate(
    k: int, *, rows: Mapping[str, np.ndarray], T: np.ndarray, names: Mapping[str, Any], task: str,
    found: Sequence[Row], seed: int, groups: np.ndarray | None = None,
) -> Validation:  # fmt: skip
    """Fit the first ``k`` rows and up to four others on three fifths of the data and score them on the rest."""
    spread = np.linspace(k, len(found) - 1, _OTHERS).astype(int) if len(found) > k else np.zeros(0, int)
    chosen = [found[i] for i in dict.fromkeys([*range(min(k, len(found))), *spread.tolist()])]
    halves = draw_folds(T, task, groups=groups, repeats=1, random_state=seed + 1)
    if halves is None:
        raise DataError("There is nothing to hold out: every class has one example, or all are one group.")
    test = halves[0] % 2 == 1
    truth = []
    for row in chosen:
        name = next(
            n for n, (source, layer) in names.items() if (source.fingerprint, layer) == (row.fingerprint, row.layer)
        )
        truth.append(_fitted(rows[name], T, test, task=task, seed=seed))
    tau, regret = {}, {}
    for score in _SCORES:
        values = [getattr(row, score) for row in chosen]
        if any(v is None for v in values) or len(chosen) < 2:
            continue
        tau[score] = (
            float(weightedtau(values, truth).statistic) if len(set(values)) > 1 and len(set(truth)) > 1 else 0.0
        )
        regret[score] = float(max(truth) - truth[int(np.argmax(values))])
    shown = tuple((row.source, row.layer, value) for row, value in zip(chosen, truth))
    return Validation(shown, tau, regret)


def _fitted(X: np.ndarray, T: np.ndarray, test: np.ndarray, *, task: str, seed: int) -> float:
    train = ~test
    choice = choose({"x": X[train]}, T[train], task=task, random_state=seed)
    head = choice.fit({"x": X[train]}, T[train])
    decision = head.decision(X[test])
    if task == "classification":
        return float((decision.argmax(1) == T[test].argmax(1)).mean())
    if task == "multilabel":
        return float(((decision > 0) == (T[test] > 0)).mean())
    rest = ((T[test] - decision) ** 2).sum()
    return float(1 - rest / ((T[test] - T[test].mean(0)) ** 2).sum())
