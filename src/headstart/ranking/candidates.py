"""What a ranking is made of: the sources that load, the items that all can read, the rows to choose on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, HeadstartError, OptionError
from headstart.selection.search import MOST_ROWS
from headstart.sources.base import Source, load_source


def target_column(data: Dataset, target: str | None) -> Any:
    """The target column that was asked for, or the only one."""
    if target is None and len(data.columns) == 1:
        return data.columns[0]
    for column in data.columns:
        if column.name == target:
            return column
    names = ", ".join(repr(c.name) for c in data.columns)
    raise OptionError(f"target= must be one of {names}; got {target!r}.")


def load_sources(sources: Source | str | Sequence[Source | str]) -> tuple[list[Source], list[str]]:
    """The sources that can be loaded, each once, and a note on every other."""
    several = [sources] if isinstance(sources, (str, Source)) else list(sources)
    found: dict[str, Source] = {}
    notes = []
    for one in several:
        try:
            source = load_source(one)
            found.setdefault(source.fingerprint, source)
        except HeadstartError as error:
            notes.append(f"{one} was left out: {error}")
    if not found:
        raise DataError("No source could be loaded:\n" + "\n".join(notes) if notes else "rank() needs a source.")
    return list(found.values()), notes


def classifier_layers(source: Source) -> list[str]:
    """The source's own classifier output, for NCE and LEEP."""
    return ["output"] if source.classifier is not None and source.layers[-1].name == "output" else []


def usable_items(data: Dataset, target: str, banks: list[FeatureBank]) -> tuple[Dataset, np.ndarray]:
    """The items that every source can read and that have a label, and their targets (n, t)."""
    there = np.ones(len(data), dtype=bool)
    for bank in banks:
        there &= bank.keep(data)
    T = next(c for c in data.columns if c.name == target).matrix()
    there &= ~np.isnan(T).any(1)
    if not there.any():
        raise DataError(f"No item can be read by all sources and has a label in {target!r}.")
    if not there.all():
        note(f"{int((~there).sum())} of {len(data)} items cannot be read or have no label and are left out.")
    return (data if there.all() else data.take(np.flatnonzero(there))), T[there]


def subsample(T: np.ndarray, task: str, seed: int, most: int | None = None) -> Any:
    """Rows to choose and judge on: all, or so many of every class that it stays quick, in their order."""
    most = MOST_ROWS if most is None else most
    if len(T) <= most:
        return slice(None)
    labels = T.argmax(1) if task == "classification" else np.zeros(len(T))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(T)), labels))
    return np.sort(order[np.linspace(0, len(T) - 1, most).astype(int)])
