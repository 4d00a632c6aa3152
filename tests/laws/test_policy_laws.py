"""What every policy must satisfy: exactly what it declares moves, all else is bit-identical, frozen comes first."""

from __future__ import annotations

import dataclasses
from functools import partial

import members
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
from headstart._base.constraints import invalid_values, validate
from headstart.errors import OptionError, UnknownName
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import HeadInit, Samples, finetune
from headstart.finetuning.parameter_groups import locate_parameters, lowest_trainable
from headstart.policies import POLICIES, ParameterInfo, TrainableParameter, policy
from headstart.policies.base import FINETUNING
from headstart.sources import load_source
from headstart.training.config import Augment, TrainingConfig
from networks import image_source, state_bytes, vector_source


class Attention(torch.nn.Module):
    """A small vision transformer: tokens, a class token and positions held by the network itself."""

    def __init__(self):
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8) * 0.1)
        self.position = torch.nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        make = partial(torch.nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True)
        self.blocks = torch.nn.ModuleList([make() for _ in range(3)])
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


MAKERS = {
    "cnn": lambda: load_source("cnn:small", size=(16, 16), channels=3, classes=3),
    "vit": lambda: image_source(Attention),
    "lstm": lambda: load_source("lstm:small", vocabulary=tuple("abcdefgh"), embedding=5, hidden=4),
    "normed": lambda: image_source(networks.Normed, classifier="classifier"),
    "dense": lambda: vector_source(networks.Dense),
    "out of order": lambda: vector_source(networks.OutOfOrder),
    "recurrent": lambda: vector_source(networks.Recurrent),
}


@pytest.fixture(params=members.POLICIES)
def name(request):
    return request.param


@pytest.fixture(params=MAKERS)
def source(request):
    return MAKERS[request.param]()


@st.composite
def placed(draw):
    """Parameters in units, in any order."""
    units = draw(st.integers(1, 12))
    n_items = [draw(st.integers(1, 3)) for _ in range(units)]
    result = [ParameterInfo(f"u{u}.p{i}", u, draw(st.sampled_from(["linear", "conv2d", "batchnorm2d"])))
             for u, n in enumerate(n_items) for i in range(n)]  # fmt: skip
    return draw(st.permutations(result)), units


def items_for(source, seed):
    """Ten random items: texts of different lengths, pictures or vectors."""
    rng = np.random.default_rng(seed)
    if source.modality == "text":
        return [" ".join(rng.choice(list("abcdefgh"), 2 + i % 5)) for i in range(10)]
    shape = (10, 3, 16, 16) if source.modality == "image" else (10, 8)
    return rng.normal(size=shape).astype(np.float32)


def trained(source, chosen, *, seed=0, epochs=1, layer=None, **how):
    """One short fine-tuning on random data; the outcome."""
    layer = layer or source.select("last")[0]
    X = items_for(source, seed)
    samples = Samples(lambda i: source.input.prepare(X[i]), source.input.collate, len(X))
    axes, sides = source.layer(layer).axes, source.layer(layer).shape
    width = sides[0] if axes == "chw" else sides[-1]
    start = HeadInit(
        np.random.default_rng(1).normal(size=(width, 3)) * 0.1, np.zeros(3), np.zeros(width), np.ones(width)
    )
    return finetune(
        source, [FeatureSpec(0, layer, "avg")], start, samples=samples, targets=np.eye(3)[np.arange(10) % 3],
        task="classification", policy=chosen, seed=seed, held_out=samples if "score" in how else None, **how,
    )  # fmt: skip


def moving(name, **how):
    """A policy with settings that make every step count."""
    return policy(name, epochs=1, batch_size=4, lr=0.05, **how)


@given(data=placed())
def test_moves_are_parameters_that_exist(name, data):
    result, units = data
    moves = policy(name).trainable(result, units)
    names = [p.name for p in result]
    assert all(isinstance(move, TrainableParameter) and move.name in names for move in moves)
    assert len({move.name for move in moves}) == len(moves)
    assert all(move.lr_scale > 0 and move.start_epoch >= 0 for move in moves)


@given(data=placed(), decay=st.sampled_from([1.0, 0.9, 0.5]))
def test_nearer_the_input_is_never_faster(name, data, decay):
    result, units = data
    moves = {m.name: m.lr_scale for m in policy(name, layer_decay=decay).trainable(result, units)}
    unit = {p.name: p.unit for p in result}
    for a in moves:
        for b in moves:
            if unit[a] < unit[b]:
                assert moves[a] <= moves[b]
    if decay == 1.0:
        assert set(moves.values()) <= {1.0}


@given(data=placed(), seed=st.integers(0, 99))
def test_the_order_of_parameters_does_not_matter(name, data, seed):
    result, units = data
    shuffled = [result[i] for i in np.random.default_rng(seed).permutation(len(result))]
    item, other = (policy(name).trainable(subset, units) for subset in (result, shuffled))
    assert sorted(item, key=str) == sorted(other, key=str)


@given(data=placed())
def test_what_is_frozen_for_good_lies_below_what_moves(name, data):
    """Units that move are the topmost ones, so that there is one frozen prefix (a policy may pick some of them)."""
    result, units = data
    moves = policy(name).trainable(result, units)
    unit = {p.name: p.unit for p in result}
    touched = {unit[m.name] for m in moves}
    upper = set(range(min(touched, default=units), units))
    assert touched <= upper if POLICIES[name].partial else touched in (set(), upper)


