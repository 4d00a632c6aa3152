"""ONNX files: every tensor against an independent evaluator, layers against the torch original, and hostile files."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import networks  # noqa: E402
from headstart._base import extras  # noqa: E402
from headstart._base.progress import listening  # noqa: E402
from headstart.dataset import Dataset  # noqa: E402
from headstart.engines import ENGINES, RuntimeConfig  # noqa: E402
from headstart.errors import (  # noqa: E402
    MissingPackage,
    NumericsError,
    OptionError,
    SourceError,
    UnknownName,
    UnsafeFile,
    WeightsError,
)
from headstart.extraction import extract  # noqa: E402
from headstart.pooling import reducer  # noqa: E402
from headstart.predictor import load  # noqa: E402
from headstart.sources import load_source  # noqa: E402
from headstart.transfer import fit  # noqa: E402
from networks import pictures, seeded, vectors  # noqa: E402
from tiny_models import bert_folder, onnx_file  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return onnx_file(tmp_path_factory.mktemp("onnx") / "small.onnx")


@pytest.fixture
def source(file):
    return load_source(f"onnx:{file}")


def tensors_of(source, n=4):
    return source.input.tensors(source.input.example(n), torch.device("cpu"), torch.float32)


def everything(source, n=4, names=None):
    names = names or [layer.name for layer in source.layers]
    features = source.run(tensors_of(source, n), {name: lambda output: output.clone() for name in names})
    return {name: value.numpy() for name, value in features.items()}


def write(path, nodes, inputs, outputs, weights=(), **options):
    """A file of these nodes; inputs and outputs are (name, type, shape)."""
    values = [[helper.make_tensor_value_info(*item) for item in partial] for partial in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made", *values, [numpy_helper.from_array(v, n) for n, v in weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path, **options)
    return path


def dense(path, *, batch="n", width=8, dtype=FLOAT, **options):
    rng = np.random.default_rng(0)
    weights = [("w", rng.normal(size=(width, 6)).astype(np.float32)), ("v", rng.normal(size=(6, 3)).astype(np.float32))]
    nodes = [helper.make_node("Cast", ["x"], ["c"], to=FLOAT)] if dtype != FLOAT else []
    nodes += [
        helper.make_node("MatMul", ["c" if nodes else "x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    return write(path, nodes, [("x", dtype, [batch, width])], [("y", FLOAT, [batch, 3])], weights, **options)


# --- numbers ---


def test_every_tensor_is_what_an_independent_evaluator_computes(source, file):
    model = onnx.load(file)
    names = [name for node in model.graph.node for name in node.output]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in names)
    expected = dict(zip(names, ReferenceEvaluator(model).run(None, {"pixels": tensors_of(source)["x"].numpy()})))
    result = everything(source)
    assert list(result) == names
    for name, value in result.items():
        assert np.allclose(value, expected[name], rtol=1e-5, atol=1e-5), name


def test_the_layer_table(source):
    result = {layer.name: layer for layer in source.layers}
    assert result["block"].shape == (6, 12, 12)
    assert [result[n].axes for n in ("block", "mean", "vector")] == ["chw", "chw", "c"]
    macs = 144 * 9 * np.array([18, 18 + 48, 18 + 96])  # 3→6, 6→8, 8→6 channels, 3 × 3, 12 × 12 pixels
    assert [result[n].macs for n in ("stem", "inner", "branch")] == macs.tolist()
    assert result["logits"].macs == macs[-1] + 24
    assert result["classes"].depth == 1
    assert source.select("auto") == ("stem_act", "block", "half", "vector")  # nothing inside the block, no classifier
    assert source.classifier == "logits"
    assert source.modality == "image"


def test_what_is_not_needed_is_cut_away(source):
    graph = source.backend.graph
    features = graph.cut(["block"])
    assert [node.output[0] for node in features.graph.node][-1] == "block"
    assert {item.name for item in features.graph.initializer} == {"w1", "b1", "w2", "b2", "w3", "b3"}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("n", [1, 3, 4, 7])
def test_fixed_batches_are_filled_up(batch, n, source, tmp_path):
    fixed = load_source(f"onnx:{onnx_file(tmp_path / 'fixed.onnx', batch=batch)}")
    assert [vars(layer) for layer in fixed.layers] == [vars(layer) for layer in source.layers]
    values = tensors_of(source, n)
    for name in ("block", "vector"):
        expected = source.run(values, {name: lambda output: output.clone()})[name]
        result = fixed.run(values, {name: lambda output: output.clone()})[name]
        assert result.shape == expected.shape
        assert torch.allclose(result, expected, atol=1e-6)


def test_a_candidates_rows_do_not_depend_on_what_else_is_asked_for(source):
    alone = everything(source, names=["block"])["block"]
    for others in (["block", "inner"], ["block", "stem", "sum"], ["block", "vector", "classes"]):
        assert everything(source, names=others)["block"].tobytes() == alone.tobytes()


def test_threads(source):
    alone = everything(source, names=["vector"])["vector"]
    result = []
    threads = [
        threading.Thread(target=lambda: result.append(everything(source, names=["vector"])["vector"])) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(result) == 6
    assert all(item.tobytes() == alone.tobytes() for item in result)


def export(network, example, path, names=None, dynamic=None):
    shapes = dynamic or ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(
        network.eval(), example, dynamo=True, dynamic_shapes=shapes, verbose=False, input_names=names
    )
    program.save(path)
    return path


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.SiLU())
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.classifier = torch.nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(self.pool(x + self.inner(x)).flatten(1))


def test_a_network_exported_from_torch_gives_the_same_features(tmp_path):
    network = seeded(Residual)
    path = export(network, (torch.zeros(2, 3, 16, 16),), tmp_path / "net.onnx")
    source = load_source(f"onnx:{path}", mean=[0.5] * 3, std=[0.25] * 3)
    original = networks.Source.from_module(
        network, size=(16, 16), crop_pct=1.0, mean=(0.5,) * 3, std=(0.25,) * 3, classifier="classifier"
    )
    data = Dataset.from_arrays(pictures(7, side=21))
    expected = extract(original, data, layers=["stem", "pool"], store=False, precision="fp32").rows
    stem, *_, last = source.select("auto")
    bank = extract(source, data, layers=[stem, last], pooling="avg", store=False)
    assert np.abs(bank.rows(last, data) - expected("pool", data)).max() < 1e-4
    reduced = extract(original, data, layers="stem", pooling="avg", store=False, precision="fp32").rows("stem", data)
    assert np.abs(bank.rows(stem, data) - reduced).max() < 1e-4
    assert abs(source.layers[-1].macs - original.layers[-1].macs) <= 1


@pytest.mark.slow
def test_a_vision_transformer(tmp_path):
    timm = pytest.importorskip("timm")
    network = seeded(lambda: timm.create_model("test_vit", pretrained=False))
    path = export(network, (torch.zeros(2, 3, 160, 160),), tmp_path / "vit.onnx")
    source = load_source(f"onnx:{path}", mean=0.5, std=0.5)
    options = {"size": (160, 160), "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.5,) * 3, "classifier": "head"}
    original = networks.Source.from_module(network, **options)
    data = Dataset.from_arrays(pictures(3, side=40))
    places = ["blocks.1", "blocks.4", "norm"]
    expected = extract(original, data, layers=places, pooling="avg", store=False, precision="fp32")
    tokens = [layer.name for layer in source.layers if layer.candidate and layer.axes == "tc"]
    result = extract(source, data, layers=tokens, pooling="avg", store=False)
    for location in places:
        rows = expected.rows(location, data)
        assert min(np.abs(result.rows(name, data) - rows).max() for name in tokens) < 1e-5, location
    assert source.layers[-1].macs == original.layers[-1].macs


@pytest.mark.slow
def test_texts_with_their_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    folder = bert_folder(tmp_path / "bert")
    original = load_source(f"hf:{folder}")
    tokens = torch.ones(2, 5, dtype=torch.long)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = original.module

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)[0]

    open_sides = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    names = ["input_ids", "attention_mask"]
    path = export(Plain(), (tokens, tokens.clone()), tmp_path / "bert.onnx", names, (open_sides, open_sides))
    source = load_source(f"onnx:{path}", tokenizer=folder / "tokenizer.json")
    texts = ["a cat sat", "the warm mat while two dogs ran far away", "dogs", "a mat ran on the cat"]
    data = Dataset.from_items(texts, "text")
    expected = extract(original, data, layers="output", store=False, precision="fp32").rows("output", data)
    last = source.select("last")[0]
    assert source.layer(last).shape == (-1, 16)
    assert np.abs(extract(source, data, layers=last, store=False).rows(last, data) - expected).max() < 1e-4
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    with pytest.raises(SourceError, match=r"2 inputs.*tokenizer="):
        load_source(f"onnx:{path}")


def test_functions_inside_a_file_are_written_out(tmp_path):
    text = """
    <ir_version: 9, opset_import: ["" : 18, "my" : 1]>
    made (float[n, 8] x) => (float[n, 8] y) { t = my.twice(x)  y = Relu(t) }
    <domain: "my", opset_import: ["" : 18]>
    twice (a) => (b) { c = Add(a, a)  b = Tanh(c) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "f.onnx")
    source = load_source(f"onnx:{tmp_path / 'f.onnx'}")
    assert [layer.kind for layer in source.layers] == ["add", "tanh", "relu"]
    data = Dataset.from_arrays(vectors(4))
    result = extract(source, data, layers="y", store=False).rows("y", data)
    assert np.allclose(result, np.maximum(np.tanh(2 * vectors(4)), 0), atol=1e-6)


