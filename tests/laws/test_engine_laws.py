"""What every engine must satisfy, for every precision it offers."""

from __future__ import annotations

import members
import numpy as np
import pytest

import networks
from headstart.engines import ENGINES, RuntimeConfig
from headstart.engines.base import PRECISIONS
from headstart.errors import MissingPackage, OptionError
from headstart.extraction import extract, sample_loader
from headstart.pooling import reducer
from headstart.sources import load_source
from networks import image_source, picture_data, state_bytes
from tiny_models import onnx_file

LEAST = {"fp32": 0.999999, "bf16": 0.995, "fp16": 0.9995}


SLOW = ("openvino",)  # converts the network once per set of layers


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in members.ENGINES])
def name(request):
    try:
        ENGINES[request.param].version()
    except MissingPackage as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(params=["fake:image", "fake:vector", "normed", "recurrent", "onnx"])
def source(request, name, tmp_path_factory):
    built = {
        "onnx": lambda: load_source(f"onnx:{onnx_file(tmp_path_factory.mktemp('onnx') / 'small.onnx')}"),
        "normed": lambda: image_source(networks.Normed, classifier="classifier"),
        "recurrent": lambda: networks.vector_source(networks.Recurrent),
    }
    if (request.param == "onnx") != (name == "onnxruntime"):
        pytest.skip(f"{name} runs other sources")
    if (name, request.param) == ("openvino", "recurrent"):
        pytest.skip("it asks len(x), which conversion fixes: test_engine_openvino.py sees that it is refused")
    result = built[request.param]() if request.param in built else load_source(request.param)
    if name not in result.engines and not getattr(ENGINES[name], "runs", lambda _: False)(result):
        pytest.skip(f"{result.address} is not run by {name}")
    return result


def build_engine(name, source, precision="fp32", layers=None):
    chosen = layers or [layer.name for layer in source.layers]
    reduce = {item: reducer("avg", source.layer(item).axes) for item in chosen}
    return ENGINES[name](source, reduce, RuntimeConfig(name, precision))


def cosine(a, b):
    a, b = a.reshape(len(a), -1).astype(float), b.reshape(len(b), -1).astype(float)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.where(norms > 0, (a * b).sum(1) / np.maximum(norms, 1e-30), 1).min())


def test_every_layer_has_one_row_per_item(name, source):
    rows = build_engine(name, source)(source.input.example(4))
    assert list(rows) == [layer.name for layer in source.layers]
    assert all(len(value) == 4 and value.dtype == np.float32 for value in rows.values())


def test_the_same_batch_gives_the_same_bytes(name, source):
    run_engine, batch = build_engine(name, source), source.input.example(4)
    first, second = run_engine(batch), run_engine(batch)
    assert all(first[layer].tobytes() == second[layer].tobytes() for layer in first)


def test_every_precision_is_close_to_the_plain_one(name, source):
    batch = source.input.example(6)
    plain = build_engine(source.engines[0], source)(batch)
    for precision in ENGINES[name].precisions(source, "cpu"):
        assert precision in PRECISIONS
        rows = build_engine(name, source, precision)(batch)
        for layer, values in rows.items():
            assert cosine(plain[layer], values) > LEAST[precision], (layer, precision)


def test_batch_mates_do_not_matter(name, source):
    run_engine = build_engine(name, source)
    data = picture_data(5) if source.modality == "image" else None
    if data is None:
        samples = list(networks.vectors(5))
    else:
        read = sample_loader(source, data)
        samples = [read(i) for i in range(5)]
    together = run_engine(source.input.collate(samples))
    for i, sample in enumerate(samples):
        alone = run_engine(source.input.collate([sample]))
        for layer, rows in together.items():
            assert np.allclose(rows[i], alone[layer][0], rtol=1e-4, atol=1e-5 * (1 + np.abs(rows).max()))


def test_fewer_layers_give_the_same_rows(name, source):
    batch = source.input.example(3)
    everything = build_engine(name, source)(batch)
    for layer in source.layers:
        alone, beside = build_engine(name, source, layers=[layer.name])(batch)[layer.name], everything[layer.name]
        assert np.allclose(alone, beside, rtol=1e-5, atol=1e-6)
        if name == "torch" or (name == "onnxruntime" and layer.candidate):  # others fuse what nobody looks at
            assert alone.tobytes() == beside.tobytes()


def test_the_source_is_left_alone(name, source):
    if "torch" not in source.engines:
        pytest.skip("no torch module: it has no hooks, and test_source_onnx.py sees to its weights")
    before, hooks = state_bytes(source.module), networks.hooks_of(source.module)
    for precision in ENGINES[name].precisions(source, "cpu"):
        build_engine(name, source, precision)(source.input.example(2))
    assert state_bytes(source.module) == before
    assert networks.hooks_of(source.module) == hooks


def test_unknown_precisions_are_refused(name, source):
    with pytest.raises(OptionError, match="precision"):
        build_engine(name, source, "fp4")


def test_versions_are_plain(name):
    result = ENGINES[name].version()
    assert result
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in result.items())


def test_extraction_takes_it_by_name(name, source, tmp_path):
    if source.modality != "image":
        pytest.skip("pictures suffice")
    data = picture_data(4)
    bank = extract(source, data, layers="last", store=tmp_path, engine=name, precision="fp32", batch_size=2)
    assert bank.recipe[bank.layers[0]]["engine"] == name
    assert bank.computed == 4