def test_exactly_the_declared_parameters_move(name, source):
    chosen = moving(name)
    parameter_map = locate_parameters(source, [source.select("last")[0]])
    declared = {
        m.name for m in chosen.trainable(parameter_map.parameters, len(parameter_map.unit_ends)) if m.start_epoch == 0
    }
    before = state_bytes(source.module)
    if not declared:
        with pytest.raises(OptionError, match="trains no parameter"):
            trained(source, chosen)
        return
    outcome = trained(source, chosen)
    after = state_bytes(outcome.source.module)
    assert after.keys() == before.keys()
    moved = {k for k, _ in source.module.named_parameters() if before[k] != after[k]}
    assert moved == set(outcome.moved)
    assert moved == {name for name in declared if not name.startswith("never")}  # no forward pass reaches that one


def test_every_buffer_and_the_source_given_are_bit_identical(name, source):
    before = state_bytes(source.module)
    fingerprint = source.fingerprint
    try:
        outcome = trained(source, moving(name), epochs=3)
    except OptionError:
        pytest.skip("it moves nothing")
    after = state_bytes(outcome.source.module)
    buffers = {k for k, _ in source.module.named_buffers()}
    assert all(after[k] == before[k] for k in buffers)
    assert state_bytes(source.module) == before
    assert source.fingerprint == fingerprint != outcome.source.fingerprint
    assert outcome.source.module is not source.module
    assert not any(m.training for m in outcome.source.module.modules())
    assert networks.hooks_of(outcome.source.module) == networks.hooks_of(source.module) == 0


def test_the_frozen_prefix_gives_the_same_features(name, source):
    chosen = moving(name)
    parameter_map = locate_parameters(source, [source.select("last")[0]])
    lowest = lowest_trainable(chosen.trainable(parameter_map.parameters, len(parameter_map.unit_ends)), parameter_map)
    if not lowest:
        pytest.skip("nothing moves, or everything does")
    outcome = trained(source, chosen)
    boundary = parameter_map.unit_ends[lowest - 1]
    batch = source.input.tensors(source.input.example(3), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        rows = [s.run(batch, {boundary: torch.clone})[boundary] for s in (source, outcome.source)]
    assert torch.equal(*rows)


def test_runs_repeat_to_the_bit(name, source):
    try:
        item, other = (trained(source, moving(name)) for _ in range(2))
    except OptionError:
        pytest.skip("it moves nothing")
    assert state_bytes(item.source.module) == state_bytes(other.source.module)
    assert item.coef.tobytes() == other.coef.tobytes()


def test_killed_and_resumed_equals_uninterrupted(name, source, tmp_path):
    """Weights, optimiser, schedule, what is still frozen, and the order of the data."""
    chosen = policy(name, epochs=4, batch_size=4, lr=0.02)

    def score(dying_at=0):
        calls = []

        def scored(decision):
            calls.append(1)
            if len(calls) == dying_at:
                raise KeyboardInterrupt
            return -float(np.square(decision).mean())

        return scored

    try:
        full = trained(source, chosen, score=score())
    except OptionError:
        assert not places_move(name, source)
        return
    with pytest.raises(KeyboardInterrupt):  # at the start, and after two epochs
        trained(source, chosen, score=score(dying_at=4), checkpoint=tmp_path / "run")
    again = trained(source, chosen, score=score(), checkpoint=tmp_path / "run")
    assert state_bytes(again.source.module) == state_bytes(full.source.module)
    assert again.coef.tobytes() == full.coef.tobytes()
    assert (again.history.loss, again.history.score, again.selected) == (
        full.history.loss,
        full.history.score,
        full.selected,
    )
    assert len(again.history.loss) == 4


def places_move(name, source):
    parameter_map = locate_parameters(source, [source.select("last")[0]])
    return policy(name).trainable(parameter_map.parameters, len(parameter_map.unit_ends))


def test_every_setting_is_checked(name):
    for kind in (POLICIES[name], TrainingConfig, Augment):
        for field, value in invalid_values(kind):
            # budget and seed are given to fit
            error = UnknownName if field in ("budget", "seed") else OptionError
            with pytest.raises(error, match=rf"{kind.__name__}\({field}=…\)|fields of policy"):
                policy(name, **{field: value})
    validate(policy(name))


def test_settings_of_training_go_into_the_config_that_it_carries(name):
    chosen = policy(name, epochs=3, ema=0.5, views=2, mixup=0.1, num_workers=2)
    assert chosen.training == dataclasses.replace(FINETUNING, epochs=3, ema=0.5, num_workers=2)
    assert chosen.augment == Augment(views=2, mixup=0.1)
    assert chosen.with_training(epochs=4).training.epochs == 4 and chosen.training.epochs == 3


def test_names_are_the_tables(name):
    assert POLICIES[name].name == name
    assert policy(name).name == name
    assert policy(policy(name)) == policy(name)


def test_unknown_fields_are_refused(name):
    with pytest.raises(UnknownName, match=rf"fields of policy '{name}'; did you mean 'epochs'"):
        policy(name, epoch=3)


def test_policies_are_plain_and_frozen(name):
    result = policy(name)
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in result.record().values())
    assert policy(name, **result.record()) == result
    with pytest.raises(AttributeError):
        result.epochs = 3
