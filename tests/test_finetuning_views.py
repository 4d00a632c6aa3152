"""Random views of pictures, what decides how many there are, and what is said before training starts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import networks
from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.errors import OptionError
from headstart.extraction.features import FeatureSpec
from headstart.finetuning import HeadInit, estimate, image_views, mirrored
from headstart.finetuning.batches import BatchProvider
from headstart.finetuning.budget import log_plan, plan_budget
from headstart.finetuning.model import FineTuneModel
from headstart.policies import policy
from headstart.sources import load_source
from headstart.training.batches import Samples, Views
from headstart.training.config import TrainingConfig
from headstart.transfer import fit
from headstart.transfer import starting_points as preparing
from listeners import Notes
from networks import image_source


def photos(n=6, *, side=40, seed=0):
    """Smooth pictures: a crop of one looks like it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, side // 5, 1), side // 5, 2)


@pytest.fixture
def source():
    return load_source("fake:image")


@pytest.fixture
def data():
    return Dataset.from_arrays(photos(), ["a", "b"] * 3)


# ---- what a view is -------------------------------------------------------------------------------------------------


def test_views_have_the_shape_the_source_takes_and_differ(source, data):
    views = image_views(source, data, mirror=False)
    plain = source.input.prepare(data.items[0])
    drawn = [views.read(0, view) for view in range(1, 9)]
    assert all(item.shape == plain.shape and item.dtype == np.uint8 for item in drawn)
    assert len({item.tobytes() for item in drawn} | {plain.tobytes()}) == 9


def test_a_view_depends_on_the_item_and_its_number_alone(source, data):
    """Not on where the item stands, nor on what was drawn before: that is why it can be kept."""
    views = image_views(source, data, mirror=True)
    first = views.read(2, 3)
    views.read(0, 1)
    moved = image_views(source, data.take([4, 2]), mirror=True)
    assert np.array_equal(moved.read(1, 3), first)
    assert np.array_equal(views.read(2, 3), first)


def test_the_recipe_says_what_changes_a_view(source, data):
    item, other = (image_views(source, data, mirror=mirror) for mirror in (True, False))
    assert item.recipe != other.recipe
    assert "crop" in item.recipe and "version" in item.recipe


def test_mirrored_views_are_mirrored_half_of_the_time(source):
    """A picture that is dark on the left: in a view that is mirrored it is dark on the right."""
    pixels = np.zeros((1, 40, 40, 3), np.uint8)
    pixels[:, :, 20:] = 200
    data = Dataset.from_arrays(np.concatenate([pixels, pixels[:, :, ::-1]]), ["a", "b"])
    for mirror, low, high in ((False, 0, 0), (True, 25, 75)):
        views = image_views(source, data, mirror=mirror)
        drawn = [views.read(0, view).astype(float).mean((0, 1)) for view in range(1, 101)]
        turned = sum(item[:4].mean() > item[-4:].mean() for item in drawn)
        assert low <= turned <= high


def test_a_view_keeps_most_of_the_picture_and_its_light(source):
    flat = np.full((2, 40, 40, 3), 128, np.uint8)
    flat[0, 0, 0] = 0
    data = Dataset.from_arrays(flat, ["a", "b"])
    views = image_views(source, data, mirror=False)
    means = [views.read(1, view).mean() for view in range(1, 60)]
    assert 100 < min(means) < 125 and 131 < max(means) < 156


def test_the_mirror_image(source, data):
    read = mirrored(source, data)
    plain = source.input.prepare(data.items[1])
    assert np.abs(read(1)[..., ::-1].astype(int) - plain).max() <= 1


def test_what_has_no_views(source):
    vectors = Dataset.from_arrays(networks.vectors(6), ["a", "b"] * 3)
    assert image_views(load_source("fake:vector"), vectors, mirror=False) is None
    floats = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32), ["a", "b"] * 3
    )
    assert image_views(source, floats, mirror=False) is None


# ---- the mirror is tried --------------------------------------------------------------------------------------------


