"""Fine-tuning a fitted predictor: hold some items out, start from the solved head, keep what validates best."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from headstart._progress import note
from headstart.dataset import Dataset
from headstart.errors import OptionError
from headstart.extraction import device_name, reading
from headstart.finetuning import Feature, Outcome, Samples, Start, tune
from headstart.heads.base import HEADS, Head, head as make_head
from headstart.policies.base import Policy
from headstart.predictor import Answer, Predictor
from headstart.transfer._select import Candidates

_HELD_OUT = 0.2
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
) -> Predictor:
    """The predictor after fine-tuning, or the frozen one where that is better on validation (and ``guard`` is on)."""
    answer = _single(predictor)
    source = predictor.sources[answer.parts[0].source]
    labelled, T = candidates.labelled(answer.target)
    fitting, held = _halves(labelled.data, T, answer.task, guard=guard, seed=seed)
    X = answer.features(labelled.rows)
    linear = _linear(answer, X[fitting], T[fitting])
    read = reading(source, labelled.data)
    begun = time.perf_counter()
    outcome = tune(
        source,
        [Feature(part.layer, part.pooling) for part in answer.parts],
        Start.of(linear.coef_ / linear.temperature_, linear.intercept_ / linear.temperature_, X[fitting]),
        samples=_samples(read, source, fitting),
        targets=T[fitting],
        task=answer.task,
        policy=policy,
        score=_scorer(T[held], answer) if len(held) else None,
        held=_samples(read, source, held) if len(held) else None,
        offset=None if answer.log_ratio is None else -answer.log_ratio,
        budget=budget,
        seed=seed,
        device=device_name(device),
        checkpoint=checkpoint,
    )
    return _result(predictor, answer, outcome, policy, seconds=time.perf_counter() - begun)


def _single(predictor: Predictor) -> Answer:
    if len(predictor.answers) > 1:
        names = ", ".join(repr(a.target) for a in predictor.answers)
        raise OptionError(f"Fine-tuning takes one target column; this data has {names}. Fit them one at a time.")
    answer = predictor.answers[0]
    used = {part.source for part in answer.parts}
    if len(used) > 1:
        names = ", ".join(predictor.sources[i].address for i in sorted(used))
        raise OptionError(f"Fine-tuning takes one source; the best features come from {names}. Name one of them.")
    return answer


def _halves(data: Dataset, T: np.ndarray, task: str, *, guard: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(items to fit on, items held out); nothing is held out without a guard."""
    everything = np.arange(len(data))
    if not guard:
        return everything, everything[:0]
    folds = data.fold_ids(round(1 / _HELD_OUT), random_state=seed)
    held = np.flatnonzero(folds == 0)
    classes = T.shape[1] if task == "classification" else 1
    if len(held) < _FEWEST_HELD * classes:
        note(f"Only {len(held)} items could be held out: too few to say whether fine-tuning helps.")
    return np.flatnonzero(folds != 0), held


def _linear(answer: Answer, X: np.ndarray, T: np.ndarray) -> Any:
    """The head solved on the fitting items alone; a head that is not linear gives way to ridge."""
    name, fields = answer.head.name, answer.head.fields()
    if not answer.head.linear:
        name, fields = "ridge", {}
    fresh = make_head(name, **fields).fit(X, T, task=answer.task)
    fresh.temperature_ = answer.head.temperature_ if answer.head.linear else _temperature(fresh, X)
    return fresh


def _temperature(fresh: Head, X: np.ndarray) -> float:
    """So that the starting logits have a spread of about two, whatever scores the head gives."""
    return max(float(fresh.decision(X).std()) / 2.0, 1e-6)


def _samples(read: Any, source: Any, indices: np.ndarray) -> Samples:
    places = indices.tolist()
    return Samples(lambda i: read(places[i]), source.input.collate, len(places))


def _scorer(T: np.ndarray, answer: Answer) -> Any:
    """Decision values of the held-out items → a score; ties in accuracy are broken by the likelihood."""

    def score(decision: np.ndarray) -> float:
        if answer.task == "regression":
            return -float(((decision - T) ** 2).mean())
        if answer.task == "multilabel":
            return float(((decision > 0) == (T > 0)).mean()) - 1e-3 * float(
                np.logaddexp(0, -decision * (2 * T - 1)).mean()
            )
        logits = decision - np.logaddexp.reduce(decision, axis=1, keepdims=True)
        right = (logits.argmax(1) == T.argmax(1)).mean()
        return float(right) + 1e-3 * max(float((logits * T).sum(1).mean()), -10.0)

    return score


def _result(predictor: Predictor, answer: Answer, outcome: Outcome, policy: Policy, *, seconds: float) -> Predictor:
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
    )


def _as_head(outcome: Outcome, answer: Answer) -> Head:
    """The tuned linear layer as a head: ridge for regression, logistic for classes."""
    kind = HEADS["ridge" if answer.task == "regression" else "logistic"]
    template = copy.copy(kind())
    template.task_, template.coef_, template.intercept_ = answer.task, outcome.coef, outcome.intercept
    template.temperature_ = 1.0
    return template
