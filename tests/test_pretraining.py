"""Pretraining: it learns, it repeats, it resumes to the bit, and it says what data it cannot use."""

from __future__ import annotations

import gzip
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import networks
from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError, StoreError, UnknownName
from headstart.extraction import extract
from headstart.heads import head
from headstart.pretraining import OBJECTIVES, pretrain
from headstart.pretraining.base import ARCHITECTURES
from headstart.sources import Source, load_source
from networks import image_source, picture_data, pictures, separable, state_bytes, vector_source

module = import_module("headstart.pretraining.pretrain")  # the package gives the function of that name

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 64}
QUICK = {"epochs": 2, "image_size": 12, "batch_size": 8}


def digits(shared, per_digit: int, chosen=range(10), skip: int = 0):
    """Real digits: (n, 28, 28) uint8 and their labels, the first of each after ``skip``."""
    folder = shared / "images" / "mnist_t10k"
    result = {}
    for path in folder.iterdir():
        blob = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if blob[:4] in (b"\0\0\x08\x03", b"\0\0\x08\x01"):
            images = blob[3] == 3
            result["x" if images else "y"] = np.frombuffer(blob, np.uint8, offset=16 if images else 8)
    X, y = result["x"].reshape(-1, 28, 28), result["y"]
    index = np.concatenate([np.flatnonzero(y == digit)[skip : skip + per_digit] for digit in chosen])
    return X[index], y[index]


def trained_on(data, **how):
    return pretrain("cnn", data, **{**QUICK, **how})


def loss_of(source):
    return source.meta["loss"]


# ---- it learns ------------------------------------------------------------------------------------------------------


def test_the_cnn_learns_real_digits_0_to_4(shared):
    """The classic experiment: pretrain on 0–4; the source's own classifier, on digits it has not seen, is right."""
    X, y = digits(shared, 150, range(5))
    source = pretrain("cnn", Dataset.from_arrays(X, y.tolist()), epochs=4, batch_size=32)
    assert source.layer("output").shape == (5,)
    held_out, truth = digits(shared, 100, range(5), skip=150)
    data = Dataset.from_arrays(held_out)
    decisions = extract(source, data, layers="output", store=False, **PLAIN).rows("output", data)
    assert (decisions.argmax(1) == truth).mean() > 0.95
    assert source.input.channels == 1


@pytest.mark.slow
def test_features_of_0_to_4_carry_over_to_5_to_9(shared):
    """Few labelled digits of other classes: pretrained features beat untrained ones."""
    X, y = digits(shared, 300, range(5))
    data = Dataset.from_arrays(X, y.tolist())
    small, few_y = digits(shared, 10, range(5, 10))
    held_out, held_y = digits(shared, 100, range(5, 10), skip=10)
    result = {}
    for objective in ("supervised", "random"):
        source = pretrain("cnn", data, objective=objective, epochs=4)
        both = Dataset.from_arrays(np.concatenate([small, held_out]))
        rows = extract(source, both, layers="relu3", store=False, **PLAIN).rows("relu3", both)
        solved = head("ridge", alpha=1.0).fit(rows[:50], np.eye(5)[few_y - 5], task="classification")
        result[objective] = (solved.predict(rows[50:]) == held_y - 5).mean()
    assert result["supervised"] > result["random"] + 0.02


def test_the_record_says_what_was_done():
    data = picture_data(12, classes=3)
    source = trained_on(data, random_state=4)
    assert source.meta["objective"] == "supervised"
    assert source.meta["random_state"] == 4
    assert source.meta["classes"] == ["class 0", "class 1", "class 2"]
    assert source.meta["task"] == "classification"
    assert len(loss_of(source)) == source.meta["epochs"] == 2
    assert source.address == f"cnn:cnn+supervised-{data.fingerprint[:6]}"
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())


# ---- it repeats -----------------------------------------------------------------------------------------------------


def test_seeds_repeat_to_the_bit():
    data = picture_data(16)
    torch.manual_seed(1)
    item = trained_on(data)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    other = trained_on(data)
    assert torch.equal(torch.get_rng_state(), before)
    assert state_bytes(item.module) == state_bytes(other.module)
    assert item.fingerprint == other.fingerprint
    assert loss_of(item) == loss_of(other)
    assert trained_on(data, random_state=1).fingerprint != item.fingerprint


