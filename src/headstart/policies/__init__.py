"""Policies: which parameters move, and how fast. One per file. Floor 3."""

from headstart.policies.base import POLICIES, Move, Placed, Policy, policy

__all__ = ["POLICIES", "Move", "Placed", "Policy", "policy"]
