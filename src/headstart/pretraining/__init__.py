"""Pretraining: an architecture and a source task → a Source. One objective per file. Floor 5."""

from headstart.pretraining.base import OBJECTIVES
from headstart.pretraining.pretrain import pretrain

__all__ = ["OBJECTIVES", "pretrain"]
