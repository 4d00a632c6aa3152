"""Sources: addresses, the layer table of peculiar networks, selection, fingerprints, the small built-in families."""

from __future__ import annotations

import dataclasses
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart.dataset import Dataset
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.extraction import extract
from headstart.sources import Batch, Layer, Source, load_source
from headstart.sources.fingerprint import code_of, stamp_of, state_of
from headstart.sources.layers import first_tensor
from networks import hooks_of, image_source, picture_data, pictures, seeded, vector_source, vectors


def names(source) -> list[str]:
    return [layer.name for layer in source.layers]


# ---- addresses ------------------------------------------------------------------------------------------------------


def test_a_source_is_returned_as_it_is():
    source = load_source("fake:image")
    assert load_source(source) is source
    with pytest.raises(OptionError, match="loaded already; seed would have no effect"):
        load_source(source, seed=1)


@pytest.mark.parametrize("address", ["mobilenet", "", "timm:", "/some/folder"])
def test_an_address_needs_a_family_and_a_name(address):
    with pytest.raises(OptionError, match="FAMILY:NAME"):
        load_source(address)


def test_unknown_families_and_names_say_what_is_known():
    with pytest.raises(UnknownName, match="did you mean 'fake'"):
        load_source("fakes:image")
    with pytest.raises(UnknownName, match="fake:image and fake:vector"):
        load_source("fake:text")
    with pytest.raises(UnknownName, match="identity:vector, identity:image, identity:audio"):
        load_source("identity:text")


@pytest.mark.parametrize("family", ["fake:image", "cnn:small", "identity:image", "timm:resnet18", "saved:x", "lstm:x"])
def test_an_option_that_does_not_exist_is_refused(family):
    with pytest.raises(UnknownName, match=r"'sise' is not one of the options of"):
        load_source(family, sise=3)


def test_all_unknown_options_come_together():
    with pytest.raises(UnknownName, match=r"(?s)'sise'.*'sead'.*did you mean 'seed'"):
        load_source("fake:image", sise=3, sead=4)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("timm:mobilenetv2_100", "mobilenetv2_100"),
        ("timm:/data/weights/net.imagenet/", "net.imagenet"),
        ("timm:weights/net", "net"),
        ("saved:C:\\models\\mine", "mine"),
        ("module:Net+tuned-12ab", "Net+tuned-12ab"),
    ],
)
def test_the_short_name_is_the_last_part(address, name):
    assert dataclasses.replace(load_source("fake:vector"), address=address).name == name


def test_repr_names_address_and_modality():
    assert repr(load_source("fake:vector")) == "Source('fake:vector', vector)"


# ---- the layer table ------------------------------------------------------------------------------------------------


def test_registration_order_does_not_matter():
    source = vector_source(networks.OutOfOrder)
    assert names(source) == ["first", "second", "third", "output"]
    assert [layer.shape for layer in source.layers] == [(7,), (6,), (5,), (5,)]


def test_depth_and_multiply_adds_are_counted():
    source = vector_source(networks.OutOfOrder)
    assert [layer.macs for layer in source.layers] == [56, 56 + 42, 56 + 42 + 30, 128]
    assert [layer.depth for layer in source.layers] == [round(m / 128, 4) for m in (56, 98, 128, 128)]


def test_a_layer_called_twice_is_not_offered():
    source = vector_source(networks.CalledTwice)
    assert names(source) == ["last", "output"]
    with pytest.raises(UnknownName):
        source.select("shared")


def test_in_place_activations_do_not_reach_what_was_taken():
    source = image_source(networks.InPlace)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        conv = source.module.conv(x)
        features = source.run({"x": x}, {"conv": lambda o: o.clone(), "act": lambda o: o.clone()})
    assert torch.equal(features["conv"], conv)
    assert torch.equal(features["act"], conv.relu())
    assert (conv < 0).any()


