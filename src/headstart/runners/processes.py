"""Processes of this machine: each runs whole jobs, for sources whose forward pass leaves cores idle."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from headstart.errors import StoreError
from headstart.runners.base import check_workers


class ProcessRunner:
    """See :class:`headstart.runners.base.Runner`; functions, items and results must be picklable.

    Parameters
    ----------
    workers : int, optional
        Processes; one per core when not given. 0 works in the calling process.

    Raises
    ------
    StoreError
        When a process was killed; what it had finished stays in the store.
    """

    runs_jobs: ClassVar[bool] = True

    def __init__(self, workers: int | None = None) -> None:
        check_workers(workers)
        self.workers = workers if workers is not None else os.cpu_count() or 1

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int) -> Iterator[Any]:
        """Yield results in order, with at most ``ahead`` items handed out before their results are taken."""
        if self.workers == 0:
            yield from map(function, items)
            return
        # never a plain fork: torch's threads do not survive one
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        pool = ProcessPoolExecutor(self.workers, mp_context=context)
        waiting: deque[Future[Any]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= max(ahead, 1):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise StoreError(
                "A worker process was killed (was there too little memory?). What had been written is kept: "
                "run again, perhaps with fewer workers."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
