"""Parts of the training loop: its settings, its callbacks, batches read by workers, and augmentation that all share."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart import pretrain
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, UnreadableItem
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import HeadInit, finetune
from headstart.policies import policy
from headstart.sources import load_source
from headstart.training import checkpoint
from headstart.training.augment import draw_mix, image_views
from headstart.training.batches import Indices, Loader, SampleBatches, Samples, Views
from headstart.training.callbacks import Callback
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import Augment, ResolvedConfig, TrainingConfig, split_settings
from headstart.training.loop import train
from headstart.training.losses import SupervisedLoss
from networks import picture_data, seeded, separable

X, Y = separable(60)


def linear():
    """A network and the loss of its indices."""
    net = seeded(lambda: nn.Linear(8, 3))

    def loss(indices, generator):
        return nn.functional.cross_entropy(net(torch.from_numpy(X[indices])), torch.from_numpy(Y[indices]))

    return net, [ParameterGroup(dict(net.named_parameters()))], loss


# ---- settings -------------------------------------------------------------------------------------------------------


def test_what_a_config_leaves_open_is_decided_by_who_trains():
    config = TrainingConfig(lr=0.5, ema=0.9).resolve(epochs=7, batch_size=3, lr=0.1)
    assert isinstance(config, ResolvedConfig)
    assert (config.epochs, config.batch_size, config.lr, config.ema) == (7, 3, 0.5, 0.9)
    assert dataclasses.replace(config, seed=4).resolve(epochs=99) == dataclasses.replace(config, seed=4)
    with pytest.raises(OptionError, match="range test"):
        TrainingConfig(lr="auto").resolve()
    with pytest.raises(OptionError, match=r"TrainingConfig\(epochs=…\)"):
        TrainingConfig().resolve(epochs=0)


def test_the_record_of_a_run_has_the_keys_of_version_0_1():
    """Checkpoints are recognised by it: with other keys, no old one would be taken up."""
    record = TrainingConfig(label_smoothing=0.1, precision="bf16", num_workers=3).resolve().run_record()
    assert record == {
        "epochs": 10, "batch_size": 32, "lr": 1e-3, "weight_decay": 0.0, "warmup": 0.1, "decay": "cosine", "clip": 1.0,
        "patience": None, "ema": 0.0, "budget": None, "seed": 0,
    }  # fmt: skip


def test_the_record_of_a_policy_has_the_keys_of_version_0_1():
    """A checkpoint of fine-tuning is recognised by it; settings that are new since stand in it when they are used."""
    record = policy("last_layers", layers=2, epochs=3).record()
    assert json.loads(json.dumps(record)) == record == {
        "epochs": 3, "batch_size": None, "lr": None, "head_factor": 1.0, "layer_decay": 0.9, "weight_decay": 0.02,
        "label_smoothing": 0.05, "l2sp": 0.0, "mixup": 0.0, "cotuning": 0.0, "views": None, "cache": None,
        "patience": None, "ema": 0.0, "precision": "auto", "layers": 2,
    }  # fmt: skip
    assert policy("full", warmup=0.3).record()["warmup"] == 0.3


def test_settings_are_divided_by_record():
    assert split_settings({"views": 2, "epochs": 1}, Augment) == ({"views": 2}, {"epochs": 1})


# ---- callbacks ------------------------------------------------------------------------------------------------------


class Recorder(Callback):
    """What a callback sees, and when."""

    def __init__(self, stop_after=None):
        self.seen, self._stop_after = [], stop_after

    def on_train_begin(self, run):
        self.seen.append(("begin", run.state.epoch))

    def on_step_end(self, run):
        self.seen.append(("step", run.state.step))

    def on_epoch_end(self, run):
        self.seen.append(("epoch", run.state.epoch, len(run.history.loss), len(run.history.score)))
        if run.state.epoch == self._stop_after:
            run.stop("enough")


def test_callbacks_see_every_step_and_every_epoch_after_it_was_scored():
    _, groups, loss = linear()
    recorder = Recorder()
    config = TrainingConfig(epochs=2, batch_size=30)
    train(groups, loss, len(X), config=config, validate_score=lambda: 0.5, callbacks=[recorder])
    assert recorder.seen == [
        ("begin", 0), ("step", 1), ("step", 2), ("epoch", 1, 1, 1), ("step", 3), ("step", 4), ("epoch", 2, 2, 2),
    ]  # fmt: skip


def test_a_callback_ends_a_run_with_its_reason():
    _, groups, loss = linear()
    history = train(groups, loss, len(X), config=TrainingConfig(epochs=9), callbacks=[Recorder(stop_after=3)])
    assert len(history.loss) == 3 and history.stopped == "enough"


def test_a_resumed_run_tells_callbacks_where_it_begins(tmp_path):
    config = TrainingConfig(epochs=4, batch_size=30)
    _, groups, loss = linear()
    train(groups, loss, len(X), config=config, callbacks=[Recorder(stop_after=2)], checkpoint=tmp_path / "run")
    _, groups, loss = linear()
    recorder = Recorder()
    train(groups, loss, len(X), config=config, callbacks=[recorder], checkpoint=tmp_path / "run")
    assert recorder.seen[0] == ("begin", 2) and recorder.seen[-1][:2] == ("epoch", 4)


def test_callbacks_run_before_the_checkpoint_is_written(tmp_path):
    """What a callback leaves in the history is found again."""

    class Marks(Callback):
        def on_epoch_end(self, run):
            run.history.lr[-1] = 42.0

    net, groups, loss = linear()
    train(groups, loss, len(X), config=TrainingConfig(epochs=1), callbacks=[Marks()], checkpoint=tmp_path / "run")
    optimizer = torch.optim.AdamW(net.parameters())
    state = checkpoint.TrainingState(groups, {}, optimizer, 1)
    record = {**TrainingConfig(epochs=1).resolve().run_record(), "count": len(X), "identity": ""}
    checkpoint.resume(state, tmp_path / "run", record)
    assert state.history.lr == [42.0]


# ---- batches and workers --------------------------------------------------------------------------------------------


class Noisy:
    """Samples with something random in each, as views have."""

    in_memory = False

    def __len__(self):
        return len(X)

    def load(self, indices, generator):
        return indices, X[indices] + torch.randn(len(indices), 8, generator=generator).numpy()


def noisy_training(workers, path=None, callbacks=()):
    net = seeded(lambda: nn.Linear(8, 3))

    def loss(batch, generator):
        indices, rows = batch
        rows = torch.from_numpy(rows) + 0.1 * torch.randn(rows.shape, generator=generator)
        return nn.functional.cross_entropy(net(rows.float()), torch.from_numpy(Y[indices]))

    config = TrainingConfig(epochs=3, batch_size=16, num_workers=workers)
    groups = [ParameterGroup(dict(net.named_parameters()))]
    history = train(groups, loss, Noisy(), config=config, checkpoint=path, callbacks=callbacks)
    return history.loss, [p.detach().numpy().tobytes() for p in net.parameters()]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_training_to_the_bit(workers):
    assert noisy_training(workers) == noisy_training(0)


def test_a_run_is_resumed_to_the_bit_whatever_reads_its_batches(tmp_path):
    full = noisy_training(0)
    with pytest.raises(KeyboardInterrupt):
        noisy_training(2, tmp_path / "run", [Dies(after=2)])
    assert noisy_training(0, tmp_path / "run") == full


class Dies(Callback):
    """Ends the process's work in the middle of the epoch after so many."""

    def __init__(self, after):
        self._after = after

    def on_step_end(self, run):
        if run.state.epoch == self._after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_cannot_be_read_is_named_by_workers_too(workers):
    def read(index):
        if index == 7:
            raise UnreadableItem("seven.png", "no image")
        return X[index]

    samples = Samples(read, load_source("fake:vector").input.collate, 12)
    loader = Loader(SampleBatches(samples), TrainingConfig(batch_size=4, num_workers=workers).resolve())
    with pytest.raises(UnreadableItem, match=r"seven\.png: no image"):
        for step in loader.epoch(0):
            step.load()


