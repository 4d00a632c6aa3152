"""Fréchet: the squared Wasserstein-2 distance of two Gaussians, ‖μ_a−μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a^½ Σ_b Σ_a^½)^½).

The trace of the last root is the sum of the singular values of Σ_a^½ Σ_b^½, taken on the two ranges: no root of a
rounding error is ever added, and n < d costs less instead of more. The estimate is biased upwards for n ≲ 10·d: compare
sets of equal size, and quote n.

Units: the square of the features'. Cost: O(d³), of which the eigenvectors of each side are kept with its moments.
References: Dowson, Landau (1982), The Fréchet distance between multivariate normal distributions; Heusel et al. (2017).
"""

from __future__ import annotations

import numpy as np

from headstart._base.typing import Float
from headstart.distances.base import Distance
from headstart.moments.moments import Moments


def _frechet(a: Moments, b: Moments) -> float:
    """Compute it."""
    shift = a.mean - b.mean
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    overlap = np.linalg.svd(_root(a).T @ _root(b), compute_uv=False).sum()
    value = float(shift @ shift) + traces - 2 * float(overlap)
    return value if value > 1e-13 * traces else 0.0  # traces cancel to rounding where the two are equal


def _root(moments: Moments) -> Float:
    """(d, r) R with R·Rᵀ = Σ."""
    values, vectors = moments.spectrum
    return np.asarray(vectors * np.sqrt(values / (moments.count - 1)))


frechet = Distance(_frechet, sees=("shift", "spread"))
