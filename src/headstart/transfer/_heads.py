"""Classification, multilabel and regression: rows of every candidate layer, then layers and head by validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._together import main_first
from headstart.dataset import Target
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError, OptionError
from headstart.extraction import extract
from headstart.heads.base import HEADS
from headstart.predictor import TargetModel, is_passthrough
from headstart.transfer._select import Candidates, check_targets_vary, select_for_target
from headstart.transfer._tasks import FitConfig, FitResult, TaskFitter


def _check(job: FitConfig, columns: Sequence[Target]) -> None:
    kind = HEADS[job.head] if isinstance(job.head, str) and job.head != "auto" else job.head  # or it is unknown
    if job.exact and (job.balance == "weights" or not getattr(kind, "from_moments", True)):
        able = ", ".join(name for name in HEADS if HEADS[name].from_moments)
        raise OptionError(
            f"exact=True solves the head from moments: the heads {able} allow it, and balance='logit' or 'none'."
        )
    for column in columns:
        check_targets_vary(column.name, column)


def _fit(job: FitConfig, columns: Sequence[Target]) -> FitResult:
    begun = time.perf_counter()
    candidates, choices = main_first(lambda: extracted(job))
    read = time.perf_counter()
    answers: list[TargetModel] = []
    tables: dict[str, Any] = {}
    fuse = job.layers == "auto" or len(job.sources) > 1
    names = {column.name for column in columns}
    for column in (c for c in candidates.data.columns if c.name in names):
        answer, tables[column.name] = select_for_target(
            candidates, column, head=job.head, balance=job.balance, fuse=fuse, exact=job.exact, random_state=job.seed
        )
        answers.append(answer)
    seconds = {"extract": round(read - begun, 3), "heads": round(time.perf_counter() - read, 3)}
    return FitResult(tuple(answers), tables, candidates.data, choices, seconds, candidates=candidates)


def extracted(job: FitConfig) -> tuple[Candidates, tuple[RuntimeConfig, ...]]:
    """Rows of every candidate layer of every source, for the items that all of them can read."""
    asked: dict[str, Any] = {"layers": job.layers, "pooling": job.pooling, **job.how}
    banks = [extract(one, job.data, store=False if is_passthrough(one) else job.store, **asked) for one in job.sources]
    data = job.data
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
    left_out = tuple(skipped[i] for i in sorted(skipped))
    return Candidates(job.sources, kept, rows, poolings, left_out), tuple(bank.choice for bank in banks)


FITTER = TaskFitter(_check, _fit, tunes=True)
