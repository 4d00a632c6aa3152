"""CKA: how unlike two feature spaces are over the same rows, 1 − ‖C_ab‖²_F / (‖C_aa‖_F · ‖C_bb‖_F), from 0 to 1.

It does not change when either side is rotated, shifted or scaled. C_ab is the centred product of the two sides' rows,
which neither side's own moments hold. It is had in three ways: give it as ``cross``; make ``a`` with b's rows as its
targets, ``Moments.from_rows(X_a, X_b)``, or b with a's; or take both from the moments of the concatenated rows::

    joint = Moments.from_rows(np.hstack([X_a, X_b]))
    distance("cka", joint.select(slice(0, d)), joint.select(slice(d, None)), cross=joint.scatter[:d, d:])

Cost: O(d_a·d_b). Reference: Kornblith, Norouzi, Lee, Hinton (2019), Similarity of neural network representations
revisited.
"""

from __future__ import annotations

import numpy as np

from headstart._base.typing import Array, Float
from headstart.distances.base import Distance
from headstart.errors import DataError, NumericsError, OptionError
from headstart.moments.moments import Moments


def _cka(a: Moments, b: Moments, *, cross: Array | None = None) -> float:
    """Compute it.

    Parameters
    ----------
    a, b : Moments
        Of the same rows in the two spaces.
    cross : (d_a, d_b) array, optional
        Σ (x_a − μ_a)(x_b − μ_b)ᵀ.
    """
    if a.count != b.count:
        raise DataError(f"CKA compares two spaces over the same rows; these moments hold {a.count:,} and {b.count:,}.")
    cross_products = _cross(a, b) if cross is None else np.asarray(cross, dtype=np.float64)
    if cross_products.shape != (a.features, b.features):
        raise OptionError(f"cross must be ({a.features}, {b.features}); got {cross_products.shape}.")
    norms = float(np.linalg.norm(a.scatter)) * float(np.linalg.norm(b.scatter))
    if not norms:
        raise NumericsError("No feature varies on one of the sides; CKA is not defined.")
    similarity = float(np.linalg.norm(cross_products)) ** 2 / norms
    if similarity > 1 + 1e-9:
        raise DataError("cross does not belong to these moments: it is larger than Cauchy and Schwarz allow.")
    return 1 - similarity if similarity < 1 - 1e-14 else 0.0


def _cross(a: Moments, b: Moments) -> Float:
    """The product of the two sides' rows, where one of them holds it."""
    if _are_targets(b, a):
        return a.cross
    if _are_targets(a, b):
        return b.cross.T
    if a is b or a == b:
        return a.scatter
    raise OptionError(
        "CKA needs the product of the two sides' rows. Give cross=, or make a = Moments.from_rows(X_a, X_b), "
        "or see headstart.distances.cka for the moments of concatenated rows."
    )


def _are_targets(features: Moments, holder: Moments) -> bool:
    """Tell whether the targets of ``holder`` are the features of the other: same size, mean and spread."""
    spread = features.scatter.diagonal()
    return (
        holder.targets == features.features
        and np.allclose(holder.target_mean, features.mean, rtol=1e-9, atol=1e-9 * float(np.sqrt(spread.max(initial=0))))
        and np.allclose(holder.target_scatter, spread, rtol=1e-6, atol=1e-9 * float(spread.max(initial=0)))
    )


cka = Distance(_cka, between="features")