def sided(n, *, sign):
    """Bright on one side. With ``sign`` the side is the class; without it, the brightness is."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    pixels = rng.integers(0, 40, (n, 16, 16, 3), dtype=np.uint8)
    for i, label in enumerate(y):
        half = slice(0, 8) if (label if sign else i // 2 % 2) else slice(8, 16)
        pixels[i, :, half] += np.uint8(90 if sign else 40 + 140 * label)
    return Dataset.from_arrays(pixels, [f"c{label}" for label in y])


@pytest.mark.parametrize("sign", [True, False])
def test_mirrors_are_left_out_where_they_change_what_a_picture_says(sign):
    heard = Notes()
    source = load_source("cnn:small", size=(16, 16), channels=3, classes=2)
    tuning = policy("last_layers", layers=1, epochs=1, views=2)
    with listening(heard):
        fit(source, sided(80, sign=sign), policy=tuning, layers="dense", head="logistic", store=False)
    message = next(text for text in heard if "in the mirror" in text)
    assert message.endswith("not mirrored." if sign else "mirrored, too.")


def test_nothing_is_tried_in_the_mirror_for_single_views(source, data):
    options = {"features": [], "start": None, "score": None, "device": "cpu"}
    assert preparing.views(source, data, np.arange(2), policy=policy("full", views=1), **options) is None
    assert preparing.views(source, data, np.arange(0), policy=policy("full"), **options).recipe.count("false") == 1


# ---- how many, and what is said -------------------------------------------------------------------------------------


def make_provider(*, count=100, nbytes=1000, cached=True, views=True):
    samples = Samples(lambda i: np.zeros(3), list, count, views=Views(lambda i, v: np.zeros(3), "r") if views else None)
    provider = BatchProvider(None, samples, views=3)
    provider.cache = SimpleNamespace(nbytes=nbytes, layer="b") if cached else None
    return provider


def test_views_without_a_budget_and_as_asked():
    assert plan_budget(policy("full"), make_provider(), None, 50.0).views == 4
    assert plan_budget(policy("full", views=7), make_provider(), None, 50.0).views == 7
    assert plan_budget(policy("full"), make_provider(views=False), 10.0, 50.0) == plan_budget(
        policy("full", views=1), make_provider(cached=False), 10.0, 0
    )


def test_views_fit_the_disk():
    assert plan_budget(policy("full"), make_provider(nbytes=10_000_000), None, 50.0).views == 2
    assert plan_budget(policy("full"), make_provider(nbytes=10**10), None, 50.0).views == 1


@pytest.mark.parametrize(("budget", "views"), [(1000.0, 4), (20.0, 3), (1.0, 1)])
def test_views_fit_the_budget(budget, views):
    """One pass over 100 items takes 2 s at 50 items a second; views may use 30 % of the budget."""
    result = plan_budget(policy("full"), make_provider(), budget, 50.0)
    assert result.views == views
    assert result.budget == pytest.approx(max(0.3 * budget, budget - 2.0 * views))


def test_views_of_other_items_are_refused():
    with pytest.raises(OptionError, match="needs images"):
        plan_budget(policy("full", views=2), make_provider(views=False), None, 50.0)


def test_the_plan_is_said_and_changes_nothing():
    weight = torch.nn.Parameter(torch.ones(2))
    heard, calls = Notes(), []

    def loss(batch, generator):
        calls.append(len(batch.indices))
        return (weight * torch.rand(2)).sum()

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with listening(heard):
        for cached, budget in ((True, None), (False, 1e-9)):
            config = TrainingConfig(epochs=9, batch_size=25, budget=budget).resolve()
            log_plan(make_provider(cached=cached), loss, config, "source, policy full")
    assert torch.equal(torch.rand(1), expected) and torch.equal(weight.detach(), torch.ones(2))
    assert set(calls) == {25} and len(calls) <= 6
    assert (
        heard[0].startswith("source, policy full: 9 epochs × ") and "3 view(s) of each cached at b (0 MB)" in heard[0]
    )
    assert ": 1 epochs × " in heard[1] and "full forward passes" in heard[1]


def test_an_epoch_is_estimated_from_what_lies_above_the_boundary():
    source = image_source(networks.Normed, classifier="classifier")
    depth = source.layer("blocks.1").depth
    half = estimate(source, ["pool"], policy("last_layers", layers=2), count=100, speed=50.0)
    assert half == pytest.approx(3 * 100 * (1 - depth) / 50)
    assert estimate(source, ["pool"], policy("full"), count=100, speed=50.0) == pytest.approx(6.0)
    assert estimate(source, ["pool"], policy("full"), count=100, speed=0.0) is None
    assert estimate(source, ["pool"], policy("frozen"), count=100, speed=9.0) is None


def test_why_it_is_not_worth_starting():
    source = image_source(networks.Normed, classifier="classifier")
    features = ["pool"]
    options = {"count": 100, "choice": RuntimeConfig("torch", "fp32", speed=50.0)}
    full = policy("full")
    assert "99.6%" in preparing.skip_reason(source, features, full, budget=None, shown=0.996, **options)
    assert "more than the budget of 20 s" in preparing.skip_reason(
        source, features, full, budget=20.0, shown=0.9, **options
    )
    assert preparing.skip_reason(source, features, full, budget=60.0, shown=0.9, **options) is None
    assert preparing.skip_reason(source, features, full, budget=60.0, shown=None, **options) is None


# ---- batches --------------------------------------------------------------------------------------------------------


def test_views_are_drawn_from_the_generator_and_all_come_up():
    source = load_source("fake:vector")
    X = networks.vectors(8)
    views = Views(lambda index, view: X[index] + 100 * view, "r")
    samples = Samples(lambda i: X[i], source.input.collate, 8, views=views)
    start = HeadInit(np.ones((12, 2)), np.zeros(2), np.zeros(12), np.ones(12))
    provider = BatchProvider(FineTuneModel(source, [FeatureSpec(0, "3", "avg")], start), samples, views=3)
    rounds = []
    for seed in (0, 0, 1, 2):
        batch = provider.load(np.arange(8), torch.Generator().manual_seed(seed))
        assert batch.activations is None
        rounds.append(((batch.inputs.inputs["x"] - X) / 100).round()[:, 0].astype(int))
    assert np.array_equal(rounds[0], rounds[1]) and not np.array_equal(rounds[0], rounds[2])
    assert set(np.concatenate(rounds)) == {0, 1, 2}
    (plain,) = provider.in_order()
    assert np.array_equal(plain.inputs.inputs["x"], X)  # as they are, for validation
