"""What the demonstration found, as frozen records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from headstart._intervals import Metric, paired_difference
from headstart.result import plain


@dataclass(frozen=True)
class DemoRow:
    """One way to learn the target task: mean accuracy over the repeats with its 95 % interval, seconds per repeat."""

    name: str
    accuracy: float
    low: float
    high: float
    seconds: float
    accuracies: tuple[float, ...]

    @classmethod
    def of(cls, name: str, accuracies: Sequence[float], seconds: Sequence[float]) -> DemoRow:
        """From one accuracy and one duration per repeat; the interval is Student's, kept within 0 and 1."""
        values = np.asarray(accuracies, dtype=np.float64)
        mean = float(values.mean())
        half = float(stdtrit(len(values) - 1, 0.975)) * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
        low, high = max(0.0, mean - half), min(1.0, mean + half)
        return cls(name, mean, low, high, float(np.mean(seconds)), tuple(values.tolist()))


@dataclass(frozen=True)
class Tried:
    """A candidate layer.

    Attributes
    ----------
    what : str
        In plain words.
    numbers : int
        How many it gives per picture.
    accuracy : float
        Cross-validated on the examples alone; mean over the repeats.
    chosen : int
        In how many repeats it was chosen, alone or together with others.
    """

    layer: str
    what: str
    numbers: int
    accuracy: float
    chosen: int


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    rows : tuple of Row
        scratch, frozen, fine-tuned.
    layers : tuple of Tried
        In the order in which they run.
    predictor : Path
        The better of the two transferred predictors of the first repeat.
    samples : tuple of Path
        Pictures it has not seen.
    scratch_lr : float
        The learning rate that scratch was given.
    source_seconds, seconds : float
        For the source task, and for everything.
    """

    rows: tuple[DemoRow, ...]
    layers: tuple[Tried, ...]
    predictor: Path
    samples: tuple[Path, ...]
    per_class: int
    repeats: int
    scratch_lr: float
    source_seconds: float
    seconds: float

    @property
    def best(self) -> DemoRow:
        """The better of the two ways to transfer."""
        return max(self.rows[1:], key=lambda row: row.accuracy)

    @property
    def gain(self) -> Metric:
        """The better transfer less scratch, repeat by repeat, with its 95 % interval."""
        return Metric(*paired_difference(np.array(self.best.accuracies), np.array(self.rows[0].accuracies)))

    @property
    def helped(self) -> bool:
        """Whether the interval of the better transfer lies wholly above that of scratch."""
        return self.best.low > self.rows[0].high

    @property
    def verdict(self) -> str:
        """One sentence; it says so when transfer did not help."""
        gain, name = self.gain, self.best.name
        points = f"{100 * gain:+.1f} points against scratch"
        if gain.low is not None and gain.high is not None:
            points += f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f}, repeat by repeat)"
        if self.helped:
            return f"Transfer helped: {name} {points}."
        if gain.low is not None and gain.low > 0:
            return f"Transfer helped a little: {name} {points}, but the intervals above touch."
        if gain.high is not None and gain.high < 0:
            return f"Transfer hurts here: {name} {points}."
        return f"Transfer did not clearly help here: {name} {points}."

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        said = {"gain": self.gain, "helped": self.helped, "verdict": self.verdict}
        return {name: plain(value) for name, value in {**vars(self), **said}.items()}
