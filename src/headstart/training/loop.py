"""The training loop: steps with a learning-rate schedule, exact resume, any number of processes.

Whoever trains gives parameter groups, a loss on batches, and perhaps a validation score and callbacks. Data order,
dropout and augmentation come from generators seeded by (seed, epoch, step), so a run that was killed and resumed equals
one that was never interrupted, to the bit. Several processes that were launched together train as one: see
:mod:`headstart.training.distributed`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from headstart._base.processes import rank_and_world_size
from headstart._base.progress import track
from headstart.errors import DataError, NumericsError, OptionError
from headstart.training import distributed
from headstart.training.batches import B, BatchSource, Indices, Loader, Step, derived_seed
from headstart.training.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochValidation,
    MovingAverage,
    ProgressBar,
    TimeBudget,
    TrainingRun,
)
from headstart.training.checkpoint import History, ParameterGroup, TrainingState, copy_into, resume
from headstart.training.config import ResolvedConfig, TrainingConfig

Loss = Callable[[B, torch.Generator], torch.Tensor]


def train(
    groups: Sequence[ParameterGroup],
    loss: Loss[B],
    data: BatchSource[B] | int,
    *,
    config: TrainingConfig,
    validate_score: Callable[[], float] | None = None,
    buffers: Mapping[str, torch.Tensor] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Path | None = None,
    identity: str = "",
    label: str = "training",
) -> History:
    """Minimise a loss over the batches of some data.

    Parameters
    ----------
    groups : sequence of ParameterGroup
        The parameters to train. Everything else is left alone, bit for bit.
    loss : callable
        (batch, generator) → scalar tensor with a graph: the mean over this process's items of the batch
        (:func:`headstart._base.processes.local_shard`).
    data : BatchSource or int
        Gives the batches. A number of items gives their indices, for losses that have the data themselves.
    validate_score : callable, optional
        Score after each epoch, higher is better; the parameters of the best epoch are left behind, without it the last.
    buffers : mapping, optional
        Tensors that change without gradients (batch-norm statistics of an unfrozen part); checkpointed and restored.
    callbacks : sequence of Callback, optional
        Called after the loop's own, and before the checkpoint is written.
    checkpoint : path, optional
        Written after every epoch; taken up when it is there and fits.
    identity : str, optional
        What is trained on what, as a fingerprint: a checkpoint of another one is refused.

    Raises
    ------
    OptionError, DataError
        When there is no parameter to train, or no item to train on.
    NumericsError
        When the loss or its gradient is not finite: the learning rate is too high, or the input is not finite.
    StoreError
        When the checkpoint is damaged or belongs to another run.
    """
    settings = config.resolve()
    groups = [group for group in groups if group.parameters]
    source: BatchSource = Indices(data) if isinstance(data, int) else data
    if not groups:
        raise OptionError("There is nothing to train: no group holds a parameter.")
    if len(source) < 1:
        raise DataError("There is nothing to train on: the number of items is 0.")
    state = TrainingState(groups, buffers or {}, _optimizer(groups, settings), settings.epochs)
    for parameter in state.parameters().values():
        parameter.requires_grad_(True)
    record = {**settings.run_record(), "count": len(source), "identity": identity}
    if checkpoint is not None and checkpoint.is_file():
        resume(state, checkpoint, record)
    distributed.assert_same_on_all_ranks([record, state.shapes(), state.epoch, state.step], "training to do")
    distributed.average_tensors(state.tensors())
    loader = Loader(source, settings)
    with torch.random.fork_rng(), track(label, state.epochs * loader.steps_per_epoch) as advance:
        run = TrainingRun(state, settings, loader.steps_per_epoch, started=time.perf_counter())
        hooks = [MovingAverage(), ProgressBar(advance), EpochValidation(validate_score), TimeBudget(), EarlyStopping()]
        hooks += [*callbacks, *([Checkpoint(checkpoint, record)] if checkpoint is not None else [])]
        for hook in hooks:
            hook.on_train_begin(run)
        while state.epoch < state.epochs and run.stop_reason is None:
            _epoch(run, loader, loss, hooks)
    if run.stop_reason is not None:
        state.history.stopped = run.stop_reason
    state.optimizer.zero_grad(set_to_none=True)
    copy_into(state.parameters(), state.average)
    copy_into(state.tensors(), state.best)
    distributed.average_tensors(state.tensors())
    return state.history


def _optimizer(groups: Sequence[ParameterGroup], config: ResolvedConfig) -> torch.optim.Optimizer:
    options = [
        {
            "params": list(group.parameters.values()),
            "lr": config.lr * group.lr_scale,
            "weight_decay": config.weight_decay if group.weight_decay else 0.0,
        }
        for group in groups
    ]
    # eps: a gradient that is only rounding must not move its weight by the whole rate, or small differences grow
    return torch.optim.AdamW(options, lr=config.lr, eps=1e-7)


def _epoch(run: TrainingRun, loader: Loader[B], loss: Loss[B], hooks: Sequence[Callback]) -> None:
    start = time.perf_counter()
    state, total, rate = run.state, 0.0, 0.0
    for step in loader.epoch(state.epoch):
        rate = set_learning_rates(run)
        total += _step(run, step, loss) * len(step.indices)
        state.step += 1
        for hook in hooks:
            hook.on_step_end(run)
    state.history.loss.append(total / loader.count)
    state.history.lr.append(rate)
    state.history.epoch_seconds.append(distributed.broadcast_scalar(lambda: time.perf_counter() - start))
    distributed.average_tensors(state.buffers)  # each process has seen its own items
    state.epoch += 1
    for hook in hooks:
        hook.on_epoch_end(run)


def _step(run: TrainingRun, step: Step[B], loss: Loss[B]) -> float:
    """Take one step of the optimiser and return the loss before it."""
    state, config = run.state, run.config
    # dropout has no generator argument; each process draws for its own items
    torch.manual_seed(derived_seed(config.seed + 1 + rank_and_world_size()[0], state.epoch, step.number))
    state.optimizer.zero_grad(set_to_none=True)
    parameters = list(state.parameters().values())
    value = distributed.gradients(lambda: loss(*step.load()), step.indices, parameters)
    problem = f"The loss is {value}"
    if math.isfinite(value):
        max_norm = math.inf if config.clip is None else config.clip
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
        if math.isfinite(norm):
            state.optimizer.step()
            return value
        problem = "The gradient is not finite"
    raise NumericsError(
        f"{problem} at step {state.step + 1} (epoch {state.epoch + 1}). Is the input finite? If so, try a smaller lr "
        f"than {config.lr:g}."
    )


def set_learning_rates(run: TrainingRun) -> float:
    """Set the rate of every group for the next step, and return it for a group of scale 1.

    Groups whose ``start_epoch`` has not come have rate 0 and take no gradients.
    """
    state, config = run.state, run.config
    total = max(1, state.epochs * run.steps_per_epoch)
    warm = max(1, round(config.warmup * total)) if config.warmup else 0
    if state.step < warm:
        scale = (state.step + 1) / warm
    elif config.schedule == "constant":
        scale = 1.0
    else:
        scale = 0.5 * (1 + math.cos(math.pi * (state.step - warm) / max(1, total - warm)))
    for options, group in zip(state.optimizer.param_groups, state.groups):
        waiting = state.epoch < group.start_epoch
        options["lr"] = 0.0 if waiting else config.lr * group.lr_scale * scale
        for parameter in group.parameters.values():
            parameter.requires_grad_(not waiting)
    return config.lr * scale
