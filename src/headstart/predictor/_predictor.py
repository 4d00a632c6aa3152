"""The Predictor: predict, evaluate, save. It reads features through the same bank as everything else."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart.bank import Skipped
from headstart.dataset import Dataset
from headstart.engines.base import Choice
from headstart.errors import DataError, OptionError
from headstart.extraction import extract
from headstart.metrics import assess
from headstart.predictor import _saving
from headstart.predictor._answer import Answer
from headstart.result import Result
from headstart.sources.base import Source


@dataclass(frozen=True)
class Predictor:
    """Sources, layers and heads, ready to predict.

    Attributes
    ----------
    sources : tuple of Source
    answers : tuple of Answer
        One per target column.
    choices : tuple of Choice
        How each source is run; another machine that cannot do the same says so and uses fp32.
    history : mapping
        Loss, score and seconds per epoch of fine-tuning; empty when nothing was trained.
    chosen : mapping
        What was chosen and from what: the table of candidates, the verdict on fine-tuning.
    provenance : mapping
        Seed, versions, fingerprints, metrics of the choice.
    trained_on : frozenset of bytes
        Short content keys of the training items, so that a test on copies of them is noticed.
    """

    sources: tuple[Source, ...]
    answers: tuple[Answer, ...]
    choices: tuple[Choice, ...]
    history: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained_on: frozenset[bytes] = frozenset()

    @property
    def source(self) -> Source:
        """The (first) source."""
        return self.sources[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the first answer's features."""
        return tuple(part.layer for part in self.answers[0].parts)

    @property
    def head(self) -> Any:
        """The (first) head."""
        return self.answers[0].head

    @property
    def classes(self) -> Any:
        """Classes of the only target; with several, by name."""
        if len(self.answers) == 1:
            return self.answers[0].classes
        return {answer.target: answer.classes for answer in self.answers}

    def predict(self, x: Any, *, on_error: str = "raise") -> Any:
        """Labels.

        Parameters
        ----------
        x : Dataset, list of items, or one item
            A str is a path for images and sounds, and the text itself for texts. An array is one item or many.
        on_error : {"raise", "skip"}
            With ``"skip"`` an item that cannot be read gets None.

        Returns
        -------
        list of labels; one label for one item; with several targets a dict by name
        """
        data, single = self._data(x)
        keep, rows, _ = self._rows(data, on_error, store=None if isinstance(x, Dataset) else False)
        found = {a.target: _spread(a.labels(a.features(rows)), keep, len(data)) for a in self.answers}
        return _shaped(found, single)

    def predict_proba(self, x: Any, *, on_error: str = "raise") -> Any:
        """Probabilities (n, t) float64 in the order of ``classes``; NaN rows for items skipped.

        Raises
        ------
        OptionError
            For regression, which has none.
        """
        return self._numbers(x, "proba", on_error)

    def decision_function(self, x: Any, *, on_error: str = "raise") -> Any:
        """Decision values (n, t) float64."""
        return self._numbers(x, "decision", on_error)

    def evaluate(self, data: Dataset, *, on_error: str = "skip") -> Result:
        """Metrics with intervals on labelled data.

        Items that cannot be read or have no label are left out and named in the Result. Every evaluation of a test part
        is counted, and copies of training items among the test items are reported.
        """
        begun = time.perf_counter()
        columns = {column.name: column for column in data.columns}
        missing = [a.target for a in self.answers if a.target not in columns]
        if missing and not (len(self.answers) == 1 and len(columns) == 1):
            raise DataError(f"The data has no target {', '.join(map(repr, missing))}; it has {sorted(columns)}.")
        if not columns:
            raise DataError("evaluate() needs targets; this dataset has none. Use predict().")
        data = data.read()
        keep, rows, skipped = self._rows(data, on_error)
        results = {}
        for answer in self.answers:
            column = columns.get(answer.target) or data.columns[0]
            results[answer.target] = self._assess(answer, [column.values[i] for i in keep], rows)
        notes = self._notes(data)
        common = {
            "skipped": tuple(skipped),
            "notes": tuple(notes),
            "cost": {"seconds": time.perf_counter() - begun, "items": len(keep)},
            "provenance": {**self.provenance, "test": data.fingerprint, "test_reads": data.reads},
        }
        return _one(results, common)

    def save(self, path: str | Path) -> Path:
        """Save as a folder of safetensors + JSON, sources included; see :func:`headstart.load`.

        Raises
        ------
        SourceError
            When a source is a Python object that cannot be built again from plain data.
        StoreError
            When the disk does not take it, or there is something else at ``path``.
        """
        return _saving.save(self, Path(path))

    def __repr__(self) -> str:
        heads = ", ".join(
            f"{a.target}: {type(a.head).__name__} on {'+'.join(p.layer for p in a.parts)}" for a in self.answers
        )
        return f"Predictor({', '.join(s.address for s in self.sources)}; {heads})"

    def _numbers(self, x: Any, kind: str, on_error: str) -> Any:
        data, single = self._data(x)
        if kind == "proba" and any(a.task == "regression" for a in self.answers):
            raise OptionError("Regression has no probabilities; use predict().")
        keep, rows, _ = self._rows(data, on_error, store=None if isinstance(x, Dataset) else False)
        found = {}
        for answer in self.answers:
            values = getattr(answer, kind)(answer.features(rows))
            whole = np.full((len(data), values.shape[1]), np.nan)
            whole[keep] = values
            found[answer.target] = whole
        return _shaped(found, single)

    def _data(self, x: Any) -> tuple[Dataset, bool]:
        if isinstance(x, Dataset):
            return x, False
        modality = self.source.modality
        single = _is_one(x, modality)
        return Dataset.from_items([x] if single and isinstance(x, np.ndarray) else x, modality), single

    def _rows(
        self, data: Dataset, on_error: str, store: bool | None = None
    ) -> tuple[np.ndarray, dict[tuple[int, str], np.ndarray], list[Skipped]]:
        """Indices of the readable items, their rows at every (source, layer), and what was left out."""
        banks = []
        there = np.ones(len(data), dtype=bool)
        for index, (source, choice) in enumerate(zip(self.sources, self.choices)):
            parts = {p.layer: p.pooling for a in self.answers for p in a.parts if p.source == index}
            bank = extract(
                source,
                data,
                layers=list(parts),
                pooling=parts,
                engine=choice.engine,
                precision=choice.precision,
                on_error=on_error,
                store=store,
                batch_size=choice.batch_size,
            )
            there &= bank.keep(data)
            banks.append((bank, list(parts)))
        keep = np.flatnonzero(there)
        kept = data if len(keep) == len(data) else data.take(keep)
        rows = {(i, layer): bank.rows(layer, kept) for i, (bank, names) in enumerate(banks) for layer in names}
        seen = {one.index: one for bank, _ in banks for one in bank.skipped}
        return keep, rows, [seen[i] for i in sorted(seen)]

    def _assess(self, answer: Answer, truth: Sequence[Any], rows: Mapping[tuple[int, str], np.ndarray]) -> Result:
        X = answer.features(rows)
        kind: Any = answer.task
        if answer.task == "regression":
            return assess(kind, truth, answer.labels(X))
        proba = answer.proba(X)
        counts = dict(answer.counts) if answer.counts else None
        return assess(kind, truth, answer.labels(X), proba=proba, classes=answer.classes, train_counts=counts)

    def _notes(self, data: Dataset) -> list[str]:
        notes, keys = [], data.keys()
        copies = sum(key is not None and key[:8] in self.trained_on for key in keys)
        if copies and data.role != "train":
            notes.append(f"{copies} of {len(data)} items are exact copies of training items: the figures are too good.")
        if data.reads > 1:
            notes.append(
                f"This test part has been evaluated {data.reads} times; choices made on it make it optimistic."
            )
        return notes


def _is_one(x: Any, modality: str) -> bool:
    if isinstance(x, (str, bytes, Path)):
        return not (isinstance(x, (str, Path)) and modality != "text" and Path(x).is_dir())
    if isinstance(x, np.ndarray):
        return x.ndim == 1 if modality in ("vector", "audio") else x.ndim < 4 and not (x.ndim == 3 and x.shape[-1] > 4)
    return False


def _spread(labels: Sequence[Any], keep: np.ndarray, size: int) -> list[Any]:
    found: list[Any] = [None] * size
    for index, label in zip(keep.tolist(), labels):
        found[index] = label
    return found


def _shaped(found: dict[str, Any], single: bool) -> Any:
    picked = {name: values[0] for name, values in found.items()} if single else found
    return next(iter(picked.values())) if len(picked) == 1 else picked


def _one(results: dict[str, Result], common: dict[str, Any]) -> Result:
    if len(results) > 1:
        return Result.of_columns(results, **common)
    (result,) = results.values()
    provenance = {**result.provenance, **common["provenance"]}
    notes = (*result.notes, *common["notes"])
    return dataclasses.replace(result, **{**common, "provenance": provenance, "notes": notes})
