"""Raw features, a baseline without a source: pixels, TF-IDF of words, log-mel energies, or the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, HeadstartError
from headstart.extraction.extract import extract
from headstart.extraction.loading import sample_loader
from headstart.readers.base import reader
from headstart.sources.base import load_source
from headstart.sources.inputs.array import stacked
from headstart.sources.inputs.log_mel import LogMel

Rows = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
NAMES = {
    "image": "raw pixels",
    "text": "counted words (TF-IDF)",
    "audio": "log-mel energies",
    "vector": "the raw numbers",
}
_SIDE = 32
_WORDS = 5000
_SEGMENTS = 6
_FRONT_END = LogMel()  # that of identity:audio, which has clips read at its rate


def raw_rows(data: Dataset) -> Rows | None:
    """(training positions, test positions) → their raw features; None, with a note, where there are none.

    Cost: one reading of every item. Words are counted on the training items alone.
    """
    try:
        if data.modality == "text" and not data.meta.get("preprocessed"):
            return _words(data)
        return _fixed(_numbers(data))
    except HeadstartError as error:
        note(f"There are no raw features to compare with: {error}")
        return None


def _fixed(X: np.ndarray) -> Rows:
    return lambda train, test: (X[train], X[test])


def _words(data: Dataset) -> Rows:
    read = reader("text").read
    texts = np.array([str(read(item)) for item in data.items], dtype=object)

    def rows(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=_WORDS, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            learned = count.fit_transform(texts[train])
        except ValueError as error:
            raise DataError(f"The training texts have no words: {error}.") from error
        return learned.toarray().astype(np.float32), count.transform(texts[test]).toarray().astype(np.float32)

    return rows


def _numbers(data: Dataset) -> np.ndarray:
    """(n, d) of pictures, sounds or numbers."""
    if data.modality == "image" and not data.meta.get("preprocessed"):
        pixels = load_source("identity:image", size=_SIDE)
        bank = extract(pixels, data, layers="last", store=False, engine="torch", precision="fp32", batch_size=32)
        return np.asarray(bank.rows(bank.layers[0], data))
    if data.modality == "audio" and not data.meta.get("preprocessed"):
        read = sample_loader(load_source("identity:audio"), data, prepare=energies)
    else:
        read = sample_loader(load_source("identity:vector"), data)
    return stacked([np.ravel(read(i)) for i in range(len(data))])


def energies(clip: Any) -> np.ndarray:
    """Mean log-mel energies of six equal parts of a clip, and their spread over the whole: (7 · 64,) float32.

    A clip shorter than a window is filled up with silence.
    """
    samples = np.asarray(clip.samples, dtype=np.float32)
    short = _FRONT_END.window_samples - len(samples)
    frames = _FRONT_END.frames(np.pad(samples, (0, max(0, short))))
    edges = np.linspace(0, len(frames), _SEGMENTS + 1)
    parts = [frames[int(a) : max(int(a) + 1, int(b))].mean(0) for a, b in pairwise(edges)]
    return np.concatenate([*parts, frames.std(0)]).astype(np.float32)
