"""Sessions: found instead of built, never served with old weights, safe in threads, and gone when nobody needs them."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch

import networks
from headstart.dataset import Dataset
from headstart.engines import ENGINES, RuntimeConfig, sessions
from headstart.engines.sessions import Session, close_sessions, open_session
from headstart.engines.torch import TorchEngine
from headstart.errors import MissingPackage, OptionError, UnknownName
from headstart.extraction import extract
from headstart.sources import load_source
from networks import image_source, picture_data, vector_source
from tiny_models import onnx_file

FP32 = RuntimeConfig("torch", "fp32")
PLAIN = {"precision": "fp32", "engine": "torch", "batch_size": 4, "store": False}


@pytest.fixture(autouse=True)
def _empty_cache():
    close_sessions()
    yield
    close_sessions()


@pytest.fixture
def builds(monkeypatch):
    """Counts of engines built and of networks copied."""
    counts = {"engines": 0, "copies": 0}
    build, deepcopy = TorchEngine.__init__, copy.deepcopy

    def counting_build(*args, **kwargs):
        counts["engines"] += 1
        build(*args, **kwargs)

    def counting_copy(thing, *args):
        counts["copies"] += isinstance(thing, torch.nn.Module) and not args
        return deepcopy(thing, *args)

    monkeypatch.setattr(TorchEngine, "__init__", counting_build)
    monkeypatch.setattr(copy, "deepcopy", counting_copy)
    return counts


def conv_source(seed=0):
    return image_source(networks.Normed, classifier="classifier", seed=seed)


@pytest.fixture(params=[pytest.param(n, marks=[pytest.mark.slow] if n == "openvino" else []) for n in sorted(ENGINES)])
def engine(request):
    try:
        ENGINES[request.param].version()
    except MissingPackage as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def source(engine, tmp_path):
    return load_source(f"onnx:{onnx_file(tmp_path / 'small.onnx')}") if engine == "onnxruntime" else conv_source()


def poolings_of(source):
    return dict.fromkeys(source.select("auto"), "avg")


def same_rows(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


# ---- laws of every engine -------------------------------------------------------------------------------------------


def test_the_second_session_is_the_first(engine, source):
    runtime = RuntimeConfig(engine, "fp32")
    first = open_session(source, poolings_of(source), runtime)
    rows = first.run(source.input.example(3))
    second = open_session(source, poolings_of(source), RuntimeConfig(engine, "fp32", batch_size=3, speed=7.0))
    assert second is first  # how large batches are, and how fast they were, changes no engine
    assert same_rows(second.run(source.input.example(3)), rows)


def test_threads_share_a_session(engine, source):
    session = open_session(source, poolings_of(source), RuntimeConfig(engine, "fp32"))
    batches = [source.input.example(n) for n in (2, 3, 4, 5)]
    expected = [session.run(batch) for batch in batches]
    outcomes = {}

    def work(i):
        outcomes[i] = [same_rows(session.run(batches[i]), expected[i]) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4 and all(all(outcome) for outcome in outcomes.values())


def test_a_closed_session_runs_nothing_and_is_not_given_again(engine, source):
    session = open_session(source, poolings_of(source), RuntimeConfig(engine, "fp32"))
    session.close()
    assert session.closed
    with pytest.raises(OptionError, match="session is closed"):
        session.run(source.input.example(2))
    again = open_session(source, poolings_of(source), RuntimeConfig(engine, "fp32"))
    assert again is not session and again.run(source.input.example(2))


# ---- found, not built -----------------------------------------------------------------------------------------------


def test_extracting_again_builds_and_copies_nothing(builds):
    source = conv_source()
    extract(source, picture_data(3), layers="pool", **PLAIN)  # measured and checked once
    begun = dict(builds)
    bank = extract(source, picture_data(4), layers="pool", **PLAIN)
    assert bank.computed == 4
    assert builds == begun


def test_other_layers_share_the_converted_network(builds):
    source = conv_source()
    first = open_session(source, {"pool": "avg"}, FP32)
    copies = builds["copies"]
    other = open_session(source, {"blocks.1": "avg", "pool": "max"}, FP32)
    assert other is not first
    assert builds["copies"] == copies
    assert other.engine.network is first.engine.network


def test_another_pooling_precision_or_device_is_another_session():
    source = conv_source()
    first = open_session(source, {"pool": "avg"}, FP32)
    assert open_session(source, {"pool": "max"}, FP32) is not first
    half = open_session(source, {"pool": "avg"}, RuntimeConfig("torch", "bf16"))
    assert half is not first and half.engine.network is not first.engine.network
    with pytest.raises(OptionError, match="device="):
        open_session(source, {"pool": "avg"}, RuntimeConfig("torch", "fp32", "cuda:99"))
    with pytest.raises(UnknownName, match="no such layer"):
        open_session(source, {"no such layer": "avg"}, FP32)


def test_two_threads_that_open_at_once_build_one_engine(builds):
    source = conv_source()
    _ = source.layers
    barrier, opened = threading.Barrier(4), []

    def work():
        barrier.wait()
        opened.append(open_session(source, {"pool": "avg"}, FP32))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4 and len(set(map(id, opened))) == 1
    assert builds["engines"] == 1


# ---- changed weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [conv_source, lambda: vector_source(networks.Dense)])
def test_changed_weights_are_never_served_from_an_old_session(make):
    source = make()
    poolings = dict.fromkeys(source.select("last"), "avg")
    batch = source.input.example(3)
    old = open_session(source, poolings, FP32)
    before = old.run(batch)
    with torch.no_grad():
        next(source.module.parameters()).add_(0.5)
    new = open_session(source, poolings, FP32)
    assert new is not old
    assert not same_rows(new.run(batch), before)
    fresh = TorchEngine(source, {name: sessions.reducer("avg", source.layer(name).axes) for name in poolings}, FP32)
    assert same_rows(new.run(batch), fresh(batch))


def test_hooks_put_on_afterwards_are_part_of_what_runs():
    source = conv_source()
    session = open_session(source, {"pool": "avg"}, FP32)
    calls = []
    handle = source.module.stem.register_forward_hook(lambda *_: calls.append(1))
    other = open_session(source, {"pool": "avg"}, FP32)
    handle.remove()
    other.run(source.input.example(2))
    assert other is not session and calls == [1]


def test_training_in_between_leaves_evaluation():
    source = vector_source(networks.Dense)  # run as it is: the session shares the module
    session = open_session(source, {"a": "avg"}, FP32)
    source.module.train()
    assert open_session(source, {"a": "avg"}, FP32) is session
    assert not any(module.training for module in source.module.modules())


def test_two_sources_of_one_address_are_kept_apart():
    item, other = conv_source(seed=1), conv_source(seed=2)
    assert item.address == other.address
    batch = item.input.example(2)
    rows = [open_session(source, {"pool": "avg"}, FP32).run(batch) for source in (item, other)]
    assert not same_rows(*rows)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_evicts_what_was_used_longest_ago(monkeypatch):
    cache = sessions._SessionCache(3)
    monkeypatch.setattr(sessions, "_cache", cache)
    source = vector_source(networks.Dense)
    first = open_session(source, {"a": "avg"}, FP32)
    second = open_session(source, {"b": "avg"}, FP32)
    open_session(source, {"c": "avg"}, FP32)
    assert open_session(source, {"a": "avg"}, FP32) is first
    open_session(source, {"a": "max"}, FP32)
    assert len(cache) == 3
    assert open_session(source, {"a": "avg"}, FP32) is first
    assert open_session(source, {"b": "avg"}, FP32) is not second
    assert second.run(source.input.example(2))  # whoever still has it may use it


def test_an_evicted_or_closed_session_frees_its_network(monkeypatch):
    monkeypatch.setattr(sessions, "_cache", sessions._SessionCache(1))
    source = conv_source()
    evicted = weakref.ref(open_session(source, {"pool": "avg"}, FP32).engine.network.module)
    closing = open_session(source, {"pool": "avg"}, RuntimeConfig("torch", "bf16"))
    gc.collect()
    assert evicted() is None
    closed = weakref.ref(closing.engine.network.module)
    closing.close()
    gc.collect()
    assert closed() is None and len(sessions._cache) == 0


@pytest.mark.parametrize("make", [conv_source, lambda: vector_source(networks.Dense)])
def test_no_source_is_kept_alive(make):
    source = make()
    data = picture_data(4) if source.modality == "image" else Dataset.from_arrays(networks.vectors(4))
    extract(source, data, layers="last", **PLAIN)
    assert len(sessions._cache) == 1
    alive = weakref.ref(source), weakref.ref(source.module)
    del source
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert len(sessions._cache) == 0


def test_a_session_lives_as_long_as_any_source_that_shares_it():
    source = vector_source(networks.Dense)
    other = source.with_module(source.module)
    session = open_session(source, {"a": "avg"}, FP32)
    assert isinstance(session, Session) and open_session(other, {"a": "avg"}, FP32) is session
    del source
    gc.collect()
    assert open_session(other, {"a": "avg"}, FP32) is session
