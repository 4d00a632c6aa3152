"""Predictor.infer: one pass whose labels, probabilities and decisions are those of the three separate calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from headstart.dataset import Dataset
from headstart.engines.torch import TorchEngine
from headstart.errors import OptionError, UnreadableItem
from headstart.predictor import Predictions
from headstart.readers.image import ImageReader
from networks import pictures
from predictors import fitted, kinds


def equal(a: Any, b: Any) -> bool:
    """The same bits in the same shape."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def photos():
    return fitted(Dataset.from_arrays(pictures(8), ["a", "b"] * 4), "fake:image")


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Four images of which the second and the last cannot be read."""
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, pixels in zip(paths, pictures(4)):
        Image.fromarray(pixels).save(path)
    for path in (paths[1], paths[3]):
        path.write_bytes(f"no image, {path.name}".encode())
    return paths


@pytest.fixture
def reads(monkeypatch) -> list[Any]:
    """The content of every item that the image reader is asked to read."""
    items: list[Any] = []
    read = ImageReader.read
    monkeypatch.setattr(ImageReader, "read", lambda self, item, *rest: items.append(item) or read(self, item, *rest))
    return items


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("one_item", [False, True])
def test_infer_is_the_three_separate_calls(kind, one_item):
    data = kinds()[kind]
    predictor = fitted(data)
    x = data.items[0] if one_item else data.items[:5]
    predictions = predictor.infer(x)
    assert isinstance(predictions, Predictions) and predictions.skipped == () and predictions.seconds > 0
    assert equal(predictions.labels, predictor.predict(x))
    assert equal(predictions.decisions, predictor.decision_function(x))
    if data.columns[0].task == "regression":
        assert predictions.probabilities is None
        with pytest.raises(OptionError, match="no probabilities"):
            predictor.predict_proba(x)
    else:
        assert equal(predictions.probabilities, predictor.predict_proba(x))


@pytest.mark.parametrize("head", ["ridge", "lda", "logistic", "knn", "nearest_centroid"])
def test_labels_and_probabilities_are_those_of_the_head(head):
    data = kinds()["classification"]
    predictor = fitted(data, head=head)
    model = predictor.targets[0]
    X = np.random.default_rng(0).normal(size=(7, model.head._features)).astype(np.float32)
    predictions = model.infer_rows(X)
    assert equal(predictions.probabilities, model.head.proba(X))
    assert predictions.labels == [model.classes[i] for i in model.head.predict(X)]


def test_a_target_without_numbers_is_left_out_of_the_dicts():
    X, values = pictures(12), np.arange(12.0)
    data = Dataset.from_arrays(
        X, {"kind": ["a", "b"] * 6, "size": values}, task={"kind": "classification", "size": "regression"}
    )
    predictions = fitted(data, "fake:image").infer(X[:3])
    assert set(predictions.labels) == set(predictions.decisions) == {"kind", "size"}
    assert set(predictions.probabilities) == {"kind"} and predictions.probabilities["kind"].shape == (3, 2)


def test_items_that_cannot_be_read_are_skipped_once_named_and_read_once(photos, files, reads):
    predictions = photos.infer(files, on_error="skip")
    assert [item.index for item in predictions.skipped] == [1, 3]
    assert all(str(files[item.index]) in str(item.item) and item.reason for item in predictions.skipped)
    assert [label is None for label in predictions.labels] == [False, True, False, True]
    assert np.isnan(predictions.probabilities[[1, 3]]).all() and np.isfinite(predictions.decisions[[0, 2]]).all()
    assert sorted(reads) == sorted(path.read_bytes() for path in files)


def test_items_of_which_none_can_be_read_are_read_once_as_well(photos, files, reads):
    predictions = photos.infer([files[1], files[3]], on_error="skip")
    assert predictions.labels == [None, None] and [item.index for item in predictions.skipped] == [0, 1]
    assert sorted(reads) == sorted(files[i].read_bytes() for i in (1, 3))


def test_infer_raises_where_it_is_not_told_to_skip(photos, files):
    with pytest.raises(UnreadableItem):
        photos.infer(files)


def test_a_second_prediction_builds_no_engine(photos, monkeypatch):
    image = pictures(1)[0]
    first = photos.infer(image)
    monkeypatch.setattr(TorchEngine, "__init__", lambda self, *rest, **options: pytest.fail("an engine was built"))
    second = photos.infer(image)
    assert second.labels == first.labels and equal(second.decisions, first.decisions)


def test_the_door_has_it():
    assert headstart.Predictions is Predictions
