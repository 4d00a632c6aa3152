"""The symbols of transcripts: characters, or words where a few of them make up everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.errors import DataError

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
        few = len(set(words)) <= min(_MOST_WORDS, len(words) / _LEAST_OFTEN)
        units = "words" if words and few else "characters"
    found = {symbol for text in texts for symbol in _split(text, units)}
    if not found:
        raise DataError("All transcripts are empty: there is nothing to learn to write.")
    return Alphabet(tuple(sorted(found)), units)


def _split(text: str, units: str) -> list[str]:
    return text.split() if units == "words" else list(text)
