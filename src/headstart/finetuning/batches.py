"""What a training step is given: batches of samples, or what the frozen part gave for them. One face for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart._base.processes import local_shard, rank_and_world_size
from headstart._base.progress import note
from headstart.finetuning.boundary import CacheInvalid, TruncatedForward, below_boundary, prefix
from headstart.finetuning.cache import ActivationCache, ActivationStore, CachedActivations
from headstart.finetuning.model import BoundaryActivations, FineTuneModel
from headstart.finetuning.parameter_groups import ParameterMap
from headstart.policies.base import Policy
from headstart.training.batches import Samples
from headstart.training.distributed import all_reduce_sum

Give = Callable[[np.ndarray, "np.ndarray | None"], tuple[Any, "BoundaryActivations | None"]]


@dataclass
class BatchProvider:
    """Batches for training and validation; ``views`` random variants of each training item are in turn."""

    model: FineTuneModel
    samples: Samples
    held_out: Samples | None = None
    views: int = 1
    truncated: TruncatedForward | None = None
    cache: ActivationCache | None = None
    cached: CachedActivations | None = None
    cached_held_out: CachedActivations | None = None

    def batch(
        self, indices: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Any, BoundaryActivations | None]:
        """A training batch, or this process's part of it; which view of each item is drawn from the generator."""
        views = None
        if generator is not None:
            if self.views > 1:  # drawn for the whole batch, whoever computes it
                views = local_shard(torch.randint(self.views, (len(indices),), generator=generator).numpy())
            indices = local_shard(indices)
        if self.cached is not None:
            return self.cached.batch(indices, views)
        return self.samples.batch(indices, views), None

    def decisions(self, *, held_out: bool = True, size: int = 64) -> np.ndarray:
        """Decision values of the held-out (or the training) samples as they are, (n, t) float64.

        Several processes share the work, and all have the same numbers afterwards.
        """
        samples, kept = (self.held_out, self.cached_held_out) if held_out else (self.samples, self.cached)
        assert samples is not None
        count, width = len(samples), self.model.head.out_features
        number, many = rank_and_world_size()
        size = min(size, -(-count // many))

        def part() -> torch.Tensor:
            rows = torch.zeros(count, width, dtype=torch.float64)
            with torch.inference_mode():
                for first in range(0, count, size)[number::many]:
                    some = np.arange(first, min(first + size, count))
                    batch, fed = (samples.batch(some), None) if kept is None else kept.batch(some)
                    rows[some] = self.model(batch, fed).cpu().double()
            return rows.flatten()

        return all_reduce_sum(part, count * width).reshape(count, width).numpy()

    @contextmanager
    def running(self) -> Iterator[None]:
        """The stubs in place, where there are any."""
        self.model.truncated = self.truncated
        try:
            with self.truncated.installed() if self.truncated is not None else nullcontext():
                yield
        finally:
            self.model.truncated = None

    def fill(self, views: int) -> None:
        """Compute the frozen part's rows of all items in so many views, and hold them ready."""
        self.views = views
        if self.cache is None or self.truncated is None:
            return
        device, made = self.model.device, self.truncated
        self.cache.fill(self.samples, range(views))
        self.cached = self.cache.load(self.samples, range(views), device, made)
        if self.held_out is not None and self.cached_held_out is None:
            self.cache.fill(self.held_out, range(1))
            self.cached_held_out = self.cache.load(self.held_out, range(1), device, made)


def make_provider(
    model: FineTuneModel,
    places: ParameterMap,
    lowest: int | None,
    moving: list[str],
    *,
    samples: Samples,
    held_out: Samples | None,
    policy: Policy,
    store: ActivationStore | None,
) -> BatchProvider:
    """Cached below the boundary where the policy allows it and it is true; else every step is a full forward pass."""
    plain = BatchProvider(model, samples, held_out)
    if policy.cache is False:
        return plain
    try:
        made = prefix(model, places, lowest, moving=moving, samples=samples)
    except CacheInvalid as reason:
        if policy.cache:
            note(f"The frozen part is not cached: {reason}. Every epoch runs the full forward pass.")
        return plain
    model.boundary = made.layer
    store = store or ActivationStore()
    lower = below_boundary(model.source, model.features, made.layer)
    return BatchProvider(
        model, samples, held_out, truncated=made, cache=ActivationCache(model.source, made.layer, lower, store)
    )
