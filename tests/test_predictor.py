"""Predicting and evaluating: whatever is asked, rows stay aligned and what was left out is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.engines.torch import TorchEngine
from headstart.errors import DataError, OptionError, UnreadableItem
from headstart.predictor import load
from listeners import Notes
from networks import pictures, separable
from predictors import fitted, kinds, labelled, two_sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten pictures in two class folders: dark and bright."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(10):
        path = root / ("dark", "bright")[i % 2]
        path.mkdir(exist_ok=True)
        pixels = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8) + np.uint8(150 * (i % 2))
        Image.fromarray(pixels).save(path / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def photos(folder):
    return fitted(Dataset.from_folder(folder), "fake:image")


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    return path


class TestForms:
    def test_one_item_gives_one_answer(self, photos, folder):
        path = folder / "dark" / "0.png"
        content, pixels = path.read_bytes(), np.asarray(Image.open(path))
        for item in (path, str(path), content, pixels):
            assert photos.predict(item) == "dark"
            assert photos.predict_proba(item).shape == (2,) == photos.decision_function(item).shape
        assert photos.predict([path]) == ["dark"]

    def test_a_folder_stands_for_its_files(self, photos, folder):
        assert photos.predict(folder / "dark") == ["dark"] * 5
        assert photos.predict(str(folder / "bright")) == ["bright"] * 5

    def test_lists_arrays_and_datasets_agree(self, photos, folder):
        data = Dataset.from_folder(folder)
        paths = [str(item) for item in data.items]
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
        expected = photos.predict_proba(data, store=False)
        for form in (paths, tuple(paths), np.array(paths), np.array(paths, dtype=object), pixels, torch.tensor(pixels)):
            assert np.array_equal(photos.predict_proba(form), expected)
        assert photos.predict(data) == list(data.targets)

    def test_vectors(self):
        predictor = fitted()
        X, _ = separable(5)
        assert isinstance(predictor.predict(X[0]), str) and len(predictor.predict(X)) == 5
        assert predictor.predict_proba(torch.tensor(X[0])).shape == (3,)
        assert np.allclose(predictor.predict_proba(X[2]), predictor.predict_proba(X)[2])

    def test_a_grey_picture_is_one(self, photos):
        assert isinstance(photos.predict(pictures(1)[0, :, :, 0]), str)
        assert len(photos.predict(pictures(3)[..., 0])) == 3

    @pytest.mark.parametrize("nothing", [[], np.empty((0, 8), np.float32)])
    def test_nothing(self, nothing):
        with pytest.raises(DataError):
            fitted().predict(nothing)

    @pytest.mark.parametrize("wrong", ["text", [1.0, 2.0], np.zeros(7), np.full(8, np.nan), [None], 3, {"a": 1}])
    def test_what_the_source_does_not_take(self, wrong):
        with pytest.raises((DataError, TypeError)):
            fitted().predict(wrong)

    def test_every_kind_of_target(self):
        X, _ = separable(36)
        for name, data in kinds().items():
            predictor = fitted(data)
            result = predictor.predict(X)
            if name == "several columns":
                assert set(result) == {"kind", "side"} == set(predictor.predict(X[0])) == set(predictor.classes)
                assert {type(value) for value in result["side"]} == {bool}
            elif name == "multilabel":
                assert all(isinstance(row, tuple) and set(row) <= set("xyz") for row in result)
            elif name == "two outputs":
                assert np.corrcoef(np.array(result)[:, 1], X[:, 1])[0, 1] > 0.7 and len(predictor.predict(X[0])) == 2
            assert np.isfinite(predictor.decision_function(X)["kind" if name == "several columns" else 0]).all()

    def test_probabilities_follow_the_classes(self):
        predictor = fitted()
        X, _ = separable(36)
        proba = predictor.predict_proba(X)
        assert np.allclose(proba.sum(1), 1) and proba.dtype == np.float64
        assert [predictor.classes[i] for i in proba.argmax(1)] == predictor.predict(X)

    def test_regression_has_no_probabilities(self):
        data = kinds()["regression"]
        with pytest.raises(OptionError, match="no probabilities"):
            fitted(data).predict_proba(data)

    def test_lists_leave_nothing_on_the_disk(self, tmp_path, monkeypatch):
        predictor = fitted()
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
        predictor.predict(separable(5)[0])
        assert not (tmp_path / "bank").exists()
        predictor.predict(labelled(["b", "a", "c"]))
        assert (tmp_path / "bank").exists()

    def test_repr_names_sources_heads_and_layers(self):
        assert repr(fitted()) == "Predictor(fake:vector; target: Ridge on 3)"


class TestBroken:
    def test_raises_unless_told_to_skip(self, photos, folder, broken):
        items = [folder / "dark" / "0.png", broken, folder / "bright" / "1.png"]
        with pytest.raises(UnreadableItem, match=r"broken\.png"):
            photos.predict(items)
        assert photos.predict(items, on_error="skip") == ["dark", None, "bright"]
        proba = photos.predict_proba(items, on_error="skip")
        assert np.isnan(proba[1]).all() and np.isfinite(proba[[0, 2]]).all()
        assert np.isnan(photos.decision_function(items, on_error="skip")[1]).all()

    def test_nothing_readable_is_nothing_predicted(self, photos, broken, tmp_path):
        for items in ([broken, tmp_path / "missing.png"], [broken]):
            assert photos.predict(items, on_error="skip") == [None] * len(items)
            assert np.isnan(photos.predict_proba(items, on_error="skip")).all()
        assert photos.predict(broken, on_error="skip") is None
        assert photos.predict_proba(broken, on_error="skip").shape == (2,)

    def test_another_modality_is_an_error_all_the_same(self, photos):
        with pytest.raises(DataError, match="takes image data"):
            photos.predict(Dataset.from_arrays(np.zeros((3, 8), np.float32)), on_error="skip")

    def test_evaluation_names_them_and_keeps_labels_aligned(self, photos, folder, broken):
        full = Dataset.from_folder(folder)
        items = (broken, *full.items[:4], broken.with_name("missing.png"), *full.items[4:])
        labels = ["dark", *full.targets[:4], "bright", *full.targets[4:]]
        data = Dataset.from_items([str(item) for item in items], "image").with_targets(labels)
        result = photos.evaluate(data)
        assert [Path(entry.item).name for entry in result.skipped] == ["broken.png", "missing.png"]
        assert all(entry.reason for entry in result.skipped)
        assert result.metrics["accuracy"] == 1.0 and result.cost["items"] == 10
        with pytest.raises(UnreadableItem):
            photos.evaluate(data, on_error="raise")

    def test_evaluating_only_broken_items(self, photos, broken):
        with pytest.raises(DataError, match=r"broken\.png"):
            photos.evaluate(Dataset.from_items([str(broken)], "image").with_targets(["dark"]))


class TestEvaluate:
    def test_metrics_are_of_the_rows(self):
        data = labelled(["b", "a", "c"])
        predictor = fitted(data)
        right = np.array(predictor.predict(data)) == np.array(data.targets)
        result = predictor.evaluate(data)
        assert float(result.metrics["accuracy"]) == right.mean() and result.metrics["accuracy"].low < right.mean()
        assert [row.label for row in result.per_class] == ["a", "b", "c"]
        assert [row.n_train for row in result.per_class] == [12, 12, 12]

    @pytest.mark.parametrize("kind", list(kinds()))
    def test_every_kind(self, kind):
        data = kinds()[kind]
        result = fitted(data).evaluate(data)
        first = next(iter(result.metrics.items()))
        assert ("." in first[0]) == (kind == "several columns")
        assert all(np.isfinite(float(value)) for value in result.metrics.values())
        json.dumps(result.to_dict())

    def test_results_on_the_same_labels_are_paired(self):
        for kind in ("classification", "several columns"):
            train, test = kinds()[kind].split(random_state=0)
            item, other = fitted(train), fitted(train, head="lda")
            rows = item.evaluate(test).compare(other.evaluate(test)).rows
            assert any(row.paired for row in rows)
            turned = test.take(np.arange(len(test))[::-1].copy())
            rows = item.evaluate(test).compare(other.evaluate(turned)).rows
            assert not any(row.paired for row in rows)

    def test_labels_missing_are_left_out_and_counted(self):
        data = labelled(["b", "a", "c"])
        predictor = fitted(data)
        subset = data.with_targets([None if i % 4 == 0 else label for i, label in enumerate(data.targets)])
        result = predictor.evaluate(subset)
        assert any("9 of 36 items have no label" in text for text in result.notes)
        assert sum(row.n for row in result.per_class) == 27

    def test_a_column_without_labels_is_left_out(self):
        data = kinds()["several columns"]
        predictor = fitted(data)
        values = {"kind": data.targets["kind"], "side": [None] * 36}
        result = predictor.evaluate(data.with_targets(values, task="classification"))
        assert all(name.startswith("kind.") for name in result.metrics)
        assert any("36 of 36" in text for text in result.notes)

    def test_no_label_at_all(self):
        data = labelled(["b", "a", "c"])
        with pytest.raises(DataError, match="has a label"):
            fitted(data).evaluate(data.with_targets([None] * 36, task="classification"))

    def test_a_class_that_training_never_saw_is_an_error_that_counts(self):
        data = labelled(["b", "a", "c"])
        predictor = fitted(data)
        labels = ["new" if i < 9 else label for i, label in enumerate(data.targets)]
        result = predictor.evaluate(data.with_targets(labels))
        assert float(result.metrics["accuracy"]) <= 27 / 36
        assert {row.label: row.n_train for row in result.per_class}["new"] == 0
        assert any("'new'" in text and "never predicted" in text for text in result.notes)

    def test_a_label_that_training_never_saw(self):
        data = kinds()["multilabel"]
        predictor = fitted(data)
        before = predictor.evaluate(data)
        result = predictor.evaluate(data.with_targets([(*value, "new") for value in data.targets]))
        assert {row.label for row in result.per_class} == {"new", "x", "y", "z"}
        assert float(result.metrics["macro_f1"]) < float(before.metrics["macro_f1"])

    def test_labels_of_which_none_is_known_are_refused(self):
        data = labelled([1, 2, 3])
        with pytest.raises(DataError, match=r"knows 1, 2, 3; the data has '"):
            fitted(data).evaluate(data.with_targets([str(label) for label in data.targets], task="classification"))

    def test_labels_of_another_task_are_refused(self):
        kinds_ = kinds()
        for train, test in [("classification", "multilabel"), ("regression", "classification")]:
            with pytest.raises(DataError, match="does"):
                fitted(kinds_[train]).evaluate(kinds_[test])

    def test_whole_numbers_that_were_taken_for_values_are_classes_here(self):
        data = labelled([1, 2, 3])
        as_values = data.with_targets([float(label) for label in data.targets], task="regression")
        predictor = fitted(data)
        assert predictor.evaluate(as_values).metrics == predictor.evaluate(data).metrics

    def test_targets_are_found_by_name_or_stand_alone(self):
        data = kinds()["several columns"]
        predictor = fitted(data)
        with pytest.raises(DataError, match="no target 'side'; it has"):
            predictor.evaluate(data.with_targets({"kind": data.targets["kind"]}))
        renamed = labelled(["b", "a", "c"]).with_targets({"other": list(labelled(["b", "a", "c"]).targets)})
        assert fitted().evaluate(renamed).metrics["accuracy"] > 0.8

    def test_without_targets(self):
        with pytest.raises(DataError, match="Use predict"):
            fitted().evaluate(labelled(["b", "a", "c"]).without_targets())
        with pytest.raises(DataError, match="takes a Dataset"):
            fitted().evaluate(separable(4)[0])


class TestHonesty:
    def test_reads_of_a_test_part_are_counted_and_said(self):
        train, test = labelled(["b", "a", "c"]).split(random_state=0)
        predictor = fitted(train)
        first, second = predictor.evaluate(test), predictor.evaluate(test)
        assert (first.provenance["test_reads"], second.provenance["test_reads"]) == (1, 2)
        assert not any("evaluated" in text for text in first.notes)
        assert any("evaluated 2 times" in text for text in second.notes)

    def test_an_evaluation_that_fails_reads_nothing(self):
        train, test = labelled(["b", "a", "c"]).split(random_state=0)
        with pytest.raises(DataError):
            fitted(train).evaluate(test.with_targets([None] * len(test), task="classification"))
        assert test.reads == 0

    def test_copies_of_training_items_are_said(self, tmp_path):
        data = labelled(["b", "a", "c"])
        predictor = fitted(data.take(range(30)))
        result = predictor.evaluate(data.take(range(24, 36)))
        assert any(text.startswith("6 of 12 items are exact copies") for text in result.notes)
        assert load(predictor.save(tmp_path / "p")).evaluate(data.take(range(24, 36))).notes == result.notes
        assert not predictor.evaluate(data.take(range(30, 36))).notes

    def test_provenance_has_all_sides(self):
        train, test = labelled(["b", "a", "c"]).split(random_state=3)
        result = fitted(train, random_state=5).evaluate(test).provenance
        assert (
            result["random_state"] == 5 and result["train"] == train.fingerprint and result["test"] == test.fingerprint
        )
        assert result["versions"]["numpy"] == np.__version__ and result["sources"][0]["address"] == "fake:vector"


class TestOtherMachines:
    @pytest.fixture
    def with_bf16(self):
        return fitted(precision="bf16")

    def test_a_precision_asked_for_by_name_is_kept(self, with_bf16, monkeypatch):
        monkeypatch.setattr(TorchEngine, "precisions", staticmethod(lambda source, device: ("fp32",)))
        assert with_bf16.running[0].precision == "bf16"

    def test_without_bf16_fp32_is_used_and_said(self, with_bf16, tmp_path, monkeypatch):
        with_bf16.provenance["precision"] = "auto"  # as if it had been chosen by measuring
        monkeypatch.setattr(TorchEngine, "precisions", staticmethod(lambda source, device: ("fp32", "bf16")))
        back = load(with_bf16.save(tmp_path / "p"))
        data = labelled(["b", "a", "c"])
        assert back.running[0].precision == "bf16" and not back.evaluate(data.take([0, 1, 2])).notes[1:]
        monkeypatch.setattr(TorchEngine, "precisions", staticmethod(lambda source, device: ("fp32",)))
        other, notes = load(tmp_path / "p"), Notes()
        with listening(notes):
            proba = other.predict_proba(data)
            other.predict_proba(data)
        assert sum("fp32 is used" in text for text in notes) == 1
        assert other.choices[0].precision == "bf16" and other.running[0].precision == "fp32"
        assert np.allclose(proba, with_bf16.predict_proba(data), atol=0.05)
        assert any("fp32, not torch in bf16" in text for text in other.evaluate(data).notes)

    def test_the_precision_is_recorded(self):
        assert fitted(precision="bf16").choices[0].precision == "bf16"
        assert fitted(precision="bf16").provenance["precision"] == "bf16"


def test_several_sources_read_what_all_of_them_can(tmp_path):
    predictor = fitted(source=two_sources(), layers="auto", head="auto")
    X, _ = separable(6)
    assert len(predictor.predict(X)) == 6 and predictor.predict_proba(X[0]).shape == (3,)
    assert predictor.source is predictor.sources[0]


def test_predictors_are_compared_by_identity():
    item = fitted()
    assert item == item and item != fitted() and len({item, item}) == 1
