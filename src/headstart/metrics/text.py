"""ROUGE-1, -2, -L and -Lsum F-measures, by the package rouge-score with Porter stemming; the mean over documents.

rougeLsum takes sentences from the lines of a text. Texts that are mostly not ASCII are compared by their words, and
by characters where a script does without spaces: the package's own tokenizer would drop all of it and give 0.
Cost: O(words of the truth · words of the summary) per document, in Python: about 0.1 s for 400 words.

References
----------
Lin 2004, ROUGE: a package for automatic evaluation of summaries.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from headstart._base.extras import require_package
from headstart._base.typing import Float
from headstart.metrics.base import Measure, MetricInputs, mean, ratio

# Words of any script, for comparing texts: lower-case runs of letters and digits, single characters where none
# are written apart. Floor 1.


# Chinese and kana are written without spaces: one character is one word.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
UNSPACED = re.compile(f"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """The words of a text, in order. Cost: O(n)."""
    return _WORD.findall(text.lower())


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
        scorer = require_package("rouge_score.rouge_scorer", "for ROUGE").RougeScorer(
            list(KINDS), use_stemmer=True, tokenizer=_tokenizer(rows.truth)
        )
        scored = [scorer.score(truth, predicted) for truth, predicted in zip(rows.truth, rows.predicted)]
        rows.memo["rouge"] = {kind: np.array([scores[kind].fmeasure for scores in scored]) for kind in KINDS}
    scores: dict[str, Float] = rows.memo["rouge"]
    return scores


def _member(kind: str) -> Measure:
    return Measure(kind, SUMMARIES, lambda rows: _all(rows)[kind], mean)


rouge1, rouge2, rouge_l, rouge_lsum = map(_member, KINDS)


# Word and character error rate: edits over the length of the truth, pooled over all rows (jiwer counts the
# edits).


TRANSCRIPTION = frozenset({"transcription"})


def _edits(rows: MetricInputs, unit: str) -> Float:
    """Shapes: (n, 2): edits, length of the truth."""
    jiwer = require_package("jiwer", "for word and character error rates")
    count = jiwer.process_words if unit == "words" else jiwer.process_characters
    parts = np.zeros((len(rows), 2))
    for i, (truth, predicted) in enumerate(zip(rows.truth, rows.predicted)):
        length, predicted_length = (
            len(text.split() if unit == "words" else text.strip()) for text in (truth, predicted)
        )
        if length and predicted_length:
            edits = count(truth, predicted)
            parts[i] = edits.substitutions + edits.deletions + edits.insertions, length
        else:
            parts[i] = max(length, predicted_length), length
    return parts


def _words(rows: MetricInputs) -> Float:
    return _edits(rows, "words")


def _characters(rows: MetricInputs) -> Float:
    return _edits(rows, "characters")


wer = Measure("wer", TRANSCRIPTION, _words, ratio, better="lower", bounds=(0.0, math.inf))
cer = Measure("cer", TRANSCRIPTION, _characters, ratio, better="lower", bounds=(0.0, math.inf))
