"""The classic small network, sized for the data: see ``sources/cnn.py``."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.errors import DataError
from headstart.sources.base import SOURCES, Source

_LOOK_AT = 200


def build(data: Any, *, seed: int, image_size: int | None = None, classes: int = 10) -> Source:
    """Initial weights from ``seed``; grey arrays give one channel, anything else three; mean and std of the pixels.

    Raises
    ------
    DataError
        When the data holds no pictures.
    """
    if data.modality != "image":
        raise DataError(f"The architecture 'cnn' takes pictures; this dataset is {data.modality}.")
    size = image_size or 28
    arrays = [np.asarray(item) for item in data.items[:_LOOK_AT] if isinstance(item, np.ndarray)]
    channels = 1 if arrays and all(a.ndim == 2 or a.shape[-1] == 1 for a in arrays) else 3
    pixels = [a for a in arrays if a.dtype == np.uint8]
    mean, std = (0.5, 0.25) if not pixels else _statistics(pixels)
    options = {"classes": classes, "size": (size, size), "channels": channels, "seed": seed, "mean": mean, "std": std}
    return SOURCES["cnn"]("cnn", **options)


def _statistics(pixels: list[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([p.ravel() for p in pixels]).astype(np.float64) / 255
    return round(float(values.mean()), 4), round(max(float(values.std()), 1e-3), 4)
