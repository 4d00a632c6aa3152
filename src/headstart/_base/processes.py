"""Which of several processes this one is, by what their launcher (accelerate, torchrun) says. Floor 0.

What they do together is in ``_together``.
"""

from __future__ import annotations

import os

import numpy as np

from headstart.errors import OptionError


def rank_and_world_size() -> tuple[int, int]:
    """(number of this process, how many there are); (0, 1) for one that nobody launched.

    Raises
    ------
    OptionError
        When the launcher's variables are no such numbers.
    """
    number, many = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if not number or not many:
        return 0, 1
    if number.isdigit() and many.isdigit() and int(number) < int(many):
        return int(number), int(many)
    raise OptionError(
        f"RANK={number!r} and WORLD_SIZE={many!r} in the environment do not say which process this is; a launcher sets "
        "them to whole numbers, the first less than the second. Unset both to run alone."
    )


def is_main() -> bool:
    """Whether this process writes and prints for all."""
    return rank_and_world_size()[0] == 0


def local_shard(items: np.ndarray) -> np.ndarray:
    """The part of a batch that this process computes: everything, where it is alone. It may be empty."""
    number, many = rank_and_world_size()
    return np.array_split(items, many)[number]


def require_single_process(what: str) -> None:
    """OptionError where there are several processes."""
    number, many = rank_and_world_size()
    if many > 1:
        raise OptionError(
            f"{what} runs in one process; this is number {number + 1} of {many}. Start it without accelerate launch or "
            "torchrun."
        )
