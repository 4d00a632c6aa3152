"""Predictor.evaluate: predictions against labels, as one Result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart._hashing import fingerprint
from headstart.dataset import Dataset, Target
from headstart.errors import DataError
from headstart.metrics import assess
from headstart.predictor._answer import Answer
from headstart.predictor._features import Rows
from headstart.result import Result

_SHOWN = 5


def evaluated(predictor: Any, data: Dataset, on_error: str) -> Result:
    """See :meth:`headstart.predictor.Predictor.evaluate`."""
    begun = time.perf_counter()
    columns = _columns(predictor.answers, data)
    labels = {answer.target: _labels(answer, columns[answer.target]) for answer in predictor.answers}
    found = predictor._read(data, on_error)
    if not len(found.keep):
        first = found.skipped[0]
        raise DataError(f"None of the {len(data):,} items can be read; the first: {first.item}: {first.reason}")
    results, notes = {}, []
    for answer in predictor.answers:
        truth = [labels[answer.target][i] for i in found.keep]
        missing = sum(value is None for value in truth)
        if missing:
            notes.append(f"{missing} of {len(truth)} items have no label in {answer.target!r} and are left out.")
        if missing < len(truth):
            results[answer.target] = _assessed(answer, truth, found)
    if not results:
        raise DataError(f"None of the {len(found.keep):,} items that can be read has a label to compare with.")
    data = data.read()
    return _one(
        results,
        several=len(predictor.answers) > 1,
        skipped=found.skipped,
        notes=(*notes, *_warnings(predictor, data)),
        cost={"seconds": time.perf_counter() - begun, "items": len(found.keep)},
        provenance={**predictor.provenance, "test": data.fingerprint, "test_reads": data.reads},
    )


def _columns(answers: Sequence[Answer], data: Dataset) -> dict[str, Target]:
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


def _labels(answer: Answer, column: Target) -> list[Any]:
    """The column's values in the predictor's own terms, None where the label is missing."""
    given = [value for value in column.values if value is not None]
    kind = {"classification": (str, int, float, bool), "multilabel": (tuple, str, int, bool)}
    allowed = kind.get(answer.task, (int, float, tuple))
    strange = [value for value in given if not isinstance(value, allowed)]
    if strange:
        raise DataError(
            f"The predictor does {answer.task}, but the labels of {column.name!r} are {column.task}, "
            f"e.g. {strange[0]!r}. Give them as the predictor was trained, or say task={answer.task!r}."
        )
    if answer.task == "multilabel":
        return [value if value is None or isinstance(value, tuple) else (value,) for value in column.values]
    if answer.task == "regression":
        return list(column.values)
    known = set(answer.classes or ())
    if given and not known & set(given):
        raise DataError(
            f"None of the labels of {column.name!r} is a class of this predictor. It knows {_some(answer.classes)}; "
            f"the data has {_some(dict.fromkeys(given))}."
        )
    return list(column.values)


def _some(values: Any) -> str:
    names = list(map(repr, values))
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _assessed(answer: Answer, truth: list[Any], found: Rows) -> Result:
    X = answer.features(found.at)
    predicted = answer.labels(X)
    kind: Any = answer.task
    if answer.task == "regression":
        return assess(kind, truth, predicted)
    known = tuple(answer.classes or ())
    counts = dict(answer.counts) if answer.counts else None
    strange = _unknown(truth, known, several=answer.task == "multilabel")
    notes = [f"The labels {_some(strange)} were not in the training data: never predicted, counted as errors."]
    extra: dict[str, Any] = {"notes": tuple(notes) if strange else ()}
    proba = answer.proba(X)
    if answer.task == "multilabel":  # a label that only the test has is never predicted
        known, proba = (*known, *strange), np.hstack([proba, np.zeros((len(proba), len(strange)))])
    return assess(kind, truth, predicted, proba=proba, classes=known, train_counts=counts, **extra)


def _unknown(truth: Sequence[Any], known: Sequence[Any], *, several: bool) -> list[Any]:
    given = [label for value in truth if value is not None for label in (value if several else (value,))]
    return sorted(set(given) - set(known), key=lambda label: (type(label).__name__, repr(label)))


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
