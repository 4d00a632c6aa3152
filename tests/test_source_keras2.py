"""Files of Keras 2: TensorFlow's own numbers come back, and what Keras 3 would do differently is refused.

The files in ``keras2/`` were saved by TensorFlow (``keras2/make.py``); nothing here needs it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="headstart-test-keras-"))
pytest.importorskip("keras", reason="keras is not installed")
h5py = pytest.importorskip("h5py", reason="h5py is not installed")

from headstart.dataset import Dataset  # noqa: E402
from headstart.errors import UnsafeFile, WeightsError  # noqa: E402
from headstart.extraction import extract  # noqa: E402
from headstart.sources import load_source  # noqa: E402
from headstart.sources.keras import convert_keras2_config, to_keras3  # noqa: E402

HOME = Path(__file__).parent / "keras2"
FILES = ["picture.keras", "picture.h5", "sequence.keras", "sequence.h5"]
PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "store": False, "pooling": "avg"}


@pytest.mark.parametrize("file", FILES)
def test_features_and_outputs_are_those_of_tensorflow(file):
    source = load_source(f"keras:{HOME / file}")
    with np.load(HOME / f"{Path(file).stem}.npz") as saved:
        data = Dataset.from_arrays(saved["X"])
        for layer in ("features", "out"):
            rows = extract(source, data, layers=layer, **PLAIN).rows(layer, data)
            assert np.allclose(rows, saved[layer], atol=1e-5), layer


def test_a_source_of_such_a_file_can_be_saved(tmp_path):
    source = load_source(f"keras:{HOME / 'picture.h5'}")
    again = load_source(f"saved:{source.save(tmp_path / 'kept')}")
    assert again.fingerprint == source.fingerprint
    assert [layer.name for layer in again.layers] == [layer.name for layer in source.layers]


def test_names_and_pixel_values():
    source = load_source(f"keras:{HOME / 'picture.h5'}")
    names = [layer.name for layer in source.layers]
    assert {"stem_separable", "stem_norm", "deep", "features"} <= set(names)
    assert source.input.std == (1 / 255,) * 3  # its own arithmetic takes 0 … 255
    assert load_source(f"keras:{HOME / 'picture.keras'}").input.std == source.input.std


def test_files_of_keras_3_are_left_alone(tmp_path):
    import keras

    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    for suffix in ("keras", "h5"):
        built.save(tmp_path / f"new.{suffix}")
        assert convert_keras2_config((tmp_path / f"new.{suffix}").read_bytes()) is None


def rewritten(name: str, folder: Path, old: str, new: str) -> Path:
    """A copy of an .h5 file with other words in its configuration."""
    path = Path(shutil.copy(HOME / name, folder / "other.h5"))
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        text = text.decode() if isinstance(text, bytes) else text
        assert old in text
        file.attrs["model_config"] = text.replace(old, new)
    return path


def test_an_argument_that_matters_is_not_dropped(tmp_path):
    path = rewritten("sequence.h5", tmp_path, '"time_major": false', '"time_major": true')
    with pytest.raises(WeightsError, match=r"(?s)other\.h5, saved by Keras 2.*time_major"):
        load_source(f"keras:{path}")


@pytest.mark.parametrize(
    ("kind", "inner", "kept"),
    [
        ("DepthwiseConv2D", {"groups": 1, "strides": [2, 2]}, {"strides": [2, 2]}),
        ("DepthwiseConv2D", {"groups": 2}, {"groups": 2}),
        ("Conv2D", {"groups": 1}, {"groups": 1}),
        ("SeparableConv1D", {"groups": 1, "kernel_initializer": "x", "pointwise_initializer": "y"},
         {"pointwise_initializer": "y"}),
        ("LSTM", {"time_major": False, "units": 3}, {"units": 3}),
        ("GRU", {"time_major": True}, {"time_major": True}),
        ("RandomFlip", {"rng_type": "stateful", "mode": "horizontal"}, {"mode": "horizontal"}),
        ("BatchNormalization", {"axis": [3]}, {"axis": 3}),
        ("BatchNormalization", {"axis": [1, 2]}, {"axis": [1, 2]}),
        ("Dense", {"name": "a/b", "units": 1}, {"name": "a_b", "units": 1}),
    ],
)  # fmt: skip
def test_only_what_changes_nothing_is_left_out(kind, inner, kept):
    assert to_keras3({"class_name": kind, "config": inner})["config"] == kept


@pytest.mark.parametrize("kind", ["Functional", "Sequential"])
def test_a_model_inside_a_model_is_counted_from_0(kind):
    first = {"class_name": "InputLayer", "config": {"name": "in"}, "name": "in", "inbound_nodes": []}
    inner = {"class_name": kind, "name": "net", "config": {"name": "net", "layers": [first]},
             "inbound_nodes": [[["in", 0, 0, {}]]]}  # fmt: skip
    dense = {"class_name": "Dense", "name": "out", "config": {"name": "out"}, "inbound_nodes": [[["net", 1, 0, {}]]]}
    ends = {"input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
    full = {"class_name": "Functional", "config": {"name": "all", "layers": [first, inner, dense], **ends}}
    result = to_keras3(full)["config"]
    assert result["layers"][2]["inbound_nodes"] == [[["net", 0, 0, {}]]]
    assert result["layers"][1]["inbound_nodes"] == [[["in", 0, 0, {}]]]
    assert result["output_layers"] == ["out", 0, 0]


def arithmetic(function: str, **values):
    node = ["x/y", 0, 0, {**values, "name": None}]
    return to_keras3(
        {"class_name": "TFOpLambda", "config": {"name": "op", "function": function}, "inbound_nodes": [node]}
    )


@pytest.mark.parametrize(
    ("function", "y", "expected"),
    [("math.truediv", 4.0, 2.0), ("math.multiply", 4, 32.0), ("math.subtract", 3, 5.0), ("math.add", 3, 11.0)],
)
def test_arithmetic_with_a_number(function, y, expected):
    result = arithmetic(function, y=y)
    assert result["class_name"] == "Rescaling"
    assert 8.0 * result["config"]["scale"] + result["config"]["offset"] == expected


@pytest.mark.parametrize("given", [{"y": [1.0, 2.0, 3.0]}, {"y": ["other", 0, 0]}, {}, {"y": 2, "axis": 1}])
def test_other_arithmetic_stays_unknown(given):
    assert arithmetic("math.subtract", **given)["class_name"] == "TFOpLambda"
    assert arithmetic("math.truediv", y=0)["class_name"] == "TFOpLambda"


def test_unknown_arithmetic_is_an_error_with_its_reason(tmp_path):
    path = rewritten("picture.h5", tmp_path, '"math.truediv"', '"math.cos"')
    with pytest.raises(WeightsError, match="TFOpLambda"):
        load_source(f"keras:{path}")


def test_code_is_refused_here_too(tmp_path):
    path = tmp_path / "code.keras"
    with zipfile.ZipFile(HOME / "sequence.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "config.json":
                read = json.loads(text)
                inner = {"name": "code", "function": {"class_name": "__lambda__", "config": {"code": "4wE="}}}
                read["config"]["layers"].append({"module": "keras.layers", "class_name": "Lambda", "config": inner,
                                                 "registered_name": None})  # fmt: skip
                text = json.dumps(read)
            new.writestr(name, text)
    with pytest.raises(UnsafeFile):
        load_source(f"keras:{path}")


@pytest.mark.parametrize("file", ["sequence.keras", "sequence.h5"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_damaged_files(file, share, tmp_path):
    content = (HOME / file).read_bytes()
    (tmp_path / file).write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError):
        load_source(f"keras:{tmp_path / file}")
