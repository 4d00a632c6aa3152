"""prove(): the same items for everybody, the same budget, nothing lost in a kill, and no claim that is not so."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import headstart as hs
import networks
from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import DataError, HeadstartError, OptionError, SourceError
from headstart.pretraining import pretrain, scratch
from headstart.pretraining.scratch import reinitialize
from headstart.proof import baselines, prove, run_cache
from headstart.proof import budget as _plan
from headstart.proof.budget import ProofPlan, Speeds, TrainingCost
from headstart.proof.few_shot_splits import few_shot_splits
from headstart.proof.forgetting import SourceTask, measure_forgetting
from headstart.readers.base import Clip
from headstart.result import Proof
from headstart.result.record import plain as to_plain
from headstart.result.record import read_as
from headstart.sources import Source, load_source
from networks import image_source, picture_data, separable, state_bytes, vector_source

pytestmark = pytest.mark.usefixtures("own_cache")

QUICK = {"shots": (4,), "repeats": 3, "steps": 6, "policy": "frozen"}


class Product(nn.Module):
    """The product of two projections: what a line through the raw numbers cannot see."""

    def __init__(self, d: int):
        super().__init__()
        self.a, self.b = nn.Linear(d, 1, bias=False), nn.Linear(d, 1, bias=False)

    def forward(self, x):
        return self.a(x) * self.b(x)


class Knowing(nn.Module):
    """Knows of two coordinates whether their signs agree (or of two others that mean nothing)."""

    def __init__(self, first: int = 0, d: int = 12):
        super().__init__()
        self.product, self.last = Product(d), nn.Linear(1, 3)
        with torch.no_grad():
            for projection, at in ((self.product.a, first), (self.product.b, first + 1)):
                projection.weight.copy_(torch.eye(d)[at : at + 1])

    def forward(self, x):
        return self.last(self.product(x))


def knowing(first: int = 0) -> Source:
    return vector_source(lambda: Knowing(first), d=12)


def signs(n: int = 160, seed: int = 0, **how) -> Dataset:
    """Whether two numbers of twelve have the same sign."""
    X = np.random.default_rng(seed).normal(size=(n, 12)).astype(np.float32)
    return Dataset.from_arrays(X, np.where(X[:, 0] * X[:, 1] > 0, "same", "different").tolist(), **how)


def plain(seed: int = 0, n: int = 160) -> Dataset:
    """What a line through the raw numbers sees at once, but nothing of it in numbers 4 and 5."""
    X, y = separable(n, classes=2, d=12, seed=seed)
    X[:, 4:6] = np.random.default_rng(seed).normal(size=(n, 2))
    return Dataset.from_arrays(X, [f"c{c}" for c in y])


def timeless(proof: Proof) -> dict:
    """Everything but seconds."""
    remaining = proof.to_dict()
    remaining["rows"] = [{k: v for k, v in row.items() if k != "seconds"} for row in remaining["rows"]]
    return {name: value for name, value in remaining.items() if name not in ("cost", "time_saved")}


@pytest.fixture(scope="module")
def helping(tmp_path_factory) -> Proof:
    return prove(
        knowing(),
        signs(),
        checkpoint=tmp_path_factory.mktemp("p"),
        store=tmp_path_factory.mktemp("s"),
        **{**QUICK, "shots": (4, 8)},
    )


class TestVerdict:
    def test_help_is_seen(self, helping):
        assert helping.helps is True and helping.verdict.startswith(
            "Transfer helps: frozen features against the best baseline, "
        )
        assert helping.labels_saved and helping.labels_saved.factor > 1
        assert helping.time_saved.baseline == "scratch"

    def test_everybody_at_every_point(self, helping):
        at = {shots: [row.name for row in helping.rows if row.shots == shots] for shots in (4, 8)}
        assert at == {shots: ["raw", "random", "scratch", "frozen"] for shots in (4, 8)}
        beyond = {row.name for row in helping.rows if row.shots > 8}
        assert beyond == {"raw", "random", "scratch"}, "rivals get more labels, to see how many are saved"
        for row in helping.rows:
            assert len(row.scores) == 3 and np.mean(row.scores) == pytest.approx(row.accuracy)
            assert row.low <= row.accuracy <= row.high and row.seconds > 0
            assert (row.epochs is not None) == (row.name == "scratch")

    def test_prints_and_comes_back(self, helping):
        text = str(helping)
        for word in (
            "the raw numbers",
            "training from scratch",
            "transfer: frozen features",
            "Labels saved",
            "Guessing",
        ):
            assert word in text
        assert all(len(line) <= 100 for line in text.splitlines())
        assert Proof.from_dict(json.loads(json.dumps(helping.to_dict()))) == helping

    def test_hurt_is_said(self):
        proof = prove(knowing(first=4), plain(), **{**QUICK, "repeats": 6})
        assert proof.helps is False and "hurts here" in proof.verdict
        assert proof.labels_saved is None and proof.time_saved is None

    def test_nothing_in_common_is_no_help(self):
        data = signs()
        shuffled = data.with_targets(np.random.default_rng(0).permutation(data.targets).tolist())
        proof = prove(knowing(), shuffled, **QUICK)
        assert proof.helps is not True and proof.labels_saved is None
        assert any("would tell more" in note for note in proof.notes)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)  # 100 s on one core
    def test_false_claims_are_rare(self):
        """Labels that mean nothing, 24 times: at most one may be called help, which 5 % would often exceed."""
        message = []
        for seed in range(24):
            labels = np.random.default_rng(seed).permutation(np.arange(60) % 2).tolist()
            data = signs(60, seed).with_targets([f"c{y}" for y in labels])
            message.append(
                prove(knowing(), data, shots=(8,), repeats=2, steps=3, policy="frozen", random_state=seed).helps
            )
        assert message.count(True) <= 1 and message.count(False) <= 2

    def test_uneven_classes_count_the_same(self):
        X = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
        y = ["rare" if i % 8 == 0 else "common" for i in range(200)]
        proof = prove(knowing(), Dataset.from_arrays(X, y), **QUICK)
        assert proof.metric == "balanced accuracy" and proof.chance == 0.5


SMALL = {"shots": (4,), "repeats": 2, "steps": 3}


def small() -> Dataset:
    return signs(40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Proof:
    """A proof that nothing interrupted, a fine-tuned contender included."""
    folder = tmp_path_factory.mktemp("whole")
    return prove(knowing(), small(), checkpoint=folder / "p", store=folder / "s", policy=tuned(), **SMALL)


def tuned():
    return hs.policy("full", epochs=1)


class TestResume:
    def test_the_same_twice(self, whole, tmp_path):
        again = prove(knowing(), small(), checkpoint=tmp_path / "p", policy=tuned(), **SMALL)
        assert timeless(again) == timeless(whole)
        read = prove(knowing(), small(), checkpoint=tmp_path / "p", policy=tuned(), **SMALL)
        assert read == again, "everything is read, the seconds included"

    def test_another_seed_is_another_proof(self, whole, tmp_path):
        options = {**SMALL, "policy": "frozen", "checkpoint": tmp_path / "p"}
        item, other = (prove(knowing(), small(), random_state=seed, **options) for seed in (0, 1))
        assert item.rows != other.rows and len(list((tmp_path / "p").iterdir())) == 2
        mine, theirs = ([row.scores for row in proof.rows if row.name == "raw"] for proof in (item, whole))
        assert mine == theirs, "who else competes changes nothing"

    @pytest.mark.parametrize("after", [0, 2, 9])
    def test_killed_anywhere(self, after, whole, tmp_path, monkeypatch):
        options = {**SMALL, "checkpoint": tmp_path / "killed", "policy": tuned()}
        write, written = run_cache.write_json, []

        def dying(path, value):
            if len(written) == after:
                raise KeyboardInterrupt
            written.append(path)
            write(path, value)

        monkeypatch.setattr(run_cache, "write_json", dying)
        with pytest.raises(KeyboardInterrupt):
            prove(knowing(), small(), **options)
        monkeypatch.setattr(run_cache, "write_json", write)
        stamps = {path: path.stat().st_mtime_ns for path in written}
        assert timeless(prove(knowing(), small(), **options)) == timeless(whole)
        assert {path: path.stat().st_mtime_ns for path in written} == stamps, "what was done is not done again"

    def test_a_damaged_run_is_done_again(self, whole, tmp_path):
        options = {**SMALL, "checkpoint": tmp_path / "p", "policy": tuned()}
        prove(knowing(), small(), **options)
        (damaged,) = tmp_path.glob("p/*/raw-4-1.json")
        damaged.write_text("{")
        assert timeless(prove(knowing(), small(), **options)) == timeless(whole)

    @pytest.mark.slow
    def test_kill_minus_nine(self, whole, tmp_path):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "import test_proof as t\n"
            "t.prove(t.knowing(), t.small(), checkpoint=sys.argv[2], policy=t.tuned(), **t.SMALL)\n"
        )
        words = [sys.executable, "-c", code, os.path.dirname(__file__), str(tmp_path / "killed")]
        process = subprocess.Popen(words)
        while len(list(tmp_path.glob("killed/*/*.json"))) < 5 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert list(tmp_path.glob("killed/*/*.json"))
        result = prove(knowing(), small(), checkpoint=tmp_path / "killed", policy=tuned(), **SMALL)
        assert timeless(result) == timeless(whole)


class TestDraws:
    def draws(self, data=None, **how):
        return few_shot_splits(
            data or signs(), None, **{"shots": (4, 8), "repeats": 3, "test_size": 0.3, "seed": 0, **how}
        )

    def test_smaller_draws_are_part_of_larger_ones_and_never_tested(self):
        draws = self.draws()
        for repeat in range(3):
            small, large = (set(draws.subset(k, repeat).tolist()) for k in (4, 8))
            assert small < large and not large & set(draws.test.tolist())
            assert np.bincount(draws.codes[sorted(small)]).tolist() == [4, 4]
        assert draws.subset(8, 0).tolist() != draws.subset(8, 1).tolist()

    def test_groups_are_on_one_side(self):
        data = signs(groups=[i % 12 for i in range(160)])
        draws = self.draws(data)
        inside, outside = (set(draws.groups[at].tolist()) for at in (draws.test, np.flatnonzero(~draws.tested)))
        assert not inside & outside and draws.test_set.groups is not None
        small = self.draws(signs(groups=[i % 6 for i in range(160)]))
        assert any("intervals speak for" in text for text in small.notes)

    def test_copies_of_test_items_are_no_training_items(self):
        X = np.repeat(np.random.default_rng(0).normal(size=(60, 12)), 2, axis=0).astype(np.float32)
        draws = self.draws(Dataset.from_arrays(X, [f"c{i // 2 % 2}" for i in range(120)]))
        keys = np.array(draws.data.keys())
        assert not set(keys[draws.tested]) & set(keys[~draws.tested])
        assert any("exact copies" in text for text in draws.notes)

    def test_the_parts_that_the_data_came_with(self):
        data = signs()
        parts = ["test" if i < 40 else "train" for i in range(160)]
        draws = self.draws(data._replace(parts=parts))
        assert len(draws.test) == 40
        assert {id(i) for i in draws.data.items} >= {id(i) for i in data.items[:40]}

    def test_small_classes_give_what_they_have(self):
        X = np.random.default_rng(0).normal(size=(120, 12))
        data = Dataset.from_arrays(X, ["rare" if i % 20 == 0 else f"c{i % 2}" for i in range(120)])
        draws = self.draws(data, shots=(2, 16, 500))
        assert draws.shots == (2, 16)
        assert np.bincount(draws.codes[draws.subset(16, 0)]).tolist() == [16, 16, 4]
        assert any("500" in text for text in draws.notes) and any("fewer than 16" in text for text in draws.notes)

    def test_rivals_go_on_to_eight_times_as_many_where_there_are(self):
        assert self.draws(signs(1000), shots=(4, 10)).extra_shots == (20, 40, 80)
        small = self.draws(signs(160), shots=(4, 16))
        largest = np.bincount(small.codes[~small.tested]).max()
        assert small.extra_shots == (32, largest)
        assert self.draws(signs(160), shots=(50,)).extra_shots == ()

    def test_unlabelled_items_are_left_out(self):
        data = signs()
        draws = self.draws(data.with_targets([None if i < 20 else y for i, y in enumerate(data.targets)]))
        assert None not in draws.data.targets


EVERYONE = ("raw", "random", "scratch", "frozen", "fine-tuned")


class TestPlan:
    sizes = {4: 24, 16: 96, 64: 384, 128: 768}

    def work(self, speeds=None):
        batch = {k: min(32, n // 4) for k, n in self.sizes.items()}
        return TrainingCost(self.sizes, 180, speeds or Speeds(0.02, 0.05, 0.02, 1.0), batch)

    def plan(self, shots=(4, 16), extra_shots=(64,), repeats=5, methods=EVERYONE):
        long = (*shots, *extra_shots)
        return ProofPlan(shots, extra_shots, long, repeats, allowance=None, epochs={}, seconds=0.0, methods=methods)

    def test_what_is_planned_fits(self):
        for budget in (20, 40, 60, 100, 200, 400, 600, 1000, 3000):
            result = _plan.plan_by_budget(self.plan(), self.work(), budget)
            assert result.seconds <= budget or "too little" in result.notes[-1]
            assert all(
                result.epochs[k] * self.work().epoch(k) <= max(result.allowance, self.work().epoch(k))
                for k in result.scratch_shots
            )

    def test_what_is_given_up_first(self):
        rich, poor, poorer = (_plan.plan_by_budget(self.plan(), self.work(), budget) for budget in (5000, 600, 250))
        assert rich.scratch_shots == (4, 16, 64) and rich.repeats == 5 and not rich.notes
        assert poor.scratch_shots == (4, 16) and poor.repeats == 5 and "does not fit" in poor.notes[0]
        assert poorer.repeats < 5 and any(f"Only {poorer.repeats} of 5 repeats" in note for note in poorer.notes)
        assert len([note for note in poorer.notes if note.startswith("Only")]) == 1
        assert all(item.methods == EVERYONE and not item.given_up for item in (rich, poor, poorer))

    def test_the_order_in_which_the_rest_goes(self):
        """As the machine gets slower: fine-tuning, rivals' further labels, scratch from above, at last labels."""
        order = []
        for slower in np.geomspace(1, 400, 300):
            speeds = Speeds(0.02 * slower, 0.05 * slower, 0.02 * slower, 1.0)
            result = _plan.plan_by_budget(self.plan((4, 16, 64), (128,)), self.work(speeds), 700)
            scratch = tuple(k for k in result.scratch_shots if k in result.shots)
            order.append((result.given_up, bool(result.extra_shots), scratch, result.shots))
        everyone, tuned, neither = (), ("fine-tuned",), ("fine-tuned", "scratch")
        all_of_them, expected = (4, 16, 64), []
        expected += [(everyone, True, all_of_them, all_of_them), (tuned, True, all_of_them, all_of_them)]
        expected += [(tuned, False, (4, 16, 64)[:n_items], all_of_them) for n_items in (3, 2, 1)]
        expected += [(neither, False, (), shots) for shots in (all_of_them, (4, 64), (4,))]
        seen = list(dict.fromkeys(order))
        assert [item for item in expected if item in seen] == seen, "nothing else, and in this order"
        assert {expected[i] for i in (0, 1, 3, 5, -1)} <= set(seen)

    def test_sixteen_labels_stay_on_a_slow_machine(self):
        """A busy machine gave them up before: heads on features cost little, and tell most."""
        slow = self.work(Speeds(0.1, 0.5, 0.1, 4.0))
        result = _plan.plan_by_budget(self.plan((4, 16), (64,), repeats=3), slow, 500)
        assert result.shots == (4, 16) and result.repeats == 3 and result.seconds <= 500
        assert "fine-tuned" in result.given_up and any(note.startswith("Fine-tuning") for note in result.notes)

    def test_repeats_come_back_when_training_goes(self):
        speeds = Speeds(0.005, 5.0, 0.005, 0.5)
        result = _plan.plan_by_budget(self.plan(), self.work(speeds), 120)
        assert result.given_up == ("fine-tuned", "scratch") and result.repeats == 5 and result.scratch_shots == ()

    def test_too_little_is_said(self):
        hopeless = _plan.plan_by_budget(self.plan((64,), ()), self.work(), 3)
        assert "too little" in hopeless.notes[-1] and hopeless.methods == ("raw", "random", "frozen")
        assert hopeless.repeats == 3 and hopeless.seconds > 3

    def test_who_is_asked_for_fewer_repeats_gets_no_more(self):
        assert {
            _plan.plan_by_budget(self.plan(repeats=2), self.work(), budget).repeats for budget in (1, 100, 9000)
        } == {2}

    def test_steps_without_a_budget(self):
        result = _plan.plan_by_steps(self.plan(), self.work(), 240)
        assert result.allowance is None and result.epochs == {4: 60, 16: 60, 64: 20}
        assert read_as(ProofPlan, json.loads(json.dumps(to_plain(result)))) == result

    def test_both_sides_get_the_same(self, monkeypatch):
        """Fine-tuning is given the seconds from which the epochs from scratch follow."""
        value = []
        real = hs.fit
        monkeypatch.setattr(_plan, "_MOST_STEPS", 10)
        monkeypatch.setattr(
            "headstart.proof.experiment.fit", lambda *a, **k: value.append(k["budget"]) or real(*a, **k)
        )
        proof = prove(knowing(), signs(), shots=(4,), repeats=2, budget=30)
        assert set(value) == {proof.cost["training_seconds_per_run"]}
        assert any(note.startswith("Training from scratch and fine-tuning had") for note in proof.notes)

    def test_time_that_is_over_ends_it_after_a_whole_repeat(self, monkeypatch):
        real = run_cache.RunCache.get_or_run
        monkeypatch.setattr(_plan, "_MOST_STEPS", 10)

        def slow(self, name, kind, work):
            record = real(self, name, kind, work)
            return record if name in ("plan", "frozen-4-0") else dataclasses.replace(record, wall=3.0)

        monkeypatch.setattr(run_cache.RunCache, "get_or_run", slow)
        proof = prove(knowing(), signs(), shots=(4,), repeats=5, budget=60, policy="frozen")
        assert proof.provenance["repeats"] == 3 and any("after 3 of 5 repeats" in note for note in proof.notes)
        assert all(len(row.scores) == 3 for row in proof.rows)

    def test_the_plan_is_said_before_the_runs(self):
        heard = []

        class Listener:
            def note(self, text):
                heard.append(text)

            def start(self, label, total):
                heard.append(label)

            def advance(self, label, steps): ...

            def finish(self, label): ...

        with listening(Listener()):
            prove(knowing(), signs(), **QUICK)
        plan = next(i for i, text in enumerate(heard) if text.startswith("Plan: 3 repeats with 4 labels per class"))
        assert plan < heard.index("proof: runs")