# --- inputs ---


def test_vectors_and_whole_numbers(tmp_path):
    source = load_source(f"onnx:{dense(tmp_path / 'dense.onnx')}")
    assert source.modality == "vector"
    assert source.select("auto") == ("b",)
    assert source.classifier == "y"
    full = load_source(f"onnx:{dense(tmp_path / 'whole.onnx', dtype=INT64)}")
    data = Dataset.from_arrays(np.arange(40).reshape(5, 8) % 7)
    rows = extract(full, data, layers="a", store=False).rows("a", data)
    w = numpy_helper.to_array(onnx.load(tmp_path / "whole.onnx").graph.initializer[0])
    assert np.allclose(rows, (np.arange(40).reshape(5, 8) % 7) @ w, atol=1e-4)


def test_pixels_of_type_uint8_are_given_as_they_are(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=FLOAT),
        helper.make_node("GlobalAveragePool", ["c"], ["m"]),
    ]
    path = write(
        tmp_path / "u.onnx", nodes, [("x", TensorProto.UINT8, ["n", 3, None, None])], [("m", FLOAT, ["n", 3, 1, 1])]
    )
    source = load_source(f"onnx:{path}", size=6)
    images = pictures(4, side=6)
    data = Dataset.from_arrays(images)
    rows = extract(source, data, layers="m", store=False).rows("m", data)
    assert np.allclose(rows.reshape(4, 3), images.mean((1, 2)), atol=1e-3)