def test_workers_are_not_started_for_what_is_in_memory():
    loader = Loader(Indices(9), TrainingConfig(batch_size=4, num_workers=2).resolve())
    assert loader._loader.num_workers == 0
    batches = [step.load()[0] for step in loader.epoch(1)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(9)) and loader.steps_per_epoch == len(batches) == 3


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(Loader(Indices(9), TrainingConfig().resolve()).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_workers_share_the_memory_for_samples(monkeypatch):
    monkeypatch.setattr("headstart.training.batches._MEMORY", 100)
    samples = Samples(lambda index: X[index], list, 4)
    monkeypatch.setattr("headstart.training.batches.get_worker_info", lambda: type("Info", (), {"num_workers": 4}))
    samples.read(0)
    assert not samples._cache  # 32 bytes are more than its 25
    monkeypatch.setattr("headstart.training.batches.get_worker_info", lambda: None)
    samples.read(0)
    assert list(samples._cache) == [0]


def test_a_part_of_the_samples_is_trained_on():
    collate = load_source("fake:vector").input.collate
    batches = SampleBatches(Samples(lambda index: X[index], collate, 60), items=np.array([9, 4, 7]))
    batch = batches.load(np.array([2, 0]), torch.Generator())
    assert len(batches) == 3 and np.array_equal(batch.inputs.inputs["x"], X[[7, 9]])


# ---- augmentation, shared -------------------------------------------------------------------------------------------


def test_pretraining_takes_the_views_of_fine_tuning():
    data = picture_data(16, side=12)
    plain, varied, again = (
        pretrain("cnn", data, epochs=2, image_size=12, augment=augment)
        for augment in (None, Augment(views=3), Augment(views=3))
    )
    assert plain.fingerprint != varied.fingerprint == again.fingerprint
    assert pretrain("cnn", data, epochs=2, image_size=12, augment=Augment(views=1)).fingerprint == plain.fingerprint


def test_the_views_are_the_same_ones(monkeypatch):
    """Those of a policy and those of pretraining are read by one function from one recipe."""
    source, data = load_source("cnn:small", size=(12, 12), channels=3, classes=2), picture_data(6, side=12)
    views = image_views(source, data, mirror=False)
    samples = Samples(lambda index: np.zeros(1), source.input.collate, 6, views=views)
    batch = SampleBatches(samples, views=1000).load(np.arange(6), torch.Generator().manual_seed(0))
    drawn = torch.randint(1000, (6,), generator=torch.Generator().manual_seed(0)).tolist()
    for row, (index, view) in zip(batch.inputs.inputs["x"], enumerate(drawn), strict=True):
        assert np.array_equal(row, views.read(index, view))


def test_views_of_other_items_are_refused_in_pretraining_too():
    source = networks.vector_source(networks.Dense)
    with pytest.raises(OptionError, match="needs images"):
        pretrain(source, Dataset.from_arrays(X, [f"c{c}" for c in Y]), augment=Augment(views=2))


def test_mixup_mixes_inputs_and_targets_of_a_network_trained_as_a_whole():
    seen = []

    def forward(batch, mix):
        rows = torch.from_numpy(batch.inputs["x"])
        seen.append(rows if mix is None else mix(rows))
        return seen[-1] @ torch.eye(8, 3)

    samples = Samples(lambda index: X[index], load_source("fake:vector").input.collate, len(X))
    targets = torch.eye(3)[torch.from_numpy(Y)]
    batch = SampleBatches(samples).load(np.arange(10), torch.Generator())
    loss = SupervisedLoss(forward, targets, "classification", config=TrainingConfig(), augment=Augment(mixup=0.5))
    value = loss(batch, torch.Generator().manual_seed(3))
    mix = draw_mix(0.5, 10, torch.Generator().manual_seed(3))
    assert torch.allclose(seen[0], mix(torch.from_numpy(X[:10])))
    expected = -(mix(targets[:10]) * (seen[0] @ torch.eye(8, 3)).log_softmax(1)).sum(1).mean()
    assert torch.allclose(value, expected)


def test_fine_tuning_takes_workers_too():
    """Without a cache every batch is read; the result is the same whoever reads it."""
    source, data = load_source("cnn:small", size=(12, 12), channels=3, classes=2), picture_data(12, side=12)
    samples = Samples(lambda i: source.input.prepare(data.items[i]), source.input.collate, 12)
    width = source.layer("relu3").shape[0]
    start = HeadInit(np.zeros((width, 2)), np.zeros(2), np.zeros(width), np.ones(width))
    losses = [
        finetune(
            source, [FeatureSpec(0, "relu3", "auto")], start, samples=samples, targets=np.eye(2)[np.arange(12) % 2],
            task="classification", policy=policy("full", epochs=2, batch_size=5, num_workers=workers),
        ).history.loss
        for workers in (0, 2)
    ]  # fmt: skip
    assert losses[0] == losses[1]


def test_an_empty_source_is_refused():
    _, groups, loss = linear()
    with pytest.raises(DataError, match="number of items is 0"):
        train(groups, loss, Indices(0), config=TrainingConfig())


def test_views_need_a_reader_of_them():
    views = Views(lambda index, view: X[index] + view, "plus")
    samples = Samples(lambda index: X[index], list, 4, views=views)
    assert np.array_equal(samples.read(2, 3), X[2] + 3)
