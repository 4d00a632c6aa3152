"""The plan of a proof: which runs fit into the budget, and how long each may train, from speeds measured beforehand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from headstart._base.printing import seconds as duration
from headstart.proof.run_cache import WallTimed

MIN_REPEATS_TIMED = 3
_PLANNED_SHARE = 0.93  # of the budget is planned; the rest is for what takes longer than it was measured
_MOST_STEPS = 2000  # of training from scratch, however much time there is
_TRAINED = ("scratch", "fine-tuned")
RATES, RATE_SHARE = 4, 1 / 4  # learning rates tried, and the part of a run's allowance that each of them gets
_MIN_EPOCHS_BEYOND = 8  # epochs of the largest draw that must fit before time is spent on points beyond it


@dataclass(frozen=True)
class Speeds:
    """Measured seconds: per item of a pass for features, of a training step, of a prediction; per solved head."""

    features: float
    train: float
    predict: float
    head: float


@dataclass(frozen=True)
class ProofPlan(WallTimed):
    """The runs of a proof. Keys of its JSON are those of version 0.1, hence the aliases.

    Attributes
    ----------
    shots, extra_shots : tuple of int
        Labels per class compared at; extra ones for baselines alone.
    scratch_shots : tuple of int
        Those of both that are trained on from scratch.
    repeats : int
    allowance : float or None
        Seconds that training from scratch and fine-tuning each get in every run; None counts steps.
    epochs : mapping of int to int
        Of training from scratch, by labels per class.
    seconds : float
        Expected for all of it.
    methods : tuple of str
    given_up : tuple of str
        Methods that the budget leaves no time for.
    notes : tuple of str
        Consequences of the budget.
    description : str
        The plan in a sentence.
    elapsed : float
        Seconds before it was chosen.
    """

    shots: tuple[int, ...]
    extra_shots: tuple[int, ...] = field(metadata={"alias": "further"})
    scratch_shots: tuple[int, ...] = field(metadata={"alias": "long"})
    repeats: int
    allowance: float | None
    epochs: Mapping[int, int]
    seconds: float
    methods: tuple[str, ...] = field(default=(), metadata={"alias": "contenders"})
    given_up: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    description: str = field(default="", metadata={"alias": "said"})
    elapsed: float = field(default=0.0, metadata={"alias": "spent"})

    @property
    def trained(self) -> list[str]:
        """Contenders that train a network."""
        return [name for name in _TRAINED if name in self.methods]

    @property
    def rate_share(self) -> float:
        """The part of a run that each learning rate is tried for: all of it where there is no hurry."""
        return RATE_SHARE if self.allowance is not None else 1.0

    def rate_at(self, count: int) -> int:
        """At how many labels the learning rate for this many is chosen: within a budget, only where all compete."""
        return count if self.allowance is None or count in self.shots else self.shots[-1]


@dataclass(frozen=True)
class TrainingCost:
    """What there is to plan: sizes of the draws by labels per class and of the test, and how long things take."""

    sizes: Mapping[int, int]
    tested: int
    speeds: Speeds
    batch: Mapping[int, int]

    def epoch(self, count: int) -> float:
        """Seconds of one pass through a draw."""
        return self.sizes[count] * self.speeds.train

    def total(self, plan: ProofPlan, allowance: Mapping[int, float]) -> float:
        """Seconds of everything, when training at each number of labels takes what ``allowance`` says."""
        repeats, speeds = plan.repeats, self.speeds
        counts = (*plan.shots, *plan.extra_shots)
        solved = [name for name in ("raw", "random") if name in plan.methods]
        heads = repeats * speeds.head * (len(plan.shots) + len(solved) * len(counts))
        spent = heads + repeats * (self.sizes[counts[-1]] + self.tested) * speeds.features * ("random" in solved)
        for name, counts_trained in (("scratch", plan.scratch_shots), ("fine-tuned", plan.shots)):
            if name in plan.methods:
                once = self.tested * speeds.predict + (speeds.head if name == "fine-tuned" else 0.0)
                spent += repeats * sum(allowance[count] + once for count in counts_trained)
        return spent + ("scratch" in plan.methods) * sum(
            RATES * max(allowance[count] * plan.rate_share, 0.75 * self.epoch(count))
            for count in {plan.rate_at(count) for count in plan.scratch_shots}
        )


def plan_by_steps(plan: ProofPlan, work: TrainingCost, steps: int) -> ProofPlan:
    """Without a budget: so many steps on both sides."""
    epochs = {k: max(1, math.ceil(steps * work.batch[k] / work.sizes[k])) for k in plan.scratch_shots}
    seconds = {k: epochs.get(k, 1) * work.epoch(k) for k in (*plan.shots, *plan.extra_shots)}
    return replace(plan, epochs=epochs, seconds=work.total(plan, seconds))


def plan_by_budget(plan: ProofPlan, work: TrainingCost, budget: float) -> ProofPlan:
    """Within a budget: the most telling plan that gives every training an epoch; the allowance is equal for both sides.

    What tells most for its seconds is kept longest: raw, random-weight and frozen features at every number of labels,
    whose heads are solved. ``_reduced_plans`` has the order.
    """
    available = budget * _PLANNED_SHARE
    candidates = list(_reduced_plans(replace(plan, allowance=0.0)))
    chosen = next(
        (
            candidate
            for candidate in candidates
            if work.total(candidate, _min_seconds_per_training(candidate, work)) <= available
        ),
        candidates[-1],
    )
    allowance = max(_allowance(chosen, work, available), 0.1)
    epochs = {k: _epochs(allowance, work, k) for k in (*chosen.shots, *chosen.extra_shots)}
    seconds = work.total(chosen, {k: n * work.epoch(k) for k, n in epochs.items()})
    if seconds > budget:
        text = f"{duration(budget)}, all that is left of the budget, are too little even so: about {duration(seconds)}."
        chosen = _with_note(chosen, text)
    return replace(chosen, allowance=allowance, epochs={k: epochs[k] for k in chosen.scratch_shots}, seconds=seconds)


def _min_seconds_per_training(plan: ProofPlan, work: TrainingCost) -> dict[int, float]:
    """The least seconds per training: an epoch of the largest draw trained on; several before going beyond shots."""
    beyond = [k for k in plan.scratch_shots if k not in plan.shots]
    counts = [*(plan.shots if "fine-tuned" in plan.methods or beyond else plan.scratch_shots)]
    enough = max((work.epoch(k) for k in counts), default=0.0) * (_MIN_EPOCHS_BEYOND if beyond else 1)
    return {k: max(enough, work.epoch(k)) for k in (*plan.shots, *plan.extra_shots)}


def _allowance(plan: ProofPlan, work: TrainingCost, budget: float) -> float:
    """Seconds per training run that the budget leaves, found by halving: an epoch is the least that a run takes."""
    low, high = 0.0, budget
    for _ in range(40):
        middle = (low + high) / 2
        seconds = {k: max(middle, work.epoch(k)) for k in (*plan.shots, *plan.extra_shots)}
        low, high = (middle, high) if work.total(plan, seconds) <= budget else (low, middle)
    return low


def _epochs(allowance: float, work: TrainingCost, count: int) -> int:
    max_epochs = max(1, _MOST_STEPS * work.batch[count] // work.sizes[count])
    return int(min(max_epochs, max(1, allowance / max(work.epoch(count), 1e-9))))


def _reduced_plans(plan: ProofPlan) -> Iterator[ProofPlan]:
    """The plan with less and less to do, noted; what says least about the transfer for its seconds is given up first.

    Training from scratch beyond what was asked for; repeats, down to three; fine-tuning, which in little time mostly
    comes out frozen; baselines' labels beyond what was asked for; training from scratch, with the most labels first;
    numbers of labels, down to the first and the last, then the last. Repeats come back with everything that goes.
    """
    beyond = [k for k in plan.scratch_shots if k not in plan.shots]
    yield plan
    if len(beyond) > 1:
        yield replace(plan, scratch_shots=(*plan.shots, beyond[-1]))
    if beyond:
        text = "Training from scratch on more labels than asked for does not fit into the budget."
        plan = _with_note(replace(plan, scratch_shots=plan.shots), text)
    yield from _with_fewer_repeats(plan)
    if "fine-tuned" in plan.methods:
        plan = _without(plan, "fine-tuned", "Fine-tuning does not fit into the budget; transfer is frozen features.")
        yield from _with_fewer_repeats(plan)
    if plan.extra_shots:
        text = "Baselines with more labels than asked for do not fit into the budget."
        plan = _with_note(replace(plan, extra_shots=()), text)
        yield from _with_fewer_repeats(plan)
    for candidate in _with_less_scratch(plan):
        yield from _with_fewer_repeats(candidate)
        plan = candidate
    while len(plan.shots) > 1:
        dropped = plan.shots[1] if len(plan.shots) > 2 else plan.shots[-1]
        remaining = tuple(k for k in plan.shots if k != dropped)
        text = f"{dropped} labels per class do not fit into the budget and are left out."
        plan = _with_note(replace(plan, shots=remaining), text)
        yield from _with_fewer_repeats(plan)


def _with_fewer_repeats(plan: ProofPlan) -> Iterator[ProofPlan]:
    yield plan
    for repeats in range(plan.repeats - 1, MIN_REPEATS_TIMED - 1, -1):
        yield _with_note(
            replace(plan, repeats=repeats), f"Only {repeats} of {plan.repeats} repeats fit into the budget."
        )


def _with_less_scratch(plan: ProofPlan) -> Iterator[ProofPlan]:
    """Without training from scratch on the most labels, and so on, at last without any."""
    if "scratch" not in plan.methods:
        return
    for n_shots in range(len(plan.scratch_shots) - 1, 0, -1):
        lost = plan.scratch_shots[n_shots:]
        words = f"{', '.join(map(str, lost[:-1]))} or {lost[-1]}" if len(lost) > 1 else str(lost[0])
        text = f"Training from scratch with {words} labels per class does not fit into the budget."
        yield _with_note(replace(plan, scratch_shots=plan.scratch_shots[:n_shots]), text)
    text = "Training from scratch does not fit into the budget and is left out."
    yield _without(replace(plan, scratch_shots=()), "scratch", text)


def _without(plan: ProofPlan, name: str, text: str) -> ProofPlan:
    left = tuple(method for method in plan.methods if method != name)
    return _with_note(replace(plan, methods=left, given_up=(*plan.given_up, name)), text)


def _with_note(plan: ProofPlan, text: str) -> ProofPlan:
    return replace(plan, notes=(*plan.notes, text))


def describe(plan: ProofPlan) -> str:
    """The plan in a sentence."""
    runs = f"{plan.repeats} repeats with {', '.join(map(str, plan.shots))} labels per class"
    either = "on either side" if len(plan.trained) > 1 else "of " + "".join(plan.trained)
    timed = plan.allowance is not None and plan.trained
    side = f"; {duration(plan.allowance or 0.0)} of training per run {either}" if timed else ""
    trained = [f"{k}: {plan.epochs[k]}" for k in plan.scratch_shots] if "scratch" in plan.methods else []
    epochs = f" (epochs from scratch, by labels per class: {', '.join(trained)})" if trained else ""
    return f"Plan: {runs}{side}{epochs}; about {duration(plan.seconds)} in all."
