"""Several processes that train as one: started by ``accelerate launch`` or torchrun, joined by accelerate. Floor 4.

All of them run the same script on the same files. Each computes its part of every batch; one sum over all of them,
taken by accelerate, gives everyone the gradients of the whole batch. What one of them fails at ends them all, because
the sum also says so: nobody waits for a process that has given up. A process that is alone never imports accelerate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from headstart._base.extras import require_package
from headstart._base.hashing import fingerprint
from headstart._base.processes import is_main, local_shard, rank_and_world_size
from headstart.errors import HeadstartError, OptionError

T = TypeVar("T")

_WAIT = timedelta(days=1)  # for the first process to extract; the launcher ends those that wait for one that is gone


def init_distributed() -> None:
    """Join the other processes, where there are any; on GPUs each takes its own.

    Raises
    ------
    MissingPackage, OptionError
        Without accelerate, or when it sees another number of processes than the launcher says.
    """
    if rank_and_world_size()[1] > 1:
        _accelerator()


@cache
def _accelerator() -> Any:
    rank, world_size = rank_and_world_size()
    accelerate = require_package(
        "accelerate", f"to train in {world_size} processes together (this is number {rank + 1})"
    )
    wait = accelerate.utils.InitProcessGroupKwargs(timeout=_WAIT)
    accelerator = accelerate.Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[wait])
    if (accelerator.process_index, accelerator.num_processes) != (rank, world_size):
        raise OptionError(
            f"The launcher says that this is process {rank} of {world_size}, accelerate "
            f"{accelerator.process_index} of {accelerator.num_processes}. Start all of them with one accelerate launch "
            "or torchrun."
        )
    return accelerator


def all_reduce_sum(make: Callable[[], torch.Tensor], size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the sum over all processes of the vector of ``size`` numbers that each makes; when one fails, all do.

    Raises
    ------
    HeadstartError
        When another process has failed, or cannot be reached any more.
    """
    if rank_and_world_size()[1] == 1:
        return make()
    failure, vector = None, torch.zeros(size, dtype=dtype)
    try:
        vector = make()
    except BaseException as error:  # raised below, once the others know
        failure = error
    accelerator = _accelerator()
    # one number more than asked for: how many processes have failed
    message = torch.cat([vector, vector.new_full((1,), failure is not None)]).to(accelerator.device, dtype)
    try:
        total = accelerator.reduce(message, reduction="sum").to(vector.device)
    except RuntimeError as error:
        raise failure or HeadstartError(f"The other processes cannot be reached any more: {error}") from error
    if failure is not None:
        raise failure
    if total[-1] > 0:
        raise HeadstartError("Another process has failed, and this one ends with it; what that one says is the reason.")
    return total[:-1]


def run_on_all(work: Callable[[], object]) -> None:
    """Do the work in every process; none goes on before all have done theirs."""

    def run() -> torch.Tensor:
        work()
        return torch.zeros(0, dtype=torch.float64)

    all_reduce_sum(run, 0)


def main_first(work: Callable[[], T]) -> T:
    """Do the work in the first process, then in the others, which find what it has left in the store."""
    if rank_and_world_size()[1] == 1:
        return work()
    results: list[T] = []

    def work_if(main: bool) -> None:
        if is_main() is main:
            results.append(work())

    run_on_all(lambda: work_if(True))
    run_on_all(lambda: work_if(False))
    return results[0]


def broadcast_scalar(number: Callable[[], float]) -> float:
    """Return the first process's number to all: for clocks and scores, which shall decide alike everywhere."""

    def local() -> torch.Tensor:
        value = number()  # computed by all, for it may itself be a sum over processes
        return torch.tensor([value if is_main() else 0.0], dtype=torch.float64)

    return float(all_reduce_sum(local, 1))


def assert_same_on_all_ranks(plain: object, name: str) -> None:
    """Raise OptionError unless all processes have the same plain data."""
    world_size = rank_and_world_size()[1]
    # 48 bits of the fingerprint: float64 still holds the sum of thousands of them exactly
    number = 0 if world_size == 1 else int(fingerprint(plain)[:12], 16)
    if float(all_reduce_sum(lambda: torch.tensor([number], dtype=torch.float64), 1)) != number * world_size:
        raise OptionError(
            f"The {world_size} processes do not have the same {name}. All must run the same script with the same data "
            "and settings, and see the same files (checkpoint and HEADSTART_CACHE)."
        )


def average_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """Set tensors to their mean over all processes; what is the same in all of them stays as it is, to the bit."""
    if rank_and_world_size()[1] == 1 or not tensors:
        return
    flat = torch.cat([t.detach().flatten().double() for t in tensors.values()])
    mean = all_reduce_sum(lambda: flat, len(flat)) / rank_and_world_size()[1]
    with torch.no_grad():
        for tensor, part in zip(tensors.values(), mean.split([t.numel() for t in tensors.values()])):
            tensor.copy_(part.view(tensor.shape))


def gradients(loss: Callable[[], torch.Tensor], indices: np.ndarray, parameters: Sequence[torch.nn.Parameter]) -> float:
    """Return the loss of a batch, with its gradients left in the parameters; none where it is not finite.

    Parameters
    ----------
    loss : callable
        Mean over the items of ``local_shard(indices)``, of which each process has its own; not called where there are
        none. Weighted by their numbers, all items count once, however the batch divides.
    indices : array of int
        The batch of all processes together.
    """
    if rank_and_world_size()[1] == 1:
        return _backward(loss())
    trained = [p for p in parameters if p.requires_grad]
    weight = len(local_shard(indices)) / len(indices)

    def local_gradients() -> torch.Tensor:
        value = _backward(weight * loss()) if weight else 0.0
        flat = [torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.flatten() for p in trained]
        has_gradient = [float(p.grad is not None) for p in trained]
        return torch.cat([*flat, torch.tensor([*has_gradient, value], device=flat[0].device)])

    sizes = [p.numel() for p in trained]
    dtype = torch.promote_types(torch.float32, trained[0].dtype)
    total = all_reduce_sum(local_gradients, sum(sizes) + len(trained) + 1, dtype)
    *parts, with_gradient, value = total.split([*sizes, len(trained), 1])
    for parameter, values, count in zip(trained, parts, with_gradient.tolist()):
        # a parameter that no process has reached keeps no gradient, so that the optimiser leaves it alone
        parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape)) if count else None
    return float(value)


def _backward(loss: torch.Tensor) -> float:
    value = float(loss.detach())
    if math.isfinite(value):
        loss.backward()
    return value