def test_channels_last(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0)]
    nodes[0].input.append("axes")
    path = write(
        tmp_path / "l.onnx", nodes, [("x", FLOAT, ["n", 6, 6, 3])], [("m", FLOAT, ["n", 3])],
        [("axes", np.array([1, 2]))],
    )  # fmt: skip
    source = load_source(f"onnx:{path}", mean=0, std=1)
    images = pictures(4, side=6)
    data = Dataset.from_arrays(images)
    rows = extract(source, data, layers="m", store=False).rows("m", data)
    assert np.allclose(rows, images.mean((1, 2)) / 255, atol=1e-6)


def test_what_the_file_does_not_say_is_said(file, tmp_path):
    notes: list[str] = []
    with listening(SimpleNamespace(note=notes.append)):
        source = load_source(f"onnx:{file}")
        assert source.input.mean == pytest.approx((0.485, 0.456, 0.406))
        load_source(f"saved:{source.save(tmp_path / 'kept')}")
        load_source(f"onnx:{file}", mean=0.5, std=0.5)
    assert len(notes) == 1
    assert "ImageNet's mean and std are used" in notes[0]
    grey = write(
        tmp_path / "g.onnx", [helper.make_node("Relu", ["x"], ["y"])], [("x", FLOAT, ["n", 1, 9, 9])],
        [("y", FLOAT, None)],
    )  # fmt: skip
    assert (load_source(f"onnx:{grey}").input.mean, load_source(f"onnx:{grey}").input.std) == ((0.0,), (1.0,))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 20}, r"takes images of \(12, 12\); got size=20"),
        ({"shape": (3, 5, 5)}, "takes inputs of shape"),
        ({"mean": [0.5]}, "mean must be 3 numbers"),
        ({"modality": "sound"}, "modality must be"),
        ({"mena": 1}, "did you mean 'mean'"),
        ({"output": "nothing"}, r"outputs of"),
        ({"classifier": "nothing"}, "tensors of"),
        ({"tokenizer": "/nowhere.json"}, "no tokenizer"),
    ],
)
def test_options_that_cannot_be_used(how, message, file):
    with pytest.raises((OptionError, SourceError), match=message):
        load_source(f"onnx:{file}", **how)