def test_in_place_activations_do_not_reach_the_bank(tmp_path):
    """Every pooling copies before the activation overwrites: 'flatten' once handed out a view."""
    source = image_source(networks.InPlace, side=8)
    data = picture_data(4, side=8)
    for pooling in ("flatten", "none", "avg", "max"):
        bank = extract(source, data, layers=["conv", "act"], pooling=pooling, store=tmp_path / pooling)
        before = bank.rows("conv", data)
        assert before.min() < 0 if pooling != "max" else True
        if pooling in ("flatten", "none"):
            assert np.allclose(np.maximum(before, 0), bank.rows("act", data), atol=1e-6)


def test_a_tuple_gives_its_first_tensor():
    source = vector_source(networks.Recurrent)
    assert names(source) == ["lstm", "head", "output"]
    assert source.layer("lstm").shape == (2, 6)
    assert source.layer("lstm").axes == "tc"
    assert source.layer("lstm").depth > 0.9  # the fused kernel of the CPU would count as nothing


def test_mappings_lists_nothing_and_whole_numbers():
    source = vector_source(networks.Named)
    assert names(source) == ["pair", "listing", "end", "output"]
    x = torch.from_numpy(vectors(2))
    features = source.run({"x": x}, {"pair": torch.clone, "listing": torch.clone})
    assert torch.equal(features["pair"], x * 2)
    assert torch.equal(features["listing"], x * 2 + 1)
    assert source.forward({"x": x}).shape == (2, 4)


def test_a_layer_without_a_tensor_says_so():
    source = vector_source(networks.Named)
    with pytest.raises(SourceError, match="'nothing' returned no tensor"):
        source.run({"x": torch.zeros(1, 8)}, {"nothing": torch.clone})
    assert hooks_of(source.module) == 0


def test_a_layer_called_output_is_that_layer():
    source = vector_source(networks.OutputInside)
    assert names(source) == ["output", "after"]
    assert source.layer("output").shape == (6,)
    features = source.run({"x": torch.zeros(2, 8)}, {"output": torch.clone})
    assert features["output"].shape == (2, 6)


def test_a_network_without_layers_has_its_output():
    source = image_source(networks.Bare)
    assert names(source) == ["output"]
    assert source.select("auto") == source.select("last") == source.select("all") == ("output",)


def test_a_network_that_returns_nothing_useful_is_refused():
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(SourceError, match="no layer that returns a tensor with one entry per input"):
        _ = vector_source(Sum).layers


def test_an_input_that_does_not_fit_is_explained():
    source = Source.from_module(nn.Linear(5, 2), modality="vector", shape=(8,))
    with pytest.raises(SourceError, match=r"example batch of shape \(3, 8\)(?s:.*)Give the size= or shape="):
        _ = source.layers


def test_measuring_leaves_modes_and_hooks_alone():
    source = image_source(networks.Normed)
    source.module.train()
    source.module.blocks.eval()
    before = [m.training for m in source.module.modules()]
    statistics = networks.state_bytes(source.module)
    _ = source.layers
    assert [m.training for m in source.module.modules()] == before
    assert networks.state_bytes(source.module) == statistics
    assert hooks_of(source.module) == 0


def test_an_exception_in_forward_leaves_no_hook():
    source = vector_source(networks.Failing)
    _ = source.layers
    source.module.bomb.armed = True
    with pytest.raises(KeyError, match="boom"):
        source.run({"x": torch.zeros(1, 8)}, {"after": torch.clone})
    with pytest.raises(KeyError, match="boom"):
        _ = dataclasses.replace(source).layers
    assert hooks_of(source.module) == 0
    source.module.bomb.armed = False
    assert list(source.run({"x": torch.zeros(1, 8)}, {"after": torch.clone})) == ["after"]


