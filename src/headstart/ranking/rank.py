"""rank(): one extraction pass per source for all candidate layers, then every score from the extracted rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset, check_has_targets
from headstart.dataset.splits import resolve_seed
from headstart.dataset.targets import Target
from headstart.errors import DataError, HeadstartError, OptionError
from headstart.extraction.extract import extract
from headstart.heads.base import Head
from headstart.ranking.similarity import compare_with_sources
from headstart.ranking.table import Pairing, describe_ties, fusion, ranking_rows, subsample
from headstart.ranking.validate import validate
from headstart.ranking.verdict import verdict
from headstart.result.ranking import Ranking
from headstart.selection.search import MOST_ROWS, select_head
from headstart.sources.base import Source, display_names, load_source

_MIN_SAMPLE = 60  # items of the smallest sample of successive halving


def successive_halving(
    sources: list[Source], data: Dataset, budget: float | None, *, column: str, seed: int, notes: list[str],
    extract: Callable[[Source, Dataset], FeatureBank],
) -> list[Source]:  # fmt: skip
    """Return the sources worth a full pass: all on a small sample, the better half on one twice as large, and so on.

    All of them without a budget, or as soon as it suffices.
    """
    if budget is None or len(sources) < 3:
        return sources
    titles = dict(zip(sources, display_names(sources), strict=True))
    size = max(_MIN_SAMPLE, len(data) // 2 ** int(np.ceil(np.log2(len(sources)))))
    while len(sources) > 1 and size < len(data):
        sample = data.sample(n=size, random_state=seed)
        scored = []
        seconds = 0.0
        for source in sources:
            try:
                score, per_item = _score_on_sample(extract(source, sample), sample, column, seed)
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


def _score_on_sample(bank: FeatureBank, sample: Dataset, column: str, seed: int) -> tuple[float, float]:
    """Return (cross-validated score of the best candidate, seconds per item)."""
    readable = sample.take(np.flatnonzero(bank.keep(sample)))
    target = target_column(readable, column)
    T = target.matrix()
    labelled = np.flatnonzero(~np.isnan(T).any(1))
    rows = {name: bank.rows(name, readable)[labelled] for name in bank.layers}
    choice = select_head(rows, T[labelled], task=target.task, heads=["ridge"], random_state=seed)
    per_item = 1 / bank.runtime.speed if bank.runtime.speed else bank.seconds["total"] / max(len(sample), 1)
    return choice.score, per_item


def rank(
    sources: Source | str | Sequence[Source | str],
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    head: str | Head = "auto",
    pooling: str = "auto",
    budget: float | None = None,
    balance: str = "auto",
    target: str | None = None,
    store: str | Path | None = None,
    random_state: int = 0,
    device: str = "auto",
) -> Ranking:
    """Rank sources and layers by the score of the head that would be deployed, with intervals and ties.

    Parameters
    ----------
    sources : Source, address, or a sequence of them
        One that cannot be loaded or read is left out and named in ``.notes``.
    data : Dataset
        Training data; keep the test part out of it.
    layers : str or iterable of str
        As for :func:`headstart.extract`; ``"auto"`` are all candidates.
    head : str or Head
        What would be deployed, as for :func:`headstart.fit`. With ``"group_lasso"`` the ranking says how many features
        of each layer are kept side by side.
    budget : seconds, optional
        For the extraction. When the passes would take longer, sources are halved on growing samples of the data.
    balance : {"auto", "none", "logit", "weights"}
    target : str, optional
        Which column, where there are several.
    random_state : int, Generator or None
        Seeds the folds; the seed is recorded in ``provenance``.

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
    too good: evaluate it on a test set.
    """
    started = time.perf_counter()
    check_has_targets(data, "rank")
    if budget is not None and not budget > 0:
        raise OptionError(f"budget must be seconds > 0, or None; got {budget!r}.")
    seed = resolve_seed(random_state)
    column = target_column(data, target)
    layers = layers if isinstance(layers, str) else tuple(layers)
    loaded, notes = load_sources(sources)
    options: dict[str, Any] = {"pooling": pooling, "store": store, "device": device}
    extract_layers = partial(extract, layers=layers, **options)
    selected = successive_halving(
        loaded, data, budget, column=column.name, seed=seed, notes=notes, extract=extract_layers
    )
    banks = _extract_each(selected, data, layers, options, notes=notes)
    extracted = time.perf_counter()
    usable, T = usable_items(data, column.name, list(banks.values()))
    names: dict[str, tuple[Source, str]] = {}
    for i, source in enumerate(banks):
        names |= {f"{i} {layer}": (source, layer) for layer in source.select(layers)[::-1]}
    rows = {name: banks[source].rows(layer, usable) for name, (source, layer) in names.items()}
    groups = usable.group_ids
    index = subsample(T, column.task, seed, MOST_ROWS)
    sample_rows, sample_T = {name: X[index] for name, X in rows.items()}, T[index]
    sample_groups = None if groups is None else groups[index]
    choice = select_head(
        sample_rows, sample_T, task=column.task, heads=head, balance=balance, fuse=True, groups=sample_groups,
        random_state=seed,
    )  # fmt: skip
    pairing = Pairing.of(choice, sample_T)
    ranked = ranking_rows(names, rows, T, choice=choice, pairing=pairing, banks=banks, data=usable)
    transfers, baseline, sentence = verdict(ranked, sample_rows, sample_T, choice=choice, groups=sample_groups)
    if transfers:
        sentence = f"{sentence} {describe_ties(ranked, len(sample_T))}".rstrip()
    shared = compare_with_sources(names, sample_rows, sample_T, banks=banks, best=ranked[0], task=column.task)
    cost = {"extract_seconds": extracted - started, "seconds": time.perf_counter() - started, "items": len(usable)}
    validator = partial(
        validate, rows=rows, T=T, names=names, task=column.task, ranked=ranked, seed=seed, groups=groups,
        data=usable, column=column.name, head=head,
    )  # fmt: skip
    return Ranking(
        rows=tuple(ranked),
        verdict=sentence,
        transfers=transfers,
        metric=choice.metric,
        baseline=baseline,
        fused=fusion(choice, names, pairing, rows=sample_rows, T=sample_T),
        shared=shared,
        cost=cost,
        provenance={"random_state": seed, "data": data.fingerprint, "target": column.name},
        notes=tuple(notes),
        skipped=tuple(item for bank in banks.values() for item in bank.skipped),
        _validate=validator,
    )


def target_column(data: Dataset, target: str | None) -> Target:
    """Return the target column of that name, or the only one."""
    if target is None and len(data.columns) == 1:
        return data.columns[0]
    for column in data.columns:
        if column.name == target:
            return column
    names = ", ".join(repr(c.name) for c in data.columns)
    raise OptionError(f"target= must be one of {names}; got {target!r}.")


def load_sources(sources: Source | str | Sequence[Source | str]) -> tuple[list[Source], list[str]]:
    """Return the sources that can be loaded, each once, and a note on every other."""
    requested = [sources] if isinstance(sources, (str, Source)) else list(sources)
    loaded: dict[str, Source] = {}
    notes = []
    for address in requested:
        try:
            source = load_source(address)
            loaded.setdefault(source.fingerprint, source)
        except HeadstartError as error:
            notes.append(f"{address} was left out: {error}")
    if not loaded:
        raise DataError("No source could be loaded:\n" + "\n".join(notes) if notes else "rank() needs a source.")
    return list(loaded.values()), notes


def classifier_layers(source: Source) -> list[str]:
    """Return the name of the source's classifier output, for NCE and LEEP."""
    return ["output"] if source.classifier is not None and source.layers[-1].name == "output" else []


