"""Training: the one loop of the project, its losses and its checkpoints. Floor 4."""

from headstart.training._checkpoint import History, ParameterGroup, put
from headstart.training._losses import loss_for
from headstart.training._train import TrainingConfig, steps_of, train

__all__ = ["ParameterGroup", "History", "TrainingConfig", "loss_for", "put", "steps_of", "train"]
