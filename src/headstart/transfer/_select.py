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
from headstart.heads.base import Head, head as make_head
from headstart.imbalance import log_adjustment, resolve, row_weights
from headstart.predictor import Answer, Part
from headstart.sources.base import Source
from headstart.transfer._contest import Entry, contest, joined

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


def select(
    candidates: Candidates,
    column: Target,
    *,
    head: str | Head,
    balance: str,
    fuse: bool,
    random_state: int,
) -> tuple[Answer, dict[str, Any]]:
    """The best layers and head for one target column, fitted on all labelled items, and the table it was chosen from."""
    labelled, T = candidates.labelled(column.name)
    switch = resolve(balance, T.sum(0), column.task) if column.classes is not None else resolve("none", [1], column.task)
    shift = log_adjustment(T.sum(0)) if switch.kind == "logit" else None
    metric = switch.metric if column.task == "classification" else ""
    entries = contest(
        labelled.rows,
        T,
        task=column.task,
        metric=metric,
        shift=shift,
        groups=labelled.data.groups,
        only=head if isinstance(head, str) and head != "auto" else None,
        fuse=fuse,
        seed=random_state,
    )
    best = _steady(entries)
    X, scales = joined(labelled.rows, best.places)
    solved = head if isinstance(head, Head) else make_head(best.head, **best.fields)
    weights = row_weights(T) if switch.kind == "weights" else None
    solved = solved.fit(X, T, task=column.task, sample_weight=weights)
    solved.temperature_ = best.measured.temperature
    if shift is not None:
        solved.adjust(shift)
    parts = tuple(labelled.part(place, scale) for place, scale in zip(best.places, scales))
    counts = None if column.classes is None else dict(zip(column.classes, T.sum(0).astype(int).tolist()))
    answer = Answer(column.name, column.task, column.classes, parts, solved, shift, counts)
    return answer, _table(labelled, entries, best, switch)


def _steady(entries: list[Entry]) -> Entry:
    """Of the entries that cannot be told from the best, the one with the least held-out loss."""
    best = entries[0]
    tied = [e for e in entries if _tied(e, best)]
    return min(tied, key=lambda e: (float(e.measured.loss.mean()), len(e.places)))


def _tied(entry: Entry, best: Entry) -> bool:
    difference = best.measured.rows - entry.measured.rows
    error = float(difference.std() / np.sqrt(len(difference)))
    return best.score - entry.score <= error


def _table(candidates: Candidates, entries: list[Entry], best: Entry, switch: Any) -> dict[str, Any]:
    """The best entry per combination of layers, as plain data."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = " + ".join(candidates.label(place) for place in entry.places)
        m = entry.measured
        numbers = {"score": round(m.score, 4), "low": round(m.low, 4), "high": round(m.high, 4)}
        rows.setdefault(name, {"layers": name, "head": entry.head, **numbers})
    chosen = " + ".join(candidates.label(place) for place in best.places)
    return {
        "layers": chosen,
        "head": best.head,
        "fields": dict(best.fields),
        "score": round(best.score, 4),
        "balance": {"kind": switch.kind, "metric": switch.metric, "reason": switch.reason},
        "table": list(rows.values()),
    }
