"""What happened: Result, Ranking and Proof. Frozen; they only compare, print, and turn into plain data. Floor 1."""

from headstart._base.intervals import Metric
from headstart._base.typing import SkippedItem
from headstart.result.proof import Forgetting, Gain, LabelsSaved, Proof, ProofRow, TimeSaved
from headstart.result.ranking import Fusion, Ranking, Row
from headstart.result.record import Comparison, Difference, Record, plain
from headstart.result.result import ClassRow, Confusion, Result, read_record

__all__ = [
    "ClassRow",
    "Comparison",
    "Confusion",
    "Difference",
    "Forgetting",
    "Fusion",
    "Gain",
    "LabelsSaved",
    "SkippedItem",
    "Metric",
    "Proof",
    "ProofRow",
    "Ranking",
    "Record",
    "Result",
    "Row",
    "TimeSaved",
    "plain",
    "read_record",
]
