"""The Euclidean distance of the two means, ‖μ_a − μ_b‖: maximum mean discrepancy with a linear kernel.

Units: those of the features. Cost: O(d). Reference: Gretton et al. (2012), A kernel two-sample test.
"""

from __future__ import annotations

import numpy as np

from headstart.distances.base import Distance
from headstart.moments.moments import Moments


def _mean(a: Moments, b: Moments) -> float:
    """Compute it."""
    return float(np.linalg.norm(a.mean - b.mean))


mean = Distance(_mean, sees=("shift",))
