"""A document as its sentences and their terms: what features, TextRank and selection share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from headstart._typing import Array, Float
from headstart._words import UNSPACED, words
from headstart.summarization._sentences import sentences

_LONG = 4  # letters: most words without a meaning of their own are shorter
_DAMPING, _ROUNDS, _TOLERANCE = 0.85, 100, 1e-9


@dataclass(frozen=True, eq=False)
class Document:
    """Sentences, their words, and the document's terms.

    Terms stand for content without a list of stop words: words of four letters and more, and pairs of neighbouring
    characters where a script writes no spaces.

    >>> document = Document.of("Rates fell. The bank cut rates again.")
    >>> document.sentences, document.lengths.tolist()
    (('Rates fell.', 'The bank cut rates again.'), [2, 5])
    """

    sentences: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Document:
        """Split a text."""
        return cls(tuple(sentences(text)))

    def __len__(self) -> int:
        return len(self.sentences)

    @cached_property
    def words(self) -> tuple[list[str], ...]:
        """The words of each sentence."""
        return tuple(words(sentence) for sentence in self.sentences)

    @cached_property
    def lengths(self) -> Array:
        """Number of words of each sentence (n,)."""
        return np.array([len(one) for one in self.words], dtype=np.int64)

    @cached_property
    def counts(self) -> csr_matrix:
        """How often each term occurs in each sentence (n, terms)."""
        index: dict[str, int] = {}
        rows: list[int] = []
        columns: list[int] = []
        for row, one in enumerate(self.words):
            found = [index.setdefault(term, len(index)) for term in _terms(one)]
            rows += [row] * len(found)
            columns += found
        shape = (len(self), max(len(index), 1))
        return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)  # terms that repeat are added up

    @cached_property
    def tfidf(self) -> csr_matrix:
        """Term counts weighted by rareness among the sentences, each row of unit length or zero (n, terms)."""
        spread = np.bincount(self.counts.indices, minlength=self.counts.shape[1])
        weighted = self.counts.multiply(np.log((1 + len(self)) / np.maximum(spread, 1))[None, :]).tocsr()
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
        return csr_matrix(weighted.multiply(1 / np.where(norm > 0, norm, 1.0)[:, None]))

    @cached_property
    def textrank(self) -> Float:
        """TextRank (n,), 1 on average: PageRank of the sentences, linked by the cosine of their tf-idf rows.

        Power iteration with damping 0.85; the n × n matrix is never formed. Cost: O(words) per round.

        References
        ----------
        Mihalcea and Tarau (2004), TextRank: bringing order into texts. Erkan and Radev (2004), LexRank.
        """
        n, A = len(self), self.tfidf
        own = np.asarray(A.multiply(A).sum(1)).ravel()  # a sentence does not vote for itself
        linked = A @ np.asarray(A.sum(0)).ravel() - own
        share = np.where(linked > 1e-12, 1 / np.maximum(linked, 1e-12), 0.0)
        rank = np.ones(n)
        for _ in range(_ROUNDS):
            vote = rank * share
            idle = rank[share == 0].sum() / n  # a sentence without links votes for all
            new = (1 - _DAMPING) + _DAMPING * (A @ (A.T @ vote) - own * vote + idle)
            if np.abs(new - rank).max() < _TOLERANCE:
                return np.asarray(new)
            rank = new
        return np.asarray(rank)


def _terms(tokens: Sequence[str]) -> Iterator[str]:
    previous = ""
    for token in tokens:
        single = bool(UNSPACED.match(token))
        if single and previous:
            yield previous + token
        elif not single and len(token) >= _LONG:
            yield token
        previous = token if single else ""
