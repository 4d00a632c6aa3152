"""What every source must satisfy, whichever family it comes from."""

from __future__ import annotations

import dataclasses
import importlib.util
import threading

import members
import numpy as np
import pytest
import torch

from headstart.dataset import Dataset
from headstart.errors import SourceError, UnknownName
from headstart.extraction import extract, sample_loader
from headstart.pooling import reducer, resolve
from headstart.sources import SOURCES
from headstart.sources.base import Input, load_source
from networks import counted, hooks_of

PLAIN = {"precision": "fp32", "batch_size": 4}
_cache: dict[str, object] = {}


def _marks(case):
    result = case.needs is None or importlib.util.find_spec(case.needs) is not None
    marks = [pytest.mark.skipif(not result, reason=f"{case.needs} is not installed")]
    return [*marks, pytest.mark.slow] if case.slow else marks


@pytest.fixture(params=[pytest.param(name, marks=_marks(case)) for name, case in members.SOURCES.items()])
def member(request):
    return request.param


@pytest.fixture
def case(member):
    return members.SOURCES[member]


def once(member, folders):
    """Made once for all laws: a law that changes something makes its own."""
    if member not in _cache:
        _cache[member] = members.SOURCES[member].make(folders.mktemp("source"))
    return _cache[member]


@pytest.fixture
def source(member, tmp_path_factory):
    return once(member, tmp_path_factory)


MODULAR = [pytest.param(name, marks=_marks(case)) for name, case in members.SOURCES.items() if case.modules]


@pytest.fixture(params=MODULAR)
def modular(request):
    """The members that are torch modules: only those have hooks and modes."""
    return request.param


@pytest.fixture
def torch_source(modular, tmp_path_factory):
    return once(modular, tmp_path_factory)


def modes_of(source):
    return [m.training for m in source.module.modules()] if "torch" in source.engines else [False]


def everything(source, indices, data, layers=None):
    """Pooled rows of these items in one batch, straight from the source."""
    read = sample_loader(source, data)
    batch = source.input.collate([read(int(i)) for i in indices])
    expected = [layer for layer in source.layers if layers is None or layer.name in layers]
    facts = {"modality": source.modality, "class_token": bool(source.meta.get("class_token"))}
    names = {layer.name: resolve("auto", axes=layer.axes, shape=layer.shape, **facts) for layer in expected}
    options = {layer.name: reducer(names[layer.name], layer.axes) for layer in expected}
    reduce = {name: lambda output, f=function: f(output, batch) for name, function in options.items()}
    with torch.inference_mode():
        tensors = source.input.tensors(batch, torch.device("cpu"), torch.float32)
        features = source.run(tensors, reduce)
    return {name: value.numpy() for name, value in features.items()}


def test_every_family_is_enrolled():
    enrolled = {name.partition(",")[0] for name in members.SOURCES}
    assert enrolled == set(SOURCES)


def test_an_input_keeps_the_contract(source):
    assert isinstance(source.input, Input)
    assert source.modality in ("image", "text", "audio", "vector")
    two, five = source.input.example(2), source.input.example(5)
    assert len(two) == 2
    assert len(five) == 5
    again = source.input.example(2)
    assert all(np.array_equal(again.inputs[k], v) for k, v in two.inputs.items())


def test_the_same_input_gives_the_same_rows(source, case):
    data = Dataset.from_arrays(case.items(4), **case.facts)
    first, second = (everything(source, range(4), data) for _ in range(2))
    assert first.keys() == {layer.name for layer in source.layers}
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_batch_mates_and_batch_size_do_not_change_rows(source, case):
    data = Dataset.from_arrays(case.items(5), **case.facts)
    together = everything(source, range(5), data)
    shuffled = everything(source, [3, 1, 4, 0, 2], data)
    apart = [everything(source, [i], data) for i in range(5)]
    for name, rows in together.items():
        scale = np.abs(rows).max() + 1e-9
        assert np.abs(np.concatenate([item[name] for item in apart]) - rows).max() < 1e-4 * scale, name
        assert np.abs(shuffled[name][np.argsort([3, 1, 4, 0, 2])] - rows).max() < 1e-4 * scale, name


