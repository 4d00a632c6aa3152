"""What a runner is: it maps a function over items, in order, keeping only a few results ahead. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from headstart._base.registry import Family

RUNNERS = Family("runners", {"local": "headstart.runners.local:LocalRunner"})


class Runner(Protocol):
    """Maps in order. Results wait in memory for at most ``ahead`` items, so a folder of any size fits."""

    def __init__(self, workers: int | None = None) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int) -> Iterator[Any]:
        """Yield ``function(item)`` for every item, in order; an exception is raised where its result would be."""
