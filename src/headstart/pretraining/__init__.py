"""Pretraining: an architecture and a source task → a Source. One objective per file. Floor 5."""

from headstart.pretraining._pretrain import pretrain
from headstart.pretraining.base import OBJECTIVES

__all__ = ["OBJECTIVES", "pretrain"]
