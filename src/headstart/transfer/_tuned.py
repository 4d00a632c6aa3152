"""Fine-tuning a fitted predictor: hold some items out, start from the solved head, keep what validates best."""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart._progress import note
from headstart.dataset import Dataset
from headstart.errors import OptionError
from headstart.extraction import device_name
from headstart.finetuning import Feature, Outcome, Start, tune
from headstart.heads.base import HEADS, Head
from headstart.heads.base import head as make_head
from headstart.imbalance import log_adjustment, row_weights
from headstart.policies.base import Policy
from headstart.predictor import Predictor, WithHead
from headstart.transfer import _preparing as preparing
from headstart.transfer._judging import judged, scorer
from headstart.transfer._select import Candidates

_HELD_OUT = 0.2
_FIRST = 0.45  # of the budget, so that what was found to help can be trained again on all items
_VIEWS_AT_MOST = 4
_FEWEST_HELD = 2  # per class on average; below that a validation score says nothing


def tuned(
    predictor: Predictor,
    candidates: Candidates,
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
    source = predictor.sources[answer.parts[0].source]
    labelled, T = candidates.labelled(answer.target)
    fitting, held = _halves(labelled.data, T, answer.task, guard=guard, seed=seed)
    if guard and not len(held):
        note(
            f"{len(T)} items are too few to hold some out and see whether fine-tuning helps: the frozen predictor is "
            "returned. guard=False fine-tunes all the same."
        )
        return dataclasses.replace(predictor, history={"kept": "start", "scores": {}})
    kind = predictor.chosen["selection"][answer.target]["balance"]["kind"]
    ground = preparing.ground(answer, labelled, T, layers=layers, head=head, balance=kind, seed=seed)
    X = ground.features(labelled.rows)
    shift = log_adjustment(T.sum(0)) if kind != "none" else None
    linear = _linear(ground, X[fitting], T[fitting], kind=kind, shift=shift)
    score = scorer(T[held], answer.task, balanced=shift is not None) if len(held) else None
    data, choice = labelled.data, predictor.choices[answer.parts[0].source]
    features = [Feature(part.layer, part.pooling) for part in ground.parts]
    start = Start.of(linear.coef_ / linear.temperature_, linear.intercept_ / linear.temperature_, X[fitting])
    reason = preparing.futile(
        source, features, policy, count=len(T), choice=choice, budget=budget, shown=_score(predictor, answer)
    )
    if auto and reason:
        note(f"Fine-tuning is not started: {reason}. The frozen predictor is returned.")
        return dataclasses.replace(predictor, history={"kept": "start", "scores": {}})
    begun, device = time.perf_counter(), device_name(device)
    how: dict[str, Any] = {"policy": policy, "features": features, "start": start, "score": score, "device": device}
    variants = preparing.views(source, data, held, **how)
    job = partial(
        tune,
        source,
        features,
        task=answer.task,
        policy=policy,
        offset=None if shift is None else -shift,
        seed=seed,
        device=device,
        keep=preparing.keep(source, data, choice, policy, store=store),
    )
    outcome = job(
        start,
        samples=preparing.samples(source, data, fitting, views=variants),
        targets=T[fitting],
        score=score,
        held=preparing.samples(source, data, held) if len(held) else None,
        budget=budget if budget is None or not len(held) else _FIRST * budget,
        checkpoint=checkpoint,
    )
    if score is not None:
        frozen = _frozen(answer, answer.features(labelled.rows), T, fitting=fitting, held=held)
        outcome = judged(outcome, frozen, T[held], answer.task, balanced=shift is not None, score=score)
    if outcome.kept != "start" and len(held) and _fits_again(outcome, budget, len(T), choice.speed):
        whole = _linear(ground, X, T, kind=kind, shift=shift)
        again = job(
            Start.of(whole.coef_ / whole.temperature_, whole.intercept_ / whole.temperature_, X),
            samples=preparing.samples(source, data, np.arange(len(T)), views=variants),
            targets=T,
            policy=dataclasses.replace(policy, epochs=len(outcome.history.loss)),
            average=outcome.kept == "average",
            checkpoint=None if checkpoint is None else checkpoint.with_name(checkpoint.name + ".all"),
        )
        outcome = dataclasses.replace(outcome, source=again.source, coef=again.coef, intercept=again.intercept)
        note(f"{outcome.kept.capitalize()} weights won on held-out items, and are trained again on all {len(T)} items.")
    return _result(predictor, ground, outcome, policy, seconds=time.perf_counter() - begun)


def _fits_again(outcome: Outcome, budget: float | None, count: int, speed: float) -> bool:
    """Whether the same training on all items fits into what is left, by recorded seconds and speeds, not by a clock."""
    if budget is None:
        return True
    once = sum(outcome.history.epoch_seconds)
    views = _VIEWS_AT_MOST * count / speed if speed else 0.0
    return once * (1 + 1 / (1 - _HELD_OUT)) + views <= budget


def _score(predictor: Predictor, answer: WithHead) -> float | None:
    """The frozen predictor's cross-validated accuracy, where it has one."""
    table = predictor.chosen["selection"][answer.target]
    return table["score"] if "accuracy" in str(table["metric"]) else None


def _single(predictor: Predictor) -> WithHead:
    if len(predictor.answers) > 1:
        names = ", ".join(repr(a.target) for a in predictor.answers)
        raise OptionError(f"Fine-tuning takes one target column; this data has {names}. Fit them one at a time.")
    (answer,) = predictor.answers
    assert isinstance(answer, WithHead)
    used = {part.source for part in answer.parts}
    if len(used) > 1:
        names = ", ".join(predictor.sources[i].address for i in sorted(used))
        raise OptionError(f"Fine-tuning takes one source; the best features come from {names}. Name one of them.")
    return answer


def _halves(data: Dataset, T: np.ndarray, task: str, *, guard: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(items to fit on, items held out); nothing is held out without a guard, or where a class would be lost by it."""
    everything = np.arange(len(data))
    if not guard or len(data) < round(1 / _HELD_OUT):
        return everything, everything[:0]
    folds = data.fold_ids(round(1 / _HELD_OUT), random_state=seed)
    fitting, held = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    if not len(held) or (task == "classification" and (T[fitting].sum(0) > 0).sum() < (T.sum(0) > 0).sum()):
        return everything, everything[:0]
    classes = T.shape[1] if task == "classification" else 1
    if len(held) < _FEWEST_HELD * classes:
        note(f"Only {len(held)} items could be held out: hardly enough to say whether fine-tuning helps.")
    return fitting, held


def _linear(answer: WithHead, X: np.ndarray, T: np.ndarray, *, kind: str, shift: np.ndarray | None) -> Any:
    """The head solved on the fitting items alone, balanced as the answer is; one that is not linear becomes ridge.

    The loss adds the logarithm of the training shares back to the logits, so the start must be without them.
    """
    name, fields = (answer.head.name, answer.head.fields()) if answer.head.linear else ("ridge", {})
    fresh = make_head(name, **fields).fit(X, T, task=answer.task, sample_weight=_weights(T, kind))
    fresh.temperature_ = answer.head.temperature_ if answer.head.linear else _temperature(fresh, X)
    return fresh.adjust(shift) if kind == "logit" and shift is not None else fresh


def _weights(T: np.ndarray, kind: str) -> np.ndarray | None:
    return row_weights(T) if kind == "weights" else None


def _temperature(fresh: Head, X: np.ndarray) -> float:
    """So that the starting logits have a spread of about two, whatever scores the head gives; values stay values."""
    return 1.0 if fresh.task_ == "regression" else max(float(fresh.decision(X).std()) / 2.0, 1e-6)


def _frozen(answer: WithHead, X: np.ndarray, T: np.ndarray, *, fitting: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Held-out log-odds of the frozen predictor's own head, solved on the fitting items alone."""
    fresh = make_head(answer.head.name, **answer.head.fields()).fit(X[fitting], T[fitting], task=answer.task)
    fresh.temperature_ = answer.head.temperature_
    if answer.log_ratio is not None:
        fresh.adjust(answer.log_ratio)
    return fresh.decision(X[held]) / (1.0 if answer.task == "regression" else fresh.temperature_)


def _result(predictor: Predictor, answer: WithHead, outcome: Outcome, policy: Policy, *, seconds: float) -> Predictor:
    history = {
        **outcome.history.to_dict(),
        "scores": dict(outcome.scores),
        "kept": outcome.kept,
        "moved": list(outcome.moved),
    }
    shown = ", ".join(f"{name} {value:.3f}" for name, value in outcome.scores.items())
    timing = {**predictor.chosen.get("seconds", {}), "finetune": round(seconds, 3)}
    chosen = {**predictor.chosen, "policy": "frozen" if outcome.kept == "start" else policy.name, "seconds": timing}
    if outcome.kept == "start":
        note(f"Fine-tuning did not help on held-out items ({shown}): the frozen predictor is returned.")
        return dataclasses.replace(predictor, history=history, chosen=chosen)
    if shown:
        note(f"Fine-tuned with {policy.name}; on held-out items: {shown}; kept: {outcome.kept}.")
    head = _as_head(outcome, answer)
    parts = tuple(dataclasses.replace(part, source=0) for part in answer.parts)
    index = answer.parts[0].source
    return dataclasses.replace(
        predictor,
        sources=(outcome.source,),
        choices=(predictor.choices[index],),
        answers=(dataclasses.replace(answer, parts=parts, head=head),),
        history=history,
        chosen=chosen,
        provenance={**predictor.provenance, "sources": [_described(outcome.source, predictor.sources[index])]},
    )


def _described(source: Any, before: Any) -> dict[str, Any]:
    facts = {"address": source.address, "fingerprint": source.fingerprint, "tuned_from": before.fingerprint}
    return {**facts, **dict(source.meta)}


def _as_head(outcome: Outcome, answer: WithHead) -> Head:
    """The tuned linear layer as a head: ridge for regression, logistic for classes."""
    kind = HEADS["ridge" if answer.task == "regression" else "logistic"]
    template = copy.copy(kind())
    template.task_, template.coef_, template.intercept_ = answer.task, outcome.coef, outcome.intercept
    template.temperature_ = 1.0
    return template
