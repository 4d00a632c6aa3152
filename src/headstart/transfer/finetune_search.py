"""Fine-tuning a fitted predictor: hold some items out, start from the solved head, keep what validates best."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import Float, Ints
from headstart.dataset.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.errors import OptionError
from headstart.extraction.autotune import device_name
from headstart.extraction.features import FeatureSet, FeatureSpec
from headstart.finetuning.finetune import FineTuneResult, finetune
from headstart.finetuning.model import HeadInit
from headstart.heads.base import HEADS, Head, LinearHead
from headstart.heads.base import head as make_head
from headstart.imbalance import log_adjustment, row_weights
from headstart.policies.base import Policy
from headstart.predictor.predictor import Predictor
from headstart.predictor.target_model import HeadModel
from headstart.sources.base import Source
from headstart.training.batches import Views
from headstart.training.distributed import broadcast_scalar
from headstart.transfer import starting_points as preparing
from headstart.transfer.acceptance import PairedPredictions, improvement, scorer, significantly_better

# Tuning runs on the items of one predictor, from other starts and with other items held out, and what they
# cost.


_VIEWS_AT_MOST = 4


@dataclass(frozen=True)
class FineTuneRun:
    """One run: from which layers and head, with which items held out, and how it ended."""

    ground: HeadModel
    held_out: Ints
    outcome: FineTuneResult

    @property
    def score(self) -> float:
        """Of what was kept, on the held-out items."""
        return self.outcome.scores[self.outcome.selected]

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
    labelled, T : FeatureSet, (n, t) array
        All items with a label, and their targets.
    kind, shift : str, (t,) array or None
        How uneven classes are balanced (:mod:`headstart.imbalance`).
    spent : float
        Seconds of all epochs so far, as recorded: a run that was killed and resumed decides as it would have.
    """

    answer: HeadModel
    source: Any
    labelled: FeatureSet
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

    def run(
        self, ground: HeadModel, fitting: Ints, held_out: Ints, *, budget: float | None, name: str = ""
    ) -> FineTuneRun:
        """Tune from a head on these layers, solved on the fitting items; the best on the held-out ones is kept."""
        score = self.scorer(held_out) if len(held_out) else None
        start, features = self._start(ground, fitting)
        outcome = self._tune(
            features,
            start,
            samples=preparing.samples(
                self.source, self.data, fitting, views=self._augmentations(features, start, held_out)
            ),
            targets=self.T[fitting],
            policy=self.policy,
            score=score,
            held_out=preparing.samples(self.source, self.data, held_out) if len(held_out) else None,
            budget=budget,
            checkpoint=self._checkpoint_path(name),
        )
        return self._record(FineTuneRun(ground, held_out, outcome))

    def refit(self, won: FineTuneRun) -> FineTuneResult:
        """The run that won once more, on all items: as many epochs, and the same of tuned and averaged weights."""
        everything = np.arange(len(self.T))
        start, features = self._start(won.ground, everything)
        again = self._tune(
            features,
            start,
            samples=preparing.samples(
                self.source, self.data, everything, views=self._augmentations(features, start, won.held_out)
            ),
            targets=self.T,
            policy=self.policy.with_training(epochs=len(won.outcome.history.loss)),
            average=won.outcome.selected == "average",
            checkpoint=self._checkpoint_path("all"),
        )
        return dataclasses.replace(won.outcome, source=again.source, coef=again.coef, intercept=again.intercept)

    def fits_budget(self, run: FineTuneRun, budget: float, *, more: int) -> bool:
        """Whether so many further runs like this one, and one on all items, fit into the budget."""
        count = len(self.T)
        views = _VIEWS_AT_MOST * count / self.choice.speed if self.choice.speed else 0.0
        fitted = 1 - len(run.held_out) / count
        needed = broadcast_scalar(lambda: self.spent + run.seconds * (more + 1 / fitted) + views)
        return needed <= budget

    def compare(self, run: FineTuneRun) -> PairedPredictions:
        """What the frozen predictor's own head, solved on the same items, and the run decide about those held out."""
        answer, held_out = self.answer, run.held_out
        X = answer.features(self.labelled.rows)
        fitting = np.setdiff1d(np.arange(len(X)), held_out)
        fresh = make_head(answer.head.name, **answer.head.config()).fit(X[fitting], self.T[fitting], task=answer.task)
        fresh.temperature_ = answer.head.temperature_
        if answer.log_ratio is not None:
            fresh.adjust(answer.log_ratio)
        frozen = fresh.decision(X[held_out]) / (1.0 if answer.task == "regression" else fresh.temperature_)
        assert run.outcome.held_out_decisions is not None
        return PairedPredictions(frozen, run.outcome.held_out_decisions, self.T[held_out])

    def is_better(self, run: FineTuneRun, seen: Sequence[PairedPredictions], choices: int) -> bool:
        """Whether what the run kept is no start, and clearly better than the frozen predictor."""
        balanced = self.shift is not None
        return run.outcome.selected != "start" and significantly_better(
            seen, self.answer.task, balanced=balanced, choices=choices
        )

    def mean_improvement(self, seen: Sequence[PairedPredictions]) -> float:
        """How many fewer mistakes per item tuned weights make than the frozen predictor."""
        return improvement(seen, self.answer.task, balanced=self.shift is not None)[0]

    def scorer(self, held_out: Ints) -> Any:
        """Decision values of the held-out items → a score."""
        return scorer(self.T[held_out], self.answer.task, balanced=self.shift is not None)

    @property
    def data(self) -> Any:
        """The labelled items."""
        return self.labelled.data

    def _tune(self, features: list[FeatureSpec], start: HeadInit, **options: Any) -> FineTuneResult:
        return finetune(
            self.source,
            features,
            start,
            task=self.answer.task,
            offset=None if self.shift is None else -self.shift,
            seed=self.seed,
            device=self.device,
            store=preparing.activation_store(self.source, self.data, self.choice, self.policy, store=self.store),
            **options,
        )

    def _start(self, ground: HeadModel, fitting: Ints) -> tuple[HeadInit, list[FeatureSpec]]:
        X = ground.features(self.labelled.rows)[fitting]
        head = _linear(ground, X, self.T[fitting], kind=self.kind, shift=self.shift)
        features = list(ground.specs)
        return HeadInit.of(head.coef_ / head.temperature_, head.intercept_ / head.temperature_, X), features

    def _augmentations(self, features: list[FeatureSpec], start: HeadInit, held_out: Ints) -> Views | None:
        """Random views, decided on once: every run sees the same, and the cache computes them once."""
        if "views" not in self._views:
            options: dict[str, Any] = {
                "policy": self.policy,
                "features": features,
                "start": start,
                "device": self.device,
            }
            score = self.scorer(held_out) if len(held_out) else None
            self._views["views"] = preparing.views(self.source, self.data, held_out, score=score, **options)
        return self._views["views"]

    def _checkpoint_path(self, name: str) -> Path | None:
        at = self.checkpoint
        return at if at is None or not name else at.with_name(f"{at.name}.{name}")

    def _record(self, attempt: FineTuneRun) -> FineTuneRun:
        self.spent += attempt.seconds
        return attempt


