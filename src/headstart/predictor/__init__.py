"""Predictor: recipe + answers, everything needed to predict elsewhere. Floor 5."""

from headstart.predictor._answer import ANSWERS, Answer
from headstart.predictor._features import Division, Part, Place, Rows, chosen, raw, rows_of, with_frames
from headstart.predictor._ledger import Ledger
from headstart.predictor._loading import load
from headstart.predictor._predictor import Predictor
from headstart.predictor._transcription import Transcription
from headstart.predictor._with_head import WithHead

__all__ = [
    "ANSWERS",
    "Answer",
    "Division",
    "Ledger",
    "Part",
    "Place",
    "Predictor",
    "Rows",
    "Transcription",
    "WithHead",
    "chosen",
    "load",
    "raw",
    "rows_of",
    "with_frames",
]
