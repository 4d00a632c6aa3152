"""The training loop: exact resume, early stopping, budget, averages, bad numbers, and what it leaves alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from headstart._base.constraints import invalid_values
from headstart._base.progress import listening
from headstart.errors import DataError, HeadstartError, NumericsError, OptionError, StoreError
from headstart.training import loop as training
from headstart.training.batches import epoch_batches
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import TrainingConfig
from headstart.training.loop import train
from networks import seeded, separable


class Net(nn.Module):
    """Dropout and batch normalisation: everything that an inexact resume would get wrong."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.drop(torch.relu(self.norm(self.a(x)))))


X, Y = separable(60)
XT, YT = torch.from_numpy(X), torch.from_numpy(Y)
HELD, HELD_Y = separable(60, seed=5)


def setup(seed=0):
    net = seeded(Net, seed)
    net.train()

    def loss(indices, generator):
        where = torch.from_numpy(indices)
        noise = torch.randn(len(indices), 8, generator=generator) * 0.1
        return nn.functional.cross_entropy(net(XT[where] + noise), YT[where])

    def score():
        net.eval()
        with torch.no_grad():
            result = float((net(torch.from_numpy(HELD)).argmax(1).numpy() == HELD_Y).mean())
        net.train()
        return result

    return net, loss, score


def group(net, **how):
    return ParameterGroup(dict(net.named_parameters()), **how)


def buffers(net):
    return dict(net.named_buffers())


def fit(net, loss, config, score=None, **how):
    return train([group(net)], loss, len(X), config=config, validate_score=score, buffers=buffers(net), **how)


def state(net):
    return {k: v.detach().numpy().tobytes() for k, v in net.state_dict().items()}


def plain(history):
    """What must repeat: everything but the seconds."""
    return {k: v for k, v in history.to_dict().items() if k != "epoch_seconds"}


# ---- it learns ------------------------------------------------------------------------------------------------------


def test_it_learns():
    net, loss, score = setup()
    history = fit(net, loss, TrainingConfig(epochs=12, batch_size=16, lr=0.02), score)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert max(history.score) > 0.9
    assert history.stopped == "all epochs done"
    assert len(history.loss) == len(history.score) == len(history.lr) == len(history.epoch_seconds) == 12


def test_runs_repeat_to_the_bit():
    result = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the global generator must not matter
        np.random.seed(noise)  # noqa: NPY002
        random.seed(noise)
        net, loss, score = setup()
        result.append((plain(fit(net, loss, TrainingConfig(epochs=3, batch_size=16, ema=0.9), score)), state(net)))
    assert result[0] == result[1]
    net, loss, score = setup()
    assert plain(fit(net, loss, TrainingConfig(epochs=3, batch_size=16, ema=0.9, seed=1), score)) != result[0][0]


def test_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    net, loss, score = setup()
    fit(net, loss, TrainingConfig(epochs=2), score)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]
    with pytest.raises(ZeroDivisionError):
        fit(net, lambda *_: 1 / 0, TrainingConfig(epochs=2))
    assert torch.equal(torch.get_rng_state(), before[0])


