"""Runners: where work is done. One per file; given a function and items, they know nothing of features. Floor 3."""

from headstart.runners.base import RUNNERS, Runner

__all__ = ["RUNNERS", "Runner"]
