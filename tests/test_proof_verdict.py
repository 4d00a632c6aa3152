"""What a proof concludes: against plain references, word by word, and from runs to the record."""

from __future__ import annotations

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from headstart.dataset import Dataset
from headstart.errors import DataError
from headstart.proof import baselines
from headstart.proof import budget as _plan
from headstart.proof.analysis import (
    MIN_GROUPS,
    CurvePoint,
    LearningCurves,
    TestSet,
    advice,
    compute_gains,
    compute_labels_saved,
    compute_time_saved,
    learning_curves,
    proof_rows,
    shots_to_reach,
    transfer_helps,
    two_way_interval,
    verdict_text,
)
from headstart.proof.budget import ProofPlan, Speeds, TrainingCost
from headstart.proof.experiment import ExperimentResults
from headstart.proof.forgetting import _class_indices
from headstart.proof.prove import ProveConfig, _headline, build_proof
from headstart.proof.run_cache import RunRecord
from headstart.result import Proof, plain, read_record
from headstart.result.record import read_as

NAMES = {
    "raw": "raw pixels",
    "random": "random-weight features",
    "scratch": "training from scratch",
    "frozen": "frozen features",
    "fine-tuned": "fine-tuning",
}
ITEMS = 200


CONFIG = ProveConfig(
    layers="auto", pooling="auto", repeats=3, budget=60.0, steps=240, seed=3, device="cpu", source_data=None
)


def held(n: int = ITEMS, classes: int = 4, **fields) -> TestSet:
    return TestSet(np.arange(n) % classes, **fields)


def share(*shares: float, n: int = ITEMS, turn: int = 0) -> CurvePoint:
    """One draw per share, in which so many of the items are right; ``turn`` makes it other items."""
    rows = [np.roll(np.arange(n) < round(n * item), turn).astype(float) for item in shares]
    return CurvePoint(np.stack(rows), (1.0,) * len(rows))


def found_of(curves: dict, shots=(4,), **fields) -> LearningCurves:
    return LearningCurves(curves, tuple(shots), **{"test": held(), "names": NAMES, **fields})


def naive_interval(table, codes, *, balanced, ends, tail=0.025):
    """The same, written down slowly: loops, and Student's quantiles from scipy.stats."""
    draws, n = table.shape
    classes = sorted(set(codes.tolist())) if balanced else [None]
    weights = np.zeros(n)
    for c in classes:
        mine = [i for i in range(n) if c is None or codes[i] == c]
        for i in mine:
            weights[i] = 1 / (len(classes) * len(mine))
    means = [sum(weights[i] * table[r, i] for i in range(n)) for r in range(draws)]
    mean = sum(means) / draws
    by_draw = sum((m - mean) ** 2 for m in means) / (draws - 1) / draws
    by_item = 0.0
    for c in classes:
        mine = [table[:, i].mean() for i in range(n) if c is None or codes[i] == c] + list(ends)
        centre = sum(mine) / len(mine)
        spread = sum((x - centre) ** 2 for x in mine) / len(mine)
        by_item += spread / len(mine) / len(classes) ** 2
    half = np.sqrt(
        by_draw * stats.t.ppf(1 - tail, draws - 1) ** 2 + by_item * stats.t.ppf(1 - tail, max(1, n - 1)) ** 2
    )
    return mean, max(ends[0], mean - half), min(ends[1], mean + half)