@given(count=st.integers(1, 300), size=st.integers(1, 64), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_every_item_once_per_epoch_in_parts_of_nearly_one_size(count, size, seed, epoch):
    config = TrainingConfig(batch_size=size, seed=seed)
    parts = epoch_batches(count, config, epoch)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    lengths = [len(part) for part in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    again = epoch_batches(count, config, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    if count > 20:
        assert not np.array_equal(np.concatenate(parts), np.concatenate(epoch_batches(count, config, epoch + 1)))


def test_adam_is_torchs():
    """One group, no clipping, no decay: the same numbers as torch's own loop."""
    net, twin = seeded(lambda: nn.Linear(8, 3)), seeded(lambda: nn.Linear(8, 3))
    config = TrainingConfig(
        epochs=2, batch_size=20, lr=0.01, warmup=0, schedule="constant", clip=None, weight_decay=0.1
    )

    def loss(model):
        return lambda indices, _: nn.functional.cross_entropy(model(XT[indices]), YT[indices])

    train([group(net)], loss(net), len(X), config=config)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    for epoch in range(2):
        for indices in epoch_batches(len(X), config, epoch):
            optimizer.zero_grad()
            loss(twin)(indices, None).backward()
            optimizer.step()
    assert torch.allclose(net.weight, twin.weight, atol=1e-7)
    assert torch.allclose(net.bias, twin.bias, atol=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_rate_warms_up_and_decays(schedule, warmup, monkeypatch):
    seen = []
    real = training.set_learning_rates
    monkeypatch.setattr(training, "set_learning_rates", lambda *a: seen.append(real(*a)) or seen[-1])
    net, loss, _ = setup()
    fit(net, loss, TrainingConfig(epochs=8, batch_size=15, lr=0.4, warmup=warmup, schedule=schedule))
    assert len(seen) == 32
    warm = int(32 * warmup)
    if warm:
        assert np.allclose(seen[:warm], 0.4 * (np.arange(warm) + 1) / warm)
    rest = np.array(seen[warm:])
    if schedule == "constant":
        assert np.allclose(rest, 0.4)
    else:
        assert np.allclose(rest, 0.2 * (1 + np.cos(np.pi * np.arange(len(rest)) / len(rest))))


def test_factors_and_starts_of_groups():
    net, loss, _ = setup()
    named = dict(net.named_parameters())
    first = {k: v for k, v in named.items() if k.startswith("a.")}
    rest = {k: v for k, v in named.items() if not k.startswith("a.")}
    before, moved = {k: v.detach().clone() for k, v in named.items()}, []

    def score():
        moved.append(not torch.equal(net.a.weight, before["a.weight"]))
        return 0.0

    groups = [ParameterGroup(first, lr_scale=0.1, start_epoch=2), ParameterGroup(rest, lr_scale=2.0)]
    train(groups, loss, len(X), config=TrainingConfig(epochs=4), validate_score=score, buffers=buffers(net))
    assert moved == [False, False, True, True]
    assert not torch.equal(net.b.weight, before["b.weight"])


def test_weight_decay_only_where_it_is_wanted():
    decayed, spared = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    groups = [ParameterGroup({"d": decayed}), ParameterGroup({"s": spared}, weight_decay=False)]

    def loss(indices, _):
        return (decayed + spared).sum() * 0.0

    train(groups, loss, 4, config=TrainingConfig(epochs=3, lr=0.1, weight_decay=0.5))
    assert torch.equal(spared, torch.ones(3))
    assert (decayed < 1).all()


def test_what_is_in_no_group_does_not_move():
    net, loss, _ = setup()
    net.eval()  # no statistics move either
    before = state(net)
    train([ParameterGroup({"b.weight": net.b.weight})], loss, len(X), config=TrainingConfig(epochs=2))
    after = state(net)
    assert {k for k in before if before[k] != after[k]} == {"b.weight"}


def test_gradients_are_cleared_at_the_end():
    net, loss, _ = setup()
    fit(net, loss, TrainingConfig(epochs=1))
    assert all(p.grad is None for p in net.parameters())


def test_clipping_bounds_the_step():
    weight = nn.Parameter(torch.zeros(4))
    seen = []

    def loss(indices, _):
        return (weight * 1e6).sum()

    hook = weight.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.norm())))
    norms = []
    real = torch.optim.AdamW.step

    def step(self, *a, **k):
        norms.append(float(weight.grad.norm()))
        return real(self, *a, **k)

    torch.optim.AdamW.step = step
    try:
        train([ParameterGroup({"w": weight})], loss, 4, config=TrainingConfig(epochs=2, clip=0.5))
    finally:
        torch.optim.AdamW.step = real
        hook.remove()
    assert all(norm > 1e6 for norm in seen)
    assert all(norm == pytest.approx(0.5, rel=1e-4) for norm in norms)


# ---- validation -----------------------------------------------------------------------------------------------------


def scripted(values):
    left = list(values)
    return lambda: left.pop(0)


def test_the_best_epoch_is_left_behind():
    """Parameters and moving statistics of the best epoch, not of the last."""
    saved = []
    net, loss, _ = setup()

    def score():
        saved.append(state(net))
        return [0.1, 0.9, 0.3, 0.2][len(saved) - 1]

    history = fit(net, loss, TrainingConfig(epochs=4), score)
    assert history.best == 1
    assert state(net) == saved[1]
    assert saved[1] != saved[3]


def test_without_a_score_the_last_epoch_is_left_behind():
    net, loss, _ = setup()
    history = fit(net, loss, TrainingConfig(epochs=3))
    assert history.best == 2
    assert history.score == []


def test_of_equals_the_first_is_kept():
    net, loss, _ = setup()
    assert fit(net, loss, TrainingConfig(epochs=3), scripted([0.5, 0.5, 0.5])).best == 0


def test_early_stopping():
    net, loss, _ = setup()
    history = fit(net, loss, TrainingConfig(epochs=9, patience=2), scripted([0.1, 0.5, 0.4, 0.5, 0.9, 0.9, 0.9]))
    assert len(history.score) == 4
    assert history.best == 1
    assert history.stopped == "no better for 2 epochs"


@pytest.mark.parametrize("values", [[math.nan, 0.3, 0.2], [0.1, math.nan, 0.3], [math.nan] * 3])
def test_a_score_that_is_no_number_is_the_worst(values):
    net, loss, _ = setup()
    history = fit(net, loss, TrainingConfig(epochs=3), scripted(values))
    good = [-math.inf if math.isnan(v) else v for v in values]
    assert history.best == good.index(max(good))
    assert history.score == good


# ---- averages -------------------------------------------------------------------------------------------------------


def test_the_average_is_what_is_validated_and_kept():
    steps, seen = [], []
    weight = nn.Parameter(torch.zeros(1))

    def loss(indices, _):
        steps.append(float(weight.detach()))
        return (weight - 10).square().sum()

    def score():
        seen.append(float(weight.detach()))
        return float(weight.detach())

    train(
        [ParameterGroup({"w": weight})],
        loss,
        4,
        config=TrainingConfig(epochs=6, lr=0.5, ema=0.5, warmup=0),
        validate_score=score,
    )
    after = [*steps[1:], None]
    average, expected = None, []
    for step, value in enumerate(after[:-1], 1):
        average = value if average is None else average
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
        expected.append(average)
    assert np.allclose(seen[:5], expected, rtol=1e-5)
    assert float(weight.detach()) == pytest.approx(max(seen))
    assert seen[0] <= steps[1] + 1e-6


def test_the_average_is_left_behind_without_a_score_too():
    result = []
    for ema in (0.0, 0.9):
        net, loss, _ = setup()
        fit(net, loss, TrainingConfig(epochs=3, ema=ema))
        result.append(state(net))
    assert result[0]["a.weight"] != result[1]["a.weight"]


# ---- budget ---------------------------------------------------------------------------------------------------------


class Clock:
    """Time passes only in the loss and in validation."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(training.time, "perf_counter", lambda: self.now)

    def loss(self, weight, seconds):
        def spend(indices, _):
            self.now += seconds
            return weight.square().sum()

        return spend


@pytest.mark.parametrize(("budget", "epochs"), [(100.0, 10), (1000.0, 50), (1.0, 1), (10.0, 1), (20.0, 2)])
def test_the_budget_cuts_epochs(monkeypatch, budget, epochs):
    clock, weight = Clock(monkeypatch), nn.Parameter(torch.ones(2))
    config = TrainingConfig(epochs=50, batch_size=2, lr=0.1, budget=budget)
    history = train([ParameterGroup({"w": weight})], clock.loss(weight, 1.0), 20, config=config)
    assert len(history.loss) == epochs
    assert history.lr[-1] < 0.2 * config.lr or epochs < 5  # the schedule still ends


def test_validation_counts_towards_the_budget(monkeypatch):
    clock, weight = Clock(monkeypatch), nn.Parameter(torch.ones(2))

    def score():
        clock.now += 40.0
        return 0.0

    config = TrainingConfig(epochs=50, batch_size=2, budget=200.0)
    history = train([ParameterGroup({"w": weight})], clock.loss(weight, 1.0), 20, config=config, validate_score=score)
    assert len(history.loss) == 4
    assert clock.now <= 200


def test_the_cut_is_said(monkeypatch):
    message = []

    class Notes:
        note = staticmethod(message.append)
        start = advance = finish = staticmethod(lambda *_: None)

    clock, weight = Clock(monkeypatch), nn.Parameter(torch.ones(2))
    with listening(Notes()):
        train(
            [ParameterGroup({"w": weight})],
            clock.loss(weight, 1.0),
            20,
            config=TrainingConfig(epochs=9, batch_size=2, budget=30.0),
        )
    assert message == ["3 of 9 epochs fit into 30 s (10.0 s each)."]


# ---- bad numbers and nothing to do ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(value):
    net, loss, _ = setup()
    calls = []

    def bad(indices, generator):
        calls.append(1)
        return loss(indices, generator) * (value if len(calls) == 3 else 1.0)

    with pytest.raises(NumericsError, match=r"The loss is (nan|inf) at step 3 \(epoch 2\).*smaller lr than 0.001"):
        fit(net, bad, TrainingConfig(epochs=4, batch_size=30))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_no_number_never_reaches_the_weights(clip):
    """Also in the last step, after which no loss would show it."""
    weight = nn.Parameter(torch.zeros(1))

    def loss(indices, _):
        return torch.sqrt(weight).sum()  # 0 with an infinite slope

    with pytest.raises(NumericsError, match="gradient is not finite"):
        train([ParameterGroup({"w": weight})], loss, 2, config=TrainingConfig(epochs=1, clip=clip))
    assert float(weight.detach()) == 0


def test_nothing_to_train_or_to_train_on():
    net, loss, _ = setup()
    for groups in ([], [ParameterGroup({})]):
        with pytest.raises(OptionError, match="no group holds a parameter"):
            train(groups, loss, 10, config=TrainingConfig())
    with pytest.raises(DataError, match="number of items is 0"):
        train([group(net)], loss, 0, config=TrainingConfig())


@pytest.mark.parametrize(("field", "value"), list(invalid_values(TrainingConfig)), ids=str)
def test_settings_that_are_not_allowed(field, value):
    net, loss, _ = setup()
    with pytest.raises(OptionError, match=rf"TrainingConfig\({field}=…\)"):
        fit(net, loss, TrainingConfig(**{field: value}))


# ---- resume ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had ended."""


def killed_after(epochs, score):
    left = [epochs]

    def watched():
        value = score()
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return value

    return watched


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("epochs", [1, 3, 5])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, epochs, ema):
    config = TrainingConfig(epochs=6, batch_size=16, lr=0.02, ema=ema, weight_decay=0.1)
    net, loss, score = setup()
    full = plain(fit(net, loss, config, score))
    expected = state(net)

    path = tmp_path / "run.safetensors"
    net, loss, score = setup()
    with pytest.raises(Killed):
        fit(net, loss, config, killed_after(epochs, score), checkpoint=path)
    assert path.is_file()
    net, loss, score = setup(seed=77)  # initial weights do not matter any more
    assert plain(fit(net, loss, config, score, checkpoint=path)) == full
    assert state(net) == expected


