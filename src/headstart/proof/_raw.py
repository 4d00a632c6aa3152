"""Features that know nothing: pixels, counted words, log-mel energies, the numbers themselves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from headstart._progress import note
from headstart.dataset import Dataset
from headstart.errors import DataError, HeadstartError
from headstart.extraction import extract, reading
from headstart.log_mel import LogMel
from headstart.readers.base import reader
from headstart.sources._array_input import ArrayInput
from headstart.sources.base import Source, load_source

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


def raw_rows(data: Dataset, source: Source) -> Rows | None:
    """(training positions, test positions) → their raw features; None, with a note, where there are none.

    Cost: one reading of every item. Words are counted on the training items alone.
    """
    try:
        if data.modality == "text" and not data.meta.get("preprocessed"):
            return _words(data)
        return _fixed(_numbers(data, source))
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


def _numbers(data: Dataset, source: Source) -> np.ndarray:
    """(n, d) of pictures, sounds or numbers."""
    if data.modality == "image" and not data.meta.get("preprocessed"):
        pixels = load_source("identity:image", size=_SIDE)
        bank = extract(pixels, data, layers="last", store=False, engine="torch", precision="fp32", batch_size=32)
        return np.asarray(bank.rows(bank.layers[0], data))
    read = reading(_reader_of(data, source), data)
    if data.modality == "audio" and not data.meta.get("preprocessed"):
        return np.stack([read(i) for i in range(len(data))])
    return np.stack([np.asarray(read(i), np.float32).ravel() for i in range(len(data))])


def _reader_of(data: Dataset, source: Source) -> Any:
    """A source in name only: its input turns decoded items into rows."""
    how: Any = Energies() if data.modality == "audio" and not data.meta.get("preprocessed") else ArrayInput(None)
    return Source("identity:raw", source.network, how)


class Energies:
    """Clip → mean log-mel energies of six equal parts, and their spread over the whole: (7 · 64,) float32."""

    modality = "audio"
    front_end = LogMel()

    def reading(self) -> dict[str, Any]:
        """The front end's sample rate."""
        return {"sample_rate": self.front_end.sample_rate}

    def prepare(self, decoded: Any) -> np.ndarray:
        """One clip; one shorter than a window is filled up with silence."""
        samples = np.asarray(decoded.samples, dtype=np.float32)
        short = self.front_end.window_samples - len(samples)
        frames = self.front_end.frames(np.pad(samples, (0, max(0, short))))
        edges = np.linspace(0, len(frames), _SEGMENTS + 1)
        parts = [frames[int(a) : max(int(a) + 1, int(b))].mean(0) for a, b in pairwise(edges)]
        return np.concatenate([*parts, frames.std(0)]).astype(np.float32)

    def collate(self, samples: Any) -> Any:
        """Never asked for: rows are read one by one."""
        raise NotImplementedError

    tensors = example = collate

    def describe(self) -> dict[str, Any]:
        """The front end and the number of parts."""
        return {"kind": "energies", "segments": _SEGMENTS, **self.front_end.recipe()}
