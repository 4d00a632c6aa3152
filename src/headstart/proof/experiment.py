"""Runs of a proof: every method is trained on k examples per class and evaluated on the test set, one run at a time.

Each finished run is written to disk at once, so that a proof that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from headstart._base.progress import listening, track
from headstart.bank.bank import FeatureBank
from headstart.dataset.dataset import Dataset
from headstart.errors import NumericsError, SourceError
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import extract
from headstart.extraction.loading import sample_loader
from headstart.policies.base import Policy
from headstart.pretraining import scratch
from headstart.pretraining.scratch import reinitialize
from headstart.proof import baselines
from headstart.proof.budget import (
    MIN_REPEATS_TIMED,
    ProofPlan,
    Speeds,
    TrainingCost,
    describe,
    plan_by_budget,
    plan_by_steps,
)
from headstart.proof.few_shot_splits import FewShotSplits
from headstart.proof.forgetting import SourceTask
from headstart.proof.run_cache import LearningRate, RunCache, RunRecord, SourceScores
from headstart.selection.search import select_head
from headstart.sources.base import Source
from headstart.training.batches import Samples
from headstart.transfer.fit import fit

# A solved head takes longer in the first measured run than this times the mean of those that follow.
_HEAD_MARGIN = 1.5

LayerRows = Mapping[str, np.ndarray]


@dataclass(eq=False)
class Experiment:
    """Everything that all methods share; features are computed once and kept.

    Attributes
    ----------
    bank : FeatureBank
        The source's features of every item.
    policy : Policy or str
        How the weights move in fine-tuning; None leaves it out.
    """

    source: Source
    splits: FewShotSplits
    bank: FeatureBank
    layers: str | tuple[str, ...]
    pooling: str
    policy: str | Policy | None
    store: str | Path | None
    device: str
    seed: int
    source_task: SourceTask | None = None
    _random: dict[int, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    @cached_property
    def raw_features(self) -> baselines.Rows | None:
        """Raw features of all items."""
        return baselines.raw_rows(self.splits.data)

    @cached_property
    def frozen_features(self) -> dict[str, np.ndarray]:
        """The source's features of all items, deepest layer first."""
        return _layer_rows(self.bank, self.splits.data)

    @cached_property
    def scratch_task(self) -> scratch.ScratchTask:
        """Items prepared once for all trainings from scratch."""
        data = self.splits.data
        samples = Samples(sample_loader(self.source, data), self.source.input.collate, len(data))
        return scratch.ScratchTask(
            self.source, samples, self.splits.T, self.splits.balanced, device_name(self.device)
        )  # fmt: skip

    def feature_seconds(self, items: np.ndarray) -> float:
        """Seconds that the features of these items cost: they are there already, but every user has to compute them."""
        speed = self.bank.choice.speed
        return len(items) / speed if speed else 0.0

    def random_features(self, repeat: int, *, max_shots: int) -> dict[str, np.ndarray]:
        """Features by the architecture with random weights, other ones in every repeat.

        Of the test items and of those drawn with up to ``max_shots`` labels per class; all other rows are zeros.
        """
        if repeat not in self._random:
            runtime, data = self.bank.choice, self.splits.data
            source = reinitialize(self.source, self.seed + repeat)
            used = np.union1d(self.splits.subset(max_shots, repeat), self.splits.test)
            bank = extract(
                source, data.take(used), layers=self.bank.layers, pooling=self.pooling, store=False,
                device=self.device, engine=runtime.engine, precision=runtime.precision, batch_size=runtime.batch_size,
            )  # fmt: skip
            rows = _layer_rows(bank, data.take(used))
            self._random.clear()  # one repeat at a time: memory
            self._random[repeat] = {layer: _scatter_rows(X, used, len(data)) for layer, X in rows.items()}
        return dict(self._random[repeat])

    def fit_head(self, rows: LayerRows | baselines.Rows, count: int, repeat: int) -> RunRecord:
        """Choose layers and head by cross-validation on the draw, as ``fit`` does it, and predict the test items."""
        splits = self.splits
        items, test = splits.subset(count, repeat), splits.test
        started = time.perf_counter()
        if callable(rows):  # raw features may be learned from the training items
            raw_train, raw_test = rows(items, test)
            train_rows, test_rows = {"raw": raw_train}, {"raw": raw_test}
        else:
            train_rows = {layer: X[items] for layer, X in rows.items()}
            test_rows = {layer: X[test] for layer, X in rows.items()}
        groups = None if splits.groups is None else splits.groups[items]
        present = np.flatnonzero(splits.T[items].sum(0))
        T = splits.T[items][:, present]
        choice = select_head(train_rows, T, groups=groups, balance="auto", fuse=True, random_state=self.seed + repeat)
        head = choice.fit(train_rows, T)
        seconds = time.perf_counter() - started
        if not callable(rows):
            seconds += self.feature_seconds(items)
        X = np.concatenate([test_rows[name] for name in choice.candidates], axis=1)
        return RunRecord(tuple(present[np.asarray(head.predict(X))].tolist()), seconds)

    def train_scratch(self, count: int, repeat: int, *, epochs: int, lr: float) -> RunRecord:
        """Train the same architecture from scratch and predict the test items."""
        task, items = self.scratch_task, self.splits.subset(count, repeat)
        started = time.perf_counter()
        model = scratch.train_from_scratch(task, items, epochs=epochs, lr=lr, seed=self.seed + repeat)
        seconds = time.perf_counter() - started
        predicted = model.decisions(task.samples, self.splits.test).argmax(1)
        return RunRecord(tuple(predicted.tolist()), seconds, epochs, lr)

    def choose_learning_rate(self, count: int, plan: ProofPlan) -> LearningRate:
        """Choose the learning rate for training from scratch on training items of the first draw."""
        epochs = max(1, round(plan.epochs[count] * plan.rate_share))
        items = self.splits.subset(count, 0)
        lr, losses = scratch.best_learning_rate(self.scratch_task, items, epochs=epochs, seed=self.seed)
        return LearningRate(lr, losses, epochs)

    def fine_tune(self, count: int, repeat: int, *, budget: float | None) -> RunRecord:
        """Run ``fit``: fine-tuned where that is better on items held out of the draw, else frozen."""
        splits = self.splits
        items = splits.subset(count, repeat)
        train, test = splits.data.take(items), splits.data.take(splits.test)
        started = time.perf_counter()
        predictor = fit(
            self.source, train, layers=self.layers, pooling=self.pooling, policy=self.policy or "frozen", budget=budget,
            store=self.store, random_state=self.seed + repeat, device=self.device,
        )  # fmt: skip
        seconds = time.perf_counter() - started + self.feature_seconds(items)
        moved = predictor.source.fingerprint != self.source.fingerprint
        labels = predictor.predict(test, store=False if moved else self.store)
        codes = {label: code for code, label in enumerate(splits.data.columns[0].classes or ())}
        source_task = None
        if self.source_task is not None and count == max(splits.shots):
            source_task = tuple(self.source_task.right(predictor.source).tolist())
        return RunRecord(
            tuple(codes[label] for label in labels),
            seconds,
            epochs=len(predictor.history.get("loss", ())) or None,
            moved=moved,
            source_task=source_task,
        )


