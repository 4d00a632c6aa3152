"""Proof: the learning curves with and without transfer, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from headstart._base.intervals import Metric, format_number
from headstart._base.printing import blocks, listing, paragraph, table
from headstart._base.printing import seconds as duration
from headstart._base.typing import SkippedItem
from headstart.result.record import Number, Record


@dataclass(frozen=True)
class ProofRow:
    """One point of one learning curve.

    Attributes
    ----------
    name : str
        ``"raw"``, ``"random"``, ``"scratch"``, ``"frozen"`` or ``"fine-tuned"``.
    shots : int
        Training items per class.
    accuracy, low, high : float
        Mean over the repeats, and its 95 % interval: over other draws of training items and other test items.
    seconds : float or None
        Mean time of one run: features of its training items, training, choices; not the test.
    scores : tuple of float
        Of each repeat; the same place is the same draw of items for every name.
    epochs : float or None
        Mean number of passes through the training items; None where a head was solved.
    what : str
        The name in plain words.
    transfer : bool
        Whether it uses what the source has learned.
    """

    name: str
    shots: int
    _: KW_ONLY
    accuracy: Number
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    scores: tuple[float, ...] = ()
    epochs: float | None = None
    description: str = field(default="", metadata={"alias": "what"})
    transfer: bool = False


@dataclass(frozen=True)
class Gain:
    """Transfer less one rival, on the same draws and the same test items; ``shots`` None is the mean over them."""

    baseline: str = field(metadata={"alias": "rival"})
    shots: int | None
    _: KW_ONLY
    value: Number
    low: Number
    high: Number

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class LabelsSaved:
    """How many labels a rival needs for what transfer reaches with ``shots`` per class.

    Attributes
    ----------
    shots : int
        Labels per class that transfer has.
    rival, what : str
        Whose curve it is compared with, and the same in plain words.
    equals : float or None
        Labels per class at which the rival is as good, read off its curve (made monotone, straight between points on a
        logarithmic axis); None when that is outside ``least`` to ``most``.
    low, high : float or None
        Its 95 % interval; None where an end is outside.
    least, most : int
        The smallest and the largest number of labels per class that the rival was given.
    reached : bool
        False when the rival is not as good even with ``most``.
    """

    shots: int
    baseline: str = field(metadata={"alias": "rival"})
    _: KW_ONLY
    equals: float | None
    low: float | None
    high: float | None
    least: int
    most: int
    reached: bool
    description: str = field(default="", metadata={"alias": "what"})

    @property
    def factor(self) -> float:
        """How many times more labels the rival needs; a lower bound when it never gets there."""
        at = self.equals if self.equals is not None else self.least if self.reached else self.most
        return at / self.shots

    def __float__(self) -> float:
        return self.factor

    def __str__(self) -> str:
        what, ours = self.description or self.baseline, f"transfer with {self.shots} labels per class"
        low = f"less than {self.least}" if self.low is None else f"{self.low:.0f}"
        high = f"more than {self.most}" if self.high is None else f"{self.high:.0f}"
        if not self.reached:
            sure = "" if self.low is None else f" (95 %: at least {self.low:.0f})"
            times = f"more than {_times(self.factor)}" if self.most > self.shots else "an unknown number of times"
            return f"{ours} is better than {what} with {self.most}, all that were tried{sure}: {times} fewer labels"
        if self.equals is None:
            return f"{ours} is no better than {what} with {self.least}, the fewest that were tried"
        return f"{ours} equals {what} with about {self.equals:.0f} [{low}, {high}]: {_times(self.factor)} fewer labels"


@dataclass(frozen=True)
class TimeSaved:
    """How long the quickest transfer took for its score, and a rival for the same score or as near as it came.

    Attributes
    ----------
    seconds, accuracy, rival_seconds, rival_accuracy : float
        Of the quickest transfer with ``shots`` labels per class, and of the rival with the same labels.
    reached : bool
        Whether the rival became as good; else ``factor`` is a lower bound.
    """

    shots: int
    baseline: str = field(metadata={"alias": "rival"})
    _: KW_ONLY
    seconds: Number
    accuracy: Number
    baseline_seconds: Number = field(metadata={"alias": "rival_seconds"})
    baseline_accuracy: Number = field(metadata={"alias": "rival_accuracy"})
    reached: bool
    description: str = field(default="", metadata={"alias": "what"})

    @property
    def factor(self) -> float:
        """How many times longer the rival takes; a lower bound when it never gets there."""
        return self.baseline_seconds / max(self.seconds, 1e-9)

    def __float__(self) -> float:
        return self.factor

    def __str__(self) -> str:
        ours = f"{self.shots} labels per class: transfer took {duration(self.seconds)} for {self.accuracy:.3f}"
        theirs = (
            f"{self.description or self.baseline} {duration(self.baseline_seconds)} for {self.baseline_accuracy:.3f}"
        )
        if self.factor < 1:
            return f"{ours}, {theirs}: no time is saved"
        return f"{ours}, {theirs}: {'' if self.reached else 'more than '}{_times(self.factor)} faster"


@dataclass(frozen=True)
class Forgetting:
    """Score on the source task before and after fine-tuning, and the change with its 95 % interval."""

    before: Number
    after: Number
    _: KW_ONLY
    change: Number
    low: Number
    high: Number
    items: int
    n_kept: int = field(default=0, metadata={"alias": "kept"})

    def __str__(self) -> str:
        change = f"{self.change:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        return f"{self.before:.3f} before fine-tuning, {self.after:.3f} after: {change} on {self.items} items"


@dataclass(frozen=True, eq=False)
class Proof(Record):
    """Transfer against training from scratch and against features that know nothing, on the same items and budget.

    Attributes
    ----------
    rows : tuple of ProofRow
        Every curve, point by point.
    verdict : str
        The outcome in a sentence.
    helps : bool or None
        True when the mean gain over the numbers of labels is above 0 against every rival (95 % intervals), False when
        it is below 0 against one of them (intervals widened for their number), None when the data do not decide it.
    gains : tuple of Gain
        Transfer (the better of its ways; intervals are widened for their number) less every rival: at each number of
        labels, and on average.
    labels_saved : LabelsSaved or None
        Against the best rival, at the largest number of labels; ``labels`` has all of them. None unless transfer helps.
    time_saved : TimeSaved or None
        Against training from scratch, likewise.
    forgetting : Forgotten or None
        When the source task's data was given.
    metric : str
        What the ``accuracy`` column holds.
    chance : float or None
        What guessing gives.
    """

    rows: tuple[ProofRow, ...]
    _: KW_ONLY
    verdict: str = ""
    helps: bool | None = None
    gains: tuple[Gain, ...] = ()
    labels_saved: LabelsSaved | None = None
    labels: tuple[LabelsSaved, ...] = ()
    time_saved: TimeSaved | None = None
    forgetting: Forgetting | None = None
    metric: str = "accuracy"
    chance: float | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[SkippedItem, ...] = ()

    def __post_init__(self) -> None:
        self._freeze("rows", "gains", "labels", "cost", "provenance", "notes", "skipped")

    @property
    def table_rows(self) -> list[tuple[str, ...]]:
        """The curves as cells; each block ends with what transfer gained there over the best rival."""
        body: list[tuple[str, ...]] = []
        for shots in sorted({row.shots for row in self.rows}):
            rows = [row for row in self.rows if row.shots == shots]
            body += [("",) * 5] * bool(body)
            body += [(str(shots) if i == 0 else "", *_cells(row)) for i, row in enumerate(rows)]
            here = [gain for gain in self.gains if gain.shots == shots]
            if here:
                best = min(here, key=lambda gain: gain.value)
                body.append(("", f"→ gain over {self._what(best.baseline)}", str(best), "", ""))
        return body

    @property
    def table_headers(self) -> tuple[str, ...]:
        """What stands above ``lines``."""
        return "labels per class", "how", f"{self.metric}, 95 %", "epochs", "time"

    @property
    def table(self) -> str:
        """The curves as text."""
        return table(self.table_headers, self.table_rows, "rllrr")

    def _what(self, name: str) -> str:
        return next((row.description for row in self.rows if row.name == name and row.description), name)

    def __str__(self) -> str:
        chance = "" if self.chance is None else f"Guessing gives {format_number(self.chance)}."
        parts = {"Time saved": self.time_saved, "On the source task": self.forgetting}
        others = [f"{what}: {value}." for what, value in parts.items() if value is not None]
        return blocks(
            paragraph(f"Proof · {self.verdict}" if self.verdict else "Proof"),
            self.table if self.rows else "",
            listing("Labels saved:", [f"{sentence}." for sentence in self.summary], limit=20),
            "\n".join(paragraph(line) for line in filter(None, [*others, chance])),
            listing("Notes:", self.notes, limit=20),
        )

    @property
    def summary(self) -> list[LabelsSaved]:
        """Against the rival of the headline and against training from scratch, where a factor follows."""
        if (head := self.labels_saved) is None:
            return []
        telling = [saved for saved in self.labels if saved.reached or saved.most > saved.shots]
        rivals = dict.fromkeys((head.baseline, "scratch"))
        return [saved for rival in rivals for saved in telling if saved.baseline == rival] or [head]


def _cells(row: ProofRow) -> tuple[str, ...]:
    epochs = "" if row.epochs is None else f"{row.epochs:.0f}"
    name = row.description or row.name
    score = repr(Metric(row.accuracy, row.low, row.high))
    return f"transfer: {name}" if row.transfer else name, score, epochs, duration(row.seconds)


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
