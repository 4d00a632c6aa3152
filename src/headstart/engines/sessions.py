"""Sessions: sources made ready to run, found again instead of built again.

Building an engine copies the network, or compiles it; a server that predicts one image after another, and a fit that
extracts from one source many times, should pay for that once. A session belongs to a source's weights (its fingerprint
and the stamp that changes with them), the layers with their poolings, and the runtime. Sessions of one source and
runtime share the converted network.

The last few sessions are cached in the process. The cache keeps no source alive: with the last source that a session
was opened for, the session goes, too.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import RLock

import torch

from headstart.engines.base import ENGINES, Engine, Rows, RuntimeConfig
from headstart.errors import OptionError
from headstart.pooling import reducer
from headstart.sources.base import Source
from headstart.sources.types import Batch

_CAPACITY = 8


class Session:
    """An engine that is kept for further batches.

    Attributes
    ----------
    poolings : mapping of str to str
        Layer → pooling, resolved: the rows that a run gives.
    runtime : RuntimeConfig
    """

    def __init__(self, poolings: Mapping[str, str], runtime: RuntimeConfig, engine: Engine) -> None:
        self.poolings = dict(poolings)
        self.runtime = runtime
        self._engine: Engine | None = engine
        self._sources: dict[int, weakref.ref[Source]] = {}

    def run(self, batch: Batch) -> dict[str, Rows]:
        """Run a batch; safe in several threads at once.

        Returns
        -------
        dict of str to array
            Layer → (items, width) float32 in the batch's order; un-pooled layers give a list of arrays.

        Raises
        ------
        NumericsError
            When the network gives NaN or infinity; the layer is named.
        SourceError
            When the network cannot run this batch.
        OptionError
            When the session has been closed.
        """
        return self.engine(batch)

    @property
    def engine(self) -> Engine:
        """The engine that runs the batches."""
        if self._engine is None:
            raise OptionError("This session is closed; open_session() gives another one.")
        return self._engine

    def close(self) -> None:
        """Let go of the network and take the session out of the cache; a run in progress ends first."""
        self._engine = None
        _cache.drop_orphans()

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._engine is None

    @property
    def orphaned(self) -> bool:
        """True once every source that it was opened for is gone."""
        return all(source() is None for source in self._sources.values())

    def attach(self, source: Source, on_death: Callable[[], None]) -> None:
        """Keep the session for as long as this source lives, and make it ready to be run."""
        self._sources[id(source)] = weakref.ref(source, lambda _: on_death())
        self.engine.evaluate()


def open_session(source: Source, poolings: Mapping[str, str], runtime: RuntimeConfig) -> Session:
    """Return the session for these layers of a source on this runtime: a cached one, or a new one.

    Parameters
    ----------
    source : Source
    poolings : mapping of str to str
        Layer → pooling, resolved (see :func:`headstart.pooling.resolve`).
    runtime : RuntimeConfig
        Its batch size is the caller's affair: a session runs batches of any size.

    Raises
    ------
    UnknownName
        For a layer that the source does not have.
    OptionError, SourceError
        When the runtime cannot be had on this machine, or cannot run the source.

    Notes
    -----
    Cost: when it is found, about 1 µs per tensor of the network, to see that no weight has changed. What weights and
    hooks do not show, as Python attributes that ``forward`` reads, is as it was when the session was built.
    """
    return _cache.open(source, poolings, runtime)


def close_sessions() -> None:
    """Close every cached session: memory of converted networks is free again."""
    _cache.clear()


class _SessionCache:
    """The sessions used last, by key; what no source needs any more goes.

    The lock is re-entrant, and the callback of a dying source never waits for it: such a callback runs wherever memory
    is allocated, also inside the lock, and in threads that hold others.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._sessions: OrderedDict[tuple[Hashable, Hashable], Session] = OrderedDict()
        self._lock = RLock()

    def open(self, source: Source, poolings: Mapping[str, str], runtime: RuntimeConfig) -> Session:
        axes = {name: source.layer(name).axes for name in poolings}  # measured before the lock is taken
        network = _network_key(source, runtime)
        key = (network, tuple(sorted(poolings.items())))
        with self._lock:
            session = self._sessions.pop(key, None)
            if session is None or session.closed:
                reduce = {name: reducer(pooling, axes[name]) for name, pooling in poolings.items()}
                engine = ENGINES[runtime.engine](source, reduce, runtime, self._engine_of(network))
                session = Session(poolings, runtime, engine)
            session.attach(source, self.drop_orphans)
            self._sessions[key] = session
            self._sweep()
        return session

    def _engine_of(self, network: Hashable) -> Engine | None:
        """An engine whose converted network can be shared."""
        for (other, _), session in self._sessions.items():
            if other == network:
                return session.engine
        return None

    def _sweep(self) -> None:
        for key, session in list(self._sessions.items()):
            if session.closed or session.orphaned:
                self._sessions.pop(key, None)
        while len(self._sessions) > self._capacity:
            self._sessions.popitem(last=False)

    def drop_orphans(self) -> None:
        """Drop sessions whose sources are gone, now or (when another thread holds the lock) at the next opening."""
        if self._lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Close all sessions."""
        with self._lock:
            for session in list(self._sessions.values()):
                session.close()

    def __len__(self) -> int:
        return len(self._sessions)


_cache = _SessionCache(_CAPACITY)


def _network_key(source: Source, runtime: RuntimeConfig) -> Hashable:
    """Everything that a converted network depends on; threads are fixed when onnxruntime and OpenVINO build theirs."""
    return (
        source.address,
        source.stamped_fingerprint(),
        runtime.engine,
        runtime.precision,
        runtime.device,
        torch.get_num_threads(),
    )
