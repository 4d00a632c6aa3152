"""Word and character error rate: edits over the length of the truth, pooled over all rows (jiwer counts the edits).

Texts are compared as they are: lower-case them, or take punctuation away, before if that should not count.
Rates can exceed 1. A row whose truth is empty adds its inserted words and no length. Cost: O(Σ lengths²).
"""

from __future__ import annotations

import math

import numpy as np

from headstart._extras import need
from headstart._typing import Float
from headstart.metrics.base import Measure, MetricInputs, ratio

TRANSCRIPTION = frozenset({"transcription"})


def _edits(rows: MetricInputs, unit: str) -> Float:
    """Shapes: (n, 2): edits, length of the truth."""
    jiwer = need("jiwer", "for word and character error rates")
    count = jiwer.process_words if unit == "words" else jiwer.process_characters
    parts = np.zeros((len(rows), 2))
    for i, (truth, predicted) in enumerate(zip(rows.truth, rows.predicted)):
        length, given = (len(text.split() if unit == "words" else text.strip()) for text in (truth, predicted))
        if length and given:
            found = count(truth, predicted)
            parts[i] = found.substitutions + found.deletions + found.insertions, length
        else:
            parts[i] = max(length, given), length
    return parts


def _words(rows: MetricInputs) -> Float:
    return _edits(rows, "words")


def _characters(rows: MetricInputs) -> Float:
    return _edits(rows, "characters")


wer = Measure("wer", TRANSCRIPTION, _words, ratio, better="lower", bounds=(0.0, math.inf))
cer = Measure("cer", TRANSCRIPTION, _characters, ratio, better="lower", bounds=(0.0, math.inf))
