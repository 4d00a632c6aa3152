"""Extractive summaries: sentences, the oracle, features, TextRank, selection. Floor 2: numpy and scipy, no model.

What turns features into scores is any head; ``fit`` and ``predict`` of the task are in ``transfer`` and ``predictor``.
"""

from headstart.summarization._document import Document
from headstart.summarization._features import SETS, SIMILARITY, SURFACE, features, similarity, surface
from headstart.summarization._length import UNITS, Length, best_first, written
from headstart.summarization._oracle import oracle, rouge
from headstart.summarization._sentences import sentences

__all__ = [
    "SETS", "SIMILARITY", "SURFACE", "UNITS", "Document", "Length", "best_first", "features", "oracle", "rouge",
    "sentences", "similarity", "surface", "written",
]  # fmt: skip
