"""What will be run and how long each side may take: made once from measured speeds, written down, said beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart._printing import seconds as duration

LEAST_REPEATS = 3
_RESERVE = 0.93  # of the budget is planned; the rest is for what takes longer than it was measured
_MOST_STEPS = 2000  # of training from scratch, however much time there is
RATES, RATE_SHARE = 4, 1 / 4  # learning rates tried, and the part of a run's allowance that each of them gets
_WORTH = 8  # epochs of the largest draw that must fit before time is spent on points beyond it


@dataclass(frozen=True)
class Speeds:
    """Measured seconds: per item of a pass for features, of a training step, of a prediction; per solved head."""

    features: float
    train: float
    predict: float
    head: float


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes
    ----------
    shots, further : tuple of int
        Labels per class compared at; further ones for rivals alone. ``long`` are those of them that scratch is given.
    repeats : int
    allowance : float or None
        Seconds that training from scratch and fine-tuning each get in every run; None counts steps.
    epochs : mapping of int to int
        Of training from scratch, by labels per class.
    seconds : float
        What all of it is expected to take.
    notes : tuple of str
        What the budget has cost.
    said : str
        The plan in a sentence; ``spent`` are the seconds before it was made.
    """

    shots: tuple[int, ...]
    further: tuple[int, ...]
    long: tuple[int, ...]
    repeats: int
    allowance: float | None
    epochs: Mapping[int, int]
    seconds: float
    contenders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    said: str = ""
    spent: float = 0.0

    @property
    def rate_share(self) -> float:
        """The part of a run that each learning rate is tried for: all of it where there is no hurry."""
        return RATE_SHARE if self.allowance is not None else 1.0

    def rate_at(self, count: int) -> int:
        """At how many labels the learning rate for this many is chosen: within a budget, only where all compete."""
        return count if self.allowance is None or count in self.shots else self.shots[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "epochs": {str(count): many for count, many in self.epochs.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_dict`."""
        lists: dict[str, Any] = {
            name: tuple(plain[name]) for name in ("shots", "further", "long", "contenders", "notes")
        }
        epochs = {int(count): int(many) for count, many in plain["epochs"].items()}
        as_is = {name: plain[name] for name in ("repeats", "allowance", "seconds", "said", "spent")}
        return cls(**as_is, **lists, epochs=epochs)


@dataclass(frozen=True)
class Work:
    """What there is to plan: sizes of the draws by labels per class, of the test, and which contenders there are."""

    sizes: Mapping[int, int]
    tested: int
    contenders: Sequence[str]
    speeds: Speeds
    batch: Mapping[int, int]

    def epoch(self, count: int) -> float:
        """Seconds of one pass through a draw."""
        return self.sizes[count] * self.speeds.train

    def total(self, plan: Plan, allowance: Mapping[int, float]) -> float:
        """Seconds of everything, when training at each number of labels takes what ``allowance`` says."""
        repeats, speeds = plan.repeats, self.speeds
        counts = (*plan.shots, *plan.further)
        solved = [name for name in ("raw", "random") if name in self.contenders]
        heads = repeats * speeds.head * (len(plan.shots) + len(solved) * len(counts))
        spent = heads + repeats * (self.sizes[counts[-1]] + self.tested) * speeds.features * ("random" in solved)
        for name, given in (("scratch", plan.long), ("fine-tuned", plan.shots)):
            if name in self.contenders:
                once = self.tested * speeds.predict + (speeds.head if name == "fine-tuned" else 0.0)
                spent += repeats * sum(allowance[count] + once for count in given)
        return spent + ("scratch" in self.contenders) * sum(
            RATES * max(allowance[count] * plan.rate_share, 0.75 * self.epoch(count))
            for count in {plan.rate_at(count) for count in plan.long}
        )


def by_steps(plan: Plan, work: Work, steps: int) -> Plan:
    """Without a budget: so many steps on both sides."""
    epochs = {k: max(1, math.ceil(steps * work.batch[k] / work.sizes[k])) for k in plan.long}
    seconds = {k: epochs.get(k, 1) * work.epoch(k) for k in (*plan.shots, *plan.further)}
    return replace(plan, epochs=epochs, seconds=work.total(plan, seconds))


def by_budget(plan: Plan, work: Work, budget: float) -> Plan:
    """Within a budget: an equal allowance for both sides, for the most runs that leave one worth having.

    Given up in this order, when even an epoch of the largest draw does not fit: points beyond what was asked for,
    repeats down to three, numbers of labels down to the first and the last, then the last.
    """
    notes = [*plan.notes]
    plan = replace(plan, allowance=0.0)
    while True:
        epochs_worth = _WORTH if plan.long != plan.shots else 1
        enough = epochs_worth * work.epoch(plan.shots[-1]) if {"scratch", "fine-tuned"} & {*work.contenders} else 0.0
        allowance = _allowance(plan, work, budget * _RESERVE)
        if allowance >= enough:
            break
        smaller = _smaller(plan, notes)
        if smaller is None:
            allowance = max(allowance, 0.1)
            notes.append(
                f"{duration(budget)} are too little for this source: an epoch of {work.sizes[plan.shots[-1]]} items "
                f"takes {duration(enough)}. Every run trains for one epoch; give more time, or smaller shots."
            )
            break
        plan = smaller
    epochs = {k: _epochs(allowance, work, k) for k in (*plan.shots, *plan.further)}
    seconds = work.total(plan, {k: many * work.epoch(k) for k, many in epochs.items()})
    epochs = {k: epochs[k] for k in plan.long}
    return replace(plan, allowance=allowance, epochs=epochs, seconds=seconds, notes=tuple(dict.fromkeys(notes)))


def _allowance(plan: Plan, work: Work, budget: float) -> float:
    """Seconds per training run that the budget leaves, found by halving: an epoch is the least that a run takes."""
    low, high = 0.0, budget
    for _ in range(40):
        middle = (low + high) / 2
        given = {k: max(middle, work.epoch(k)) for k in (*plan.shots, *plan.further)}
        low, high = (middle, high) if work.total(plan, given) <= budget else (low, middle)
    return low


def _epochs(allowance: float, work: Work, count: int) -> int:
    most = max(1, _MOST_STEPS * work.batch[count] // work.sizes[count])
    return int(min(most, max(1, allowance / max(work.epoch(count), 1e-9))))


def _smaller(plan: Plan, notes: list[str]) -> Plan | None:
    """The same with less to do, and a note; None when there is nothing left to give up."""
    changes: dict[str, Any]
    beyond = [k for k in plan.long if k not in plan.shots]
    if len(beyond) > 1:
        changes = {"long": (*plan.shots, beyond[-1])}
    elif beyond:
        changes = {"long": plan.shots}
        notes.append("Training from scratch on more labels than asked for does not fit into the budget.")
    elif plan.repeats > LEAST_REPEATS:
        changes = {"repeats": plan.repeats - 1}
        notes[:] = [text for text in notes if not text.startswith("Only")]
        notes.append(f"Only {plan.repeats - 1} repeats fit into the budget.")
    elif len(plan.shots) > 1:
        dropped = plan.shots[1] if len(plan.shots) > 2 else plan.shots[-1]
        kept = tuple(k for k in plan.shots if k != dropped)
        changes = {"shots": kept, "long": kept}
        notes.append(f"{dropped} labels per class do not fit into the budget and are left out.")
    else:
        return None
    return replace(plan, **changes)


def said(plan: Plan, work: Work) -> str:
    """The plan in a sentence."""
    runs = f"{plan.repeats} repeats with {', '.join(map(str, plan.shots))} labels per class"
    trains = {"scratch", "fine-tuned"} & set(work.contenders)
    side = (
        ""
        if plan.allowance is None or not trains
        else f"; {duration(plan.allowance)} of training per run on either side"
    )
    trained = [f"{k}: {plan.epochs[k]}" for k in plan.long] if "scratch" in work.contenders else []
    epochs = f" (epochs from scratch, by labels per class: {', '.join(trained)})" if trained else ""
    return f"Plan: {runs}{side}{epochs}; about {duration(plan.seconds)} in all."
