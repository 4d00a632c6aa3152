"""Fine-tuning: where it starts, what moves how fast, what is kept, and parameters of odd networks."""

from __future__ import annotations

import dataclasses
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
from headstart.dataset import Dataset
from headstart.errors import OptionError, StoreError, UnknownName
from headstart.extraction import extract, sample_loader
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import FineTuneModel, HeadInit, finetune
from headstart.finetuning.finetune import decisions, training_config_for
from headstart.finetuning.parameter_groups import locate_parameters, lowest_trainable
from headstart.heads import head
from headstart.policies import policy
from headstart.sources import load_source
from headstart.training.batches import Samples
from headstart.training.losses import loss_for
from networks import image_source, picture_data, separable, state_bytes, vector_source

module = import_module("headstart.finetuning.finetune")  # the package gives the function of that name

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 16}


def problem(n=60, *, classes=3, held_out=30, d=8, teach=None):
    """Vectors, a source of them, its solved head on layer b, and samples."""
    X, y = separable(n + held_out, classes=classes, d=d) if teach is None else (networks.vectors(n + held_out, d), None)
    y = y if teach is None else teach(X)
    source = vector_source(lambda: networks.Dense(d=d))
    data = Dataset.from_arrays(X, [f"c{label}" for label in y])
    rows = extract(source, data, layers="b", store=False, **PLAIN).rows("b", data)
    T = np.eye(classes)[y]
    solved = head("ridge", alpha=1.0).fit(rows[:n], T[:n], task="classification")
    samples = Samples(lambda i: source.input.prepare(X[i]), source.input.collate, n)
    remaining = Samples(lambda i: source.input.prepare(X[n + i]), source.input.collate, held_out)
    start = HeadInit.of(solved.coef_, solved.intercept_, rows[:n])
    return {"source": source, "rows": rows, "T": T, "y": y, "n": n, "head": solved, "samples": samples,
            "held_out": remaining, "start": start}  # fmt: skip


def accuracy(p):
    return lambda decision: float((decision.argmax(1) == p["y"][p["n"] :]).mean())


