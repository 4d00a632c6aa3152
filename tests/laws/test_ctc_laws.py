"""What every CTC head must satisfy: it may stop anywhere, forget nothing, and see nothing beyond an item's end."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from headstart._base.constraints import invalid_values
from headstart.errors import DataError, OptionError
from headstart.speech_heads import CTC, Alphabet, CtcHead, Recogniser, ctc
from headstart.speech_heads.base import _NO_EFFECT
from headstart.training.config import TrainingConfig

LETTERS = Alphabet(("a", "b", "c"), "characters")
MEMBERS = list(CTC)


@pytest.fixture(params=MEMBERS)
def name(request):
    return request.param


def frames(lengths, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(2.0, 3.0, (n, d)).astype(np.float32) for n in lengths]


def made(name, lengths=(6, 11, 3), *, seed=0, **fields):
    return Recogniser.fresh(ctc(name, **fields), LETTERS, frames(lengths), seed)


def test_members_say_what_they_are(name):
    kind = CTC[name]
    assert issubclass(kind, CtcHead) and kind.name == name
    head = ctc(name)
    head.check()
    assert json.loads(json.dumps(head.config())) == head.config()
    assert ctc(name, **head.config()) == head
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.beam = 3


WRONG = [(name, *case) for name in MEMBERS for kind in (CTC[name], TrainingConfig) for case in invalid_values(kind)]


@pytest.mark.parametrize("case", [case for case in WRONG if case[1] not in _NO_EFFECT], ids=str)
def test_values_that_are_not_allowed_are_refused(case):
    name, field, value = case
    with pytest.raises(OptionError, match=field):
        ctc(name, **{field: value}).check()


def test_log_probabilities_sum_to_one(name):
    for item, given_ in zip(made(name).emissions(frames((6, 11, 3))), (6, 11, 3), strict=True):
        assert item.shape == (given_, 4) and np.allclose(np.exp(item).sum(1), 1, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from(MEMBERS))
def test_batch_mates_change_nothing(lengths, name):
    result = made(name)
    items = frames(lengths, seed=1)
    together = result.emissions(items)
    for item, alone in zip(together, items, strict=True):
        assert np.allclose(item, result.emissions([alone])[0], atol=1e-5)
    backwards = result.emissions(items[::-1])[::-1]
    assert all(np.allclose(a, b, atol=1e-5) for a, b in zip(together, backwards, strict=True))


def test_evaluation_is_repeatable_and_drops_nothing_out(name):
    result = made(name, dropout=0.9)
    result.network.train()
    item, two = (result.emissions(frames((7,)))[0] for _ in range(2))
    assert np.array_equal(item, two) and not result.network.training


def test_features_are_standardised_by_the_training_items(name):
    items = frames((300, 200), seed=4)
    items[0][:, 2] = items[1][:, 2] = 7.0  # never varies: left as it is but for its mean
    result = Recogniser.fresh(ctc(name), LETTERS, items)
    mean, scale = (result.network.get_buffer(part).numpy() for part in ("mean", "scale"))
    total = np.concatenate(items)
    assert np.allclose(mean, total.mean(0), atol=1e-4) and scale[2] == 1.0
    varying = [0, 1, 3, 4]
    assert np.allclose(scale[varying], total.std(0)[varying], rtol=1e-4)


def test_scale_and_offset_of_features_do_not_matter(name):
    items = frames((9, 14), seed=2)
    moved = [(item * 1000 + 50).astype(np.float32) for item in items]
    item, two = (Recogniser.fresh(ctc(name), LETTERS, given_, 3) for given_ in (items, moved))
    for a, b in zip(item.emissions(items), two.emissions(moved), strict=True):
        assert np.allclose(a, b, atol=1e-3)


def test_same_seed_same_weights_and_torchs_own_generator_is_left_alone(name):
    state = torch.random.get_rng_state()
    item, two, other = (made(name, seed=seed).state() for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(np.array_equal(item[key], two[key]) for key in item)
    assert any(not np.array_equal(item[key], other[key]) for key in item)


def test_what_is_written_down_is_read_back(name):
    result = made(name, beam=3)
    record = json.loads(json.dumps(result.config()))
    back = Recogniser.from_config(record, {key: value.copy() for key, value in result.state().items()})
    assert back.head == result.head and back.alphabet == result.alphabet
    items = frames((4, 9))
    assert all(np.array_equal(a, b) for a, b in zip(result.emissions(items), back.emissions(items), strict=True))
    assert result.texts(items) == back.texts(items)


HARM = {
    "an array missing": lambda arrays: arrays.pop("out.bias"),
    "an array too many": lambda arrays: arrays.update(extra=np.zeros(3, np.float32)),
    "another shape": lambda arrays: arrays.update({"out.bias": np.zeros(9, np.float32)}),
    "not finite": lambda arrays: arrays["out.bias"].__setitem__(0, np.nan),
    "another type": lambda arrays: arrays.update({"out.bias": arrays["out.bias"].astype(np.float64)}),
    "another width": lambda arrays: arrays.update(mean=np.zeros(4, np.float32)),
}


@pytest.mark.parametrize("harm", HARM)
def test_arrays_that_were_changed_are_refused(name, harm):
    result = made(name)
    arrays = {key: value.copy() for key, value in result.state().items()}
    HARM[harm](arrays)
    with pytest.raises((ValueError, KeyError)):
        Recogniser.from_config(result.config(), arrays)


@pytest.mark.parametrize("wrong", [np.zeros((4, 6)), np.zeros((0, 5)), np.zeros(5), np.zeros((1, 2, 5))], ids=str)
def test_frames_of_another_shape_are_refused(name, wrong):
    with pytest.raises(DataError, match="Frames must be"):
        made(name).texts([wrong.astype(np.float32)])


def test_gradients_reach_every_weight_and_learning_lowers_the_loss(name):
    result = made(name, dropout=0.0)
    batch, lengths = result.padded(frames((12, 20)))
    expected, sizes = torch.tensor([1, 2, 3, 1]), torch.tensor([2, 2])
    network = result.network.train()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    losses = []
    for _ in range(25):
        scores = network(batch, lengths).log_softmax(2).transpose(0, 1)
        loss = functional.ctc_loss(scores, expected, lengths, sizes)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_beam_of_one_is_the_best_path(name):
    result = made(name)
    items = frames((30, 5), seed=8)
    best = dataclasses.replace(result, head=dataclasses.replace(result.head, beam=1)).texts(items)
    for text, emissions in zip(best, result.emissions(items), strict=True):
        path = emissions.argmax(1)
        remaining = [n for i, n in enumerate(path) if n and (i == 0 or n != path[i - 1])]
        assert text == LETTERS.text(remaining)
