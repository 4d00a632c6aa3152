"""The parts of a proof: contenders that are what they say, cells on the disk, what the command line makes of it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import headstart as hs
import networks
from headstart._base.intervals import Metric
from headstart.cli import prove as page
from headstart.dataset import Dataset
from headstart.errors import NumericsError, OptionError, SourceError, StoreError
from headstart.extraction import extract
from headstart.pretraining import scratch
from headstart.proof import baselines, prove
from headstart.proof import experiment as _runs
from headstart.proof.analysis import TestSet, bootstrap_means, shots_to_reach, two_way_interval
from headstart.proof.budget import ProofPlan, Speeds, TrainingCost, describe
from headstart.proof.experiment import Experiment, ExperimentResults, available_methods, run_or_record
from headstart.proof.few_shot_splits import few_shot_splits
from headstart.proof.run_cache import LearningRate, RunCache, RunRecord
from headstart.result import Forgetting, Gain, LabelsSaved, Proof, ProofRow, TimeSaved
from headstart.sources import load_source
from networks import image_source, picture_data, pictures, separable, vector_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def data_of(n: int = 60, classes: int = 3) -> Dataset:
    X, y = separable(n, classes=classes)
    return Dataset.from_arrays(X, [f"c{c}" for c in y])


def experiment_of(source=None, data=None, *, shots=(4,), repeats=2, **fields) -> Experiment:
    source = source or vector_source(networks.Dense)
    draws = few_shot_splits(data or data_of(), None, shots=shots, repeats=repeats, test_size=0.3, seed=0)
    bank = extract(source, draws.data, layers="auto")
    options = {"layers": "auto", "pooling": "auto", "policy": None, "store": None, "device": "cpu", "seed": 0}
    return Experiment(source, draws, bank, **{**options, **fields})


class TestContenders:
    def test_frozen_is_what_fit_gives(self):
        experiment = experiment_of()
        ours = experiment.fit_head(experiment.frozen_features, 4, 1).predicted
        small = experiment.splits.data.take(experiment.splits.subset(4, 1))
        predictor = hs.fit(experiment.source, small, policy="frozen", random_state=1)
        theirs = predictor.predict(experiment.splits.data.take(experiment.splits.test))
        assert [experiment.splits.data.classes[code] for code in ours] == list(theirs)

    def test_fine_tuned_is_what_fit_gives(self):
        experiment = experiment_of(policy=hs.policy("full", epochs=2))
        result = experiment.fine_tune(4, 0, budget=None)
        small = experiment.splits.data.take(experiment.splits.subset(4, 0))
        predictor = hs.fit(experiment.source, small, policy=hs.policy("full", epochs=2), random_state=0)
        theirs = predictor.predict(experiment.splits.data.take(experiment.splits.test))
        assert [experiment.splits.data.classes[code] for code in result.predicted] == list(theirs)
        assert result.moved is (predictor.source.fingerprint != experiment.source.fingerprint)

    def test_random_weights_are_other_ones_in_every_repeat_and_the_same_again(self):
        experiment = experiment_of()
        item, two = (
            {name: X.copy() for name, X in experiment.random_features(repeat, max_shots=16).items()}
            for repeat in (0, 1)
        )
        again = experiment.random_features(0, max_shots=16)
        assert list(item) == list(experiment.frozen_features)
        for name, X in item.items():
            assert not np.array_equal(X, two[name]) and np.array_equal(X, again[name])
            assert not np.array_equal(X, experiment.frozen_features[name])

    def test_a_class_that_the_draw_lacks_is_never_said(self):
        X, y = separable(60, classes=3)
        keep = np.flatnonzero((y != 2) | (np.arange(60) % 9 == 2))
        data = Dataset.from_arrays(X[keep], [f"c{c}" for c in y[keep]])
        experiment = experiment_of(data=data)
        rare = experiment.splits.subset(4, 0)
        experiment.splits.class_ranks[0][rare[experiment.splits.codes[rare] == 2]] = -1
        assert 2 not in experiment.splits.codes[experiment.splits.subset(4, 0)]
        assert set(experiment.fit_head(experiment.frozen_features, 4, 0).predicted) <= {0, 1}

    def test_answers_are_codes_of_the_test_items(self):
        experiment = experiment_of()
        truth = experiment.splits.codes[experiment.splits.test]
        for answer in (
            experiment.fit_head(experiment.raw_features, 4, 0),
            experiment.train_scratch(4, 0, epochs=20, lr=3e-3),
        ):
            assert len(answer.predicted) == len(truth)
            assert np.mean(np.array(answer.predicted) == truth) > 0.6, "these classes are far apart"

    def test_features_are_paid_for(self):
        experiment = experiment_of()
        speed = experiment.bank.choice.speed
        assert experiment.feature_seconds(np.arange(12)) == (12 / speed if speed else 0.0)

    def test_rates_are_tried_for_a_part_of_a_run_within_a_budget(self, monkeypatch):
        experiment, tried = experiment_of(), []
        monkeypatch.setattr(scratch, "best_learning_rate", lambda *_a, epochs, **_k: tried.append(epochs) or (1e-3, {}))
        plan = ProofPlan((4,), (), (4,), 2, allowance=None, epochs={4: 40}, seconds=0.0)
        experiment.choose_learning_rate(4, plan)
        experiment.choose_learning_rate(4, ProofPlan(**{**vars(plan), "allowance": 5.0}))
        assert tried == [40, 10]


class TestAble:
    def test_everybody(self):
        assert available_methods(experiment_of(policy="last_layers")) == (
            ["raw", "random", "scratch", "frozen", "fine-tuned"],
            [],
        )
        assert available_methods(experiment_of())[0] == ["raw", "random", "scratch", "frozen"]

    def test_no_raw_features(self, monkeypatch):
        monkeypatch.setattr(baselines, "raw_rows", lambda *_: None)
        names, notes = available_methods(experiment_of())
        assert "raw" not in names and "no raw features" in notes[0]

    def test_a_source_that_torch_does_not_run(self):
        experiment = experiment_of()
        object.__setattr__(experiment.source, "engines", ("onnxruntime",))
        names, notes = available_methods(experiment)
        assert names == ["raw", "frozen"] and "run by onnxruntime" in notes[0]

    def test_raw_features_that_cannot_be_had_are_none(self):
        data = Dataset.from_arrays([np.zeros(5, np.float32), np.zeros(7, np.float32)], ["a", "b"], modality="audio")
        assert baselines.raw_rows(data) is None, "the sample rate is not known"

    @pytest.mark.parametrize("error", [NumericsError("nan"), SourceError("no")])
    def test_a_failure_is_an_answer(self, error):
        def failing():
            raise error

        assert run_or_record("scratch", failing) == RunRecord(failed=f"scratch: {error}")

    def test_a_mistake_is_not(self):
        def failing():
            raise OptionError("wrong")

        with pytest.raises(OptionError):
            run_or_record("fine-tuned", failing)


class TestCells:
    def test_work_is_done_once(self, tmp_path):
        cells, calls = RunCache(tmp_path / "a"), []
        for _ in range(2):
            result = cells.get_or_run("raw-4-0", RunRecord, lambda: calls.append(1) or RunRecord((1, 2)))
            assert result.predicted == (1, 2) and result.wall >= 0
        assert len(calls) == 1 and [path.name for path in (tmp_path / "a").iterdir()] == ["raw-4-0.json"]

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "3"])
    def test_what_is_no_finished_run_is_none(self, tmp_path, content):
        (tmp_path / "x.json").write_text(content)
        assert RunCache(tmp_path).read("x", RunRecord) is None

    def test_files_of_version_0_1_are_read(self, tmp_path):
        files = {
            "scratch-4-0": '{"predicted": [1, 0], "seconds": 2.5, "epochs": 7, "lr": 0.001, "wall": 3.0}',
            "fine-tuned-4-0": '{"predicted": [1], "seconds": 2, "epochs": null, "moved": false, "wall": 2.0}',
            "raw-4-0": '{"failed": "raw: no words", "wall": 0.5}',
            "rate-4": '{"lr": 0.003, "losses": {"0.003": 0.5}, "epochs": 10, "wall": 9.0}',
            "plan": '{"shots": [4], "further": [8], "long": [4, 8], "repeats": 2, "allowance": null,'
            ' "epochs": {"4": 60}, "seconds": 1.5, "contenders": ["raw"], "given_up": [], "notes": ["n"],'
            ' "said": "Plan", "spent": 0.25, "wall": 0.125}',
        }
        for name, text in files.items():
            (tmp_path / f"{name}.json").write_text(text)
        cache = RunCache(tmp_path)
        assert cache.read("scratch-4-0", RunRecord) == RunRecord((1, 0), 2.5, 7, 0.001, wall=3.0)
        assert cache.read("fine-tuned-4-0", RunRecord) == RunRecord((1,), 2.0, moved=False, wall=2.0)
        assert cache.read("raw-4-0", RunRecord).failed == "raw: no words"
        assert cache.read("rate-4", LearningRate).lr == 0.003
        plan = cache.read("plan", ProofPlan)
        assert (plan.extra_shots, plan.scratch_shots, plan.epochs, plan.methods) == ((8,), (4, 8), {4: 60}, ("raw",))
        assert (plan.description, plan.elapsed, plan.wall) == ("Plan", 0.25, 0.125)

    def test_a_run_with_nonsense_is_done_again(self, tmp_path):
        (tmp_path / "x.json").write_text('{"predicted": "all", "wall": 1.0}')
        assert RunCache(tmp_path).read("x", RunRecord) is None

    def test_nothing_is_left_by_work_that_failed(self, tmp_path):
        def failing():
            raise NumericsError("nan")

        with pytest.raises(NumericsError):
            RunCache(tmp_path).get_or_run("x", RunRecord, failing)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError):
            RunCache(tmp_path / "file").get_or_run("x", RunRecord, RunRecord)


class TestRuns:
    def plan(self, **fields) -> ProofPlan:
        options = {
            "allowance": None,
            "epochs": {4: 1, 16: 1, 32: 1},
            "seconds": 0.0,
            "methods": ("raw", "random", "scratch", "frozen", "fine-tuned"),
        }
        return ProofPlan((4, 16), (32, 64), (4, 16, 32), 2, **{**options, **fields})

    def test_who_runs_where(self):
        keys = list(_runs._run_keys(self.plan(), 1))
        assert {repeat for _, _, repeat in keys} == {1} and len(set(keys)) == len(keys)
        at = {count: [name for name, k, _ in keys if k == count] for count in (4, 16, 32, 64)}
        assert at[4] == at[16] == ["raw", "random", "scratch", "frozen", "fine-tuned"]
        assert at[32] == ["raw", "random", "scratch"] and at[64] == ["raw", "random"]
        assert [count for _, count, _ in keys] == sorted(count for _, count, _ in keys)

    def test_where_the_learning_rate_is_chosen(self):
        free, hurried = self.plan(), self.plan(allowance=3.0)
        assert [free.rate_at(k) for k in (4, 16, 32)] == [4, 16, 32] and free.rate_share == 1.0
        assert [hurried.rate_at(k) for k in (4, 16, 32)] == [4, 16, 16] and hurried.rate_share == 0.25

    def test_a_run_that_failed_is_noted_and_its_time_counts(self, tmp_path):
        cells = RunCache(tmp_path)
        cells.get_or_run("raw-4-0", RunRecord, lambda: RunRecord(failed="raw: no words"))
        done = ExperimentResults(seconds=1.0)
        _runs._run_one(SimpleNamespace(), cells, self.plan(), done, key=("raw", 4, 0))
        assert not done.runs and done.notes == ["With 4 labels per class, raw: no words"] and done.seconds >= 1.0

    def test_the_sentence_of_a_plan(self):
        text = describe(self.plan(allowance=3.0, seconds=75.0))
        assert text.startswith("Plan: 2 repeats with 4, 16 labels per class; 3.0 s of training per run on either side")
        assert "4: 1, 16: 1, 32: 1" in text and text.endswith("about 1 min 15 s in all.")
        assert "training" not in describe(self.plan(allowance=3.0, methods=("raw", "frozen")))
        alone = describe(self.plan(allowance=3.0, methods=("raw", "scratch", "frozen")))
        assert "3.0 s of training per run of scratch" in alone

    def test_more_work_takes_longer(self):
        sizes = {4: 24, 16: 96, 32: 192, 64: 384}
        everyone = self.plan().methods
        full = TrainingCost(sizes, 100, Speeds(0.02, 0.05, 0.01, 1.0), dict.fromkeys(sizes, 8))
        given_time = dict.fromkeys(sizes, 10.0)
        complete = full.total(self.plan(), given_time)
        for name in ("raw", "random", "scratch", "fine-tuned"):
            fewer = self.plan(methods=tuple(item for item in everyone if item != name))
            assert full.total(fewer, given_time) < complete
        more = ProofPlan(**{**vars(self.plan()), "repeats": 4})
        assert full.total(more, given_time) > complete
        assert full.total(self.plan(), dict.fromkeys(sizes, 20.0)) > complete


class TestModalities:
    def test_pictures(self):
        y = np.arange(48) % 2
        bright = (pictures(48, side=12) // 2 + 100 * y[:, None, None, None]).astype(np.uint8)
        data = Dataset.from_arrays(bright, [f"c{c}" for c in y])
        proof = prove(image_source(networks.Normed), data, shots=(4,), repeats=2, steps=3, policy="frozen")
        assert "raw pixels" in str(proof) and len({row.name for row in proof.rows}) == 4

    def test_grey_pictures(self):
        rows = baselines.raw_rows(picture_data(6, channels=1))
        assert rows(np.arange(4), np.arange(2))[0].shape == (4, 3072)

    def test_preprocessed_pictures_are_numbers(self):
        images = np.random.default_rng(0).normal(size=(8, 3, 6, 6)).astype(np.float32)
        data = Dataset.from_arrays(images, ["a", "b"] * 4)
        train, _ = baselines.raw_rows(data)(np.arange(8), np.arange(1))
        assert train == pytest.approx(images.reshape(8, -1))

    @pytest.mark.parametrize("labels", [[1, 0], [True, False], ["ja", "nein"]], ids=["numbers", "truths", "words"])
    def test_labels_of_any_kind(self, labels):
        X, y = separable(40, classes=2)
        data = Dataset.from_arrays(X, [labels[c] for c in y], task="classification")
        experiment = experiment_of(data=data, policy=hs.policy("full", epochs=1))
        assert set(experiment.fine_tune(4, 0, budget=None).predicted) <= {0, 1}

    def test_one_of_several_targets(self):
        X, y = separable(40, classes=2)
        columns = {"which": [f"c{c}" for c in y], "much": X[:, 0].tolist()}
        draws = few_shot_splits(Dataset.from_arrays(X, columns), "which", shots=(4,), repeats=2, test_size=0.3, seed=0)
        assert draws.data.target_names == ("which",)
        with pytest.raises(OptionError, match="'which', 'much'"):
            few_shot_splits(Dataset.from_arrays(X, columns), None, shots=(4,), repeats=2, test_size=0.3, seed=0)

    def test_many_test_items_are_sampled(self):
        X, y = separable(4000, classes=2)
        data = Dataset.from_arrays(X, [f"c{c}" for c in y])
        draws = few_shot_splits(data, None, shots=(4,), repeats=2, test_size=0.5, seed=0)
        assert len(draws.test) == 1000 and "1,000" in " ".join(draws.notes)
        assert len(draws.data) < 1200, "only what is drawn is kept"


class TestLaws:
    """What holds for any answers."""

    tables = st.integers(2, 5).flatmap(
        lambda draws: st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=draws, max_size=draws)
    )

    @given(tables)
    def test_an_interval_holds_its_mean_and_widens(self, table):
        table, held_out = np.array(table, float), TestSet(np.arange(8) % 2)
        mean, low, high = two_way_interval(table, held_out, ends=(0.0, 1.0))
        _, lower, higher = two_way_interval(table, held_out, ends=(0.0, 1.0), tail=0.001)
        assert 0 <= lower <= low <= mean <= high <= higher <= 1 and low < high

    @given(tables)
    def test_order_does_not_matter(self, table):
        table, held_out = np.array(table, float), TestSet(np.zeros(8, int))
        turned = two_way_interval(table[::-1, ::-1], held_out, ends=(0.0, 1.0))
        assert turned == pytest.approx(two_way_interval(table, held_out, ends=(0.0, 1.0)))

    @given(tables)
    def test_wrong_is_the_mirror_of_right(self, table):
        table, held_out = np.array(table, float), TestSet(np.arange(8) % 2, balanced=True)
        mean, low, high = two_way_interval(table, held_out, ends=(0.0, 1.0))
        assert two_way_interval(1 - table, held_out, ends=(0.0, 1.0)) == pytest.approx((1 - mean, 1 - high, 1 - low))

    @given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
    def test_better_needs_no_fewer_labels(self, curve, one, other):
        scores = np.array([curve, curve])
        low, high = shots_to_reach([4, 8, 16, 32], scores, np.sort([one, other]))
        assert low <= high and (low == 0 or low >= 4 or np.isinf(low))

    @given(tables, st.integers(0, 5))
    def test_drawing_again_repeats_by_its_seed(self, table, seed):
        tables, held_out = {"a": np.array(table, float)}, TestSet(np.arange(8) % 2)
        item, two = (bootstrap_means(tables, held_out, seed=seed)["a"] for _ in range(2))
        assert np.array_equal(item, two) and item.shape == (1000,) and item.min() >= 0 and item.max() <= 1 + 1e-9

    def test_drawing_again_keeps_pairs(self):
        rng = np.random.default_rng(0)
        table = (rng.random((4, 60)) < 0.5).astype(float)
        drawn = bootstrap_means({"a": table, "b": table}, TestSet(np.arange(60) % 3, balanced=True), seed=0)
        assert np.array_equal(drawn["a"], drawn["b"])

    def test_groups_are_drawn_as_a_whole(self):
        groups = np.repeat(np.arange(6), 10)
        table = np.tile((groups % 2).astype(float), (3, 1))
        apart, together = (
            bootstrap_means({"a": table}, TestSet(np.zeros(60, int), g), seed=0)["a"].std() for g in (None, groups)
        )
        assert together > 2 * apart


def proof_of(**fields) -> Proof:
    rows = [
        ProofRow("raw", 4, accuracy=0.4, low=0.3, high=0.5, seconds=0.2, scores=(0.4, 0.4), description="raw pixels"),
        ProofRow("scratch", 4, accuracy=0.3, low=0.2, high=0.4, seconds=9.0, scores=(0.3, 0.3), epochs=7.0),
        ProofRow("frozen", 4, accuracy=0.7, low=0.6, high=0.8, seconds=2.0, scores=(0.7, 0.7), transfer=True),
    ]
    saved = LabelsSaved(
        4, "raw", equals=None, low=9.0, high=None, least=4, most=20, reached=False, description="raw pixels"
    )
    options = {
        "verdict": "Transfer helps.", "helps": True, "gains": [Gain("raw", 4, value=0.3, low=0.2, high=0.4)],
        "labels_saved": saved, "labels": [saved], "notes": ["a note"], "provenance": {"repeats": 2},
        "time_saved": TimeSaved(
            4, "scratch", seconds=2.0, accuracy=0.7, baseline_seconds=9.0, baseline_accuracy=0.3, reached=False
        ),
        "forgetting": Forgetting(0.9, 0.8, change=-0.1, low=-0.2, high=0.0, items=50),
    }  # fmt: skip
    return Proof(rows, **{**options, **fields})


class TestPage:
    def summary(self, proof: Proof, capsys) -> str:
        for block in page._blocks(proof):
            page_console().print(block)
        return " ".join(capsys.readouterr().out.split())

    def test_everything_is_there(self, capsys):
        text = self.summary(proof_of(), capsys)
        for words in ("Transfer helps.", "raw pixels 0.400 [0.300, 0.500]", "transfer: frozen", "→ gain over raw",
                      "more than 5.0 times fewer labels", "more than 4.5 times faster", "On the source task: 0.900",
                      "a note"):  # fmt: skip
            assert words in text

    def test_what_is_not_there_is_not_said(self, capsys):
        bare = proof_of(helps=None, verdict="It cannot be told.", labels_saved=None, time_saved=None, forgetting=None,
                        notes=[])  # fmt: skip
        text = self.summary(bare, capsys)
        assert "Labels saved" not in text and "With " not in text and "source task" not in text

    @pytest.mark.parametrize(("helps", "command"), [(True, "fit"), (None, "fit"), (False, "sources")])
    def test_what_comes_next(self, helps, command):
        (line,) = page._following(proof_of(helps=helps), "photos", "fake:image", None)
        assert line.startswith(f"headstart {command}")

    def test_numbers_of_labels(self):
        assert page._numbers("4,16, 64") == page._numbers("4 16 64") == [4, 16, 64]
        with pytest.raises(OptionError, match="whole numbers"):
            page._numbers("4;16")

    def test_colours_say_how_it_came_out(self):
        styles = {helps: page._blocks(proof_of(helps=helps))[0].style for helps in (True, False, None)}
        assert styles == {True: "bold green", False: "bold red", None: "bold yellow"}


def page_console():
    from headstart.cli.output import console

    return console()


class TestRecord:
    def test_lines_have_five_cells(self):
        assert {len(line) for line in proof_of().table_rows} == {5} and len(proof_of().table_headers) == 5

    def test_a_whole_proof_is_plain_data(self):
        proof = proof_of()
        back = Proof.from_dict(json.loads(json.dumps(proof.to_dict(), allow_nan=False)))
        assert back == proof and str(back) == str(proof)
        assert isinstance(back.labels_saved, LabelsSaved) and isinstance(back.time_saved, TimeSaved)
        assert isinstance(back.forgetting, Forgetting) and isinstance(back.gains[0], Gain)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"most": 4}, "an unknown number of times fewer labels"),
            ({"low": None}, "all that were tried: more than 5.0 times"),
            ({"reached": True}, "no better than raw pixels with 4, the fewest that were tried"),
            ({"reached": True, "equals": 60.0, "low": None, "high": 80.0}, "about 60 [less than 4, 80]: 15 times"),
        ],
    )
    def test_labels_in_words(self, fields, said):
        plain = {**vars(proof_of().labels_saved), **fields}
        assert said in str(LabelsSaved(**plain))

    def test_reached_time_is_no_bound(self):
        saved = TimeSaved(
            4, "scratch", seconds=2.0, accuracy=0.7, baseline_seconds=9.0, baseline_accuracy=0.7, reached=True
        )
        assert str(saved).endswith(": 4.5 times faster") and saved.factor == float(saved) == 4.5

    def test_a_row_shows_its_interval(self):
        row = proof_of().rows[0]
        assert repr(Metric(row.accuracy, row.low, row.high)) in proof_of().table


class Slow(nn.Module):
    """Diverges at once."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(self.a(x * 1e30))


