"""Engines: how a forward pass is run. One per file. Floor 3."""

from headstart.engines.base import ENGINES, Engine, RuntimeConfig

__all__ = ["ENGINES", "RuntimeConfig", "Engine"]
