"""rank(): one extraction pass per source for all candidate layers, then everything from the rows that are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from headstart._progress import note
from headstart.bank import FeatureBank
from headstart.dataset import Dataset
from headstart.errors import DataError, HeadstartError, OptionError
from headstart.extraction import extract
from headstart.heads.auto import MOST_ROWS, Choice, Trial, choose
from headstart.ranking._columns import columns_of, source_columns
from headstart.ranking._halving import halved
from headstart.ranking._validate import validate
from headstart.result import Ranking, Row
from headstart.sources.base import Source, load_source

_LEVEL = 0.01
_HALVINGS = 10
_ORDERS = 50
_TIE = 1.96  # standard errors of the paired difference within which two rows cannot be told apart


def rank(
    sources: Source | str | Sequence[Source | str],
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    pooling: str = "auto",
    budget: float | None = None,
    balance: str = "auto",
    target: str | None = None,
    store: str | Path | None = None,
    random_state: int = 0,
    device: str = "auto",
) -> Ranking:
    """Which source, which layer: ranked by what would really be deployed, with intervals and ties.

    Parameters
    ----------
    sources : Source, address, or a sequence of them
        One that cannot be loaded or read is left out and named in ``.notes``.
    data : Dataset
        Training data; keep the test part out of it.
    layers : str or iterable of str
        As for :func:`headstart.extract`; ``"auto"`` are all candidates.
    budget : seconds, optional
        For the extraction. When the passes would take longer, sources are halved on growing samples of the data.
    balance : {"auto", "none", "logit", "weights"}
    target : str, optional
        Which column, where there are several.
    random_state : int
        Seeds the folds; recorded.

    Returns
    -------
    Ranking
        ``.rows``, ``.best``, ``.transfers``, ``.verdict``, ``.validate(k)``; print it for a table.

    Raises
    ------
    DataError
        Without targets, or when no source can be used.

    Notes
    -----
    Cost: one forward pass per item and source, then about a second. The first row is the best of many and so slightly
    too good: a test split says what it is worth.
    """
    begun = time.perf_counter()
    if not data.columns:
        raise DataError("rank() needs targets; this dataset has none.")
    column = _column(data, target)
    loaded, notes = _loaded(sources)
    how: dict[str, Any] = {"pooling": pooling, "store": store, "device": device}
    quick = partial(extract, layers=layers, **how)
    loaded = halved(loaded, data, budget, column=column.name, seed=random_state, notes=notes, extract=quick)
    banks = {}
    for source in loaded:
        try:
            wanted = [*source.select(layers), *_outputs(source)]
            banks[source] = extract(source, data, layers=wanted, **how)
        except HeadstartError as error:
            notes.append(f"{source.address} was left out: {error}")
    if not banks:
        raise DataError("No source could be ranked:\n" + "\n".join(notes))
    extracted = time.perf_counter()
    kept, T = _usable(data, column.name, list(banks.values()))
    names = {f"{i} {layer}": (source, layer) for i, source in enumerate(banks) for layer in source.select(layers)[::-1]}
    rows = {name: banks[source].rows(layer, kept) for name, (source, layer) in names.items()}
    groups = _groups(kept)
    few = _few(T, column.task, random_state)
    choice = choose(
        {name: X[few] for name, X in rows.items()}, T[few], task=column.task, balance=balance, fuse=True,
        groups=None if groups is None else groups[few], random_state=random_state,
    )  # fmt: skip
    found = _rows(names, rows, T, choice=choice, banks=banks, data=kept)
    transfers, baseline, verdict = _verdict(found, T[few], column.task, choice)
    notes += _fused(choice, names)
    cost = {"extract_seconds": extracted - begun, "seconds": time.perf_counter() - begun, "items": len(kept)}
    kind = {"task": column.task, "groups": groups, "seed": random_state}
    again = partial(validate, rows=rows, T=T, names=names, found=found, **kind)
    return Ranking(
        rows=tuple(found),
        verdict=verdict,
        transfers=transfers,
        metric=choice.metric,
        baseline=baseline,
        cost=cost,
        provenance={"random_state": random_state, "data": data.fingerprint, "target": column.name},
        notes=tuple(notes),
        skipped=tuple(one for bank in banks.values() for one in bank.skipped),
        _validate=again,
    )


def _column(data: Dataset, target: str | None) -> Any:
    if target is None and len(data.columns) == 1:
        return data.columns[0]
    for column in data.columns:
        if column.name == target:
            return column
    names = ", ".join(repr(c.name) for c in data.columns)
    raise OptionError(f"target= must be one of {names}; got {target!r}.")


def _loaded(sources: Source | str | Sequence[Source | str]) -> tuple[list[Source], list[str]]:
    several = [sources] if isinstance(sources, (str, Source)) else list(sources)
    loaded, notes = [], []
    for one in several:
        try:
            loaded.append(load_source(one))
        except HeadstartError as error:
            notes.append(f"{one} was left out: {error}")
    if not loaded:
        raise DataError("No source could be loaded:\n" + "\n".join(notes) if notes else "rank() needs a source.")
    return loaded, notes


def _outputs(source: Source) -> list[str]:
    """The source's own classifier output, for NCE and LEEP."""
    return ["output"] if source.classifier is not None and source.layers[-1].name == "output" else []