def _layer_rows(bank: FeatureBank, data: Dataset) -> dict[str, np.ndarray]:
    return {layer: bank.rows(layer, data) for layer in reversed(list(bank.layers))}


def _scatter_rows(X: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """Return ``size`` rows, those of ``X`` at ``index`` and zeros elsewhere."""
    rows = np.zeros((size, X.shape[1]), dtype=X.dtype)
    rows[index] = X
    return rows


def available_methods(experiment: Experiment) -> tuple[list[str], list[str]]:
    """Return the methods that this source allows, and notes on those that it does not."""
    names, notes = [], []
    if experiment.raw_features is not None:
        names.append("raw")
    else:
        notes.append("There are no raw features of these items to compare with.")
    try:
        if "torch" not in experiment.source.engines:
            engine = experiment.source.engines[0]
            raise SourceError(f"{experiment.source.address} is run by {engine}, which cannot train it")
        reinitialize(experiment.source, experiment.seed)
        names += ["random", "scratch"]
    except SourceError as error:
        notes.append(f"Without random weights and training from scratch: {error}")
    names.append("frozen")
    trainable = "torch" in experiment.source.engines and any(True for _ in experiment.source.module.parameters())
    if experiment.policy is not None and trainable:
        names.append("fine-tuned")
    return names, notes


def run_or_record(name: str, work: Callable[[], RunRecord]) -> RunRecord:
    """Do a run; one that fails is an outcome, too: its reason is recorded, and the method left out at that point."""
    try:
        return work()
    except (NumericsError, SourceError) as error:
        return RunRecord(failed=f"{name}: {error}")


# ---- The runs: planned from measured speeds, and done one by one. ----

RunKey = tuple[str, int, int]  # method, labels per class, repeat


@dataclass
class ExperimentResults:
    """Outcomes of the runs.

    Attributes
    ----------
    runs : mapping (method, labels per class, repeat) → RunRecord
    repeats : int
        How many are complete.
    learning_rates : mapping of labels per class → learning rate from scratch
    source_task : tuple or None
        Which items of the source task the source was right about before fine-tuning.
    seconds : float
        Of everything, whenever it was done.
    """

    runs: dict[RunKey, RunRecord] = field(default_factory=dict)
    repeats: int = 0
    learning_rates: dict[int, float] = field(default_factory=dict)
    source_task: tuple[float, ...] | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def make_plan(
    experiment: Experiment, cache: RunCache, *, budget: float | None, steps: int, started: float
) -> ProofPlan:  # fmt: skip
    """Return the plan: made once, from speeds measured on this machine, and read back ever after."""

    def make() -> ProofPlan:
        splits = experiment.splits
        methods, missing = available_methods(experiment)
        counts = (*splits.shots, *splits.extra_shots)
        sizes = {k: len(splits.subset(k, 0)) for k in counts}
        plan = ProofPlan(
            splits.shots, splits.extra_shots, counts, len(splits.class_ranks), allowance=None, epochs={}, seconds=0.0,
            methods=tuple(methods), notes=tuple(missing),
        )  # fmt: skip
        batch = {k: scratch.batch_size_for(size) for k, size in sizes.items()}
        cost = TrainingCost(sizes, len(splits.test), _measure_speeds(experiment, cache, methods, counts[0]), batch)
        elapsed = time.perf_counter() - started
        if budget is None:
            plan = plan_by_steps(plan, cost, steps)
        else:
            plan = plan_by_budget(plan, cost, max(budget - elapsed, 0.0))
        return dataclasses.replace(plan, description=describe(plan), elapsed=round(elapsed, 3))

    return cache.get_or_run("plan", ProofPlan, make)


def _measure_speeds(experiment: Experiment, cache: RunCache, methods: list[str], count: int) -> Speeds:
    """Measure a head, by the first run itself, and a training step."""
    key = ("frozen", count, 0)
    head = cache.get_or_run(
        _run_name(key), RunRecord, lambda: experiment.fit_head(experiment.frozen_features, count, 0)
    )  # fmt: skip
    step: Mapping[str, float] = {"train": 0.0, "predict": 0.0}
    if "scratch" in methods:
        items = experiment.splits.subset(count, 0)
        step = scratch.measure_speed(experiment.scratch_task, items, experiment.seed)
    items_per_second = experiment.bank.choice.speed
    features = 1 / items_per_second if items_per_second else step["predict"]
    return Speeds(features, step["train"], step["predict"], _HEAD_MARGIN * head.wall)


def run_all(experiment: Experiment, cache: RunCache, plan: ProofPlan, *, budget: float | None) -> ExperimentResults:
    """Do every run of every repeat, repeat by repeat; after three only while the budget lasts.

    The time that counts is what the finished runs have taken, in whichever process: a proof that was killed ends where
    it would have ended.
    """
    results = ExperimentResults(seconds=plan.elapsed)
    if experiment.source_task is not None and "fine-tuned" in plan.methods:
        task = experiment.source_task
        before = cache.get_or_run(
            "source-task", SourceScores, lambda: SourceScores(tuple(task.right(experiment.source).tolist()))
        )
        results.source_task = before.right
    runs_each = sum(1 for _ in _run_keys(plan, 0))
    with track("proof: runs", plan.repeats * runs_each) as step:
        for repeat in range(plan.repeats):
            mean = (results.seconds - plan.elapsed) / max(repeat, 1)
            if budget is not None and repeat >= MIN_REPEATS_TIMED and results.seconds + mean > budget:
                results.notes.append(f"The time was over after {repeat} of {plan.repeats} repeats.")
                break
            for key in _run_keys(plan, repeat):
                with listening(None):
                    _run_one(experiment, cache, plan, results, key=key)
                step()
            results.repeats += 1
    return results


def _run_keys(plan: ProofPlan, repeat: int) -> Iterator[RunKey]:
    """Yield the runs of one repeat: the fewest labels first, all methods on the same draw after one another."""
    for count in (*plan.shots, *plan.extra_shots):
        for name in plan.methods:
            if name in ("frozen", "fine-tuned") and count not in plan.shots:
                continue
            if name == "scratch" and count not in plan.scratch_shots:
                continue
            yield name, count, repeat


def _run_one(
    experiment: Experiment, cache: RunCache, plan: ProofPlan, results: ExperimentResults, *, key: RunKey
) -> None:  # fmt: skip
    """Do or read one run; the learning rate from scratch is chosen before the first one that needs it."""
    name, count, _ = key
    rate_count = plan.rate_at(count)
    if name == "scratch" and rate_count not in results.learning_rates:
        rate = cache.get_or_run(
            f"rate-{rate_count}", LearningRate, lambda: experiment.choose_learning_rate(rate_count, plan)
        )  # fmt: skip
        results.learning_rates[rate_count] = rate.lr
        results.seconds += rate.wall
    run = cache.get_or_run(
        _run_name(key), RunRecord, lambda: run_or_record(name, lambda: _run(experiment, plan, results, key))
    )  # fmt: skip
    results.seconds += run.wall
    if run.failed is not None:
        results.notes.append(f"With {count} labels per class, {run.failed}")
    else:
        results.runs[key] = run


def _run(experiment: Experiment, plan: ProofPlan, results: ExperimentResults, key: RunKey) -> RunRecord:
    name, count, repeat = key
    if name == "raw":
        return experiment.fit_head(experiment.raw_features or {}, count, repeat)
    if name == "random":
        max_shots = (*plan.shots, *plan.extra_shots)[-1]
        return experiment.fit_head(experiment.random_features(repeat, max_shots=max_shots), count, repeat)
    if name == "frozen":
        return experiment.fit_head(experiment.frozen_features, count, repeat)
    if name == "scratch":
        lr = results.learning_rates[plan.rate_at(count)]
        return experiment.train_scratch(count, repeat, epochs=plan.epochs[count], lr=lr)
    return experiment.fine_tune(count, repeat, budget=plan.allowance)


def _run_name(key: RunKey) -> str:
    return "-".join(map(str, key))
