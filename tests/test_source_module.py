"""Python objects as sources: preprocessing functions, what must be given, and what would have no effect."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, SourceError, UnknownName
from headstart.extraction import extract
from headstart.sources import Source
from headstart.sources.inputs.image import ImageInput
from headstart.sources.module import CallableInput, from_module
from headstart.sources.weights import fit_weights, read_weights
from headstart.transfer import fit
from networks import picture_data, pictures, vectors

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4}


def small(pixels):
    """Every other pixel, scaled."""
    return torch.from_numpy(np.moveaxis(pixels[::2, ::2].astype(np.float32) / 255, -1, 0).copy())


def other(pixels):
    return small(pixels) * 2


class Scale:
    """A preprocessing object with a setting."""

    def __init__(self, by):
        self.by = by

    def __call__(self, pixels):
        return small(pixels) * self.by


def net() -> nn.Module:
    return networks.seeded(networks.InPlace)


def test_the_module_is_used_as_it_is_and_put_in_evaluation_mode():
    network = net().train()
    before = networks.state_bytes(network)
    source = from_module(network, size=(16, 16))
    assert source.module is network
    assert source.module is network
    assert not network.training
    assert networks.state_bytes(network) == before
    assert source.address == "module:InPlace"
    assert from_module(net(), name="mine").name == "mine"
    assert Source.from_module(net(), size=(16, 16)).fingerprint == source.fingerprint


def test_a_preprocessing_function_is_applied(tmp_path):
    data = picture_data(5)
    source = from_module(net(), preprocess=small, shape=(3, 8, 8))
    rows = extract(source, data, layers="act", pooling="avg", store=tmp_path, **PLAIN).rows("act", data)
    with torch.no_grad():
        batch = torch.stack([small(p) for p in pictures(5)])
        expected = net().act(net().conv(batch)).mean((2, 3)).numpy()
    assert np.allclose(rows, expected, atol=1e-5)


def test_another_function_is_another_source():
    built = [small, other, lambda p: small(p), lambda p: small(p) + 0.5, Scale(1), Scale(2),
            functools.partial(Scale(1)), torch.nn.Identity()]  # fmt: skip
    prints = [from_module(net(), preprocess=item, shape=(3, 8, 8)).fingerprint for item in built]
    assert len(set(prints)) == len(built)
    again = [from_module(net(), preprocess=item, shape=(3, 8, 8)).fingerprint for item in built]
    assert prints == again
    assert from_module(net(), preprocess=Scale(2), shape=(3, 8, 8)).fingerprint == prints[5]


def test_torchvision_transforms_are_told_apart():
    transforms = pytest.importorskip("torchvision.transforms")

    def source(size):
        steps = transforms.Compose([transforms.ToTensor(), transforms.Resize((size, size))])
        return from_module(net(), preprocess=steps, shape=(3, 8, 8))

    assert source(8).fingerprint == source(8).fingerprint
    assert source(8).fingerprint != source(9).fingerprint
    assert source(8).input.prepare(pictures(1)[0]).shape == (3, 8, 8)


def test_a_function_that_gives_another_shape_is_named(tmp_path):
    source = from_module(net(), preprocess=small, shape=(3, 9, 9))
    with pytest.raises(DataError, match=r"small must give an array of shape \(3, 9, 9\); it gave \(3, 8, 8\)"):
        extract(source, picture_data(3), store=tmp_path)


def test_an_error_of_the_function_is_the_callers(tmp_path):
    """It is no fault of an item: leaving all of them out in silence would hide it."""

    def broken(pixels):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        extract(from_module(net(), preprocess=broken, shape=(3, 8, 8)), picture_data(3), store=tmp_path)


def test_an_input_record_is_taken_as_it_is():
    preprocessing = ImageInput(size=(12, 12))
    assert from_module(net(), preprocess=preprocessing).input is preprocessing


def test_picture_options_reach_the_preprocessing():
    source = from_module(net(), size=(8, 10), mean=(0.5,) * 3, std=(0.1,) * 3, crop_pct=0.9, interpolation="bicubic")
    assert source.input == ImageInput((8, 10), 3, (0.5,) * 3, (0.1,) * 3, 0.9, "center", "bicubic")


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"meen": (0.5,)}, UnknownName, "did you mean 'mean'"),
        ({"preprocess": small, "shape": (3, 8, 8), "mean": (0.5,) * 3}, OptionError, "mean would have no effect"),
        ({"modality": "vector", "std": (1.0,)}, OptionError, "std would have no effect"),
        ({"preprocess": small}, OptionError, "shape= is needed"),
        ({"modality": "text"}, OptionError, "shape= is needed"),
        ({"modality": "text", "shape": (3,)}, OptionError, "needs preprocess="),
        ({"modality": "audio", "shape": (100,)}, OptionError, "needs preprocess="),
        ({"classifier": "fc"}, UnknownName, "'fc' is not one of the modules of this network"),
    ],
)
def test_what_is_missing_or_useless_is_said(options, kind, said):
    with pytest.raises(kind, match=said):
        from_module(net(), **options)


@pytest.mark.parametrize("thing", [None, "resnet18", lambda x: x, np.zeros(3)])
def test_only_modules_are_taken(thing):
    with pytest.raises(SourceError, match=r"takes a torch\.nn\.Module"):
        from_module(thing)


def test_texts_and_sounds_with_a_function(tmp_path):
    def letters(text):
        return np.bincount([ord(c) % 8 for c in text], minlength=8)

    data = Dataset.from_arrays(["ab", "abc", "xyzzy"])
    source = from_module(networks.seeded(networks.Dense), modality="text", preprocess=letters, shape=(8,))
    rows = extract(source, data, layers="a", store=tmp_path, **PLAIN).rows("a", data)
    assert rows.shape == (3, 16)

    clips = Dataset.from_arrays(vectors(3, 400), modality="audio", sample_rate=8000)
    first = from_module(
        networks.seeded(networks.Dense), modality="audio", preprocess=lambda clip: clip.samples[:8], shape=(8,)
    )
    assert extract(first, clips, layers="a", store=tmp_path, **PLAIN).rows("a", clips).shape == (3, 16)
    faster = Dataset.from_arrays(vectors(3, 400), modality="audio", sample_rate=16000)
    assert extract(first, faster, layers="a", store=tmp_path, **PLAIN).computed == 3  # same samples, other sounds
    with pytest.raises(DataError, match="needs a sample rate"):
        extract(first, Dataset.from_arrays(vectors(3, 400), modality="audio"), store=tmp_path)


def test_vectors_of_any_one_width(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    network(torch.zeros(1, 5))
    source = from_module(network, modality="vector", shape=(5,))
    data = Dataset.from_arrays(vectors(3, 5))
    assert extract(source, data, layers="last", store=tmp_path, **PLAIN).rows("1", data).shape == (3, 4)
    with pytest.raises(DataError, match=r"shape \(5,\); got \(6,\)"):
        extract(source, Dataset.from_arrays(vectors(3, 6)), store=tmp_path)


def test_weights_in_other_precisions_run(tmp_path):
    """A module in double or half precision gives the features its float32 copy gives."""
    data = Dataset.from_arrays(vectors(4))
    expected = extract(
        networks.vector_source(networks.Dense), data, layers="a", store=tmp_path, **PLAIN
    ).rows("a", data)  # fmt: skip
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        source = from_module(networks.seeded(networks.Dense).to(kind), modality="vector", shape=(8,))
        rows = extract(source, data, layers="a", store=tmp_path, **PLAIN).rows("a", data)
        assert next(source.module.parameters()).dtype == kind
        assert np.allclose(rows, expected, atol=0.05)
    assert np.allclose(rows, expected, atol=0.05)


def test_squeezenet_from_a_real_pth_file(shared, tmp_path):
    """Weights that came as a pth file, through a Python object; half the classes of real photos are told apart."""
    torchvision = pytest.importorskip("torchvision")
    path = shared / "weights" / "squeezenet1_1_features_in1k.pth"
    network = torchvision.models.squeezenet1_1()
    assert fit_weights(network, read_weights(path), str(path), head=("classifier.",)) == []
    source = from_module(network.features, name="squeezenet")
    data = Dataset.from_folder(shared / "images" / "trashnet").sample(per_class=5, random_state=0)
    bank = extract(source, data, layers="last", pooling="avg", store=tmp_path, **PLAIN)
    name = bank.layers[0]
    rows = bank.rows(name, data)
    assert rows.shape == (30, 512)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = unit @ unit.T - 2 * np.eye(30)
    labels = np.array(data.targets)
    assert (labels[near.argmax(1)] == labels).mean() > 0.3  # chance is 1/6


def test_callable_inputs_describe_themselves():
    preprocessing = CallableInput(small, (3, 8, 8), "image", "small")
    assert preprocessing.reader_options() == {}
    assert preprocessing.describe()["code"]
    assert preprocessing.example(2).inputs["x"].shape == (2, 3, 8, 8)
    assert preprocessing.collate([preprocessing.prepare(pictures(1)[0])]).inputs["x"].dtype == np.float32


def test_torchvision_models(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    network = networks.seeded(lambda: torchvision.models.resnet18(weights=None))
    source = Source.from_module(network, size=(64, 64), classifier="fc")
    images = pictures(24, side=40) // 4
    images[::2, :, :, 0] += 120
    data = Dataset.from_arrays(images, ["red" if i % 2 == 0 else "dark" for i in range(24)])
    bank = extract(source, data, layers=["layer2", "avgpool"], pooling="avg", store=tmp_path, precision="fp32")
    x = source.input.tensors(source.input.collate([source.input.prepare(i) for i in images]), "cpu", torch.float32)["x"]
    inner: list = []
    network.avgpool.register_forward_hook(lambda _m, _a, output: inner.append(output.flatten(1)))
    with torch.no_grad():
        network(x)
    assert np.allclose(bank.rows("avgpool", data), inner[0].numpy(), atol=1e-4)
    assert not any(name.startswith("fc") for name in source.select("auto"))
    predictor = fit(source, data, layers=["layer2", "avgpool"], store=tmp_path)
    assert float(predictor.evaluate(data).metrics["accuracy"]) > 0.9
    assert set(predictor.predict(list(images[:2]))) == {"red", "dark"}
