"""The statistics of a proof: intervals that vary twice, labels saved, and how often it claims what is not there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from headstart.proof.analysis import (
    CurvePoint,
    LearningCurves,
    TestSet,
    _isotonic,
    advice,
    bootstrap_means,
    compute_gains,
    compute_labels_saved,
    compute_time_saved,
    proof_rows,
    shots_to_reach,
    transfer_helps,
    two_way_interval,
    verdict_text,
)

NAMES = {name: name for name in ("raw", "random", "scratch", "frozen", "fine-tuned")}


def held(n: int, classes: int = 4, **fields) -> TestSet:
    return TestSet(np.arange(n) % classes, **fields)


def answers(rng, *, draws: int, n: int, ability: float = 0.0, spread: float = 0.3, hard=None) -> np.ndarray:
    """Right and wrong answers: draws differ in how good they make a contender, items in how hard they are for it."""
    hard = rng.normal(size=n) if hard is None else hard
    own_values = rng.normal(size=n)
    luck = rng.normal(0, spread, (draws, 1))
    return (ability + luck + hard + own_values + rng.logistic(size=(draws, n)) > 0).astype(float)


def experiment(rng, *, draws: int = 3, n: int = 120, gain: float = 0.0, rivals=("raw", "random", "scratch"), **how):
    hard = rng.normal(size=n)
    abilities = {**dict.fromkeys(rivals, 0.0), "frozen": gain}
    curves = {
        (name, shots): CurvePoint(answers(rng, draws=draws, n=n, ability=ability, hard=hard, **how), (1.0,) * draws)
        for name, ability in abilities.items()
        for shots in (4, 16)
    }
    return LearningCurves(curves, (4, 16), held(n), NAMES)


class TestInterval:
    def test_weighted_mean_of_the_classes(self):
        codes = np.array([0] * 8 + [1] * 2)
        table = np.tile(np.array([1.0] * 8 + [0.0] * 2), (2, 1))
        assert two_way_interval(table, TestSet(codes), ends=(0, 1))[0] == pytest.approx(0.8)
        assert two_way_interval(table, TestSet(codes, balanced=True), ends=(0, 1))[0] == pytest.approx(0.5)
        assert TestSet(codes).chance == 0.8 and TestSet(codes, balanced=True).chance == 0.5

    def test_is_students_when_only_draws_differ(self):
        means = np.array([0.2, 0.5, 0.6, 0.4])
        table = np.tile(means[:, None], (1, 100_000))
        low, high = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
        assert two_way_interval(table, held(100_000), ends=(-1, 1))[1:] == pytest.approx((low, high), abs=0.005)

    def test_is_the_usual_one_when_only_items_differ(self):
        items = (np.arange(2000) % 10 < 3).astype(float)
        low, high = stats.norm.interval(0.95, 0.3, np.sqrt(0.21 / 2000))
        assert two_way_interval(np.tile(items, (5, 1)), held(2000), ends=(0, 1))[1:] == pytest.approx(
            (low, high), abs=0.002
        )

    def test_nobody_wrong_is_no_certainty(self):
        mean, low, high = two_way_interval(np.ones((3, 20)), held(20), ends=(0, 1))
        assert (mean, high) == (1.0, 1.0) and 0.8 < low < 0.97

    def test_items_of_a_group_count_together(self):
        groups = np.repeat(np.arange(10), 20)
        table = np.tile((groups % 2).astype(float), (3, 1))
        alone, together = (
            np.diff(two_way_interval(table, held(200, groups=g), ends=(0, 1))[1:])[0] for g in (None, groups)
        )
        assert together > 2.5 * alone
        small = held(200, groups=np.repeat([0, 1], 100))  # two groups say nothing about others: a note says so
        assert small.clusters is None

    @pytest.mark.parametrize(("draws", "n", "spread"), [(3, 60, 0.5), (5, 200, 0.3), (3, 200, 0.0), (2, 80, 0.8)])
    def test_covers_the_truth(self, draws, n, spread):
        """The truth is the mean over new draws and new items; intervals may be a little too wide, never too narrow."""
        inside, times = 0, 400
        rng = np.random.default_rng(draws * n)
        for _ in range(times):
            table = answers(rng, draws=draws, n=n, spread=spread)  # symmetric: the truth is one half
            _, low, high = two_way_interval(table, held(n), ends=(0, 1))
            inside += low <= 0.5 <= high
        assert inside / times > 0.93


class TestClaims:
    def test_no_difference_is_claimed_no_oftener_than_promised(self):
        rng = np.random.default_rng(0)
        message = [transfer_helps(experiment(rng, rivals=("scratch",))) for _ in range(600)]
        assert (
            message.count(True) / 600 < 0.04 and message.count(False) / 600 < 0.04
        )  # at most 0.025, and the luck of 600

    def test_several_rivals_make_neither_claim_likelier(self):
        rng = np.random.default_rng(1)
        message = [transfer_helps(experiment(rng)) for _ in range(600)]
        assert message.count(True) / 600 < 0.01 and message.count(False) / 600 < 0.05

    @pytest.mark.parametrize(("gain", "outcome"), [(3.0, True), (-3.0, False)])
    def test_a_large_difference_is_seen(self, gain, outcome):
        rng = np.random.default_rng(2)
        assert [transfer_helps(experiment(rng, gain=gain)) for _ in range(20)].count(outcome) == 20

    def test_the_better_of_two_ways_counts_and_is_paid_for(self):
        rng = np.random.default_rng(4)
        result = experiment(rng, gain=3.0)
        item = {gain.baseline: gain for gain in compute_gains(result) if gain.shots is None}
        for shots in (4, 16):
            result.points["fine-tuned", shots] = CurvePoint(result.points["raw", shots].right, (1.0,) * 3)
        assert result.selected_transfer == "frozen" and transfer_helps(result) is True
        two = {gain.baseline: gain for gain in compute_gains(result) if gain.shots is None}
        assert all(two[r].low < item[r].low and two[r].value == item[r].value for r in item)
        for shots in (4, 16):
            result.points["fine-tuned", shots] = CurvePoint(np.ones((3, 120)), (1.0,) * 3)
        assert result.selected_transfer == "fine-tuned"

    def test_help_needs_to_beat_every_rival(self):
        rng = np.random.default_rng(3)
        result = experiment(rng, gain=3.0)
        result.points["raw", 4] = result.points["raw", 16] = CurvePoint(np.ones((3, 120)), (1.0,) * 3)
        assert transfer_helps(result) is False
        message = verdict_text(result, compute_gains(result), False)
        assert message.startswith("Transfer hurts here: frozen against the best baseline, raw, -0.")


class TestSentence:
    def found(self, gain: float) -> LearningCurves:
        return experiment(np.random.default_rng(5), gain=gain, n=200)

    def test_help(self):
        result = self.found(3.0)
        message = verdict_text(result, compute_gains(result), transfer_helps(result))
        assert (
            message.startswith("Transfer helps: frozen against the best baseline, ")
            and "(average of 4 and 16 labels per class)" in message
        )

    def test_where_alone_it_cannot_be_told(self):
        result = self.found(3.0)
        result.points["frozen", 4] = result.points["raw", 4]
        message = verdict_text(result, compute_gains(result), True)
        assert message.endswith("; with 4 per class alone it cannot be told.")

    def test_neither(self):
        result = self.found(0.0)
        assert transfer_helps(result) is None
        message = verdict_text(result, compute_gains(result), None)
        assert message.startswith("It cannot be told whether transfer helps here: ") and "guessing" not in message
        assert "of too few" in advice(result)

    def test_nobody_is_better_than_guessing(self):
        rng = np.random.default_rng(0)
        curves = {
            (name, 4): CurvePoint((rng.random((3, 100)) < 0.25).astype(float), (1.0,) * 3) for name in ("raw", "frozen")
        }
        result = LearningCurves(curves, (4,), held(100), NAMES)
        assert "no method is clearly better than the chance level (0.250)" in verdict_text(
            result, compute_gains(result), transfer_helps(result)
        )

    def test_what_is_lacking(self):
        rng = np.random.default_rng(0)
        lucky = {
            (name, 4): CurvePoint(np.tile(rng.random((2, 1)) < 0.5, (1, 5000)) * 1.0, (1.0,) * 2) for name in ("raw",)
        }
        lucky["frozen", 4] = CurvePoint(np.array([[1.0], [0.0]]).repeat(5000, 1), (1.0, 1.0))
        assert "too few repeats" in advice(LearningCurves(lucky, (4,), held(5000), NAMES))
        same = (rng.random(20) < 0.5) * 1.0
        small = {
            ("raw", 4): CurvePoint(np.tile(same, (9, 1)), (1.0,) * 9),
            ("frozen", 4): CurvePoint(np.ones((9, 20)), (1.0,) * 9),
        }
        assert "too few test items" in advice(LearningCurves(small, (4,), held(20), NAMES))


class TestLabels:
    def test_monotone_is_isotonic_regression(self):
        rng = np.random.default_rng(0)
        scores = rng.random((50, 6))
        for curve, ours in zip(scores, _isotonic(scores)):
            assert ours == pytest.approx(IsotonicRegression().fit_transform(np.arange(6), curve))

    @pytest.mark.parametrize(
        ("score", "at"),
        [(0.5, 16), (0.6, 16 * 2**0.5), (0.3, 8 * 2 ** (1 / 3)), (0.7, 32), (0.1, 0), (0.71, np.inf), (0.2, 8)],
    )
    def test_reads_a_curve(self, score, at):
        curve = np.array([[0.2, 0.5, 0.7]])
        assert shots_to_reach([8, 16, 32], curve, np.array([score]))[0] == pytest.approx(at)

    def found(self, scratch: dict[int, float], transfer: float) -> LearningCurves:
        """Exact shares of right answers, on 1,000 items."""

        def curve(share):
            return CurvePoint(np.tile(np.arange(1000) < 1000 * share, (3, 1)).astype(float), (2.0,) * 3)

        curves = {("scratch", k): curve(share) for k, share in scratch.items()} | {("frozen", 16): curve(transfer)}
        return LearningCurves(curves, (16,), held(1000), NAMES)

    def test_what_scratch_needs(self):
        (saved,) = compute_labels_saved(self.found({16: 0.3, 64: 0.5, 256: 0.7}, 0.6))
        assert saved.equals == pytest.approx(128, rel=0.01) and saved.factor == pytest.approx(8, rel=0.01)
        assert 64 < saved.low < 128 < saved.high < 256 and saved.reached
        assert str(saved).startswith("transfer with 16 labels per class equals scratch with about 128 [")
        assert str(saved).endswith("8.0 times fewer labels")

    def test_never_reached(self):
        (saved,) = compute_labels_saved(self.found({16: 0.3, 64: 0.5}, 0.9))
        assert (saved.reached, saved.equals, saved.high, saved.factor) == (False, None, None, 4.0)
        assert "better than scratch with 64, all that were tried: more than 4.0 times fewer labels" in str(saved)

    def test_an_interval_that_leaves_the_curve(self):
        (saved,) = compute_labels_saved(self.found({16: 0.3, 64: 0.5}, 0.499))
        assert saved.reached and saved.high is None and "more than 64]" in str(saved)

    def test_no_better(self):
        (saved,) = compute_labels_saved(self.found({16: 0.3, 64: 0.5}, 0.1))
        assert saved.equals is None and saved.reached and "no better than scratch with 16" in str(saved)

    def test_drawn_again_varies_as_much_as_the_interval_says(self):
        rng = np.random.default_rng(0)
        table = answers(rng, draws=6, n=300)
        drawn = bootstrap_means({"a": table}, held(300), seed=0)["a"]
        _, low, high = two_way_interval(table, held(300), ends=(0, 1))
        assert np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025) == pytest.approx(high - low, rel=0.35)
        assert drawn.mean() == pytest.approx(table.mean(), abs=0.01)


class TestTime:
    def rows(self, frozen: float, scratch: float):
        n = 100
        shares = {"frozen": (frozen, 2.0), "fine-tuned": (0.9, 30.0), "scratch": (scratch, 30.0)}
        curves = {
            (name, 4): CurvePoint(np.tile(np.arange(n) < n * share, (2, 1)).astype(float), (seconds,) * 2)
            for name, (share, seconds) in shares.items()
        }
        return proof_rows(LearningCurves(curves, (4,), held(n), NAMES))

    def test_the_quickest_transfer_against_scratch(self):
        saved = compute_time_saved(self.rows(0.8, 0.3), (4,))
        assert (saved.factor, saved.reached) == (15.0, False) and "more than 15 times faster" in str(saved)

    def test_reached(self):
        assert str(compute_time_saved(self.rows(0.3, 0.4), (4,))).endswith(": 15 times faster")

    def test_without_scratch(self):
        rows = [row for row in self.rows(0.8, 0.3) if row.name != "scratch"]
        assert compute_time_saved(rows, (4,)) is None
