"""The learning-rate range test (Smith 2017): steps at rates that grow, until the loss does; nothing of it stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from headstart._progress import note
from headstart._together import gradients
from headstart.training import ParameterGroup, TrainingConfig, put, steps_of

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
    schedule: TrainingConfig,
) -> float:
    """A third of the largest learning rate at which the smoothed loss has not grown yet.

    Cost: at most 36 steps. Parameters are put back; random numbers go on as if nothing had been drawn.
    """
    named = {name: p for group in groups for name, p in group.parameters.items()}
    before = {name: p.detach().clone() for name, p in named.items()}
    settings = [{"params": list(g.parameters.values()), "factor": g.factor} for g in groups]
    optimizer = torch.optim.AdamW(settings, lr=_LOW, weight_decay=0.0)
    batches = [b for epoch in range(_STEPS) for b in steps_of(count, schedule, epoch)][:_STEPS]
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
            torch.nn.utils.clip_grad_norm_(list(named.values()), schedule.clip or math.inf)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    put(named, before)
    note(f"Learning-rate range test: the loss grows above {good:.1e}; {good / _SAFETY:.1e} is used.")
    return good / _SAFETY
