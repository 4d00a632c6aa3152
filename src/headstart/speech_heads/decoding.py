"""Reading a text off log-probabilities per frame: best path, and prefix beam search. numpy only.

References
----------
Graves, Supervised sequence labelling with recurrent neural networks, 2012, ch. 7. Hannun et al., First-pass large
vocabulary continuous speech recognition using bi-directional recurrent DNNs, 2014 (prefix beam search).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart._base.typing import Array
from headstart.errors import DataError

BLANK = 0
_UNLIKELY = -14.0  # a symbol of less than a millionth extends no prefix


def greedy(emissions: Array) -> list[int]:
    """The best symbol of every frame, repeats merged, blanks dropped.

    Shapes
    ------
    emissions : (T, symbols + 1) log-probabilities; number 0 is the blank.

    Examples
    --------
    >>> greedy(np.log([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]]))
    [1, 1]
    """
    best = np.asarray(emissions).argmax(1)
    merged = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return [int(n) for n in merged if n != BLANK]


def beam_search(emissions: Array, width: int = 8) -> list[int]:
    """The most probable text among those that ``width`` prefixes lead to: alignments of one text are summed.

    Cost: T · width · (likely symbols), in Python: about 10 ms for 100 frames, width 8 and 11 symbols.

    Examples
    --------
    >>> beam_search(np.log([[0.6, 0.4], [0.6, 0.4]]))
    [1]
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}  # log P ending in (blank, symbol)
    for frame in np.asarray(emissions, np.float64):
        likely = [int(n) for n in np.flatnonzero(frame > _UNLIKELY) if n != BLANK]
        scores = frame.tolist()
        following: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, symbol) in beams.items():
            total = _sum(blank, symbol)
            last = prefix[-1] if prefix else None
            again = -math.inf if last is None else symbol + scores[last]
            _add(following, prefix, total + scores[BLANK], again)
            for n in likely:  # an equal symbol starts anew only after a blank
                _add(following, (*prefix, n), -math.inf, (blank if n == last else total) + scores[n])
        ranked = sorted(following.items(), key=lambda item: (-_sum(*item[1]), item[0]))
        beams = dict(ranked[:width])
    return list(next(iter(beams)))


def _add(
    beams: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, symbol: float
) -> None:
    old = beams.get(prefix, (-math.inf, -math.inf))
    beams[prefix] = (_sum(old[0], blank), _sum(old[1], symbol))


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


# ---- The symbols of transcripts: characters, or words where a few of them make up everything. ----


_MOST_WORDS = 64  # a vocabulary of commands or digits, each of them heard
_LEAST_OFTEN = 5  # times on average


@dataclass(frozen=True)
class Alphabet:
    """Symbols in sorted order; number 0 is the blank, symbol i is number i + 1.

    Examples
    --------
    >>> Alphabet(("one", "two"), "words").text([2, 1])
    'two one'
    """

    symbols: tuple[str, ...]
    units: str

    def numbers(self, text: str) -> list[int]:
        """The text's symbols; those that are not in the alphabet are left out."""
        index = {symbol: i + 1 for i, symbol in enumerate(self.symbols)}
        return [index[symbol] for symbol in _split(text, self.units) if symbol in index]

    def text(self, numbers: Sequence[int]) -> str:
        """The other way round."""
        return (" " if self.units == "words" else "").join(self.symbols[n - 1] for n in numbers)


def alphabet_of(texts: Sequence[str], units: str = "auto") -> Alphabet:
    """The symbols of the transcripts.

    Raises
    ------
    DataError
        When there is no symbol in any of them.

    Examples
    --------
    >>> alphabet_of(["one two", "two"] * 5).symbols
    ('one', 'two')
    >>> alphabet_of(["one two"]).symbols
    (' ', 'e', 'n', 'o', 't', 'w')
    """
    if units == "auto":
        words = [word for text in texts for word in text.split()]
        has_few_words = len(set(words)) <= min(_MOST_WORDS, len(words) / _LEAST_OFTEN)
        units = "words" if words and has_few_words else "characters"
    symbols_found = {symbol for text in texts for symbol in _split(text, units)}
    if not symbols_found:
        raise DataError("All transcripts are empty: there is nothing to learn to write.")
    return Alphabet(tuple(sorted(symbols_found)), units)


def _split(text: str, units: str) -> list[str]:
    return text.split() if units == "words" else list(text)
