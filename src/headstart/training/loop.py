"""The training loop: steps, schedule, early stopping, budget, exact resume.

Fine-tuning and pretraining give it parameter groups, a loss for some indices, and perhaps a validation score; it does
the rest. Data order, dropout and augmentation come from generators seeded by (seed, epoch, step), so a run killed and
resumed equals one that was never interrupted. A checkpoint is safetensors + JSON; nothing is pickled. Several processes
that were launched together train as one: see ``distributed``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from headstart._base.constraints import Allow, Interval, Options, validate
from headstart._base.processes import is_main, rank_and_world_size
from headstart._base.progress import Track, note, track
from headstart.errors import DataError, NumericsError, OptionError
from headstart.training import distributed
from headstart.training.checkpoint import History, ParameterGroup, TrainingState, copy_into, resume, save

Loss = Callable[[np.ndarray, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train.

    Attributes
    ----------
    epochs, batch_size : int
    lr : float
        Peak learning rate, reached after ``warmup`` (a fraction of all steps), then cosine to zero or constant.
    weight_decay : float
        Decoupled (AdamW).
    clip : float or None
        Largest norm of the gradient.
    patience : int or None
        Epochs without a better validation score before stopping.
    ema : float
        Decay of an exponential moving average of the parameters, which is then what is validated and kept; 0 is none.
    budget : float or None
        Seconds. The number of epochs is cut to what fits, measured on the first steps, so the schedule still ends.
    """

    epochs: Annotated[int, Interval(1, 100_000, integer=True)] = 10
    batch_size: Annotated[int, Interval(1, 65_536, integer=True)] = 32
    lr: Annotated[float, Interval(0, None, closed="neither")] = 1e-3
    weight_decay: Annotated[float, Interval(0, None)] = 0.0
    warmup: Annotated[float, Interval(0, 1)] = 0.1
    decay: Annotated[str, Options("cosine", "constant")] = "cosine"
    clip: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = 1.0
    patience: Annotated[int | None, Interval(1, None, integer=True), Allow(None)] = None
    ema: Annotated[float, Interval(0, 1, closed="left")] = 0.0
    budget: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None
    seed: Annotated[int, Interval(0, None, integer=True)] = 0


def train(
    groups: Sequence[ParameterGroup],
    loss: Loss,
    count: int,
    *,
    config: TrainingConfig,
    validate_score: Callable[[], float] | None = None,
    buffers: Mapping[str, torch.Tensor] | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    label: str = "training",
) -> History:
    """Minimise a loss over ``count`` items.

    Parameters
    ----------
    groups : sequence of Group
        What moves. Everything else is left alone, bit for bit.
    loss : callable
        (indices, generator) → scalar tensor with a graph: the mean over ``local_shard`` of the items.
    validate_score : callable, optional
        Score after each epoch, higher is better; the parameters of the best epoch are left behind, without it the last.
    buffers : mapping, optional
        Tensors that move without gradients (batch-norm statistics of an unfrozen part); checkpointed and restored.
    checkpoint : path, optional
        Written after every epoch; taken up when it is there and fits.
    identity : str, optional
        What is trained on what, as a fingerprint: a checkpoint of another one is refused.

    Raises
    ------
    OptionError, DataError
        When nothing moves, or there is nothing to learn from.
    NumericsError
        When the loss or its gradient is not finite: the learning rate is too high, or the input is not finite.
    StoreError
        When the checkpoint is damaged or belongs to another run.
    """
    validate(config)
    groups = [group for group in groups if group.parameters]
    if not groups:
        raise OptionError("There is nothing to train: no group holds a parameter.")
    if count < 1:
        raise DataError("There is nothing to train on: the number of items is 0.")
    state = TrainingState(groups, buffers or {}, _optimizer(groups, config), config.epochs)
    for parameter in state.named().values():
        parameter.requires_grad_(True)
    of_run = {**vars(config), "count": count, "identity": identity}
    if checkpoint is not None and checkpoint.is_file():
        resume(state, checkpoint, of_run)
    distributed.assert_same_on_all_ranks(
        [vars(config), count, state.shapes(), state.epoch, state.step], "training to do"
    )
    distributed.average_tensors(state.everything())
    steps = max(1, math.ceil(count / config.batch_size))
    with torch.random.fork_rng(), track(label, state.epochs * steps) as done:
        done(state.epoch * steps)
        run = _Run(state, loss, count, steps, schedule=config, done=done, begun=time.perf_counter())
        while state.epoch < state.epochs and not _stale(state.history, config):
            _epoch(run)
            distributed.average_tensors(state.buffers)
            _validated(state, validate_score)
            state.epoch += 1
            _fit_budget(run, whole=True)
            if checkpoint is not None:
                _saved(state, checkpoint, of_run)
    if _stale(state.history, config):
        state.history.stopped = f"no better for {config.patience} epochs"
    state.optimizer.zero_grad(set_to_none=True)
    copy_into(state.named(), state.average)
    copy_into(state.everything(), state.best)
    distributed.average_tensors(state.everything())
    return state.history


@dataclass(frozen=True)
class _Run:
    """What every step looks at."""

    state: TrainingState
    loss: Loss
    count: int
    steps: int
    schedule: TrainingConfig
    done: Track
    begun: float


def epoch_batches(count: int, schedule: TrainingConfig, epoch: int) -> Iterable[np.ndarray]:
    """The batches of one epoch: a permutation seeded by (seed, epoch), cut into nearly equal parts."""
    order = np.random.default_rng([schedule.seed, epoch]).permutation(count)
    return np.array_split(order, max(1, math.ceil(count / schedule.batch_size)))


