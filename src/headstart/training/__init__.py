"""Training: the one loop of the project, its losses and its checkpoints. Floor 4."""

from headstart.training.checkpoint import History, ParameterGroup, copy_into
from headstart.training.loop import TrainingConfig, epoch_batches, train
from headstart.training.losses import loss_for

__all__ = ["ParameterGroup", "History", "TrainingConfig", "loss_for", "copy_into", "epoch_batches", "train"]
