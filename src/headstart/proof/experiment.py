"""The five contenders: each learns from some items and answers the test items."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.files import read_json, write_json
from headstart._base.progress import listening, note, track
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.errors import NumericsError, SourceError, StoreError
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import extract
from headstart.extraction.loading import reading
from headstart.policies.base import Policy
from headstart.pretraining import scratch
from headstart.pretraining.scratch import reinitialize
from headstart.proof import baselines
from headstart.proof.budget import LEAST_REPEATS, ProofPlan, Speeds, TrainingCost, by_budget, by_steps, describe
from headstart.proof.few_shot_splits import FewShotSplits
from headstart.proof.forgetting import SourceTask
from headstart.selection.search import select_head
from headstart.sources.base import Source
from headstart.training.batches import Samples
from headstart.transfer.fit import fit

Answer = dict[str, Any]


@dataclass(eq=False)
class Experiment:
    """What all contenders share; features are computed once and kept.

    Attributes
    ----------
    bank : FeatureBank
        The source's features of every item.
    policy : Policy or str
        How the fine-tuned contender moves; None when there is none.
    """

    source: Source
    draws: FewShotSplits
    bank: FeatureBank
    layers: Any
    pooling: str
    policy: str | Policy | None
    store: str | Path | None
    device: str
    seed: int
    source_task: SourceTask | None = None

    @cached_property
    def raw(self) -> baselines.Rows | None:
        """Raw features of everything."""
        return baselines.raw_rows(self.draws.data)

    @cached_property
    def frozen(self) -> dict[str, np.ndarray]:
        """The source's features of everything, deepest layer first."""
        return _rows(self.bank, self.draws.data)

    @cached_property
    def scratch_task(self) -> scratch.ScratchTask:
        """For training from scratch: items are prepared once."""
        data = self.draws.data
        samples = Samples(reading(self.source, data), self.source.input.collate, len(data))
        return scratch.ScratchTask(self.source, samples, self.draws.T, self.draws.balanced, device_name(self.device))

    def feature_seconds(self, items: np.ndarray) -> float:
        """What the features of so many items cost: they are there already, but somebody has to compute them."""
        speed = self.bank.choice.speed
        return len(items) / speed if speed else 0.0

    def random(self, repeat: int, *, most: int) -> dict[str, np.ndarray]:
        """Features by the architecture with random weights, other ones in every repeat.

        Of the test items and of those drawn with up to ``most`` labels per class; the rows of all others are zeros.
        """
        kept = self.__dict__.setdefault("_random", {})
        if repeat not in kept:
            choice, data = self.bank.choice, self.draws.data
            how = {"engine": choice.engine, "precision": choice.precision, "batch_size": choice.batch_size}
            source = reinitialize(self.source, self.seed + repeat)
            used = np.union1d(self.draws.draw(most, repeat), self.draws.test)
            bank = extract(source, data.take(used), layers=self.bank.layers, pooling=self.pooling, store=False,
                           device=self.device, **how)  # fmt: skip
            kept.clear()
            kept[repeat] = {name: _placed(X, used, len(data)) for name, X in _rows(bank, data.take(used)).items()}
        return dict(kept[repeat])

    def solved(self, rows: Mapping[str, np.ndarray] | baselines.Rows, count: int, repeat: int) -> Answer:
        """Layers and head chosen by cross-validation on the draw, as ``fit`` does it; answers to the test items."""
        items, test = self.draws.draw(count, repeat), self.draws.test
        begun = time.perf_counter()
        if callable(rows):
            train_rows, test_rows = ({"raw": X} for X in rows(items, test))
        else:
            train_rows, test_rows = ({name: X[at] for name, X in rows.items()} for at in (items, test))
        groups = None if self.draws.groups is None else self.draws.groups[items]
        seen = np.flatnonzero(self.draws.T[items].sum(0))
        T = self.draws.T[items][:, seen]
        choice = select_head(train_rows, T, groups=groups, balance="auto", fuse=True, random_state=self.seed + repeat)
        head = choice.fit(train_rows, T)
        spent = time.perf_counter() - begun + (0.0 if callable(rows) else self.feature_seconds(items))
        X = np.concatenate([test_rows[name] for name in choice.candidates], axis=1)
        return {"predicted": seen[np.asarray(head.predict(X))].tolist(), "seconds": spent, "epochs": None}

    def scratch(self, count: int, repeat: int, *, epochs: int, lr: float) -> Answer:
        """Trained from scratch."""
        begun = time.perf_counter()
        model = scratch.train_from_scratch(self.scratch_task, self.draws.draw(count, repeat), epochs=epochs, lr=lr,
                                 seed=self.seed + repeat)  # fmt: skip
        spent = time.perf_counter() - begun
        answers = model.decisions(self.scratch_task.samples, self.draws.test).argmax(1)
        return {"predicted": answers.tolist(), "seconds": spent, "epochs": epochs, "lr": lr}

    def rate(self, count: int, plan: ProofPlan) -> Answer:
        """The learning rate for training from scratch, chosen on training items of the first draw."""
        epochs = max(1, round(plan.epochs[count] * plan.rate_share))
        items = self.draws.draw(count, 0)
        lr, losses = scratch.best_learning_rate(self.scratch_task, items, epochs=epochs, seed=self.seed)
        return {"lr": lr, "losses": losses, "epochs": epochs}

    def fine_tuned(self, count: int, repeat: int, *, budget: float | None) -> Answer:
        """What ``fit`` gives: tuned where that is better on items held out of the draw, else frozen."""
        draws = self.draws
        few, test = draws.data.take(draws.draw(count, repeat)), draws.data.take(draws.test)
        begun = time.perf_counter()
        predictor = fit(
            self.source, few, layers=self.layers, pooling=self.pooling, policy=self.policy or "frozen", budget=budget,
            store=self.store, random_state=self.seed + repeat, device=self.device,
        )  # fmt: skip
        spent = time.perf_counter() - begun + self.feature_seconds(draws.draw(count, repeat))
        moved = predictor.source.fingerprint != self.source.fingerprint
        labels = predictor.predict(test, store=False if moved else self.store)
        codes = {label: i for i, label in enumerate(draws.data.columns[0].classes or ())}
        epochs = len(predictor.history.get("loss", ())) or None
        answer = {"predicted": [codes[label] for label in labels], "seconds": spent, "epochs": epochs, "moved": moved}
        if self.source_task is not None and count == max(draws.shots):
            answer["source_task"] = self.source_task.right(predictor.source).tolist()
        return answer


