"""From the right and wrong answers of every run to the proof: curves, gains, labels and time saved, one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from headstart.result.proof import Gain, LabelsSaved, ProofRow, TimeSaved

# ---- Intervals for scores that vary twice: with the draw of the training items, and with the test items. ----


FEWEST_GROUPS = 5
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class TestSet:
    """The locked test part.

    Attributes
    ----------
    codes : (n,) array of int
        Class of each item.
    groups : (n,) array of int or None
    balanced : bool
        Whether every class counts the same, however many items it has.
    """

    codes: np.ndarray
    groups: np.ndarray | None = None
    balanced: bool = False

    @property
    def weights(self) -> np.ndarray:
        """(n,) weights of the items; they add up to 1."""
        if not self.balanced:
            return np.full(len(self.codes), 1 / len(self.codes))
        classes, inverse, counts = np.unique(self.codes, return_inverse=True, return_counts=True)
        return 1 / (len(classes) * counts[inverse])

    @property
    def strata(self) -> np.ndarray:
        """(n,) items of equal weight: the classes of a balanced score, else all together."""
        return self.codes if self.balanced else np.zeros(len(self.codes), dtype=np.int64)

    @property
    def clusters(self) -> np.ndarray | None:
        """Groups, where there are enough of them to see how much they differ."""
        if self.groups is None or len(np.unique(self.groups)) < FEWEST_GROUPS:
            return None
        return self.groups

    @property
    def chance(self) -> float:
        """What always saying the same gives at best."""
        counts = np.unique(self.codes, return_counts=True)[1]
        return float(1 / len(counts) if self.balanced else counts.max() / counts.sum())


def interval(
    table: np.ndarray, test: TestSet, *, ends: tuple[float, float], tail: float = 0.025
) -> tuple[float, float, float]:
    """Mean of a table (draws, items) and its interval; ``tail`` is the chance of missing on either side.

    With a single draw the luck of the draw is unknown, and the interval speaks for that draw alone.
    """
    draws = len(table)
    weights = test.weights
    means = table @ weights
    mean = float(np.clip(means.mean(), *ends))  # rounding must not carry it past an end
    by_item, freedom = _between_items(table.mean(0), test, ends)
    arms = by_item * float(stdtrit(freedom, 1 - tail)) ** 2
    if draws > 1:
        arms += float(means.var(ddof=1)) / draws * float(stdtrit(draws - 1, 1 - tail)) ** 2
    half = float(np.sqrt(arms))
    return mean, max(ends[0], mean - half), min(ends[1], mean + half)


def _between_items(items: np.ndarray, test: TestSet, ends: tuple[float, float]) -> tuple[float, float]:
    """Variance of the weighted mean of independent items (or groups), and its degrees of freedom."""
    total = 0.0
    for stratum in np.unique(test.strata):
        inside = test.strata == stratum
        widened = np.append(items[inside], ends)
        total += float(test.weights[inside].sum()) ** 2 * float(widened.var()) / len(widened)
    freedom = max(1.0, len(items) - 1.0)
    clusters = test.clusters
    if clusters is not None:
        weights = test.weights
        away = weights * (items - weights @ items)
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=away)
        between = len(sums) / (len(sums) - 1) * float((sums**2).sum())
        if between > total:
            return between, len(sums) - 1.0
    return total, freedom


def labels_at(counts: Sequence[int], scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where rising curves reach a score: 0 below their first point, infinite above their last.

    Shapes: (b, k), (b,) → (b,). The curve is made monotone by pooling neighbours (isotonic regression), and is straight
    on a logarithmic axis.
    """
    out = np.empty(len(scores))
    axis = np.log(np.asarray(counts, dtype=np.float64))
    for i, (curve, score) in enumerate(zip(_monotone(scores), wanted)):
        reached = np.flatnonzero(curve >= score)
        if not len(reached):
            out[i] = np.inf
        elif reached[0] == 0:
            out[i] = np.exp(axis[0]) if curve[0] == score else 0.0
        else:
            j = int(reached[0])
            share = (score - curve[j - 1]) / (curve[j] - curve[j - 1])
            out[i] = np.exp(axis[j - 1] + share * (axis[j] - axis[j - 1]))
    return out