def _linear(answer: HeadModel, X: Float, T: Float, *, kind: str, shift: Float | None) -> Any:
    """The head solved on the fitting items alone, balanced as the answer is; one that is not linear becomes ridge.

    The loss adds the logarithm of the training shares back to the logits, so the start must be without them.
    """
    name, fields = (answer.head.name, answer.head.config()) if answer.head.linear else ("ridge", {})
    weights = row_weights(T) if kind == "weights" else None
    fresh = make_head(name, **fields).fit(X, T, task=answer.task, sample_weight=weights)
    fresh.temperature_ = answer.head.temperature_ if answer.head.linear else _temperature(fresh, X)
    return fresh.adjust(shift) if kind == "logit" and shift is not None else fresh


def _temperature(fresh: Head, X: Float) -> float:
    """So that the starting logits have a spread of about two, whatever scores the head gives; values stay values."""
    return 1.0 if fresh.task_ == "regression" else max(float(fresh.decision(X).std()) / 2.0, 1e-6)


Fold = tuple[Ints, Ints]

_HELD_OUT = 0.2
_FIRST = 0.45  # of the budget, so that what was found to help can be trained again on all items
_FEWEST_HELD = 2  # per class on average; below that a validation score says nothing


def search_finetuning(
    predictor: Predictor,
    candidates: FeatureSet,
    policy: Policy,
    *,
    guard: bool,
    budget: float | None,
    seed: int,
    device: str,
    checkpoint: Path | None,
    store: Any = None,
    layers: Any = "auto",
    head: str | Head = "auto",
    auto: bool = False,
) -> Predictor:
    """The predictor after fine-tuning, or the frozen one where that is better on validation (and ``guard`` is on)."""
    answer = _single(predictor)
    index = answer.specs[0].source
    source, choice = predictor.sources[index], predictor.choices[index]
    labelled, T = candidates.labelled(answer.target)
    folds = _folds(labelled.data, T, answer.task, seed=seed) if guard else []
    if guard and not folds:
        note(
            f"{len(T)} items are too few, or of too few groups, to hold some out and see whether fine-tuning helps: "
            "the frozen predictor is returned. guard=False fine-tunes all the same."
        )
        return dataclasses.replace(predictor, history={"kept": "start", "scores": {}})
    kind = predictor.chosen["selection"][answer.target]["balance"]["kind"]
    grounds = preparing.starting_points(answer, labelled, T, layers=layers, head=head, balance=kind, seed=seed)
    ground = next(grounds)
    used = [part.layer for part in ground.specs]
    reason = preparing.skip_reason(
        source, used, policy, count=len(T), choice=choice, budget=budget, shown=_score(predictor, answer)
    )
    if auto and reason:
        note(f"Fine-tuning is not started: {reason}. The frozen predictor is returned.")
        return dataclasses.replace(predictor, history={"kept": "start", "scores": {}})
    begun = time.perf_counter()
    work = FineTuneSearch(
        answer, source, labelled, T, policy, choice, kind, shift=log_adjustment(T.sum(0)) if kind != "none" else None,
        seed=seed, device=device_name(device), checkpoint=checkpoint, store=store,
    )  # fmt: skip
    everything = np.arange(len(T))
    if folds:
        won = _searched(work, ground, grounds, folds, budget=budget)
    else:
        won = work.run(ground, everything, everything[:0], budget=budget)
    outcome = won.outcome
    if folds and outcome.selected != "start" and (budget is None or work.fits_budget(won, budget, more=0)):
        outcome = work.refit(won)
        note(
            f"{outcome.selected.capitalize()} weights won on held-out items, and are trained again on all "
            f"{len(T)} items."
        )
    return _result(predictor, won.ground, outcome, policy, seconds=time.perf_counter() - begun)