def _rows(bank: FeatureBank, data: Dataset) -> dict[str, np.ndarray]:
    return {layer: bank.rows(layer, data) for layer in reversed(list(bank.layers))}


def _placed(X: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Rows at their places among ``size``."""
    whole = np.zeros((size, X.shape[1]), dtype=X.dtype)
    whole[at] = X
    return whole


def available_methods(contest: Experiment) -> tuple[list[str], list[str]]:
    """Contenders that this source allows, and notes on those that it does not."""
    names, notes = [], []
    if contest.raw is not None:
        names.append("raw")
    else:
        notes.append("There are no raw features of these items to compare with.")
    try:
        if "torch" not in contest.source.engines:
            raise SourceError(f"{contest.source.address} is run by {contest.source.engines[0]}, which cannot train it")
        reinitialize(contest.source, contest.seed)
        names += ["random", "scratch"]
    except SourceError as error:
        notes.append(f"Without random weights and training from scratch: {error}")
    names.append("frozen")
    trainable = "torch" in contest.source.engines and any(True for _ in contest.source.module.parameters())
    if contest.policy is not None and trainable:
        names.append("fine-tuned")
    return names, notes


def run_or_record(name: str, work: Callable[[], Answer]) -> Answer:
    """A run that fails is an outcome, too: it is written down, and the contender left out at that point."""
    try:
        return work()
    except (NumericsError, SourceError) as error:
        return {"failed": f"{name}: {error}"}


# ---- What has been done so far, on the disk: one small JSON file per run, written whole or not at all. ----


@dataclass(frozen=True)
class RunCache:
    """Finished pieces of work by name, in a folder that belongs to one proof: its name is a fingerprint of it."""

    folder: Path

    def done(self, name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What a piece of work came to: read where it is done already, else done now and written down.

        ``wall`` is added: the seconds it took, also when it was done by an earlier process.
        """
        if (known := self.known(name)) is not None:
            return known
        begun = time.perf_counter()
        found = dict(work())
        found["wall"] = round(time.perf_counter() - begun, 4)
        write_json(self._path(name), found)
        return found

    def known(self, name: str) -> dict[str, Any] | None:
        """What is there already; a damaged file is set aside as if it were not."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            found = read_json(path, "finished run of a proof")
        except StoreError as error:
            note(f"{error} It is done again.")
            return None
        return found if isinstance(found, dict) and "wall" in found else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


# ---- The runs of a proof: measured, planned, done one by one, each written down as soon as it is finished. ----


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
            train = dict(scratch.measure_speed(contest.scratch_task, draws.draw(counts[0], 0), contest.seed))
        speeds = Speeds(1 / speed if speed else train["predict"], train["train"], train["predict"], 1.5 * first["wall"])
        batch = {k: scratch.batch_size_for(size) for k, size in sizes.items()}
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
