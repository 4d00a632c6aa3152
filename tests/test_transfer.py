"""fit(): what it chooses, what it refuses, what it records; and fine-tuning that does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart import extraction
from headstart._base.files import read_json
from headstart.bank import Table
from headstart.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError, HeadstartError, OptionError, UnknownName, UnreadableItem
from headstart.extraction import autotune
from headstart.heads.base import head
from headstart.policies.base import policy
from headstart.predictor import load
from headstart.pretraining import pretrain
from headstart.sources.base import load_source
from headstart.transfer import finetune_search, fit
from networks import pictures, separable, state_bytes
from predictors import fitted, kinds, labelled, two_sources
from summaries import stories

ABC = ["b", "a", "c"]


def bright(n: int = 24, classes: int = 2) -> Dataset:
    """Pictures told apart by brightness."""
    X = pictures(n) // 4
    y = np.arange(n) % classes
    return Dataset.from_arrays(
        X + (y * (190 // max(classes - 1, 1))).astype(np.uint8)[:, None, None, None], [f"c{i}" for i in y]
    )


def tuned(data: Dataset | None = None, source="fake:image", **how):
    options = {"policy": policy("full", epochs=2), "head": "ridge", "layers": "last", "precision": "fp32"}
    return fit(source, data or bright(), store=False, **{**options, **how})


class TestLayers:
    @pytest.mark.parametrize(
        ("asked", "given"),
        [("last", ("3",)), (["1", "3"], None), ("1", ("1",)), (["[0-1]"], None), (iter("1"), ("1",))],
    )
    def test_names_and_patterns(self, asked, given):
        predictor = fitted(layers=asked)
        assert predictor.layers == given if given else set(predictor.layers) <= {"0", "1", "3"}
        assert len(predictor.layers) == 1

    def test_auto_tells_what_it_compared(self):
        predictor = fitted(layers="auto", head="auto")
        selection = predictor.chosen["selection"]["target"]
        assert selection["layers"] == " + ".join(predictor.layers)
        assert {row["layers"] for row in selection["table"]} >= {"1", "3"}
        assert selection["head"] == predictor.head.name
        assert selection["low"] <= selection["score"] <= selection["high"]

    def test_a_head_that_selects_tells_what_it_keeps_of_every_layer(self):
        predictor = fitted(labelled(ABC, n=60), layers="auto", head="group_lasso")
        head_ = predictor.targets[0].head
        messages = predictor.chosen["selection"]["target"]["kept"]
        assert [item["layer"] for item in messages] == list(predictor.layers)
        assert sum(item["features"] for item in messages) == len(head_.coef_)
        assert sum(item["kept"] for item in messages) == len(head_.selected_features_) > 0
        assert "kept" not in fitted(head="ridge").chosen["selection"]["target"]

    def test_an_unknown_layer_names_the_nearest(self):
        with pytest.raises(UnknownName, match="fake:vector"):
            fitted(layers="block")

    def test_namesakes_are_kept_apart(self):
        predictor = fitted(source=two_sources(), layers=["1", "3"], head="ridge")
        table = predictor.chosen["selection"]["target"]["table"]
        names = {name for row in table for name in row["layers"].split(" + ")}
        assert names == {"vector#1/1", "vector#1/3", "vector#2/1", "vector#2/3"}

    def test_the_same_source_twice(self):
        source = load_source("fake:vector")
        assert fitted(source=[source, source]).predict(separable(4)[0])

    def test_dead_layers_are_left_out_and_only_dead_ones_are_refused(self):
        source = load_source("fake:vector")
        with torch.no_grad():
            source.module[2].weight.zero_()
        assert fitted(source=source, layers=["1", "3"]).layers == ("1",)
        with pytest.raises(DataError, match="same features at 3"):
            fitted(source=source, layers="3")

    def test_a_source_that_knows_wins(self):
        """Of two sources the one whose features separate the classes is chosen, whatever the order."""
        X, _ = separable(60)
        data = Dataset.from_arrays(X, (X[:, 0] > 0).tolist())
        good, bad = load_source("identity:vector"), load_source("fake:vector")
        with torch.no_grad():
            bad.module[0].weight.zero_()
        for sources in ([good, bad], [bad, good]):
            parts = fitted(data, sources, head="ridge").targets[0].specs
            assert {sources[part.source].address for part in parts} == {"identity:vector"}


class TestHeads:
    def test_by_name_and_by_object(self):
        assert fitted(head="lda").head.name == "lda"
        value = head("ridge", alpha=3.0)
        predictor = fitted(head=value)
        assert predictor.head.config()["alpha"] == 3.0 and predictor.head is not value
        assert not hasattr(value, "coef_")

    def test_an_unknown_head_is_refused_before_any_work(self, monkeypatch):
        monkeypatch.setattr(extraction, "extract", None)
        with pytest.raises(UnknownName, match="ridge"):
            fitted(head="rigde")

    def test_a_head_that_cannot_do_the_task(self):
        with pytest.raises(OptionError, match="lda"):
            fitted(kinds()["regression"], head="lda")

    def test_every_kind_of_target(self):
        for name, data in kinds().items():
            predictor = fitted(data, head="auto", layers="auto")
            assert [a.target for a in predictor.targets] == list(data.target_names), name
            json.dumps(predictor.chosen)


class TestBalance:
    def uneven(self):
        X, y = separable(60)
        keep = np.flatnonzero((y == 0) | (np.arange(60) % 6 == 1) | (np.arange(60) % 15 == 2))
        return Dataset.from_arrays(X[keep], [ABC[i] for i in y[keep]])

    def test_one_switch(self):
        data = self.uneven()
        chosen = {kind: fitted(data, balance=kind) for kind in ("none", "logit", "weights", "auto")}
        kinds_ = {name: p.chosen["selection"]["target"]["balance"]["kind"] for name, p in chosen.items()}
        assert kinds_ == {"none": "none", "logit": "logit", "weights": "weights", "auto": "logit"}
        assert chosen["none"].targets[0].log_ratio is None and chosen["logit"].targets[0].log_ratio is not None
        rare = [p.predict_proba(data)[:, p.classes.index("c")].mean() for p in (chosen["none"], chosen["logit"])]
        assert rare[1] > rare[0]

    def test_a_wrong_word(self):
        with pytest.raises(UnknownName, match="logit"):
            fitted(balance="logits")


class TestLittleData:
    @pytest.mark.parametrize("per_class", [1, 2, 3])
    @pytest.mark.parametrize("how", ["auto", "ridge", "lda", "logistic", "knn", "nearest_centroid", "group_lasso"])
    def test_one_or_two_examples_per_class(self, per_class, how):
        data = labelled(ABC, n=3 * per_class)
        predictor = fitted(data, head=how, layers="auto")
        assert set(predictor.predict(data)) <= set(ABC)
        assert np.isfinite(predictor.predict_proba(data)).all()
        json.dumps([predictor.chosen, predictor.provenance], allow_nan=False)

    def test_one_class_is_refused_by_name(self):
        X, _ = separable(6)
        with pytest.raises(DataError, match="one class, 'only'"):
            fitted(Dataset.from_arrays(X, ["only"] * 6))

    def test_one_class_among_the_readable_and_labelled(self, tmp_path):
        items = [tmp_path / f"{i}.png" for i in range(4)]
        from PIL import Image

        for path in items[:3]:
            Image.fromarray(pictures(1, seed=len(path.name) + int(path.stem))[0]).save(path)
        items[3].write_bytes(b"broken")
        data = Dataset.from_items([str(p) for p in items], "image").with_targets(["a", "a", "a", "b"])
        with pytest.raises(DataError, match="one class, 'a'"):
            fitted(data, "fake:image", on_error="skip")

    def test_one_number(self):
        with pytest.raises(DataError, match="1 sample"):
            fitted(Dataset.from_arrays(separable(1)[0], [2.5]))

    def test_no_label_set_at_all(self):
        X, _ = separable(4)
        with pytest.raises(DataError, match="any label"):
            fitted(Dataset.from_arrays(X, np.zeros((4, 2), int), task="multilabel"))

    def test_a_class_that_no_item_has(self):
        data = labelled([*ABC, "d"], n=40, classes=4)
        subset = data.take([i for i, label in enumerate(data.targets) if label != "d"])
        predictor = fitted(subset)
        assert "d" in predictor.classes and "d" not in predictor.predict(data)
        assert (predictor.predict_proba(data)[:, predictor.classes.index("d")] == 0).all()


class TestData:
    def test_missing_labels_are_left_out(self):
        data = labelled(ABC)
        holes = data.with_targets([None if i % 3 == 0 and i > 9 else v for i, v in enumerate(data.targets)])
        present = np.array([v is not None for v in holes.targets])
        assert np.array_equal(
            fitted(holes).predict_proba(data), fitted(data.take(np.flatnonzero(present))).predict_proba(data)
        )

    def test_each_column_uses_the_labels_it_has(self):
        data = kinds()["several columns"]
        values = {name: list(column) for name, column in data.targets.items()}
        values["side"][:6] = [None] * 6
        predictor = fitted(data.with_targets(values, task="classification"))
        assert sum(predictor.targets[0].counts.values()) == 36 and sum(predictor.targets[1].counts.values()) == 30

    def test_groups_stay_together_and_the_groupless_alone(self):
        X, y = separable(36)
        groups = [None if i % 2 else f"g{i // 6}" for i in range(36)]
        data = Dataset.from_arrays(X, [ABC[i] for i in y], groups=groups)
        assert fitted(data, head="auto").predict(X)
        everyone_alone = Dataset.from_arrays(X, [ABC[i] for i in y], groups=[None] * 36)
        reason = fitted(everyone_alone).chosen["selection"]["target"]["reason"]
        assert "cross-validation" in reason  # None is no group that all share

    def test_broken_items_are_left_out_of_training(self, tmp_path):
        from PIL import Image

        for i in range(8):
            (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
            Image.fromarray(pictures(1, seed=i)[0]).save(tmp_path / "ab"[i % 2] / f"{i}.png")
        full = fitted(Dataset.from_folder(tmp_path), "fake:image")
        (tmp_path / "a" / "0broken.png").write_bytes(b"x")
        data = Dataset.from_folder(tmp_path)
        assert np.array_equal(fitted(data, "fake:image").head.coef_, full.head.coef_)
        assert fitted(data, "fake:image").provenance["items"] == 9
        with pytest.raises(UnreadableItem, match="0broken"):
            fitted(data, "fake:image", on_error="raise")

    @pytest.mark.parametrize("wrong", [None, separable(4)[0], "folder", []])
    def test_what_is_no_dataset(self, wrong):
        with pytest.raises(DataError, match="takes a Dataset"):
            fit("fake:vector", wrong)

    def test_no_targets_no_source_another_modality(self):
        with pytest.raises(DataError, match="needs targets"):
            fitted(labelled(ABC).without_targets())
        with pytest.raises(OptionError, match="at least one source"):
            fitted(source=[])
        with pytest.raises(DataError, match="takes image data"):
            fitted(source="fake:image")

    def test_texts_to_write_are_no_task_for_a_head(self):
        X, _ = separable(4)
        with pytest.raises(HeadstartError):
            fitted(Dataset.from_arrays(X, ["one", "two", "three", "four"], task="summarization"))


class TestRecord:
    @pytest.mark.parametrize("kind", list(kinds()))
    def test_is_plain_data(self, kind):
        predictor = fitted(kinds()[kind], head="auto", layers="auto")
        for record in (predictor.chosen, predictor.provenance, predictor.history):
            assert json.loads(json.dumps(record, allow_nan=False)) == record

    def test_same_seed_same_bits(self):
        data = labelled(ABC)
        item, other = (fitted(data, head="auto", layers="auto", random_state=7) for _ in range(2))
        assert item.predict_proba(data).tobytes() == other.predict_proba(data).tobytes()
        assert item.chosen["selection"] == other.chosen["selection"] and item.provenance == other.provenance

    @pytest.mark.parametrize("state", [np.int64(3), 3])
    def test_the_seed_is_recorded_as_a_number(self, state):
        assert fitted(random_state=state).provenance["random_state"] == 3

    def test_no_seed_is_drawn_and_recorded(self):
        data = labelled(ABC)
        drawn = fitted(data, random_state=None, head="auto")
        again = fitted(data, random_state=drawn.provenance["random_state"], head="auto")
        assert np.array_equal(drawn.predict_proba(data), again.predict_proba(data))

    @pytest.mark.parametrize("state", [-1, 1.5, "0", True])
    def test_a_wrong_seed(self, state):
        with pytest.raises(OptionError, match="random_state"):
            fitted(random_state=state)

    def test_training_items_are_remembered_by_content(self):
        data = labelled(ABC)
        assert fitted(data).trained_on == {key[:8] for key in data.keys()}


class TestTuning:
    @pytest.fixture(scope="class")
    @staticmethod
    def unguarded():
        return tuned(guard=False)

    def test_moves_a_copy_and_never_the_source(self):
        source = load_source("fake:image")
        before, name = state_bytes(source.module), source.fingerprint
        predictor = tuned(source=source, guard=False)
        assert state_bytes(source.module) == before and source.fingerprint == name
        assert predictor.source.fingerprint != name and state_bytes(predictor.source.module) != before

    def test_history_and_record(self, unguarded):
        history = unguarded.history
        assert len(history["loss"]) == len(history["epoch_seconds"]) == 2 and history["kept"] == "tuned"
        assert unguarded.chosen["policy"] == "full" and unguarded.chosen["seconds"]["finetune"] > 0
        described = unguarded.provenance["sources"][0]
        assert described["fingerprint"] == unguarded.source.fingerprint
        assert described["tuned_from"] == load_source("fake:image").fingerprint
        json.dumps([history, unguarded.chosen, unguarded.provenance], allow_nan=False)

    def test_saved_and_loaded_it_predicts_the_same(self, unguarded, tmp_path):
        back = load(unguarded.save(tmp_path / "p"))
        items = bright().items
        assert np.array_equal(unguarded.predict_proba(items), back.predict_proba(items))
        assert state_bytes(back.source.module) == state_bytes(unguarded.source.module)
        assert back.history == unguarded.history

    def test_same_seed_same_bits(self, unguarded):
        again = tuned(guard=False)
        assert state_bytes(again.source.module) == state_bytes(unguarded.source.module)
        assert np.array_equal(again.head.coef_, unguarded.head.coef_)
        assert not np.array_equal(tuned(guard=False, random_state=1).head.coef_, unguarded.head.coef_)

    def test_the_guard_returns_the_best_on_validation(self):
        predictor = tuned()
        scores = predictor.history["scores"]
        assert set(scores) == {"frozen", "start", "average", "tuned"}
        best = max(("start", "average", "tuned"), key=lambda name: scores[name])
        assert predictor.history["kept"] in ("start", best)

    def test_where_tuning_does_not_help_the_frozen_predictor_is_returned(self, monkeypatch):
        data = bright()
        monkeypatch.setattr(finetune_search, "scorer", lambda *_, **__: lambda decision: 0.0)
        harmful = tuned(data, policy=policy("full", epochs=2, lr=10.0))
        frozen = tuned(data, policy="frozen")
        assert harmful.history["kept"] == "start" and harmful.chosen["policy"] == "frozen"
        assert np.array_equal(harmful.predict_proba(data.items), frozen.predict_proba(data.items))

    def test_a_head_that_is_not_linear_is_not_given_up_for_less(self):
        """Rings: neighbours see them, a line does not; what tuning makes of a line must beat the neighbours."""
        rng = np.random.default_rng(0)
        angle, y = rng.uniform(0, 2 * np.pi, 60), np.arange(60) % 2
        X = np.zeros((60, 8), np.float32)
        X[:, :2] = np.c_[np.cos(angle), np.sin(angle)] * (1 + 2 * y)[:, None]
        data = Dataset.from_arrays(X, [ABC[i] for i in y])
        knn = head("knn", n_neighbors=3, metric="euclidean")
        predictor = tuned(data, "fake:vector", head=knn, policy=policy("full", epochs=1, lr=1e-5))
        scores = predictor.history["scores"]
        assert scores["frozen"] > scores["tuned"] and predictor.head.name == "knn"

    @pytest.mark.parametrize("balance", ["none", "logit", "weights"])
    def test_the_start_is_the_solved_head_whatever_the_balance(self, balance):
        """With a learning rate of next to nothing the tuned predictor is the frozen one."""
        X, y = separable(60)
        keep = np.flatnonzero((y == 0) | (np.arange(60) % 6 < 2))
        data = Dataset.from_arrays(X[keep], [ABC[i] for i in y[keep]])
        options = {"source": "fake:vector", "balance": balance, "guard": False}
        still = tuned(data, policy=policy("full", epochs=1, lr=1e-9, label_smoothing=0.0), **options)
        frozen = tuned(data, policy="frozen", **options)
        assert np.allclose(still.predict_proba(data), frozen.predict_proba(data), atol=1e-3)

    @pytest.mark.parametrize("kind", ["classification", "multilabel", "regression", "two outputs"])
    @pytest.mark.parametrize("guard", [True, False])
    def test_every_task(self, kind, guard):
        data = kinds()[kind]
        predictor = tuned(data, "fake:vector", guard=guard)
        assert len(predictor.predict(data)) == 36
        assert all(np.isfinite(value) for value in predictor.history["scores"].values())

    def test_regression_starts_from_the_solved_values_whatever_the_head(self):
        data = kinds()["regression"]
        options = {"policy": policy("full", epochs=1, lr=1e-9), "guard": False, "source": "fake:vector"}
        still = tuned(data, head=head("knn", n_neighbors=3), **options)
        ridge = tuned(data, head=head("ridge", alpha=0.01), **options)
        spread = np.std(data.targets)
        assert np.abs(np.array(still.predict(data)) - ridge.predict(data)).max() < spread

    @pytest.mark.parametrize("per_class", [1, 2])
    @pytest.mark.parametrize("guard", [True, False])
    def test_very_few_items(self, per_class, guard):
        data = bright(2 * per_class)
        predictor = tuned(data, guard=guard)
        assert set(predictor.predict(data.items)) <= {"c0", "c1"}
        assert predictor.history["kept"] == ("start" if guard else "tuned")
        json.dumps(predictor.history)

    def test_frozen_layers_stay_as_they_are(self):
        source = load_source("fake:image")
        predictor = tuned(source=source, policy=policy("last_layers", layers=1, epochs=1), guard=False)
        before, after = state_bytes(source.module), state_bytes(predictor.source.module)
        moved = {name for name in before if before[name] != after[name]}
        assert moved and moved == set(predictor.history["moved"]) and "0.weight" not in moved

    def test_what_cannot_be_tuned_says_why(self):
        with pytest.raises(OptionError, match="one target column"):
            tuned(kinds()["several columns"], "fake:vector")
        with pytest.raises(OptionError, match="trains no parameter"):
            tuned(labelled(ABC), "identity:vector", layers="auto")
        with pytest.raises(UnknownName, match="last_layers"):
            tuned(policy="last_layer")

    def test_auto_is_frozen_without_a_budget(self):
        assert tuned(policy="auto").history == {}

    def test_auto_starts_only_where_there_is_something_to_gain_and_time_for_it(self):
        noise = Dataset.from_arrays(pictures(60), [f"c{i % 2}" for i in range(60)])
        untried = {"kept": "start", "scores": {}}
        assert tuned(noise, policy="auto", budget=20).history["loss"]
        assert tuned(bright(60), policy="auto", budget=20).history == untried  # the frozen one is always right
        assert tuned(noise, policy="auto", budget=1e-6).history == untried

    def test_what_wins_is_trained_again_on_all_items(self, monkeypatch):
        """Scores are scripted so that tuning wins; the last run has every item, as many epochs, nothing held out."""
        seen = []
        real = finetune_search.finetune

        def watched(*args, **how):
            seen.append((len(how["samples"]), how["policy"].training.epochs, how.get("score")))
            return real(*args, **how)

        rising = iter(range(100))
        monkeypatch.setattr(finetune_search, "finetune", watched)
        monkeypatch.setattr(finetune_search, "scorer", lambda *_, **__: lambda decision: float(next(rising)))
        monkeypatch.setattr(finetune_search, "significantly_better", lambda *_, **__: True)
        predictor = tuned(bright(40), policy=policy("full", epochs=3, views=1))
        assert predictor.history["kept"] == "tuned"
        assert [(items, epochs) for items, epochs, _ in seen] == [(32, 3), (40, 3)]
        assert seen[1][2] is None
        tight = tuned(bright(40), policy=policy("full", epochs=3, views=1), budget=1e-9)
        assert tight.history["kept"] == "tuned" and len(seen) == 3  # no time for a second run

    def test_what_the_frozen_part_gives_is_kept_in_the_store(self, tmp_path):
        data = bright(40)
        options = {"policy": policy("last_layers", layers=1, epochs=2, views=2), "head": "ridge", "layers": "last"}
        runs = [fit("fake:image", data, store=tmp_path, **options) for _ in range(2)]
        assert runs[0].history["loss"] == runs[1].history["loss"]
        tables = [Table.open(p.parent, read_json(p)) for p in tmp_path.rglob("recipe.json")]
        unpooled = [t for t in tables if t.recipe["pooling"] == "none"]
        assert len(unpooled) == 1 and unpooled[0].count in (40 + 32, 40 + 40)  # as they are, and one view each


def test_rows_in_the_store_are_used_again(tmp_path):
    data = bright()
    options = {"head": "ridge", "layers": "last"}
    item = fit("fake:image", data, store=tmp_path, **options)
    shards = {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*.safetensors")}
    other = fit("fake:image", data, store=tmp_path, **options)
    assert shards and shards == {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*.safetensors")}
    assert np.array_equal(item.head.coef_, other.head.coef_)


def test_all_tasks_run_a_source_in_the_way_that_the_predictor_records(monkeypatch):
    """Measuring twice may choose twice: features of the second task must not be of another precision than recorded."""
    used: list[RuntimeConfig] = []

    def choose(source, samples, *, engine, precision, device, batch_size=None):
        if precision == "auto":
            precision = "bf16" if used else "fp32"
        used.append(RuntimeConfig("torch", precision, "cpu", batch_size or 16))
        return used[-1]

    monkeypatch.setattr(autotune, "choose_runtime", choose)
    documents, summaries = stories(12)
    columns = {"kind": ["a", "b"] * 6, "summary": summaries}
    data = Dataset.from_arrays(documents, columns, task={"kind": "classification", "summary": "summarization"})
    source = pretrain("lstm", data.without_targets(), objective="random")
    predictor = fit(source, data, layers="last", head="ridge", store=False)
    assert len(used) == 2 and {runtime.precision for runtime in used} == {predictor.choices[0].precision} == {"fp32"}
