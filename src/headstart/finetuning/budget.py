"""What a fine-tuning run may cost: views, epochs and disk within a budget, said before it starts; the rate range test.

What decides (views, the share of the budget) follows from remembered figures and sizes alone, never from a clock: a run
that is killed and resumed decides alike.

References
----------
Smith, Cyclical learning rates for training neural networks, WACV 2017 (the range test).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headstart._base.progress import note
from headstart.errors import OptionError
from headstart.finetuning.batches import BatchProvider, FineTuneBatch
from headstart.finetuning.parameter_groups import locate_parameters, lowest_trainable
from headstart.policies.base import Policy
from headstart.sources.base import Source
from headstart.training.batches import BatchSource, epoch_batches
from headstart.training.checkpoint import ParameterGroup, copy_into
from headstart.training.config import ResolvedConfig
from headstart.training.distributed import gradients
from headstart.training.loop import Loss

_VIEWS = 4  # unless the policy says how many
_DISK = 2 << 30  # bytes, at most, for views that nobody asked for
_VIEW_SHARE = 0.3  # of a budget, at most, for computing views that nobody asked for
_TRAIN_SHARE = 0.3  # of a budget, at least, for training, however many views were asked for
_TIMED_STEPS = 2  # of which the quicker one counts

_LOWEST_RATE, _HIGHEST_RATE, _RANGE_STEPS = 1e-6, 0.1, 36
_SMOOTHING = 0.6
_GROWN, _TOLERANCE = 1.3, 0.05  # times the first loss, and a little, since a solved head starts near zero
_SAFETY = 3.0


@dataclass(frozen=True)
class BudgetPlan:
    """What a run may use: views per training item, and seconds for its epochs (None is no limit)."""

    views: int
    budget: float | None


def plan_budget(policy: Policy, provider: BatchProvider, budget: float | None, speed: float) -> BudgetPlan:
    """Return how many views fit the disk and the budget, and what is left for training.

    Parameters
    ----------
    speed : float
        Items per second of the frozen part's forward pass, as remembered; 0 when it was never measured.

    Raises
    ------
    OptionError
        When views are asked for that this kind of item does not have.
    """
    samples, requested = provider.samples, policy.augment.views
    if samples.views is None:
        if requested is not None and requested > 1:
            raise OptionError("views= above 1 needs images: other items have no random variants. Leave it out.")
        return BudgetPlan(1, budget)
    is_cached = provider.cache is not None
    pass_seconds = len(samples) / speed if is_cached and speed else 0.0
    views = requested or _default_views(provider, budget, pass_seconds)
    if budget is not None and is_cached:
        budget = max(_TRAIN_SHARE * budget, budget - pass_seconds * views)
    return BudgetPlan(views, budget)


def _default_views(provider: BatchProvider, budget: float | None, pass_seconds: float) -> int:
    if provider.cache is None:
        return _VIEWS
    views = min(_VIEWS, _DISK // max(1, provider.cache.nbytes * len(provider.samples)))
    if budget is not None and pass_seconds:
        views = min(views, int(_VIEW_SHARE * budget / pass_seconds))
    return max(1, int(views))


def log_plan(provider: BatchProvider, loss: Loss[FineTuneBatch], config: ResolvedConfig, label: str) -> None:
    """Say epochs × seconds, views and disk. Cost: three steps without an update."""
    count = len(provider.samples)
    seconds = time_step(loss, provider, config) * math.ceil(count / config.batch_size)
    epochs = config.epochs
    if config.budget is not None:
        epochs = max(1, min(epochs, int(config.budget / max(seconds, 1e-9))))
    text = f"{label}: {epochs} epochs × {seconds:.1f} s over {count:,} items"
    if provider.cache is not None:
        size = provider.cache.nbytes * count * provider.views / 1e6
        text += f", {provider.views} view(s) of each cached at {provider.cache.layer} ({size:,.0f} MB)"
    else:
        text += f", {provider.views} view(s) of each, full forward passes"
    note(text + ".")


def time_step(loss: Loss[FineTuneBatch], data: BatchSource[FineTuneBatch], config: ResolvedConfig) -> float:
    """Return the seconds of one step, the first left out; random numbers and gradients are as they were afterwards."""
    indices = epoch_batches(len(data), config, 0)[0]
    times = []
    with torch.random.fork_rng():
        for _ in range(1 + _TIMED_STEPS):
            start = time.perf_counter()
            generator = torch.Generator().manual_seed(0)
            value = loss(data.load(indices, generator), generator)
            if value.requires_grad:
                value.backward()
            float(value.detach())  # waits for the GPU
            times.append(time.perf_counter() - start)
    return min(times[1:])


def estimate(source: Source, layers: Sequence[str], policy: Policy, *, count: int, speed: float) -> float | None:
    """Return the seconds of one epoch with a cached frozen part, from the source's measured speed; None without one.

    A step costs three forward passes of what lies above the boundary.
    """
    parameter_map = locate_parameters(source, layers)
    trainable = policy.trainable(parameter_map.parameters, len(parameter_map.unit_ends))
    lowest = lowest_trainable(trainable, parameter_map)
    if not speed or lowest is None:
        return None
    depth = source.layer(parameter_map.unit_ends[lowest - 1]).depth if lowest else 0.0
    return 3.0 * count * max(0.02, 1.0 - depth) / speed


def range_test(
    groups: Sequence[ParameterGroup],
    loss: Loss[FineTuneBatch],
    data: BatchSource[FineTuneBatch],
    *,
    config: ResolvedConfig,
) -> float:
    """Return a third of the largest learning rate at which the smoothed loss has not grown yet.

    Cost: at most 36 steps. Parameters are put back; random numbers go on as if nothing had been drawn.
    """
    parameters = {name: p for group in groups for name, p in group.parameters.items()}
    initial = {name: p.detach().clone() for name, p in parameters.items()}
    options = [{"params": list(g.parameters.values()), "lr_scale": g.lr_scale} for g in groups]
    optimizer = torch.optim.AdamW(options, lr=_LOWEST_RATE, weight_decay=0.0)
    epochs = (epoch_batches(len(data), config, epoch) for epoch in range(_RANGE_STEPS))
    batches = [indices for epoch in epochs for indices in epoch][:_RANGE_STEPS]
    best, smoothed, first = _LOWEST_RATE, math.nan, math.nan
    with torch.random.fork_rng():
        for number, indices in enumerate(batches):
            rate = _LOWEST_RATE * (_HIGHEST_RATE / _LOWEST_RATE) ** (number / (_RANGE_STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
            value = gradients(_step_loss(loss, data, indices, number), indices, list(parameters.values()))
            smoothed = value if math.isnan(smoothed) else _SMOOTHING * smoothed + (1 - _SMOOTHING) * value
            first = smoothed if math.isnan(first) else first
            if not smoothed <= _GROWN * first + _TOLERANCE:  # also when it is no number
                break
            best = rate
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.clip or math.inf)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    copy_into(parameters, initial)
    note(f"Learning-rate range test: the loss grows above {best:.1e}; {best / _SAFETY:.1e} is used.")
    return best / _SAFETY


def _step_loss(
    loss: Loss[FineTuneBatch], data: BatchSource[FineTuneBatch], indices: np.ndarray, seed: int
) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return loss(data.load(indices, generator), generator)

    return run
