"""Ranking: what was compared, and the sentence that says how it came out. Floor 1. See ``result.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from headstart._intervals import Metric, number
from headstart._printing import WIDTH, blocks, listing, paragraph, table, width
from headstart._printing import seconds as duration
from headstart._records import Record
from headstart.errors import DataError, OptionError


@dataclass(frozen=True)
class Row:
    """One candidate of a ranking: a layer of a source. What was not measured is None.

    Attributes
    ----------
    source, fingerprint, layer : str
        Which layer of which source.
    depth : float
        Share of the network's multiply-adds up to that layer, 0 to 1.
    accuracy, low, high : float
        Cross-validated score of the head that would be deployed (``Ranking.metric`` names it), and its 95 % interval.
    tied : bool
        Not clearly worse than the best row.
    logme, h_score, nce, leep, knn, static : float or None
        Transferability scores; ``static`` is the baseline that never looks at the data (size of the model).
    seconds, macs, mbytes : float or None
        Extraction time, multiply-adds of one item (millions) and size of the features on disk.
    """

    source: str
    fingerprint: str
    layer: str
    _: KW_ONLY
    depth: float | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    tied: bool = False
    logme: float | None = None
    h_score: float | None = None
    nce: float | None = None
    leep: float | None = None
    knn: float | None = None
    static: float | None = None
    seconds: float | None = None
    macs: float | None = None
    mbytes: float | None = None


@dataclass(frozen=True, eq=False)
class Ranking(Record):
    """Sources × layers on your data, best first.

    Attributes
    ----------
    rows : tuple of Row
        Best first.
    transfers : bool
        Whether the best row is clearly above what knowing nothing gives.
    verdict : str
        The same in a sentence.
    metric : str
        What the ``accuracy`` column holds (``"r2"`` for regression).
    baseline : float or None
        What knowing nothing gives (share of the largest class, 0 for r2).
    """

    rows: tuple[Row, ...]
    _: KW_ONLY
    verdict: str = ""
    transfers: bool = False
    metric: str = "accuracy"
    baseline: float | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[Any, ...] = ()
    _validate: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        self._freeze("rows", "cost", "provenance", "notes", "skipped")

    @property
    def best(self) -> Row:
        """The first row.

        Raises
        ------
        DataError
            When nothing could be ranked.
        """
        if not self.rows:
            raise DataError("The ranking is empty: no layer of any source could be scored. See .notes and .skipped.")
        return self.rows[0]

    def validate(self, k: int = 3) -> Any:
        """Fit the first ``k`` rows in full, to see whether their order holds.

        Raises
        ------
        OptionError
            On a ranking that was read from a file or copied: it no longer holds its sources.
        """
        if self._validate is None:
            raise OptionError("This ranking was read from a file and holds no sources: run hs.rank(...) to validate.")
        return self._validate(k)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ranking:
        """The ranking that ``to_dict`` gave, without the means to validate it."""
        given = cls._fields(data)
        return cls(**{**given, "rows": tuple(Row(**row) for row in given["rows"])})

    def __str__(self) -> str:
        base = "" if self.baseline is None else f" · knowing nothing gives {number(self.baseline)}"
        rows = f"{len(self.rows)} row{'s' * (len(self.rows) != 1)}"
        return blocks(
            paragraph(f"Ranking · {rows} by {self.metric}{base}"),
            self._table(),
            paragraph(self.verdict),
            listing("Notes:", self.notes, most=20),
        )

    def _table(self) -> str:
        shown = [f.name for f in fields(Row) if any(getattr(row, f.name) is not None for row in self.rows)]
        extra = [name for name in shown if name not in _ALWAYS]
        headers = ["", "source", "layer", "depth", f"{self.metric}, 95 %", *extra]
        body = [_line(i, row, extra) for i, row in enumerate(self.rows, 1)]
        # Columns that do not fit are left out before names are cut below what tells them apart.
        needed = [max([width(h), *(width(row[i]) for row in body)]) for i, h in enumerate(headers)]
        least = [needed[0], min(needed[1], 24), min(needed[2], 20), *needed[3:]]
        while len(headers) > 5 and sum(least) + 2 * (len(least) - 1) > WIDTH:
            headers, body, least = headers[:-1], [row[:-1] for row in body], least[:-1]
        return table(headers, body, "rllr")


_ALWAYS = ("source", "fingerprint", "layer", "depth", "accuracy", "low", "high", "tied")


def _line(place: int, row: Row, extra: list[str]) -> list[str]:
    head = "-" if row.accuracy is None else repr(Metric(row.accuracy, row.low, row.high))
    depth = "-" if row.depth is None else f"{row.depth:.2f}"
    cells = [f"{place}{'=' if row.tied else ' '}", row.source, row.layer, depth, head]
    for name in extra:
        value = getattr(row, name)
        cells.append(duration(value) if name == "seconds" else "-" if value is None else f"{value:.4g}")
    return cells
