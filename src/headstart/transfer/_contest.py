"""Every candidate layer against every head, by cross-validation on the same folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.heads._cross import Measured, draw_folds, measure
from headstart.heads._problem import problem_of
from headstart.heads.base import HEADS

Place = tuple[int, str]
_SCREEN = {"classification": ("ridge", "lda"), "multilabel": ("ridge",), "regression": ("ridge",)}
_FINAL = {
    "classification": (("ridge", "none"), ("lda", "none"), ("logistic", "none"), ("logistic", "standard")),
    "multilabel": (("ridge", "none"), ("logistic", "none"), ("logistic", "standard")),
    "regression": (("ridge", "none"), ("ridge", "standard")),
}
_FINALISTS = 3


@dataclass(frozen=True)
class Entry:
    """One combination of layers and head with its held-out score; ``scales`` balance layers that are joined."""

    places: tuple[Place, ...]
    scales: tuple[float, ...]
    head: str
    fields: Mapping[str, Any]
    measured: Measured

    @property
    def score(self) -> float:
        """The held-out score."""
        return self.measured.score


def contest(
    rows: Mapping[Place, np.ndarray],
    T: np.ndarray,
    *,
    task: str,
    metric: str,
    shift: np.ndarray | None,
    groups: Sequence[Any] | None,
    only: str | None,
    fuse: bool,
    seed: int,
) -> list[Entry]:
    """All entries, the best first. ``rows`` in execution order."""
    folds = draw_folds(T, task, groups=None if groups is None else np.asarray(groups), random_state=seed)
    how = {"T": T, "task": task, "metric": metric, "shift": shift, "folds": folds}
    screened = [entry for place in rows for entry in _entries((place,), rows, _plain(only or _SCREEN[task]), **how)]
    best = _best_per_places(screened)
    finalists = [entry.places for entry in best[:_FINALISTS]]
    last = (list(rows)[-1],)
    finalists += [last] if last not in finalists else []
    if fuse and len(best) > 1:
        finalists += [tuple(p for e in best[:k] for p in e.places) for k in (2, 3) if len(best) >= k]
    heads = _plain((only,)) if only else _FINAL[task]
    final = [entry for places in finalists for entry in _entries(places, rows, heads, **how)]
    return sorted([*screened, *final], key=lambda entry: -entry.score)


def joined(rows: Mapping[Place, np.ndarray], places: Sequence[Place]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Layers side by side, each scaled to unit mean square, and the scales; one layer stays as it is."""
    if len(places) == 1:
        return rows[places[0]], (1.0,)
    scales = []
    for place in places:
        X = rows[place]
        away = X - X.mean(0)
        scales.append(float(1.0 / max(np.sqrt((away.astype(np.float64) ** 2).sum(1).mean()), 1e-12)))
    return np.concatenate([rows[p] * np.float32(s) for p, s in zip(places, scales)], axis=1), tuple(scales)


def _plain(names: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, "none") for name in ((names,) if isinstance(names, str) else names))


def _entries(
    places: tuple[Place, ...], rows: Mapping[Place, np.ndarray], heads: Sequence[tuple[str, str]], *, folds: Any, **how: Any
) -> list[Entry]:
    X, scales = joined(rows, places)
    T, task = how["T"], how["task"]
    found = []
    plain = problem_of(X, T, task=task, scale="none", sample_weight=None)
    if not plain.trace > 0:
        return []
    for name, scale in heads:
        problem = plain.scaled(scale)
        grid = HEADS[name].grid(problem)
        out = HEADS[name].out_of_fold(problem, folds, grid)
        for setting, decisions in zip(grid, out):
            fields = {**setting, "scale": scale} if "scale" in HEADS[name].__dataclass_fields__ else dict(setting)
            measured = measure(decisions, T, folds, task=task, metric=how["metric"], shift=how["shift"])
            found.append(Entry(places, scales, name, fields, measured))
    return found


def _best_per_places(entries: Sequence[Entry]) -> list[Entry]:
    best: dict[tuple[Place, ...], Entry] = {}
    for entry in entries:
        if entry.places not in best or entry.score > best[entry.places].score:
            best[entry.places] = entry
    return sorted(best.values(), key=lambda entry: -entry.score)
