"""Extractive summaries: sentences, the oracle, features, TextRank, selection. Floor 2: numpy and scipy, no model.

What turns features into scores is any head; ``fit`` and ``predict`` of the task are in ``transfer`` and ``predictor``.
"""

from headstart.summarization.document import Document, sentences
from headstart.summarization.features import SETS, SIMILARITY, SURFACE, features, similarity, surface
from headstart.summarization.length import UNITS, Length, best_first, join_sentences
from headstart.summarization.oracle import oracle, rouge

__all__ = [
    "SETS", "SIMILARITY", "SURFACE", "UNITS", "Document", "Length", "best_first", "features", "oracle", "rouge",
    "sentences", "similarity", "surface", "join_sentences",
]  # fmt: skip