def usable_items(data: Dataset, target: str, banks: list[FeatureBank]) -> tuple[Dataset, np.ndarray]:
    """Return the items that every source can read and that have a label, and their targets (n, t)."""
    usable = np.ones(len(data), dtype=bool)
    for bank in banks:
        usable &= bank.keep(data)
    T = target_column(data, target).matrix()
    usable &= ~np.isnan(T).any(1)
    if not usable.any():
        raise DataError(f"No item can be read by all sources and has a label in {target!r}.")
    if not usable.all():
        note(f"{int((~usable).sum())} of {len(data)} items cannot be read or have no label and are left out.")
        data = data.take(np.flatnonzero(usable))
    return data, T[usable]


def _extract_each(
    sources: Sequence[Source], data: Dataset, layers: str | Iterable[str], options: dict[str, Any], *, notes: list[str]
) -> dict[Source, FeatureBank]:
    """Extract every source, one pass each; a source that fails is noted and left out."""
    banks = {}
    for source in sources:
        try:
            banks[source] = extract(
                source, data, layers=[*source.select(layers), *classifier_layers(source)], **options
            )
        except HeadstartError as error:
            notes.append(f"{source.address} was left out: {error}")
    if not banks:
        raise DataError("No source could be ranked:\n" + "\n".join(notes))
    return banks
