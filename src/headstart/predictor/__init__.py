"""Predictor: recipe + answers, everything needed to predict elsewhere. Floor 5."""

from headstart.predictor._answer import TARGET_MODELS, TargetModel
from headstart.predictor._features import (
    FeatureSet,
    FeatureSpec,
    LayerKey,
    Segments,
    extract_features,
    has_frames,
    is_passthrough,
    take_rows,
)
from headstart.predictor._ledger import ExactSums
from headstart.predictor._loading import load
from headstart.predictor._predictor import Predictor
from headstart.predictor._transcription import Transcription
from headstart.predictor._with_head import HeadModel

__all__ = [
    "TARGET_MODELS",
    "TargetModel",
    "Segments",
    "ExactSums",
    "FeatureSpec",
    "LayerKey",
    "Predictor",
    "FeatureSet",
    "Transcription",
    "HeadModel",
    "take_rows",
    "load",
    "is_passthrough",
    "extract_features",
    "has_frames",
]
