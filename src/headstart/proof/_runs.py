"""The runs of a proof: measured, planned, done one by one, each written down as soon as it is finished."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headstart._progress import listening, track
from headstart.proof import _scratch
from headstart.proof._cells import RunCache
from headstart.proof._contenders import Answer, Experiment, available_methods, run_or_record
from headstart.proof._plan import LEAST_REPEATS, ProofPlan, Speeds, TrainingCost, by_budget, by_steps, describe

Key = tuple[str, int, int]


@dataclass
class ExperimentResults:
    """What the runs came to.

    Attributes
    ----------
    runs : mapping (contender, labels per class, repeat) → answer
    repeats : int
        How many are complete.
    rates : mapping of labels per class → learning rate from scratch
    source_task : list or None
        Which items of the source task the source was right about before fine-tuning.
    seconds : float
        Of everything, whenever it was done.
    """

    runs: dict[Key, Answer] = field(default_factory=dict)
    repeats: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    source_task: list[float] | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def planned(contest: Experiment, cells: RunCache, *, budget: float | None, steps: int, begun: float) -> dict[str, Any]:
    """The plan as plain data: made once, from speeds measured on this machine."""

    def make() -> Answer:
        draws = contest.draws
        names, absent = available_methods(contest)
        counts = (*draws.shots, *draws.further)
        sizes = {k: len(draws.draw(k, 0)) for k in counts}
        first = cells.done(_name(("frozen", counts[0], 0)), lambda: contest.solved(contest.frozen, counts[0], 0))
        speed = contest.bank.choice.speed
        train = {"train": 0.0, "predict": 0.0}
        if "scratch" in names:
            train = dict(_scratch.speed(contest.lesson, draws.draw(counts[0], 0), contest.seed))
        speeds = Speeds(1 / speed if speed else train["predict"], train["train"], train["predict"], 1.5 * first["wall"])
        batch = {k: _scratch.batch_of(size) for k, size in sizes.items()}
        work = TrainingCost(sizes, len(draws.test), speeds, batch)
        plan = ProofPlan(
            draws.shots, draws.further, counts, len(draws.ranks), allowance=None, epochs={}, seconds=0.0,
            contenders=tuple(names), notes=tuple(absent),
        )  # fmt: skip
        spent = time.perf_counter() - begun
        if budget is None:
            plan = by_steps(plan, work, steps)
        else:
            plan = by_budget(plan, work, max(budget - spent, 0.0))
        return dataclasses.replace(plan, said=describe(plan), spent=round(spent, 3)).to_dict()

    return cells.done("plan", make)


def run_all(contest: Experiment, cells: RunCache, plan: ProofPlan, *, budget: float | None) -> ExperimentResults:
    """Every run of every repeat, repeat by repeat; after three only while the budget lasts.

    The time that counts is what the finished runs have taken, in whichever process: a proof that was killed ends where
    it would have ended.
    """
    done = ExperimentResults(seconds=plan.spent)
    if contest.source_task is not None and "fine-tuned" in plan.contenders:
        task = contest.source_task
        before = cells.done("source-task", lambda: {"right": task.right(contest.source).tolist()})
        done.source_task = before["right"]
    runs_each = sum(1 for _ in _keys(plan, 0))
    with track("proof: runs", plan.repeats * runs_each) as step:
        for repeat in range(plan.repeats):
            mean = (done.seconds - plan.spent) / max(repeat, 1)
            if budget is not None and repeat >= LEAST_REPEATS and done.seconds + mean > budget:
                done.notes.append(f"The time was over after {repeat} of {plan.repeats} repeats.")
                break
            for key in _keys(plan, repeat):
                with listening(None):
                    _one(contest, cells, plan, done, key=key)
                step()
            done.repeats += 1
    return done


def _keys(plan: ProofPlan, repeat: int) -> Iterator[Key]:
    """The runs of one repeat: the fewest labels first, everybody on the same draw after one another."""
    for count in (*plan.shots, *plan.further):
        for name in plan.contenders:
            if name in ("frozen", "fine-tuned") and count not in plan.shots:
                continue
            if name == "scratch" and count not in plan.long:
                continue
            yield name, count, repeat


def _one(contest: Experiment, cells: RunCache, plan: ProofPlan, done: ExperimentResults, *, key: Key) -> None:
    """One run, done or read; the learning rate from scratch is chosen before the first one that needs it."""
    name, count, _ = key
    at = plan.rate_at(count)
    if name == "scratch" and at not in done.rates:
        rate = cells.done(f"rate-{at}", lambda: contest.rate(at, plan))
        done.rates[at] = float(rate["lr"])
        done.seconds += rate["wall"]
    answer = cells.done(_name(key), lambda: run_or_record(name, _job(contest, plan, done, key)))
    done.seconds += answer["wall"]
    if "failed" in answer:
        done.notes.append(f"With {count} labels per class, {answer['failed']}")
    else:
        done.runs[key] = answer


def _job(contest: Experiment, plan: ProofPlan, done: ExperimentResults, key: Key) -> Callable[[], Answer]:
    name, count, repeat = key
    if name == "raw":
        return lambda: contest.solved(contest.raw or {}, count, repeat)
    if name == "random":
        return lambda: contest.solved(contest.random(repeat, most=(*plan.shots, *plan.further)[-1]), count, repeat)
    if name == "frozen":
        return lambda: contest.solved(contest.frozen, count, repeat)
    if name == "scratch":
        return lambda: contest.scratch(count, repeat, epochs=plan.epochs[count], lr=done.rates[plan.rate_at(count)])
    return lambda: contest.fine_tuned(count, repeat, budget=plan.allowance)


def _name(key: Key) -> str:
    return "-".join(map(str, key))
