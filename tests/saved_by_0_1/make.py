"""Tiny files of every kind that today's code saves, with what it answers from them: ``tests/saved_by_0_1``.

    PYTHONPATH=<old tree>/src python make.py [FOLDER]

FOLDER (``saved_by_0_1`` beside this file) is made anew. Everything is made up here, but for the digits of scikit-learn. Public
names only. ``test_saved_files.py`` reads it with whatever code is installed. One thread, and a clock that ticks once per look, so
that nothing depends on a timing (see compare.py).
"""

from __future__ import annotations

import os
import sys

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", KERAS_BACKEND="torch")

import threading
import time

_ticks, _lock = [0.0], threading.Lock()


def _tick() -> float:
    with _lock:
        _ticks[0] += 1e-3
        return _ticks[0]


time.perf_counter = _tick

import json
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
FP32 = {"engine": "torch", "precision": "fp32"}
RATE = 8000

# ---- inputs: what the test reads back from expected.npz and expected.json -------------------------------------------


def vectors(n=36, d=8, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return (rng.normal(size=(n, d)) + 1.5 * np.eye(3, d)[y]).astype(np.float32), y


def pictures(n=24, side=12, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return (rng.integers(0, 150, (n, side, side, 3)) + 40 * y[:, None, None, None]).astype(np.uint8), y


def texts(n=24):
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "dog", "mat", "sat", "ran", "on", "far", "warm"]
    return [" ".join(rng.choice(words, 3 + i % 5)) + (" good" if i % 2 else " bad") for i in range(n)]


def stories(n=8, seed=0):
    """Documents whose summaries are their sentences with figures."""
    rng = np.random.default_rng(seed)
    words = ["river", "market", "council", "garden", "engine", "harvest"]
    documents, summaries = [], []
    for _ in range(n):
        told = set(rng.choice(6, 2, replace=False).tolist())
        sentences = []
        for i in range(6):
            said = " ".join(rng.choice(words, 4))
            sentences.append(f"The {said} {rng.integers(1000, 9999)}." if i in told else f"The {said}.")
        documents.append(" ".join(sentences))
        summaries.append("\n".join(sentences[i] for i in sorted(told)))
    return documents, summaries


def clips(n=16, seed=0):
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(["low", "high"], 1 + i % 2)) for i in range(n)]
    found = []
    for text in said:
        parts = [np.zeros(300)]
        for word in text.split():
            t = np.arange(rng.integers(700, 900)) / RATE
            parts += [0.3 * np.sin(2 * np.pi * {"low": 400, "high": 2200}[word] * t), np.zeros(300)]
        found.append(np.concatenate(parts).astype(np.float32))
    return found, said


def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.images * 15).astype(np.uint8), found.target


# ---- sources of other libraries, tiny, with random weights -----------------------------------------------------------


def bert(folder):
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
        "cat",
        "dog",
        "mat",
        "sat",
        "ran",
        "on",
        "far",
        "warm",
        "good",
        "bad",
    ]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=24,
    )
    torch.manual_seed(0)
    net = BertModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return f"hf:{folder}"


def wav2vec2(folder):
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "wav2vec2",
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        conv_dim=[6, 6],
        conv_kernel=[10, 4],
        conv_stride=[5, 4],
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    torch.manual_seed(0)
    net = AutoModel.from_config(config)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    how = {"sampling_rate": RATE, "do_normalize": True, "return_attention_mask": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(how))
    return f"hf:{folder}"