class TestFresh:
    @pytest.mark.parametrize("make", ["fake:image", "cnn:cnn", "lstm:lstm", "module"])
    def test_drawn_anew_by_the_seed_alone(self, make):
        source = image_source(networks.Normed) if make == "module" else load_source(make)
        before = state_bytes(source.module)
        item, same, other = (reinitialize(source, seed) for seed in (1, 1, 2))
        assert item.fingerprint == same.fingerprint != other.fingerprint
        assert len({source.fingerprint, item.fingerprint, other.fingerprint}) == 3
        assert state_bytes(source.module) == before
        assert [layer.name for layer in item.layers] == [layer.name for layer in source.layers]

    def test_nothing_of_the_source_is_left(self):
        source = image_source(networks.Normed)
        begun = reinitialize(source, 0).module.state_dict()
        for name, tensor in source.module.state_dict().items():
            if "running" in name:
                assert torch.equal(begun[name], torch.full_like(tensor, float("var" in name)))
            elif tensor.ndim > 1:
                assert not torch.equal(begun[name], tensor)

    def test_parameters_that_no_module_knows_how_to_begin(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.table, self.scale = nn.Parameter(torch.full((8, 4), 9.0)), nn.Parameter(torch.full((4,), 9.0))

            def forward(self, x):
                return x @ self.table * self.scale

        begun = reinitialize(vector_source(Own), 0).module
        assert begun.table.std() < 0.05 and begun.scale.tolist() == [1.0] * 4

    def test_keras(self, tmp_path):
        pytest.importorskip("keras")
        from tiny_models import keras_file

        source = load_source(f"keras:{keras_file(tmp_path / 'a.keras')}")
        item, same = reinitialize(source, 1), reinitialize(source, 1)
        assert item.fingerprint == same.fingerprint != source.fingerprint

    def test_what_has_learned_nothing(self):
        with pytest.raises(SourceError, match="has no weights"):
            reinitialize(load_source("identity:vector"), 0)


class TestScratch:
    def scratch_task(self, source, data):
        from headstart.extraction import sample_loader
        from headstart.training.batches import Samples

        samples = Samples(sample_loader(source, data), source.input.collate, len(data))
        return scratch.ScratchTask(source, samples, data.columns[0].matrix(), False, "cpu")

    def test_learns(self):
        X, y = separable(120)
        data = Dataset.from_arrays(X, y.tolist(), task="classification")
        task = self.scratch_task(vector_source(networks.Dense), data)
        model = scratch.train_from_scratch(task, np.arange(80), epochs=30, lr=3e-3, seed=0)
        right = model.decisions(task.samples, np.arange(80, 120)).argmax(1) == y[80:]
        assert right.mean() > 0.9

    def test_statistics_are_those_of_the_training_items(self):
        data = picture_data(40, side=16)
        source = image_source(networks.Normed)
        task = self.scratch_task(source, data)
        items = np.arange(32)
        model = scratch.train_from_scratch(task, items, epochs=1, lr=1e-4, seed=0)
        tensors = source.input.tensors(task.samples.batch(items), torch.device("cpu"), torch.float32)
        with torch.no_grad():
            seen = model.network.stem[0](tensors["x"])
        assert model.network.stem[1].running_mean.numpy() == pytest.approx(seen.mean((0, 2, 3)).numpy(), abs=1e-4)

    def test_the_rate_is_chosen_on_training_items(self, monkeypatch):
        X, y = separable(60)
        task = self.scratch_task(
            vector_source(networks.Dense), Dataset.from_arrays(X, y.tolist(), task="classification")
        )
        seen = []
        real = task.samples.batch
        monkeypatch.setattr(task.samples, "batch", lambda at, *rest: seen.extend(at.tolist()) or real(at, *rest))
        lr, losses = scratch.best_learning_rate(task, np.arange(0, 60, 2), epochs=20, seed=0)
        assert set(seen) == set(range(0, 60, 2)), "no other item was looked at"
        assert lr == float(min(losses, key=losses.get)) and lr > 1e-4, "so few steps need a large one"

    def test_one_item_per_class_leaves_no_choice(self):
        X, y = separable(3)
        task = self.scratch_task(
            vector_source(networks.Dense), Dataset.from_arrays(X, y.tolist(), task="classification")
        )
        assert scratch.best_learning_rate(task, np.arange(3), epochs=2, seed=0) == (1e-3, {})


class TestRaw:
    def test_pixels(self):
        train, test = baselines.raw_rows(picture_data(6))(np.arange(4), np.array([4, 5]))
        assert train.shape == (4, 3 * 32 * 32) and test.shape == (2, 3 * 32 * 32)

    def test_words_of_the_training_texts_alone(self):
        data = Dataset.from_arrays(["a good film", "a bad film", "a strange book"], ["x", "y", "x"])
        rows = baselines.raw_rows(data)
        train, test = rows(np.array([0, 1]), np.array([2]))
        assert train.shape == (2, 8) and (test > 0).sum() == 1, "a; not strange, not book"

    def test_sounds_of_any_length(self):
        prepare = baselines.energies
        tone = np.sin(np.arange(16_000) / 5).astype(np.float32)
        rows = [prepare(Clip(tone[:n], 16_000)) for n in (16_000, 3_000, 450, 10)]
        assert {row.shape for row in rows} == {(7 * 64,)} and all(np.isfinite(row).all() for row in rows)
        late = np.concatenate([np.zeros(8_000, np.float32), tone[:8_000]])
        assert prepare(Clip(late, 16_000))[:64].mean() < prepare(Clip(late, 16_000))[5 * 64 : 6 * 64].mean()

    def test_sounds_of_a_dataset(self):
        tones = np.sin(np.outer([1, 2, 3], np.arange(4_000) / 9)).astype(np.float32)
        data = Dataset.from_arrays(tones, ["a", "b", "a"], modality="audio", sample_rate=8_000)
        assert baselines.raw_rows(data)(np.arange(3), np.arange(1))[0].shape == (3, 448)
        assert load_source("identity:audio").input.front_end == baselines._FRONT_END, (
            "clips are read for one, used by the other"
        )

    def test_numbers_are_what_they_are(self):
        data = plain()
        train, _ = baselines.raw_rows(data)(np.arange(5), np.arange(1))
        assert train == pytest.approx(np.stack(data.items[:5]))


class TestForgetting:
    @pytest.fixture(scope="class")
    def source(self):
        return pretrain("cnn", picture_data(24, side=12, channels=1), epochs=12, image_size=12, batch_size=8, lr=3e-3)

    def test_the_sources_own_classifier(self, source):
        data = picture_data(24, side=12, channels=1)
        right = SourceTask(source, data, device="cpu", seed=0).right(source)
        assert right.mean() == 1.0, "it has learned them by heart"
        turned = data.with_targets(["class 1" if y == "class 0" else "class 0" for y in data.targets])
        assert SourceTask(source, turned, device="cpu", seed=0).right(source).mean() == 0.0

    def test_unlabelled_items_are_left_out(self, source):
        data = picture_data(24, side=12, channels=1)
        subset = data.with_targets([None if i % 3 == 0 else y for i, y in enumerate(data.targets)])
        assert SourceTask(source, subset, device="cpu", seed=0).right(source).tolist() == [1.0] * 16
        with pytest.raises(DataError, match="no label in any"):
            SourceTask(source, data.with_targets([None] * 24, task="classification"), device="cpu", seed=0)

    @pytest.mark.parametrize("strange", [-1, 7])
    def test_places_that_the_output_does_not_have(self, source, strange):
        unnamed = dataclasses.replace(source, meta={**source.meta, "classes": 2})
        data = picture_data(24, side=12, channels=1).with_targets([strange, 0, 1] * 8, task="classification")
        with pytest.raises(DataError, match="knows 2 classes"):
            SourceTask(unnamed, data, device="cpu", seed=0).right(unnamed)

    def test_is_reported(self, source):
        data = picture_data(60, classes=3, side=12, channels=1, seed=1)
        messages = picture_data(24, side=12, channels=1)
        options = {"shots": (8,), "repeats": 2, "steps": 4, "source_data": messages}
        proof = prove(source, data, policy=hs.policy("full", lr=0.05, epochs=3), **options)
        assert proof.forgetting.before == 1.0 and proof.forgetting.items == 24
        assert proof.forgetting.after == pytest.approx(1.0 + proof.forgetting.change)

    def test_change_with_its_interval(self):
        after = [[1.0] * remaining + [0.0] * (50 - remaining) for remaining in (25, 20, 22, 24, 23)]
        result = measure_forgetting([1.0] * 50, after, n_kept=5)
        assert result.change == pytest.approx(-0.544) and result.low < -0.544 < result.high < 0
        assert measure_forgetting(None, [], 0) is None
        untouched = measure_forgetting([1.0, 0.0], [[1.0, 0.0]], n_kept=0)
        assert (untouched.change, untouched.low, untouched.high) == (0.0, 0.0, 0.0)

    def test_classes_that_the_source_does_not_know(self, source):
        with pytest.raises(DataError, match="does not know the classes"):
            SourceTask(source, picture_data(6, classes=3, side=12), device="cpu", seed=0)
        with pytest.raises(DataError, match="own classifier"):
            SourceTask(knowing(), signs(), device="cpu", seed=0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("how", "kind", "said"),
        [
            ({"repeats": 1}, OptionError, "repeats must be at least 2"),
            ({"shots": (0,)}, OptionError, "shots must be whole numbers"),
            ({"shots": ()}, OptionError, "shots must be"),
            ({"budget": -1}, OptionError, "budget must be"),
            ({"steps": 0}, OptionError, "steps must be"),
            ({"shots": (900,)}, DataError, "fewer than the 900 labels per class"),
            ({"target": "colour"}, OptionError, "target= must be one of 'target'"),
            ({"policy": "frosen"}, HeadstartError, "frozen"),
        ],
    )
    def test_options(self, how, kind, said):
        with pytest.raises(kind, match=said):
            prove(knowing(), signs(), **{**QUICK, **how})

    def test_data_without_classes(self):
        X = np.random.default_rng(0).normal(size=(60, 12))
        with pytest.raises(DataError, match="needs targets"):
            prove(knowing(), Dataset.from_arrays(X))
        with pytest.raises(OptionError, match="regression target"):
            prove(knowing(), Dataset.from_arrays(X, X[:, 0]))
        with pytest.raises(DataError, match="takes a Dataset"):
            prove(knowing(), X)
        with pytest.raises(DataError, match="one class only"):
            prove(knowing(), Dataset.from_arrays(X, ["a"] * 60))

    def test_a_source_without_weights_is_compared_with_what_there_is(self):
        proof = prove("identity:vector", plain(), **QUICK)
        assert {row.name for row in proof.rows} == {"raw", "frozen"} and proof.helps is None
        assert any("learned nothing" in note for note in proof.notes)

    def test_items_that_cannot_be_read_are_named(self, tmp_path):
        from PIL import Image

        for i, pixels in enumerate(networks.pictures(40)):
            (tmp_path / f"class{i % 2}").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"class{i % 2}" / f"{i}.png")
        (tmp_path / "class0" / "0.png").write_bytes(b"no picture")
        proof = prove("fake:image", Dataset.from_folder(tmp_path), **{**QUICK, "shots": (4,)})
        assert [str(item.item).endswith("0.png") for item in proof.skipped] == [True]

    def test_a_rival_that_fails_is_left_out(self, monkeypatch, tmp_path):
        from headstart.errors import NumericsError

        def diverging(*_args, **_how):
            raise NumericsError("The loss is nan")

        monkeypatch.setattr(scratch, "train_from_scratch", diverging)
        proof = prove(knowing(), signs(), checkpoint=tmp_path, **QUICK)
        assert {row.name for row in proof.rows} == {"raw", "random", "frozen"}
        assert any("scratch: The loss is nan" in note for note in proof.notes)


def test_texts(tmp_path):
    rng = np.random.default_rng(0)
    words = "red green blue bright dark warm cold fast slow large small new old near far".split()  # noqa: SIM905
    texts = [" ".join(rng.permutation(words)[:6]) + (" yes" if i % 2 else " no") for i in range(60)]
    data = Dataset.from_arrays(texts, ["yes" if i % 2 else "no" for i in range(60)])
    source = pretrain("lstm", data, epochs=1)
    proof = prove(source, data, shots=(4,), repeats=2, steps=2, policy=hs.policy("full", epochs=1))
    assert {row.name for row in proof.rows} == {"raw", "random", "scratch", "frozen", "fine-tuned"}
    assert "counted words" in str(proof)


def test_records_say_under_which_seed(helping):
    assert helping.provenance["random_state"] == 0 and helping.provenance["test_items"] == 48
    assert helping.provenance["scratch_lr"].keys() >= {"4", "8"}
    assert dataclasses.replace(helping, notes=()) != helping
