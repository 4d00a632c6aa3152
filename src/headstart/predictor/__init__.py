"""Predictor: recipe + heads, everything needed to predict elsewhere. Floor 5."""

from headstart.predictor._answer import Answer, Part
from headstart.predictor._features import raw
from headstart.predictor._loading import load
from headstart.predictor._predictor import Predictor

__all__ = ["Answer", "Part", "Predictor", "load", "raw"]
