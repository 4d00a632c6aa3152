"""fit(): the main job. Extract once, choose layers and head by cross-validation, fine-tune when asked. Floor 6."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headstart import _extras
from headstart._progress import note
from headstart._registry import unknown
from headstart.dataset import Dataset
from headstart.dataset._splitting import seed_of
from headstart.engines.base import Choice
from headstart.errors import DataError, OptionError, UnknownName
from headstart.extraction import extract
from headstart.heads.base import HEADS, Head
from headstart.imbalance import BALANCES
from headstart.policies.base import Policy
from headstart.policies.base import policy as policy_named
from headstart.predictor import Answer, Predictor, raw
from headstart.sources.base import Source, load_source
from headstart.transfer._select import Candidates, need_contrast, select
from headstart.transfer._tuned import tuned

_VERSIONS = ("headstart", "torch", "numpy", "scikit-learn", "timm", "transformers", "keras")


def fit(
    source: Source | str | Sequence[Source | str],
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    head: str | Head = "auto",
    policy: str | Policy = "auto",
    balance: str = "auto",
    budget: float | None = None,
    pooling: str = "auto",
    guard: bool = True,
    store: str | Path | None = None,
    engine: str = "auto",
    precision: str = "auto",
    on_error: str | None = None,
    random_state: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
) -> Predictor:
    """Fit a predictor on features of a source (or several).

    Parameters
    ----------
    source : Source, address, or a sequence of them
    data : Dataset
        With one target column or several. Items without a label, or that cannot be read, are left out and reported.
    layers : str or iterable of str
        As for :func:`headstart.extract`. With ``"auto"`` the best layer, or the best few together, is chosen by
        cross-validation on this data.
    head : str or Head
        ``"auto"`` chooses by cross-validation; a name (``"ridge"``, ``"lda"``, ``"logistic"``, ``"knn"``,
        ``"nearest_centroid"``) or ``head("ridge", alpha=1.0)`` fixes it.
    policy : str or Policy
        ``"frozen"`` trains nothing; others fine-tune, starting from the solved head. ``"auto"`` is ``"frozen"``
        without a budget, and with one fine-tunes when that fits and pays.
    balance : {"auto", "none", "logit", "weights"}
        What to do about uneven classes; one meaning everywhere (see :mod:`headstart.imbalance`).
    budget : seconds, optional
        For fine-tuning.
    guard : bool
        True returns the best on validation of frozen, tuned and their average; False the tuned one, whatever it is
        worth.
    random_state : int, Generator or None
        Seeds folds, order and everything else; the seed is recorded in ``provenance``.

    Returns
    -------
    Predictor

    Raises
    ------
    DataError
        Without targets, or with too little to learn from.

    Notes
    -----
    Cost: one forward pass per item (none for those in the bank), then seconds for heads; fine-tuning as its plan says.
    """
    begun = time.perf_counter()
    seed = seed_of(random_state)
    chosen_policy = policy_named(_policy(policy, budget))
    _check(data, head, balance)
    sources = _sources(source)
    layers = layers if isinstance(layers, str) else tuple(layers)
    how = {"engine": engine, "precision": precision, "on_error": on_error, "device": device}
    candidates, choices = _extracted(sources, data, layers, pooling, store=store, **how)
    extracted = time.perf_counter()
    answers: list[Answer] = []
    tables: dict[str, Any] = {}
    for column in candidates.data.columns:
        answer, tables[column.name] = select(
            candidates, column, head=head, balance=balance, fuse=_may_fuse(layers, sources), random_state=seed
        )
        answers.append(answer)
    solved = time.perf_counter()
    seconds = {"extract": round(extracted - begun, 3), "heads": round(solved - extracted, 3)}
    predictor = Predictor(
        sources=tuple(sources),
        answers=tuple(answers),
        choices=tuple(choices),
        chosen={"selection": tables, "policy": "frozen", "seconds": seconds},
        provenance={**_provenance(sources, data, seed), "precision": precision},
        trained_on=frozenset(key[:8] for key in candidates.data.keys() if key is not None),
    )
    if chosen_policy.name == "frozen":
        return predictor
    return tuned(
        predictor, candidates, chosen_policy, guard=guard, budget=budget, seed=seed,
        device=device, checkpoint=Path(checkpoint) if checkpoint else None,
    )  # fmt: skip


def _sources(source: Source | str | Sequence[Source | str]) -> list[Source]:
    several = [source] if isinstance(source, (str, Source)) else list(source)
    if not several:
        raise OptionError("fit() needs at least one source.")
    return [load_source(one) for one in several]


def _check(data: Any, head: str | Head, balance: str) -> None:
    """What can be refused before any feature is computed."""
    if not isinstance(data, Dataset):
        raise DataError(
            f"fit() takes a Dataset; got {type(data).__name__}. Make one with Dataset.from_folder(PATH), "
            "Dataset.from_table(PATH, target=NAME) or Dataset.from_arrays(X, y)."
        )
    if not data.columns:
        raise DataError("fit() needs targets; this dataset has none.")
    if isinstance(head, str) and head != "auto":
        HEADS[head]
    if not BALANCES.allows(balance):
        raise UnknownName(unknown("values of balance", balance, list(BALANCES.names)))
    for column in data.columns:
        need_contrast(column.name, column)


def _policy(policy: str | Policy, budget: float | None) -> str | Policy:
    if policy != "auto":
        return policy
    return "frozen" if budget is None else "last_layers"


def _may_fuse(layers: str | Iterable[str], sources: Sequence[Source]) -> bool:
    return layers == "auto" or len(sources) > 1


def _extracted(
    sources: list[Source], data: Dataset, layers: Any, pooling: str, *, store: Any, **how: Any
) -> tuple[Candidates, list[Choice]]:
    """Rows of every candidate layer of every source, for the items that all of them can read."""
    banks = [
        extract(one, data, layers=layers, pooling=pooling, store=False if raw(one) else store, **how) for one in sources
    ]
    there = np.ones(len(data), dtype=bool)
    for bank in banks:
        there &= bank.keep(data)
    kept = data if there.all() else data.take(np.flatnonzero(there))
    skipped = {one.index: one for bank in banks for one in bank.skipped}
    if len(kept) == 0:
        raise DataError("None of the items can be read.")
    if skipped:
        note(f"{len(skipped)} of {len(data)} items are left out of training.")
    rows, poolings = {}, {}
    for index, bank in enumerate(banks):
        for layer in bank.layers:
            rows[index, layer] = bank.rows(layer, kept)
            poolings[index, layer] = bank.recipe[layer]["pooling"]
    return Candidates(tuple(sources), kept, rows, poolings, tuple(skipped[i] for i in sorted(skipped))), [
        bank.choice for bank in banks
    ]


def _provenance(sources: Sequence[Source], data: Dataset, seed: int) -> dict[str, Any]:
    return {
        "random_state": seed,
        "train": data.fingerprint,
        "items": len(data),
        "sources": [{"address": s.address, "fingerprint": s.fingerprint, **dict(s.meta)} for s in sources],
        "versions": dict(_versions()),
    }


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    """Looked up once: a search through the installed packages takes longer than a small fit."""
    found = [(name, v) for name in _VERSIONS if (v := _extras.installed_version(name))]
    return (*found, ("python", sys.version.partition(" ")[0]))
