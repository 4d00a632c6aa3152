"""How long a summary is, and which sentences fill it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart._base.typing import Array, Float, Ints
from headstart.errors import OptionError
from headstart.summarization.document import Document

UNITS = ("share of sentences", "sentences", "share of words", "words")
_TIGHT = re.compile('[。！？｡][”’」』】》）"]*$')
_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(%|sentences?|words?)\s*")


@dataclass(frozen=True)
class Length:
    """A budget for summaries.

    Attributes
    ----------
    unit : {"share of sentences", "sentences", "share of words", "words"}
    amount : float
        A share is of the document.
    """

    unit: str
    amount: float

    @classmethod
    def parse(cls, value: float | str) -> Length:
        """From what a user writes: 3 or "3 sentences", 0.3 or "30 %", "100 words".

        >>> Length.parse(3), Length.parse("100 words")
        (Length(unit='sentences', amount=3.0), Length(unit='words', amount=100.0))

        Raises
        ------
        OptionError
        """
        if isinstance(value, Length):
            return value
        if isinstance(value, str) and (match_ := _WRITTEN.fullmatch(value)):
            amount, unit = float(match_[1]), match_[2]
            if unit == "%" and 0 < amount <= 100:
                return cls("share of sentences", amount / 100)
            if unit != "%" and amount >= 1:
                return cls("words" if unit.startswith("word") else "sentences", amount)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if 0 < value < 1 or (isinstance(value, float) and value == 1):
                return cls("share of sentences", float(value))
            if value >= 1 and float(value).is_integer():
                return cls("sentences", float(value))
        raise OptionError(
            f"The length of a summary is a number of sentences (3), a share of them (0.3 or '30 %') or '100 words'; "
            f"got {value!r}."
        )

    @classmethod
    def learned(cls, documents: Sequence[Document], references: Sequence[Document]) -> Length:
        """The budget that references keep to most closely: in the unit in which they differ least, their middle."""
        measured = np.array(
            [
                (len(ref) / len(doc), len(ref), ref.lengths.sum() / max(doc.lengths.sum(), 1), ref.lengths.sum())
                for doc, ref in zip(documents, references)
                if len(doc) and len(ref)
            ]
        )
        logs = np.log(np.maximum(measured, 1e-9))
        spread = np.abs(logs - np.median(logs, axis=0)).mean(0)
        best = int(np.argmin(np.round(spread, 6)))
        return cls(UNITS[best], float(np.exp(np.median(logs[:, best]))))

    def fill(self, order: Ints, document: Document, *, blocking: bool = False) -> Ints:
        """The sentences of a summary, in the order of the document.

        Parameters
        ----------
        order : (n,) array of int
            Sentences, the best first.
        blocking : bool
            Leave out a sentence that shares three words in a row with one taken before.
        """
        target, weights = self._target(document)
        taken: list[int] = []
        size, trigrams_used = 0.0, set[tuple[str, ...]]()
        for index in order.tolist():
            after = size + weights[index]
            if taken and abs(after - target) >= abs(size - target):
                break
            grams = _trigrams(document.words[index]) if blocking else set()
            if trigrams_used & grams:
                continue
            taken.append(index)
            size, trigrams_used = after, trigrams_used | grams
        return np.sort(np.array(taken, dtype=np.int64))

    def _target(self, document: Document) -> tuple[float, Float]:
        """How much is wanted, and what each sentence counts (n,)."""
        in_words = "words" in self.unit
        weights = document.lengths.astype(np.float64) if in_words else np.ones(len(document))
        share = self.unit.startswith("share")
        amount = self.amount * float(weights.sum()) if share else self.amount
        return (amount if in_words else max(1.0, float(np.floor(amount + 0.5)))), weights

    def __str__(self) -> str:
        if self.unit.startswith("share"):
            return f"{100 * self.amount:.0f} % of the {self.unit.rpartition(' ')[2]}"
        return f"{self.amount:.0f} {self.unit}"


def _trigrams(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(tokens, tokens[1:], tokens[2:]))


def best_first(scores: Array) -> Ints:
    """Sentences by score, the best first; of equals the earlier."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").astype(np.int64)


def join_sentences(document: Document, chosen: Ints, joint: str) -> str:
    """The sentences as one text; a joint that is a space is left out after the marks that need none."""
    text = ""
    for index in chosen.tolist():
        between = "" if not text or (joint == " " and _TIGHT.search(text)) else joint
        text += between + document.sentences[index]
    return text
