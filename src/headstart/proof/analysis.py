"""Statistics of a proof: from right and wrong predictions of every run to curves, gains, labels and time saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from headstart.proof.run_cache import RunRecord
from headstart.result.proof import Gain, LabelsSaved, ProofRow, TimeSaved

# ---- Intervals for scores that vary twice: with the draw of the training items, and with the test items. ----


MIN_GROUPS = 5
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class TestSet:
    """The locked test set.

    Attributes
    ----------
    codes : (n,) array of int
        Class of each item.
    groups : (n,) array of int or None
    balanced : bool
        True when every class counts the same, however many items it has.
    """

    __test__ = False  # pytest takes every Test… for tests

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
        if self.groups is None or len(np.unique(self.groups)) < MIN_GROUPS:
            return None
        return self.groups

    @property
    def chance(self) -> float:
        """Accuracy of always predicting the most frequent class, or of any one class where all count the same."""
        counts = np.unique(self.codes, return_counts=True)[1]
        return float(1 / len(counts) if self.balanced else counts.max() / counts.sum())


def two_way_interval(
    table: np.ndarray, test: TestSet, *, ends: tuple[float, float], tail: float = 0.025
) -> tuple[float, float, float]:
    """Return the mean of a table (draws, items) and its interval; ``tail`` is the chance of missing on either side.

    Two variances are added: between draws of the training items, and between test items (or their groups).

    With a single draw the luck of the draw is unknown, and the interval speaks for that draw alone.
    """
    draws = len(table)
    weights = test.weights
    means = table @ weights
    mean = float(np.clip(means.mean(), *ends))  # rounding must not carry it past an end
    by_item, freedom = _between_items(table.mean(0), test, ends)
    squared = by_item * float(stdtrit(freedom, 1 - tail)) ** 2
    if draws > 1:
        squared += float(means.var(ddof=1)) / draws * float(stdtrit(draws - 1, 1 - tail)) ** 2
    half = float(np.sqrt(squared))
    return mean, max(ends[0], mean - half), min(ends[1], mean + half)


def _between_items(items: np.ndarray, test: TestSet, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the variance of the weighted mean of independent items (or groups), and its degrees of freedom."""
    total = 0.0
    for stratum in np.unique(test.strata):
        inside = test.strata == stratum
        # the two ends as pseudo-items (Wilson's idea): all right on few items is no certainty
        widened = np.append(items[inside], ends)
        total += float(test.weights[inside].sum()) ** 2 * float(widened.var()) / len(widened)
    freedom = max(1.0, len(items) - 1.0)
    clusters = test.clusters
    if clusters is not None:
        weights = test.weights
        centered = weights * (items - weights @ items)
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], weights=centered)
        between = len(sums) / (len(sums) - 1) * float((sums**2).sum())
        if between > total:
            return between, len(sums) - 1.0
    return total, freedom


def shots_to_reach(counts: Sequence[int], scores: np.ndarray, target_scores: np.ndarray) -> np.ndarray:
    """Return where rising curves reach a score: 0 below their first point, infinite above their last.

    Shapes: (b, k), (b,) → (b,). The curve is made monotone by pooling neighbours (isotonic regression), and is straight
    on a logarithmic axis.
    """
    out = np.empty(len(scores))
    axis = np.log(np.asarray(counts, dtype=np.float64))
    for i, (curve, score) in enumerate(zip(_isotonic(scores), target_scores)):
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


def _isotonic(scores: np.ndarray) -> np.ndarray:
    """Return the isotonic regression of every row, by its max-min formula. Shapes: (b, k) → (b, k)."""
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


def bootstrap_means(tables: dict[Any, np.ndarray], test: TestSet, *, seed: int) -> dict[Any, np.ndarray]:
    """Return means of every table (draws, items) when draws and items are drawn again, alike for all tables: (b,) each.

    One draw fewer than there are is drawn: that has the variance of the mean of all of them, without its bias. Items
    are drawn within their strata; groups, where there are enough, as a whole.
    """
    draws = len(next(iter(tables.values())))
    rng = np.random.default_rng(seed)
    n_drawn = max(1, draws - 1)
    by_draw = rng.multinomial(n_drawn, np.full(draws, 1 / draws), size=RESAMPLES) / n_drawn
    by_item = _bootstrap_item_weights(test, rng)
    return {name: np.einsum("br,rn,bn->b", by_draw, table, by_item, optimize=True) for name, table in tables.items()}


