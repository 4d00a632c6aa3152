"""Metrics with intervals: names over scikit-learn, own files for what it lacks. Floor 2, no torch.

>>> from headstart.metrics import METRICS, evaluate
>>> evaluate("regression", [1.0, 2.0, 3.0, 5.0], [1.1, 1.9, 3.2, 4.6], only=["r2"])["r2"] > 0.9
True
"""

from headstart.metrics.base import HEADLINE, METRICS, Measure, MetricInputs
from headstart.metrics.evaluate import assess, confusion, evaluate, per_class

__all__ = ["HEADLINE", "METRICS", "Measure", "MetricInputs", "assess", "confusion", "evaluate", "per_class"]
