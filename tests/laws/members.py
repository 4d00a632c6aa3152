"""The members that the laws walk over, family by family. A line in a family's table enrols it here by itself.

Each family adds one list (and what a law needs to know about a member that the member cannot say itself).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from headstart.distances import DISTANCES as DISTANCE_FAMILY
from headstart.engines.base import ENGINES as ENGINE_FAMILY
from headstart.heads import HEADS as HEAD_FAMILY
from headstart.metrics import METRICS
from headstart.moments import Moments, Quantiser
from headstart.policies.base import POLICIES as POLICY_FAMILY
from headstart.readers import READERS
from headstart.runners.base import RUNNERS as RUNNER_FAMILY
from headstart.scores import SCORES as SCORE_FAMILY

# (name, task) of every metric; a metric that serves two tasks is walked over twice.
METRIC_MEMBERS = [(name, task) for name in METRICS for task in sorted(METRICS[name].tasks)]

# --- moments: every way of keeping them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """One way of keeping moments: the kind of targets, the options of ``from_rows``."""

    name: str
    targets: str = "one-hot"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return "exact" in self.options

    def __repr__(self) -> str:
        return self.name


_GRID = Quantiser(scale=1.1e5 + 100, bits=14, target_scale=64.0)
MOMENTS = (
    Kept("one-hot"),
    Kept("multi-label", "multi-label"),
    Kept("regression", "values"),
    Kept("no targets", "none"),
    Kept("per class", options={"per_class": True}),
    Kept("fourth order", options={"fourth": True}),
    Kept("per class, fourth order", options={"per_class": True, "fourth": True}),
    Kept("exact, 14 bits", options={"exact": Quantiser(scale=1.1e5 + 100, bits=14)}),
    Kept("exact, 8 bits, saturating", options={"exact": Quantiser(scale=2.0, bits=8, saturate=True)}),
    Kept("exact, per class", options={"exact": Quantiser(scale=1.1e5 + 100, bits=12), "per_class": True}),
    Kept("exact regression", "values", {"exact": _GRID}),
)


# --- scores: what each is given for features X (n, d) and labels y of `classes` classes ------------------------------


def _features(X, y, classes):
    return Moments.from_rows(X, np.eye(classes)[y]), {}


def _softmax(X):
    theta = np.exp(X - X.max(axis=1, keepdims=True))
    return theta / theta.sum(axis=1, keepdims=True)


SCORE_INPUTS = {
    "h_score": _features,
    "knn": lambda X, y, classes: (None, {"rows": X, "targets": np.eye(classes)[y]}),
    "leep": lambda X, y, classes: (None, {"probabilities": _softmax(X), "targets": np.eye(classes)[y]}),
    "logme": _features,
    "nce": lambda X, y, classes: (Moments.from_rows(np.eye(X.shape[1])[X.argmax(axis=1)], np.eye(classes)[y]), {}),
}
SCORES = tuple(SCORE_FAMILY)

# --- distances ------------------------------------------------------------------------------------------------------

DISTANCES = tuple(DISTANCE_FAMILY)

# Every reader, by modality; test_reader_laws.py holds one good file of each.
READER_MEMBERS = list(READERS)


# --- sources: a small one of every family that needs neither weights nor a network, and items that it takes -----------


@dataclass(frozen=True)
class Case:
    """How to make a small source, the items for it, and what it needs beyond the base packages."""

    make: Callable[[Path], Any]
    items: Callable[[int], Any]
    needs: str | None = None
    slow: bool = False
    saves: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    modules: bool = True
    """False: no torch module. What the laws ask of hooks and modes is in the family's own test file."""
    change: Callable[[Path], Any] | None = None
    """Where there are no parameters: makes the same source with one bit of one weight changed."""


SOUND16 = {"modality": "audio", "sample_rate": 16_000}
SOUND = {"modality": "audio", "sample_rate": 8000}


