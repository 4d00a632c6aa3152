"""Policies: which parameters move, and how fast. One per file. Floor 3."""

from headstart.policies.base import POLICIES, ParameterInfo, Policy, TrainableParameter, policy

__all__ = ["POLICIES", "TrainableParameter", "ParameterInfo", "Policy", "policy"]
