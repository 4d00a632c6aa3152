"""Training: the one loop of the project, its losses and its checkpoints. Floor 4."""

from headstart.training.checkpoint import History, ParameterGroup, put
from headstart.training.loop import TrainingConfig, steps_of, train
from headstart.training.losses import loss_for

__all__ = ["ParameterGroup", "History", "TrainingConfig", "loss_for", "put", "steps_of", "train"]
