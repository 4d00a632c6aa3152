"""Keras models: inner layers by Keras' own names, pixels scaled as in training, and files that are refused."""

from __future__ import annotations

import os
import shutil
import tempfile

import numpy as np
import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="headstart-test-keras-"))
keras = pytest.importorskip("keras", reason="keras is not installed")

import headstart as hs  # noqa: E402
from headstart.dataset import Dataset  # noqa: E402
from headstart.errors import HeadstartError, OptionError, SourceError, UnknownName, UnsafeFile, WeightsError  # noqa: E402
from headstart.extraction import extract  # noqa: E402
from headstart.sources import SOURCES, load_source  # noqa: E402
from networks import pictures, state_bytes  # noqa: E402

layers = keras.layers
PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False}
INNER = ("conv1", "pool1", "conv2", "pool2", "flat", "dense")


def classic(*first):
    """The network of every first lesson."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            *first,
            layers.Conv2D(4, 3, activation="relu", name="conv1"),
            layers.MaxPooling2D(name="pool1"),
            layers.Conv2D(6, 3, activation="relu", name="conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(name="flat"),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dense(3, activation="softmax", name="classes"),
        ],
        name="classic",
    )


def branched():
    """Two paths that are added."""
    keras.utils.set_random_seed(1)
    x = keras.Input((16, 16, 3), name="pixels")
    a = layers.Conv2D(4, 3, padding="same", activation="relu", name="left")(x)
    b = layers.Conv2D(4, 1, activation="relu", name="right")(x)
    y = layers.GlobalAveragePooling2D(name="mean")(layers.Add(name="sum")([a, b]))
    return keras.Model(x, layers.Dense(2, name="classes")(y), name="branched")


@pytest.fixture(scope="module")
def model():
    return classic()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras")
    for suffix in ("keras", "h5"):
        model.save(folder / f"small.{suffix}")
    return folder


@pytest.fixture(scope="module")
def source(files):
    return load_source(f"keras:{files / 'small.keras'}")


def inner(model, name: str, x: np.ndarray) -> np.ndarray:
    """Keras' own sub-model up to a layer."""
    return keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)


def rows(source, X, layer, pooling="none"):
    data = X if isinstance(X, Dataset) else Dataset.from_arrays(X)
    return extract(source, data, layers=layer, pooling=pooling, **PLAIN).rows(layer, data)


X = pictures(6, side=16)


@pytest.mark.parametrize("name", INNER)
def test_inner_layers_are_those_of_keras(name, source, model):
    expected = inner(model, name, X.astype(np.float32) / 255)
    result = rows(source, X, name, "flatten")
    assert result.shape == (6, expected[0].size)
    # flattened in whatever order headstart has chosen for maps: the same numbers, to 1e-5
    assert np.allclose(np.sort(result, 1), np.sort(expected.reshape(6, -1), 1), atol=1e-5)
    if expected.ndim == 4:
        assert np.allclose(rows(source, X, name, "avg"), expected.mean((1, 2)), atol=1e-5)
        assert np.allclose(rows(source, X, name, "max"), expected.max((1, 2)), atol=1e-5)
    else:
        assert np.allclose(result, expected, atol=1e-5)


def test_layers_have_keras_names_order_and_axes(source):
    names = [layer.name for layer in source.layers]
    assert [name for name in names if name in INNER] == list(INNER)
    assert source.layer("conv1").axes == "hwc"
    assert source.layer("conv1").shape == (14, 14, 4)
    assert source.layer("dense").shape == (8,)
    assert source.classifier == "classes"
    assert "classes" not in source.select("auto")
    assert source.select("last") == ("dense",)
    depths = [source.layer(name).depth for name in ("conv1", "conv2", "dense")]
    assert depths == sorted(depths)
    assert depths[0] > 0
    assert source.meta["keras_name"] == "classic"


def test_both_kinds_of_files_and_the_object_are_one_source(source, files, model):
    again = load_source(f"keras:{files / 'small.h5'}")
    values = SOURCES["keras"](model)
    assert state_bytes(again.module) == state_bytes(source.module)
    assert again.fingerprint == source.fingerprint
    assert load_source(f"keras:{files / 'small.keras'}").fingerprint == source.fingerprint
    assert np.array_equal(rows(values, X, "dense", "avg"), rows(source, X, "dense", "avg"))