def test_random_leaves_initial_weights():
    data = picture_data(8)
    control = trained_on(data, objective="random", random_state=3)
    options = control.rebuild["options"]
    fresh = load_source("cnn:cnn", **{**options, "size": tuple(options["size"])})
    assert state_bytes(control.module) == state_bytes(fresh.module)
    assert control.meta["objective"] == "random"
    assert "loss" not in control.meta
    assert "+random-" in control.address
    assert control.fingerprint != trained_on(data, random_state=3).fingerprint


def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, monkeypatch):
    """A network with batch normalisation: its statistics are part of the checkpoint."""
    data = picture_data(16, classes=4)

    def fresh():
        return image_source(networks.Normed, classifier="classifier")

    options = {"epochs": 4, "batch_size": 8, "lr": 0.01}
    full = pretrain(fresh(), data, **options)
    real, calls = module.train, []

    def dying(groups, loss, *args, **kwargs):
        def counted(indices, generator):
            calls.append(1)
            if len(calls) == 6:  # in the third epoch
                raise KeyboardInterrupt
            return loss(indices, generator)

        return real(groups, counted, *args, **kwargs)

    monkeypatch.setattr(module, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        pretrain(fresh(), data, checkpoint=tmp_path / "run", **options)
    monkeypatch.undo()
    again = pretrain(fresh(), data, checkpoint=tmp_path / "run", **options)
    assert state_bytes(again.module) == state_bytes(full.module)
    assert loss_of(again) == loss_of(full)
    assert state_bytes(full.module)["stem.1.running_mean"] != state_bytes(fresh().module)["stem.1.running_mean"]


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    trained_on(picture_data(8), checkpoint=tmp_path / "run")
    with pytest.raises(StoreError, match="another run"):
        trained_on(picture_data(8, seed=5), checkpoint=tmp_path / "run")
    relabelled = picture_data(8).with_targets(["b", "a"] * 4)
    with pytest.raises(StoreError, match="another run"):
        trained_on(relabelled, checkpoint=tmp_path / "run")


def test_the_budget_reaches_the_loop():
    source = trained_on(picture_data(8), epochs=100_000, budget=1e-9)
    assert source.meta["epochs"] == 1


# ---- sources as architectures ---------------------------------------------------------------------------------------


def test_a_source_is_trained_further_and_left_alone():
    source = image_source(networks.Normed, classifier="classifier")
    before = state_bytes(source.module)
    data = picture_data(12, classes=4)
    trained = pretrain(source, data, epochs=2, batch_size=6)
    assert state_bytes(source.module) == before
    assert trained.fingerprint != source.fingerprint
    assert trained.input == source.input
    assert trained.classifier == "classifier"
    again = pretrain(trained, data, epochs=1, batch_size=6)
    assert again.address.count("+supervised-") == 1


def test_an_address_is_loaded_with_its_options():
    data = picture_data(8, classes=3)
    source = pretrain("cnn:mine", data, classes=3, channels=3, size=(12, 12), epochs=1)
    assert source.name.startswith("mine+supervised-")
    assert source.layer("output").shape == (3,)


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks_have_an_output_each(task):
    rng = np.random.default_rng(0)
    X = pictures(12, side=12)
    values = rng.normal(size=(12, 2)) if task == "regression" else rng.integers(0, 2, (12, 3))
    source = trained_on(Dataset.from_arrays(X, values))
    assert source.layer("output").shape == (values.shape[1],)
    assert source.meta["task"] == task
    single = trained_on(Dataset.from_arrays(X, rng.normal(size=12)))
    assert single.layer("output").shape == (1,)


def test_an_output_of_another_width_is_said():
    """It would be broadcast, and something else would be learnt."""
    source = vector_source(networks.Dense)
    X, y = separable(12, classes=3)
    with pytest.raises(
        DataError, match=r"gives \(6,\) numbers per item, but .* needs 3\. Give it an output of that size"
    ):
        pretrain(source, Dataset.from_arrays(X, [str(v) for v in y]), epochs=1)
    with pytest.raises(DataError, match=r"needs 1"):
        pretrain(source, Dataset.from_arrays(X, X[:, 0].astype(float)), epochs=1)


# ---- what it is given -----------------------------------------------------------------------------------------------


def test_channels_and_statistics_follow_the_data():
    grey = trained_on(Dataset.from_arrays(pictures(8, side=12)[..., 0], list("ab") * 4))
    colour = trained_on(picture_data(8, side=12))
    assert (grey.input.channels, colour.input.channels) == (1, 3)
    values = pictures(8, side=12)[..., 0] / 255
    assert grey.input.mean == (pytest.approx(values.mean(), abs=1e-3),)
    assert grey.input.std == (pytest.approx(values.std(), abs=1e-3),)
    assert grey.input.size == (12, 12)
    assert pretrain("cnn", picture_data(4), epochs=1).input.size == (28, 28)


def test_flat_pictures_do_not_divide_by_zero():
    data = Dataset.from_arrays(np.zeros((4, 12, 12), np.uint8), list("abab"))
    assert np.isfinite(loss_of(trained_on(data))).all()


def test_files_are_read_and_broken_ones_left_out(tmp_path):
    from PIL import Image

    for i in range(8):
        path = tmp_path / f"c{i % 2}"
        path.mkdir(exist_ok=True)
        Image.fromarray(pictures(1, seed=i)[0]).save(path / f"{i}.png")
    (tmp_path / "c0" / "broken.png").write_text("nothing")
    notes = []

    class Notes:
        note = staticmethod(notes.append)
        start = advance = finish = staticmethod(lambda *_: None)

    with listening(Notes()):
        source = trained_on(Dataset.from_folder(tmp_path))
    assert source.input.channels == 3
    assert len([text for text in notes if "broken.png" in text]) == 1


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: picture_data(4).without_targets(), DataError, "needs one target column; this dataset has 0"),
        (lambda: Dataset.from_arrays(pictures(4), {"a": list("abab"), "b": [1, 2, 3, 4]}), DataError, "has 2"),
        (lambda: Dataset.from_arrays(pictures(4), ["a", None, "b", None]), DataError, "2 labels of .* are missing"),
        (lambda: picture_data(4).take([]), DataError, "nothing to pretrain on"),
        (lambda: Dataset.from_arrays(networks.vectors(4), list("abab")), DataError, "'cnn' takes pictures; .* vector"),
    ],
)
def test_data_that_cannot_be_used(make, kind, said):
    with pytest.raises(kind, match=said):
        trained_on(make())


