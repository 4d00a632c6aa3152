"""No training: initial weights, the control that every pretraining must beat."""

from __future__ import annotations

from headstart.dataset.dataset import Dataset
from headstart.pretraining.base import PretrainingPlan
from headstart.sources.base import Source
from headstart.training.batches import SampleBatches
from headstart.training.config import Augment, TrainingConfig


def prepare(
    source: Source, data: Dataset, batches: SampleBatches, *, config: TrainingConfig, augment: Augment
) -> PretrainingPlan:
    """Leave the weights as they were drawn."""
    return PretrainingPlan({}, None)