def test_open_vectors_need_a_shape(tmp_path):
    path = write(
        tmp_path / "o.onnx", [helper.make_node("Tanh", ["x"], ["y"])], [("x", FLOAT, ["n", None])], [("y", FLOAT, None)]
    )
    with pytest.raises(OptionError, match=r"Give shape="):
        load_source(f"onnx:{path}")
    assert load_source(f"onnx:{path}", shape=(5,)).layers[0].shape == (5,)


# --- identity, files ---


def test_fingerprints_are_of_numbers_not_of_words(file, tmp_path):
    first = load_source(f"onnx:{file}").fingerprint
    model = onnx.load(file)
    model.producer_name, model.graph.node[0].doc_string = "somebody else", "where it came from"
    onnx.save(model, tmp_path / "said.onnx")
    assert load_source(f"onnx:{tmp_path / 'said.onnx'}").fingerprint == first
    model.graph.node[-2].attribute[0].i ^= 1  # transB of the last layer
    onnx.save(model, tmp_path / "other.onnx")
    assert load_source(f"onnx:{tmp_path / 'other.onnx'}").fingerprint != first


def test_weights_beside_the_file(file, tmp_path):
    model = onnx.load(file)
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "big.onnx", **outside)
    source = load_source(f"onnx:{tmp_path / 'big.onnx'}")
    assert source.fingerprint == load_source(f"onnx:{file}").fingerprint
    features = source.save(tmp_path / "kept")
    (tmp_path / "weights.bin").unlink()
    assert load_source(f"saved:{features}").fingerprint == source.fingerprint
    with pytest.raises(WeightsError, match=r"keeps weights in weights.bin, which is not in"):
        load_source(f"onnx:{tmp_path / 'big.onnx'}")


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/passwd", "", "link.bin"])
def test_weights_outside_the_folder_are_not_read(where, file, tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    model = onnx.load(file)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", where
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFile, match=r"outside its own folder"):
        load_source(f"onnx:{folder / 'm.onnx'}")


@pytest.mark.parametrize(("key", "value"), [("offset", "4000"), ("length", "12"), ("offset", "-1"), ("length", "x")])
def test_weights_that_do_not_fit_their_file(key, value, file, tmp_path):
    model = onnx.load(file)
    outside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "m.onnx", **outside)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"too short|need .* bytes|whole number"):
        load_source(f"onnx:{tmp_path / 'm.onnx'}")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04not a model", b"<html>404</html>", bytes(1000), b"\x80\x04.", b"\x08\x07"]
)
def test_files_of_something_else(content, tmp_path):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"empty|no ONNX"):
        load_source(f"onnx:{tmp_path / 'x.onnx'}")


def test_damaged_and_missing_files(file, tmp_path):
    with pytest.raises(WeightsError, match=r"no ONNX file at"):
        load_source(f"onnx:{tmp_path / 'nothing.onnx'}")
    full = file.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(full[: len(full) // 2])
    with pytest.raises(WeightsError, match=r"damaged, or no ONNX file"):
        load_source(f"onnx:{tmp_path / 'cut.onnx'}")


def test_operators_that_onnxruntime_does_not_know(tmp_path):
    node = helper.make_node("Steal", ["x"], ["y"], domain="my.ops")
    path = write(tmp_path / "c.onnx", [node], [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])])
    with pytest.raises(SourceError, match=r"no custom operators"):
        load_source(f"onnx:{path}").layers