class TestAgainstReferences:
    @pytest.mark.parametrize("balanced", [False, True])
    @pytest.mark.parametrize(("draws", "n"), [(2, 9), (3, 40), (6, 25)])
    @pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0)])
    def test_interval(self, balanced, draws, n, ends):
        rng = np.random.default_rng(draws * n)
        table = (rng.random((draws, n)) < 0.6).astype(float)
        codes = np.arange(n) % 3
        codes[:2] = 0
        ours = two_way_interval(table, TestSet(codes, balanced=balanced), ends=ends)
        assert ours == pytest.approx(naive_interval(table, codes, balanced=balanced, ends=ends))

    def test_a_tail_of_half_is_no_interval(self):
        table = share(0.5, 0.6).right
        mean, low, high = two_way_interval(table, held(), ends=(0.0, 1.0), tail=0.5)
        assert low == pytest.approx(mean) == pytest.approx(high)

    def test_groups_by_the_sandwich(self):
        """Sums within groups, as in a cluster-robust variance of a mean."""
        rng = np.random.default_rng(0)
        groups = np.repeat(np.arange(12), 15)
        items = (rng.random(180) < 0.2 + 0.6 * (groups % 2)).astype(float)
        sums = np.array([(items[groups == g] - items.mean()).sum() / 180 for g in range(12)])
        expected = stats.t.ppf(0.975, 11) * np.sqrt(12 / 11 * (sums**2).sum())
        mean, low, high = two_way_interval(np.tile(items, (2, 1)), held(180, groups=groups), ends=(-1.0, 2.0))
        assert (high - low) / 2 == pytest.approx(expected) and mean == pytest.approx(items.mean())

    def test_groups_that_do_not_matter_do_not_narrow(self):
        rng = np.random.default_rng(1)
        table = np.tile((rng.random(100) < 0.5).astype(float), (2, 1))
        groups = np.repeat(np.arange(50), 2)
        alone, together = (two_way_interval(table, held(100, groups=g), ends=(0.0, 1.0)) for g in (None, groups))
        assert together[2] - together[1] >= alone[2] - alone[1] - 1e-9

    @pytest.mark.parametrize("many", [MIN_GROUPS - 1, MIN_GROUPS])
    def test_from_how_many_groups_on(self, many):
        assert (held(60, groups=np.arange(60) % many).clusters is None) == (many < MIN_GROUPS)

    @given(
        st.lists(st.floats(0, 1), min_size=5, max_size=5, unique=True),
        st.floats(0.01, 0.99),
    )
    def test_labels_by_interpolation_of_the_isotonic_curve(self, curve, score):
        counts = np.array([2, 4, 10, 30, 70])
        smooth = IsotonicRegression().fit_transform(np.arange(5), curve)
        result = shots_to_reach(counts, np.array([curve]), np.array([score]))[0]
        if smooth[0] > score:
            assert result == 0
        elif smooth[-1] < score:
            assert np.isinf(result)
        else:
            assert np.interp(np.log(result), np.log(counts), smooth) == pytest.approx(score, abs=1e-6)

    @pytest.mark.parametrize("ends", [(0.0, 1.0), (-1.0, 1.0)])
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_rounding_does_not_carry_a_mean_past_its_ends(self, value, ends):
        table = np.full((3, 171), value)
        for balanced in (False, True):
            mean, low, high = two_way_interval(table, held(171, 7, balanced=balanced), ends=ends)
            assert ends[0] <= low <= mean <= high <= ends[1]
            assert mean == pytest.approx(value)

    def test_weights_add_up(self):
        codes = np.array([0] * 50 + [1] * 5 + [2] * 20)
        for balanced in (False, True):
            assert TestSet(codes, balanced=balanced).weights.sum() == pytest.approx(1.0)
        by_class = TestSet(codes, balanced=True).weights
        assert [by_class[codes == c].sum() for c in range(3)] == pytest.approx([1 / 3] * 3)

    @pytest.mark.slow
    @pytest.mark.parametrize("groups", [None, 12])
    def test_covers_with_and_without_groups(self, groups):
        rng = np.random.default_rng(7)
        inside, times = 0, 500
        for _ in range(times):
            hard = rng.normal(size=120)
            which = None
            if groups is not None:
                which = np.arange(120) % groups
                hard = hard + rng.normal(size=groups)[which]
            luck = rng.normal(0, 0.4, (4, 1))
            table = (luck + hard + rng.logistic(size=(4, 120)) > 0).astype(float)
            _, low, high = two_way_interval(table, held(120, groups=which), ends=(0.0, 1.0))
            inside += low <= 0.5 <= high
        assert inside / times > 0.93


