"""Batches for the training loop: which items make up each step, and how they are read.

The order of an epoch is a permutation seeded by (seed, epoch), and whatever is drawn for a step (views, mixing) comes
from a generator seeded by (seed, epoch, step). Batches are read through ``torch.utils.data.DataLoader``: in this
process, or ahead of it by workers, which see the same seeds and so give the same bits.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from headstart._base.processes import local_shard
from headstart._base.progress import note
from headstart.sources.types import Batch
from headstart.training.config import ResolvedConfig

_MEMORY = 2 << 30  # bytes of prepared samples that are kept, by all workers together

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class BatchSource(Protocol[B_co]):
    """Items that can be loaded batch by batch, by this process or by workers forked from it."""

    @property
    def in_memory(self) -> bool:
        """Whether loading is only indexing: workers would cost more than they save, or could not reach a GPU's rows."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def load(self, indices: np.ndarray, generator: torch.Generator) -> B_co:
        """Return this process's part of the batch of these items; what is random is drawn from the generator."""
        ...


@dataclass(frozen=True)
class Indices:
    """A source whose batches are the indices themselves, of all processes: for losses that have the data."""

    count: int
    in_memory: bool = True

    def __len__(self) -> int:
        return self.count

    def load(self, indices: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Return the indices."""
        return indices


@dataclass(frozen=True)
class Views:
    """Random variants of items: ``read(index, view)`` for views 1, 2, …; the recipe says all that changes them."""

    read: Callable[[int, int], Any]
    recipe: str


class Samples:
    """``samples.batch(indices)`` collates prepared samples; what has been read stays, up to 2 GiB.

    Attributes
    ----------
    keys : sequence of bytes, optional
        Content keys of the items: what is computed from them can be kept and found again.
    views : Views, optional
        Random variants of the items.
    """

    def __init__(
        self,
        read: Callable[[int], Any],
        collate: Callable[[Sequence[Any]], Batch],
        count: int,
        *,
        keys: Sequence[bytes] | None = None,
        views: Views | None = None,
    ) -> None:
        self._read, self._collate = read, collate
        self._cache: dict[int, Any] = {}
        self._bytes = 0
        self.count = count
        self.keys = keys
        self.views = views

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: np.ndarray, views: np.ndarray | None = None) -> Batch:
        """Return the samples at these indices as one batch; ``views`` numbers their variants, 0 the item itself."""
        if views is None:
            return self._collate([self.read(int(i)) for i in indices])
        return self._collate([self.read(int(i), int(v)) for i, v in zip(indices, views)])

    def read(self, index: int, view: int = 0) -> Any:
        """Return one prepared sample: an array, or a mapping of arrays."""
        if view:
            assert self.views is not None
            return self.views.read(index, view)
        if index in self._cache:
            return self._cache[index]
        sample = self._read(index)
        size = sum(v.nbytes for v in sample.values()) if isinstance(sample, dict) else sample.nbytes
        worker = get_worker_info()
        if self._bytes + size <= _MEMORY // (worker.num_workers if worker is not None else 1):
            self._cache[index] = sample
            self._bytes += size
        return sample


@dataclass(frozen=True)
class SampleBatch:
    """Samples with their indices among the training items."""

    indices: np.ndarray
    inputs: Batch


@dataclass(frozen=True)
class SampleBatches:
    """Batches of samples, one of ``views`` random variants of each item in every epoch.

    Attributes
    ----------
    items : array of int, optional
        The samples that are trained on; all of them when not given.
    """

    samples: Samples
    items: np.ndarray | None = None
    views: int = 1
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.samples) if self.items is None else len(self.items)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> SampleBatch:
        """Return this process's samples, and their indices among the items."""
        views = draw_views(self.views, indices, generator)
        indices = local_shard(indices)
        items = indices if self.items is None else self.items[indices]
        return SampleBatch(indices, self.samples.batch(items, views))


def draw_views(views: int, indices: np.ndarray, generator: torch.Generator) -> np.ndarray | None:
    """Return which view of each of this process's items is taken; None where there is one.

    They are drawn for the whole batch, whoever computes it: the generator ends at the same place in every process.
    """
    if views == 1:
        return None
    return local_shard(torch.randint(views, (len(indices),), generator=generator).numpy())


def epoch_batches(count: int, config: ResolvedConfig, epoch: int) -> list[np.ndarray]:
    """Return the indices of each step of an epoch: a permutation seeded by (seed, epoch), in nearly equal parts."""
    order = np.random.default_rng([config.seed, epoch]).permutation(count)
    return np.array_split(order, max(1, math.ceil(count / config.batch_size)))


def derived_seed(seed: int, epoch: int, step: int) -> int:
    """Return a seed of 32 bits for one step."""
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])