def test_killed_without_a_score(tmp_path):
    config = TrainingConfig(epochs=5, batch_size=16)
    net, loss, _ = setup()
    full = plain(fit(net, loss, config))
    expected = state(net)
    calls = []
    net, loss, _ = setup()

    def dying(indices, generator):
        calls.append(1)
        if len(calls) == 10:
            raise Killed
        return loss(indices, generator)

    path = tmp_path / "run"
    with pytest.raises(Killed):
        fit(net, dying, config, checkpoint=path)
    net, loss, _ = setup()
    assert plain(fit(net, loss, config, checkpoint=path)) == full
    assert state(net) == expected


@given(kills=st.lists(st.integers(1, 3), min_size=1, max_size=3), ema=st.sampled_from([0.0, 0.5]))
@settings(max_examples=5)
def test_killed_again_and_again(tmp_path_factory, kills, ema):
    config = TrainingConfig(epochs=8, batch_size=30, ema=ema)
    path = tmp_path_factory.mktemp("runs") / "run"
    net, loss, score = setup()
    full, expected = plain(fit(net, loss, config, score)), None
    expected = state(net)
    for epochs in kills:
        net, loss, score = setup()
        with pytest.raises(Killed):
            fit(net, loss, config, killed_after(min(epochs, 2), score), checkpoint=path)
    net, loss, score = setup()
    assert plain(fit(net, loss, config, score, checkpoint=path)) == full
    assert state(net) == expected