class TestWords:
    """The sentence, in full: what a newcomer reads first."""

    def test_help(self):
        result = found_of({("raw", 4): share(0.3, 0.3, 0.3), ("frozen", 4): share(0.8, 0.8, 0.8)})
        gains = compute_gains(result)
        low, high = gains[0].low, gains[0].high
        assert verdict_text(result, gains, transfer_helps(result)) == (
            f"Transfer helps: frozen features against raw pixels +0.500 [{low:+.3f}, {high:+.3f}] accuracy "
            "(4 labels per class)."
        )

    def test_harm(self):
        result = found_of({("raw", 1): share(0.8, 0.8, 0.8), ("frozen", 1): share(0.3, 0.3, 0.3)}, shots=(1,))
        message = verdict_text(result, compute_gains(result), transfer_helps(result))
        assert message.startswith("Transfer hurts here: frozen features against raw pixels -0.500 [")
        assert message.endswith("accuracy (1 label per class); you do better without this source.")

    def test_not_told(self):
        result = found_of({("raw", 4): share(0.5, 0.6, 0.7), ("frozen", 4): share(0.6, 0.6, 0.65, turn=50)})
        message = verdict_text(result, compute_gains(result), transfer_helps(result))
        assert message.startswith(
            "It cannot be told whether transfer helps here: frozen features against raw pixels +0.0"
        )

    def test_three_numbers_of_labels(self):
        curves = {("raw", k): share(0.3, 0.3, 0.3) for k in (1, 4, 16)}
        curves |= {("frozen", k): share(0.8, 0.8, 0.8) for k in (1, 4, 16)}
        message = verdict_text(
            found_of(curves, shots=(1, 4, 16)), compute_gains(found_of(curves, shots=(1, 4, 16))), True
        )
        assert "(average of 1, 4 and 16 labels per class)." in message

    def test_balanced_accuracy_is_called_so(self):
        curves = {("raw", 4): share(0.3, 0.3), ("frozen", 4): share(0.9, 0.9)}
        result = found_of(curves, test=held(balanced=True))
        assert " balanced accuracy " in verdict_text(result, compute_gains(result), True)

    def test_the_strongest_rival_is_named(self):
        curves = {
            ("raw", 4): share(0.3, 0.3, 0.3),
            ("random", 4): share(0.45, 0.45, 0.45),
            ("scratch", 4): share(0.2, 0.2, 0.2),
            ("frozen", 4): share(0.9, 0.9, 0.9),
        }
        result = found_of(curves)
        assert "against the best baseline, random-weight features, +0.450 [" in verdict_text(
            result, compute_gains(result), True
        )

    def test_guessing_is_mentioned_only_where_everybody_guesses(self):
        rng = np.random.default_rng(0)

        def lucky(p):
            return CurvePoint((rng.random((3, ITEMS)) < p).astype(float), (1.0,) * 3)

        guessing = found_of({("raw", 4): lucky(0.25), ("frozen", 4): lucky(0.25)})
        knowing = found_of({("raw", 4): lucky(0.6), ("frozen", 4): lucky(0.6)})
        assert "chance level (0.250)" in verdict_text(guessing, compute_gains(guessing), None)
        assert "chance" not in verdict_text(knowing, compute_gains(knowing), None)

    @pytest.mark.parametrize(
        ("first", "second", "lacking"),
        [((0.2, 0.9), (0.9, 0.2), "repeats"), ((0.5, 0.5), (0.5, 0.5), "test items")],
    )
    def test_advice(self, first, second, lacking):
        result = found_of({("raw", 4): share(*first), ("frozen", 4): share(*second, turn=60)})
        assert f"too few {lacking}" in advice(result)


