"""Predictor: sources + target models, everything needed to predict elsewhere. Floor 5."""

from headstart.extraction.features import (
    FeatureSet,
    FeatureSpec,
    LayerKey,
    Segments,
    extract_features,
    has_frames,
    is_passthrough,
    take_rows,
)
from headstart.moments.exact_sums import ExactSums
from headstart.predictor.predictions import Predictions
from headstart.predictor.predictor import Predictor, load
from headstart.predictor.storage import TARGET_MODELS
from headstart.predictor.target_model import HeadModel, TargetModel
from headstart.predictor.transcription import Transcription

__all__ = [
    "TARGET_MODELS",
    "TargetModel",
    "Segments",
    "ExactSums",
    "FeatureSpec",
    "LayerKey",
    "Predictions",
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