def test_other_weights_are_another_source(source):
    other = classic()
    other.layers[0].set_weights([w + 0.01 for w in other.layers[0].get_weights()])
    assert SOURCES["keras"](other).fingerprint != source.fingerprint


@pytest.mark.parametrize("name", ["left", "right", "sum", "mean"])
def test_functional_models(name, tmp_path):
    built = branched()
    built.save(tmp_path / "branched.keras")
    source = load_source(f"keras:{tmp_path / 'branched.keras'}")
    expected = inner(built, name, X.astype(np.float32) / 255)
    expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
    assert np.allclose(rows(source, X, name, "avg"), expected, atol=1e-5)


def test_models_inside_models():
    keras.utils.set_random_seed(2)
    backbone = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="deep"), layers.GlobalAveragePooling2D(name="mean")],
        name="backbone",
    )
    full = keras.Sequential([keras.Input((16, 16, 3)), backbone, layers.Dense(2, name="classes")])
    source = SOURCES["keras"](full)
    names = [layer.name for layer in source.layers]
    assert {"deep", "mean"} <= set(names)
    expected = backbone.predict(X.astype(np.float32) / 255, verbose=0)
    assert np.allclose(rows(source, X, "mean", "avg"), expected, atol=1e-5)


def test_vectors():
    keras.utils.set_random_seed(3)
    built = keras.Sequential([keras.Input((5,)), layers.Dense(7, activation="tanh", name="a"), layers.Dense(2)])
    source = SOURCES["keras"](built)
    V = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    assert source.modality == "vector"
    assert np.allclose(rows(source, V, "a", "avg"), inner(built, "a", V), atol=1e-5)


# ---- pixel values ---------------------------------------------------------------------------------------------------


def test_a_rescaling_layer_gets_raw_pixels():
    built = classic(layers.Rescaling(1 / 127.5, offset=-1, name="scale"))
    source = SOURCES["keras"](built)
    expected = inner(built, "dense", X.astype(np.float32))
    assert np.allclose(rows(source, X, "dense", "avg"), expected, atol=1e-5)


@pytest.mark.parametrize(("scale", "change"), [("0-1", (1 / 255, 0)), ("0-255", (1, 0)), ("-1-1", (1 / 127.5, -1))])
def test_pixel_ranges(scale, change, files, model):
    source = load_source(f"keras:{files / 'small.keras'}", scale=scale)
    expected = inner(model, "dense", X.astype(np.float32) * np.float32(change[0]) + change[1])
    assert np.allclose(rows(source, X, "dense", "avg"), expected, rtol=1e-5, atol=1e-4)


def test_pixel_ranges_are_part_of_the_fingerprint(files):
    built = [load_source(f"keras:{files / 'small.keras'}", scale=s).fingerprint for s in ("0-1", "0-255", "-1-1")]
    assert len(set(built)) == 3
    with pytest.raises(OptionError, match="scale must be"):
        load_source(f"keras:{files / 'small.keras'}", scale="0-2")
    for name in ("no_such_option", "crop_pc", "mean"):
        with pytest.raises(UnknownName, match=name):
            load_source(f"keras:{files / 'small.keras'}", **{name: 1})


def test_pictures_of_other_sizes_are_resized(source):
    assert rows(source, pictures(3, side=40), "dense", "avg").shape == (3, 8)


def test_grey_pictures():
    keras.utils.set_random_seed(4)
    built = keras.Sequential([keras.Input((12, 12, 1)), layers.Conv2D(3, 3, name="conv"), layers.Flatten()])
    grey = np.random.default_rng(0).integers(0, 256, (4, 12, 12), dtype=np.uint8)
    expected = inner(built, "conv", grey[..., None].astype(np.float32) / 255)
    assert np.allclose(rows(SOURCES["keras"](built), grey, "conv", "avg"), expected.mean((1, 2)), atol=1e-5)


# ---- what stays as it was -------------------------------------------------------------------------------------------


