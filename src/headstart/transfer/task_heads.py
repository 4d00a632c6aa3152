"""Classification, multilabel and regression: rows of every candidate layer, then layers and head by validation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart.dataset.targets import Target
from headstart.errors import DataError, OptionError
from headstart.extraction.features import ExtractOptions, FeatureSet, extract_all
from headstart.heads.base import HEADS, Head
from headstart.moments.exact_sums import ExactSums
from headstart.predictor.target_model import HEAD_MODELS, HeadModel, TargetModel
from headstart.selection.cross_validation import complete_results
from headstart.selection.search import Selection, select_head
from headstart.training.distributed import main_first
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter, check_any_left

_FIRST = 256  # rows that usually tell already that features vary


def select_for_target(
    candidates: FeatureSet,
    column: Target,
    *,
    head: str | Head,
    balance: str,
    fuse: bool,
    random_state: int,
    exact: bool = False,
) -> tuple[TargetModel, dict[str, Any]]:
    """Choose layers and head for one target column, and fit them on all labelled items.

    Returns the model, and what it was chosen from as plain data.
    """
    labelled, T = candidates.labelled(column.name)
    check_targets_vary(column.name, labelled.data.columns[candidates.data.columns.index(column)])
    names = {labelled.display_name(key): key for key in labelled.deepest_first()}
    rows = _drop_constant_layers({name: labelled.rows[key] for name, key in names.items()})
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
    specs = tuple(labelled.specs[names[name]] for name in choice.candidates)
    model = HEAD_MODELS[column.task](column.name, specs, choice.fit(rows, T), column.classes, choice.log_odds, counts)
    if exact:
        model = _solve_exactly(model, labelled, T)
    return model, {**_table(choice), **_count_selected(choice, model.head, rows)}


def _solve_exactly(model: HeadModel, labelled: FeatureSet, T: np.ndarray) -> HeadModel:
    """The same head, solved from exact moments, which it keeps."""
    keys = [key or b"" for key in labelled.data.keys()]
    exact_sums = ExactSums.from_rows(model.features(labelled.rows), T, keys, regression=model.task == "regression")
    try:
        return model.solve(exact_sums)
    except OptionError as error:
        raise OptionError(f"exact=True solves the head from moments, which does not do here: {error}") from error


def _count_selected(choice: Selection, fitted: Head, rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Count the features of each layer that a selecting head uses; nothing for other heads."""
    selected = choice.selected_counts(fitted, rows)
    if selected is None:
        return {}
    table = []
    texts = []
    for name, count in zip(choice.candidates, selected, strict=True):
        width = rows[name].shape[1]
        table.append({"layer": name, "kept": count, "features": width})
        texts.append(f"{count:,} of {width:,} of {name}")
    note(f"Features kept by {choice.name}: {', '.join(texts)}.")
    return {"kept": table}


def check_targets_vary(name: str, column: Target) -> None:
    """Check that there is something to tell apart.

    Raises
    ------
    DataError
        When all labels are the same class, or there are none, or a single number.
    """
    present = [value for value in column.values if value is not None]
    if not present:
        raise DataError(f"No item has a label in {name!r}.")
    if column.task == "classification" and len(set(present)) < 2:
        raise DataError(
            f"All {len(present):,} labelled items of {name!r} are of one class, {present[0]!r}: there is nothing to "
            "tell it from. Add items of another class."
        )
    if column.task == "multilabel" and not any(present):
        raise DataError(f"None of the {len(present):,} labelled items of {name!r} has any label of its own.")
    if column.task == "regression" and len(present) < 2:
        raise DataError(f"Regression needs at least 2 labelled items; {name!r} has 1 sample.")


def _drop_constant_layers(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The candidates whose features differ between items: a dead layer is no reason to stop."""
    varying = {name: X for name, X in rows.items() if np.ptp(X[:_FIRST], axis=0).any() or np.ptp(X, axis=0).any()}
    if not varying:
        raise DataError(
            f"All items have the same features at {', '.join(list(rows)[:5])}: there is nothing to learn from. "
            "Choose other layers, or another source."
        )
    if len(varying) < len(rows):
        constant = [name for name in rows if name not in varying]
        note(f"Features are the same for all items at {', '.join(constant)}; left out.")
    return varying


def _table(choice: Selection) -> dict[str, Any]:
    """Return the choice and the best trial of every other combination of layers as plain data, the best first."""
    best: dict[tuple[str, ...], Any] = {}
    for trial in complete_results(choice.trials):
        if trial.candidates not in best or trial.mean_loss < best[trial.candidates].mean_loss:
            best[trial.candidates] = trial
    chosen = (choice.candidates, choice.name, choice.fields)
    best |= {t.candidates: t for t in choice.trials if (t.candidates, t.head, t.fields) == chosen}
    trials = sorted(best.values(), key=lambda trial: trial.mean_loss)
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
            for trial in trials
        ],
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _check(config: FitConfig, columns: Sequence[Target]) -> None:
    kind = config.head
    if isinstance(kind, str) and kind != "auto":
        kind = HEADS[kind]  # raises for an unknown name
    if config.exact and (config.balance == "weights" or not getattr(kind, "from_moments", True)):
        usable = ", ".join(name for name in HEADS if HEADS[name].from_moments)
        raise OptionError(
            f"exact=True solves the head from moments: the heads {usable} allow it, and balance='logit' or 'none'."
        )
    for column in columns:
        check_targets_vary(column.name, column)


def _fit(config: FitConfig, columns: Sequence[Target]) -> FitResult:
    start = time.perf_counter()
    candidates = main_first(lambda: extract_candidates(config))
    extracted_at = time.perf_counter()
    models: list[TargetModel] = []
    tables: dict[str, Any] = {}
    fuse = config.layers == "auto" or len(config.sources) > 1
    names = {column.name for column in columns}
    for column in (c for c in candidates.data.columns if c.name in names):
        model, tables[column.name] = select_for_target(
            candidates,
            column,
            head=config.head,  # type: ignore[arg-type]  # a CTC head is refused there
            balance=config.balance,
            fuse=fuse,
            exact=config.exact,
            random_state=config.seed,
        )
        models.append(model)
    seconds = {"extract": round(extracted_at - start, 3), "heads": round(time.perf_counter() - extracted_at, 3)}
    return FitResult(tuple(models), tables, candidates.data, candidates.runtimes, seconds, candidates=candidates)


def extract_candidates(config: FitConfig) -> FeatureSet:
    """Extract every candidate layer of every source, for the items that all of them can read."""
    options = [
        ExtractOptions(config.layers, config.pooling, **config.extract_options(number))
        for number in range(len(config.sources))
    ]
    features = extract_all(config.sources, config.data, options, store=config.store, pooled=True)
    check_any_left(features, len(config.data))
    return features


TASK_HEADS = TaskFitter(_check, _fit, supports_finetuning=True)
