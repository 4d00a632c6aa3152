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
Loss = Callable[[np.ndarray, torch.Generator], torch.Tensor]

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
    number, many = rank_and_world_size()
    accelerate = require_package("accelerate", f"to train in {many} processes together (this is number {number + 1})")
    wait = accelerate.utils.InitProcessGroupKwargs(timeout=_WAIT)
    found = accelerate.Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[wait])
    if (found.process_index, found.num_processes) != (number, many):
        raise OptionError(
            f"The launcher says that this is process {number} of {many}, accelerate {found.process_index} of "
            f"{found.num_processes}. Start all of them with one accelerate launch or torchrun."
        )
    return found


def all_reduce_sum(make: Callable[[], torch.Tensor], size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The sum over all processes of what each makes, a vector of ``size`` numbers; what one fails at, all do.

    Raises
    ------
    HeadstartError
        When another process has failed, or cannot be reached any more.
    """
    if rank_and_world_size()[1] == 1:
        return make()
    failed, vector = None, torch.zeros(size, dtype=dtype)
    try:
        vector = make()
    except BaseException as error:
        failed = error
    through = _accelerator()
    told = torch.cat([vector, vector.new_full((1,), failed is not None)]).to(through.device, dtype)
    try:
        total = through.reduce(told, reduction="sum").to(vector.device)
    except RuntimeError as error:
        raise failed or HeadstartError(f"The other processes cannot be reached any more: {error}") from error
    if failed is not None:
        raise failed
    if total[-1] > 0:
        raise HeadstartError("Another process has failed, and this one ends with it; what that one says is the reason.")
    return total[:-1]


def run_on_all(work: Callable[[], object]) -> None:
    """Everyone does its work; nobody goes on before all have done theirs."""

    def done() -> torch.Tensor:
        work()
        return torch.zeros(0, dtype=torch.float64)

    all_reduce_sum(done, 0)


def main_first(work: Callable[[], T]) -> T:
    """The first process does it, then the others, who find in the store what it has left there."""
    if rank_and_world_size()[1] == 1:
        return work()
    kept: list[T] = []

    def turn(of_main: bool) -> None:
        if is_main() is of_main:
            kept.append(work())

    run_on_all(lambda: turn(True))
    run_on_all(lambda: turn(False))
    return kept[0]


def broadcast_scalar(number: Callable[[], float]) -> float:
    """What the first process gets: for clocks and scores, which shall decide alike everywhere."""

    def own() -> torch.Tensor:
        found = number()
        return torch.tensor([found if is_main() else 0.0], dtype=torch.float64)

    return float(all_reduce_sum(own, 1))


def assert_same_on_all_ranks(what: Any, name: str) -> None:
    """OptionError unless all processes have the same plain data."""
    many = rank_and_world_size()[1]
    number = 0 if many == 1 else int(fingerprint(what)[:12], 16)
    if float(all_reduce_sum(lambda: torch.tensor([number], dtype=torch.float64), 1)) != number * many:
        raise OptionError(
            f"The {many} processes do not have the same {name}. All must run the same script with the same data and "
            "settings, and see the same files (checkpoint and HEADSTART_CACHE)."
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


def gradients(
    loss: Loss, indices: np.ndarray, generator: torch.Generator, parameters: Sequence[torch.nn.Parameter]
) -> float:
    """The loss of a batch, with its gradients left in the parameters; none where it is not finite.

    ``loss`` is a mean over the items of ``local_shard``, of which each process has its own: weighed
    by their numbers, all items count once, however the batch divides.
    """
    if rank_and_world_size()[1] == 1:
        return _backward(loss(indices, generator))
    moving = [p for p in parameters if p.requires_grad]
    share = len(local_shard(indices)) / len(indices)

    def part() -> torch.Tensor:
        found = _backward(share * loss(indices, generator)) if share else 0.0
        flat = [torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.flatten() for p in moving]
        reached = [float(p.grad is not None) for p in moving]
        return torch.cat([*flat, torch.tensor([*reached, found], device=flat[0].device)])

    sizes = [p.numel() for p in moving]
    kind = torch.promote_types(torch.float32, moving[0].dtype)
    total = all_reduce_sum(part, sum(sizes) + len(moving) + 1, kind)
    *parts, reached, found = total.split([*sizes, len(moving), 1])
    for parameter, values, there in zip(moving, parts, reached.tolist()):
        parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape)) if there else None
    return float(found)


def _backward(value: torch.Tensor) -> float:
    found = float(value.detach())
    if math.isfinite(found):
        value.backward()
    return found
