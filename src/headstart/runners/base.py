"""Runners map a function over items, in order, keeping only a few results ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Protocol

from headstart._base.registry import Family
from headstart.errors import OptionError

RUNNERS = Family(
    "runners",
    {
        "local": "headstart.runners.local:LocalRunner",
        "processes": "headstart.runners.processes:ProcessRunner",
    },
)


class Runner(Protocol):
    """Maps in order. Results wait in memory for at most ``ahead`` items, so a folder of any size fits.

    Attributes
    ----------
    runs_jobs : bool
        Functions run elsewhere, so whole extraction jobs are handed out; else single items are, to be read in threads.
    """

    runs_jobs: ClassVar[bool]

    def __init__(self, workers: int | None = None) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int) -> Iterator[Any]:
        """Yield ``function(item)`` for every item, in order; an exception is raised where its result would be."""


def check_workers(workers: int | None) -> None:
    """Raise OptionError for a number of workers that is none."""
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise OptionError(f"workers must be a whole number ≥ 0, or None; got {workers!r}.")
