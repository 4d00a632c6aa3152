"""Pretraining: an architecture and a source task → a Source; and training from scratch, its control."""

from headstart.pretraining.base import OBJECTIVES
from headstart.pretraining.pretrain import pretrain

__all__ = ["OBJECTIVES", "pretrain"]
