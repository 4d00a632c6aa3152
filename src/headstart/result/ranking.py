"""Ranking: sources × layers on your data, and what the best of them reach together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any

from headstart._base.intervals import Metric, format_number
from headstart._base.printing import WIDTH, blocks, listing, paragraph, table, width
from headstart._base.printing import seconds as duration
from headstart._base.typing import SkippedItem
from headstart.errors import DataError, OptionError
from headstart.result.record import Number, Record


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
    difference, difference_low, difference_high : float or None
        That score minus the best row's, and its 95 % interval: paired, both saw the same examples.
    tied : bool
        Not clearly worse than the best row.
    group : int or None
        Rows of one group cannot be told apart from its first; 1 is the best row's.
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
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    tied: bool = False
    group: int | None = None
    logme: float | None = None
    h_score: float | None = None
    knn: float | None = None
    nce: float | None = None
    leep: float | None = None
    static: float | None = None
    seconds: float | None = None
    macs: float | None = None
    mbytes: float | None = None


@dataclass(frozen=True)
class Fusion:
    """Several layers side by side, found by forward selection.

    Attributes
    ----------
    parts : tuple of (source, layer)
        In the order in which they were added: the first is the best on its own.
    accuracy, low, high : float
        Cross-validated score, and its 95 % interval.
    difference, difference_low, difference_high : float
        That score minus the best single row's; paired.
    wins : bool
        Whether it predicts better than the best single row by cross-validation, so that ``fit`` would take it.
    fingerprints : tuple of str
        Of the parts' sources.
    features : tuple of int
        How many features each part has.
    n_selected : tuple of int or None
        How many of them a head that selects keeps; None where the head uses all.
    """

    parts: tuple[tuple[str, str], ...]
    _: KW_ONLY
    accuracy: Number
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    wins: bool = False
    fingerprints: tuple[str, ...] = ()
    features: tuple[int, ...] = ()
    n_selected: tuple[int, ...] | None = field(default=None, metadata={"alias": "kept"})

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts are called: the layer, with its source where there are several."""
        several = len(set(self.fingerprints)) > 1 or len({source for source, _ in self.parts}) > 1
        return tuple(f"{source}/{layer}" if several else layer for source, layer in self.parts)

    def __str__(self) -> str:
        return " + ".join(self.names)


@dataclass(frozen=True, eq=False)
class Ranking(Record):
    """Sources × layers on your data, best first.

    Attributes
    ----------
    rows : tuple of Row
        Best first.
    fused : Fusion or None
        The best layers together; None where there is one candidate only.
    shared : mapping
        What the target shares with the sources, as plain data; ``shared["words"]`` says it in sentences.
    transfers : bool
        Whether the best row is clearly above chance level.
    verdict : str
        The same in a sentence.
    metric : str
        What the ``accuracy`` column holds (``"r2"`` for regression).
    baseline : float or None
        Chance level (share of the largest class, 0 for r2).
    """

    rows: tuple[Row, ...]
    _: KW_ONLY
    verdict: str = ""
    transfers: bool = False
    metric: str = "accuracy"
    baseline: float | None = None
    fused: Fusion | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[SkippedItem, ...] = ()
    _validate: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        self._freeze("rows", "shared", "cost", "provenance", "notes", "skipped")

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

    def validate(self, k: int = 3, **options: Any) -> Any:
        """Fit the first ``k`` rows and some others in full, to see what every score was worth.

        Parameters
        ----------
        k : int
        **options
            ``policy="last_layers"`` fine-tunes each of them, too; see :func:`headstart.ranking.validate`.

        Raises
        ------
        OptionError
            On a ranking that was read from a file or copied: it no longer holds its sources.
        """
        if self._validate is None:
            raise OptionError("This ranking was read from a file and holds no sources: run hs.rank(...) to validate.")
        return self._validate(k, **options)

    def __str__(self) -> str:
        base = "" if self.baseline is None else f" · chance level {format_number(self.baseline)}"
        rows = f"{len(self.rows)} row{'s' * (len(self.rows) != 1)}"
        return blocks(
            paragraph(f"Ranking · {rows} by {self.metric}{base}"),
            self._table(),
            paragraph(self.verdict),
            paragraph(self.fusion_summary),
            listing("What is shared:", self.shared.get("words", ()), limit=20),
            listing("Notes:", self.notes, limit=20),
        )

    @property
    def fusion_summary(self) -> str:
        """A sentence on the best layers side by side; empty where there are none."""
        fused = self.fused
        if fused is None:
            return ""
        score = repr(Metric(fused.accuracy, fused.low, fused.high))
        apart = ""
        if fused.difference is not None:
            ends = f"[{fused.difference_low or 0:+.3f}, {fused.difference_high or 0:+.3f}]"
            apart = f", {fused.difference:+.3f} {ends} to the best row"
        ending = "fit() takes them together" if fused.wins else "fit() takes the best row alone"
        return f"Side by side, {fused} reach {score}{apart}: {ending}. {describe_selected(fused)}".rstrip()

    def _table(self, limit: int = WIDTH) -> str:
        shown = [f.name for f in fields(Row) if any(getattr(row, f.name) is not None for row in self.rows)]
        extra = [name for name in shown if name not in _ALWAYS]
        headers = ["", "source", "layer", "depth", f"{self.metric}, 95 %", *extra]
        body = [_line(i, row, extra) for i, row in enumerate(self.rows[:_MOST], 1)]
        left = len(self.rows) - len(body)
        # Columns that do not fit are left out before names are cut below what tells them apart.
        needed = [max([width(h), *(width(row[i]) for row in body)]) for i, h in enumerate(headers)]
        least = [needed[0], min(needed[1], 24), min(needed[2], 20), *needed[3:]]
        while len(headers) > 5 and sum(least) + 2 * (len(least) - 1) > limit:
            headers, body, least = headers[:-1], [row[:-1] for row in body], least[:-1]
        shown_rows = table(headers, body, "rllr", limit)
        return shown_rows + (f"\n… and {left} more rows: see .rows" if left > 0 else "")


def describe_selected(fusion: Fusion) -> str:
    """``Kept are 120 of 1,280 features of a, 80 of 1,280 of b.``; empty where all are."""
    if fusion.n_selected is None:
        return ""
    counts = zip(fusion.names, fusion.n_selected, fusion.features, strict=True)
    shares = [
        f"{n_selected:,} of {all_:,}{' features' * (not i)} of {name}"
        for i, (name, n_selected, all_) in enumerate(counts)
    ]
    return f"Kept are {', '.join(shares)}."


_MOST = 20
_ALWAYS = (
    *("source", "fingerprint", "layer", "depth", "accuracy", "low", "high", "tied", "group"),
    *("difference_low", "difference_high"),
)


def _line(position: int, row: Row, extra: list[str]) -> list[str]:
    head = "-" if row.accuracy is None else repr(Metric(row.accuracy, row.low, row.high))
    depth = "-" if row.depth is None else f"{row.depth:.2f}"
    cells = [f"{position}{'=' if row.tied else ' '}", row.source, row.layer, depth, head]
    for name in extra:
        value = getattr(row, name)
        if value is None:
            cells.append("-")
        elif name == "difference":
            cells.append(f"{value:+.3f}" if position > 1 else "")
        else:
            cells.append(duration(value) if name == "seconds" else f"{value:.4g}")
    return cells
