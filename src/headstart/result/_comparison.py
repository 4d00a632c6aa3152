"""Two results side by side: which metrics differ by more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from headstart._intervals import Metric, mover_difference, number, paired_difference
from headstart._printing import blocks, table
from headstart._typing import Array


class Comparable(Protocol):
    """What a comparison reads of a Result."""

    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def row_scores(self) -> Mapping[str, Array]: ...
    @property
    def provenance(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Difference:
    """One metric of two results. ``difference`` is ours - theirs, with its interval."""

    metric: str
    ours: Metric
    theirs: Metric
    difference: Metric
    paired: bool

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no clear difference``, or ``unknown`` when there is no interval."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "unknown"
        if low <= 0 <= high:
            return "no clear difference"
        return "better" if (low > 0) == (self.ours.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Every metric that two results share; prints as a table."""

    rows: tuple[Difference, ...]

    def __getitem__(self, metric: str) -> Difference:
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(f"{metric!r} is not shared by both results; shared: {', '.join(r.metric for r in self.rows)}.")

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        body = [
            [r.metric, number(r.ours), number(r.theirs), repr(r.difference), r.verdict, "yes" if r.paired else "no"]
            for r in self.rows
        ]
        text = table(["metric", "ours", "theirs", "difference, 95 %", "ours is", "paired"], body, "lrrll")
        unpaired = any(not row.paired for row in self.rows)
        hint = "paired no: from the two intervals alone, which is cautious when both used the same rows." * unpaired
        return blocks(text, hint)


def compare(ours: Comparable, theirs: Comparable) -> Comparison:
    """Differences of the shared metrics; paired where both kept the scores of the very same rows."""
    data = ours.provenance.get("data")
    same = data is not None and data == theirs.provenance.get("data")
    return Comparison(
        tuple(_difference(name, ours, theirs, same) for name in ours.metrics if name in theirs.metrics),
    )


def _difference(name: str, ours: Comparable, theirs: Comparable, same: bool) -> Difference:
    a, b = ours.metrics[name], theirs.metrics[name]
    rows = ours.row_scores.get(name), theirs.row_scores.get(name)
    if same and rows[0] is not None and rows[1] is not None and len(rows[0]) == len(rows[1]) > 0:
        mean, low, high = paired_difference(rows[0], rows[1])
        return Difference(name, a, b, Metric(mean, low, high, a.better), paired=True)
    return Difference(name, a, b, Metric(float(a) - float(b), *mover_difference(a, b), better=a.better), paired=False)