class TestGains:
    def curves(self):
        shares = {"raw": 0.4, "scratch": 0.3, "frozen": 0.7, "fine-tuned": 0.6}
        return {(name, k): share(s, s + 0.05, s) for name, s in shares.items() for k in (4, 16)}

    def test_one_on_average_and_one_at_each_number_of_labels(self):
        gains = compute_gains(found_of(self.curves(), shots=(4, 16)))
        assert [(g.baseline, g.shots) for g in gains] == [
            *itertools.product(["raw"], [None, 4, 16]),
            *itertools.product(["scratch"], [None, 4, 16]),
        ]
        assert all(g.low < g.value < g.high for g in gains)
        assert gains[0].value == pytest.approx(0.3) and gains[3].value == pytest.approx(0.4)

    def test_the_average_is_of_the_tables(self):
        curves = self.curves()
        curves["frozen", 16] = share(0.9, 0.9, 0.9)
        gains = {(g.baseline, g.shots): g.value for g in compute_gains(found_of(curves, shots=(4, 16)))}
        assert gains["raw", None] == pytest.approx((gains["raw", 4] + gains["raw", 16]) / 2)

    def test_paired_gains_are_narrower_than_unpaired_ones(self):
        """The same items are hard for both: what they share drops out."""
        rng = np.random.default_rng(0)
        hard = rng.normal(0, 3, ITEMS)
        item, other = (
            CurvePoint((hard + a + rng.logistic(size=(3, ITEMS)) > 0).astype(float), (1.0,) * 3) for a in (0.0, 1.0)
        )
        (gain, _) = compute_gains(found_of({("raw", 4): item, ("frozen", 4): other}))
        rows = proof_rows(found_of({("raw", 4): item, ("frozen", 4): other}))
        assert gain.high - gain.low < 0.8 * np.hypot(*[row.high - row.low for row in rows])

    def test_a_rival_that_is_not_everywhere_is_compared_where_it_is(self):
        curves = self.curves()
        del curves["scratch", 16]
        result = found_of(curves, shots=(4, 16))
        gains = compute_gains(result)
        assert [(g.baseline, g.shots) for g in gains] == [("raw", None), ("raw", 4), ("raw", 16), ("scratch", None),
                                                       ("scratch", 4)]  # fmt: skip
        assert gains[3].value == gains[4].value and transfer_helps(result) is True
        verdict = verdict_text(result, gains, True)
        assert "raw pixels" in verdict and "average of 4 and 16 labels per class" in verdict
        assert "; training from scratch was compared with 4 labels per class only" in verdict
        assert {(item.baseline, item.shots) for item in compute_labels_saved(result)} == {
            ("raw", 4),
            ("raw", 16),
            ("scratch", 4),
        }
        assert compute_time_saved(proof_rows(result), (4, 16)).shots == 4

    def test_a_rival_that_is_not_everywhere_can_still_spoil_it(self):
        curves = self.curves() | {("scratch", 4): share(0.95, 0.95, 0.9)}
        del curves["scratch", 16]
        result = found_of(curves, shots=(4, 16))
        assert transfer_helps(result) is False
        assert "training from scratch, -0.2" in verdict_text(result, compute_gains(result), False)
        assert "(4 labels per class)" in verdict_text(result, compute_gains(result), False)

    def test_transfer_has_to_be_everywhere(self):
        curves = self.curves()
        del curves["frozen", 16]
        assert found_of(curves, shots=(4, 16)).transfer_methods == ["fine-tuned"]

    def test_ways_in_the_order_of_what_they_reach(self):
        result = found_of(self.curves(), shots=(4, 16))
        assert result.transfer_methods == ["frozen", "fine-tuned"] and result.tail == pytest.approx(0.0125)
        curves = {key: curve for key, curve in self.curves().items() if key[0] != "fine-tuned"}
        assert found_of(curves, shots=(4, 16)).tail == pytest.approx(0.025)


