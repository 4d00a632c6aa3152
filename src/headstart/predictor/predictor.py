"""The Predictor: predict, evaluate, save. It reads features through the same bank as everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart.dataset.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.errors import OptionError
from headstart.extraction.features import FeatureSet, extract_features, items_of, resolve_runtime
from headstart.predictor import export as _export
from headstart.predictor import storage, unlearning
from headstart.predictor.evaluation import evaluated
from headstart.predictor.target_model import TargetModel
from headstart.result.result import Result
from headstart.sources.base import Source

_NUMBERS = {"proba": "probabilities", "decision": "decision values"}


@dataclass(frozen=True, eq=False)
class Predictor:
    """Sources, layers and heads, ready to predict.

    Attributes
    ----------
    sources : tuple of Source
    answers : tuple of Answer
        One per target column.
    choices : tuple of Choice
        How each source was run in training; see :attr:`running`.
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
    answers: tuple[TargetModel, ...]
    choices: tuple[RuntimeConfig, ...]
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
        return self.answers[0].solver

    @property
    def classes(self) -> Any:
        """Classes of the only target; with several, by name."""
        if len(self.answers) == 1:
            return self.answers[0].classes
        return {answer.target: answer.classes for answer in self.answers}

    @cached_property
    def running(self) -> tuple[RuntimeConfig, ...]:
        """How each source is run here: as in training, or in fp32 (with a note) where this machine cannot."""
        fixed = self.provenance.get("precision", "auto") != "auto"
        return tuple(resolve_runtime(s, choice, fixed=fixed) for s, choice in zip(self.sources, self.choices))

    def predict(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Labels.

        Parameters
        ----------
        x : Dataset, list of items, or one item
            A str is a path for images and sounds, and the text itself for texts; a folder stands for the files in it.
            An array is one item or many.
        on_error : {"raise", "skip"}
            With ``"skip"`` an item that cannot be read gets None.
        store : path or False, optional
            Where features are kept; None keeps those of a Dataset in the usual place and those of a list nowhere.

        Returns
        -------
        list of labels; one label for one item; with several targets a dict by name

        Raises
        ------
        UnreadableItem
            With ``on_error="raise"``.
        DataError
            When the items are of another kind than the source takes.
        """
        data, single = self._data(x)
        rows = self._read(data, on_error, store=_kept(x, store))
        found = {a.target: _spread(a, rows[a.target], len(data)) for a in self.answers}
        return _shaped(found, single)

    def predict_proba(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Probabilities (n, t) float64 in the order of ``classes``; NaN rows for items skipped.

        Raises
        ------
        OptionError
            For a task that has none: regression, transcription.
        """
        return self._numbers(x, "proba", on_error, store)

    def decision_function(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Decision values (n, t) float64; NaN rows for items skipped.

        Raises
        ------
        OptionError
            For a task that has none: transcription.
        """
        return self._numbers(x, "decision", on_error, store)

    def evaluate(self, data: Dataset, *, on_error: str = "skip") -> Result:
        """Metrics with intervals on labelled data.

        Items that cannot be read are left out and named in ``Result.skipped``; those without a label are left out and
        counted in ``Result.notes``. Every evaluation of a test part is counted (``provenance["test_reads"]``), and
        copies of training items among the test items are noted.

        Raises
        ------
        DataError
            Without targets, with none that the predictor knows, or when nothing can be read.
        """
        return evaluated(self, data, on_error)

    def forget(self, x: Any, *, store: str | Path | None = None) -> Predictor:
        """A predictor that has not learned from these items; this one stays as it is.

        What they added to exact moments is subtracted, and the heads are solved again: coefficients, class counts and
        logit adjustment are to the last bit those of a fit that never saw the items and made the same choices, in
        whatever order they are forgotten, also after saving and loading.

        **Unchanged** is what was chosen while the items were there: layers, head and its fields (strength, shrinkage,
        scaling), balance, temperature, and the scores in ``chosen``. A field that is left to the head itself, as in
        ``head("ridge")`` (strength) and ``head("lda")`` (shrinkage), is found again. ``provenance["forgotten"]`` says
        how many items have gone, and what that changed and did not. Features in the store, files of older predictors
        and exports still hold traces: delete them.

        Parameters
        ----------
        x : Dataset, list of items, or one item
            As for :meth:`predict`, known by content to the byte; no labels are needed. Every copy of an item goes.
        store : path, optional
            As it was given to ``fit``: their features are read from there. Nothing is written.

        Raises
        ------
        OptionError
            When the predictor was not fitted with ``exact=True``, its network was fine-tuned, or its head needs rows.
        DataError
            When it has not learned from some of the items, when their features are no longer those of the fit, or when
            fewer than two items, or none of a class, would be left.

        Notes
        -----
        Cost: O(m·d²) for m items and d features, and a decomposition of d × d, O(d³).
        """
        return unlearning.forget(self, x, store)

    def save(self, path: str | Path) -> Path:
        """Save as a folder of safetensors + JSON, sources included; see :func:`headstart.load`.

        A predictor that is there is replaced in one step: whoever loads it meanwhile gets the old one or the new one.

        Raises
        ------
        StoreError
            When the disk does not take it, or there is something else at ``path``.

        Notes
        -----
        A source that is a Python object cannot be built again from plain data; of it only the fingerprint is saved, and
        ``load(path, sources=[source])`` needs the object.
        """
        return storage.save(self, Path(path))

    def export(self, path: str | Path, format: str = "onnx") -> Path:
        """Write source, pooling, heads and probabilities as one ONNX file that runs without headstart.

        The file's inputs are what the network takes (prepared pictures, vectors, token numbers), with an open number of
        items; its outputs are probabilities, or values for regression. How inputs are prepared, and the classes, are in
        its metadata under ``headstart``. Read back by ``load_source("onnx:FILE")`` it is a source.

        Raises
        ------
        OptionError
            For what one such file cannot hold: several sources, kNN, clips that are cut into several inputs.
        SourceError
            When torch cannot export the network.
        StoreError
            When the file answers otherwise than the predictor, with the figures; or the disk does not take it.
        MissingPackage

        Notes
        -----
        Features are in fp32, whatever precision was used in training. Cost: seconds; one more copy of the weights.
        """
        return _export.export(self, Path(path), format)

    def __repr__(self) -> str:
        heads = ", ".join(
            f"{a.target}: {type(a.solver).__name__} on {'+'.join(p.layer for p in a.parts)}" for a in self.answers
        )
        return f"Predictor({', '.join(s.address for s in self.sources)}; {heads})"

    def _numbers(self, x: Any, kind: str, on_error: str, store: str | Path | bool | None) -> Any:
        without = [a for a in self.answers if kind not in a.gives]
        if without:
            names = ", ".join(f"{a.task.capitalize()} ({a.target})" for a in without)
            raise OptionError(f"{names} has no {_NUMBERS[kind]}; use predict().")
        data, single = self._data(x)
        rows = self._read(data, on_error, store=_kept(x, store))
        found = {}
        for answer in self.answers:
            found[answer.target] = whole = np.full((len(data), answer.width), np.nan)
            read = rows[answer.target]
            if len(read.keep):
                whole[read.keep] = answer.gives[kind](answer, read)
        return _shaped(found, single)

    def _data(self, x: Any) -> tuple[Dataset, bool]:
        return items_of(x, self.source.modality)

    def _read(self, data: Dataset, on_error: str, store: str | Path | bool | None = None) -> dict[str, FeatureSet]:
        """Target → its rows; answers that divide items alike, and pool layers alike, are read together."""
        found: dict[str, FeatureSet] = {}
        for answers in _together(self.answers):
            parts = [part for answer in answers for part in answer.parts]
            poolings = [{p.layer: p.pooling for p in parts if p.source == i} for i in range(len(self.sources))]
            divide = type(answers[0]).divide
            rows = extract_features(
                self.sources, self.running, poolings, data, divide=divide, on_error=on_error, store=store
            )
            found |= {answer.target: rows for answer in answers}
        return found


def _together(answers: Sequence[TargetModel]) -> list[list[TargetModel]]:
    """Answers that one pass over the items can serve."""
    groups: list[list[TargetModel]] = []
    for answer in answers:
        wanted = {(p.source, p.layer): p.pooling for p in answer.parts}
        for group in groups:
            there = {(p.source, p.layer): p.pooling for other in group for p in other.parts}
            alike = type(answer).divide is type(group[0]).divide
            if alike and all(there.get(place, pooling) == pooling for place, pooling in wanted.items()):
                group.append(answer)
                break
        else:
            groups.append([answer])
    return groups


def _kept(x: Any, store: str | Path | bool | None) -> str | Path | bool | None:
    return False if store is None and not isinstance(x, Dataset) else store


def _spread(answer: TargetModel, rows: FeatureSet, size: int) -> list[Any]:
    found: list[Any] = [None] * size
    labels: Sequence[Any] = answer.labels(rows) if len(rows.keep) else ()
    for index, label in zip(rows.keep.tolist(), labels):
        found[index] = label
    return found


def _shaped(found: dict[str, Any], single: bool) -> Any:
    picked = {name: values[0] for name, values in found.items()} if single else found
    return next(iter(picked.values())) if len(picked) == 1 else picked
