"""Random variants of pictures: a crop of random size and shape, light and contrast, and a mirror where it is harmless.

What is drawn depends on the item's content key and the number of the view alone, so a view can be kept and found again.
Other kinds of items have no variants: their preprocessing is what the source was trained with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headstart._base.hashing import canonical_json
from headstart.dataset.dataset import Dataset
from headstart.extraction.loading import reading
from headstart.sources.inputs.image import ImageInput
from headstart.training.batches import Views

_AREA = (0.45, 1.0)
_RATIO = (0.8, 1.25)
_LIGHT = 0.2


def image_views(source: Any, data: Dataset, *, mirror: bool) -> Views | None:
    """Views of a picture dataset for a source that takes pixels; None for anything else."""
    keys = data.keys()
    if not isinstance(source.input, ImageInput) or data.modality != "image" or data.meta.get("preprocessed"):
        return None
    if any(key is None for key in keys):
        return None
    whole = dataclasses.replace(source.input, crop_pct=1.0, crop_mode="squash")

    def read(index: int, view: int) -> Any:
        key = keys[index]
        assert key is not None
        rng = np.random.default_rng([int.from_bytes(key[:8], "little"), view])
        change = reading(source, data, keys, prepare=lambda decoded: whole.prepare(_varied(decoded, rng, mirror)))
        return change(index)

    recipe = {"crop": [_AREA, _RATIO], "light": _LIGHT, "mirror": mirror, "version": 1}
    return Views(read, canonical_json(recipe))


def mirrored(source: Any, data: Dataset) -> Callable[[int], Any]:
    """index → the sample of the item's mirror image."""
    prepare = source.input.prepare
    return reading(source, data, prepare=lambda decoded: prepare(np.ascontiguousarray(np.asarray(decoded)[:, ::-1])))


def _varied(decoded: Any, rng: np.random.Generator, mirror: bool) -> np.ndarray:
    """(h, w[, c]) uint8 → a part of it, brighter or darker, with more or less contrast, perhaps mirrored."""
    pixels = np.asarray(decoded)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        return pixels
    height, width = pixels.shape[:2]
    area = rng.uniform(*_AREA) * height * width
    ratio = np.exp(rng.uniform(*np.log(_RATIO))) * width / height
    tall, wide = int(min(height, max(1, round((area / ratio) ** 0.5)))), int(min(width, max(1, (area * ratio) ** 0.5)))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    part = pixels[top : top + tall, left : left + wide]
    if mirror and rng.random() < 0.5:
        part = part[:, ::-1]
    contrast, light = 1 + rng.uniform(-_LIGHT, _LIGHT, 2)
    middle = float(part.mean())
    table = np.clip((np.arange(256) - middle) * contrast + middle * light, 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(table[part])


# ---- Mixup in feature space: pairs of items, mixed where the frozen part ends, and their targets alike. ----


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

    handle = source.torch_backend.with_module(network).named_modules()[layer].register_forward_hook(change)
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