def test_a_finished_run_is_not_run_again(tmp_path):
    config, path = TrainingConfig(epochs=3), tmp_path / "run"
    net, loss, score = setup()
    full = plain(fit(net, loss, config, score, checkpoint=path))
    expected = state(net)
    net, _, _ = setup(seed=5)
    again = fit(net, lambda *_: pytest.fail("it trained"), config, lambda: pytest.fail("it scored"), checkpoint=path)
    assert plain(again) == full
    assert state(net) == expected


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    config, path = TrainingConfig(epochs=9, patience=2), tmp_path / "run"
    net, loss, _ = setup()
    first = fit(net, loss, config, scripted([0.5, 0.1, 0.1]), checkpoint=path)
    expected = state(net)
    net, _, _ = setup()
    again = fit(net, lambda *_: pytest.fail("it trained on"), config, scripted([]), checkpoint=path)
    assert plain(again) == plain(first)
    assert again.stopped == "no better for 2 epochs"
    assert state(net) == expected


def test_a_budget_that_was_cut_stays_cut(tmp_path, monkeypatch):
    clock, path = Clock(monkeypatch), tmp_path / "run"
    weight = nn.Parameter(torch.ones(2))
    config = TrainingConfig(epochs=50, batch_size=2, budget=50.0)
    calls = []

    def dying(indices, generator):
        calls.append(1)
        if len(calls) == 25:
            raise Killed
        return clock.loss(weight, 1.0)(indices, generator)

    with pytest.raises(Killed):
        train([ParameterGroup({"w": weight})], dying, 20, config=config, checkpoint=path)
    history = train([ParameterGroup({"w": weight})], clock.loss(weight, 0.001), 20, config=config, checkpoint=path)
    assert len(history.loss) == 5