def _usable(data: Dataset, target: str, banks: list[FeatureBank]) -> tuple[Dataset, np.ndarray]:
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


def _rows(
    names: Mapping[str, tuple[Source, str]],
    rows: Mapping[str, np.ndarray],
    T: np.ndarray,
    *,
    choice: Choice,
    banks: Mapping[Source, FeatureBank],
    data: Dataset,
) -> list[Row]:
    best = {name: _best([t for t in choice.trials if t.candidates == (name,)]) for name in names}
    top = max((trial for trial in best.values() if trial is not None), key=lambda t: (t.score, -t.cost), default=None)
    own = {source: source_columns(source, bank, data, T=T, task=choice.task) for source, bank in banks.items()}
    found = []
    for name, (source, layer) in names.items():
        trial = best[name]
        place = source.layer(layer)
        found.append(
            Row(
                source.name,
                source.fingerprint,
                layer,
                depth=place.depth,
                accuracy=None if trial is None else trial.score,
                low=None if trial is None else trial.low,
                high=None if trial is None else trial.high,
                tied=trial is not None and top is not None and _tied(trial, top),
                macs=place.macs / 1e6,
                **columns_of(rows[name], T, task=choice.task, bank=banks[source], layer=place),
                **own[source],
            )
        )
    return sorted(found, key=lambda row: -(row.accuracy if row.accuracy is not None else -np.inf))


def _best(trials: Sequence[Trial]) -> Trial | None:
    return min(trials, key=lambda trial: trial.cost, default=None)


def _tied(trial: Trial, top: Trial) -> bool:
    difference = top.rows - trial.rows
    error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else 0.0
    return float(difference.mean()) <= _TIE * error


def _verdict(found: Sequence[Row], T: np.ndarray, task: str, choice: Choice) -> tuple[bool, float, str]:
    """Whether the best row is above what knowing nothing gives, with the luck of having tried many taken out."""
    best = found[0]
    if best.accuracy is None:
        return False, 0.0, "There are too few examples to hold any out: nothing can be said."
    name = f"{best.layer} of {best.source}"
    tied = sum(row.tied for row in found) - 1
    ties = f"; {tied} other rows cannot be told apart from it on {len(T)} examples" if tied else ""
    if task == "classification":
        shares = T.mean(0)
        baseline = float(1 / (shares > 0).sum() if choice.metric == "balanced_accuracy" else shares.max())
        error = np.sqrt(baseline * (1 - baseline) / len(T))
        transfers = bool(honest(choice.trials, T, choice.metric) > baseline + norm.ppf(1 - _LEVEL) * error)
        nothing = f"always saying the same gives {baseline:.3f}"
    else:
        baseline, error = _chance(T) if task == "multilabel" else (0.0, 0.0)
        luck = norm.ppf(1 - _LEVEL / max(len(choice.trials), 1)) * error  # the best of so many
        transfers = bool(best.low is not None and best.low > baseline and best.accuracy > baseline + luck)
        nothing = f"knowing nothing gives {baseline:.3f}"
    if not transfers:
        return False, baseline, f"Nothing transfers: the best row reaches {best.accuracy:.3f}, and {nothing}."
    return True, baseline, f"Use {name}: {best.accuracy:.3f} [{best.low:.3f}, {best.high:.3f}]; {nothing}{ties}."