def test_layers_are_in_execution_order(torch_source):
    """An independent measurement: the order in which modules first end."""
    source = torch_source
    ended: list[str] = []
    names = source.torch_backend.named_modules()
    handles = [m.register_forward_hook(lambda *_, n=name: ended.append(n)) for name, m in names.items()]
    try:
        tensors = source.input.tensors(source.input.example(2), torch.device("cpu"), torch.float32)
        with torch.no_grad():
            source.forward(tensors)
    finally:
        for handle in handles:
            handle.remove()
    listed = [layer.name for layer in source.layers]
    assert listed
    assert listed == [name for name in dict.fromkeys(ended) if name in listed]
    assert len(set(listed)) == len(listed)


def test_depth_grows_from_0_to_1_with_the_work_done(source):
    depths = [layer.depth for layer in source.layers]
    assert depths == sorted(depths)
    assert [layer.macs for layer in source.layers] == sorted(layer.macs for layer in source.layers)
    assert all(0 <= depth <= 1 for depth in depths)


def test_shapes_are_what_comes_out(source, case):
    batch = source.input.example(2)
    reduce = {layer.name: (lambda output: output.clone()) for layer in source.layers}
    with torch.no_grad():
        features = source.run(source.input.tensors(batch, torch.device("cpu"), torch.float32), reduce)
    for layer in source.layers:
        assert len(features[layer.name].shape) == len(layer.shape) + 1
        assert all(a in (b, -1) for a, b in zip(layer.shape, features[layer.name].shape[1:])), layer
        assert layer.axes in ("chw", "hwc", "tc", "ct", "c", "any")


