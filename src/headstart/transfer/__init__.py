"""fit(): the main job, orchestrated. Floor 6."""

from headstart.transfer.fit import fit

__all__ = ["fit"]
