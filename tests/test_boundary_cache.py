"""The boundary cache: the same training as with full forward passes, refused where it would not be, kept on disk."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import networks
import tiny_models
from headstart._base.progress import listening
from headstart.bank import MemoryStore, Store
from headstart.engines.base import RuntimeConfig
from headstart.errors import OptionError, UnknownName
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import ActivationStore, FineTuneModel, HeadInit, finetune
from headstart.finetuning.batches import BatchProvider
from headstart.finetuning.budget import range_test
from headstart.finetuning.cache import ActivationCache, view_key
from headstart.finetuning.cotuning import source_class_relation
from headstart.policies import policy
from headstart.readers.base import Clip
from headstart.sources import Source, load_source
from headstart.sources.inputs.log_mel import LogMel, PatchInput
from headstart.training.augment import Mix
from headstart.training.batches import Indices, Samples, Views
from headstart.training.checkpoint import ParameterGroup
from headstart.training.config import TrainingConfig
from networks import image_source, state_bytes, vector_source


class Skipping(nn.Module):
    """A U-net's long connection: what a low layer gave is used again at the top."""

    def __init__(self):
        super().__init__()
        self.low, self.mid, self.top = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 4)

    def forward(self, x):
        low = torch.relu(self.low(x))
        return self.top(torch.cat([low, torch.relu(self.mid(low))], 1))


class Tied(nn.Module):
    """The weights of the last layer are used below it, too, behind its back."""

    def __init__(self):
        super().__init__()
        self.first, self.mid, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = nn.functional.linear(self.first(x), self.last.weight)
        return self.last(torch.tanh(self.mid(torch.tanh(x))))


class Odd(nn.Module):
    """Attention over tokens, functions between modules, an activation in place: nothing a chain of modules would do."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 17, 12) * 0.1)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, dropout=0.1) for _ in range(3)]
        )
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = nn.functional.relu(x, inplace=True)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def pictures(n):
    return networks.pictures(n, side=20)


def vectors(n):
    return networks.vectors(n)


def texts(n):
    words = ("a", "cat", "sat", "on", "the", "mat", "two", "dogs", "ran", "far")
    return [" ".join(np.random.default_rng([3, i]).choice(words, 2 + i % 7)) for i in range(n)]


def small_lstm():
    return load_source("lstm:small", vocabulary=("a", "cat", "sat", "dogs", "mat"), embedding=6, hidden=5)


class Ears(nn.Module):
    """Patches of a spectrogram: several per clip."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))))


def ears():
    front = LogMel(4000, 0.02, 0.01, n_fft=128, n_mels=12, f_max=1900.0, patch_frames=10, patch_hop_frames=5)
    return Source.from_module(networks.seeded(Ears), modality="audio", preprocess=PatchInput(front, max_patches=20))


def clips(n):
    rng = np.random.default_rng(3)
    return [Clip(rng.normal(size=600 + 150 * (i % 5)).astype(np.float32), 4000) for i in range(n)]


CASES = {
    "clips of several patches": (ears, clips, 1),
    "normed": (lambda: image_source(networks.Normed, classifier="classifier"), pictures, 2),
    "attention": (lambda: image_source(Odd), pictures, 2),
    "cnn": (lambda: load_source("cnn:small", size=(20, 16), channels=3, classes=3), pictures, 1),
    "dense": (lambda: vector_source(networks.Dense), vectors, 1),
    "out of order": (lambda: vector_source(networks.OutOfOrder), vectors, 1),
    "lstm, texts of different lengths": (small_lstm, texts, 1),
}


@pytest.fixture(params=CASES)
def case(request):
    make, items, layers = CASES[request.param]
    return make(), items(22), layers


def samples_of(source, items, **how):
    from headstart.dataset import Dataset
    from headstart.extraction import sample_loader

    if source.modality == "audio":
        return Samples(lambda i: source.input.prepare(items[i]), source.input.collate, len(items), **how)
    data = Dataset.from_items(list(items), source.modality)
    return Samples(sample_loader(source, data), source.input.collate, len(data), keys=data.keys(), **how)


def problem(source, samples):
    """A feature and a head to start from that make every step count."""
    layer = source.select("last")[0]
    result = source.layer(layer)
    width = result.shape[0] if result.axes in ("chw", "ct") else result.shape[-1]
    start = HeadInit(
        np.random.default_rng(1).normal(size=(width, 3)) * 0.1, np.zeros(3), np.zeros(width), np.ones(width)
    )
    return [FeatureSpec(0, layer, "avg")], start, np.eye(3)[np.arange(len(samples)) % 3]