def run(p, chosen, **how):
    return finetune(
        p["source"], [FeatureSpec(0, "b", "avg")], p["start"], samples=p["samples"], targets=p["T"][: p["n"]],
        task="classification", policy=chosen, **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def p():
    return problem()


# ---- where it starts ------------------------------------------------------------------------------------------------


def test_the_first_decisions_are_the_heads(p):
    model = FineTuneModel(p["source"], [FeatureSpec(0, "b", "avg")], p["start"])
    result = decisions(model, p["samples"])
    expected = p["head"].decision(p["rows"][: p["n"]])
    assert np.abs(result - expected).max() < 1e-4
    coef, intercept = model.export_head()
    assert np.allclose(coef, p["head"].coef_, atol=1e-4)
    assert np.allclose(intercept, p["head"].intercept_, atol=1e-4)


def test_several_layers_start_from_their_head(tmp_path):
    source = image_source(networks.Normed, classifier="classifier")
    data = picture_data(20, classes=2)
    bank = extract(source, data, layers=["blocks.1", "pool"], pooling={"blocks.1": "avg+std", "pool": "avg"},
                   store=tmp_path, **PLAIN)  # fmt: skip
    rows = np.concatenate([bank.rows("blocks.1", data), bank.rows("pool", data)], 1)
    T = np.eye(2)[np.arange(20) % 2]
    solved = head("ridge", alpha=0.1).fit(rows, T, task="classification")
    features = [FeatureSpec(0, "blocks.1", "avg+std"), FeatureSpec(0, "pool", "avg")]
    model = FineTuneModel(source, features, HeadInit.of(solved.coef_, solved.intercept_, rows))
    samples = Samples(sample_loader(source, data), source.input.collate, 20)
    assert np.abs(decisions(model, samples) - solved.decision(rows)).max() < 1e-4


def test_features_that_never_vary_do_not_divide_by_zero():
    rows = np.ones((10, 3))
    rows[:, 0] = np.arange(10)
    start = HeadInit.of(np.ones((3, 2)), np.zeros(2), rows)
    assert start.std[1] == start.std[2] == 1.0
    assert start.mean.tolist() == [4.5, 1, 1]


def test_dropout_and_statistics_are_still_at_the_start():
    source = image_source(networks.Normed, classifier="classifier")
    model = FineTuneModel(
        source, [FeatureSpec(0, "pool", "avg")], HeadInit(np.ones((16, 2)), np.zeros(2), np.zeros(16), np.ones(16))
    )
    assert not any(m.training for m in model.network.modules())
    assert not any(p.requires_grad for p in model.network.parameters())
    assert model.network is not source.module


# ---- what moves -----------------------------------------------------------------------------------------------------


def test_rates_decay_towards_the_input(p):
    parameter_map = locate_parameters(p["source"], ["b"])
    assert parameter_map.unit_ends == ("a", "b")
    moves = policy("full", layer_decay=0.5).trainable(parameter_map.parameters, 2)
    assert {m.name: m.lr_scale for m in moves} == {"a.weight": 0.5, "a.bias": 0.5, "b.weight": 1.0, "b.bias": 1.0}


@given(units=st.integers(1, 20), decay=st.floats(0.1, 1.0))
def test_the_formula_of_decay(units, decay):
    result = policy("full", layer_decay=decay)
    factors = [result.layer_lr_scale(unit, units) for unit in range(units)]
    assert factors[-1] == 1.0
    assert np.allclose(factors, decay ** np.arange(units - 1, -1, -1))


def test_rates_reach_the_optimiser(p, monkeypatch):
    seen = {}
    real = module.train

    def watched(groups, *args, **kwargs):
        seen.update({name: (g.lr_scale, g.weight_decay, g.start_epoch) for g in groups for name in g.parameters})
        return real(groups, *args, **kwargs)

    monkeypatch.setattr(module, "train", watched)
    run(p, policy("full", layer_decay=0.5, head_factor=3.0, epochs=1))
    assert seen["network.a.weight"] == (0.5, True, 0)
    assert seen["network.a.bias"] == (0.5, False, 0)  # biases are not pulled to zero
    assert seen["network.b.weight"] == (1.0, True, 0)
    assert seen["head.weight"] == seen["head.bias"] == (3.0, False, 0)


def test_last_layers_counts_from_the_top():
    source = image_source(networks.Normed, classifier="classifier")
    parameter_map = locate_parameters(source, ["pool"])
    assert parameter_map.unit_ends == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "pool")
    named = {m.name.rpartition(".")[0] for m in policy("last_layers", layers=2).trainable(parameter_map.parameters, 5)}
    assert named == {"blocks.2.0", "blocks.2.1", "blocks.3.0", "blocks.3.1"}  # the pooling has no parameters
    auto = policy("last_layers").trainable(parameter_map.parameters, 5)
    assert auto == policy("last_layers", layers=1).trainable(parameter_map.parameters, 5)
    everything = policy("last_layers", layers=99).trainable(parameter_map.parameters, 5)
    assert {m.name for m in everything} == {m.name for m in policy("full").trainable(parameter_map.parameters, 5)}


def test_nothing_above_the_deepest_layer_used_moves():
    source = image_source(networks.Normed, classifier="classifier")
    parameter_map = locate_parameters(source, ["blocks.1"])
    assert parameter_map.unit_ends == ("blocks.0", "blocks.1")
    assert {p.name.rpartition(".")[0][:8] for p in parameter_map.parameters} == {
        "stem.0",
        "stem.1",
        "blocks.0",
        "blocks.1",
    }


def test_a_policy_that_moves_nothing_says_so(p):
    with pytest.raises(OptionError, match="Policy 'frozen' trains no parameter of module:Dense"):
        run(p, policy("frozen"))