def _searched(
    work: FineTuneSearch,
    ground: HeadModel,
    further: Iterable[HeadModel],
    folds: Sequence[Fold],
    *,
    budget: float | None,
) -> FineTuneRun:
    """The best run, or the start where that is not clearly better than the frozen predictor.

    Where the first run is not, a budget that has room for it is used: further starts are tried, and the best of all,
    if it makes fewer mistakes, is asked about other held-out items as well.
    """
    share = None if budget is None else _FIRST * budget

    def room(like: FineTuneRun) -> bool:
        return budget is not None and work.fits_budget(like, budget, more=1)

    best, choices = work.run(ground, *folds[0], budget=share), 2
    seen = [work.compare(best)]
    accepted = work.is_better(best, seen, choices)
    for other in further if not accepted and room(best) else ():
        best, choices = (
            max(best, work.run(other, *folds[0], budget=share, name="wide"), key=lambda run: run.score),
            choices + 2,
        )
        seen = [work.compare(best)]
        accepted = work.is_better(best, seen, choices)
    if not accepted and best.outcome.selected != "start" and work.mean_improvement(seen) > 0 and room(best):
        seen.append(work.compare(work.run(best.ground, *folds[1], budget=share, name="second")))
        accepted = work.is_better(best, seen, choices)
    scores = {"frozen": work.scorer(best.held_out)(seen[0].frozen), **best.outcome.scores}
    chosen = best.outcome.selected if accepted else "start"
    return dataclasses.replace(best, outcome=dataclasses.replace(best.outcome, scores=scores, selected=chosen))


