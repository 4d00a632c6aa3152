"""The Predictor: sources, layers and heads, ready to predict, evaluate, save and export.

Every prediction is one pass (:meth:`Predictor.infer`): items become a Dataset, the sources give features of the layers
that the target models read (through the same bank as everything else), and each target model turns them into labels
and numbers. ``predict``, ``predict_proba`` and ``decision_function`` are views of that pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.typing import Array, Float
from headstart.dataset.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.errors import OptionError
from headstart.extraction.features import FeatureSet, as_dataset, extract_features, resolve_runtime
from headstart.heads.base import Head
from headstart.predictor import export as _export
from headstart.predictor import storage, unlearning
from headstart.predictor.evaluation import collect_skipped, evaluate_predictor
from headstart.predictor.predictions import Predictions, TargetPredictions
from headstart.predictor.target_model import TargetModel
from headstart.result.result import Result
from headstart.sources.base import Source
from headstart.speech_heads.base import CtcHead

_OUTPUT_NAMES = {"proba": "probabilities", "decision": "decision values"}


@dataclass(frozen=True, eq=False)
class Predictor:
    """Sources, layers and heads, ready to predict.

    Attributes
    ----------
    sources : tuple of Source
    targets : tuple of TargetModel
        One per target column.
    choices : tuple of RuntimeConfig
        Engine, precision and batch size of each source in training; :attr:`running` has those of this machine.
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
    targets: tuple[TargetModel, ...]
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
        """Layers of the first target's features."""
        return tuple(spec.layer for spec in self.targets[0].specs)

    @property
    def head(self) -> Head | CtcHead:
        """The (first) head."""
        return self.targets[0].head

    @property
    def classes(self) -> tuple[Any, ...] | dict[str, tuple[Any, ...] | None] | None:
        """Classes of the only target; with several, by name."""
        if len(self.targets) == 1:
            return self.targets[0].classes
        return {model.target: model.classes for model in self.targets}

    @cached_property
    def running(self) -> tuple[RuntimeConfig, ...]:
        """Runtime of each source on this machine: as in training, or fp32 (with a note) where that is not possible."""
        fixed = self.provenance.get("precision", "auto") != "auto"
        return tuple(resolve_runtime(s, choice, fixed=fixed) for s, choice in zip(self.sources, self.choices))

    def infer(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Predictions:
        """Predict everything that there is to predict about items, in one pass over them.

        Parameters
        ----------
        x : Dataset, list of items, or one item
            A str is a path for images and audio, and the text itself for texts; a folder stands for the files in it.
            An array is one item or many.
        on_error : {"raise", "skip"}
            With ``"skip"`` an item that cannot be read gets None as its label and NaN as its numbers, and is named in
            ``skipped``.
        store : path or False, optional
            Where features are stored; None stores those of a Dataset in the usual place and those of a list nowhere.

        Returns
        -------
        Predictions

        Raises
        ------
        UnreadableItem
            With ``on_error="raise"``.
        DataError
            When the items are of another kind than the source takes.

        Notes
        -----
        Cost: one forward pass per item whose features are not in the store. Networks are made ready on the first call
        and used again by the following ones.
        """
        begun = time.perf_counter()
        data, single = as_dataset(x, self.source.modality)
        if store is None and not isinstance(x, Dataset):
            store = False
        features = self._extract(data, on_error, store)
        labels: dict[str, Any] = {}
        probabilities: dict[str, Any] = {}
        decisions: dict[str, Any] = {}
        for model in self.targets:
            rows = features[model.target]
            predictions = model.infer(rows) if len(rows.index) else TargetPredictions(())
            labels[model.target] = _spread_labels(predictions.labels, rows.index, len(data))
            if "proba" in model.outputs:
                probabilities[model.target] = _spread(predictions.probabilities, rows.index, (len(data), model.width))
            if "decision" in model.outputs:
                decisions[model.target] = _spread(predictions.decisions, rows.index, (len(data), model.width))
        several = len(self.targets) > 1
        return Predictions(
            labels=_shaped(labels, single=single, several=several),
            probabilities=_shaped(probabilities, single=single, several=several) if probabilities else None,
            decisions=_shaped(decisions, single=single, several=several) if decisions else None,
            skipped=collect_skipped(features),
            seconds=time.perf_counter() - begun,
        )

    def predict(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Return the labels of :meth:`infer`.

        Parameters
        ----------
        x, on_error, store
            As for :meth:`infer`.

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
        return self.infer(x, on_error=on_error, store=store).labels

    def predict_proba(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Return the probabilities of :meth:`infer`.

        (n, t) float64 in the order of ``classes``; NaN rows for items skipped.

        Raises
        ------
        OptionError
            For a task that has none: regression, transcription, summarization.
        """
        self._check_has("proba")
        return self.infer(x, on_error=on_error, store=store).probabilities

    def decision_function(self, x: Any, *, on_error: str = "raise", store: str | Path | bool | None = None) -> Any:
        """Return the decision values of :meth:`infer`.

        (n, t) float64; NaN rows for items skipped.

        Raises
        ------
        OptionError
            For a task that has none: transcription, summarization.
        """
        self._check_has("decision")
        return self.infer(x, on_error=on_error, store=store).decisions

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
        return evaluate_predictor(self, data, on_error)

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

        The file's inputs are what the network takes (prepared images, vectors, token numbers), with an open number of
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
            f"{a.target}: {type(a.head).__name__} on {'+'.join(p.layer for p in a.specs)}" for a in self.targets
        )
        return f"Predictor({', '.join(s.address for s in self.sources)}; {heads})"

    def _check_has(self, output: str) -> None:
        """Refuse before anything is read what a target does not have."""
        without = [model for model in self.targets if output not in model.outputs]
        if without:
            names = ", ".join(f"{model.task.capitalize()} ({model.target})" for model in without)
            raise OptionError(f"{names} has no {_OUTPUT_NAMES[output]}; use predict().")

    def _extract(self, data: Dataset, on_error: str, store: str | Path | bool | None = None) -> dict[str, FeatureSet]:
        """Features by target name; targets that cut items and pool layers the same way share one pass."""
        features: dict[str, FeatureSet] = {}
        for models in group_by_pass(self.targets):
            specs = [spec for model in models for spec in model.specs]
            poolings = [{s.layer: s.pooling for s in specs if s.source == i} for i in range(len(self.sources))]
            divide = type(models[0]).divide
            rows = extract_features(
                self.sources, self.running, poolings, data, divide=divide, on_error=on_error, store=store
            )
            features |= {model.target: rows for model in models}
        return features


def load(path: str | Path, *, sources: Source | Sequence[Source] = ()) -> Predictor:
    """Load a saved predictor.

    Parameters
    ----------
    path : str or Path
    sources : Source or sequence of Source, optional
        Needed only for sources that are Python objects and could not be saved with it.

    Raises
    ------
    StoreError
        When it is incomplete, damaged, or was changed after it was saved.
    SourceError
        When a source must be given and is not, or is another one.
    MissingPackage
        When the package that builds a source is not installed.
    """
    given_sources = [sources] if isinstance(sources, Source) else list(sources)
    if not all(isinstance(source, Source) for source in given_sources):
        raise OptionError(f"sources= takes Source objects; got {', '.join(type(s).__name__ for s in given_sources)}.")
    saved = storage.read(Path(path).expanduser(), given_sources)
    return Predictor(
        sources=saved.sources,
        targets=saved.targets,
        choices=saved.choices,
        history=saved.record.history,
        chosen=saved.record.chosen,
        provenance=saved.record.provenance,
        trained_on=saved.trained_on,
    )


def group_by_pass(models: Sequence[TargetModel]) -> list[list[TargetModel]]:
    """Group target models that one pass over the items can serve.

    One pass cuts items in one way, and pools each layer in one way.
    """
    groups: list[list[TargetModel]] = []
    for model in models:
        for group in groups:
            poolings = {(spec.source, spec.layer): spec.pooling for other in group for spec in other.specs}
            same_cut = type(model).divide is type(group[0]).divide
            same_pooling = all(poolings.get((s.source, s.layer), s.pooling) == s.pooling for s in model.specs)
            if same_cut and same_pooling:
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _spread_labels(labels: Sequence[Any], index: Array, size: int) -> list[Any]:
    """Put labels at their items' positions; None stands for an item that could not be read."""
    spread: list[Any] = [None] * size
    for position, label in zip(index.tolist(), labels):
        spread[position] = label
    return spread


def _spread(values: Float | None, index: Array, shape: tuple[int, int]) -> Float:
    """Put rows at their items' positions; NaN stands for an item that could not be read."""
    spread = np.full(shape, np.nan)
    if values is not None:
        spread[index] = values
    return spread


def _shaped(by_target: dict[str, Any], *, single: bool, several: bool) -> Any:
    """Shape results as they were asked for: one item or all, one target or a dict."""
    if single:
        by_target = {name: values[0] for name, values in by_target.items()}
    return by_target if several else next(iter(by_target.values()))
