"""Moments: the one mergeable statistic under ranking, heads, drift, distribution, federation and removal.

Six small arrays per layer say everything that closed-form heads, transferability scores and distances ask of a set of
feature rows and their targets. They merge, they subtract, and no row need be kept.
"""

from headstart.moments.centred import Centred, oas_share
from headstart.moments.exact import Quantiser
from headstart.moments.moments import Moments

__all__ = ["Centred", "Moments", "Quantiser", "oas_share"]