def _monotone(scores: np.ndarray) -> np.ndarray:
    """Isotonic regression of every row, by its max-min formula. Shapes: (b, k) → (b, k)."""
    k = scores.shape[1]
    sums = np.concatenate([np.zeros((len(scores), 1)), np.cumsum(scores, 1)], 1)
    out = np.empty_like(scores, dtype=np.float64)
    for j in range(k):
        best = np.full(len(scores), -np.inf)
        for start in range(j + 1):
            worst = np.min([(sums[:, end] - sums[:, start]) / (end - start) for end in range(j + 1, k + 1)], axis=0)
            best = np.maximum(best, worst)
        out[:, j] = best
    return out


def resampled(tables: dict[Any, np.ndarray], test: TestSet, *, seed: int) -> dict[Any, np.ndarray]:
    """Means of every table (draws, items) when draws and items are drawn again, alike for all tables: (b,) each.

    One draw fewer than there are is drawn: that has the variance of the mean of all of them, without its bias. Items
    are drawn within their strata; groups, where there are enough, as a whole.
    """
    draws = len(next(iter(tables.values())))
    rng = np.random.default_rng(seed)
    many = max(1, draws - 1)
    by_draw = rng.multinomial(many, np.full(draws, 1 / draws), size=RESAMPLES) / many
    by_item = _item_weights(test, rng)
    return {name: np.einsum("br,rn,bn->b", by_draw, table, by_item, optimize=True) for name, table in tables.items()}


def _item_weights(test: TestSet, rng: np.random.Generator) -> np.ndarray:
    weights = np.tile(test.weights, (RESAMPLES, 1))
    if (clusters := test.clusters) is not None:
        inverse = np.unique(clusters, return_inverse=True)[1]
        many = int(inverse.max()) + 1
        weights *= rng.multinomial(many, np.full(many, 1 / many), size=RESAMPLES)[:, inverse]
    else:
        for stratum in np.unique(test.strata):
            inside = np.flatnonzero(test.strata == stratum)
            weights[:, inside] *= rng.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=RESAMPLES)
    totals = weights.sum(1, keepdims=True)
    return weights / np.where(totals > 0, totals, 1.0)


RIVALS = ("raw", "random", "scratch")
TRANSFERS = ("frozen", "fine-tuned")
_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Curve:
    """One contender at one number of labels.

    Attributes
    ----------
    right : (draws, items) array
        1 where the answer was right.
    seconds, epochs : tuple of float
        Of each run; epochs are empty where nothing was trained.
    """

    right: np.ndarray
    seconds: tuple[float, ...]
    epochs: tuple[float, ...] = ()


Curves = Mapping[tuple[str, int], Curve]


@dataclass(frozen=True, eq=False)
class Findings:
    """What was measured: curves by (contender, labels per class), the labels compared at, the test, the names.

    ``given_up`` are contenders that there was no time for.
    """

    curves: Curves
    shots: tuple[int, ...]
    test: TestSet
    names: Mapping[str, str]
    seed: int = 0
    given_up: tuple[str, ...] = ()

    @property
    def ways(self) -> list[str]:
        """How transfer was tried, the more accurate first."""
        present = [name for name in TRANSFERS if self.at(name) == self.shots]
        return sorted(present, key=lambda name: -sum(self._mean(name, count) for count in self.shots))

    @property
    def transfer(self) -> str:
        """Who stands for transfer: the better of the ways, for which every interval is widened."""
        return self.ways[0]

    @property
    def tail(self) -> float:
        """Chance of missing on either side: 2.5 %, divided by the ways of which the better one is looked at."""
        return _TAIL / len(self.ways)

    def _mean(self, name: str, count: int) -> float:
        return float((self.curves[name, count].right @ self.test.weights).mean())

    @property
    def rivals(self) -> list[str]:
        """Who does without transfer; some may have come through with the fewer labels only."""
        return [name for name in RIVALS if self.at(name)]

    def at(self, name: str) -> tuple[int, ...]:
        """Numbers of labels compared at with which a contender came through."""
        return tuple(count for count in self.shots if (name, count) in self.curves)

    def counts(self, name: str) -> list[int]:
        """Numbers of labels that a contender was given."""
        return sorted(count for who, count in self.curves if who == name)


