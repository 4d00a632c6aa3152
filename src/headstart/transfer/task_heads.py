"""Classification, multilabel and regression: rows of every candidate layer, then layers and head by validation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import SkippedItem
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError, OptionError
from headstart.extraction.extract import extract
from headstart.extraction.features import FeatureSpec, LayerKey, is_passthrough
from headstart.heads.base import HEADS, Head
from headstart.moments.exact_sums import ExactSums
from headstart.predictor.target_model import HEAD_MODELS, HeadModel, TargetModel
from headstart.selection.cross_validation import complete_results
from headstart.selection.search import Selection, select_head
from headstart.sources.base import Source, display_names
from headstart.training.distributed import main_first
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter

# ---- Which layers, which head: chosen by cross-validation on the rows at hand. Never on anything held out. ----


_FIRST = 256  # rows that usually tell already that features vary


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
    rows: Mapping[LayerKey, np.ndarray]
    poolings: Mapping[LayerKey, str]
    skipped: tuple[SkippedItem, ...] = ()

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

    def part(self, place: LayerKey) -> FeatureSpec:
        """A candidate as a part of an answer."""
        return FeatureSpec(place[0], place[1], self.poolings[place])

    def deepest_first(self) -> list[LayerKey]:
        """All candidates; of equals the first is chosen, and deeper layers are the usual choice."""
        order = {(i, layer.name): -layer.macs for i, s in enumerate(self.sources) for layer in s.layers}
        return sorted(self.rows, key=lambda place: (place[0], order.get(place, 0)))

    def label(self, place: LayerKey) -> str:
        """How a candidate is called in tables: the layer, with its source when several."""
        if len(self.sources) == 1:
            return place[1]
        return f"{display_names(self.sources)[place[0]]}/{place[1]}"


def select_for_target(
    candidates: Candidates,
    column: Target,
    *,
    head: str | Head,
    balance: str,
    fuse: bool,
    random_state: int,
    exact: bool = False,
) -> tuple[TargetModel, dict[str, Any]]:
    """The best layers and head for one target column, fitted on all labelled items, and what it was chosen from."""
    labelled, T = candidates.labelled(column.name)
    check_targets_vary(column.name, labelled.data.columns[candidates.data.columns.index(column)])
    names = {labelled.label(place): place for place in labelled.deepest_first()}
    rows = _drop_constant_layers({name: labelled.rows[place] for name, place in names.items()})
    choice = select_head(
        rows,
        T,
        task=column.task,
        groups=labelled.data.group_ids,
        heads=head,
        balance=balance,
        fuse=fuse,
        from_moments=exact,
        random_state=random_state,
    )
    counts = None if column.classes is None else dict(zip(column.classes, T.sum(0).astype(int).tolist()))
    parts = tuple(labelled.part(names[name]) for name in choice.candidates)
    answer = HEAD_MODELS[column.task](column.name, parts, choice.fit(rows, T), column.classes, choice.log_odds, counts)
    if exact:
        answer = _solved(answer, labelled, T)
    return answer, {**_table(choice), **_kept(choice, answer.head, rows)}


def _solved(answer: HeadModel, labelled: Candidates, T: np.ndarray) -> HeadModel:
    """The same head, solved from exact moments, which it keeps."""
    keys = [key or b"" for key in labelled.data.keys()]
    ledger = ExactSums.from_rows(answer.features(labelled.rows), T, keys, regression=answer.task == "regression")
    try:
        return answer.solve(ledger)
    except OptionError as error:
        raise OptionError(f"exact=True solves the head from moments, which does not do here: {error}") from error


def _kept(choice: Selection, fitted: Head, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How many features of each layer a head that selects has kept."""
    kept = choice.selected_counts(fitted, rows)
    if kept is None:
        return {}
    table = [
        {"layer": name, "kept": count, "features": rows[name].shape[1]}
        for name, count in zip(choice.candidates, kept, strict=True)
    ]
    told = ", ".join(f"{one['kept']:,} of {one['features']:,} of {one['layer']}" for one in table)
    note(f"Features kept by {choice.name}: {told}.")
    return {"kept": table}


def check_targets_vary(name: str, column: Target) -> None:
    """There must be something to tell apart.

    Raises
    ------
    DataError
        When all labels are the same class, or there are none, or a single number.
    """
    given = [value for value in column.values if value is not None]
    if not given:
        raise DataError(f"No item has a label in {name!r}.")
    if column.task == "classification" and len(set(given)) < 2:
        raise DataError(
            f"All {len(given):,} labelled items of {name!r} are of one class, {given[0]!r}: there is nothing to tell "
            "it from. Add items of another class."
        )
    if column.task == "multilabel" and not any(given):
        raise DataError(f"None of the {len(given):,} labelled items of {name!r} has any label of its own.")
    if column.task == "regression" and len(given) < 2:
        raise DataError(f"Regression needs at least 2 labelled items; {name!r} has 1 sample.")


def _drop_constant_layers(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The candidates whose features differ between items: a dead layer is no reason to stop."""
    alive = {name: X for name, X in rows.items() if np.ptp(X[:_FIRST], axis=0).any() or np.ptp(X, axis=0).any()}
    if not alive:
        raise DataError(
            f"All items have the same features at {', '.join(list(rows)[:5])}: there is nothing to learn from. "
            "Choose other layers, or another source."
        )
    if len(alive) < len(rows):
        dead = [name for name in rows if name not in alive]
        note(f"Features are the same for all items at {', '.join(dead)}; left out.")
    return alive


def _table(choice: Selection) -> dict[str, Any]:
    """What was chosen, and the best trial of every other combination of layers, as plain data, the best first."""
    best: dict[tuple[str, ...], Any] = {}
    for trial in complete_results(choice.trials):
        if trial.candidates not in best or trial.mean_loss < best[trial.candidates].mean_loss:
            best[trial.candidates] = trial
    chosen = (choice.candidates, choice.name, choice.fields)
    best |= {t.candidates: t for t in choice.trials if (t.candidates, t.head, t.fields) == chosen}
    shown = sorted(best.values(), key=lambda trial: trial.mean_loss)
    return {
        "layers": " + ".join(choice.candidates),
        "head": choice.name,
        "fields": dict(choice.fields),
        "metric": choice.metric,
        "score": _rounded(choice.score),
        "low": _rounded(choice.low),
        "high": _rounded(choice.high),
        "reason": choice.reason,
        "balance": {"kind": choice.balance.kind, "metric": choice.balance.metric, "reason": choice.balance.reason},
        "table": [
            {
                "layers": " + ".join(trial.candidates),
                "head": trial.head,
                "score": _rounded(trial.score),
                "low": _rounded(trial.low),
                "high": _rounded(trial.high),
            }
            for trial in shown
        ],
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


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
    asked: dict[str, Any] = {"layers": job.layers, "pooling": job.pooling, **job.extract_options}
    banks = [extract(one, job.data, store=False if is_passthrough(one) else job.store, **asked) for one in job.sources]
    data = job.data
    there = np.ones(len(data), dtype=bool)
    for bank in banks:
        there &= bank.keep(data)
    kept = data if there.all() else data.take(np.flatnonzero(there))
    skipped = {one.position: one for bank in banks for one in bank.skipped}
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


FITTER = TaskFitter(_check, _fit, supports_finetuning=True)
