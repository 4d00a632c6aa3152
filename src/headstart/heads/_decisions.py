"""What heads do alike with decisions, folds and their own costs."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, softmax

from headstart._typing import Array, Float, Ints
from headstart.errors import OptionError
from headstart.heads._problem import Problem

ABSENT = -1e6  # decision of a class that training never saw: finite, and its probability is exactly 0


def widened(intercept: Float, present: Array) -> Float:
    """Intercepts of all classes; those without rows are never predicted."""
    out = np.full(len(present), ABSENT)
    out[present] = intercept
    return out


def probabilities(decision: Float, task: str, temperature: float = 1.0) -> Float:
    """Probabilities (n, t) of decisions (n, t)."""
    if task == "regression":
        raise OptionError("Values have no probabilities; use predict, or a classification task.")
    scaled = decision / temperature
    return np.asarray(softmax(scaled, axis=-1) if task == "classification" else expit(scaled))


def flops(problem: Problem, *, per_side: float, per_value: float) -> float:
    """``per_side``·min(n, d)³ and ``per_value`` operations for each of the n·min(n, d)·t products."""
    n, d = problem.rows.shape
    side = min(n, d)
    return float(per_side * side**3 + per_value * n * side * len(problem.target_mean))


def members(folds: Ints) -> list[list[Ints]]:
    """Rows of every fold, for each of R fold assignments (R, n)."""
    return [[np.flatnonzero(row == fold) for fold in np.unique(row)] for row in folds]