def run(source, samples, *, cache, layers=1, name="last_layers", notes=None, keep=None, **how):
    features, start, T = problem(source, samples)
    fields = {"epochs": 3, "batch_size": 5, "lr": 0.01, **how}
    if name != "full":
        fields["layers"] = layers

    class Listening:
        note = staticmethod((notes if notes is not None else []).append)
        start = advance = finish = staticmethod(lambda *_: None)

    with listening(Listening()):
        return finetune(source, features, start, samples=samples, targets=T, task="classification", store=keep,
                    policy=policy(name, cache=cache, **fields))  # fmt: skip


def test_the_same_training_as_with_full_forward_passes(case):
    """Dropout above the boundary included: it is drawn alike. The prefix really does not run."""
    source, items, layers = case
    notes: list[str] = []
    samples = samples_of(source, items)
    full = run(source, samples, cache=False, layers=layers)
    cached = run(source, samples, cache=True, layers=layers, notes=notes)
    assert not [note for note in notes if "not cached" in note]
    assert np.allclose(full.history.loss, cached.history.loss, rtol=1e-4)
    for a, b in zip(full.source.module.state_dict().values(), cached.source.module.state_dict().values()):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)
    assert full.moved == cached.moved and len(cached.moved) > 0


def test_nothing_of_the_stubs_stays(case):
    source, items, layers = case
    before = state_bytes(source.module)
    outcome = run(source, samples_of(source, items), cache=True, layers=layers)
    for network in (source.module, outcome.source.module):
        assert networks.hooks_of(network) == 0
        assert not [m for m in network.modules() if "forward" in vars(m)]
    assert state_bytes(source.module) == before


def test_the_frozen_part_runs_once_per_item():
    source = image_source(networks.Normed, classifier="classifier")
    items = pictures(22)
    seen = []
    samples = samples_of(source, items)
    read = samples._read
    samples._read = lambda i: seen.append(i) or read(i)
    run(source, samples, cache=True, layers=2, epochs=5)
    assert sorted(seen) == sorted(range(22))


@pytest.mark.parametrize(
    ("make", "layers", "why"),
    [
        (Skipping, 1, "used again above"),
        (Tied, 1, "used below the boundary, too"),
        (networks.CalledTwice, 9, "from the first unit on"),
    ],
)
def test_it_is_refused_where_it_would_lie(make, layers, why):
    source = vector_source(make)
    samples = samples_of(source, vectors(22))
    notes: list[str] = []
    full = run(source, samples, cache=False, layers=layers)
    refused = run(source, samples, cache=True, layers=layers, notes=notes)
    assert "not cached" in notes[0] and re.search(why, notes[0])
    assert refused.history.loss == full.history.loss


def test_a_random_frozen_part_is_refused():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.b(nn.functional.dropout(torch.tanh(self.a(x)), 0.5, training=True))

    class Mates(Noisy):
        def forward(self, x):
            return self.b(self.a(x) - x.mean(0))

    for make in (Noisy, Mates):
        source = vector_source(make)
        notes: list[str] = []
        run(source, samples_of(source, vectors(22)), cache=True, notes=notes)
        assert "batch-mates or from run to run" in notes[0]


def test_layers_below_the_boundary_are_cached_pooled():
    """The head may read layers that are frozen; they come from the bank, too."""
    source = image_source(networks.Normed, classifier="classifier")
    samples = samples_of(source, pictures(22))
    features = [FeatureSpec(0, "blocks.0", "avg+std"), FeatureSpec(0, "blocks.2", "avg"), FeatureSpec(0, "pool", "avg")]
    width = 16 + 12 + 16
    start = HeadInit(
        np.random.default_rng(1).normal(size=(width, 2)) * 0.1, np.zeros(2), np.zeros(width), np.ones(width)
    )
    options = {"samples": samples, "targets": np.eye(2)[np.arange(22) % 2], "task": "classification"}
    fields = {"layers": 1, "epochs": 2, "batch_size": 5, "lr": 0.01}
    outcomes = [
        finetune(source, features, start, policy=policy("last_layers", cache=cache, **fields), **options)
        for cache in (True, False)
    ]
    assert np.allclose(outcomes[0].history.loss, outcomes[1].history.loss, rtol=1e-4)
    assert np.allclose(outcomes[0].coef, outcomes[1].coef, atol=1e-4)