@pytest.fixture
def checkpoint(tmp_path):
    net, loss, score = setup()
    fit(net, loss, TrainingConfig(epochs=2), score, checkpoint=tmp_path / "run", identity="mine")
    return tmp_path / "run"


def resume(checkpoint, config=None, net=None, **how):
    result, loss, score = setup()
    config = config or TrainingConfig(epochs=2)
    return fit(net or result, loss, config, score, checkpoint=checkpoint, **{"identity": "mine", **how})


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "no header", "no state", "odd state"])
def test_a_damaged_checkpoint(checkpoint, damage):
    blob = checkpoint.read_bytes()
    tensors = load_file(checkpoint)
    if damage == "no header":
        save_file(tensors, checkpoint)
    elif damage == "no state":
        save_file(tensors, checkpoint, {"run": "{}"})
    elif damage == "odd state":
        save_file(tensors, checkpoint, {"run": "{}", "state": '{"epoch": "x", "history": {"a": 1}}'})
    else:
        checkpoint.write_bytes({"empty": b"", "half": blob[: len(blob) // 2], "noise": os.urandom(999)}[damage])
    with pytest.raises(StoreError, match=r"damaged.*delete it to start again"):
        resume(checkpoint)


@given(data=st.data())
@settings(max_examples=15)
def test_a_flipped_bit_is_an_error_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "run"
    net, loss, score = setup()
    fit(net, loss, TrainingConfig(epochs=1), score, checkpoint=path)
    blob = bytearray(path.read_bytes())
    blob[data.draw(st.integers(0, 1500))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(blob)
    with contextlib.suppress(HeadstartError):
        resume(path, TrainingConfig(epochs=1), identity="")


@pytest.mark.parametrize("change", ["config", "identity", "count", "names", "shapes"])
def test_a_checkpoint_of_another_run(checkpoint, change):
    net, loss, score = setup()
    options = {
        "config": TrainingConfig(epochs=2),
        "checkpoint": checkpoint,
        "identity": "mine",
        "buffers": buffers(net),
    }
    groups, count = [group(net)], len(X)
    if change == "config":
        options["config"] = dataclasses.replace(options["config"], lr=0.5)
    elif change == "identity":
        options["identity"] = "another"
    elif change == "count":
        count = 59
    elif change == "names":
        groups = [ParameterGroup({f"x.{k}": v for k, v in net.named_parameters()})]
    else:
        net.b = nn.Linear(16, 4)
        groups = [group(net)]
    with pytest.raises(StoreError, match="belongs to another run"):
        train(groups, loss, count, validate_score=score, **options)


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    net, loss, _ = setup()
    with pytest.raises(StoreError, match="Cannot write"):
        fit(net, loss, TrainingConfig(epochs=1), checkpoint=tmp_path / "file" / "run")


def test_a_checkpoint_holds_no_code(checkpoint):
    tensors = load_file(checkpoint)
    assert {name.partition("/")[0] for name in tensors} == {"now", "best", "adam"}
    assert len(list(checkpoint.parent.iterdir())) == 1


@pytest.mark.slow
def test_killed_by_the_system_and_resumed(tmp_path):
    """A real SIGKILL between and inside epochs; the last process finishes and equals one that was never killed."""
    code = """
import os, sys, time
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_training import TrainingConfig, fit, plain, setup, state
net, loss, score = setup()
slow = lambda i, g: (time.sleep(0.01), loss(i, g))[1]
path = Path(sys.argv[3]) if len(sys.argv) > 3 else None
print("ready", flush=True)
history = plain(fit(net, slow, TrainingConfig(epochs=20, batch_size=10, ema=0.5), score, checkpoint=path))
import hashlib
print(hashlib.sha256(repr((history, sorted(state(net).items()))).encode()).hexdigest())
"""
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, str(here.parent / "src"), str(here)]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    chance = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen([*command, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(timeout=0.1 + chance.random() * 0.5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == expected
