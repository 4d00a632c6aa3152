"""Random variants of images, and mixup: one augmentation for fine-tuning and pretraining (see :class:`Augment`).

A variant is a crop of random size and shape, light and contrast, and a mirror image where that is harmless. What is
drawn depends on the item's content key and the number of the view alone, so a view can be kept and found again. Other
kinds of items have no variants: their preprocessing is what the source was trained with.

References
----------
Zhang et al., mixup: Beyond empirical risk minimization, ICLR 2018. Verma et al., Manifold mixup, ICML 2019.
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
from headstart.extraction.loading import sample_loader
from headstart.sources.base import Source
from headstart.sources.inputs.image import ImageInput
from headstart.training.batches import Views

_AREA = (0.45, 1.0)  # of a crop, as a share of the image
_RATIO = (0.8, 1.25)  # of its sides, times that of the image
_LIGHT = 0.2  # change of brightness and of contrast, at most


def image_views(source: Source, data: Dataset, *, mirror: bool) -> Views | None:
    """Return the random views of an image dataset for a source that takes pixels; None for anything else."""
    keys = data.keys()
    if not isinstance(source.input, ImageInput) or data.modality != "image" or data.meta.get("preprocessed"):
        return None
    if any(key is None for key in keys):
        return None
    uncropped = dataclasses.replace(source.input, crop_pct=1.0, crop_mode="squash")

    def read(index: int, view: int) -> Any:
        key = keys[index]
        assert key is not None
        rng = np.random.default_rng([int.from_bytes(key[:8], "little"), view])
        return sample_loader(source, data, keys, prepare=lambda image: uncropped.prepare(_variant(image, rng, mirror)))(
            index
        )

    recipe = {"crop": [_AREA, _RATIO], "light": _LIGHT, "mirror": mirror, "version": 1}
    return Views(read, canonical_json(recipe))


def mirrored(source: Source, data: Dataset) -> Callable[[int], Any]:
    """Return a function from an index to the prepared mirror image of the item."""
    prepare = source.input.prepare
    return sample_loader(source, data, prepare=lambda image: prepare(np.ascontiguousarray(np.asarray(image)[:, ::-1])))


def _variant(image: Any, rng: np.random.Generator, mirror: bool) -> np.ndarray:
    """Return a part of an image (h, w[, c]) uint8, brighter or darker, with more or less contrast, perhaps mirrored."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        return pixels
    height, width = pixels.shape[:2]
    area = rng.uniform(*_AREA) * height * width
    ratio = np.exp(rng.uniform(*np.log(_RATIO))) * width / height
    crop_height = int(min(height, max(1, round((area / ratio) ** 0.5))))
    crop_width = int(min(width, max(1, (area * ratio) ** 0.5)))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    crop = pixels[top : top + crop_height, left : left + crop_width]
    if mirror and rng.random() < 0.5:
        crop = crop[:, ::-1]
    contrast, light = 1 + rng.uniform(-_LIGHT, _LIGHT, 2)
    middle = float(crop.mean())
    # a table of 256 values is quicker than arithmetic on every pixel
    table = np.clip((np.arange(256) - middle) * contrast + middle * light, 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(table[crop])


@dataclass(frozen=True)
class Mix:
    """Mixup of a batch: ``share · x + (1 - share) · x[partner]`` over the first axis."""

    share: float
    partner: torch.Tensor

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return self.share * values + (1 - self.share) * values[self.partner.to(values.device)]


def draw_mix(alpha: float, items: int, generator: torch.Generator) -> Mix:
    """Return a share drawn from Beta(alpha, alpha), and a partner for each item."""
    seed = int(torch.randint(1 << 31, (1,), generator=generator))
    return Mix(float(np.random.default_rng(seed).beta(alpha, alpha)), torch.randperm(items, generator=generator))


@contextmanager
def mixed_at(source: Source, network: torch.nn.Module, layer: str | None, mix: Mix | None) -> Iterator[None]:
    """Inside, the first output of a layer is mixed on its way through the network; further outputs are left alone."""
    if mix is None or layer is None:
        yield
        return

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return _mix_first(output, mix)

    handle = source.torch_backend.with_module(network).named_modules()[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _mix_first(output: Any, mix: Mix) -> Any:
    if isinstance(output, torch.Tensor):
        return mix(output)
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return (_mix_first(output[0], mix), *output[1:])
    if isinstance(output, list):
        return [_mix_first(output[0], mix), *output[1:]]
    return output
