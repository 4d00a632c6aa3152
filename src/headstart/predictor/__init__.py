"""Predictor: recipe + answers, everything needed to predict elsewhere. Floor 5."""

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
from headstart.predictor.head_models import HeadModel
from headstart.predictor.loading import load
from headstart.predictor.predictor import Predictor
from headstart.predictor.target_model import TARGET_MODELS, TargetModel
from headstart.predictor.transcription import Transcription

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
