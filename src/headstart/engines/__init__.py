"""Engines: how a forward pass is run. One per file. Floor 3."""

from headstart.engines.base import ENGINES, Choice, Engine

__all__ = ["ENGINES", "Choice", "Engine"]