def test_the_stop_cannot_be_caught_by_a_network_that_catches_errors():
    class Forgiving(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            try:
                x = self.a(x)
            except Exception:
                x = x * 0
            return self.b(x)

    source = vector_source(Forgiving)
    ran = []
    source.module.b.register_forward_hook(lambda *_: ran.append("b"))
    source.run({"x": torch.zeros(1, 8)}, {"a": torch.clone})
    assert ran == []


def test_blocks_are_candidates_and_aliases_are_not():
    source = image_source(networks.Normed, classifier="classifier")
    assert source.select("auto") == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool")
    assert "blocks" in names(source)
    assert not source.layer("output").candidate
    assert not any("dropout" in layer.kind for layer in source.layers)


def test_a_composite_classifier_is_left_out_whole():
    class Headed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(8, 6)
            self.head = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))

        def forward(self, x):
            return self.head(torch.relu(self.body(x)))

    assert vector_source(Headed, classifier="head").select("auto") == ("body",)
    assert vector_source(Headed).select("auto") == ("body", "head.1", "head.2")


def test_many_layers_are_thinned_evenly():
    source = vector_source(lambda: nn.Sequential(*[nn.Linear(8, 8) for _ in range(60)]))
    chosen = source.select("auto")
    assert len(chosen) == 18
    assert chosen[0] == "0"
    assert chosen[-1] == "59"
    steps = np.diff([int(name) for name in chosen])
    assert steps.min() >= 3
    assert steps.max() <= 4


@pytest.mark.parametrize(
    ("module", "shape", "axes"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (3, 8, 8), "chw"),
        (nn.Conv1d(3, 5, 3, padding=1), (3, 9), "ct"),
        (nn.Linear(6, 5), (4, 6), "tc"),
        (nn.Linear(6, 5), (4, 4, 6), "hwc"),
        (nn.Linear(6, 5), (6,), "c"),
        (nn.Linear(6, 5), (2, 3, 4, 6), "any"),
    ],
)
def test_axes_are_told_apart(module, shape, axes):
    source = Source.from_module(nn.Sequential(module), modality="vector", shape=shape)
    assert source.layer("0").axes == axes


def test_integers_and_booleans_are_no_features():
    class Compare(nn.Module):
        def forward(self, x):
            return x > 0

    network = nn.Sequential(nn.Linear(8, 4), Compare())
    assert names(Source.from_module(network, modality="vector", shape=(8,))) == ["0"]


def test_the_main_tensor_of_odd_returns():
    tensor = torch.zeros(2)
    assert first_tensor(((tensor, 1), 2)) is tensor
    assert first_tensor({"a": [tensor]}) is tensor
    assert all(first_tensor(odd) is None for odd in (None, (), {}, [], 3, (None, tensor)))


# ---- selection ------------------------------------------------------------------------------------------------------


def test_patterns_match_and_keep_execution_order():
    source = image_source(networks.Normed, classifier="classifier")
    assert source.select("blocks.?") == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert source.select(["pool", "stem*", "last"]) == ("stem.0", "stem.1", "stem.2", "stem", "pool")
    assert source.select(("blocks.1", "blocks.0")) == ("blocks.0", "blocks.1")


def test_what_matches_nothing_is_refused_with_the_nearest_name():
    source = image_source(networks.Normed)
    with pytest.raises(UnknownName, match=r"did you mean 'blocks\.0'"):
        source.select("block.0")
    with pytest.raises(UnknownName):
        source.select(["blocks.0", "xyz*"])
    with pytest.raises(OptionError, match="layers is empty"):
        source.select([])


# ---- fingerprints ---------------------------------------------------------------------------------------------------


def test_training_in_place_is_noticed(tmp_path):
    """The same object, other weights: stale features would be plausible and wrong."""
    source = vector_source(networks.Dense)
    data = Dataset.from_arrays(vectors(6))
    before = source.fingerprint
    rows = extract(source, data, layers="a", store=tmp_path).rows("a", data).copy()
    optimizer = torch.optim.SGD(source.module.parameters(), lr=0.1)
    source.module(torch.from_numpy(vectors(4))).square().mean().backward()
    optimizer.step()
    assert source.fingerprint != before
    again = extract(source, data, layers="a", store=tmp_path)
    assert again.computed == 6
    assert not np.allclose(rows, again.rows("a", data))