def onnx_file(path):
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)

    def weights(name, *shape):
        return numpy_helper.from_array((rng.normal(size=shape) / 4).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["pixels", "w1", "b1"], ["stem"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["stem"], ["act"]),
        helper.make_node("GlobalAveragePool", ["act"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", 6])],
        [weights("w1", 6, 3, 3, 3), weights("b1", 6)],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def own_module(weights):
    """A network that only this program can build: its arrays are in expected.npz."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))
    with torch.no_grad():
        for parameter, values in zip(net.parameters(), weights):
            parameter.copy_(torch.from_numpy(values))
    return net


# ---- runs that are killed ---------------------------------------------------------------------------------------------

PRETRAIN = {"epochs": 30, "embedding": 4, "hidden": 4, "random_state": 0}
PROVE = {"shots": (4,), "repeats": 2, "steps": 4, "policy": "frozen", "random_state": 0}


def pretraining(checkpoint=None):
    import headstart as hs

    lines = texts()
    data = hs.Dataset.from_arrays(lines, ["good" if "good" in t else "bad" for t in lines], task="classification")
    return hs.pretrain("lstm", data, checkpoint=checkpoint, **PRETRAIN)


def tuning(checkpoint=None):
    import headstart as hs

    X, y = vectors()
    data = hs.Dataset.from_arrays(X, [["ant", "bee", "fly"][i] for i in y])
    policy = hs.policy("last_layers", layers=1, epochs=30, precision="fp32")
    return hs.fit(
        "fake:vector",
        data,
        layers="last",
        head="ridge",
        policy=policy,
        guard=False,
        store=False,
        checkpoint=checkpoint,
        random_state=0,
        **FP32,
    )


def proving(checkpoint=None, store=None):
    import headstart as hs

    X, y = vectors(60)
    data = hs.Dataset.from_arrays(X, [["ant", "bee", "fly"][i] for i in y])
    return hs.prove("fake:vector", data, checkpoint=checkpoint, store=store, **PROVE)


KILLED = {"pretraining": pretraining, "tuning": tuning, "proving": proving}


def child(name, place, least):
    """Work that kills itself when ``least`` epochs or runs are on the disk (``kill -9``: nothing is tidied up)."""
    place = Path(place)

    def watch():
        while True:
            if name == "proving":
                done = len(list(place.rglob("*.json")))
            else:
                done = epochs_in(place)
            if done >= int(least):
                os.kill(os.getpid(), 9)
            time.sleep(0.0005)

    threading.Thread(target=watch, daemon=True).start()
    KILLED[name](place)
    print("was not killed in time")


def epochs_in(path):
    from safetensors import safe_open

    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["state"])["epoch"]


def killed(name, least):
    """Where a killed run of this name left its file or folder."""
    place = Path(tempfile.mkdtemp(prefix="headstart-killed-")) / name
    done = subprocess.run([sys.executable, __file__, "child", name, str(place), str(least)], check=False)
    assert done.returncode == -9, f"{name} ended with {done.returncode}"
    assert place.exists()
    return place


# ---- making it ---------------------------------------------------------------------------------------------------------


class Maker:
    def __init__(self, folder):
        import headstart as hs

        self.hs, self.folder = hs, folder
        self.arrays, self.record = {}, {"predictors": {}}

    def inputs(self, name, values):
        """Arrays go into the npz (ragged ones end to end, with their lengths), texts into the json."""
        if isinstance(values[0], str):
            self.record.setdefault("inputs", {})[name] = list(values)
        elif isinstance(values, list):
            self.arrays[f"inputs/{name}"] = np.concatenate(values)
            self.arrays[f"inputs/{name}/lengths"] = np.array([len(v) for v in values])
        else:
            self.arrays[f"inputs/{name}"] = values

    def predictor(self, name, p, inputs, items, **facts):
        """Save, load again, and keep what the loaded one answers."""
        path = self.folder / "predictors" / f"{name}.headstart"
        p.save(path)
        loaded = self.hs.load(path, **({"sources": p.sources} if facts.get("module") else {}))
        self.record["predictors"][name] = {"inputs": inputs, **facts, **self.answers(name, loaded, items)}

    def answers(self, name, p, items):
        labels = p.predict(items)
        found = {"layers": list(p.layers), "head": type(p.head).__name__, "classes": encoded(p.classes), "numbers": []}
        for kind in ("predict_proba", "decision_function"):
            try:
                values = getattr(p, kind)(items)
            except self.hs.OptionError:
                continue
            found["numbers"].append(kind)
            for target, numbers in (values if isinstance(values, dict) else {"": values}).items():
                self.arrays[f"{name}/{kind}/{target}"] = numbers
        for target, values in (labels if isinstance(labels, dict) else {"": labels}).items():
            if isinstance(values[0], (float, np.floating)) or np.asarray(values[0]).dtype.kind == "f":
                self.arrays[f"{name}/values/{target}"] = np.asarray(values, np.float64)
            else:
                found.setdefault("labels", {})[target] = encoded(values)
        return found

    def evaluated(self, name, result):
        """Metrics with their intervals, as they are."""
        ends = {m: [float(v), v.low, v.high] for m, v in result.metrics.items()}
        self.record["predictors"][name]["metrics"] = ends


def encoded(value):
    """Labels with their types, for JSON."""
    if isinstance(value, dict):
        return {key: encoded(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [encoded(v) for v in value]}
    if isinstance(value, list):
        return [encoded(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value


def machine():
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = f"{next((line for line in lines if line.startswith('flags')), '')} "
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {f} " in flags]
    names = ("torch", "numpy", "scipy", "onnxruntime", "transformers", "timm")
    return {"processor": f"{model} {' '.join(wide)}", **{n: version(n).partition("+")[0] for n in names}}


def make(folder):
    import headstart as hs

    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    m, scratch = Maker(folder), Path(tempfile.mkdtemp(prefix="headstart-made-"))
    m.record |= {"headstart": hs.__version__, "made on": machine()}
    os.chdir(scratch)  # addresses that are kept in the files are relative ones
    predictors(m, Path())
    sources_and_banks(m)
    killed_runs(m)
    records(m, scratch)
    np.savez_compressed(folder / "expected.npz", **m.arrays)
    (folder / "expected.json").write_text(json.dumps(m.record, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{sum(f.is_file() for f in folder.rglob('*'))} files, {size / 1e3:.0f} kB in {folder}")


def predictors(m, scratch):
    hs = m.hs
    X, y = vectors()
    new, truth = vectors(12, seed=1)
    m.inputs("vectors", new)
    names = ["ant", "bee", "fly"]
    labelled = hs.Dataset.from_arrays(X, [names[i] for i in y])
    test = hs.Dataset.from_arrays(new, [names[i] for i in truth])
    fixed = {"store": False, **FP32}

    def fit(data, source="fake:vector", **how):
        return hs.fit(source, data, **{**fixed, **how})

    auto = fit(labelled)
    m.predictor("classes", auto, "vectors", new)
    m.evaluated("classes", auto.evaluate(test))
    m.record["truth"] = list(test.targets)
    for head in ("ridge", "lda", "logistic", "knn", "nearest_centroid", "group_lasso"):
        m.predictor(head, fit(labelled, layers="last", head=head), "vectors", new)
    uneven = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:6], np.flatnonzero(y == 2)[:4]]
    m.predictor("uneven", fit(labelled.take(uneven), head="lda"), "vectors", new)
    kinds = {
        "numbers as labels": [10, 2, -7],
        "truths": [True, False, True],
        "strange names": ["naïve ☕", "日本", 'a "b"\n'],
    }
    for name, labels in kinds.items():
        m.predictor(
            name,
            fit(hs.Dataset.from_arrays(X, [labels[i] for i in y], task="classification"), layers="last", head="ridge"),
            "vectors",
            new,
        )
    sets = [tuple(n for j, n in enumerate("xyz") if X[i, j] > 0.5) or ("z",) for i in range(36)]
    m.predictor("multilabel", fit(hs.Dataset.from_arrays(X, sets, task="multilabel"), head="ridge"), "vectors", new)
    m.predictor(
        "multilabel logistic",
        fit(hs.Dataset.from_arrays(X, sets, task="multilabel"), layers="last", head="logistic"),
        "vectors",
        new,
    )
    value = X[:, 0] + 0.1 * np.random.default_rng(1).normal(size=36)
    m.predictor("values", fit(hs.Dataset.from_arrays(X, value, task="regression")), "vectors", new)
    m.predictor("two values", fit(hs.Dataset.from_arrays(X, X[:, :2].astype(float), task="regression")), "vectors", new)
    columns = {"kind": [f"class {i}" for i in y], "side": (X[:, 0] > 0).tolist(), "size": value}
    task = {"kind": "classification", "side": "classification", "size": "regression"}
    m.predictor("columns", fit(hs.Dataset.from_arrays(X, columns, task=task)), "vectors", new)
    two = [hs.load_source("fake:vector"), hs.load_source("fake:vector", seed=5)]
    m.predictor("two sources", fit(labelled, two, head="ridge"), "vectors", new)
    again = fit(labelled, layers="last", head="lda")
    again.save(m.folder / "predictors/saved twice.headstart")
    m.predictor("saved twice", fit(labelled, layers="1", head="lda"), "vectors", new)  # in place of the other

    exact = fit(labelled, head="ridge", exact=True, store=m.folder / "store")
    m.predictor("exact", exact, "vectors", new)
    m.inputs("learned from", X)
    for name, which in (("exact, forgotten", [0, 7]), ("exact, forgotten more", [0, 7, 20])):
        rest = exact.forget([X[i] for i in which], store=m.folder / "store")
        m.record["predictors"][name] = {
            "inputs": "vectors",
            "of": "exact",
            "forget": which,
            **m.answers(name, rest, new),
        }

    policy = hs.policy("last_layers", layers=1, epochs=3, precision="fp32")
    m.predictor("tuned", fit(labelled, policy=policy, guard=False), "vectors", new)
    pixels, light = pictures()
    shown, _ = pictures(6, seed=1)
    m.inputs("pictures", shown)
    bright = hs.Dataset.from_arrays(pixels, [["dark", "light"][i] for i in light])
    m.predictor("tuned pictures", fit(bright, "fake:image", policy=policy, guard=False), "pictures", shown)
    vit = hs.load_source(
        "timm:vit_tiny_patch16_224",
        pretrained=False,
        options={"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 16, "patch_size": 8, "num_classes": 0},
    )
    m.predictor("vit", fit(bright, vit, head="lda"), "pictures", shown, needs="timm")
    onnx = hs.load_source(f"onnx:{onnx_file(scratch / 'tiny.onnx')}", mean=[0.5] * 3, std=[0.25] * 3)
    m.predictor("onnx", hs.fit(onnx, bright, head="ridge", store=False), "pictures", shown, needs="onnxruntime")

    lines = texts()
    mood = hs.Dataset.from_arrays(lines, ["good" if "good" in t else "bad" for t in lines], task="classification")
    said = [*texts(30)[24:], "a word that nobody knows", "", "good"][:8]
    said = [t for t in said if t]
    m.inputs("texts", said)
    lstm = hs.pretrain("lstm", mood, epochs=3, embedding=6, hidden=5)
    m.predictor("texts", fit(mood, lstm, head="logistic"), "texts", said)
    m.predictor("bert", fit(mood, bert(scratch / "bert"), head="ridge"), "texts", said, needs="transformers")
    documents, summaries = stories()
    others, _ = stories(3, seed=1)
    m.inputs("documents", others)
    told = hs.Dataset.from_arrays(documents, summaries, task="summarization")
    reader = hs.pretrain("lstm", told.without_targets(), objective="random", embedding=4, hidden=4)
    m.predictor("summaries", fit(told, reader), "documents", others, needs="rouge_score")
    sounds, words = clips()
    heard, _ = clips(4, seed=1)
    m.inputs("clips", heard)
    spoken = hs.Dataset.from_arrays(sounds, words, task="transcription", modality="audio", sample_rate=RATE)

    def speech(source, head, **how):
        p = fit(spoken, source, head=head, **how)
        return p, hs.Dataset.from_arrays(heard, modality="audio", sample_rate=RATE)

    for name, head in (
        ("speech", hs.ctc("bilstm", hidden=6, width=8, epochs=25, lr=2e-2, dropout=0.0, batch_size=4)),
        ("speech linear", hs.ctc("linear", epochs=25, lr=5e-2, units="characters")),
    ):
        p, data = speech("identity:audio", head)
        m.predictor(name, p, "clips", data)
    tones = hs.Dataset.from_arrays(
        [c[:1000] for c in sounds],
        [w.split()[0] for w in words],
        modality="audio",
        sample_rate=RATE,
        task="classification",
    )
    p = fit(tones, wav2vec2(scratch / "wav2vec2"), head="lda")
    m.predictor(
        "wav2vec2", p, "clips", hs.Dataset.from_arrays(heard, modality="audio", sample_rate=RATE), needs="transformers"
    )

    rng = np.random.default_rng(7)
    weights = [rng.normal(size=s).astype(np.float32) / 2 for s in ((6, 8), (6,), (5, 6), (5,))]
    for i, values in enumerate(weights):
        m.arrays[f"module/{i}"] = values
    module = hs.Source.from_module(own_module(weights), name="mine", modality="vector", shape=(8,))
    m.predictor("module", fit(labelled, module, head="lda"), "vectors", new, module=True)


def sources_and_banks(m):
    """A saved source with moments of its data, its rows at several layers and precisions, and files as items."""
    import PIL.Image

    hs = m.hs
    images, y = digits()
    low, high = np.flatnonzero(y < 5)[:200], np.flatnonzero(y >= 5)[:10]
    own = hs.Dataset.from_arrays(images[low], y[low], task="classification")
    source = hs.pretrain("cnn", own, epochs=2, image_size=10)
    source.save(m.folder / "digits")
    told = hs.source_statistics(source, own.take(range(60)), layers=["relu3"], store=False)
    told.save(m.folder / "digits")
    m.record["digits"] = {
        "fingerprint": source.fingerprint,
        "layers": [f"{v.name} {v.kind} {list(v.shape)}" for v in source.layers],
        "loss": source.meta["loss"],
        "statistics": {"layers": list(told.layers), "items": told.items, "classes": list(told.classes)},
    }
    for layer in told.layers:
        found = told.moments(layer)
        m.arrays[f"statistics/{layer}/mean"], m.arrays[f"statistics/{layer}/scatter"] = found.mean, found.scatter
    m.inputs("digits", images[high])
    some = hs.Dataset.from_arrays(images[high])
    banks, store = [], m.folder / "store"

    def bank(name, source, data, layers, pooling, precision="fp32"):
        found = hs.extract(
            source, data, layers=layers, pooling=pooling, store=store, engine="torch", precision=precision, batch_size=4
        )
        assert found.computed in (len(data), 0)
        for layer in found.layers:
            key = f"bank/{name}/{layer}"
            if pooling == "none":
                rows = found.sequences(layer, data)
                m.arrays[key], m.arrays[f"{key}/lengths"] = np.concatenate(rows), np.array([len(r) for r in rows])
            else:
                m.arrays[key] = found.rows(layer, data)
        banks.append({"name": name, "layers": list(found.layers), "pooling": pooling, "precision": precision})

    bank("digits", source, some, ["relu1", "relu2", "relu3"], "avg")
    bank("digits, otherwise pooled", source, some, ["relu2"], "avg+std")
    bank("digits, bf16", source, some, ["relu2", "relu3"], "avg", "bf16")
    for i in range(6):
        place = m.folder / "pictures" / ["dark", "light"][i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pictures(6, seed=2)[0][i]).save(place)
    time.sleep(3)  # only files that were left alone for two seconds enter the table of keys
    files = hs.Dataset.from_folder(m.folder / "pictures")
    bank("files", hs.load_source("fake:image"), files, ["5", "7"], "auto")
    m.record["keys of files"] = {Path(p).name: key.hex() for p, key in zip(files.items, files.keys())}
    lines = hs.Dataset.from_arrays(m.record["inputs"]["texts"])
    reader = hs.load_source(f"saved:{m.folder / 'predictors/texts.headstart/sources/0'}")
    bank("steps of texts", reader, lines, [reader.select("auto")[0]], "none")
    m.record["banks"] = banks
    m.record["folders of the store"] = sorted(p.name for p in store.iterdir())

    X, y = vectors()
    data = hs.Dataset.from_arrays(X, [["ant", "bee", "fly"][i] for i in y])
    rows = hs.extract("fake:vector", data, layers="3", store=False, batch_size=4, **FP32)
    for name, how in (("plain", {}), ("of classes", {"per_class": True}), ("fourth", {"fourth": True})):
        found = rows.summarise("3", data, **how)
        found.save(m.folder / "moments" / f"{name}.safetensors")
        for part in ("mean", "scatter", "cross", "target_mean", "target_scatter"):
            m.arrays[f"moments/{name}/{part}"] = getattr(found, part)
        m.record.setdefault("moments", {})[name] = {"count": int(found.count)}


def killed_runs(m):
    """Checkpoints of runs that were killed in the middle, and how the runs end when nobody kills them."""
    hs, place = m.hs, m.folder / "killed"
    place.mkdir()
    shutil.copy(killed("pretraining", 8), place / "pretraining.safetensors")
    shutil.copy(killed("tuning", 8), place / "tuning.safetensors")
    shutil.copytree(killed("proving", 5), place / "proving")
    ended = {
        "pretraining": epochs_in(place / "pretraining.safetensors"),
        "tuning": epochs_in(place / "tuning.safetensors"),
    }
    assert all(8 <= n < 30 for n in ended.values()), ended
    for name in ended:
        marked(place / f"{name}.safetensors", place / f"{name}, marked.safetensors")
    source = pretraining()
    tuned = tuning()
    lines = m.record["inputs"]["texts"]
    data = hs.Dataset.from_arrays(lines)
    last = source.select("last")[0]
    m.arrays["killed/pretraining"] = hs.extract(source, data, layers=last, store=False, batch_size=4, **FP32).rows(
        last, data
    )
    m.arrays["killed/tuning"] = tuned.predict_proba(m.arrays["inputs/vectors"])
    m.record["killed"] = {
        "pretraining": {
            "epochs done": ended["pretraining"],
            "fingerprint": source.fingerprint,
            "loss": source.meta["loss"],
            "how": PRETRAIN,
            "data": texts(),
        },
        "tuning": {
            "epochs done": ended["tuning"],
            "fingerprint": tuned.source.fingerprint,
            "loss": tuned.history["loss"],
            "epochs": 30,
        },
        "proving": {
            "files": sorted(str(f.relative_to(place / "proving")) for f in (place / "proving").rglob("*.json")),
            "how": {**PROVE, "shots": list(PROVE["shots"])},
        },
    }
    X, y = vectors(60)
    m.inputs("proof", X)
    m.record["killed"]["proving"]["labels"] = [["ant", "bee", "fly"][i] for i in y]
    proof = proving(Path(tempfile.mkdtemp()) / "p", Path(tempfile.mkdtemp()))
    rows = [[row.name, row.shots, row.accuracy, row.low, row.high, list(row.scores)] for row in proof.rows]
    m.record["killed"]["proving"] |= {"rows": rows, "helps": proof.helps}


def marked(path, to):
    """The same checkpoint with other losses written down for the epochs done: who takes it up, repeats them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors, meta = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    state = json.loads(meta["state"])
    state["history"]["loss"] = [7.125] * len(state["history"]["loss"])
    save_file(tensors, to, metadata={**meta, "state": json.dumps(state)})


def records(m, scratch):
    """Result, Ranking and Proof as JSON, from Python and from the command line."""
    hs, place = m.hs, m.folder / "records"
    place.mkdir()
    X, y = vectors()
    new, truth = vectors(12, seed=1)
    names = ["ant", "bee", "fly"]
    train = hs.Dataset.from_arrays(X, [names[i] for i in y])
    test = hs.Dataset.from_arrays(new, [names[i] for i in truth])
    store = scratch / "store"
    found = {
        "result": hs.fit("fake:vector", train, store=store, **FP32).evaluate(test),
        "ranking": hs.rank(["fake:vector", "identity:vector"], train, store=store),
        "ranking, few features": hs.rank("fake:vector", train, store=store, head="group_lasso"),
        "proof": proving(scratch / "proofs", store),
    }
    sets = [tuple(n for j, n in enumerate("xyz") if X[i, j] > 0.5) or ("z",) for i in range(36)]
    both = hs.Dataset.from_arrays(
        X,
        {"kind": [names[i] for i in y], "set": sets, "size": X[:, 0].astype(float)},
        task={"kind": "classification", "set": "multilabel", "size": "regression"},
    )
    found["result of columns"] = hs.fit("fake:vector", both, store=store, **FP32).evaluate(both.take(range(18)))
    tuned = hs.prove(
        "fake:vector",
        hs.Dataset.from_arrays(*labelled(60)),
        shots=(4,),
        repeats=2,
        steps=4,
        checkpoint=scratch / "more",
        policy=hs.policy("last_layers", layers=1, epochs=1, precision="fp32"),
        store=store,
    )
    found["proof, fine-tuned"] = tuned
    source = hs.load_source(f"saved:{m.folder / 'digits'}")
    images, y = digits()
    high = np.flatnonzero(y >= 5)[:90]
    data = hs.Dataset.from_arrays(images[high], y[high], task="classification")
    low = np.flatnonzero(y < 5)[:60]
    found["proof, forgetting"] = hs.prove(
        source,
        data,
        shots=(4,),
        repeats=2,
        steps=4,
        checkpoint=scratch / "forgetting",
        store=store,
        source_data=hs.Dataset.from_arrays(images[low], y[low], task="classification"),
        policy=hs.policy("last_layers", layers=1, epochs=1, precision="fp32"),
    )
    found["ranking, shared"] = hs.rank(source, data, layers=["relu3"], store=store)
    for name, one in found.items():
        (place / f"{name}.json").write_text(json.dumps(one.to_dict(), indent=1, sort_keys=True) + "\n")
    for command in (
        ["evaluate", m.folder / "predictors/tuned pictures.headstart", m.folder / "pictures", "--json", "-q"],
        ["rank", m.folder / "pictures", "--source", "fake:image", "--store", store, "--json", "-q"],
    ):
        code = "import runpy; runpy.run_module('headstart', run_name='__main__')"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.argv = {['headstart', *map(str, command)]!r}; {code}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        place.joinpath(f"printed by {command[0]}.json").write_text(
            done.stdout.replace(str(m.folder), "saved_by_0_1").replace(str(scratch), "elsewhere")
        )
    for file in place.iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(str(m.folder), "saved_by_0_1").replace(str(scratch), "elsewhere"))
    m.record["records"] = {f.stem: json.loads(f.read_text())["kind"] for f in sorted(place.iterdir())}


def labelled(n, seed=0):
    X, y = vectors(n, seed=seed)
    return X, [["ant", "bee", "fly"][i] for i in y]


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if "HEADSTART_CACHE" not in os.environ or sys.argv[1:2] != ["child"]:
        os.environ["HEADSTART_CACHE"] = tempfile.mkdtemp(prefix="headstart-made-cache-")
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        make(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else HERE / "saved_by_0_1")