class TestRows:
    def test_from_runs_to_curves(self):
        truth = np.arange(ITEMS) % 4
        runs = {}
        for repeat, wrong in enumerate((20, 40)):
            message = truth.copy()
            message[:wrong] = (message[:wrong] + 1) % 4
            runs["scratch", 4, repeat] = RunRecord(tuple(message.tolist()), 2.0 + repeat, 5)
            runs["frozen", 4, repeat] = RunRecord(tuple(truth.tolist()), 1.0)
        result = learning_curves(runs, range(2), (4,), test=held(), names=NAMES)
        scratch, frozen = proof_rows(result)
        assert scratch.scores == pytest.approx((0.9, 0.8)) and scratch.accuracy == pytest.approx(0.85)
        assert (scratch.seconds, scratch.epochs, scratch.transfer) == (2.5, 5.0, False)
        assert (round(frozen.accuracy, 9), frozen.epochs, frozen.transfer, frozen.description) == (
            1.0,
            None,
            True,
            "frozen features",
        )

    def test_points_that_lack_a_draw_are_left_out(self):
        runs = {
            ("raw", 4, 0): RunRecord((0,) * ITEMS, 1.0),
            ("frozen", 4, 0): RunRecord((0,) * ITEMS, 1.0),
            ("frozen", 4, 1): RunRecord((0,) * ITEMS, 1.0),
        }
        assert set(learning_curves(runs, range(2), (4,), test=held(), names=NAMES).points) == {("frozen", 4)}

    def test_without_transfer_first(self):
        curves = {(name, 4): share(0.5, 0.5) for name in ("fine-tuned", "frozen", "scratch", "raw")}
        assert [row.name for row in proof_rows(found_of(curves))] == ["raw", "scratch", "frozen", "fine-tuned"]


class TestLabels:
    def test_all_rivals_at_all_numbers_of_labels(self):
        curves = {("raw", k): share(s, s, s) for k, s in ((4, 0.2), (16, 0.4), (64, 0.6))}
        curves |= {("scratch", k): share(s, s, s) for k, s in ((4, 0.2), (16, 0.3))}
        curves |= {("frozen", k): share(s, s, s) for k, s in ((4, 0.3), (16, 0.5))}
        saved = {(item.baseline, item.shots): item for item in compute_labels_saved(found_of(curves, shots=(4, 16)))}
        assert set(saved) == set(itertools.product(("raw", "scratch"), (4, 16)))
        assert saved["raw", 4].equals == pytest.approx(8) and saved["raw", 16].equals == pytest.approx(32)
        assert saved["scratch", 4].equals == pytest.approx(16) and not saved["scratch", 16].reached

    def test_noise_widens_the_interval(self):
        def curves(spread):
            result = {("raw", k): share(s - spread, s + spread, s) for k, s in ((4, 0.3), (16, 0.5), (64, 0.7))}
            return {**result, ("frozen", 4): share(0.6, 0.6, 0.6)}

        (calm,), (noisy,) = (compute_labels_saved(found_of(curves(spread))) for spread in (0.0, 0.15))
        assert noisy.low < calm.low and (noisy.high or np.inf) > calm.high

    def test_the_seed_decides(self):
        curves = {("raw", 4): share(0.3, 0.4), ("raw", 16): share(0.5, 0.6), ("frozen", 4): share(0.45, 0.5)}
        item, same, other = (compute_labels_saved(found_of(curves, seed=seed)) for seed in (0, 0, 1))
        assert item == same and item[0].equals == other[0].equals


