"""How the files beside this one were made, by TensorFlow 2.21 with Keras 2 (tf_keras 2.21): python make.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
import tf_keras as keras

layers = keras.layers
folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)

start = keras.Input((12, 12, 3), name="photo")
x = keras.applications.mobilenet_v2.preprocess_input(start)  # x / 127.5 - 1, as layers of TensorFlow's own
x = layers.RandomFlip(name="flip")(x)
x = layers.SeparableConv2D(4, 3, padding="same", name="stem/separable")(x)
x = layers.BatchNormalization(name="stem/norm")(x)
x = layers.DepthwiseConv2D(3, name="depthwise")(layers.ReLU(max_value=6, name="relu6")(x))
x = layers.SpatialDropout2D(0.2, name="drop")(x)
x = layers.Conv2DTranspose(3, 2, strides=2, name="up")(x)
parts = [keras.Input((20, 20, 3)), layers.Conv2D(2, 3, name="deep"), layers.BatchNormalization()]
inner = keras.Sequential(parts, name="inner")
x = layers.GlobalAveragePooling2D(name="features")(inner(x))
picture = keras.Model(start, layers.Dense(3, activation="softmax", name="out")(x), name="picture")

sequence = keras.Sequential([
    layers.Bidirectional(layers.LSTM(3, return_sequences=True), input_shape=(7, 5), name="both"),
    layers.GRU(4, name="features"), layers.Dense(2, name="out"),
], name="sequence")  # fmt: skip

rng = np.random.default_rng(0)
for model, shape, scale in ((picture, (12, 12, 3), 255), (sequence, (7, 5), 1)):
    X = (rng.random((4, *shape)) * scale).astype(np.float32)
    model.compile("adam", "mse")
    model.fit(X, rng.random((4, model.output_shape[-1])), epochs=3, verbose=0)
    both = keras.Model(model.inputs, [model.get_layer("features").output, model.outputs[0]])
    features, out = both.predict(X, verbose=0)
    np.savez_compressed(folder / f"{model.name}.npz", X=X, features=features, out=out)
    for suffix in ("keras", "h5"):
        model.save(folder / f"{model.name}.{suffix}", **({"include_optimizer": False} if suffix == "h5" else {}))