def test_stamps_are_cheap_signs():
    network = networks.Dense()
    before = stamp_of(network)
    assert stamp_of(network) == before
    with torch.no_grad():
        network.a.weight[0, 0] += 0
    written = stamp_of(network)
    assert written != before
    handle = network.b.register_forward_hook(lambda *_: None)
    assert stamp_of(network) != written
    handle.remove()
    assert stamp_of(network) == written


def test_buffers_that_are_not_saved_count_too():
    class Scaled(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.lin = nn.Linear(8, 4)
            self.register_buffer("by", torch.tensor(float(by)), persistent=False)

        def forward(self, x):
            return self.lin(x) * self.by

    two, three = vector_source(lambda: Scaled(2)), vector_source(lambda: Scaled(3))
    assert "by" in state_of(two.module)
    assert two.fingerprint != three.fingerprint


def test_settings_that_no_tensor_shows_count_too():
    class Power(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.p = p
            self.lin = nn.Linear(8, 4)

        def forward(self, x):
            return self.lin(x) ** self.p

    assert vector_source(lambda: Power(2)).fingerprint == vector_source(lambda: Power(2)).fingerprint
    assert vector_source(lambda: Power(2)).fingerprint != vector_source(lambda: Power(3)).fingerprint


def test_the_code_of_an_own_class_counts():
    def make(forward):
        return type("Net", (nn.Module,), {"__init__": nn.Module.__init__, "forward": forward, "__module__": "mine"})

    def plain(self, x):
        return x

    def doubled(self, x):
        return x + x

    def halved(self, x):
        return x - x

    prints = {vector_source(make(forward)).fingerprint for forward in (plain, doubled, halved)}
    assert len(prints) == 3


def test_every_dtype_has_bits():
    network = nn.Module()
    kinds = [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn]
    for number, kind in enumerate(kinds):
        network.register_buffer(f"b{number}", torch.tensor([1, 0, 1]).to(kind))
    network.register_buffer("scalar", torch.tensor(3, dtype=torch.bfloat16))
    arrays = state_of(network)
    assert len(arrays) == len(kinds) + 1
    assert all(array.size for array in arrays.values())


def scaled(x, by=2.0):
    return x * by


FACTOR = 3.0


def with_global(x):
    return x * FACTOR


def calls_another(x):
    return with_global(x) + 1


class Callable:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.by

    def method(self, x):
        return x + self.by


def test_code_tells_functions_apart(monkeypatch):
    def closure(by):
        return lambda x: x * by

    different = [
        scaled, lambda x: x, lambda x: x + 1, closure(1), closure(2), functools.partial(scaled, by=3.0),
        functools.partial(scaled, by=4.0), Callable(1), Callable(2), Callable(1).method, Callable(2).method,
        with_global, calls_another, closure(np.arange(3)), closure(np.arange(4)), closure(torch.zeros(2)),
        closure(torch.ones(2)), closure({"a": 1}), closure({"a": 2}), closure({1, 2}), np.sqrt, np.abs,
    ]  # fmt: skip
    message = [str(code_of(function)) for function in different]
    assert len(set(message)) == len(message)
    assert message == [str(code_of(function)) for function in different]
    assert not any(" at 0x" in item for item in message)
    monkeypatch.setitem(globals(), "FACTOR", 4.0)
    assert str(code_of(with_global)) != message[different.index(with_global)]
    assert str(code_of(calls_another)) != message[different.index(calls_another)]


def test_code_survives_loops():
    def again(x):
        return again(x)

    holder = Callable(None)
    holder.by = holder
    assert code_of(again)
    assert code_of(holder)


def test_fingerprints_are_the_same_in_another_process(tmp_path):
    """Sets, hashes and addresses differ between processes; fingerprints may not."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import networks\n"
        "from headstart.sources import load_source, Source\n"
        "def pre(x):\n    return x['a'] if x in {'b', 'c', 'dd', 'e'} else x\n"
        "net = networks.seeded(networks.Normed)\n"
        "print(networks.image_source(networks.Normed).fingerprint, load_source('cnn:x').fingerprint,\n"
        "      Source.from_module(net, preprocess=pre, shape=(3, 16, 16)).fingerprint)\n"
    )
    paths = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "..", "src")]
    message = [
        subprocess.run(
            [sys.executable, str(script), *paths], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert message[0] == message[1]
    assert image_source(networks.Normed).fingerprint in message[0]


# ---- built-in families ----------------------------------------------------------------------------------------------


def test_fakes_depend_on_their_seed_alone():
    state = torch.get_rng_state()
    assert load_source("fake:image").fingerprint == load_source("fake:image", seed=0).fingerprint
    assert load_source("fake:image").fingerprint != load_source("fake:image", seed=1).fingerprint
    assert torch.equal(torch.get_rng_state(), state)


def test_the_cnn_is_the_classic_one():
    state = torch.get_rng_state()
    source = load_source("cnn:mnist")
    assert torch.equal(torch.get_rng_state(), state)
    shapes = {layer.name: layer.shape for layer in source.layers}
    assert shapes["conv1"] == (32, 26, 26)
    assert shapes["pool2"] == (64, 5, 5)
    assert shapes["dense"] == (64,)
    assert source.module.classifier.out_features == 10
    assert source.select("last") == ("relu3",)
    assert source.fingerprint == load_source("cnn:mnist").fingerprint
    assert source.fingerprint != load_source("cnn:mnist", seed=1).fingerprint


@pytest.mark.parametrize("options", [{"size": (9, 28)}, {"size": (28,)}, {"channels": 2}, {"classes": 0}])
def test_the_cnn_says_what_it_cannot_be(options):
    with pytest.raises(OptionError, match="at least 10 × 10"):
        load_source("cnn:x", **options)


def test_identity_gives_the_items_themselves(tmp_path):
    data = Dataset.from_arrays(vectors(5))
    source = load_source("identity:vector")
    assert np.array_equal(extract(source, data, layers="last", store=tmp_path).rows("0", data), vectors(5))
    photos = Dataset.from_arrays(pictures(3, side=8))
    small = load_source("identity:image", size=8)
    rows = extract(small, photos, layers="last", store=tmp_path).rows("0", photos)
    expected = (pictures(3, side=8).transpose(0, 3, 1, 2).reshape(3, -1) / 255 - 0.5) / 0.25
    assert np.allclose(rows, expected, atol=1e-5)


def test_records():
    assert Layer("a", (3,), "linear", 0.5, 10) == Layer("a", (3,), "linear", 0.5, 10, "c", candidate=False)
    assert len(Batch({"x": np.zeros((5, 2))})) == 5
    assert len(Batch({"x": np.zeros((5, 2))}, counts=(2, 3))) == 2


def test_importing_sources_needs_no_optional_package():
    code = (
        "import sys; import headstart.sources as s; s.load_source('fake:image').layers\n"
        "print([m for m in ('timm', 'transformers', 'keras', 'torchvision', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_of_a_source_that_torch_does_not_run():
    source = dataclasses.replace(load_source("fake:vector"), engines=("onnx",))
    with pytest.raises(SourceError, match="run by onnx, not by torch"):
        _ = source.module


def test_a_seeded_maker_leaves_the_generator_alone():
    before = torch.get_rng_state()
    a, b = seeded(networks.Dense), seeded(networks.Dense)
    assert torch.equal(a.a.weight, b.a.weight)
    assert torch.equal(torch.get_rng_state(), before)