class TestReport:
    def experiment(self, **fields):
        splits = SimpleNamespace(
            test_set=held(), balanced=False, test=np.arange(ITEMS),
            data=SimpleNamespace(modality="image"),
        )  # fmt: skip
        options = {
            "splits": splits, "seed": 3, "policy": "last_layers", "bank": SimpleNamespace(skipped=()),
            "source": SimpleNamespace(address="fake:image", fingerprint="f"),
        }  # fmt: skip
        return SimpleNamespace(**{**options, **fields})

    def done(self, shares: dict[str, float], **fields) -> ExperimentResults:
        truth = np.arange(ITEMS) % 4
        runs = {}
        for (name, right), repeat in itertools.product(shares.items(), range(3)):
            message = np.where(np.arange(ITEMS) < ITEMS * right, truth, (truth + 1) % 4)
            runs[name, 4, repeat] = RunRecord(tuple(message.tolist()), 1.0, 2, moved=repeat == 0)
        return ExperimentResults(runs=runs, repeats=3, learning_rates={4: 1e-3}, seconds=12.0, **fields)

    def plan(self, **fields) -> ProofPlan:
        options = {"allowance": 2.5, "epochs": {4: 2}, "seconds": 9.0}
        everyone = ("raw", "random", "scratch", "frozen", "fine-tuned")
        return ProofPlan((4,), (), (4,), 3, **{**options, "methods": everyone, **fields})

    def proof(self, shares, *, notes=(), plan=None, **fields) -> Proof:
        plan = plan or self.plan()
        data = SimpleNamespace(fingerprint="d")
        return build_proof(self.experiment(), plan, self.done(shares, **fields), notes=notes, data=data, config=CONFIG)

    def test_the_record(self):
        proof = self.proof({"raw": 0.3, "scratch": 0.2, "frozen": 0.8, "fine-tuned": 0.7}, notes=["first"])
        assert proof.helps is True and proof.labels_saved.baseline == "raw" and proof.time_saved.baseline == "scratch"
        assert proof.notes[0] == "first" and proof.metric == "accuracy" and proof.chance == 0.25
        assert "Fine-tuned weights were kept in 1 of 3 runs" in " ".join(proof.notes)
        assert "had 2.5 s each in every run" in " ".join(proof.notes)
        remaining = proof.provenance
        assert (remaining["random_state"], remaining["budget"], remaining["repeats"], remaining["test_items"]) == (
            3,
            60.0,
            3,
            ITEMS,
        )
        assert remaining["scratch_lr"] == {"4": 0.001} and remaining["policy"] == "last_layers"
        assert proof.cost["seconds"] == 12.0 and proof.cost["training_seconds_per_run"] == 2.5
        assert read_record(json.loads(json.dumps(proof.to_dict()))) == proof

    def test_the_budget_is_the_one_of_the_config(self):
        """It was read back by its position in a list of settings: a setting put before it changed the provenance."""
        config = dataclasses.replace(CONFIG, budget=7.0)
        results = self.done({"raw": 0.3, "frozen": 0.8})
        data = SimpleNamespace(fingerprint="d")
        proof = build_proof(self.experiment(), self.plan(), results, notes=(), data=data, config=config)
        assert proof.provenance["budget"] == 7.0

    def test_settings_name_the_folder_as_ever(self):
        """A proof that version 0.1 began is found again: order and values of what is hashed stay."""
        assert CONFIG.cache_key() == ["auto", "auto", 3, 60.0, 240, 3, "cpu", None]

    def test_what_there_was_no_time_for_is_in_the_verdict(self):
        given_up = {"methods": ("raw", "random", "frozen"), "given_up": ("fine-tuned", "scratch")}
        proof = self.proof({"raw": 0.3, "random": 0.2, "frozen": 0.8}, plan=self.plan(**given_up))
        assert proof.helps is True and proof.time_saved is None and proof.labels_saved is not None
        assert proof.verdict.endswith("; there was no time for fine-tuning and training from scratch.")
        assert proof.cost["training_seconds_per_run"] is None and "in every run" not in " ".join(proof.notes)
        full = self.proof({"raw": 0.3, "random": 0.2, "scratch": 0.2, "frozen": 0.8, "fine-tuned": 0.8})
        assert "no time" not in full.verdict and "each in every run" in " ".join(full.notes)
        alone = self.plan(methods=("raw", "scratch", "frozen"), given_up=("fine-tuned",))
        notes = " ".join(self.proof({"raw": 0.3, "scratch": 0.2, "frozen": 0.8}, plan=alone).notes)
        assert "Training from scratch had 2.5 s in every run" in notes

    def test_nothing_is_saved_where_nothing_is_gained(self):
        for shares in ({"raw": 0.5, "frozen": 0.5}, {"raw": 0.9, "frozen": 0.2}):
            proof = self.proof(shares)
            assert proof.helps is not True and proof.labels_saved is None and proof.time_saved is None
            assert proof.labels, "what was read off the curves is kept all the same"

    def test_advice_only_where_it_cannot_be_told(self):
        undecided, decided = self.proof({"raw": 0.5, "frozen": 0.5}), self.proof({"raw": 0.2, "frozen": 0.9})
        assert any("would tell more" in note for note in undecided.notes)
        assert not any("would tell more" in note for note in decided.notes)

    @pytest.mark.parametrize("shares", [{"frozen": 0.5}, {"raw": 0.5}], ids=["no rival", "no transfer"])
    def test_nothing_to_compare(self, shares):
        with pytest.raises(DataError, match=r"nothing to compare transfer with:\nraw failed"):
            self.proof(shares, notes=["raw failed"])

    def test_forgetting_is_gathered_from_the_runs(self):
        done = self.done({"raw": 0.3, "fine-tuned": 0.8}, source_task=[1.0] * 20)
        for repeat in range(3):
            key = ("fine-tuned", 4, repeat)
            done.runs[key] = dataclasses.replace(done.runs[key], source_task=(1.0,) * 15 + (0.0,) * 5)
        plan = ProofPlan((4,), (), (4,), 3, allowance=None, epochs={4: 2}, seconds=9.0)
        data = SimpleNamespace(fingerprint="d")
        proof = build_proof(self.experiment(), plan, done, notes=(), data=data, config=CONFIG)
        assert (proof.forgetting.before, proof.forgetting.after) == (1.0, 0.75)
        assert proof.forgetting.items == 20 and proof.forgetting.n_kept == 1

    def test_the_headline_says_something(self):
        """At the largest number of labels the rival may have had no more: then a smaller one is taken."""
        curves = {("scratch", k): share(0.2, 0.2, 0.2) for k in (4, 16)} | {
            ("frozen", k): share(0.8, 0.8, 0.8) for k in (4, 16)
        }
        result = found_of(curves, shots=(4, 16))
        saved = _headline(result, compute_labels_saved(result), compute_gains(result))
        assert (saved.shots, saved.most, saved.factor) == (4, 16, 4.0)


