"""What the head sees of a sentence: where it stands, how it is written, how it relates to its document."""

from __future__ import annotations

import re

import numpy as np

from headstart._base.typing import Array, Float
from headstart.summarization.document import Document

SURFACE = (
    "position", "early", "first", "last", "length", "relative_length", "short", "terms", "frequency", "log_frequency",
    "mean_frequency", "like_first", "like_document", "textrank", "digits", "capitals", "quoted", "heading",
)  # fmt: skip
SIMILARITY = ("like_document", "like_first", "like_nearest", "like_all", "like_before", "novelty")
SETS = ("surface", "surface + similarity", "surface + similarity + vectors")

_SHORT = 8  # words
_NEIGHBOURS = 3
_BLOCK = 1_024
_QUOTE = re.compile('["“”«»「」『』]')
_ENDED = re.compile("[.!?…。！？｡؟۔।॥։።။][\"'”’»)\\]}」』】》）＂]*$")


def surface(document: Document) -> Float:
    """Features that need no model, named in ``SURFACE`` (n, 18).

    Position: from 0 to 1, one over the place, whether first or last. Length: log of the words, relative to the
    document's mean, whether under 8. Terms (see :class:`Document`): how many; how often the document says them (summed
    over the different ones, logarithms summed over all, mean). Cosine of tf-idf rows with the first sentence and with
    the document; log TextRank. Share of digits and of capitalised words; whether it quotes; whether it has no end mark.
    """
    n = len(document)
    position = np.arange(n)
    lengths = document.lengths.astype(np.float64)
    counts = document.counts
    frequency = np.asarray(counts.sum(0)).ravel()
    number = np.asarray(counts.sum(1)).ravel()
    distinct = (counts > 0) @ frequency
    logs = counts @ np.log(np.maximum(frequency, 1))
    texts = document.sentences
    columns = [
        position / max(n - 1, 1),
        1 / (1 + position),
        position == 0,
        position == n - 1,
        np.log1p(lengths),
        _relative(lengths),
        lengths < _SHORT,
        _relative(number),
        _relative(distinct),
        _relative(logs),
        _relative(counts @ frequency / np.maximum(number, 1)),
        _like_first(document),
        _like_document(document),
        np.log(document.textrank),
        [sum(map(str.isdigit, text)) / max(len(text), 1) for text in texts],
        [_capitals(text) for text in texts],
        [bool(_QUOTE.search(text)) for text in texts],
        [not _ENDED.search(text) for text in texts],
    ]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def similarity(vectors: Array) -> Float:
    """How the vectors (n, d) of a document's sentences relate, by cosine; named in ``SIMILARITY`` (n, 6).

    With their mean, with the first, with the three nearest others, with all others, with the one before; and 1 minus
    the largest with any earlier one. Cost: O(n² d), in blocks.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    rows = _unit(rows)
    n = len(rows)
    centre = _unit(rows.mean(0, keepdims=True))[0]
    nearest, to_document, novelty = np.zeros(n), np.zeros(n), np.ones(n)
    for start in range(0, n, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, n))
        cosine = rows[block] @ rows.T
        cosine[np.arange(len(block)), block] = -np.inf  # not with itself
        earlier = np.where(np.arange(n)[None, :] < block[:, None], cosine, -np.inf)
        positive = block > 0
        novelty[block[positive]] = 1 - earlier.max(1)[positive]
        if n > 1:
            n_neighbors = min(_NEIGHBOURS, n - 1)
            nearest[block] = -np.partition(-cosine, n_neighbors - 1, axis=1)[:, :n_neighbors].mean(1)
            cosine[np.arange(len(block)), block] = 0
            to_document[block] = cosine.sum(1) / (n - 1)
    before = np.r_[0.0, (rows[1:] * rows[:-1]).sum(1)]
    return np.stack([rows @ centre, rows @ rows[0], nearest, to_document, before, novelty], axis=1)


def features(document: Document, vectors: Array | None, name: str) -> Array:
    """One of ``SETS`` for a document (n, d) float32; vectors (n, d) only where the set has them."""
    parts: list[Array] = [surface(document)]
    if name != SETS[0]:
        assert vectors is not None
        parts.append(similarity(vectors))
    if name == SETS[2]:
        assert vectors is not None
        parts.append(vectors)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _relative(values: Array) -> Float:
    mean = float(np.mean(values))
    return np.asarray(values / mean if mean > 0 else np.zeros(len(values)), dtype=np.float64)


def _unit(rows: Float) -> Float:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norm > 0, norm, 1.0))


def _like_first(document: Document) -> Float:
    return np.asarray((document.tfidf @ document.tfidf[0].T).todense(), dtype=np.float64).ravel()


def _like_document(document: Document) -> Float:
    centre = np.asarray(document.tfidf.sum(0), dtype=np.float64).ravel()
    norm = float(np.linalg.norm(centre))
    return np.asarray(document.tfidf @ (centre / norm if norm > 0 else centre))


def _capitals(text: str) -> float:
    inner = text.split()[1:]
    return sum(word[0].isupper() for word in inner) / len(inner) if inner else 0.0
