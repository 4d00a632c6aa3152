"""rank(): one extraction pass per source for all candidate layers, then everything from the rows that are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headstart.bank import FeatureBank
from headstart.dataset import Dataset, need_targets
from headstart.dataset._splitting import seed_of
from headstart.errors import DataError, HeadstartError, OptionError
from headstart.extraction import extract
from headstart.heads.auto import MOST_ROWS, select_head
from headstart.heads.base import Head
from headstart.ranking._halving import halved
from headstart.ranking._prepare import column_of, few, loaded, outputs, usable
from headstart.ranking._rows import Pairing, fusion, rows_of, ties_in_words
from headstart.ranking._shared import sharing
from headstart.ranking._validate import validate
from headstart.ranking._verdict import verdict
from headstart.result import Ranking
from headstart.sources.base import Source


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
    need_targets(data, "rank")
    if budget is not None and not budget > 0:
        raise OptionError(f"budget must be seconds > 0, or None; got {budget!r}.")
    random_state = seed_of(random_state)
    column = column_of(data, target)
    layers = layers if isinstance(layers, str) else tuple(layers)
    found_sources, notes = loaded(sources)
    how: dict[str, Any] = {"pooling": pooling, "store": store, "device": device}
    quick = partial(extract, layers=layers, **how)
    tried = halved(found_sources, data, budget, column=column.name, seed=random_state, notes=notes, extract=quick)
    banks = _banks(tried, data, layers, how, notes=notes)
    extracted = time.perf_counter()
    kept, T = usable(data, column.name, list(banks.values()))
    names = {f"{i} {layer}": (source, layer) for i, source in enumerate(banks) for layer in source.select(layers)[::-1]}
    rows = {name: banks[source].rows(layer, kept) for name, (source, layer) in names.items()}
    groups = kept.group_numbers
    judged = few(T, column.task, random_state, MOST_ROWS)
    some, truth = {name: X[judged] for name, X in rows.items()}, T[judged]
    part = None if groups is None else groups[judged]
    choice = select_head(
        some, truth, task=column.task, heads=head, balance=balance, fuse=True, groups=part, random_state=random_state
    )
    pairing = Pairing.of(choice, truth)
    found = rows_of(names, rows, T, choice=choice, pairing=pairing, banks=banks, data=kept)
    transfers, baseline, sentence = verdict(found, some, truth, choice=choice, groups=part)
    if transfers:
        sentence = f"{sentence} {ties_in_words(found, len(truth))}".rstrip()
    shared = sharing(names, some, truth, banks=banks, best=found[0], task=column.task)
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


def _banks(
    sources: Sequence[Source], data: Dataset, layers: Any, how: dict[str, Any], *, notes: list[str]
) -> dict[Source, FeatureBank]:
    """Source → its features, one pass each; a source that fails is noted and left out."""
    banks = {}
    for source in sources:
        try:
            banks[source] = extract(source, data, layers=[*source.select(layers), *outputs(source)], **how)
        except HeadstartError as error:
            notes.append(f"{source.address} was left out: {error}")
    if not banks:
        raise DataError("No source could be ranked:\n" + "\n".join(notes))
    return banks
