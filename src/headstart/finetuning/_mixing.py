"""Mixup in feature space: pairs of items, mixed where the frozen part ends, and their targets alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart.sources._taps import modules_of


@dataclass(frozen=True)
class Mix:
    """``share · x + (1 - share) · x[partner]`` over the first axis."""

    share: float
    partner: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return self.share * values + (1 - self.share) * values[self.partner.to(values.device)]


def drawn(alpha: float, items: int, generator: torch.Generator) -> Mix:
    """A share from Beta(alpha, alpha), and a partner for each item."""
    seed = int(torch.randint(1 << 31, (1,), generator=generator))
    return Mix(float(np.random.default_rng(seed).beta(alpha, alpha)), torch.randperm(items, generator=generator))


@contextmanager
def mixed_at(source: Any, network: Any, layer: str | None, mix: Mix | None) -> Iterator[None]:
    """What a layer gives in a full forward pass is mixed on its way; its further outputs are left alone."""
    if mix is None or layer is None:
        yield
        return

    def change(_module: Any, _args: Any, output: Any) -> Any:
        return _first_mixed(output, mix)

    handle = modules_of(source, network)[layer].register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _first_mixed(output: Any, mix: Mix) -> Any:
    if isinstance(output, torch.Tensor):
        return mix(output)
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (_first_mixed(output[0], mix), *output[1:])
    if isinstance(output, list):
        return [_first_mixed(output[0], mix), *output[1:]]
    return output
