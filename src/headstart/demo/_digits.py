"""The digits that come with scikit-learn: two tasks of five digits each, and pictures to try a predictor with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from headstart._files import write_atomic
from headstart.dataset import Dataset


def tasks() -> tuple[Dataset, Dataset]:
    """Digits 0–4 and digits 5–9 as uint8 pictures, so that the source's own preprocessing resizes them."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    pixels = np.rint(X.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    names = np.array([str(digit) for digit in y])
    low = y < 5
    return Dataset.from_arrays(pixels[low], names[low]), Dataset.from_arrays(pixels[~low], names[~low])


def samples(test: Dataset, folder: Path) -> tuple[Path, ...]:
    """One picture of each digit that training never saw, as PNG."""
    from PIL import Image

    places = []
    for digit in test.classes:
        index = list(test.targets).index(digit)
        blob = io.BytesIO()
        Image.fromarray(np.asarray(test.items[index])).save(blob, "PNG")
        places.append(folder / f"{digit}.png")
        write_atomic(places[-1], blob.getvalue())
    return tuple(places)