def rows_of(found: Findings) -> tuple[ProofRow, ...]:
    """Every point of every curve, by number of labels; those without transfer first."""
    rows = []
    for count in sorted({count for _, count in found.curves}):
        for name in (*RIVALS, *TRANSFERS):
            if (curve := found.curves.get((name, count))) is None:
                continue
            mean, low, high = interval(curve.right, found.test, ends=(0.0, 1.0), tail=_TAIL)
            rows.append(
                ProofRow(
                    name, count, accuracy=mean, low=low, high=high, seconds=float(np.mean(curve.seconds)),
                    scores=tuple((curve.right @ found.test.weights).tolist()),
                    epochs=float(np.mean(curve.epochs)) if curve.epochs else None,
                    description=found.names[name], transfer=name in TRANSFERS,
                )
            )  # fmt: skip
    return tuple(rows)


def gains_of(found: Findings) -> tuple[Gain, ...]:
    """Transfer less every rival, on average over the rival's numbers of labels, and at each of them taken alone."""
    gains = []
    for rival in found.rivals:
        tables = {count: _gain_table(found, rival, count) for count in found.at(rival)}
        average = np.mean(list(tables.values()), axis=0)
        for count, table in [(None, average), *tables.items()]:
            value, low, high = interval(table, found.test, ends=(-1.0, 1.0), tail=found.tail)
            gains.append(Gain(rival, count, value=value, low=low, high=high))
    return tuple(gains)


def helps(found: Findings) -> bool | None:
    """Above 0 against every rival is help (no luck is gained by having several); below 0 against any of them is harm.

    Harm could be found by having many rivals, so its intervals are widened for their number.
    """
    lows, highs = [], []
    for rival in found.rivals:
        mean = np.mean([_gain_table(found, rival, count) for count in found.at(rival)], axis=0)
        lows.append(interval(mean, found.test, ends=(-1.0, 1.0), tail=found.tail)[1])
        highs.append(interval(mean, found.test, ends=(-1.0, 1.0), tail=_TAIL / len(found.rivals))[2])
    if min(lows) > 0:
        return True
    return False if min(highs) < 0 else None


def _gain_table(found: Findings, rival: str, count: int) -> np.ndarray:
    return found.curves[found.transfer, count].right - found.curves[rival, count].right


def labels_of(found: Findings) -> tuple[LabelsSaved, ...]:
    """For every number of labels and every rival: how many labels the rival needs for what transfer reaches."""
    means = resampled({key: curve.right for key, curve in found.curves.items()}, found.test, seed=found.seed)
    exact = {key: float((curve.right @ found.test.weights).mean()) for key, curve in found.curves.items()}
    saved = []
    for count in found.shots:
        for rival in (name for name in found.rivals if count in found.at(name)):
            counts = found.counts(rival)
            curve = np.array([[exact[rival, k] for k in counts]])
            ours = found.transfer, count
            at = float(labels_at(counts, curve, np.array([exact[ours]]))[0])
            drawn = np.stack([means[rival, k] for k in counts], axis=1)
            low, high = _ends(labels_at(counts, drawn, means[ours]), at, found.tail)
            saved.append(
                LabelsSaved(
                    count, rival, equals=_inside(at), low=_inside(low), high=_inside(high), least=counts[0],
                    most=counts[-1], reached=at < np.inf, description=found.names[rival],
                )
            )  # fmt: skip
    return tuple(saved)


def _ends(drawn: np.ndarray, at: float, tail: float) -> tuple[float, float]:
    """The middle of what was drawn again, the estimate included."""
    low, high = np.quantile(drawn, tail, method="lower"), np.quantile(drawn, 1 - tail, method="higher")
    return min(float(low), at), max(float(high), at)


def _inside(value: float) -> float | None:
    return value if 0 < value < np.inf else None