def _vectors(n):
    return np.random.default_rng(3).normal(size=(n, 8)).astype(np.float32)


def _pictures(n):
    """Of one shape, but not the one the source wants."""
    return np.random.default_rng(3).integers(0, 256, (n, 21, 17, 3), dtype=np.uint8)


def _texts(n):
    words = "a cat sat on the warm mat while two dogs ran far away".split()  # noqa: SIM905
    return [" ".join(np.random.default_rng([3, i]).choice(words, 2 + i % 7)) for i in range(n)]


def _sounds(n):
    return [np.random.default_rng([3, i]).normal(0, 0.1, 900 + 200 * (i % 4)).astype(np.float32) for i in range(n)]


def _load(address, **options):
    return lambda folder: import_module("headstart.sources").load_source(address, **options)


def _module(folder):
    networks = import_module("networks")
    return networks.image_source(networks.Normed, classifier="classifier")


def _saved(folder):
    remaining = _load("cnn:small", size=(16, 16), channels=3, seed=5)(folder).save(folder / "kept")
    return _load(f"saved:{remaining}")(folder)


def _bert(folder):
    return _load(f"hf:{import_module('tiny_models').bert_folder(folder / 'bert')}")(folder)


def _speech(folder):
    return _load(f"hf:{import_module('tiny_models').speech_folder(folder / 'speech')}")(folder)


def _keras(folder):
    return _load(f"keras:{import_module('tiny_models').keras_file(folder / 'small.keras')}")(folder)


def _onnx(folder, **how):
    return _load(f"onnx:{import_module('tiny_models').onnx_file(folder / 'small.onnx', **how)}")(folder)


SOURCES: dict[str, Case] = {
    "fake": Case(_load("fake:image"), _pictures),
    "fake, vectors": Case(_load("fake:vector", seed=2), _vectors),
    "identity": Case(_load("identity:vector", shape=(8,)), _vectors),
    "identity, pictures": Case(_load("identity:image", size=8), _pictures),
    "identity, sounds": Case(_load("identity:audio"), _sounds, facts=SOUND16),
    "cnn": Case(_load("cnn:small", size=(20, 16), channels=3, classes=3), _pictures),
    "cnn, grey": Case(_load("cnn:small", size=(12, 12), classes=3), _pictures),
    "lstm": Case(_load("lstm:small", vocabulary=("a", "cat", "sat", "dogs"), embedding=6, hidden=5), _texts),
    "module": Case(_module, _pictures, saves=False),
    "saved": Case(_saved, _pictures),
    "timm": Case(_load("timm:test_resnet", pretrained=False, input={"input_size": (3, 32, 32)}), _pictures, "timm"),
    "timm, tokens": Case(_load("timm:test_vit", pretrained=False), _pictures, "timm", slow=True),
    "hf": Case(_bert, _texts, "transformers", slow=True),
    "hf, speech": Case(_speech, _sounds, "transformers", slow=True, facts=SOUND),
    "keras": Case(_keras, _pictures, "keras", slow=True),
    "onnx": Case(_onnx, _pictures, "onnxruntime", modules=False, change=lambda folder: _onnx(folder, flip=True)),
}

# --- engines, runners and policies: every one in the family's table ---------------------------------------------------

ENGINES = tuple(ENGINE_FAMILY)
RUNNERS = tuple(RUNNER_FAMILY)
POLICIES = tuple(POLICY_FAMILY)

# --- heads: fields that make the laws sharp, and how near a law must be met ------------------------------------------

HEAD_FIELDS = {"logistic": {"tol": 1e-13}}
HEAD_TOLERANCE = {"logistic": 2e-5, "knn": 1e-5}  # an iterative solver, and rows kept as float32; the others 1e-9
HEADS = tuple(HEAD_FAMILY)
HEAD_CASES = [(name, task) for name in HEADS for task in sorted(HEAD_FAMILY[name].tasks)]
