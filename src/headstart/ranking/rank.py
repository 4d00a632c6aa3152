"""rank(): one extraction pass per source for all candidate layers, then everything from the rows that are there."""

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
from headstart.errors import DataError, HeadstartError, OptionError
from headstart.extraction.extract import extract
from headstart.heads.base import Head
from headstart.ranking.candidates import classifier_layers, load_sources, subsample, target_column, usable_items
from headstart.ranking.similarity import compare_with_sources
from headstart.ranking.table import Pairing, describe_ties, fusion, ranking_rows
from headstart.ranking.validate import validate
from headstart.ranking.verdict import verdict
from headstart.result.ranking import Ranking
from headstart.selection.search import MOST_ROWS, select_head
from headstart.sources.base import Source, display_names

# Successive halving: many sources, little time. All are tried on a small sample, the better half on a larger
# one, …


_FEWEST = 60


def successive_halving(
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
    """(cross-validated score of the best candidate, seconds per item)."""
    kept = sample.take(np.flatnonzero(bank.keep(sample)))
    target: Any = next(c for c in kept.columns if c.name == column)
    T = target.matrix()
    there = np.flatnonzero(~np.isnan(T).any(1))
    rows = {name: bank.rows(name, kept)[there] for name in bank.layers}
    choice = select_head(rows, T[there], task=target.task, heads=["ridge"], random_state=seed)
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
    """Which source, which layer: ranked by what would really be deployed, with intervals and ties.

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
    too good: a test split says what it is worth.
    """
    begun = time.perf_counter()
    check_has_targets(data, "rank")
    if budget is not None and not budget > 0:
        raise OptionError(f"budget must be seconds > 0, or None; got {budget!r}.")
    random_state = resolve_seed(random_state)
    column = target_column(data, target)
    layers = layers if isinstance(layers, str) else tuple(layers)
    found_sources, notes = load_sources(sources)
    how: dict[str, Any] = {"pooling": pooling, "store": store, "device": device}
    quick = partial(extract, layers=layers, **how)
    tried = successive_halving(
        found_sources, data, budget, column=column.name, seed=random_state, notes=notes, extract=quick
    )
    banks = _extract_each(tried, data, layers, how, notes=notes)
    extracted = time.perf_counter()
    kept, T = usable_items(data, column.name, list(banks.values()))
    names = {f"{i} {layer}": (source, layer) for i, source in enumerate(banks) for layer in source.select(layers)[::-1]}
    rows = {name: banks[source].rows(layer, kept) for name, (source, layer) in names.items()}
    groups = kept.group_ids
    judged = subsample(T, column.task, random_state, MOST_ROWS)
    some, truth = {name: X[judged] for name, X in rows.items()}, T[judged]
    part = None if groups is None else groups[judged]
    choice = select_head(
        some, truth, task=column.task, heads=head, balance=balance, fuse=True, groups=part, random_state=random_state
    )
    pairing = Pairing.of(choice, truth)
    found = ranking_rows(names, rows, T, choice=choice, pairing=pairing, banks=banks, data=kept)
    transfers, baseline, sentence = verdict(found, some, truth, choice=choice, groups=part)
    if transfers:
        sentence = f"{sentence} {describe_ties(found, len(truth))}".rstrip()
    shared = compare_with_sources(names, some, truth, banks=banks, best=found[0], task=column.task)
    cost = {"extract_seconds": extracted - begun, "seconds": time.perf_counter() - begun, "items": len(kept)}
    again = partial(
        validate, rows=rows, T=T, names=names, task=column.task, found=found, seed=random_state, groups=groups,
        data=kept, column=column.name, head=head,
    )  # fmt: skip
    return Ranking(
        rows=tuple(found),
        verdict=sentence,
        transfers=transfers,
        metric=choice.metric,
        baseline=baseline,
        fused=fusion(choice, names, pairing, rows=some, T=truth),
        shared=shared,
        cost=cost,
        provenance={"random_state": random_state, "data": data.fingerprint, "target": column.name},
        notes=tuple(notes),
        skipped=tuple(one for bank in banks.values() for one in bank.skipped),
        _validate=again,
    )


def _extract_each(
    sources: Sequence[Source], data: Dataset, layers: Any, how: dict[str, Any], *, notes: list[str]
) -> dict[Source, FeatureBank]:
    """Source → its features, one pass each; a source that fails is noted and left out."""
    banks = {}
    for source in sources:
        try:
            banks[source] = extract(source, data, layers=[*source.select(layers), *classifier_layers(source)], **how)
        except HeadstartError as error:
            notes.append(f"{source.address} was left out: {error}")
    if not banks:
        raise DataError("No source could be ranked:\n" + "\n".join(notes))
    return banks