def _score(predictor: Predictor, answer: HeadModel) -> float | None:
    """The frozen predictor's cross-validated accuracy, where it has one."""
    table = predictor.chosen["selection"][answer.target]
    return table["score"] if "accuracy" in str(table["metric"]) else None


def _single(predictor: Predictor) -> HeadModel:
    if len(predictor.targets) > 1:
        names = ", ".join(repr(a.target) for a in predictor.targets)
        raise OptionError(f"Fine-tuning takes one target column; this data has {names}. Fit them one at a time.")
    (answer,) = predictor.targets
    assert isinstance(answer, HeadModel)
    used = {part.source for part in answer.specs}
    if len(used) > 1:
        names = ", ".join(predictor.sources[i].address for i in sorted(used))
        raise OptionError(f"Fine-tuning takes one source; the best features come from {names}. Name one of them.")
    return answer


def _folds(data: Dataset, T: Float, task: str, *, seed: int) -> list[Fold]:
    """(items to fit on, items held out), twice; none where there are too few items, or a class would be lost.

    A fifth is held out, or whole groups: one of them where there are fewer than five.
    """
    n_units = len(data) if data.group_ids is None else len(np.unique(data.group_ids))
    parts = min(round(1 / _HELD_OUT), n_units)
    if len(data) < round(1 / _HELD_OUT) or parts < 2:
        return []
    ids = data.fold_ids(parts, random_state=seed)
    folds = [(np.flatnonzero(ids != i), np.flatnonzero(ids == i)) for i in range(2)]
    for fitting, held_out in folds:
        if not len(held_out) or (task == "classification" and (T[fitting].sum(0) > 0).sum() < (T.sum(0) > 0).sum()):
            return []
    held_out = folds[0][1]
    if len(held_out) < _FEWEST_HELD * (T.shape[1] if task == "classification" else 1):
        note(f"Only {len(held_out)} items could be held out: hardly enough to say whether fine-tuning helps.")
    return folds


def _result(
    predictor: Predictor, answer: HeadModel, outcome: FineTuneResult, policy: Policy, *, seconds: float
) -> Predictor:
    history = {
        **outcome.history.to_dict(),
        "scores": dict(outcome.scores),
        "kept": outcome.selected,
        "moved": list(outcome.moved),
    }
    shown = ", ".join(f"{name} {value:.3f}" for name, value in outcome.scores.items())
    timing = {**predictor.chosen.get("seconds", {}), "finetune": round(seconds, 3)}
    chosen = {**predictor.chosen, "policy": "frozen" if outcome.selected == "start" else policy.name, "seconds": timing}
    if outcome.selected == "start":
        note(f"Fine-tuning did not help on held-out items ({shown}): the frozen predictor is returned.")
        return dataclasses.replace(predictor, history=history, chosen=chosen)
    if shown:
        note(f"Fine-tuned with {policy.name}; on held-out items: {shown}; kept: {outcome.selected}.")
    head = _as_head(outcome, answer)
    parts = tuple(dataclasses.replace(part, source=0) for part in answer.specs)
    index = answer.specs[0].source
    return dataclasses.replace(
        predictor,
        sources=(outcome.source,),
        choices=(predictor.choices[index],),
        targets=(dataclasses.replace(answer, specs=parts, head=head),),
        history=history,
        chosen=chosen,
        provenance={**predictor.provenance, "sources": [_described(outcome.source, predictor.sources[index])]},
    )


def _described(source: Source, before: Source) -> dict[str, Any]:
    facts = {"address": source.address, "fingerprint": source.fingerprint, "tuned_from": before.fingerprint}
    return {**facts, **dict(source.meta)}


def _as_head(outcome: FineTuneResult, answer: HeadModel) -> Head:
    """The tuned linear layer as a head: ridge for regression, logistic for classes."""
    kind = HEADS["ridge" if answer.task == "regression" else "logistic"]
    template: LinearHead = copy.copy(kind())
    template.task_, template.coef_, template.intercept_ = answer.task, outcome.coef, outcome.intercept
    template.temperature_ = 1.0
    return template