def test_training_mode_is_for_what_moves_and_keeps_no_statistics():
    source = image_source(networks.Normed, classifier="classifier")
    model = FineTuneModel(
        source, [FeatureSpec(0, "pool", "avg")], HeadInit(np.ones((16, 2)), np.zeros(2), np.zeros(16), np.ones(16))
    )
    parameter_map = locate_parameters(source, ["pool"])
    model.train_above(2, parameter_map.module_units)
    training = {name for name, m in model.network.named_modules() if m.training}
    assert {"blocks.2.3", "blocks.3.3"} <= training  # dropout
    assert not {name for name in training if name.startswith(("stem", "blocks.0", "blocks.1"))}
    assert not [name for name in training if isinstance(dict(model.network.named_modules())[name], nn.BatchNorm2d)]
    model.train_above(None, parameter_map.module_units)
    assert not any(m.training for m in model.network.modules())


def test_whatever_keeps_statistics_stays_as_it_is():
    """Instance norm with running statistics, spectral norm, and a home-made one: all move in training mode."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            if self.training:
                self.seen += len(x)
            return x

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.InstanceNorm2d(4, track_running_stats=True)
            self.count = Counting()
            self.conv2 = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))

        def forward(self, x):
            return self.conv2(self.count(self.norm(self.conv(x)))).mean((2, 3))

    source = image_source(Odd)
    before = state_bytes(source.module)
    layer = source.select("last")[0]
    X = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    samples = Samples(lambda i: X[i], source.input.collate, 8)
    width = source.layer(layer).shape[0]
    start = HeadInit(np.ones((width, 2)) * 0.1, np.zeros(2), np.zeros(width), np.ones(width))
    outcome = finetune(source, [FeatureSpec(0, layer, "avg")], start, samples=samples,
                   targets=np.eye(2)[np.arange(8) % 2],
                   task="classification", policy=policy("full", epochs=2, lr=0.01))  # fmt: skip
    after = state_bytes(outcome.source.module)
    buffers = {name for name, _ in source.module.named_buffers()}
    assert len(buffers) >= 5
    assert {name for name in buffers if before[name] != after[name]} == set()
    assert before["conv.weight"] != after["conv.weight"]


def test_pull_towards_the_start_keeps_it_near(p):
    far = run(p, policy("full", epochs=4, lr=0.02, weight_decay=0.0))
    near = run(p, policy("full", epochs=4, lr=0.02, weight_decay=0.0, l2sp=100.0))

    def moved(outcome):
        pairs = zip(p["source"].module.parameters(), outcome.source.module.parameters())
        return sum(float((a - b).detach().square().sum()) for a, b in pairs)

    assert moved(near) < 0.2 * moved(far)


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_tuning_helps_and_is_kept():
    """A product of two inputs: random features hardly show it, tuned ones do."""
    p = problem(n=200, classes=2, held_out=200, teach=lambda X: (X[:, 0] * X[:, 1] > 0).astype(int))
    outcome = run(p, policy("full", epochs=40, lr=0.02), score=accuracy(p), held_out=p["held_out"])
    assert outcome.scores.keys() == {"start", "average", "tuned"}
    assert outcome.selected in ("average", "tuned")
    assert outcome.scores[outcome.selected] > outcome.scores["start"]
    assert outcome.history.loss[-1] < outcome.history.loss[0]


@pytest.mark.parametrize("winner", ["start", "average", "tuned"])
def test_the_winner_on_validation_is_what_is_returned(p, winner, monkeypatch):
    """Scores are scripted; the weights that come back are checked."""
    seen = []

    def score(decision):
        seen.append(decision.copy())
        order = ["start", "epoch", "average", "tuned"][min(len(seen) - 1, 3)]
        return 1.0 if order == winner else 0.0

    outcome = run(p, policy("full", epochs=1, lr=0.05), score=score, held_out=p["held_out"])
    assert outcome.selected == winner
    expected = seen[{"start": 0, "average": 2, "tuned": 3}[winner]]
    model = FineTuneModel(outcome.source, [FeatureSpec(0, "b", "avg")],
                  HeadInit(outcome.coef, outcome.intercept, p["start"].mean, p["start"].std))  # fmt: skip
    assert np.allclose(decisions(model, p["held_out"]), expected, atol=1e-4)
    same = state_bytes(outcome.source.module) == state_bytes(p["source"].module)
    assert same == (winner == "start")


def test_of_equals_the_one_that_moved_less(p):
    outcome = run(p, policy("full", epochs=1), score=lambda decision: 0.5, held_out=p["held_out"])
    assert outcome.selected == "start"
    assert np.allclose(outcome.coef, p["head"].coef_, atol=1e-4)


def test_a_score_that_is_no_number_does_not_win(p):
    values = iter([0.1, 0.2, float("nan"), float("nan")])
    outcome = run(p, policy("full", epochs=1), score=lambda decision: next(values), held_out=p["held_out"])
    assert outcome.selected == "start"


def test_without_validation_the_tuned_one_is_kept(p):
    outcome = run(p, policy("full", epochs=1))
    assert outcome.selected == "tuned"
    assert outcome.scores == {}


def test_the_average_is_the_mean_of_both(p):
    tuned = run(p, policy("full", epochs=1, lr=0.05))
    calls = []

    def third(decision):
        calls.append(1)
        return float(len(calls) == 3)

    average = run(p, policy("full", epochs=1, lr=0.05), score=third, held_out=p["held_out"])
    assert average.selected == "average"
    for a, b, c in zip(*(s.module.parameters() for s in (p["source"], tuned.source, average.source))):
        assert torch.allclose((a + b) / 2, c, atol=1e-6) or a.shape[0] == 6  # the classifier above does not move


def test_the_new_source_works_like_any_other(p, tmp_path):
    outcome = run(p, policy("full", epochs=2, lr=0.02))
    X, y = separable(12, seed=3)
    data = Dataset.from_arrays(X, [str(v) for v in y])
    rows = extract(outcome.source, data, layers="b", store=tmp_path, **PLAIN).rows("b", data)
    model = FineTuneModel(outcome.source, [FeatureSpec(0, "b", "avg")],
                  HeadInit(outcome.coef, outcome.intercept, p["start"].mean, p["start"].std))  # fmt: skip
    samples = Samples(lambda i: X[i], outcome.source.input.collate, 12)
    assert np.allclose(decisions(model, samples), rows @ outcome.coef + outcome.intercept, atol=1e-4)
    assert "+tuned-" in outcome.source.address
    twice = finetune(outcome.source, [FeatureSpec(0, "b", "avg")], p["start"], samples=p["samples"],
                 targets=p["T"][: p["n"]], task="classification", policy=policy("full", epochs=1))  # fmt: skip
    assert twice.source.address.count("+tuned-") == 1
    assert not any(q.requires_grad for q in outcome.source.module.parameters())


def test_a_tuned_source_can_be_saved(tmp_path):
    source = load_source("fake:vector")
    X, y = separable(30)
    start = HeadInit(np.zeros((12, 3)), np.zeros(3), np.zeros(12), np.ones(12))
    samples = Samples(lambda i: X[i], source.input.collate, 30)
    outcome = finetune(source, [FeatureSpec(0, "3", "avg")], start, samples=samples, targets=np.eye(3)[y],
                   task="classification", policy=policy("last_layers", layers=1, epochs=2))  # fmt: skip
    again = load_source(f"saved:{outcome.source.save(tmp_path / 's')}")
    assert again.fingerprint == outcome.source.fingerprint != source.fingerprint
    assert set(outcome.moved) == {"2.weight", "2.bias"}


# ---- tasks and losses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_are_learnt(p, task):
    rng = np.random.default_rng(0)
    T = p["rows"][: p["n"]] @ rng.normal(size=(12, 2))
    if task == "multilabel":
        T = (T > 0).astype(float)
    start = HeadInit.of(np.zeros((12, 2)), np.zeros(2), p["rows"][: p["n"]])
    outcome = finetune(p["source"], [FeatureSpec(0, "b", "avg")], start, samples=p["samples"], targets=T, task=task,
                   policy=policy("full", epochs=12, lr=0.02))  # fmt: skip
    assert outcome.history.loss[-1] < 0.6 * outcome.history.loss[0]


@pytest.mark.parametrize("task", ["transcription", "summarization", "nonsense"])
def test_tasks_that_cannot_be_tuned(p, task):
    with pytest.raises(OptionError, match=f"this task is {task}"):
        finetune(p["source"], [FeatureSpec(0, "b", "avg")], p["start"], samples=p["samples"], targets=p["T"][: p["n"]],
             task=task, policy=policy("full", epochs=1))  # fmt: skip


def test_losses_are_the_textbooks():
    rng = np.random.default_rng(0)
    Z = torch.from_numpy(rng.normal(size=(7, 4)))
    T = torch.from_numpy(np.eye(4)[rng.integers(0, 4, 7)])
    plain = nn.functional.cross_entropy(Z, T.argmax(1))
    assert torch.allclose(loss_for("classification", T)(Z, T), plain)
    smooth = nn.functional.cross_entropy(Z, T.argmax(1), label_smoothing=0.1)
    assert torch.allclose(loss_for("classification", T, smoothing=0.1)(Z, T), smooth)
    offset = torch.from_numpy(rng.normal(size=4))
    shifted = nn.functional.cross_entropy(Z + offset, T.argmax(1))
    assert torch.allclose(loss_for("classification", T, offset=offset)(Z, T), shifted)
    assert torch.allclose(loss_for("multilabel", T)(Z, T), nn.functional.binary_cross_entropy_with_logits(Z, T))
    values = torch.from_numpy(rng.normal(size=(50, 2)) * [1, 1000])
    at_mean = values.mean(0).expand_as(values)
    assert float(loss_for("regression", values)(at_mean, values)) == pytest.approx(1.0)  # whatever the units


def test_the_offset_reaches_the_loss(p):
    plain = run(p, policy("full", epochs=2))
    shifted = run(p, policy("full", epochs=2), offset=np.array([0.0, 2.0, -2.0]))
    assert plain.history.loss[0] != shifted.history.loss[0]


# ---- resume and budget ----------------------------------------------------------------------------------------------


def test_killed_and_resumed_is_the_same_to_the_bit(p, tmp_path):
    chosen = policy("full", epochs=4, lr=0.02)
    full = run(p, chosen, score=accuracy(p), held_out=p["held_out"])
    calls = []

    def dying(decision):
        calls.append(1)
        if len(calls) == 4:  # at the start, and after two epochs
            raise KeyboardInterrupt
        return accuracy(p)(decision)

    with pytest.raises(KeyboardInterrupt):
        run(p, chosen, score=dying, held_out=p["held_out"], checkpoint=tmp_path / "run")
    again = run(p, chosen, score=accuracy(p), held_out=p["held_out"], checkpoint=tmp_path / "run")
    assert state_bytes(again.source.module) == state_bytes(full.source.module)
    assert again.coef.tobytes() == full.coef.tobytes()
    assert (again.selected, again.scores) == (full.selected, full.scores)
    assert again.history.loss == full.history.loss


def test_a_checkpoint_of_other_targets_or_another_policy_is_refused(p, tmp_path):
    chosen, path = policy("full", epochs=1), tmp_path / "run"
    run(p, chosen, checkpoint=path)
    with pytest.raises(StoreError, match="another run"):
        finetune(p["source"], [FeatureSpec(0, "b", "avg")], p["start"], samples=p["samples"],
             targets=p["T"][: p["n"]][::-1],
             task="classification", policy=chosen, checkpoint=path)  # fmt: skip
    with pytest.raises(StoreError, match="another run"):
        run(p, dataclasses.replace(chosen, l2sp=0.1), checkpoint=path)
    run(p, chosen, checkpoint=path)


def test_schedules_follow_the_size_of_the_data():
    small, n_items = (training_config_for(policy("full"), n, budget=None, seed=0) for n in (30, 10_000))
    assert (small.batch_size, small.epochs) == (4, 32)
    assert (n_items.batch_size, n_items.epochs) == (32, 5)
    value = training_config_for(
        policy("full", epochs=3, batch_size=7, lr=0.5, patience=2, ema=0.9), 100, budget=9.0, seed=4
    )
    assert (value.epochs, value.batch_size, value.lr, value.patience, value.ema) == (3, 7, 0.5, 2, 0.9)
    assert (value.budget, value.seed) == (9.0, 4)


def test_short_runs_take_smaller_steps():
    long, short = (training_config_for(policy("last_layers", epochs=e), 320, budget=None, seed=0).lr for e in (40, 6))
    assert long == 1e-3
    assert short == pytest.approx(1e-3 * (60 / 240) ** 0.5)
    assert training_config_for(policy("last_layers", epochs=1, lr=0.5), 320, budget=None, seed=0).lr == 0.5


# ---- where parameters stand -----------------------------------------------------------------------------------------


def test_places_follow_execution_not_registration():
    source = vector_source(networks.OutOfOrder)
    parameter_map = locate_parameters(source, ["third"])
    units = {p.name: p.unit for p in parameter_map.parameters}
    assert parameter_map.unit_ends == ("first", "second", "third")
    assert units == {"first.weight": 0, "first.bias": 0, "second.weight": 1, "second.bias": 1, "third.weight": 2,
                     "third.bias": 2, "never.weight": 0, "never.bias": 0}  # fmt: skip
    assert {p.kind for p in parameter_map.parameters} == {"linear"}


def test_a_module_used_twice_counts_as_the_earliest():
    source = vector_source(networks.CalledTwice)
    parameter_map = locate_parameters(source, ["last"])
    units = {p.name: p.unit for p in parameter_map.parameters}
    assert units["shared.weight"] == 0
    moves = policy("last_layers", layers=1).trainable(parameter_map.parameters, len(parameter_map.unit_ends))
    assert lowest_trainable(moves, parameter_map) == 0


def test_parameters_of_a_container_go_with_what_is_inside():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(4, 2))
            self.blocks = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])

        def forward(self, x):
            return self.blocks(x.view(len(x), 4, 2) + self.position)

    source = vector_source(Tokens)
    parameter_map = locate_parameters(source, ["blocks.3"])
    assert {p.name: p.unit for p in parameter_map.parameters}["position"] == 0
    assert lowest_trainable([], parameter_map) is None


def test_samples_are_read_once_and_kept_while_they_fit(monkeypatch):
    calls = []

    def read(i):
        calls.append(i)
        return np.full(3, i, np.float32)

    samples = Samples(read, np.stack, 5)
    assert len(samples) == 5
    for _ in range(2):
        assert samples.batch(np.array([3, 1]))[:, 0].tolist() == [3, 1]
    assert calls == [3, 1]
    monkeypatch.setattr("headstart.training.batches._MEMORY", 20)
    small = Samples(read, np.stack, 5)
    calls.clear()
    for _ in range(2):
        small.batch(np.array([0, 1]))
    assert calls == [0, 1, 1]
    mapping = Samples(lambda i: {"ids": np.zeros(2)}, list, 5)
    assert len(mapping.batch(np.array([0]))) == 1


def test_unknown_policies():
    with pytest.raises(UnknownName, match="did you mean 'full'"):
        policy("ful")
