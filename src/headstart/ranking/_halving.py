"""Successive halving: many sources, little time. All are tried on a small sample, the better half on a larger one, …

References
----------
Jamieson & Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from headstart._progress import note
from headstart.bank import FeatureBank
from headstart.dataset import Dataset
from headstart.errors import HeadstartError
from headstart.heads.auto import select_head
from headstart.sources.base import Source, display_names

_FEWEST = 60


def halved(
    sources: list[Source], data: Dataset, budget: float | None, *, column: str, seed: int, notes: list[str],
    extract: Callable[[Source, Dataset], FeatureBank],
) -> list[Source]:  # fmt: skip
    """The sources that are worth a full pass; all of them without a budget, or when it suffices."""
    if budget is None or len(sources) < 3:
        return sources
    titles = dict(zip(sources, display_names(sources), strict=True))
    size = max(_FEWEST, len(data) // 2 ** int(np.ceil(np.log2(len(sources)))))
    while len(sources) > 1 and size < len(data):
        sample = data.sample(n=size, random_state=seed)
        scored = []
        seconds = 0.0
        for source in sources:
            try:
                score, per_item = _quick(extract(source, sample), sample, column, seed)
            except HeadstartError as error:
                notes.append(f"{source.address} was left out: {error}")
                continue
            scored.append((score, source))
            seconds += per_item * (len(data) - size)
        sources = [source for _, source in sorted(scored, key=lambda pair: -pair[0])]
        if seconds <= budget or not sources:
            break
        dropped = sources[(len(sources) + 1) // 2 :]
        sources = sources[: (len(sources) + 1) // 2]
        if dropped:
            names = ", ".join(titles[source] for source in dropped)
            notes.append(f"Dropped after {size} examples to stay within {budget:.0f} s: {names}.")
            note(notes[-1])
        size *= 2
    return sources


def _quick(bank: FeatureBank, sample: Dataset, column: str, seed: int) -> tuple[float, float]:
    """(cross-validated score of the best candidate, seconds per item)."""
    kept = sample.take(np.flatnonzero(bank.keep(sample)))
    target: Any = next(c for c in kept.columns if c.name == column)
    T = target.matrix()
    there = np.flatnonzero(~np.isnan(T).any(1))
    rows = {name: bank.rows(name, kept)[there] for name in bank.layers}
    choice = select_head(rows, T[there], task=target.task, heads=["ridge"], random_state=seed)
    per_item = 1 / bank.choice.speed if bank.choice.speed else bank.seconds["total"] / max(len(sample), 1)
    return choice.score, per_item
