"""Predictor.evaluate: predictions against labels, as one Result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from headstart._base.hashing import fingerprint
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError
from headstart.predictor.target_model import TargetModel
from headstart.result.result import Result


def evaluated(predictor: Any, data: Dataset, on_error: str) -> Result:
    """See :meth:`headstart.predictor.Predictor.evaluate`."""
    begun = time.perf_counter()
    columns = _columns(predictor.answers, data)
    labels = {answer.target: answer.truth(columns[answer.target]) for answer in predictor.answers}
    found = predictor._read(data, on_error)
    skipped = tuple({one.index: one for rows in found.values() for one in rows.skipped}.values())
    read = max(len(rows.keep) for rows in found.values())
    if not read:
        first = skipped[0]
        raise DataError(f"None of the {len(data):,} items can be read; the first: {first.item}: {first.reason}")
    results, notes = {}, []
    for answer in predictor.answers:
        truth = [labels[answer.target][i] for i in found[answer.target].keep]
        missing = sum(value is None for value in truth)
        if missing:
            notes.append(f"{missing} of {len(truth)} items have no label in {answer.target!r} and are left out.")
        if missing < len(truth):
            results[answer.target] = answer.assessed(truth, found[answer.target])
    if not results:
        raise DataError(f"None of the {read:,} items that can be read has a label to compare with.")
    data = data.read()
    return _one(
        results,
        several=len(predictor.answers) > 1,
        skipped=skipped,
        notes=(*notes, *_warnings(predictor, data)),
        cost={"seconds": time.perf_counter() - begun, "items": read},
        provenance={**predictor.provenance, "test": data.fingerprint, "test_reads": data.reads},
    )


def _columns(answers: Sequence[TargetModel], data: Dataset) -> dict[str, Target]:
    """The target column of every answer; where there is one of each, their names need not agree."""
    if not isinstance(data, Dataset):
        raise DataError(f"evaluate() takes a Dataset with targets; got {type(data).__name__}.")
    columns = {column.name: column for column in data.columns}
    if not columns:
        raise DataError("evaluate() needs targets; this dataset has none. Use predict().")
    if len(answers) == 1 and len(columns) == 1:
        return {answers[0].target: data.columns[0]}
    missing = [answer.target for answer in answers if answer.target not in columns]
    if missing:
        raise DataError(f"The data has no target {', '.join(map(repr, missing))}; it has {sorted(columns)}.")
    return {answer.target: columns[answer.target] for answer in answers}


def _warnings(predictor: Any, data: Dataset) -> list[str]:
    notes = []
    copies = sum(key is not None and key[:8] in predictor.trained_on for key in data.keys())
    if copies and data.role != "train":
        notes.append(f"{copies} of {len(data)} items are exact copies of training items: the figures are too good.")
    if data.reads > 1 and data.role == "test":
        notes.append(f"This test part has been evaluated {data.reads} times; choices made on it make it optimistic.")
    for source, wanted, used in zip(predictor.sources, predictor.choices, predictor.running):
        if (wanted.engine, wanted.precision) != (used.engine, used.precision):
            how = f"{used.engine} in {used.precision}, not {wanted.engine} in {wanted.precision} as in training"
            notes.append(f"{source.name} was run by {how}.")
    return notes


def _one(results: Mapping[str, Result], *, several: bool, **common: Any) -> Result:
    if several:
        labels = {name: result.provenance["data"] for name, result in results.items()}
        common["provenance"] = {**common["provenance"], "data": fingerprint(labels)}
        return Result.of_columns(results, **common)
    (result,) = results.values()
    provenance = {**common["provenance"], **result.provenance}  # "data" stays that of the labels compared
    notes = (*result.notes, *common["notes"])
    return dataclasses.replace(result, **{**common, "provenance": provenance, "notes": notes})