def test_graphs_that_want_too_much_memory_or_contradict_themselves(tmp_path):
    weights = [("s", np.array([1 << 45])), ("w", np.ones((5, 2), np.float32))]
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), helper.make_node("Add", ["x", "z"], ["y"])]
    bomb = write(tmp_path / "b.onnx", nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, None)], weights[:1])
    with pytest.raises(SourceError, match=r"cannot run"):
        load_source(f"onnx:{bomb}").layers
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    wrong = write(tmp_path / "w.onnx", nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, None)], weights[1:])
    with pytest.raises(SourceError, match=r"cannot run"):
        load_source(f"onnx:{wrong}").layers


def test_networks_that_look_at_their_batch_mates_are_refused(tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    axes = [("axes", np.array([0]))]
    path = write(tmp_path / "b.onnx", nodes, [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 8])], axes)
    with pytest.raises(SourceError, match=r"batch-mates"):
        extract(f"onnx:{path}", Dataset.from_arrays(vectors(6)), store=False)


def test_numbers_that_are_not_finite_name_the_layer(tmp_path):
    path = write(
        tmp_path / "n.onnx", [helper.make_node("Log", ["x"], ["y"])], [("x", FLOAT, ["n", 8])], [("y", FLOAT, None)]
    )
    source = load_source(f"onnx:{path}")
    engine = ENGINES["onnxruntime"](source, {"y": reducer("avg", "c")}, RuntimeConfig("onnxruntime", "fp32"))
    with pytest.raises(NumericsError, match=r"at layer y in fp32"):
        engine(source.input.collate(list(vectors(3))))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_say_how_to_get_them(package, file, monkeypatch):
    is_installed = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda name: name != package and is_installed(name))
    with pytest.raises(MissingPackage, match=rf"'{package}'.*headstart\[onnx\]"):
        load_source(f"onnx:{file}")


# --- from end to end ---


def labelled(n=40):
    images = pictures(n, side=12) // 4
    images[::2, :, :, 0] += 120
    return Dataset.from_arrays(images, ["red" if i % 2 == 0 else "dark" for i in range(n)])


def test_fit_predict_save_and_load(file, tmp_path):
    train, test = labelled(40), labelled(12)
    predictor = fit(f"onnx:{file}", train, store=tmp_path / "store")
    assert float(predictor.evaluate(test).metrics["accuracy"]) == 1.0
    assert predictor.choices[0].engine == "onnxruntime"
    expected = predictor.predict_proba(test)
    loaded = load(predictor.save(tmp_path / "p.headstart"))
    assert np.array_equal(loaded.predict_proba(test), expected)
    assert loaded.source.address.startswith("saved:")


def test_it_cannot_be_fine_tuned_and_says_so_before_anything_is_computed(file, tmp_path):
    with pytest.raises(SourceError, match=r"cannot be trained or fine-tuned.*torch original"):
        fit(f"onnx:{file}", labelled(), policy="full", store=tmp_path)
    assert not list(tmp_path.iterdir())
    features = fit(f"onnx:{file}", labelled(), budget=5, store=tmp_path)  # policy="auto" does what can be done
    assert features.chosen["policy"] == "frozen"


def test_other_precisions_and_devices_are_refused(source):
    data = Dataset.from_arrays(pictures(4))
    with pytest.raises(OptionError, match=r"onnxruntime runs a file in the precision"):
        extract(source, data, precision="bf16", store=False)
    with pytest.raises(UnknownName, match=r"engines of"):
        extract(source, data, engine="torch", store=False)
    with pytest.raises(OptionError, match=r"cannot be used"):
        ENGINES["onnxruntime"](source, {"vector": reducer("avg", "c")}, RuntimeConfig("onnxruntime", "fp32", "mps"))


def test_layers_that_are_not_there_are_named(source):
    with pytest.raises(UnknownName, match=r"layers of onnx:.*did you mean 'block'"):
        source.run(tensors_of(source), {"blokc": lambda output: output})
    with pytest.raises(UnknownName, match=r"did you mean 'block'"):
        source.select("blokc")


def test_sessions_are_remembered_but_not_without_end(source):
    names = [layer.name for layer in source.layers]
    for name in names:
        everything(source, names=[name])
    features = list(source.backend._sessions)
    assert len(features) == 8 < len(names)
    before = source.backend._sessions[features[-1]]
    everything(source, names=[names[-1]])
    assert source.backend._sessions[features[-1]] is before


def test_there_is_no_module_to_train(source):
    with pytest.raises(SourceError, match=r"cannot be trained or fine-tuned"):
        source.module
