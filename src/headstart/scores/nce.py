"""NCE: minus the conditional entropy −H(Y|Z) of the target class given the source's own label, from a count table.

    NCE = Σ_{z,y} p(z,y)·log( p(z,y) / p(z) ) ≤ 0

The table is that of one-hot source labels Z = argmax θ(x) against one-hot targets: it is what moments of (Z, T) hold,
so it merges like everything else. Cost: O(Z·C).
Reference: Tran, Nguyen, Hassner (2019), Transferability and hardness of supervised classification tasks.
"""

from __future__ import annotations

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import DataError, NumericsError
from headstart.moments.moments import Moments
from headstart.scores.base import Score


def _nce(moments: Moments | None, *, table: Array | None = None) -> float:
    """Compute it.

    Parameters
    ----------
    moments : Moments or None
        Of one-hot source labels (as features) and one-hot targets; not looked at when a table is given.
    table : (Z, C) array, optional
        Counts of source label and target class together.
    """
    if table is not None:
        counts = np.asarray(table, dtype=np.float64)
    elif moments is not None:
        counts = _counts(moments)
    else:
        raise DataError("NCE needs table=counts of (source label, class), or Moments of one-hot source labels.")
    if counts.ndim != 2 or not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError(f"NCE needs a (source labels, classes) table of counts ≥ 0; got shape {counts.shape}.")
    if not counts.sum():
        raise NumericsError("The table of source labels and classes is empty; NCE needs rows.")
    totals = np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)
    here = counts > 0
    return float((counts[here] * np.log(counts[here] / totals[here])).sum() / counts.sum())


def _counts(moments: Moments) -> Float:
    """Σ z·tᵀ = cross + n·mean·target_meanᵀ, which is whole for one-hot rows."""
    raw = moments.cross + moments.count * np.outer(moments.mean, moments.target_mean)
    table = np.rint(raw)
    spread = moments.scatter.diagonal() / max(moments.count, 1)
    one_hot = np.allclose(spread, moments.mean * (1 - moments.mean), atol=1e-9) and np.isclose(moments.mean.sum(), 1)
    if not (moments.is_one_hot and one_hot and np.allclose(raw, table, atol=1e-3)):
        raise DataError(
            "NCE needs Moments whose features are one-hot source labels and whose targets are one-hot classes: "
            "Moments.from_rows(np.eye(source_classes)[theta.argmax(1)], T)."
        )
    return table + 0.0


nce = Score(_nce, on="source", from_moments=False)
