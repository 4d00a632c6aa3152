"""ROUGE-1, -2, -L and -Lsum F-measures, by the package rouge-score with Porter stemming; the mean over documents.

rougeLsum takes sentences from the lines of a text. Texts that are mostly not ASCII are compared by their words, and
by characters where a script does without spaces: the package's own tokenizer would drop all of it and give 0.
Cost: O(words of the truth · words of the summary) per document, in Python: about 0.1 s for 400 words.

References
----------
Lin 2004, ROUGE: a package for automatic evaluation of summaries.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart._extras import need
from headstart._typing import Float
from headstart._words import words
from headstart.metrics.base import Measure, MetricInputs, mean

SUMMARIES = frozenset({"summarization"})
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class UnicodeWords:
    """Tokenizer for rouge-score that keeps every script: lower-case words, single characters for Chinese and kana."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text."""
        return words(text)


def _tokenizer(texts: tuple[str, ...]) -> Any:
    letters = [c.isascii() for text in texts for c in text if c.isalnum()]
    return None if not letters or np.mean(letters) > 0.5 else UnicodeWords()


def _all(rows: MetricInputs) -> dict[str, Float]:
    if "rouge" not in rows.memo:
        scorer = need("rouge_score.rouge_scorer", "for ROUGE").RougeScorer(
            list(KINDS), use_stemmer=True, tokenizer=_tokenizer(rows.truth)
        )
        found = [scorer.score(truth, predicted) for truth, predicted in zip(rows.truth, rows.predicted)]
        rows.memo["rouge"] = {kind: np.array([scores[kind].fmeasure for scores in found]) for kind in KINDS}
    scores: dict[str, Float] = rows.memo["rouge"]
    return scores


def _member(kind: str) -> Measure:
    return Measure(kind, SUMMARIES, lambda rows: _all(rows)[kind], mean)


rouge1, rouge2, rouge_l, rouge_lsum = map(_member, KINDS)