def test_rows_are_kept_and_a_second_run_computes_nothing(tmp_path, monkeypatch):
    source = image_source(networks.Normed, classifier="classifier")
    samples = samples_of(source, pictures(22))
    computed = []
    real = ActivationCache.fill
    monkeypatch.setattr(ActivationCache, "fill", lambda *a: computed.append(real(*a)) or computed[-1])

    def keep():
        return ActivationStore(Store(tmp_path), lambda layer, pooling, choice: {"layer": layer, "pooling": pooling})

    item = run(source, samples, cache=True, layers=2, keep=keep())
    other = run(source, samples_of(source, pictures(22)), cache=True, layers=2, keep=keep())
    assert computed == [22, 0]
    assert item.history.loss == other.history.loss
    more = pictures(25)
    run(source, samples_of(source, more), cache=True, layers=2, keep=keep())
    assert computed == [22, 0, 25 - sum(np.array_equal(a, b) for a in more for b in pictures(22))]


def test_killed_while_it_is_filled_it_goes_on(tmp_path):
    source = image_source(networks.Normed, classifier="classifier")
    samples = samples_of(source, pictures(22))
    keep = ActivationStore(Store(tmp_path), lambda layer, pooling, choice: {"layer": layer, "pooling": pooling},
                RuntimeConfig("torch", "fp32", batch_size=4))  # fmt: skip
    rows = ActivationCache(source, "blocks.1", [], keep)
    first = samples_of(source, pictures(22)[:9])
    assert rows.fill(first, range(1)) == 9
    assert ActivationCache(source, "blocks.1", [], keep).fill(samples, range(1)) == 13
    held_out = rows.load(
        samples, range(1), torch.device("cpu"), SimpleNamespace(variable_length=False, stub_inputs=True)
    )
    batch, fed = held_out.batch(np.arange(22))
    assert fed.value.shape == (22, 12, 8, 8) and len(batch.inputs) == 0


def test_half_precision_is_near(case):
    source, items, layers = case
    keep = ActivationStore(MemoryStore(), choice=RuntimeConfig("torch", "bf16", batch_size=8))
    samples = samples_of(source, items)
    full = run(source, samples, cache=False, layers=layers, epochs=1)
    half = run(source, samples, cache=True, layers=layers, epochs=1, keep=keep)
    assert half.history.loss != full.history.loss
    assert np.allclose(half.history.loss, full.history.loss, rtol=0.05)


# ---- views ----------------------------------------------------------------------------------------------------------


def with_views(source, items, recipe="r"):
    """View v of an item is the item plus v times noise of its own: easily told apart."""
    samples = samples_of(source, items)
    read = samples._read

    def vary(index, view):
        noise = np.random.default_rng([index, view]).normal(size=8)
        return (read(index) + noise).astype(np.float32)

    samples.views = Views(vary, recipe)
    return samples


@pytest.mark.parametrize("cache", [True, False])
def test_views_change_training_and_repeat_to_the_bit(cache):
    source = vector_source(networks.Dense)
    items = vectors(22)
    item, same = (run(source, with_views(source, items), cache=cache, views=3) for _ in range(2))
    plain = run(source, with_views(source, items), cache=cache, views=1)
    assert item.history.loss == same.history.loss != plain.history.loss


def test_views_are_the_same_with_and_without_the_cache():
    source = vector_source(networks.Dense)
    items = vectors(22)
    cached, full = (run(source, with_views(source, items), cache=cache, views=4) for cache in (True, False))
    assert np.allclose(cached.history.loss, full.history.loss, rtol=1e-4)


def test_every_view_has_a_key_of_its_own():
    keys = {view_key(key, recipe, view) for key in (b"a" * 16, b"b" * 16) for recipe in ("r", "s") for view in (1, 2)}
    assert len(keys) == 8


def test_views_of_what_has_none_are_refused():
    source = vector_source(networks.Dense)
    with pytest.raises(OptionError, match="needs images"):
        run(source, samples_of(source, vectors(22)), cache=True, views=2)


# ---- options of the one trainer, cached and not ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "option", [{"mixup": 0.4}, {"cotuning": 1.0}, {"lr": "auto"}, {"ema": 0.9}, {"l2sp": 0.1}], ids=str
)
def test_options_do_the_same_with_and_without_the_cache(option):
    source = image_source(networks.Normed, classifier="classifier")
    samples = samples_of(source, pictures(22))
    plain = run(source, samples, cache=True, layers=2)
    cached, full = (run(source, samples, cache=cache, layers=2, **option) for cache in (True, False))
    assert np.allclose(cached.history.loss, full.history.loss, rtol=2e-3)
    assert any(
        not torch.equal(a, b) for a, b in zip(cached.source.module.parameters(), plain.source.module.parameters())
    )


