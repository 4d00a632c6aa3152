"""No training: initial weights, the control that every pretraining must beat."""

from __future__ import annotations

from typing import Any

from headstart.pretraining.base import PretrainingPlan


def prepare(source: Any, data: Any, samples: Any) -> PretrainingPlan:
    """Leave the weights as they were drawn."""
    return PretrainingPlan({}, None)
