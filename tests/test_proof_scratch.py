"""Draws, initial weights and training from scratch: laws that hold for any data, and every family of sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
from headstart.dataset import Dataset
from headstart.errors import DataError, NumericsError, SourceError
from headstart.extraction import sample_loader
from headstart.pretraining import pretrain, scratch
from headstart.pretraining.scratch import ScratchTask, reinitialize
from headstart.proof import baselines
from headstart.proof.few_shot_splits import FewShotSplits, few_shot_splits
from headstart.sources import load_source
from headstart.training.batches import Samples
from networks import hooks_of, image_source, picture_data, separable, state_bytes, vector_source

SIZES = st.lists(st.integers(4, 30), min_size=2, max_size=4)


def sized(sizes, groups=None) -> Dataset:
    """So many vectors of each class."""
    labels = [f"c{c}" for c, size in enumerate(sizes) for _ in range(size)]
    X = np.random.default_rng(sum(sizes)).normal(size=(len(labels), 3))
    return Dataset.from_arrays(X, labels, groups=None if groups is None else [i % groups for i in range(len(labels))])


def drawn(data: Dataset, **how) -> FewShotSplits:
    return few_shot_splits(data, None, **{"shots": (1, 2), "repeats": 2, "test_size": 0.3, "seed": 0, **how})


def scratch_task(source, data: Dataset, *, balanced: bool = False) -> ScratchTask:
    samples = Samples(sample_loader(source, data), source.input.collate, len(data))
    return ScratchTask(source, samples, data.columns[0].matrix(), balanced, "cpu")


class TestDraws:
    @given(SIZES, st.integers(0, 3))
    def test_nested_and_apart_from_the_test(self, sizes, seed):
        draws = drawn(sized(sizes), seed=seed)
        for repeat in range(2):
            before: set[int] = set()
            for count in (*draws.shots, *draws.extra_shots):
                now = set(draws.subset(count, repeat).tolist())
                assert before <= now and not now & set(draws.test.tolist())
                assert (np.bincount(draws.codes[sorted(now)]) <= count).all()
                before = now

    @given(SIZES)
    def test_nothing_is_kept_that_is_not_used(self, sizes):
        draws = drawn(sized(sizes))
        used = draws.tested | (draws.class_ranks >= 0).any(0)
        assert used.all() and not (draws.class_ranks[:, draws.tested] >= 0).any()
        assert len(draws.data) == len(draws.T) == draws.class_ranks.shape[1]

    @given(SIZES)
    def test_every_class_is_tested_in_proportion(self, sizes):
        draws = drawn(sized(sizes))
        tested = np.bincount(draws.codes[draws.test], minlength=len(sizes))
        assert np.abs(tested - 0.3 * np.array(sizes)).max() <= 1.0

    @given(st.integers(5, 12))
    def test_groups_are_never_torn_apart(self, groups):
        draws = drawn(sized([30, 30], groups))
        inside, outside = set(draws.groups[draws.tested]), set(draws.groups[~draws.tested])
        assert inside and outside and not inside & outside

    def test_the_seed_decides(self):
        data = sized([20, 20])
        item, same, other = (drawn(data, seed=seed) for seed in (0, 0, 1))
        assert item.fingerprint == same.fingerprint != other.fingerprint

    def test_more_repeats_are_further_draws(self):
        """Adding repeats does not change those that there were."""
        small, n_items = (drawn(sized([20, 20]), repeats=repeats) for repeats in (2, 4))
        for repeat in range(2):
            mine, theirs = ({draws.data.keys()[i] for i in draws.subset(2, repeat)} for draws in (small, n_items))
            assert mine == theirs

    def test_without_what_cannot_be_read(self):
        draws = drawn(sized([20, 20]))
        keep = np.ones(len(draws.data), bool)
        keep[draws.test[0]] = keep[draws.subset(2, 0)[0]] = False
        less = draws.restrict(keep)
        assert len(less.test) == len(draws.test) - 1 and len(less.subset(2, 0)) == len(draws.subset(2, 0)) - 1
        assert less.data.targets == tuple(np.array(draws.data.targets)[keep]) and draws.restrict(keep | True) is draws

    def test_labels_and_codes_agree(self):
        draws = drawn(sized([12, 9, 7]))
        assert [draws.data.classes[code] for code in draws.codes] == list(draws.data.targets)


class TestFresh:
    def test_texts_and_their_tokenizer(self, tmp_path):
        pytest.importorskip("transformers")
        from tiny_models import bert_folder

        source = load_source(f"hf:{bert_folder(tmp_path / 'bert')}")
        item, same, other = (reinitialize(source, seed) for seed in (0, 0, 1))
        assert item.fingerprint == same.fingerprint != other.fingerprint != source.fingerprint
        assert item.input.describe() == source.input.describe()

    def test_timm(self):
        timm = pytest.importorskip("timm")
        assert timm
        source = load_source("timm:test_efficientnet", pretrained=False)
        item, same = reinitialize(source, 0), reinitialize(source, 0)
        assert item.fingerprint == same.fingerprint != source.fingerprint
        assert item.select("last") == source.select("last") and not item.module.training

    def test_what_headstart_trained_and_saved(self, tmp_path):
        source = pretrain("cnn", picture_data(16, side=12), epochs=1, image_size=12)
        saved = load_source(f"saved:{source.save(tmp_path / 'cnn')}")
        assert reinitialize(saved, 3).fingerprint == reinitialize(source, 3).fingerprint

    def test_a_source_drawn_by_the_same_seed_is_another(self):
        for seed in range(3):
            source = load_source("cnn:cnn", seed=seed)
            assert reinitialize(source, seed).fingerprint != source.fingerprint

    def test_the_global_generator_is_left_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        reinitialize(load_source("cnn:cnn"), 0)
        reinitialize(vector_source(networks.Dense), 0)
        assert torch.equal(torch.rand(3), expected)

    def test_weights_that_stay_are_refused(self):
        class Stubborn(nn.Linear):
            def reset_parameters(self):
                with torch.no_grad():
                    self.weight.fill_(0.5)
                    self.bias.zero_()

        with pytest.raises(SourceError, match="keep their weights"):
            reinitialize(vector_source(lambda: nn.Sequential(Stubborn(8, 4), nn.ReLU())), 0)


class TestTraining:
    def test_the_source_given_is_not_touched(self):
        source = image_source(networks.Normed)
        before = state_bytes(source.module)
        model = scratch.train_from_scratch(
            scratch_task(source, picture_data(12)), np.arange(12), epochs=2, lr=1e-3, seed=0
        )
        assert state_bytes(source.module) == before and hooks_of(model.network) == 0

    def test_the_same_seed_gives_the_same_weights(self):
        task = scratch_task(image_source(networks.Normed), picture_data(12))
        item, same, other = (
            scratch.train_from_scratch(task, np.arange(12), epochs=2, lr=1e-3, seed=s) for s in (0, 0, 1)
        )
        assert state_bytes(item) == state_bytes(same) != state_bytes(other)

    def test_everything_moves(self):
        task = scratch_task(vector_source(networks.Dense), sized_vectors())
        begun = reinitialize(task.source, 0).module.state_dict()
        model = scratch.train_from_scratch(task, np.arange(30), epochs=2, lr=1e-3, seed=0)
        used = [name for name in begun if not name.startswith("c.")]  # above the last candidate nothing is reached
        assert used and all(not torch.equal(model.network.state_dict()[name], begun[name]) for name in used)

    def test_answers_do_not_depend_on_batch_mates(self):
        task = scratch_task(image_source(networks.Normed), picture_data(20))
        model = scratch.train_from_scratch(task, np.arange(12), epochs=1, lr=1e-3, seed=0)
        together = model.decisions(task.samples, np.arange(12, 20))
        alone = np.concatenate([model.decisions(task.samples, np.array([i])) for i in range(12, 20)])
        assert together == pytest.approx(alone, abs=1e-4)

    def test_rare_classes_are_said_where_all_count_the_same(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(120, 8)).astype(np.float32)  # nothing to learn but the frequencies
        data = Dataset.from_arrays(X, ["rare" if i % 10 == 0 else "common" for i in range(120)])
        message = {}
        for balanced in (False, True):
            task = scratch_task(vector_source(networks.Dense), data, balanced=balanced)
            model = scratch.train_from_scratch(task, np.arange(120), epochs=3, lr=1e-3, seed=0)
            message[balanced] = int((model.decisions(task.samples, np.arange(120)).argmax(1) == 1).sum())
        assert message[True] > message[False]

    def test_rates_at_which_it_diverges_are_not_chosen(self, monkeypatch):
        real = scratch.train_from_scratch

        def fragile(task, items, *, epochs, lr, seed):
            if lr > 5e-4:
                raise NumericsError("The loss is nan")
            return real(task, items, epochs=epochs, lr=lr, seed=seed)

        monkeypatch.setattr(scratch, "train_from_scratch", fragile)
        task = scratch_task(vector_source(networks.Dense), sized_vectors())
        lr, losses = scratch.best_learning_rate(task, np.arange(30), epochs=5, seed=0)
        assert lr <= 5e-4 and set(losses) == {"0.0001", "0.0003"}

    @pytest.mark.parametrize(("count", "batch"), [(2, 4), (24, 6), (96, 24), (400, 32)])
    def test_several_steps_in_an_epoch(self, count, batch):
        assert scratch.batch_size_for(count) == batch
        assert scratch.scratch_config(count, epochs=3, lr=1e-3, seed=1).batch_size == batch

    def test_what_is_held_out_leaves_every_class(self):
        T = np.eye(3)[[0] * 9 + [1] * 2 + [2]]
        held_out = scratch._held_out(T, seed=0)
        assert T[held_out].sum(0).tolist() == [2, 1, 0] and (T[~held_out].sum(0) > 0).all()

    def test_speed_is_measured(self):
        task = scratch_task(vector_source(networks.Dense), sized_vectors())
        result = scratch.measure_speed(task, np.arange(8), seed=0)
        assert result["train"] > 0 and result["predict"] > 0


def sized_vectors() -> Dataset:
    X, y = separable(30)
    return Dataset.from_arrays(X, [f"c{c}" for c in y])


class TestRaw:
    def test_texts_without_words(self):
        rows = baselines.raw_rows(Dataset.from_arrays(["!!", "??", "a word"], ["x", "y", "x"]))
        with pytest.raises(DataError, match="no words"):
            rows(np.array([0, 1]), np.array([2]))
