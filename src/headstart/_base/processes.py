"""Rank of this process among those that a launcher (accelerate, torchrun) started. Floor 0.

Collective operations are in ``headstart.training.distributed``.
"""

from __future__ import annotations

import os

import numpy as np

from headstart.errors import OptionError


def rank_and_world_size() -> tuple[int, int]:
    """Return (rank, world size); (0, 1) for a process that nobody launched.

    Raises
    ------
    OptionError
        When the launcher's variables are not such numbers.
    """
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if not rank or not world_size:
        return 0, 1
    if rank.isdigit() and world_size.isdigit() and int(rank) < int(world_size):
        return int(rank), int(world_size)
    raise OptionError(
        f"RANK={rank!r} and WORLD_SIZE={world_size!r} in the environment do not say which process this is; a "
        "launcher sets them to whole numbers, the first less than the second. Unset both to run alone."
    )


def is_main() -> bool:
    """Return True in the process that writes and prints for all."""
    return rank_and_world_size()[0] == 0


def local_shard(items: np.ndarray) -> np.ndarray:
    """Return the part of a batch that this process computes: everything, where it is alone. It may be empty."""
    rank, world_size = rank_and_world_size()
    return np.array_split(items, world_size)[rank]


def require_single_process(what: str) -> None:
    """Raise OptionError where there are several processes."""
    rank, world_size = rank_and_world_size()
    if world_size > 1:
        raise OptionError(
            f"{what} runs in one process; this is number {rank + 1} of {world_size}. Start it without "
            "accelerate launch or torchrun."
        )