def _bootstrap_item_weights(test: TestSet, rng: np.random.Generator) -> np.ndarray:
    weights = np.tile(test.weights, (RESAMPLES, 1))
    if (clusters := test.clusters) is not None:
        inverse = np.unique(clusters, return_inverse=True)[1]
        n_groups = int(inverse.max()) + 1
        counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=RESAMPLES)
        weights *= counts[:, inverse]
    else:
        for stratum in np.unique(test.strata):
            inside = np.flatnonzero(test.strata == stratum)
            n = len(inside)
            weights[:, inside] *= rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    totals = weights.sum(1, keepdims=True)
    return weights / np.where(totals > 0, totals, 1.0)


BASELINES = ("raw", "random", "scratch")
TRANSFER_METHODS = ("frozen", "fine-tuned")
_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """One method at one number of labels.

    Attributes
    ----------
    right : (draws, items) array
        1 where the prediction is right.
    seconds, epochs : tuple of float
        Of each run; epochs are empty where nothing was trained.
    """

    right: np.ndarray
    seconds: tuple[float, ...]
    epochs: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class LearningCurves:
    """Scores of every method over the number of labels.

    Attributes
    ----------
    points : mapping (method, labels per class) → CurvePoint
    shots : tuple of int
        Labels per class compared at.
    test : TestSet
    names : mapping of str to str
        Methods in plain words.
    given_up : tuple of str
        Methods that there was no time for.
    """

    points: Mapping[tuple[str, int], CurvePoint]
    shots: tuple[int, ...]
    test: TestSet
    names: Mapping[str, str]
    seed: int = 0
    given_up: tuple[str, ...] = ()

    @property
    def transfer_methods(self) -> list[str]:
        """Transfer methods that came through everywhere, the more accurate first."""
        present = [name for name in TRANSFER_METHODS if self.shots_of(name) == self.shots]
        return sorted(present, key=lambda name: -sum(self._mean(name, count) for count in self.shots))

    @property
    def selected_transfer(self) -> str:
        """The more accurate transfer method; every interval is widened for this selection."""
        return self.transfer_methods[0]

    @property
    def tail(self) -> float:
        """Chance of missing on either side: 2.5 %, divided by the number of methods selected from (Bonferroni)."""
        return _TAIL / len(self.transfer_methods)

    def _mean(self, name: str, count: int) -> float:
        return float((self.points[name, count].right @ self.test.weights).mean())

    @property
    def baselines(self) -> list[str]:
        """Methods without transfer; some may have come through with the fewer labels only."""
        return [name for name in BASELINES if self.shots_of(name)]

    def shots_of(self, name: str) -> tuple[int, ...]:
        """Labels per class compared at with which a method came through."""
        return tuple(count for count in self.shots if (name, count) in self.points)

    def all_shots_of(self, name: str) -> list[int]:
        """Labels per class that a method was trained with, those beyond the ones compared at included."""
        return sorted(count for method, count in self.points if method == name)


def learning_curves(
    runs: Mapping[tuple[str, int, int], RunRecord],
    draws: Sequence[int],
    shots: Sequence[int],
    *,
    test: TestSet,
    names: Mapping[str, str],
    seed: int = 0,
    given_up: Sequence[str] = (),
) -> LearningCurves:
    """Gather the runs (method, labels per class, draw) into curves; a point needs all of the draws."""
    points = {}
    for name, count in dict.fromkeys((name, count) for name, count, _ in runs):
        complete = [runs[name, count, draw] for draw in draws if (name, count, draw) in runs]
        if len(complete) == len(draws):
            right = np.stack([np.asarray(run.predicted) == test.codes for run in complete]).astype(np.float64)
            epochs = tuple(float(run.epochs) for run in complete if run.epochs is not None)
            points[name, count] = CurvePoint(right, tuple(run.seconds for run in complete), epochs)
    return LearningCurves(points, tuple(shots), test, names, seed, tuple(given_up))