def test_mixing_is_over_items_and_targets_alike():
    mix = Mix(0.75, torch.tensor([1, 0]))
    assert torch.equal(mix(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), torch.tensor([[0.75, 0.25], [0.25, 0.75]]))


def test_without_a_frozen_part_the_pooled_features_are_mixed():
    source = vector_source(networks.Dense)
    samples = samples_of(source, vectors(22))
    assert run(source, samples, name="full", cache=None, mixup=0.4).history.loss != run(
        source, samples, name="full", cache=None).history.loss  # fmt: skip


def test_cotuning_reads_the_relation_off_the_source():
    """A source whose classes are ours, perfectly told apart: class i says class i."""
    source = vector_source(lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), classifier="1")
    with torch.no_grad():
        source.module[0].weight.copy_(torch.eye(8))
        source.module[1].weight.copy_(60 * torch.eye(3, 8))
        for layer in source.module:
            layer.bias.zero_()
    X = np.eye(8, dtype=np.float32)[np.arange(12) % 3]
    samples = samples_of(source, X)
    width = source.layer("0").shape[0]
    start = HeadInit(np.zeros((width, 3)), np.zeros(3), np.zeros(width), np.ones(width))
    feed = BatchProvider(FineTuneModel(source, [FeatureSpec(0, "0", "avg")], start), samples)
    expected = torch.from_numpy(np.eye(3, dtype=np.float32)[np.arange(12) % 3])
    assert torch.allclose(source_class_relation(feed, expected, "classification"), torch.eye(3), atol=1e-6)
    with pytest.raises(OptionError, match="needs classes"):
        source_class_relation(feed, expected, "regression")
    bare = vector_source(networks.Dense)
    with pytest.raises(OptionError, match="classifier of its own"):
        run(bare, samples_of(bare, vectors(22)), cache=True, cotuning=1.0)


def test_the_range_test_leaves_nothing_behind_and_fears_steep_losses():
    def rate(steepness):
        p = nn.Parameter(torch.ones(4))
        loss = lambda indices, generator: 1 + steepness * (p - 0.9999).square().sum()  # noqa: E731
        result = range_test(
            [ParameterGroup({"p": p})], loss, Indices(16), config=TrainingConfig(batch_size=4).resolve()
        )
        assert torch.equal(p.detach(), torch.ones(4)) and p.grad is None
        return result

    assert rate(1e6) < 0.2 * rate(1e4)
    assert rate(1e4) < rate(1e-2)


def test_layers_by_name():
    source = image_source(networks.Normed, classifier="classifier")
    samples = samples_of(source, pictures(22))
    named, counted = (run(source, samples, cache=True, layers=layers) for layers in ("blocks.3", 1))
    assert named.history.loss == counted.history.loss
    with pytest.raises(UnknownName, match="a policy can start from"):
        run(source, samples, cache=True, layers="blocks.9")


# ---- other families -------------------------------------------------------------------------------------------------


FAMILIES = {
    "timm": ("timm", lambda folder: load_source("timm:test_resnet", pretrained=False,
                                                input={"input_size": (3, 32, 32)}), pictures),
    "timm, tokens": ("timm", lambda folder: load_source("timm:test_vit", pretrained=False), pictures),
    "hf": ("transformers", lambda folder: load_source(f"hf:{tiny_models.bert_folder(folder / 'bert')}"), texts),
    "keras": ("keras", lambda folder: load_source(f"keras:{tiny_models.keras_file(folder / 'small.keras')}"), pictures),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_other_families(name, tmp_path: Path):
    needs, make, items = FAMILIES[name]
    pytest.importorskip(needs)
    source = make(tmp_path)
    samples = samples_of(source, items(12))
    notes: list[str] = []
    options = {"layers": 1, "epochs": 2, "lr": 1e-3}
    full, cached = (run(source, samples, cache=cache, notes=notes, **options) for cache in (False, True))
    assert not [note for note in notes if "not cached" in note], notes
    assert np.allclose(full.history.loss, cached.history.loss, rtol=1e-3)
    assert full.moved == cached.moved
