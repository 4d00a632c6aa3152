"""Tuning runs on the items of one predictor, from other starts and with other items held out, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart._samples import Views
from headstart._together import broadcast_scalar
from headstart._typing import Float, Ints
from headstart.engines.base import RuntimeConfig
from headstart.finetuning import FineTuneResult, HeadInit, LayerSpec, finetune
from headstart.heads.base import Head
from headstart.heads.base import head as make_head
from headstart.imbalance import row_weights
from headstart.policies.base import Policy
from headstart.predictor import HeadModel
from headstart.transfer import _preparing as preparing
from headstart.transfer._judging import PairedPredictions, improvement, scorer, significantly_better
from headstart.transfer._select import Candidates

_VIEWS_AT_MOST = 4


@dataclass(frozen=True)
class FineTuneRun:
    """One run: from which layers and head, with which items held out, and how it ended."""

    ground: HeadModel
    held: Ints
    outcome: FineTuneResult

    @property
    def score(self) -> float:
        """Of what was kept, on the held-out items."""
        return self.outcome.scores[self.outcome.kept]

    @property
    def seconds(self) -> float:
        """Of its epochs, as recorded."""
        return sum(self.outcome.history.epoch_seconds)


@dataclass
class FineTuneSearch:
    """Everything that the runs share.

    Attributes
    ----------
    answer : HeadModel
        What the frozen predictor answers with.
    labelled, T : Candidates, (n, t) array
        All items with a label, and their targets.
    kind, shift : str, (t,) array or None
        How uneven classes are balanced (:mod:`headstart.imbalance`).
    spent : float
        Seconds of all epochs so far, as recorded: a run that was killed and resumed decides as it would have.
    """

    answer: HeadModel
    source: Any
    labelled: Candidates
    T: Float
    policy: Policy
    choice: RuntimeConfig
    kind: str
    shift: Float | None
    seed: int
    device: str
    checkpoint: Path | None
    store: Any
    spent: float = 0.0
    _views: dict[str, Views | None] = field(default_factory=dict)

    def run(self, ground: HeadModel, fitting: Ints, held: Ints, *, budget: float | None, name: str = "") -> FineTuneRun:
        """Tune from a head on these layers, solved on the fitting items; the best on the held-out ones is kept."""
        score = self.scorer(held) if len(held) else None
        start, features = self._start(ground, fitting)
        outcome = self._tune(
            features,
            start,
            samples=preparing.samples(self.source, self.data, fitting, views=self._varied(features, start, held)),
            targets=self.T[fitting],
            policy=self.policy,
            score=score,
            held=preparing.samples(self.source, self.data, held) if len(held) else None,
            budget=budget,
            checkpoint=self._named(name),
        )
        return self._counted(FineTuneRun(ground, held, outcome))

    def on_all(self, won: FineTuneRun) -> FineTuneResult:
        """The run that won once more, on all items: as many epochs, and the same of tuned and averaged weights."""
        everything = np.arange(len(self.T))
        start, features = self._start(won.ground, everything)
        again = self._tune(
            features,
            start,
            samples=preparing.samples(
                self.source, self.data, everything, views=self._varied(features, start, won.held)
            ),
            targets=self.T,
            policy=dataclasses.replace(self.policy, epochs=len(won.outcome.history.loss)),
            average=won.outcome.kept == "average",
            checkpoint=self._named("all"),
        )
        return dataclasses.replace(won.outcome, source=again.source, coef=again.coef, intercept=again.intercept)

    def affords(self, one: FineTuneRun, budget: float, *, more: int) -> bool:
        """Whether so many further runs like this one, and one on all items, fit into the budget."""
        count = len(self.T)
        views = _VIEWS_AT_MOST * count / self.choice.speed if self.choice.speed else 0.0
        fitted = 1 - len(one.held) / count
        needed = broadcast_scalar(lambda: self.spent + one.seconds * (more + 1 / fitted) + views)
        return needed <= budget

    def evidence(self, one: FineTuneRun) -> PairedPredictions:
        """What the frozen predictor's own head, solved on the same items, and the run decide about those held out."""
        answer, held = self.answer, one.held
        X = answer.features(self.labelled.rows)
        fitting = np.setdiff1d(np.arange(len(X)), held)
        fresh = make_head(answer.head.name, **answer.head.fields()).fit(X[fitting], self.T[fitting], task=answer.task)
        fresh.temperature_ = answer.head.temperature_
        if answer.log_ratio is not None:
            fresh.adjust(answer.log_ratio)
        frozen = fresh.decision(X[held]) / (1.0 if answer.task == "regression" else fresh.temperature_)
        assert one.outcome.held is not None
        return PairedPredictions(frozen, one.outcome.held, self.T[held])

    def clear(self, one: FineTuneRun, seen: Sequence[PairedPredictions], choices: int) -> bool:
        """Whether what the run kept is no start, and clearly better than the frozen predictor."""
        balanced = self.shift is not None
        return one.outcome.kept != "start" and significantly_better(
            seen, self.answer.task, balanced=balanced, choices=choices
        )

    def gain(self, seen: Sequence[PairedPredictions]) -> float:
        """How many fewer mistakes per item tuned weights make than the frozen predictor."""
        return improvement(seen, self.answer.task, balanced=self.shift is not None)[0]

    def scorer(self, held: Ints) -> Any:
        """Decision values of the held-out items → a score."""
        return scorer(self.T[held], self.answer.task, balanced=self.shift is not None)

    @property
    def data(self) -> Any:
        """The labelled items."""
        return self.labelled.data

    def _tune(self, features: list[LayerSpec], start: HeadInit, **how: Any) -> FineTuneResult:
        return finetune(
            self.source,
            features,
            start,
            task=self.answer.task,
            offset=None if self.shift is None else -self.shift,
            seed=self.seed,
            device=self.device,
            keep=preparing.activation_store(self.source, self.data, self.choice, self.policy, store=self.store),
            **how,
        )

    def _start(self, ground: HeadModel, fitting: Ints) -> tuple[HeadInit, list[LayerSpec]]:
        X = ground.features(self.labelled.rows)[fitting]
        head = _linear(ground, X, self.T[fitting], kind=self.kind, shift=self.shift)
        features = [LayerSpec(part.layer, part.pooling) for part in ground.parts]
        return HeadInit.of(head.coef_ / head.temperature_, head.intercept_ / head.temperature_, X), features

    def _varied(self, features: list[LayerSpec], start: HeadInit, held: Ints) -> Views | None:
        """Random views, decided on once: every run sees the same, and the cache computes them once."""
        if "views" not in self._views:
            how: dict[str, Any] = {"policy": self.policy, "features": features, "start": start, "device": self.device}
            score = self.scorer(held) if len(held) else None
            self._views["views"] = preparing.views(self.source, self.data, held, score=score, **how)
        return self._views["views"]

    def _named(self, name: str) -> Path | None:
        at = self.checkpoint
        return at if at is None or not name else at.with_name(f"{at.name}.{name}")

    def _counted(self, attempt: FineTuneRun) -> FineTuneRun:
        self.spent += attempt.seconds
        return attempt


def _linear(answer: HeadModel, X: Float, T: Float, *, kind: str, shift: Float | None) -> Any:
    """The head solved on the fitting items alone, balanced as the answer is; one that is not linear becomes ridge.

    The loss adds the logarithm of the training shares back to the logits, so the start must be without them.
    """
    name, fields = (answer.head.name, answer.head.fields()) if answer.head.linear else ("ridge", {})
    weights = row_weights(T) if kind == "weights" else None
    fresh = make_head(name, **fields).fit(X, T, task=answer.task, sample_weight=weights)
    fresh.temperature_ = answer.head.temperature_ if answer.head.linear else _temperature(fresh, X)
    return fresh.adjust(shift) if kind == "logit" and shift is not None else fresh


def _temperature(fresh: Head, X: Float) -> float:
    """So that the starting logits have a spread of about two, whatever scores the head gives; values stay values."""
    return 1.0 if fresh.task_ == "regression" else max(float(fresh.decision(X).std()) / 2.0, 1e-6)