def test_stopping_early_equals_running_through(source, case):
    data = Dataset.from_arrays(case.items(3), **case.facts)
    through = everything(source, range(3), data)
    for layer in source.layers[:: max(1, len(source.layers) // 12)]:
        early = everything(source, range(3), data, [layer.name])
        assert list(early) == [layer.name]
        if case.modules or layer.candidate:
            assert early[layer.name].tobytes() == through[layer.name].tobytes()
        else:  # other engines fuse what nobody looks at
            assert np.allclose(early[layer.name], through[layer.name], rtol=1e-5, atol=1e-6)


def test_nothing_runs_after_the_deepest_layer_asked_for(torch_source):
    source = torch_source
    order = [layer.name for layer in source.layers if layer.name != "output"]
    middle = order[len(order) // 2]
    tensors = source.input.tensors(source.input.example(2), torch.device("cpu"), torch.float32)
    modules = source.torch_backend.named_modules()
    counts = dict.fromkeys(order, 0)

    def count(name):
        return lambda *_: counts.__setitem__(name, counts[name] + 1)

    handles = [modules[name].register_forward_hook(count(name)) for name in order]
    try:
        source.run(tensors, {middle: lambda output: output.sum()})
    finally:
        for handle in handles:
            handle.remove()
    later = order[order.index(middle) + 1 :]
    assert all(counts[name] == 0 for name in later)
    assert all(counts[name] == 1 for name in order[: order.index(middle) + 1])


def test_no_hook_survives(torch_source):
    source = torch_source
    before = hooks_of(source.module)
    tensors = source.input.tensors(source.input.example(2), torch.device("cpu"), torch.float32)
    first = source.layers[0].name

    def fails(output):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        source.run(tensors, {first: fails})
    with pytest.raises(UnknownName, match="no such layer"):
        source.run(tensors, {first: fails, "no such layer": fails})
    source.run(tensors, {first: lambda output: output.mean()})
    assert hooks_of(source.module) == before


def test_extraction_agrees_and_leaves_the_source_alone(source, case, tmp_path):
    data = Dataset.from_arrays(case.items(6), **case.facts)
    before, modes = contents(source), modes_of(source)
    name = source.select("last")[0]
    bank = extract(source, data, layers=name, store=tmp_path, engine=source.engines[0], **PLAIN)
    expected = everything(source, range(6), data, [name])[name]
    assert np.allclose(bank.rows(name, data), expected.reshape(6, -1), rtol=1e-4, atol=1e-5)
    assert contents(source) == before
    assert modes_of(source) == modes
    assert not any(modes)


def contents(source):
    return {name: value.tobytes() for name, value in source.backend.state().items()}


def test_a_network_put_in_training_mode_is_evaluated_all_the_same(modular, tmp_path, torch_source):
    source, case = torch_source, members.SOURCES[modular]
    twin = case.make(tmp_path)
    data = Dataset.from_arrays(case.items(4), **case.facts)
    name = twin.select("last")[0]
    twin.module.train()
    rows = extract(twin, data, layers=name, store=tmp_path / "store", **PLAIN).rows(name, data)
    assert np.allclose(rows, extract(source, data, layers=name, store=False, **PLAIN).rows(name, data), atol=1e-6)


def test_threads_do_not_hear_each_other(source, case):
    data = Dataset.from_arrays(case.items(8), **case.facts)
    name = source.select("last")[0]
    alone = [everything(source, [i], data, [name])[name] for i in range(8)]
    result: dict[int, list] = {}

    def work(i):
        result[i] = [everything(source, [i], data, [name])[name] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(rows, alone[i], rtol=1e-4, atol=1e-5) for i in range(8) for rows in result[i])


def test_fingerprints_repeat_and_change(source, case, tmp_path):
    twin = case.make(tmp_path)
    assert twin.fingerprint == source.fingerprint
    moving = [p for p in twin.module.parameters() if p.numel()] if case.modules else []
    if not case.modules:
        changed = case.change(tmp_path / "changed")
        assert changed.fingerprint != source.fingerprint
    if moving:
        with torch.no_grad():
            bits = moving[-1].view(-1)[:1].view(torch.int32)
            bits ^= 1  # one bit of one weight
        assert twin.fingerprint != source.fingerprint
    other = dataclasses.replace(source, backend=twin.backend, rebuild={"family": "fake", "name": "x", "options": {}})
    assert other.fingerprint not in (source.fingerprint, twin.fingerprint)


def test_fingerprints_change_with_every_field_of_the_preprocessing(source):
    seen = {source.fingerprint}
    changed = 0
    for item in dataclasses.fields(source.input):
        value = getattr(source.input, item.name)
        if item.name in ("modality", "label") or not isinstance(value, (bool, int, float, str)):
            continue
        if item.name in ("tokenizer", "crop_mode", "interpolation"):
            continue  # not free; test_image_input.py and test_source_saved.py see to them
        other = (not value) if isinstance(value, bool) else value + 1
        seen.add(dataclasses.replace(source, input=dataclasses.replace(source.input, **{item.name: other})).fingerprint)
        changed += 1
    assert len(seen) == changed + 1 or source.modality == "text"


def test_select_takes_names_patterns_and_words(source):
    names = [layer.name for layer in source.layers]
    candidates = [layer.name for layer in source.layers if layer.candidate]
    assert source.select("all") == tuple(names)
    assert source.select("auto") == tuple(candidates)
    assert source.select("last") == (candidates[-1],)
    assert source.select(names[::-1]) == tuple(names)
    assert source.select("*") == tuple(names)
    assert source.layer(names[0]).name == names[0]
    with pytest.raises(UnknownName):
        source.select("no such layer")


def test_candidates_lie_below_the_classifier(source):
    candidates = source.select("auto")
    assert candidates
    if source.classifier is not None:
        assert not any(f"{name}.".startswith(f"{source.classifier}.") for name in candidates)


def test_saving_keeps_features_to_the_bit(source, case, tmp_path):
    if not case.saves:
        with pytest.raises(SourceError, match="Python object"):
            source.save(tmp_path / "kept")
        assert not list(tmp_path.iterdir())
        return
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    data = Dataset.from_arrays(case.items(3), **case.facts)
    assert again.fingerprint == source.fingerprint
    assert [layer.name for layer in again.layers] == [layer.name for layer in source.layers]
    before, after = everything(source, range(3), data), everything(again, range(3), data)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    assert dict(again.meta) == dict(source.meta)


def test_counting_counts():
    """The laws above can fail: the counter sees what runs."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    counts, handles = counted(network)
    network(torch.zeros(1, 2))
    assert counts == {"0": 1, "1": 1}
    assert hooks_of(network) == 2
    for handle in handles:
        handle.remove()
    assert hooks_of(network) == 0
