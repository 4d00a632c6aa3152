"""Moments of a source's own training data, beside the source: made, saved, found, refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headstart import source_statistics
from headstart.dataset import Dataset
from headstart.errors import StoreError
from headstart.extraction import extract
from headstart.moments import Moments
from headstart.sources import load_source
from headstart.sources.statistics import Statistics, statistics_of
from networks import picture_data, pictures


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source():
    return load_source("fake:image")


def test_they_are_the_moments_of_the_rows(source):
    data = picture_data(20)
    result = source_statistics(source, data)
    bank = extract(source, data)
    assert result.layers == source.select("auto")
    assert (result.fingerprint, result.data, result.items) == (source.fingerprint, data.fingerprint, 20)
    assert result.classes == ("class 0", "class 1")
    T = data.columns[0].matrix()
    for layer in result.layers:
        expected = Moments.from_rows(bank.rows(layer, data), T)
        np.testing.assert_allclose(result.moments(layer).mean, expected.mean)
        np.testing.assert_allclose(result.moments(layer).cross, expected.cross, atol=1e-6)
        assert result.poolings[layer] == bank.recipe[layer]["pooling"]


def test_data_without_targets_or_with_several(source):
    bare = source_statistics(source, Dataset.from_arrays(pictures(9)), layers="last")
    assert bare.classes is None
    assert len(bare.layers) == 1
    assert bare.moments(bare.layers[0]).targets == 0
    y = np.arange(9) % 3
    large = source_statistics(source, Dataset.from_arrays(pictures(9), {"a": y, "b": y % 2}), layers="last")
    assert large.moments(large.layers[0]).targets == 0


def test_saved_and_loaded(source, tmp_path):
    result = source_statistics(source, picture_data(12))
    root = result.save(tmp_path)
    assert root == tmp_path / "moments"
    again = Statistics.load(tmp_path)
    assert (again.fingerprint, again.data, again.items, again.classes) == (
        result.fingerprint, result.data, result.items, result.classes,
    )  # fmt: skip
    assert dict(again.poolings) == dict(result.poolings)
    for layer in result.layers:
        assert again.moments(layer) == result.moments(layer)
        assert again.moments(layer) is again.moments(layer), "read once"


def test_nothing_is_read_before_it_is_asked_for(source, tmp_path):
    source_statistics(source, picture_data(12)).save(tmp_path)
    again = Statistics.load(tmp_path)
    first, *rest = again.layers
    for path in (tmp_path / "moments").glob("*.safetensors"):
        if path.name != "000.safetensors":
            path.unlink()
    assert again.moments(first).count == 12
    with pytest.raises(StoreError):
        again.moments(rest[0])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9},
        {"layers": None},
        {"items": "many"},
        {"classes": 3},
        {"layers": {"l": {}}},
    ],
)
def test_records_that_are_none_are_refused(source, tmp_path, change):
    root = source_statistics(source, picture_data(12), layers="last").save(tmp_path)
    record = json.loads((root / "statistics.json").read_text())
    (root / "statistics.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(StoreError, match="statistics"):
        Statistics.load(tmp_path)


def test_a_record_cannot_point_outside_its_folder(source, tmp_path):
    root = source_statistics(source, picture_data(12), layers="last").save(tmp_path / "here")
    record = json.loads((root / "statistics.json").read_text())
    (layer,) = record["layers"]
    record["layers"][layer]["file"] = "../../elsewhere.safetensors"
    (root / "statistics.json").write_text(json.dumps(record))
    Moments.from_rows(np.eye(3)).save(tmp_path / "elsewhere.safetensors")
    with pytest.raises(StoreError):
        Statistics.load(tmp_path / "here").moments(layer)


def test_a_source_without_a_folder_has_none(source):
    assert source.statistics is None
    assert statistics_of(source) is None