def proof_rows(curves: LearningCurves) -> tuple[ProofRow, ...]:
    """Return every point of every curve, by number of labels; baselines first."""
    rows = []
    for count in sorted({count for _, count in curves.points}):
        for name in (*BASELINES, *TRANSFER_METHODS):
            if (point := curves.points.get((name, count))) is None:
                continue
            mean, low, high = two_way_interval(point.right, curves.test, ends=(0.0, 1.0), tail=_TAIL)
            rows.append(
                ProofRow(
                    name, count, accuracy=mean, low=low, high=high, seconds=float(np.mean(point.seconds)),
                    scores=tuple((point.right @ curves.test.weights).tolist()),
                    epochs=float(np.mean(point.epochs)) if point.epochs else None,
                    description=curves.names[name], transfer=name in TRANSFER_METHODS,
                )
            )  # fmt: skip
    return tuple(rows)


def compute_gains(curves: LearningCurves) -> tuple[Gain, ...]:
    """Transfer less every baseline, on average over the baseline's numbers of labels, and at each of them alone."""
    gains = []
    for baseline in curves.baselines:
        tables = {count: _gain_table(curves, baseline, count) for count in curves.shots_of(baseline)}
        average = np.mean(list(tables.values()), axis=0)
        for count, table in [(None, average), *tables.items()]:
            value, low, high = two_way_interval(table, curves.test, ends=(-1.0, 1.0), tail=curves.tail)
            gains.append(Gain(baseline, count, value=value, low=low, high=high))
    return tuple(gains)


def transfer_helps(curves: LearningCurves) -> bool | None:
    """Return True when transfer is above every baseline, False when it is below any of them, else None.

    Being above all of them gains nothing by luck from their number. Being below one of several does: those intervals
    are widened for their number.
    """
    lows, highs = [], []
    for baseline in curves.baselines:
        mean = _mean_gain_table(curves, baseline)
        lows.append(two_way_interval(mean, curves.test, ends=(-1.0, 1.0), tail=curves.tail)[1])
        widened = _TAIL / len(curves.baselines)
        highs.append(two_way_interval(mean, curves.test, ends=(-1.0, 1.0), tail=widened)[2])
    if min(lows) > 0:
        return True
    return False if min(highs) < 0 else None


def _gain_table(curves: LearningCurves, baseline: str, count: int) -> np.ndarray:
    return curves.points[curves.selected_transfer, count].right - curves.points[baseline, count].right


def _mean_gain_table(curves: LearningCurves, baseline: str) -> np.ndarray:
    tables = [_gain_table(curves, baseline, count) for count in curves.shots_of(baseline)]
    return np.asarray(np.mean(tables, axis=0))


def compute_labels_saved(curves: LearningCurves) -> tuple[LabelsSaved, ...]:
    """For every number of labels and every baseline: how many labels the baseline needs for the score of transfer."""
    means = bootstrap_means(
        {key: point.right for key, point in curves.points.items()}, curves.test, seed=curves.seed
    )  # fmt: skip
    exact = {key: float((point.right @ curves.test.weights).mean()) for key, point in curves.points.items()}
    labels = []
    for count in curves.shots:
        for baseline in (name for name in curves.baselines if count in curves.shots_of(name)):
            counts = curves.all_shots_of(baseline)
            scores = np.array([[exact[baseline, k] for k in counts]])
            transfer = curves.selected_transfer, count
            needed = float(shots_to_reach(counts, scores, np.array([exact[transfer]]))[0])
            drawn = np.stack([means[baseline, k] for k in counts], axis=1)
            low, high = _quantile_interval(shots_to_reach(counts, drawn, means[transfer]), needed, curves.tail)
            labels.append(
                LabelsSaved(
                    count, baseline, equals=_finite_or_none(needed), low=_finite_or_none(low),
                    high=_finite_or_none(high), least=counts[0], most=counts[-1], reached=needed < np.inf,
                    description=curves.names[baseline],
                )
            )  # fmt: skip
    return tuple(labels)


def _quantile_interval(drawn: np.ndarray, estimate: float, tail: float) -> tuple[float, float]:
    """Return the middle of the bootstrap draws, widened to include the estimate."""
    low, high = np.quantile(drawn, tail, method="lower"), np.quantile(drawn, 1 - tail, method="higher")
    return min(float(low), estimate), max(float(high), estimate)


