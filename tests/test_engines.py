"""The torch engine: precisions, memory formats, bad numbers, and errors that say what was run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart.engines import ENGINES, RuntimeConfig
from headstart.engines.base import checked
from headstart.engines.torch import TorchEngine, _full_fp32
from headstart.errors import NumericsError, OptionError, SourceError, UnknownName
from headstart.pooling import reducer
from headstart.sources import Batch, Source, load_source
from networks import image_source, picture_data, state_bytes, vector_source, vectors


def engine(source, layers, choice=None, pooling="avg"):
    reduce = {name: reducer(pooling, source.layer(name).axes) for name in layers}
    return TorchEngine(source, reduce, choice or RuntimeConfig("torch", "fp32"))


def batch_of(source, n=3):
    return source.input.example(n)


@pytest.fixture(scope="module")
def normed():
    return image_source(networks.Normed, classifier="classifier")


def test_rows_are_the_networks(normed):
    rows = engine(normed, ["blocks.1", "pool"])(batch_of(normed))
    with torch.no_grad():
        x = normed.input.tensors(batch_of(normed), torch.device("cpu"), torch.float32)["x"]
        stem = normed.module.stem(x)
        expected = normed.module.blocks[1](normed.module.blocks[0](stem)).mean((2, 3))
    assert np.allclose(rows["blocks.1"], expected.numpy(), atol=1e-5)
    assert rows["pool"].shape == (3, 16)
    assert all(value.dtype == np.float32 for value in rows.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_run_on_a_copy(normed, precision):
    before = state_bytes(normed.module)
    plain = engine(normed, ["pool"])(batch_of(normed))["pool"]
    result = engine(normed, ["pool"], RuntimeConfig("torch", precision))(batch_of(normed))["pool"]
    assert result.dtype == np.float32
    assert not np.array_equal(result, plain)
    assert np.allclose(result, plain, atol=0.05 * np.abs(plain).max())
    assert state_bytes(normed.module) == before
    assert next(normed.module.parameters()).dtype == torch.float32


def test_convolutions_run_channels_last_and_vectors_as_they_are(normed):
    assert engine(normed, ["pool"]).network.module is not normed.module
    dense = vector_source(networks.Dense)
    assert engine(dense, ["a"]).network.module is dense.module


def test_a_network_that_cannot_be_copied_is_run_as_it_is():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = torch.ones(1, requires_grad=True) * 2  # no leaf: torch refuses to copy it

        def forward(self, x):
            return self.conv(x) * self.scale

    source = image_source(Normalised)
    assert engine(source, ["conv"]).network.module is source.module
    with pytest.raises(SourceError, match=r"cannot be copied to cpu in torch\.bfloat16"):
        engine(source, ["conv"], RuntimeConfig("torch", "bf16"))


def test_networks_in_other_precisions_are_converted():
    source = Source.from_module(networks.seeded(networks.Dense).double(), modality="vector", shape=(8,))
    rows = engine(source, ["c"])(batch_of(source))["c"]
    expected = engine(vector_source(networks.Dense), ["c"])(batch_of(source))["c"]
    assert np.allclose(rows, expected, atol=1e-6)
    assert next(source.module.parameters()).dtype == torch.float64


def test_a_network_without_parameters():
    source = image_source(networks.Bare)
    assert engine(source, ["output"])(batch_of(source))["output"].shape == (3, 3)
    assert TorchEngine.precisions(source, "cpu") == ("fp32",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_numbers_name_the_layer_and_never_leave(value):
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x) * value)

    source = vector_source(Bad)
    with pytest.raises(NumericsError, match="NaN or infinity at layer b in fp32; its weights or its input"):
        engine(source, ["a", "b"])(batch_of(source))


def test_overflow_in_half_precision_offers_fp32():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x):
            return self.a(x * 1e5)

    source = vector_source(Large)
    engine(source, ["a"])(batch_of(source))
    with pytest.raises(NumericsError, match=r"in fp16; precision='fp32' may help"):
        engine(source, ["output"], RuntimeConfig("torch", "fp16"))(batch_of(source))


def test_lists_of_items_are_checked_too(normed):
    with pytest.raises(NumericsError):
        checked(normed.address, {"pool": [torch.zeros(2), torch.tensor([1, torch.nan])]}, "fp32")
    rows = checked(normed.address, {"pool": [torch.zeros(2), torch.ones(3)]}, "fp32")
    assert [len(item) for item in rows["pool"]] == [2, 3]


def test_a_batch_that_cannot_be_run_is_described(normed):
    bad = Batch({"x": np.zeros((2, 5, 16, 16), np.float32)})
    with pytest.raises(SourceError, match=r"module:Normed cannot run a batch of x \(2, 5, 16, 16\) on cpu"):
        engine(normed, ["pool"])(bad)


def test_an_error_in_forward_leaves_no_hook():
    source = vector_source(networks.Failing)
    run_engine = engine(source, ["after"])
    source.module.bomb.armed = True
    with pytest.raises(KeyError):
        run_engine(batch_of(source))
    source.module.bomb.armed = False
    assert networks.hooks_of(source.module) == 0
    assert run_engine(batch_of(source))["after"].shape == (3, 4)


def test_a_layer_that_is_not_reached_is_said():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 4), nn.Linear(4, 4)
            self.short = False

        def forward(self, x):
            x = self.a(x)
            return x if self.short else self.b(x)

    source = vector_source(Sometimes)
    run_engine = engine(source, ["a", "b"])
    source.module.short = True
    with pytest.raises(NumericsError, match="ended without reaching b"):
        run_engine(batch_of(source))


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "gpu"])
def test_devices_that_are_not_there(normed, device):
    with pytest.raises(OptionError, match=rf"device='{device}' cannot be used here: .*\. Say auto, cpu, cuda"):
        engine(normed, ["pool"], RuntimeConfig("torch", "fp32", device))


def test_precisions_that_are_not_known(normed):
    with pytest.raises(OptionError, match="precision must be one of fp32, bf16, fp16; got 'int8'"):
        engine(normed, ["pool"], RuntimeConfig("torch", "int8"))


def test_fp32_comes_first(normed):
    assert TorchEngine.precisions(normed, "cpu")[0] == "fp32"


def test_builds_without_onednn_have_fp32_only(normed, monkeypatch):
    import headstart.engines.torch as module

    monkeypatch.setattr(module, "_native_bf16", lambda: False)
    assert TorchEngine.precisions(normed, "cpu") == ("fp32",)
    monkeypatch.setattr(module, "_native_bf16", lambda: True)
    assert TorchEngine.precisions(normed, "cpu") == ("fp32", "bf16")


def test_unpooled_items_of_different_lengths_are_arrays():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 4)

        def forward(self, x):
            return self.a(x)

    source = Source.from_module(Words(), modality="vector", shape=(3, 2))
    run_engine = engine(source, ["a"], pooling="none")
    masked = Batch({"x": np.ones((2, 3, 2), np.float32)}, mask=np.array([[1, 0, 0], [1, 1, 1]]))
    assert [item.shape for item in run_engine(masked)["a"]] == [(1, 4), (3, 4)]
    assert run_engine(batch_of(source, 2))["a"].shape == (2, 3, 4)


def test_inference_leaves_nothing_to_differentiate(normed):
    run_engine = engine(normed, ["pool"])
    run_engine(batch_of(normed))
    assert all(p.grad is None for p in normed.module.parameters())


def test_choices_are_plain_data():
    choice = RuntimeConfig("torch", "bf16", "cuda:1", 8, 0.999, 12.0)
    assert RuntimeConfig(**choice.to_dict()) == choice
    assert choice.recipe() == {"engine": "torch", "precision": "bf16", "device": "cuda"}
    assert str(choice) == "torch bf16 on cuda:1, 8 at a time"
    assert dataclasses.replace(choice, batch_size=9).recipe() == choice.recipe()  # sizes do not change numbers


def test_unknown_engines_say_what_is_known():
    with pytest.raises(UnknownName, match="did you mean 'torch'"):
        ENGINES["touch"]


def test_versions_leave_out_the_build():
    assert "+" not in TorchEngine.version()["torch"]


def test_pictures_and_vectors_give_rows(normed):
    data = picture_data(2)
    sample = normed.input.collate([normed.input.prepare(item) for item in data.items])
    assert engine(normed, ["output"])(sample)["output"].shape == (2, 4)
    dense = vector_source(networks.Dense)
    sample = dense.input.collate(list(vectors(4)))
    assert engine(dense, ["c"])(sample)["c"].shape == (4, 6)


def test_engines_on_request_run_what_they_can():
    from headstart.extraction.autotune import _resolve_device, _runs_on_request

    assert not _runs_on_request("torch", load_source("fake:image"))  # it is chosen by itself
    assert not _runs_on_request("onnxruntime", load_source("fake:image"))
    assert _runs_on_request("openvino", load_source("fake:image"))
    assert _runs_on_request("openvino", load_source("fake:vector"))
    assert _resolve_device(["openvino"], "auto") == "cpu"
    assert _resolve_device(["torch"], "cpu") == "cpu"


@pytest.mark.parametrize("before", [True, False])
def test_fp32_on_a_gpu_is_not_rounded_and_the_switch_goes_back(before, monkeypatch):
    """The switch is torch's own and global: whoever set it finds it as it was, also after an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    with _full_fp32(torch.device("cuda")):
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is before
    with pytest.raises(KeyError), _full_fp32(torch.device("cuda")):
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 is before
    with _full_fp32(torch.device("cpu")):
        assert torch.backends.cudnn.allow_tf32 is before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_gives_the_cpus_rows(normed, precision):
    batch = batch_of(normed, 7)
    plain = engine(normed, ["blocks.1", "pool"])(batch)
    on_gpu = engine(normed, ["blocks.1", "pool"], RuntimeConfig("torch", precision, "cuda"))(batch)
    for name, rows in plain.items():
        assert np.allclose(on_gpu[name], rows, rtol=1e-4, atol=1e-5) == (precision == "fp32"), name
        cosine = (on_gpu[name] * rows).sum(1) / np.linalg.norm(on_gpu[name], axis=1) / np.linalg.norm(rows, axis=1)
        assert cosine.min() > 0.99