def time_of(rows: Sequence[ProofRow], shots: Sequence[int]) -> TimeSaved | None:
    """The quickest transfer against training from scratch, with the same labels: the most that both had."""
    count = max((row.shots for row in rows if row.name == "scratch" and row.shots in shots), default=shots[-1])
    here = {row.name: row for row in rows if row.shots == count}
    ours = [row for row in here.values() if row.transfer and row.seconds]
    theirs = here.get("scratch")
    if theirs is None or theirs.seconds is None or not ours:
        return None
    quick = min(ours, key=lambda row: row.seconds or 0.0)
    return TimeSaved(
        count, "scratch", seconds=quick.seconds or 0.0, accuracy=quick.accuracy, baseline_seconds=theirs.seconds,
        baseline_accuracy=theirs.accuracy, reached=theirs.accuracy >= quick.accuracy, description=theirs.description,
    )  # fmt: skip


def verdict_text(found: Findings, gains: Sequence[Gain], outcome: bool | None) -> str:
    """The verdict."""
    overall = [gain for gain in gains if gain.shots is None]
    best = min(overall, key=lambda gain: gain.value)
    score = "balanced accuracy" if found.test.balanced else "accuracy"
    rival = f"the best rival, {found.names[best.baseline]}," if len(found.rivals) > 1 else found.names[best.baseline]
    labels = _labels(found.at(best.baseline))
    gained = f"{found.names[found.transfer]} against {rival} {best} {score} ({labels}){_absent(found)}"
    if outcome is None:
        return f"It cannot be told whether transfer helps here: {gained}{_at_chance(found)}."
    if outcome is False:
        return f"Transfer hurts here: {gained}; you do better without this source."
    clear = [n for n in found.shots if min((g.low for g in gains if g.shots == n), default=0.0) > 0]
    unclear = [str(count) for count in found.shots if count not in clear]
    but = f"; with {_and(unclear)} per class alone it cannot be told" if unclear and len(found.shots) > 1 else ""
    return f"Transfer helps: {gained}{but}."


def _absent(found: Findings) -> str:
    """Who did not compete, or not everywhere: a verdict without them says less."""
    partly = [name for name in found.rivals if found.at(name) != found.shots]
    said = [f"{found.names[name]} competed with {_labels(found.at(name), mean=False)} only" for name in partly]
    lacking = [found.names[name] for name in found.given_up]
    said += [f"there was no time for {_and(lacking)}"] if lacking else []
    return "".join(f"; {text}" for text in said)


def _labels(shots: Sequence[int], *, mean: bool = True) -> str:
    counts = _and([str(count) for count in shots])
    return f"{'average of ' * (mean and len(shots) > 1)}{counts} label{'s' * (tuple(shots) != (1,))} per class"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def advice(found: Findings) -> str:
    """What would make the interval narrower, where nothing could be told."""
    tables = [_gain_table(found, found.rivals[0], count) for count in found.at(found.rivals[0])]
    mean = np.mean(tables, axis=0)
    draws = float((mean @ found.test.weights).var(ddof=1)) / len(mean)
    items = float((found.test.weights**2 * (mean.mean(0) - mean.mean()) ** 2).sum())
    more = "repeats" if draws > items else "test items"
    return f"The interval is wide mostly because of too few {more}: more of them would tell more."


def _at_chance(found: Findings) -> str:
    """Nobody beats guessing: the labels may have nothing to do with the items."""
    for name, count in found.curves:
        if interval(found.curves[name, count].right, found.test, ends=(0.0, 1.0))[1] > found.test.chance:
            return ""
    return f"; nobody is clearly better than guessing ({found.test.chance:.3f})"


def findings(
    cells: Mapping[tuple[str, int, int], Mapping[str, Any]], draws: Sequence[int], shots: Sequence[int], **facts: Any
) -> Findings:
    """Gather the cells (contender, labels per class, draw) of complete draws into curves."""
    test: TestSet = facts["test"]
    curves = {}
    for name, count in dict.fromkeys((name, count) for name, count, _ in cells):
        runs = [cells[name, count, draw] for draw in draws if (name, count, draw) in cells]
        if len(runs) == len(draws):
            right = np.stack([np.asarray(run["predicted"]) == test.codes for run in runs]).astype(np.float64)
            epochs = tuple(float(run["epochs"]) for run in runs if run.get("epochs") is not None)
            curves[name, count] = Curve(right, tuple(float(run["seconds"]) for run in runs), epochs)
    return Findings(curves, tuple(shots), **facts)
