"""Policies: which parameters are trained, and how fast."""

from headstart.policies.base import POLICIES, ParameterInfo, Policy, TrainableParameter, policy

__all__ = ["POLICIES", "TrainableParameter", "ParameterInfo", "Policy", "policy"]