def test_extraction_changes_nothing(files):
    source = load_source(f"keras:{files / 'small.keras'}")
    before, content = state_bytes(source.module), (files / "small.keras").read_bytes()
    mark = source.fingerprint
    first = rows(source, X, "conv2", "avg")
    assert np.array_equal(rows(source, X, "conv2", "avg"), first)
    assert state_bytes(source.module) == before
    assert source.fingerprint == mark
    assert (files / "small.keras").read_bytes() == content


def test_a_model_object_is_left_alone():
    built = classic()
    before = [w.copy() for w in built.get_weights()]
    rows(SOURCES["keras"](built), X, "dense", "avg")
    assert built.trainable
    assert all(layer.trainable for layer in built.layers)
    assert all(np.array_equal(a, b) for a, b in zip(before, built.get_weights(), strict=True))


def test_dropout_and_batch_statistics_do_nothing():
    keras.utils.set_random_seed(5)
    parts = [layers.Conv2D(4, 3), layers.BatchNormalization(name="norm"), layers.Dropout(0.5), layers.Flatten()]
    source = SOURCES["keras"](keras.Sequential([keras.Input((16, 16, 3)), *parts, layers.Dense(5, name="end")]))
    before = state_bytes(source.module)
    assert np.array_equal(rows(source, X, "end", "avg"), rows(source, X, "end", "avg"))
    assert np.allclose(rows(source, X[:1], "end", "avg"), rows(source, X, "end", "avg")[:1], atol=1e-5)
    assert state_bytes(source.module) == before


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_saving_keeps_rows_and_fingerprint(suffix, files, tmp_path):
    source = load_source(f"keras:{files / f'small.{suffix}'}", scale="-1-1")
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    assert [layer.name for layer in again.layers] == [layer.name for layer in source.layers]
    for name in ("conv1", "dense"):
        assert rows(again, X, name, "avg").tobytes() == rows(source, X, name, "avg").tobytes()


def test_dropout_is_named_alike_in_every_reading(tmp_path):
    """Keras numbers random generators as a process makes them; a file must be the same source all the same."""
    parts = [layers.Conv2D(4, 3, name="conv"), layers.Dropout(0.5), layers.Flatten(), layers.Dropout(0.5)]
    built = keras.Sequential([keras.Input((16, 16, 3)), *parts, layers.Dense(3, name="end")])
    built.save(tmp_path / "drop.keras")
    source = load_source(f"keras:{tmp_path / 'drop.keras'}")
    assert load_source(f"keras:{tmp_path / 'drop.keras'}").fingerprint == source.fingerprint
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    assert rows(again, X, "end", "avg").tobytes() == rows(source, X, "end", "avg").tobytes()
    y = np.arange(6) % 2
    policy = hs.policy("full", epochs=1, batch_size=3)
    options = {"layers": "last", "policy": policy, "guard": False, "store": tmp_path / "bank", "engine": "torch"}
    tuned = hs.fit(source, Dataset.from_arrays(X, y), **options)
    loaded = hs.load(tuned.save(tmp_path / "tuned.headstart"))
    assert np.array_equal(loaded.predict_proba(X), tuned.predict_proba(X))