def test_a_network_that_cannot_be_trained_leaves_the_others():
    proof = prove(vector_source(Slow), data_of(40, 2), shots=(4,), repeats=2, steps=2, policy="frozen")
    names = {row.name for row in proof.rows}
    assert {"raw", "frozen"} <= names and proof.helps is not True


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestRealData:
    def test_spoken_digits_of_other_speakers(self, shared):
        options = {"input": "path", "target": "digit", "task": "classification", "groups": "speaker", "split": "split"}
        data = Dataset.from_table(shared / "audio" / "fsdd.csv", **options).sample(per_class=24, random_state=0)
        source = load_source(f"timm:{shared / 'weights' / 'mobilenetv1_100.audioset_yamnet'}")
        proof = prove(source, data, shots=(8,), repeats=2, budget=20, policy="frozen")
        by_name = {row.name: row.accuracy for row in proof.rows if row.shots == 8}
        scratch = {"scratch"} if "no time for" not in proof.verdict else set()
        assert by_name.keys() == {"raw", "random", "frozen"} | scratch and by_name["frozen"] > 0.3
        assert any("intervals speak for" in note for note in proof.notes), "three speakers are few"

    def test_photos(self, shared):
        data = Dataset.from_folder(shared / "images" / "trashnet").sample(per_class=30, random_state=0)
        source = load_source(f"timm:{shared / 'weights' / 'mobilenetv2_100.imagenet'}")
        proof = prove(source, data, shots=(8,), repeats=2, budget=20, policy="frozen", layers=["blocks.5", "blocks.6"])
        at = {row.name: row.accuracy for row in proof.rows if row.shots == 8}
        assert at.pop("frozen") > max(at.values()) and {"raw", "random"} <= at.keys()
        assert (
            ("scratch" in at) == ("no time for" not in proof.verdict) == any("in every run" in n for n in proof.notes)
        )