def _groups(data: Dataset) -> np.ndarray | None:
    """The number of each item's group; an item without one is a group of its own."""
    if data.groups is None:
        return None
    numbers: dict[Any, int] = {}
    return np.array(
        [numbers.setdefault((i,) if g is None else (0, g), len(numbers)) for i, g in enumerate(data.groups)]
    )


def _few(T: np.ndarray, task: str, seed: int) -> Any:
    """Rows to choose and judge on: all, or so many of every class that it stays quick, in their order."""
    if len(T) <= MOST_ROWS:
        return slice(None)
    labels = T.argmax(1) if task == "classification" else np.zeros(len(T))
    order = np.lexsort((np.random.default_rng(seed).permutation(len(T)), labels))
    return np.sort(order[np.linspace(0, len(T) - 1, MOST_ROWS).astype(int)])


def _chance(T: np.ndarray) -> tuple[float, float]:
    """Mean average precision of random orders: expected (more than the labels' share on few rows), and its spread."""
    n = len(T)
    T = T[:, (T.sum(0) > 0) & (T.sum(0) < n)]
    if not T.shape[1]:
        return 0.0, 0.0
    first = (1 / np.arange(1, n + 1)).mean()
    expected = float((first + (T.sum(0) - 1) / (n - 1) * (1 - first)).mean())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_ORDERS):
        hits = T[rng.permutation(n)]
        precision = hits.cumsum(0) / np.arange(1, n + 1)[:, None]
        drawn.append(((precision * hits).sum(0) / hits.sum(0)).mean())
    return expected, float(np.std(drawn, ddof=1))


def honest(trials: Sequence[Trial], T: np.ndarray, metric: str) -> float:
    """Score of the best setting without the luck of choosing it: chosen on one half of the examples, scored on another.

    The mean over both directions of several random halvings. With labels that mean nothing it is near chance, while the
    best of hundreds of settings is not.
    """
    rows = np.stack([trial.rows for trial in trials]).astype(np.float64)
    counts = T.sum(0)
    weight = (T / np.maximum(counts, 1)).sum(1) if metric == "balanced_accuracy" else np.ones(len(T))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_HALVINGS):
        half = rng.permutation(len(T)) % 2 == 0
        for chosen, scored in ((half, ~half), (~half, half)):
            means = rows[:, chosen] @ weight[chosen] / weight[chosen].sum()
            at = int(np.argmax(means))
            found.append(rows[at, scored] @ weight[scored] / weight[scored].sum())
    return float(np.mean(found))


def _fused(choice: Choice, names: Mapping[str, tuple[Source, str]]) -> list[str]:
    """A note on the best layers together, where they were tried."""
    fused = [trial for trial in choice.trials if len(trial.candidates) > 1]
    best = _best(fused)
    if best is None:
        return []
    several = len({id(source) for source, _ in names.values()}) > 1
    parts = [f"{names[c][0].name}/{names[c][1]}" if several else names[c][1] for c in best.candidates]
    return [f"Together, {' + '.join(parts)} reach {best.score:.3f} [{best.low:.3f}, {best.high:.3f}]."]
