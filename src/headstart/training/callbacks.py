"""What happens between the steps of the training loop: hooks, and the loop's own uses of them.

Moving average, validation, budget, early stopping and checkpoints are callbacks like those that a caller gives; the
loop itself only takes steps. They run in the order in which they are listed. Where several processes train together,
each of them runs every callback, and a decision (to stop, to cut epochs) must come out alike in all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headstart._base.processes import is_main
from headstart._base.progress import Track, note
from headstart.training import checkpoint
from headstart.training.checkpoint import History, TrainingState, copy_into
from headstart.training.config import ResolvedConfig
from headstart.training.distributed import broadcast_scalar, run_on_all

_TIMED_STEPS = 3  # of the first epoch, after which its length can be told


@dataclass
class TrainingRun:
    """A run as callbacks see it.

    Attributes
    ----------
    state : TrainingState
        Epochs and steps done, parameters, optimiser and history.
    steps_per_epoch : int
    started : float
        Of ``time.perf_counter``, when this process began or took up the run.
    stop_reason : str or None
        Set by :meth:`stop`: the run ends after the current epoch, and its history says why.
    """

    state: TrainingState
    config: ResolvedConfig
    steps_per_epoch: int
    started: float
    stop_reason: str | None = None

    @property
    def history(self) -> History:
        """One entry per epoch."""
        return self.state.history

    def stop(self, reason: str) -> None:
        """End the run after the current epoch."""
        self.stop_reason = reason


class Callback:
    """Hooks of the training loop, which do nothing unless a subclass overrides them.

    A callback that keeps something of its own does not find it again when a run is resumed: what must survive belongs
    into ``run.history``.
    """

    def on_train_begin(self, run: TrainingRun) -> None:
        """Before the first step, also of a resumed run, which ``run.state`` tells."""

    def on_step_end(self, run: TrainingRun) -> None:
        """After each step; ``run.state.step`` counts it already."""

    def on_epoch_end(self, run: TrainingRun) -> None:
        """After each epoch; ``run.state.epoch`` counts it already."""


class ProgressBar(Callback):
    """Shows the steps done."""

    def __init__(self, advance: Track) -> None:
        self._advance = advance

    def on_train_begin(self, run: TrainingRun) -> None:
        """Show what an earlier process has done."""
        self._advance(run.state.epoch * run.steps_per_epoch)

    def on_step_end(self, run: TrainingRun) -> None:
        """Show one more step."""
        self._advance(1)


class MovingAverage(Callback):
    """Exponential moving average of the parameters, where ``ema`` is above 0."""

    @torch.no_grad()
    def on_step_end(self, run: TrainingRun) -> None:
        """Move the average towards the parameters."""
        state, ema = run.state, run.config.ema
        if not ema:
            return
        for name, parameter in state.parameters().items():
            average = state.average.setdefault(name, parameter.detach().clone())
            # early steps count more than the plain average would let them
            decay = min(ema, (1 + state.step) / (10 + state.step))
            average.lerp_(parameter.detach(), 1 - decay)


class EpochValidation(Callback):
    """Scores every epoch and keeps the weights of the best one; without a score, the last epoch counts as the best."""

    def __init__(self, score: Callable[[], float] | None) -> None:
        self._score = score

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Score the averaged parameters, where there are such, and put the others back."""
        state, epoch = run.state, run.state.epoch - 1
        if self._score is None:
            state.history.best = epoch
            return
        trained = {}
        if state.average:
            trained = {name: p.detach().clone() for name, p in state.parameters().items()}
        copy_into(state.parameters(), state.average)
        value = broadcast_scalar(self._score)
        value = -math.inf if math.isnan(value) else value
        if not state.history.score or value > max(state.history.score):
            state.best = {name: tensor.detach().clone() for name, tensor in state.tensors().items()}
            state.history.best = epoch
        state.history.score.append(value)
        copy_into(state.parameters(), trained)


class TimeBudget(Callback):
    """Cuts the number of epochs to the budget, when a few steps, and then the first epoch, show what one costs."""

    def on_step_end(self, run: TrainingRun) -> None:
        """Look after the first few steps of all."""
        if run.state.epoch == 0 and run.state.step == min(_TIMED_STEPS, run.steps_per_epoch):
            self._cut(run, lambda spent: spent / run.state.step * run.steps_per_epoch)

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Look again after the first epoch, which includes its validation."""
        if run.state.epoch == 1:
            self._cut(run, lambda spent: spent)

    def _cut(self, run: TrainingRun, epoch_seconds: Callable[[float], float]) -> None:
        budget, state = run.config.budget, run.state
        if budget is None:
            return
        seconds = epoch_seconds(broadcast_scalar(lambda: time.perf_counter() - run.started))
        affordable = max(1, int(budget / seconds))
        if affordable < state.epochs:
            note(f"{affordable} of {state.epochs} epochs fit into {budget:.0f} s ({seconds:.1f} s each).")
            state.epochs = affordable


class EarlyStopping(Callback):
    """Stops when the score has not improved for ``patience`` epochs."""

    def on_train_begin(self, run: TrainingRun) -> None:
        """A resumed run may have been done already."""
        self.on_epoch_end(run)

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Compare the best epoch with the last."""
        patience, history = run.config.patience, run.history
        if patience is not None and history.score and len(history.score) - 1 - history.best >= patience:
            run.stop(f"no better for {patience} epochs")


class Checkpoint(Callback):
    """Writes the state after every epoch: by the first process, and nobody goes on before it is written."""

    def __init__(self, path: Path, run_record: Mapping[str, Any]) -> None:
        self._path, self._record = path, run_record

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Replace the file, atomically."""
        run_on_all(lambda: checkpoint.save(run.state, self._path, self._record) if is_main() else None)
