"""Batches of fine-tuning: prepared samples, or cached activations of the frozen part. One interface for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from headstart._base.processes import local_shard, rank_and_world_size
from headstart._base.progress import note
from headstart.finetuning.boundary import CacheInvalid, TruncatedForward, below_boundary, truncate_at_boundary
from headstart.finetuning.cache import ActivationCache, ActivationStore, CachedActivations
from headstart.finetuning.model import BoundaryActivations, FineTuneModel
from headstart.finetuning.parameter_groups import ParameterMap
from headstart.policies.base import Policy
from headstart.sources.types import Batch
from headstart.training.batches import Samples, draw_views
from headstart.training.distributed import all_reduce_sum


@dataclass(frozen=True)
class FineTuneBatch:
    """A batch with the indices of its items, and the frozen part's activations where they are cached."""

    indices: np.ndarray
    inputs: Batch
    activations: BoundaryActivations | None


@dataclass
class BatchProvider:
    """Batches for training and validation; a batch source of the training loop.

    Attributes
    ----------
    samples, held_out : Samples
        Training items and validation items.
    views : int
        Random variants of each training item, of which every epoch draws one.
    truncated : TruncatedForward, optional
        Runs only what lies above the frozen boundary.
    cache : ActivationCache, optional
        Computes and stores the activations at the boundary; ``cached`` and ``cached_held_out`` hold them after
        :meth:`fill`.
    """

    model: FineTuneModel
    samples: Samples
    held_out: Samples | None = None
    views: int = 1
    truncated: TruncatedForward | None = None
    cache: ActivationCache | None = None
    cached: CachedActivations | None = None
    cached_held_out: CachedActivations | None = None

    @property
    def in_memory(self) -> bool:
        """Whether batches are rows of the cache."""
        return self.cached is not None

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, indices: np.ndarray, generator: torch.Generator) -> FineTuneBatch:
        """Return this process's part of a training batch; the view of each item is drawn from the generator."""
        views = draw_views(self.views, indices, generator)
        indices = local_shard(indices)
        return self._load(indices, self.samples, self.cached, views)

    def _load(
        self,
        indices: np.ndarray,
        samples: Samples,
        cached: CachedActivations | None,
        views: np.ndarray | None = None,
    ) -> FineTuneBatch:
        if cached is None:
            return FineTuneBatch(indices, samples.batch(indices, views), None)
        return FineTuneBatch(indices, *cached.batch(indices, views))

    def in_order(self, size: int = 64) -> Iterator[FineTuneBatch]:
        """Yield all training items as they are, in order: for all processes alike."""
        for first in range(0, len(self.samples), size):
            yield self._load(np.arange(first, min(first + size, len(self.samples))), self.samples, self.cached)

    def decisions(self, *, held_out: bool = True, size: int = 64) -> np.ndarray:
        """Return decision values of the held-out (or the training) samples as they are, (n, t) float64.

        Several processes share the work, and all have the same numbers afterwards.
        """
        samples, cached = (self.held_out, self.cached_held_out) if held_out else (self.samples, self.cached)
        assert samples is not None
        count, width = len(samples), self.model.head.out_features
        rank, world_size = rank_and_world_size()
        size = min(size, -(-count // world_size))

        def local_decisions() -> torch.Tensor:
            rows = torch.zeros(count, width, dtype=torch.float64)
            with torch.inference_mode():
                for first in range(0, count, size)[rank::world_size]:
                    batch = self._load(np.arange(first, min(first + size, count)), samples, cached)
                    rows[batch.indices] = self.model(batch.inputs, batch.activations).cpu().double()
            return rows.flatten()

        return all_reduce_sum(local_decisions, count * width).reshape(count, width).numpy()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Install the stubs below the boundary, where there are any."""
        self.model.truncated = self.truncated
        try:
            with self.truncated.installed() if self.truncated is not None else nullcontext():
                yield
        finally:
            self.model.truncated = None

    def fill(self, views: int) -> None:
        """Compute the frozen part's activations of all items in so many views, and load them."""
        self.views = views
        if self.cache is None or self.truncated is None:
            return
        device = self.model.device
        self.cache.fill(self.samples, range(views))
        self.cached = self.cache.load(self.samples, range(views), device, self.truncated)
        if self.held_out is not None and self.cached_held_out is None:
            self.cache.fill(self.held_out, range(1))
            self.cached_held_out = self.cache.load(self.held_out, range(1), device, self.truncated)


def make_provider(
    model: FineTuneModel,
    parameter_map: ParameterMap,
    lowest: int | None,
    trained: list[str],
    *,
    samples: Samples,
    held_out: Samples | None,
    policy: Policy,
    store: ActivationStore | None,
) -> BatchProvider:
    """Cache below the boundary where the policy allows it and it is true; else every step is a full forward pass.

    Parameters
    ----------
    lowest : int or None
        The lowest unit with a trained parameter.
    trained : list of str
        Names of the parameters whose gradients must come out the same.
    """
    uncached = BatchProvider(model, samples, held_out)
    if policy.cache is False:
        return uncached
    try:
        truncated = truncate_at_boundary(model, parameter_map, lowest, trained=trained, samples=samples)
    except CacheInvalid as reason:
        if policy.cache:
            note(f"The frozen part is not cached: {reason}. Every epoch runs the full forward pass.")
        return uncached
    model.boundary = truncated.layer
    below = below_boundary(model.source, model.features, truncated.layer)
    cache = ActivationCache(model.source, truncated.layer, below, store or ActivationStore())
    return BatchProvider(model, samples, held_out, truncated=truncated, cache=cache)