@dataclass(frozen=True)
class Step(Generic[B]):
    """One step: its number in the epoch, the indices of its items (of all processes), and a function that loads them.

    ``load`` gives the batch and the generator from which whatever else is random is drawn. It must be called once,
    where this process has items of the batch; inside the step, so that when it fails the other processes hear of it.
    """

    number: int
    indices: np.ndarray
    load: Callable[[], tuple[B, torch.Generator]]


@dataclass(frozen=True)
class _Request:
    """What is asked of a loader for one step."""

    indices: np.ndarray
    seed: int


@dataclass(frozen=True)
class _Loaded(Generic[B]):
    """A batch and the generator's state after loading it; or why it could not be loaded."""

    batch: B | None
    generator_state: torch.Tensor
    error: Exception | None = None


class _Requests(Sampler[_Request]):
    """The steps of the current epoch in which this process has items, in order; ``epoch`` is set before each."""

    def __init__(self, count: int, config: ResolvedConfig) -> None:
        self._count, self._config, self.epoch = count, config, 0

    def __iter__(self) -> Iterator[_Request]:
        seed = self._config.seed
        for number, indices in enumerate(epoch_batches(self._count, self._config, self.epoch)):
            if len(local_shard(indices)):  # the last batch may have fewer items than there are processes
                yield _Request(indices, derived_seed(seed, self.epoch, number))


class _Batches(Dataset[_Loaded[Any]]):
    """A batch source as a map from requests to batches, which is what DataLoader takes."""

    def __init__(self, source: BatchSource[Any]) -> None:
        self._source = source

    def __getitem__(self, request: _Request) -> _Loaded[Any]:
        generator = torch.Generator().manual_seed(request.seed)
        try:
            batch = self._source.load(request.indices, generator)
        except Exception as error:
            if get_worker_info() is None:
                raise
            return _Loaded(None, generator.get_state(), error)  # DataLoader would lose its type on the way
        return _Loaded(batch, generator.get_state())


class Loader(Generic[B]):
    """The steps of every epoch, read in this process or ahead of it by ``config.num_workers`` others."""

    def __init__(self, source: BatchSource[B], config: ResolvedConfig) -> None:
        self.count = len(source)
        self.steps_per_epoch = max(1, math.ceil(self.count / config.batch_size))
        self._config, self._requests = config, _Requests(self.count, config)
        workers = 0 if source.in_memory else config.num_workers
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            note("num_workers= needs processes that can be forked, which this system has not: batches are read here.")
            workers = 0
        self._loader: DataLoader[_Loaded[B]] = DataLoader(
            _Batches(source),
            sampler=self._requests,
            batch_size=None,  # a request is a whole batch
            collate_fn=_unchanged,  # the default would turn arrays into tensors
            num_workers=workers,
            persistent_workers=workers > 0,  # they keep what they have read
            multiprocessing_context="fork" if workers else None,  # sources hold closures, which cannot be pickled
            generator=torch.Generator(),  # DataLoader draws a seed for its workers; not from the global generator
        )

    def epoch(self, epoch: int) -> Iterator[Step[B]]:
        """Yield the steps of an epoch."""
        self._requests.epoch = epoch
        batches = iter(self._loader)
        for number, indices in enumerate(epoch_batches(self.count, self._config, epoch)):
            yield Step(number, indices, lambda: _take(batches))


def _take(batches: Iterator[_Loaded[B]]) -> tuple[B, torch.Generator]:
    loaded = next(batches)
    if loaded.error is not None:
        raise loaded.error
    generator = torch.Generator()
    generator.set_state(loaded.generator_state)
    assert loaded.batch is not None
    return loaded.batch, generator


def _unchanged(batch: B) -> B:
    return batch
