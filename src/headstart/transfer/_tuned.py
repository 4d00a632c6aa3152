"""Fine-tuning a fitted predictor: hold some items out, start from the solved head, keep what validates best."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._typing import Float, Ints
from headstart.dataset import Dataset
from headstart.errors import OptionError
from headstart.extraction import device_name
from headstart.finetuning import FineTuneResult
from headstart.heads.base import HEADS, Head
from headstart.imbalance import log_adjustment
from headstart.policies.base import Policy
from headstart.predictor import HeadModel, Predictor
from headstart.transfer import _preparing as preparing
from headstart.transfer._attempts import FineTuneRun, FineTuneSearch
from headstart.transfer._select import Candidates

Fold = tuple[Ints, Ints]

_HELD_OUT = 0.2
_FIRST = 0.45  # of the budget, so that what was found to help can be trained again on all items
_FEWEST_HELD = 2  # per class on average; below that a validation score says nothing


def search_finetuning(
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
    index = answer.parts[0].source
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
    used = [part.layer for part in ground.parts]
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
    if folds and outcome.kept != "start" and (budget is None or work.affords(won, budget, more=0)):
        outcome = work.on_all(won)
        note(f"{outcome.kept.capitalize()} weights won on held-out items, and are trained again on all {len(T)} items.")
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
        return budget is not None and work.affords(like, budget, more=1)

    best, choices = work.run(ground, *folds[0], budget=share), 2
    seen = [work.evidence(best)]
    kept = work.clear(best, seen, choices)
    for other in further if not kept and room(best) else ():
        best, choices = (
            max(best, work.run(other, *folds[0], budget=share, name="wide"), key=lambda one: one.score),
            choices + 2,
        )
        seen = [work.evidence(best)]
        kept = work.clear(best, seen, choices)
    if not kept and best.outcome.kept != "start" and work.gain(seen) > 0 and room(best):
        seen.append(work.evidence(work.run(best.ground, *folds[1], budget=share, name="second")))
        kept = work.clear(best, seen, choices)
    scores = {"frozen": work.scorer(best.held)(seen[0].frozen), **best.outcome.scores}
    chosen = best.outcome.kept if kept else "start"
    return dataclasses.replace(best, outcome=dataclasses.replace(best.outcome, scores=scores, kept=chosen))


def _score(predictor: Predictor, answer: HeadModel) -> float | None:
    """The frozen predictor's cross-validated accuracy, where it has one."""
    table = predictor.chosen["selection"][answer.target]
    return table["score"] if "accuracy" in str(table["metric"]) else None


def _single(predictor: Predictor) -> HeadModel:
    if len(predictor.answers) > 1:
        names = ", ".join(repr(a.target) for a in predictor.answers)
        raise OptionError(f"Fine-tuning takes one target column; this data has {names}. Fit them one at a time.")
    (answer,) = predictor.answers
    assert isinstance(answer, HeadModel)
    used = {part.source for part in answer.parts}
    if len(used) > 1:
        names = ", ".join(predictor.sources[i].address for i in sorted(used))
        raise OptionError(f"Fine-tuning takes one source; the best features come from {names}. Name one of them.")
    return answer


def _folds(data: Dataset, T: Float, task: str, *, seed: int) -> list[Fold]:
    """(items to fit on, items held out), twice; none where there are too few items, or a class would be lost.

    A fifth is held out, or whole groups: one of them where there are fewer than five.
    """
    whole = len(data) if data.group_numbers is None else len(np.unique(data.group_numbers))
    parts = min(round(1 / _HELD_OUT), whole)
    if len(data) < round(1 / _HELD_OUT) or parts < 2:
        return []
    ids = data.fold_ids(parts, random_state=seed)
    folds = [(np.flatnonzero(ids != i), np.flatnonzero(ids == i)) for i in range(2)]
    for fitting, held in folds:
        if not len(held) or (task == "classification" and (T[fitting].sum(0) > 0).sum() < (T.sum(0) > 0).sum()):
            return []
    held = folds[0][1]
    if len(held) < _FEWEST_HELD * (T.shape[1] if task == "classification" else 1):
        note(f"Only {len(held)} items could be held out: hardly enough to say whether fine-tuning helps.")
    return folds


def _result(
    predictor: Predictor, answer: HeadModel, outcome: FineTuneResult, policy: Policy, *, seconds: float
) -> Predictor:
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


def _as_head(outcome: FineTuneResult, answer: HeadModel) -> Head:
    """The tuned linear layer as a head: ridge for regression, logistic for classes."""
    kind = HEADS["ridge" if answer.task == "regression" else "logistic"]
    template = copy.copy(kind())
    template.task_, template.coef_, template.intercept_ = answer.task, outcome.coef, outcome.intercept
    template.temperature_ = 1.0
    return template