class TestPlanLaws:
    sizes = {4: 24, 16: 96, 64: 384}
    speeds = st.builds(Speeds, *[st.floats(1e-4, 0.2) for _ in range(3)], st.floats(0.01, 3.0))

    def plan_of(self, budget: float, speeds: Speeds, repeats: int = 5) -> tuple[ProofPlan, TrainingCost]:
        batch = {k: min(32, n // 4) for k, n in self.sizes.items()}
        work = TrainingCost(self.sizes, 100, speeds, batch)
        return _plan.plan_by_budget(self.whole(repeats), work, budget), work

    def whole(self, repeats: int = 5) -> ProofPlan:
        everyone = ("raw", "random", "scratch", "frozen", "fine-tuned")
        options = {"allowance": None, "epochs": {}, "seconds": 0.0, "methods": everyone}
        return ProofPlan((4, 16), (64,), (4, 16, 64), repeats, **options)

    @given(speeds, st.floats(1, 5000))
    def test_fits_or_says_so(self, speeds, budget):
        plan, work = self.plan_of(budget, speeds)
        assert plan.seconds <= budget * 1.001 or any("too little" in note for note in plan.notes)
        assert set(plan.epochs) == set(plan.scratch_shots) and min(plan.epochs.values(), default=1) >= 1
        assert plan.allowance > 0 and work.epoch(4) > 0
        assert {"raw", "random", "frozen"} <= set(plan.methods), "the cheapest, which tell most for their seconds"
        assert bool(plan.scratch_shots) == ("scratch" in plan.methods)

    @given(speeds, st.floats(1, 5000))
    def test_nothing_is_left_out_silently(self, speeds, budget):
        plan, _ = self.plan_of(budget, speeds)
        message = " ".join(plan.notes)
        left = set(self.whole().methods) - set(plan.methods)
        assert left == set(plan.given_up)
        assert ("Fine-tuning does not fit" in message) == ("fine-tuned" in left)
        assert ("Training from scratch" in message) == (plan.scratch_shots != (4, 16, 64))
        assert ("labels per class do not fit" in message) == (plan.shots != (4, 16))
        assert ("Baselines with more labels" in message) == (not plan.extra_shots)
        assert ("repeats fit" in message) == (plan.repeats < 5)

    @given(speeds, st.floats(1, 2000), st.floats(1.1, 4))
    def test_more_time_is_never_less_telling(self, speeds, budget, times):
        small, large = (self.plan_of(b, speeds)[0] for b in (budget, budget * times))
        order = [
            (w.methods, w.extra_shots, w.scratch_shots, w.shots, w.repeats) for w in _plan._reduced_plans(self.whole())
        ]
        places = [order.index((w.methods, w.extra_shots, w.scratch_shots, w.shots, w.repeats)) for w in (small, large)]
        assert places[0] >= places[1]

    @given(speeds, st.floats(1, 5000))
    def test_comes_back_from_the_disk(self, speeds, budget):
        plan, _ = self.plan_of(budget, speeds)
        assert read_as(ProofPlan, json.loads(json.dumps(plain(plan)))) == plan

    @given(st.integers(1, 5000))
    def test_steps_are_at_least_what_was_asked(self, steps):
        work = self.plan_of(100, Speeds(0.1, 0.1, 0.1, 0.1))[1]
        plan = self.whole()
        result = _plan.plan_by_steps(plan, work, steps)
        for count, epochs in result.epochs.items():
            assert epochs * self.sizes[count] / work.batch[count] >= steps * 0.999
        assert dataclasses.replace(result, epochs={}, seconds=0.0) == plan

    def test_plenty_of_time_does_not_train_for_ever(self):
        plan, work = self.plan_of(1e7, Speeds(1e-4, 1e-4, 1e-4, 0.01))
        assert all(plan.epochs[k] * self.sizes[k] / work.batch[k] <= 2000 for k in plan.scratch_shots)
        assert plan.seconds < 1e4, "what is said is what it will take"


def test_names_for_people_are_short():
    for names in (NAMES, dict(baselines.NAMES)):
        assert all(len(name) <= 24 and name[0].islower() for name in names.values())
    assert set(baselines.NAMES) == {"image", "text", "audio", "vector"}


def test_a_single_draw_speaks_for_itself():
    """Nothing is known of other draws then: the interval is that of the items."""
    table = share(0.6).right
    mean, low, high = two_way_interval(table, held(), ends=(0.0, 1.0))
    twice = two_way_interval(np.tile(table, (2, 1)), held(), ends=(0.0, 1.0))
    assert (mean, low, high) == pytest.approx(twice) and low < 0.6 < high


class TestPlaces:
    def data(self, labels) -> Dataset:
        return Dataset.from_arrays(np.zeros((len(labels), 2)) + np.arange(len(labels))[:, None], labels)

    def source(self, classes):
        return SimpleNamespace(meta={"classes": classes} if classes is not None else {}, address="x")

    def test_by_name(self):
        places = _class_indices(self.source(["cat", "ant", "bee"]), self.data(["ant", "cat", "bee", "ant"]))
        assert places.tolist() == [1, 0, 2, 1]

    def test_numbers_by_name(self):
        data = Dataset.from_arrays(np.eye(3), [7, 5, 7], task="classification")
        assert _class_indices(self.source(["5", "6", "7"]), data).tolist() == [2, 0, 2]

    def test_by_order_where_there_are_as_many(self):
        assert _class_indices(self.source(2), self.data(["b", "a", "b"])).tolist() == [1, 0, 1]

    def test_numbers_are_places(self):
        data = Dataset.from_arrays(np.eye(3), [700, 2, 5], task="classification")
        assert _class_indices(self.source(1000), data).tolist() == [700, 2, 5]

    def test_what_cannot_be_told(self):
        with pytest.raises(DataError, match="cannot be told: the source has 1000 classes without names"):
            _class_indices(self.source(1000), self.data(["a", "b"]))
        with pytest.raises(DataError, match="does not know the classes dog"):
            _class_indices(self.source(["cat"]), self.data(["cat", "dog"]))