def _finite_or_none(value: float) -> float | None:
    """Return None for the 0 and ∞ by which :func:`shots_to_reach` says "outside the curve"."""
    return value if 0 < value < np.inf else None


def compute_time_saved(rows: Sequence[ProofRow], shots: Sequence[int]) -> TimeSaved | None:
    """Compare the quickest transfer with training from scratch on the same labels: the most that both had."""
    count = max((row.shots for row in rows if row.name == "scratch" and row.shots in shots), default=shots[-1])
    at_count = {row.name: row for row in rows if row.shots == count}
    transfers = [row for row in at_count.values() if row.transfer and row.seconds]
    scratch = at_count.get("scratch")
    if scratch is None or scratch.seconds is None or not transfers:
        return None
    quickest = min(transfers, key=lambda row: row.seconds or 0.0)
    return TimeSaved(
        count, "scratch", seconds=quickest.seconds or 0.0, accuracy=quickest.accuracy,
        baseline_seconds=scratch.seconds, baseline_accuracy=scratch.accuracy,
        reached=scratch.accuracy >= quickest.accuracy, description=scratch.description,
    )  # fmt: skip


# ---- The verdict in words. ----


def verdict_text(curves: LearningCurves, gains: Sequence[Gain], helps: bool | None) -> str:
    """Return the outcome in a sentence: transfer against the strongest baseline."""
    overall = [gain for gain in gains if gain.shots is None]
    smallest = min(overall, key=lambda gain: gain.value)
    metric = "balanced accuracy" if curves.test.balanced else "accuracy"
    baseline = curves.names[smallest.baseline]
    if len(curves.baselines) > 1:
        baseline = f"the best baseline, {baseline},"
    labels = _shots_text(curves.shots_of(smallest.baseline))
    transfer = curves.names[curves.selected_transfer]
    gained = f"{transfer} against {baseline} {smallest} {metric} ({labels}){_missing_text(curves)}"
    if helps is None:
        return f"It cannot be told whether transfer helps here: {gained}{_near_chance_text(curves)}."
    if helps is False:
        return f"Transfer hurts here: {gained}; you do better without this source."
    lowest = {n: min((gain.low for gain in gains if gain.shots == n), default=0.0) for n in curves.shots}
    unclear = [str(count) for count, low in lowest.items() if low <= 0]
    reservation = ""
    if unclear and len(curves.shots) > 1:
        reservation = f"; with {_join_words(unclear)} per class alone it cannot be told"
    return f"Transfer helps: {gained}{reservation}."


def _missing_text(curves: LearningCurves) -> str:
    """Name the methods that were not run, or not everywhere: a verdict without them says less."""
    partly = [name for name in curves.baselines if curves.shots_of(name) != curves.shots]
    clauses = [
        f"{curves.names[name]} was compared with {_shots_text(curves.shots_of(name), mean=False)} only"
        for name in partly
    ]  # fmt: skip
    if curves.given_up:
        clauses.append(f"there was no time for {_join_words([curves.names[name] for name in curves.given_up])}")
    return "".join(f"; {clause}" for clause in clauses)


def _shots_text(shots: Sequence[int], *, mean: bool = True) -> str:
    counts = _join_words([str(count) for count in shots])
    average = "average of " if mean and len(shots) > 1 else ""
    plural = "" if tuple(shots) == (1,) else "s"
    return f"{average}{counts} label{plural} per class"


def _join_words(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def advice(curves: LearningCurves) -> str:
    """Name what would make the interval narrower, where nothing could be told."""
    mean = _mean_gain_table(curves, curves.baselines[0])
    draw_variance = float((mean @ curves.test.weights).var(ddof=1)) / len(mean)
    item_variance = float((curves.test.weights**2 * (mean.mean(0) - mean.mean()) ** 2).sum())
    more = "repeats" if draw_variance > item_variance else "test items"
    return f"The interval is wide mostly because of too few {more}: more of them would tell more."


def _near_chance_text(curves: LearningCurves) -> str:
    """Say it where no method beats the chance level: the labels may have nothing to do with the items."""
    for point in curves.points.values():
        if two_way_interval(point.right, curves.test, ends=(0.0, 1.0))[1] > curves.test.chance:
            return ""
    return f"; no method is clearly better than the chance level ({curves.test.chance:.3f})"
