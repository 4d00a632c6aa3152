"""CORAL: how far the two covariances are apart, ‖Σ_a − Σ_b‖²_F / (4d²). A shift of all rows does not change it.

Units: the fourth power of the features'. Cost: O(d²). Reference: Sun, Saenko (2016), Deep CORAL: correlation alignment
for deep domain adaptation.
"""

from __future__ import annotations

import numpy as np

from headstart.distances.base import Distance
from headstart.moments.moments import Moments


def _coral(a: Moments, b: Moments) -> float:
    """Compute it."""
    return float(np.sum((a.covariance - b.covariance) ** 2)) / (4 * max(a.features, 1) ** 2)


coral = Distance(_coral, sees=("spread",))
