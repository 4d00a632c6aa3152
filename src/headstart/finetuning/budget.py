"""Views, epochs, seconds and disk of a fine-tuning run, said before it starts.

What decides (views, the share of the budget) follows from remembered figures and sizes alone, never from a clock: a run
that is killed and resumed decides alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart._base.progress import note
from headstart.errors import OptionError
from headstart.finetuning.batches import BatchProvider
from headstart.finetuning.parameter_groups import locate_parameters, lowest_moving
from headstart.policies.base import Policy
from headstart.training.checkpoint import ParameterGroup, copy_into
from headstart.training.distributed import gradients
from headstart.training.loop import TrainingConfig, epoch_batches

_VIEWS = 4  # unless the policy says how many
_DISK = 2 << 30  # bytes, at most, for views that nobody asked for
_SHARE = 0.3  # of a budget, at most, for computing views that nobody asked for
_LEFT = 0.3  # of a budget, at least, for training, however many views were asked for
_TIMED = 2  # steps, of which the quicker one counts


@dataclass(frozen=True)
class BudgetPlan:
    """What a run may use: views per training item, and seconds for its epochs (None is no limit)."""

    views: int
    budget: float | None


def plan_budget(policy: Policy, feed: BatchProvider, budget: float | None, speed: float) -> BudgetPlan:
    """How many views fit the disk and the budget, and what is left for training.

    Parameters
    ----------
    speed : float
        Items per second of the frozen part's forward pass, as remembered; 0 when it was never measured.

    Raises
    ------
    OptionError
        When views are asked for that this kind of item does not have.
    """
    samples = feed.samples
    if samples.views is None:
        if policy.views is not None and policy.views > 1:
            raise OptionError("views= above 1 needs pictures: other items have no random variants. Leave it out.")
        return BudgetPlan(1, budget)
    cached = feed.cache is not None
    pass_seconds = len(samples) / speed if cached and speed else 0.0
    views = policy.views or _default(feed, budget, pass_seconds)
    if budget is not None and cached:
        budget = max(_LEFT * budget, budget - pass_seconds * views)
    return BudgetPlan(views, budget)


def _default(feed: BatchProvider, budget: float | None, pass_seconds: float) -> int:
    if feed.cache is None:
        return _VIEWS
    most = min(_VIEWS, _DISK // max(1, feed.cache.nbytes * len(feed.samples)))
    if budget is not None and pass_seconds:
        most = min(most, int(_SHARE * budget / pass_seconds))
    return max(1, int(most))


def log_plan(
    feed: BatchProvider,
    loss: Callable[[np.ndarray, torch.Generator], torch.Tensor],
    config: TrainingConfig,
    label: str,
) -> None:
    """Say epochs × seconds, views and disk. Cost: three steps without an update."""
    count = len(feed.samples)
    seconds = time_step(loss, config, count) * math.ceil(count / config.batch_size)
    epochs = config.epochs
    if config.budget is not None:
        epochs = max(1, min(epochs, int(config.budget / max(seconds, 1e-9))))
    text = f"{label}: {epochs} epochs × {seconds:.1f} s over {count:,} items"
    if feed.cache is not None:
        size = feed.cache.nbytes * count * feed.views / 1e6
        text += f", {feed.views} view(s) of each cached at {feed.cache.layer} ({size:,.0f} MB)"
    else:
        text += f", {feed.views} view(s) of each, full forward passes"
    note(text + ".")


def time_step(loss: Any, config: TrainingConfig, count: int) -> float:
    """Seconds of one step, the first left out; random numbers and gradients are as they were afterwards."""
    indices = next(iter(epoch_batches(count, config, 0)))
    times = []
    with torch.random.fork_rng():
        for _ in range(1 + _TIMED):
            start = time.perf_counter()
            value = loss(indices, torch.Generator().manual_seed(0))
            if value.requires_grad:
                value.backward()
            float(value.detach())
            times.append(time.perf_counter() - start)
    return min(times[1:])


def estimate(source: Any, layers: Sequence[str], policy: Policy, *, count: int, speed: float) -> float | None:
    """Seconds of one epoch with a cached frozen part, from the source's measured speed; None without one.

    A step costs three forward passes of what lies above the boundary.
    """
    places = locate_parameters(source, layers)
    lowest = lowest_moving(policy.trainable(places.parameters, len(places.ends)), places)
    if not speed or lowest is None:
        return None
    depth = source.layer(places.ends[lowest - 1]).depth if lowest else 0.0
    return 3.0 * count * max(0.02, 1.0 - depth) / speed


# The learning-rate range test (Smith 2017): steps at rates that grow, until the loss does; nothing of it stays.


_LOW, _HIGH, _STEPS = 1e-6, 0.1, 36
_SMOOTH = 0.6
_WORSE = 1.3  # of the first loss, and a little, since a solved head starts near zero
_LITTLE = 0.05
_SAFETY = 3.0


def range_test(
    groups: Sequence[ParameterGroup],
    loss: Callable[[np.ndarray, torch.Generator], torch.Tensor],
    count: int,
    *,
    config: TrainingConfig,
) -> float:
    """A third of the largest learning rate at which the smoothed loss has not grown yet.

    Cost: at most 36 steps. Parameters are put back; random numbers go on as if nothing had been drawn.
    """
    named = {name: p for group in groups for name, p in group.parameters.items()}
    before = {name: p.detach().clone() for name, p in named.items()}
    settings = [{"params": list(g.parameters.values()), "factor": g.lr_scale} for g in groups]
    optimizer = torch.optim.AdamW(settings, lr=_LOW, weight_decay=0.0)
    batches = [b for epoch in range(_STEPS) for b in epoch_batches(count, config, epoch)][:_STEPS]
    good, smooth, first = _LOW, math.nan, math.nan
    with torch.random.fork_rng():
        for number, indices in enumerate(batches):
            rate = _LOW * (_HIGH / _LOW) ** (number / (_STEPS - 1))
            for setting in optimizer.param_groups:
                setting["lr"] = rate * setting["factor"]
            optimizer.zero_grad(set_to_none=True)
            found = gradients(loss, indices, torch.Generator().manual_seed(number), list(named.values()))
            smooth = found if math.isnan(smooth) else _SMOOTH * smooth + (1 - _SMOOTH) * found
            first = smooth if math.isnan(first) else first
            if not smooth <= _WORSE * first + _LITTLE:
                break
            good = rate
            torch.nn.utils.clip_grad_norm_(list(named.values()), config.clip or math.inf)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    copy_into(named, before)
    note(f"Learning-rate range test: the loss grows above {good:.1e}; {good / _SAFETY:.1e} is used.")
    return good / _SAFETY
