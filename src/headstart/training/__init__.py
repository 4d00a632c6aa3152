"""Training: the one loop of the project, its losses and its checkpoints. Floor 4."""

from headstart.training._checkpoint import Group, History, put
from headstart.training._losses import loss_for
from headstart.training._train import Schedule, steps_of, train

__all__ = ["Group", "History", "Schedule", "loss_for", "put", "steps_of", "train"]