def _optimizer(groups: Sequence[ParameterGroup], schedule: TrainingConfig) -> torch.optim.Optimizer:
    settings = [
        {
            "params": list(group.parameters.values()),
            "lr": schedule.lr * group.lr_scale,
            "weight_decay": schedule.weight_decay if group.weight_decay else 0.0,
        }
        for group in groups
    ]
    # eps: a gradient that is only rounding must not move its weight by the whole rate, or small differences grow
    return torch.optim.AdamW(settings, lr=schedule.lr, eps=1e-7)


def _epoch(run: _Run) -> None:
    start = time.perf_counter()
    state, total, rate = run.state, 0.0, 0.0
    for number, indices in enumerate(epoch_batches(run.count, run.schedule, state.epoch)):
        rate = _set_rates(state, run.schedule, run.steps)
        total += _step(run, number, indices) * len(indices)
        state.step += 1
        _averaged(state, run.schedule)
        run.done(1)
        _fit_budget(run, whole=False)
    state.history.loss.append(total / run.count)
    state.history.lr.append(rate)
    state.history.epoch_seconds.append(distributed.broadcast_scalar(lambda: time.perf_counter() - start))


def _step(run: _Run, number: int, indices: np.ndarray) -> float:
    """One step of the optimiser; the loss before it."""
    state, schedule = run.state, run.schedule
    generator = torch.Generator().manual_seed(_seed(schedule.seed, state.epoch, number))
    # dropout has no generator argument; each process draws for its own items
    torch.manual_seed(_seed(schedule.seed + 1 + rank_and_world_size()[0], state.epoch, number))
    state.optimizer.zero_grad(set_to_none=True)
    moving = list(state.named().values())
    found = distributed.gradients(run.loss, indices, generator, moving)
    if math.isfinite(found):
        longest = math.inf if schedule.clip is None else schedule.clip
        norm = float(torch.nn.utils.clip_grad_norm_(moving, longest))
        if math.isfinite(norm):
            state.optimizer.step()
            return found
    what = f"The loss is {found}" if not math.isfinite(found) else "The gradient is not finite"
    raise NumericsError(
        f"{what} at step {state.step + 1} (epoch {state.epoch + 1}). Is the input finite? If so, try a smaller lr than "
        f"{schedule.lr:g}."
    )


def _saved(state: TrainingState, checkpoint: Path, of_run: Mapping[str, Any]) -> None:
    """By the first process; nobody goes on before it is written."""
    distributed.run_on_all(lambda: save(state, checkpoint, of_run) if is_main() else None)


def _seed(seed: int, epoch: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])


def _set_rates(state: TrainingState, schedule: TrainingConfig, steps: int) -> float:
    total = max(1, state.epochs * steps)
    warm = max(1, round(schedule.warmup * total)) if schedule.warmup else 0
    if state.step < warm:
        share = (state.step + 1) / warm
    elif schedule.decay == "constant":
        share = 1.0
    else:
        share = 0.5 * (1 + math.cos(math.pi * (state.step - warm) / max(1, total - warm)))
    for setting, group in zip(state.optimizer.param_groups, state.groups):
        held = state.epoch < group.start_epoch
        setting["lr"] = 0.0 if held else schedule.lr * group.lr_scale * share
        for parameter in group.parameters.values():
            parameter.requires_grad_(not held)
    return schedule.lr * share


def _fit_budget(run: _Run, *, whole: bool) -> None:
    """Cut the number of epochs to the budget, once a few steps, or the first epoch, have shown what one costs."""
    state, budget = run.state, run.schedule.budget
    first = state.epoch == 1 if whole else state.epoch == 0 and state.step == min(3, run.steps)
    if budget is None or not first:
        return
    spent = distributed.broadcast_scalar(lambda: time.perf_counter() - run.begun)
    per_epoch = spent if whole else spent / state.step * run.steps
    affordable = max(1, int(budget / per_epoch))
    if affordable < state.epochs:
        note(f"{affordable} of {state.epochs} epochs fit into {budget:.0f} s ({per_epoch:.1f} s each).")
        state.epochs = affordable


def _averaged(state: TrainingState, schedule: TrainingConfig) -> None:
    if not schedule.ema:
        return
    with torch.no_grad():
        for name, parameter in state.named().items():
            kept = state.average.setdefault(name, parameter.detach().clone())
            # early steps count more than the plain average would let them
            decay = min(schedule.ema, (1 + state.step) / (10 + state.step))
            kept.lerp_(parameter.detach(), 1 - decay)


def _validated(state: TrainingState, score: Callable[[], float] | None) -> None:
    if score is None:
        state.history.best = state.epoch
        return
    raw = {name: p.detach().clone() for name, p in state.named().items()} if state.average else {}
    copy_into(state.named(), state.average)
    value = distributed.broadcast_scalar(score)
    value = -math.inf if math.isnan(value) else value
    if not state.history.score or value > max(state.history.score):
        state.best = {name: tensor.detach().clone() for name, tensor in state.everything().items()}
        state.history.best = state.epoch
    state.history.score.append(value)
    copy_into(state.named(), raw)


def _stale(history: History, schedule: TrainingConfig) -> bool:
    if schedule.patience is None or not history.score:
        return False
    return len(history.score) - 1 - history.best >= schedule.patience