def test_fit_from_end_to_end(source, tmp_path):
    y = np.arange(40) % 2
    large = (pictures(40, side=16) // 3 + 100 * y[:, None, None, None]).astype(np.uint8)
    mark = source.fingerprint
    data = Dataset.from_arrays(large, y)
    fitted = hs.fit(source, data, head="ridge", policy="frozen", store=tmp_path, engine="torch")
    assert (np.asarray(fitted.predict(data)) == y).mean() > 0.9
    assert source.fingerprint == mark


@pytest.mark.parametrize("make", [classic, branched])
@pytest.mark.parametrize("policy", ["full", "last_layers"])
def test_fine_tuning_from_end_to_end(make, policy, tmp_path):
    """A model object as it is: tuned, predicting, saved and loaded; the model itself keeps its weights."""
    built = make()
    before = [w.copy() for w in built.get_weights()]
    source = SOURCES["keras"](built)
    y = np.arange(40) % 2
    large = (pictures(40, side=16) // 3 + 100 * y[:, None, None, None]).astype(np.uint8)
    data = Dataset.from_arrays(large, y)
    options = {"layers": "last", "guard": False, "store": tmp_path / "bank", "engine": "torch"}
    tuned = hs.fit(source, data, policy=hs.policy(policy, epochs=2), **options)
    assert (np.asarray(tuned.predict(data)) == y).mean() > 0.9
    assert tuned.source.fingerprint != source.fingerprint == SOURCES["keras"](built).fingerprint
    assert all(np.array_equal(a, b) for a, b in zip(before, built.get_weights(), strict=True))
    again = hs.load(tuned.save(tmp_path / "tuned.headstart"))
    assert np.array_equal(again.predict_proba(large), tuned.predict_proba(large))
    old, new = source.module.state_dict(), tuned.source.module.state_dict()
    moved = {name for name, weights in new.items() if not torch.equal(weights, old[name])}
    assert moved and not any("classes" in name for name in moved)
    if make is classic:
        assert any("conv1" in name for name in moved) == (policy == "full")


def test_only_full_precision_is_tried(source, tmp_path):
    assert source.precisions == ("fp32",)
    data = Dataset.from_arrays(X)
    bank = extract(source, data, layers="dense", store=tmp_path, engine="torch", precision="auto")
    assert bank.choice.precision == "fp32"


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_python_code_is_refused_and_not_run(suffix, tmp_path):
    ran = tmp_path / "ran"
    code = f"lambda x: (open({str(ran)!r}, 'w').close(), x)[1]"
    built = keras.Sequential([keras.Input((4,)), layers.Lambda(eval(code), output_shape=(4,)), layers.Dense(2)])
    file = tmp_path / f"evil.{suffix}"
    built.save(file)
    ran.unlink(missing_ok=True)
    with pytest.raises(UnsafeFile, match="Lambda"):
        load_source(f"keras:{file}")
    assert not ran.exists()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_damaged_files(suffix, size, files, tmp_path):
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes((files / f"small.{suffix}").read_bytes()[:size])
    with pytest.raises(WeightsError):
        load_source(f"keras:{file}")


@pytest.mark.parametrize("content", [b"\x00" * 2000, b"PK\x03\x04" + b"x" * 500, b"\x89HDF\r\n\x1a\n" + b"y" * 500])
def test_files_of_something_else(content, tmp_path):
    for suffix in ("keras", "h5"):
        file = tmp_path / f"other.{suffix}"
        file.write_bytes(content)
        with pytest.raises(WeightsError):
            load_source(f"keras:{file}")


def test_missing_and_renamed_files(files, tmp_path):
    with pytest.raises(WeightsError, match="no Keras file"):
        load_source(f"keras:{tmp_path / 'nowhere.keras'}")
    renamed = shutil.copy(files / "small.keras", tmp_path / "small.bin")
    with pytest.raises(HeadstartError, match=r"\.keras"):
        load_source(f"keras:{renamed}")
    swapped = shutil.copy(files / "small.keras", tmp_path / "swapped.h5")
    with pytest.raises(WeightsError):
        load_source(f"keras:{swapped}")
    with pytest.raises(HeadstartError):
        load_source(f"keras:{tmp_path}")


def test_weights_without_their_network(model, tmp_path):
    model.save_weights(tmp_path / "only.weights.h5")
    with pytest.raises(WeightsError):
        load_source(f"keras:{tmp_path / 'only.weights.h5'}")


def test_several_inputs_are_refused():
    a, b = keras.Input((4,)), keras.Input((4,))
    with pytest.raises(SourceError, match="several inputs"):
        SOURCES["keras"](keras.Model([a, b], layers.Add()([a, b])))


def test_open_shapes_and_unbuilt_models_are_refused():
    with pytest.raises(SourceError, match="open"):
        SOURCES["keras"](keras.Sequential([keras.Input((None, 5)), layers.LSTM(3)]))
    with pytest.raises(SourceError, match="build it"):
        SOURCES["keras"](keras.Sequential([layers.Dense(3)]))


@pytest.mark.parametrize("given", [3, None, object(), [1, 2], np.zeros(3)])
def test_things_that_are_no_models(given):
    with pytest.raises(OptionError, match=r"keras\.Model"):
        SOURCES["keras"](given)
