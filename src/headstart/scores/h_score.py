"""H-score: the sum of squared canonical correlations between features and classes, shrunk where data are few.

    H = (1−ρ)·tr(Σ_ρ⁻¹ Σ_B) ≤ min(d, C−1),   Σ_ρ = (1−ρ)·Σ + ρ·tr(Σ)/d·I

With ρ = 0 it is the H-score of Bao et al.; Ibrahim et al. take ρ from Ledoit–Wolf, without which it is meaningless for
n ≲ d. Σ_ρ ⪰ (1−ρ)Σ, so that the bound always holds; published values above it come from inverting a float32 matrix.

Cost: O(d³ + d²C) from moments, of which d³ is shared with LogME.
References: Bao et al. (2019), An information-theoretic approach to transferability in task transfer learning; Ibrahim,
Ponomareva, Mazumder (2021), Newer is not always better: rethinking transferability metrics.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from headstart._base.registry import unknown_name
from headstart.errors import NumericsError, UnknownName
from headstart.moments.centred import oas_share
from headstart.moments.moments import Moments
from headstart.scores.base import Score, need_classes

Shrinkage = Literal["auto", "ledoit_wolf", "oas", "none"]


def _h_score(moments: Moments, *, shrinkage: Shrinkage = "auto", dimensions: int | None = None) -> float:
    """Compute it.

    Parameters
    ----------
    moments : Moments
        With one-hot targets.
    shrinkage : {"auto", "ledoit_wolf", "oas", "none"}
        ``"auto"`` is Ledoit–Wolf where the moments hold the fourth-order accumulators, else OAS, which needs none.
    dimensions : int, optional
        Of the features that the moments' own are a rotation of, where directions without any spread were left out:
        shrinkage (OAS) depends on it. None is the moments' own number.
    """
    counts = need_classes(moments)
    values, vectors = moments.spectrum
    if not len(values):
        raise NumericsError("No feature varies; the H-score is not defined.")
    d = moments.features if dimensions is None else dimensions
    trace = float(np.trace(moments.scatter))
    if d == moments.features:
        rho = _shrinkage(moments, shrinkage)
    else:  # of the d dimensions only those that vary are there
        n = moments.count
        rho = oas_share(trace / n, float((moments.scatter**2).sum()) / n**2, rows=n, features=d)
    present = counts > 0
    seen = (vectors.T @ moments.cross[:, present]) ** 2 / counts[present]  # n·u_jᵀ Σ_B u_j, class by class
    level = trace / d
    correlations = (1 - rho) * seen.sum(axis=1) / ((1 - rho) * values + rho * level)
    return float(min(correlations.sum(), len(values), present.sum() - 1))  # the last digits may lie above the bound


def _shrinkage(moments: Moments, name: str) -> float:
    if name == "auto":
        name = "ledoit_wolf" if moments.has_fourth else "oas"
    if name == "none":
        return 0.0
    if name not in ("ledoit_wolf", "oas"):
        raise UnknownName(unknown_name("kinds of shrinkage", name, ["auto", "ledoit_wolf", "none", "oas"]))
    return (moments.ledoit_wolf() if name == "ledoit_wolf" else moments.oas())[1]


h_score = Score(_h_score)
