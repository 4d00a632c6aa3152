"""Heads: features → predictions. One per file; the table is in :mod:`headstart.heads.base`."""

from headstart.heads.base import HEADS, Head, head

__all__ = ["HEADS", "Head", "head"]
