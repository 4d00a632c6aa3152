"""The five contenders: each learns from some items and answers the test items."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from headstart._samples import Samples
from headstart.bank import FeatureBank
from headstart.dataset import Dataset
from headstart.errors import NumericsError, SourceError
from headstart.extraction import device_name, extract, reading
from headstart.heads.auto import select_head
from headstart.policies.base import Policy
from headstart.proof import _raw, _scratch
from headstart.proof._draws import FewShotSplits
from headstart.proof._forgetting import SourceTask
from headstart.proof._fresh import reinitialize
from headstart.proof._plan import ProofPlan
from headstart.sources.base import Source
from headstart.transfer import fit

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
    def raw(self) -> _raw.Rows | None:
        """Raw features of everything."""
        return _raw.raw_rows(self.draws.data)

    @cached_property
    def frozen(self) -> dict[str, np.ndarray]:
        """The source's features of everything, deepest layer first."""
        return _rows(self.bank, self.draws.data)

    @cached_property
    def lesson(self) -> _scratch.ScratchTask:
        """For training from scratch: items are prepared once."""
        data = self.draws.data
        samples = Samples(reading(self.source, data), self.source.input.collate, len(data))
        return _scratch.ScratchTask(self.source, samples, self.draws.T, self.draws.balanced, device_name(self.device))

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

    def solved(self, rows: Mapping[str, np.ndarray] | _raw.Rows, count: int, repeat: int) -> Answer:
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
        model = _scratch.trained(self.lesson, self.draws.draw(count, repeat), epochs=epochs, lr=lr,
                                 seed=self.seed + repeat)  # fmt: skip
        spent = time.perf_counter() - begun
        answers = _scratch.decisions(model, self.lesson.samples, self.draws.test).argmax(1)
        return {"predicted": answers.tolist(), "seconds": spent, "epochs": epochs, "lr": lr}

    def rate(self, count: int, plan: ProofPlan) -> Answer:
        """The learning rate for training from scratch, chosen on training items of the first draw."""
        epochs = max(1, round(plan.epochs[count] * plan.rate_share))
        items = self.draws.draw(count, 0)
        lr, losses = _scratch.best_rate(self.lesson, items, epochs=epochs, seed=self.seed)
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
