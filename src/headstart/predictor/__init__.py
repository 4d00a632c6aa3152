"""Predictor: recipe + answers, everything needed to predict elsewhere. Floor 5."""

from headstart.predictor._answer import ANSWERS, Answer
from headstart.predictor._features import Division, Part, Place, Rows, raw, rows_of
from headstart.predictor._loading import load
from headstart.predictor._predictor import Predictor
from headstart.predictor._with_head import WithHead

__all__ = ["ANSWERS", "Answer", "Division", "Part", "Place", "Predictor", "Rows", "WithHead", "load", "raw", "rows_of"]