@pytest.mark.parametrize(
    ("architecture", "options", "kind", "said"),
    [
        ("cn", {}, UnknownName, "did you mean 'cnn'"),
        ("cnn", {"objective": "supervized"}, UnknownName, "did you mean 'supervised'"),
        ("cnn", {"lrr": 3}, UnknownName, "'lrr' is not one of the options of architecture 'cnn'"),
        ("cnn", {"image_size": 8}, OptionError, "at least 10 × 10"),
        ("cnn", {"epochs": 0}, OptionError, r"TrainingConfig\(epochs=…\)"),
        ("cnn", {"lr": -1.0}, OptionError, r"TrainingConfig\(lr=…\)"),
        ("fake:image", {"sise": 3}, UnknownName, "did you mean 'size'"),
    ],
)
def test_options_that_are_wrong(architecture, options, kind, said):
    with pytest.raises(kind, match=said):
        pretrain(architecture, picture_data(4), **options)


def test_texts_that_the_lstm_cannot_have():
    with pytest.raises(DataError, match="'lstm' takes texts"):
        pretrain("lstm", picture_data(4))
    with pytest.raises(
        UnknownName, match="'hiden' is not one of the options of architecture 'lstm'; did you mean 'hidden'"
    ):
        pretrain("lstm", Dataset.from_arrays(["a", "b"], ["x", "y"]), hiden=3)


def test_the_lstm_learns_words():
    texts = ["good film", "bad film", "a good one", "a bad one", "so good", "so bad"] * 6
    data = Dataset.from_arrays(texts, ["bad" if "bad" in text else "good" for text in texts])
    source = pretrain("lstm", data, epochs=12, batch_size=6, lr=0.02, embedding=8, hidden=8)
    assert loss_of(source)[-1] < 0.3 * loss_of(source)[0]
    assert source.modality == "text"


def test_every_objective_and_architecture_loads():
    for name in OBJECTIVES:
        assert callable(OBJECTIVES[name])
    for name in ARCHITECTURES:
        assert callable(ARCHITECTURES[name])


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name in ("supervised", "random")])
def test_what_comes_out_is_a_source_that_can_be_saved(objective, tmp_path):
    source = trained_on(picture_data(8), objective=objective)
    assert isinstance(source, Source)
    assert isinstance(source.module, nn.Module)
    again = load_source(f"saved:{source.save(tmp_path / 's')}")
    assert again.fingerprint == source.fingerprint
    assert again.meta == source.meta
