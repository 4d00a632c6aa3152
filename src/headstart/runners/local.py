"""Threads of this process: decoding releases the interpreter lock, so they overlap with the forward pass."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from headstart.runners.base import check_workers


class LocalRunner:
    """See :class:`headstart.runners.base.Runner`.

    Parameters
    ----------
    workers : int, optional
        Threads; one per core, at most four, when not given. 0 works in the calling thread.
    """

    runs_jobs: ClassVar[bool] = False

    def __init__(self, workers: int | None = None) -> None:
        check_workers(workers)
        self._workers = workers if workers is not None else max(1, min(4, os.cpu_count() or 1))

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], *, ahead: int) -> Iterator[Any]:
        """Yield results in order, with at most ``ahead`` of them computed before they are wanted."""
        if self._workers == 0:
            yield from map(function, items)
            return
        waiting: deque[Future[Any]] = deque()
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="headstart")
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= max(ahead, 1):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
