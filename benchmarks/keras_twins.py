"""Claim: a Keras file saved by TensorFlow gives the features and outputs in headstart that it gives in TensorFlow.

Models are trained for two epochs, run and saved by TensorFlow in an environment of its own (named by
``HEADSTART_TF_PYTHON``): a Sequential network, a functional one with batch norm and a branch, and a MobileNetV2 of
``keras.applications``; as ``.keras`` and as ``.h5``; by Keras 3 and by Keras 2 (package tf_keras), of which most of the
files about are. headstart reads the same files through Keras on torch, without TensorFlow. Compared are an inner layer
and the final output, on the same float arrays.

    python -m venv /tmp/tf && /tmp/tf/bin/pip install tensorflow-cpu tf_keras
    HEADSTART_TF_PYTHON=/tmp/tf/bin/python python benchmarks/keras_twins.py [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _parts import finish, words

TOLERANCE = 1e-5  # of the largest value of the layer
SHAPES = {"sequential": (28, 28, 1), "functional": (32, 32, 3), "mobilenetv2": (64, 64, 3)}
OUTPUT = {"sequential": "out", "functional": "out", "mobilenetv2": "predictions"}


def models(keras: object) -> dict[str, object]:
    """Three models by name, each with a layer called ``features`` (or ``Conv_1``) inside."""
    layers, seq = keras.layers, keras.Sequential
    keras.utils.set_random_seed(0)
    classic = seq([
        keras.Input(SHAPES["sequential"]), layers.Conv2D(32, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2)), layers.Flatten(),
        layers.Dense(64, activation="relu", name="features"), layers.Dense(4, activation="softmax", name="out"),
    ])  # fmt: skip
    start = keras.Input(SHAPES["functional"])
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(start)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    y = layers.GlobalAveragePooling2D(name="features")(y)
    branched = keras.Model(start, layers.Dense(4, activation="softmax", name="out")(y))
    net = keras.applications.MobileNetV2(input_shape=SHAPES["mobilenetv2"], alpha=0.35, weights=None, classes=4)
    return {"sequential": classic, "functional": branched, "mobilenetv2": net}


def make(folder: Path, version: str) -> None:
    """Train, run and save the models; called in TensorFlow's environment."""
    keras = __import__("tf_keras" if version == "2" else "keras")
    for name, model in models(keras).items():
        X = np.random.default_rng(0).random((16, *SHAPES[name]), dtype="float32")
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
        model.fit(X, np.arange(16) % 4, epochs=2, verbose=0)
        inner = "Conv_1" if name == "mobilenetv2" else "features"
        both = keras.Model(model.inputs, [model.get_layer(inner).output, model.outputs[0]])
        features, output = both.predict(X, verbose=0)
        stem = folder / f"{name}-keras{version}"
        np.savez(f"{stem}.npz", X=X, features=features, output=output)
        for suffix in ("keras", "h5"):
            model.save(f"{stem}.{suffix}")
    (folder / f"versions-{version}.json").write_text(json.dumps({"keras": keras.__version__}))


def compare(file: Path) -> dict[str, float]:
    """Largest difference at the inner layer and at the output, over the largest value there."""
    import headstart as hs

    with np.load(file.with_suffix(".npz")) as saved:
        truth = dict(saved)
    name = file.name.partition("-")[0]
    source = hs.load_source(f"keras:{file}")
    data = hs.Dataset.from_arrays(truth["X"])
    result = {}
    for what, layer in (("features", "Conv_1" if name == "mobilenetv2" else "features"), ("output", OUTPUT[name])):
        bank = hs.extract(source, data, layers=layer, pooling="avg", precision="fp32", store=False)
        expected = truth[what].mean((1, 2)) if truth[what].ndim == 4 else truth[what]
        drift = np.abs(bank.rows(layer, data) - expected).max()
        result[what] = float(f"{drift / np.abs(expected).max():.2g}")
    return result


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--make", nargs=2, metavar=("FOLDER", "VERSION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(Path(arguments.make[0]), arguments.make[1])
        return
    python = os.environ.get("HEADSTART_TF_PYTHON")
    if not python:
        sys.exit("Name a Python that has tensorflow-cpu and tf_keras in HEADSTART_TF_PYTHON.")
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in ("3", "2"):
            quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
            clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            subprocess.run([python, __file__, "--make", folder, version], env={**clean, **quiet}, check=True)
        for file in sorted(path for path in Path(folder).iterdir() if path.suffix in (".keras", ".h5")):
            report[file.name] = compare(file)
            print(file.name, report[file.name], flush=True)
        saved_by = {v: json.loads((Path(folder) / f"versions-{v}.json").read_text())["keras"] for v in ("3", "2")}
    import keras

    report["saved by keras"], report["read by keras"] = list(saved_by.values()), keras.__version__
    drifts = [max(row.values()) for row in report.values() if isinstance(row, dict)]
    report["largest difference"], report["holds"] = max(drifts), max(drifts) <= TOLERANCE
    finish("keras_twins", report, save=arguments.save)


if __name__ == "__main__":
    main()
