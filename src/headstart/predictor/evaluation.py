"""Predictor.evaluate: predictions compared with labels, as one Result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headstart._base.hashing import fingerprint
from headstart._base.typing import SkippedItem
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError
from headstart.extraction.features import FeatureSet
from headstart.predictor.target_model import TargetModel
from headstart.result.result import Result

if TYPE_CHECKING:
    from headstart.predictor.predictor import Predictor


def evaluate_predictor(predictor: Predictor, data: Dataset, on_error: str) -> Result:
    """See :meth:`headstart.predictor.Predictor.evaluate`."""
    begun = time.perf_counter()
    columns = _match_columns(predictor.targets, data)
    # Labels are checked before anything is computed: a wrong column is the commonest mistake.
    labels = {model.target: model.parse_labels(columns[model.target]) for model in predictor.targets}
    features = predictor._extract(data, on_error)
    skipped = collect_skipped(features)
    n_read = max(len(rows.index) for rows in features.values())
    if not n_read:
        first = skipped[0]
        raise DataError(f"None of the {len(data):,} items can be read; the first: {first.item}: {first.reason}")
    results: dict[str, Result] = {}
    notes = []
    for model in predictor.targets:
        rows = features[model.target]
        truth = [labels[model.target][i] for i in rows.index]
        n_unlabelled = sum(value is None for value in truth)
        if n_unlabelled:
            notes.append(f"{n_unlabelled} of {len(truth)} items have no label in {model.target!r} and are left out.")
        if n_unlabelled < len(truth):
            results[model.target] = model.evaluate(truth, rows)
    if not results:
        raise DataError(f"None of the {n_read:,} items that can be read has a label to compare with.")
    data = data.read()  # counts this look at the test set
    return _merge_results(
        results,
        several=len(predictor.targets) > 1,
        skipped=skipped,
        notes=(*notes, *_warnings(predictor, data)),
        cost={"seconds": time.perf_counter() - begun, "items": n_read},
        provenance={**predictor.provenance, "test": data.fingerprint, "test_reads": data.reads},
    )


def collect_skipped(features: Mapping[str, FeatureSet]) -> tuple[SkippedItem, ...]:
    """Items that some target could not be predicted for, each once, in the order of the items."""
    by_position = {item.position: item for rows in features.values() for item in rows.skipped}
    return tuple(by_position[position] for position in sorted(by_position))


def _match_columns(models: Sequence[TargetModel], data: Dataset) -> dict[str, Target]:
    """Find the target column of every model; where there is one of each, their names need not agree."""
    if not isinstance(data, Dataset):
        raise DataError(f"evaluate() takes a Dataset with targets; got {type(data).__name__}.")
    columns = {column.name: column for column in data.columns}
    if not columns:
        raise DataError("evaluate() needs targets; this dataset has none. Use predict().")
    if len(models) == 1 and len(columns) == 1:
        return {models[0].target: data.columns[0]}
    missing = [model.target for model in models if model.target not in columns]
    if missing:
        raise DataError(f"The data has no target {', '.join(map(repr, missing))}; it has {sorted(columns)}.")
    return {model.target: columns[model.target] for model in models}


def _warnings(predictor: Predictor, data: Dataset) -> list[str]:
    notes = []
    copies = sum(key is not None and key[:8] in predictor.trained_on for key in data.keys())
    if copies and data.role != "train":
        notes.append(f"{copies} of {len(data)} items are exact copies of training items: the figures are too good.")
    if data.reads > 1 and data.role == "test":
        notes.append(f"This test part has been evaluated {data.reads} times; choices made on it make it optimistic.")
    for source, trained, used in zip(predictor.sources, predictor.choices, predictor.running):
        if (trained.engine, trained.precision) != (used.engine, used.precision):
            notes.append(
                f"{source.name} was run by {used.engine} in {used.precision}, "
                f"not {trained.engine} in {trained.precision} as in training."
            )
    return notes


def _merge_results(results: Mapping[str, Result], *, several: bool, **common: Any) -> Result:
    """Join the targets' results, with what they have in common: skipped items, notes, cost and provenance."""
    if several:
        labels = {name: result.provenance["data"] for name, result in results.items()}
        common["provenance"] = {**common["provenance"], "data": fingerprint(labels)}
        return Result.of_columns(results, **common)
    (result,) = results.values()
    provenance = {**common["provenance"], **result.provenance}  # "data" stays that of the labels compared
    notes = (*result.notes, *common["notes"])
    return dataclasses.replace(result, **{**common, "provenance": provenance, "notes": notes})
