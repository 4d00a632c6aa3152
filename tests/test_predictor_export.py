"""Exported predictors: the file's answers against the predictor's own, its metadata, and what cannot be exported."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import networks  # noqa: E402
from headstart.dataset import Dataset  # noqa: E402
from headstart.errors import OptionError, SourceError, StoreError  # noqa: E402
from headstart.extraction import extract  # noqa: E402
from headstart.predictor import load  # noqa: E402
from headstart.sources import load_source  # noqa: E402
from headstart.transfer import fit  # noqa: E402
from networks import image_source, pictures, vectors  # noqa: E402
from predictors import fitted, kinds, two_sources  # noqa: E402
from tiny_models import bert_folder  # noqa: E402


def answers(path, array):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: array})


def metadata(path):
    (entry,) = (item for item in onnx.load(path).metadata_props if item.key == "headstart")
    return json.loads(entry.value)


@pytest.fixture(scope="module")
def photos():
    """A predictor on pictures with uneven classes, two layers and a calibrated temperature; and its file."""
    images = pictures(45, side=20, seed=4) // 4
    images[::3, :, :, 0] += 120
    data = Dataset.from_arrays(images, ["red" if i % 3 == 0 else "dark" for i in range(45)])
    source = image_source(networks.Normed, classifier="classifier", mean=(0.4,) * 3, std=(0.3,) * 3)
    options = {
        "layers": ["blocks.1", "pool"],
        "head": "logistic",
        "balance": "logit",
        "precision": "fp32",
        "store": False,
    }
    return fit(source, data, **options), data


@pytest.fixture(scope="module")
def file(photos, tmp_path_factory):
    return photos[0].export(tmp_path_factory.mktemp("export") / "photos.onnx")


def test_the_file_answers_like_the_predictor_for_any_number_of_items(photos, file):
    predictor, data = photos
    options = predictor.source.input
    samples = [options.prepare(item) for item in data.items]
    expected = predictor.predict_proba(data)
    for n in (1, 7, 45):
        array = options.tensors(options.collate(samples[:n]), "cpu", torch.float32)["x"].numpy()
        (result,) = answers(file, array)
        assert result.shape == (n, 2)
        assert np.abs(result - expected[:n]).max() < 1e-4
    assert expected.std() > 0.05  # not one answer for everything


def test_classes_and_preprocessing_are_in_the_file(photos, file):
    message = metadata(file)
    assert message["targets"] == [
        {"name": "target", "task": "classification", "output": "probabilities", "classes": ["dark", "red"]}
    ]
    assert message["input"]["modality"] == "image"
    assert message["input"]["image"]["mean"] == [0.4, 0.4, 0.4]
    assert onnx.load(file).graph.output[0].name == "probabilities"


def test_the_file_is_a_source_with_the_same_preprocessing(photos, file):
    predictor, data = photos
    source = load_source(f"onnx:{file}")
    assert source.input.describe() == predictor.source.input.describe()
    head = extract(source, data, layers="probabilities", store=False).rows("probabilities", data)
    assert np.abs(head - predictor.predict_proba(data)).max() < 1e-4
    again = fit(source, data, store=False, head="ridge")
    assert float(again.evaluate(data).metrics["accuracy"]) > 0.9
    assert "probabilities" not in source.select("auto")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multilabel", "two outputs", "several columns"])
def test_every_kind_of_target(kind, tmp_path):
    data = kinds()[kind]
    predictor = fitted(data)
    path = predictor.export(tmp_path / "p.onnx")
    result = answers(path, np.stack(data.items).astype(np.float32))
    outputs = [item["output"] for item in metadata(path)["targets"]]
    assert outputs == [item.name for item in onnx.load(path).graph.output]
    expected = predictor.decision_function(data) if kind == "two outputs" else predictor.predict_proba(data)
    if kind == "several columns":
        assert outputs == ["kind.probabilities", "side.probabilities"]
    else:
        assert outputs == ["values" if kind == "two outputs" else "probabilities"]
    for item, values in zip(result, expected.values() if isinstance(expected, dict) else [expected]):
        assert np.abs(item - values).max() < 1e-4


@pytest.mark.slow
def test_texts_take_token_numbers_of_any_length(tmp_path):
    pytest.importorskip("transformers")
    source = load_source(f"hf:{bert_folder(tmp_path / 'bert')}")
    texts = [" ".join(["cat", "a", "dogs", "ran", "sat", "mat"][i % 3 :][: 1 + i % 5]) for i in range(30)]
    data = Dataset.from_items(texts, "text").with_targets(["x" if i % 3 else "y" for i in range(30)])
    predictor = fit(source, data, head="ridge", store=False, precision="fp32")
    path = predictor.export(tmp_path / "p.onnx")
    batch = source.input.collate([source.input.prepare(text) for text in texts])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {item.name: batch.inputs[item.name] for item in session.get_inputs()})
    assert np.abs(result - predictor.predict_proba(data)).max() < 1e-4


def test_packed_sequences_are_refused(tmp_path):
    source = load_source("lstm:small", vocabulary=("a", "cat", "sat", "dogs", "ran"), embedding=6, hidden=5)
    data = Dataset.from_items(["a cat", "dogs ran"] * 10, "text").with_targets(["x", "y"] * 10)
    predictor = fit(source, data, head="ridge", layers="last", store=False, precision="fp32")
    with pytest.raises(SourceError, match="torch cannot export lstm:small"):
        predictor.export(tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_with_every_reason(tmp_path):
    with pytest.raises(OptionError, match=r"'knn' of .* needs its training rows"):
        fitted(head="knn").export(tmp_path / "k.onnx")
    several = fitted(source=two_sources())
    if len({part.source for part in several.targets[0].specs}) > 1:
        with pytest.raises(OptionError, match=r"It reads 2 sources"):
            several.export(tmp_path / "s.onnx")
    with pytest.raises(OptionError, match=re.escape("format must be one of onnx; got 'pickle'.")):
        fitted().export(tmp_path / "p", format="pickle")
    assert not list(tmp_path.iterdir())


def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch):
    predictor = fitted()
    monkeypatch.setattr("headstart.predictor.target_model.probabilities", lambda X, *_: np.full((len(X), 3), 1 / 3))
    with pytest.raises(StoreError, match=r"differ by \d\.\de.* Nothing is written"):
        predictor.export(tmp_path / "p.onnx")
    assert not list(tmp_path.iterdir())


def test_networks_that_leave_torch_are_refused(tmp_path):
    class Leaving(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(8, 6)

        def forward(self, x):
            return torch.from_numpy(np.tanh(self.a(x).detach().numpy()))

    data = Dataset.from_arrays(vectors(24), ["ab"[i % 2] for i in range(24)])
    source = networks.Source.from_module(networks.seeded(Leaving), modality="vector", shape=(8,))
    predictor = fit(source, data, head="ridge", layers="a", store=False, precision="fp32")
    with pytest.raises(SourceError, match="torch cannot export module:Leaving"):
        predictor.export(tmp_path / "d.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pooling", ["max", "avg+std", "gem", "flatten", "cls"])
def test_every_pooling_that_one_graph_can_hold(pooling, tmp_path):
    source = load_source("fake:image", size=12)
    data = Dataset.from_arrays(pictures(30, side=12), ["ab"[i % 2] for i in range(30)])
    predictor = fit(source, data, layers="5", pooling=pooling, head="ridge", store=False, precision="fp32")
    path = predictor.export(tmp_path / "p.onnx")
    options = source.input
    array = options.tensors(options.collate([options.prepare(item) for item in data.items]), "cpu", torch.float32)[
        "x"
    ].numpy()
    assert np.abs(answers(path, array)[0] - predictor.predict_proba(data)).max() < 1e-4


def test_poolings_that_go_item_by_item_are_refused(tmp_path):
    data = Dataset.from_arrays(pictures(20, side=16), ["ab"[i % 2] for i in range(20)])
    predictor = fit("fake:image", data, layers="5", pooling="segments2", head="ridge", store=False, precision="fp32")
    with pytest.raises(OptionError, match="pooling='segments2' at 5 goes item by item"):
        predictor.export(tmp_path / "p.onnx")


def test_the_temperature_is_in_the_file(tmp_path):
    predictor = fitted()
    x = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    before = answers(predictor.export(tmp_path / "a.onnx"), x)[0]
    predictor.head.temperature_ *= 3
    after = answers(predictor.export(tmp_path / "a.onnx"), x)[0]  # the file is replaced
    logits = np.log(before)
    expected = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    assert np.allclose(after, expected, atol=1e-4)


def test_a_loaded_predictor_exports_the_same(tmp_path):
    predictor = fitted()
    loaded = load(predictor.save(tmp_path / "p.headstart"))
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    files = [item.export(tmp_path / f"{i}.onnx") for i, item in enumerate((predictor, loaded))]
    assert np.array_equal(*[answers(file, x)[0] for file in files])


def test_what_was_an_onnx_file_stays_one(tmp_path):
    path = fitted().export(tmp_path / "p.onnx")
    X = vectors(24)
    again = fit(f"onnx:{path}", Dataset.from_arrays(X, ["ab"[i % 2] for i in range(24)]), head="ridge", store=False)
    with pytest.raises(OptionError, match="is run by onnxruntime; only torch networks are exported"):
        again.export(tmp_path / "q.onnx")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Cannot write"):
        fitted().export(tmp_path / "file" / "p.onnx")
