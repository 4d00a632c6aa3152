"""LEEP: the mean log-likelihood of the targets under the source's own class probabilities θ(x).

    P(y|z) = Σ_i θ_z(x_i)[y_i=y] / Σ_i θ_z(x_i),   LEEP = (1/n) Σ_i log Σ_z P(y_i|z)·θ_z(x_i) ≤ 0

The joint table Σ_i θ_z(x_i)[y_i=y] merges (it is in the moments of θ and T); the final average needs the rows of θ.
Cost: O(n·Z·C). Reference: Nguyen et al. (2020), LEEP: a new measure to evaluate transferability of learned
representations.
"""

from __future__ import annotations

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import DataError, NumericsError
from headstart.moments.moments import Moments
from headstart.scores.base import Score


def _leep(moments: Moments | None, *, probabilities: Array, targets: Array) -> float:
    """Compute it.

    Parameters
    ----------
    moments : Moments or None
        Of probabilities and targets, perhaps of many clients, for P(y|z); None takes it from the rows given.
    probabilities : (n, Z) array
        θ: every row sums to one.
    targets : (n, C) array
        One-hot.
    """
    theta, T = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    _check(theta, T)
    joint = theta.T @ T if moments is None else _joint(moments, (theta.shape[1], T.shape[1]))
    marginal = joint.sum(axis=1, keepdims=True)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    likelihood = np.einsum("nz,zn->n", theta, conditional[:, T.argmax(axis=1)])
    if (likelihood <= 0).any():
        raise NumericsError("Some targets have probability zero: the moments given do not cover these rows.")
    return float(np.log(likelihood).mean())


def _joint(moments: Moments, shape: tuple[int, int]) -> Float:
    joint = moments.cross + moments.count * np.outer(moments.mean, moments.target_mean)
    if joint.shape != shape:
        raise DataError(f"The moments hold {joint.shape} source and target classes; the rows have {shape}.")
    return np.maximum(joint, 0.0)


def _check(theta: Float, T: Float) -> None:
    problems = []
    if theta.ndim != 2 or T.ndim != 2 or len(theta) != len(T) or not len(T):
        problems.append(f"LEEP needs probabilities (n, Z) and targets (n, C); got {theta.shape} and {T.shape}.")
    else:
        if not np.isfinite(theta).all() or (theta < 0).any() or not np.allclose(theta.sum(axis=1), 1, atol=1e-3):
            problems.append("probabilities must be ≥ 0 and sum to one in every row; apply a softmax first.")
        if not ((T == 0) | (T == 1)).all() or not (T.sum(axis=1) == 1).all():
            problems.append("targets must be one-hot: np.eye(number_of_classes)[labels].")
    if problems:
        raise DataError("\n".join(problems))


leep = Score(_leep, on="source", from_moments=False)
