"""What is special to single policies: turns of unfreezing, what is a bias or a norm, additions of low rank."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import networks
import tiny_models
from headstart.errors import OptionError, UnknownName
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import HeadInit, finetune
from headstart.finetuning.boundary import _boundaries
from headstart.finetuning.finetune import training_config_for
from headstart.finetuning.parameter_groups import locate_parameters
from headstart.policies import ParameterInfo, policy
from headstart.sources import load_source
from headstart.training.batches import Samples
from networks import image_source, state_bytes, vector_source

module = import_module("headstart.finetuning.finetune")  # the package gives the function of that name

PLACED = [
    ParameterInfo(f"u{unit}.{name}", unit, kind, f"layer{unit}")
    for unit in range(5)
    for name, kind in (("conv.weight", "conv2d"), ("conv.bias", "conv2d"), ("norm.weight", "batchnorm2d"),
                       ("norm.bias", "batchnorm2d"), ("fc.weight", "linear"), ("lstm.bias_hh_l0", "lstm"))
]  # fmt: skip


def names(chosen):
    return {move.name for move in chosen.trainable(PLACED, 5)}


def run(source, chosen, *, layer=None, shape=(8,), **how):
    layer = layer or source.select("last")[0]
    X = np.random.default_rng(0).normal(size=(12, *shape)).astype(np.float32)
    samples = Samples(lambda i: source.input.prepare(X[i]), source.input.collate, 12)
    result = source.layer(layer)
    width = result.shape[0] if result.axes == "chw" else result.shape[-1]
    start = HeadInit(
        np.random.default_rng(1).normal(size=(width, 2)) * 0.1, np.zeros(2), np.zeros(width), np.ones(width)
    )
    return finetune(source, [FeatureSpec(0, layer, "avg")], start, samples=samples,
                targets=np.eye(2)[np.arange(12) % 2],
                task="classification", policy=chosen, **how)  # fmt: skip


def test_units_by_number_name_and_all():
    assert {name[1] for name in names(policy("last_layers", layers=2))} == {"3", "4"}
    assert {name[1] for name in names(policy("last_layers", layers="layer1"))} == set("1234")
    assert {name[1] for name in names(policy("last_layers", layers="all"))} == set("01234")
    assert {name[1] for name in names(policy("last_layers"))} == {"4"}
    assert {name[1] for name in names(policy("last_layers", layers=99))} == set("01234")
    with pytest.raises(UnknownName, match="did you mean 'layer1'"):
        names(policy("last_layers", layers="layr1"))


def test_gradual_unfreezes_from_the_top_down():
    moves = policy("gradual", layers=3, every=2).trainable(PLACED, 5)
    assert {(m.name[1], m.start_epoch) for m in moves} == {("4", 0), ("3", 2), ("2", 4)}


def test_gradual_leaves_epochs_for_the_last_to_move():
    chosen = policy("gradual")
    after = training_config_for(chosen, 10_000, budget=None, seed=0, all_from_epoch=7).epochs
    assert after == 7 + training_config_for(chosen, 10_000, budget=None, seed=0).epochs
    assert training_config_for(policy("gradual", epochs=3), 10_000, budget=None, seed=0, all_from_epoch=7).epochs == 3


def test_a_unit_holds_still_until_its_turn():
    source = vector_source(networks.Dense)
    early = run(source, policy("gradual", layers="all", every=2, epochs=2, lr=0.05), layer="b")
    late = run(source, policy("gradual", layers="all", every=2, epochs=3, lr=0.05), layer="b")
    assert set(early.moved) == {"b.weight", "b.bias"}
    assert set(late.moved) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_biases_and_norms():
    assert names(policy("bias_only", layers=1)) == {"u4.conv.bias", "u4.norm.bias", "u4.lstm.bias_hh_l0"}
    assert len(names(policy("bias_only"))) == 15
    assert names(policy("norm_only", layers=1)) == {"u4.norm.weight", "u4.norm.bias"}
    assert names(policy("lora", layers="layer3")) == {"u3.fc.weight", "u4.fc.weight"}


def test_transformers_take_smaller_steps(monkeypatch):
    """A rate that is usual for convolutional networks destroys one of layer norms."""
    seen = []
    real = module.train
    monkeypatch.setattr(module, "train", lambda *args, **how: seen.append(how["config"].lr) or real(*args, **how))
    normed = vector_source(lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4)))
    for source in (vector_source(networks.Dense), normed):
        run(source, policy("full", epochs=1))
    assert seen[1] == pytest.approx(0.1 * seen[0])


# ---- lora -----------------------------------------------------------------------------------------------------------


def test_additions_are_of_low_rank_and_merged():
    source = vector_source(networks.Dense)
    outcome = run(source, policy("lora", rank=2, epochs=3, lr=0.05), layer="b")
    assert set(outcome.moved) == {"a.weight", "b.weight"}
    assert [type(m) for m in outcome.source.module.modules()] == [type(m) for m in source.module.modules()]
    for name in ("a", "b"):
        change = (outcome.source.module.get_submodule(name).weight - source.module.get_submodule(name).weight).detach()
        values = torch.linalg.svdvals(change)
        assert values[1] > 1e-6 and values[2] < 1e-5 * values[0]
    assert not hasattr(outcome.source.module, "peft_config")


def test_what_was_trained_is_what_was_merged():
    source = vector_source(networks.Dense)
    scores = []

    def score(decision):
        scores.append(decision.copy())
        return float(len(scores))

    X = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    held_out = Samples(lambda i: source.input.prepare(X[i]), source.input.collate, 12)
    outcome = run(source, policy("lora", rank=2, epochs=2, lr=0.05), layer="b", score=score, held_out=held_out)
    assert outcome.selected == "tuned"
    assert np.allclose(scores[2], scores[-1], atol=1e-5)  # after the last epoch, and after merging


def test_lora_needs_linear_layers():
    with pytest.raises(OptionError, match="trains no parameter"):
        run(image_source(networks.Normed, classifier="classifier"), policy("lora"), layer="pool", shape=(3, 16, 16))


# ---- where parameters stand -----------------------------------------------------------------------------------------


def test_boundaries_inside_a_block_fall_back_to_the_block_below():
    source = image_source(networks.Normed, classifier="classifier")
    assert _boundaries(source, "blocks.2.1") == ["blocks.2.1", "blocks.1", "stem"]
    assert _boundaries(source, "blocks.1") == ["blocks.1", "stem"]


@pytest.mark.slow
def test_keras_parameters_stand_where_their_layers_do(tmp_path):
    pytest.importorskip("keras")
    source = load_source(f"keras:{tiny_models.keras_file(tmp_path / 'small.keras')}")
    parameter_map = locate_parameters(source, ["dense"])
    units = {p.name.rpartition(".")[2]: parameter_map.unit_ends[p.unit] for p in parameter_map.parameters}
    assert units == {"conv/kernel": "conv", "conv/bias": "conv", "dense/kernel": "dense", "dense/bias": "dense"}
    before = state_bytes(source.module)
    outcome = run(source, policy("last_layers", layers=1, epochs=1, lr=0.01), layer="dense", shape=(12, 12, 3))
    assert {name.rpartition(".")[2] for name in outcome.moved} == {"dense/kernel", "dense/bias"}
    assert state_bytes(source.module) == before
