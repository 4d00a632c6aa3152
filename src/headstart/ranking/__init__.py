"""rank(): sources × layers on your data, by the cross-validated score of the head that would be deployed. Floor 5."""

from headstart.ranking.rank import rank
from headstart.ranking.validate import Validation

__all__ = ["Validation", "rank"]
