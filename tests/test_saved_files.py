"""Files that headstart 0.1.0 saved are read today, and give the same bits.

``saved_by_0_1`` was made with the code of 0.1.0 (commit d768720); nothing in it may ever be made anew. Only the public
door is used here. Stores and checkpoints are copied before use: the files stay as they are.

Bits of arithmetic belong to a processor and to versions of torch and numpy. On the machine of ``expected.json`` they
are compared to the last one, elsewhere to 1e-4; what is only read (rows, moments, records, losses of checkpoints) is
compared to the last bit everywhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import headstart as hs

torch.set_num_threads(1)  # as when the files were made: said aloud it gives other last bits than by OMP_NUM_THREADS

FILES = Path(__file__).resolve().parent / "saved_by_0_1"
FP32 = {"engine": "torch", "precision": "fp32"}
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
with np.load(FILES / "expected.npz", allow_pickle=False) as _file:
    ARRAYS = {name: _file[name] for name in _file.files}
NAMES = ["ant", "bee", "fly"]
RATE = 8000


def this_machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = f"{next((line for line in lines if line.startswith('flags')), '')} "
    wide = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {f} " in flags]
    packages = {name: installed(name) for name in EXPECTED["made on"] if name != "processor"}
    return {"processor": f"{model} {' '.join(wide)}", **packages}


def installed(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except ModuleNotFoundError:
        return "absent"


HERE = this_machine()
SAME = all(HERE[name] == EXPECTED["made on"][name] for name in ("processor", "torch", "numpy", "scipy"))
needs_torch = pytest.mark.skipif(
    HERE["torch"] != EXPECTED["made on"]["torch"],
    reason="torch's version is part of every recipe: rows of another one are computed again, as they should be",
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty cache, and a clock that ticks once per look: nothing here is chosen by what happens to be fast."""
    ticks, lock = [0.0], threading.Lock()

    def tick() -> float:
        with lock:
            ticks[0] += 1e-3
            return ticks[0]

    monkeypatch.setattr(time, "perf_counter", tick)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", autouse=True)
def untouched():
    """No test changes a file."""
    before = {f: (f.stat().st_size, f.stat().st_mtime_ns) for f in FILES.rglob("*") if f.is_file()}
    yield
    assert before == {f: (f.stat().st_size, f.stat().st_mtime_ns) for f in FILES.rglob("*") if f.is_file()}


def same_bits(found, expected):
    found = np.asarray(found)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def same(found, expected):
    """To the last bit where the arithmetic is that of the machine of the files."""
    if SAME:
        same_bits(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def inputs(name):
    if name in EXPECTED["inputs"]:
        return EXPECTED["inputs"][name]
    values = ARRAYS[f"inputs/{name}"]
    if (lengths := ARRAYS.get(f"inputs/{name}/lengths")) is None:
        return values
    clips = np.split(values, np.cumsum(lengths)[:-1])
    return hs.Dataset.from_arrays(clips, modality="audio", sample_rate=RATE)


def vectors(n: int = 36, seed: int = 0):
    """The 36 (or 60) labelled vectors that most predictors learned from."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = (rng.normal(size=(n, 8)) + 1.5 * np.eye(3, 8)[y]).astype(np.float32)
    return hs.Dataset.from_arrays(X, [NAMES[i] for i in y])


def encoded(value):
    """Labels with their types, as in expected.json."""
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [encoded(v) for v in value]}
    if isinstance(value, list):
        return [encoded(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def own_source():
    """The network that was a Python object."""
    net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5))
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.from_numpy(ARRAYS[f"module/{i}"]))
    return hs.Source.from_module(net, name="mine", modality="vector", shape=(8,))


def loaded(name, path=None):
    reference = EXPECTED["predictors"][name]
    if "needs" in reference:
        pytest.importorskip(reference["needs"])
    sources = {"sources": [own_source()]} if reference.get("module") else {}
    return hs.load(path or FILES / "predictors" / f"{reference.get('of', name)}.headstart", **sources)


def answers_as_before(name, p):
    reference = EXPECTED["predictors"][name]
    assert list(p.layers) == reference["layers"]
    assert type(p.head).__name__ == reference["head"]
    assert encoded(p.classes) == reference["classes"]
    items = inputs(reference["inputs"])
    labels = p.predict(items)
    for target, values in (labels if isinstance(labels, dict) else {"": labels}).items():
        if (numbers := ARRAYS.get(f"{name}/values/{target}")) is not None:
            same(np.asarray(values, np.float64), numbers)
        else:
            assert repr(encoded(values)) == repr(reference["labels"][target])
    for kind in ("predict_proba", "decision_function"):
        if kind not in reference["numbers"]:
            with pytest.raises(hs.OptionError):
                getattr(p, kind)(items)
            continue
        result = getattr(p, kind)(items)
        for target, numbers in (result if isinstance(result, dict) else {"": result}).items():
            same(numbers, ARRAYS[f"{name}/{kind}/{target}"])


# ---- predictors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, known in EXPECTED["predictors"].items() if "of" not in known])
def test_predictors_answer_as_before(name, tmp_path):
    p = loaded(name)
    answers_as_before(name, p)
    answers_as_before(name, loaded(name, p.save(tmp_path / "again.headstart")))


def test_what_a_predictor_says_of_itself():
    p = loaded("classes")
    record = json.loads((FILES / "predictors/classes.headstart/predictor.json").read_text(encoding="utf-8"))
    for name in ("chosen", "history", "provenance"):
        assert json.loads(json.dumps(getattr(p, name))) == record[name]
    assert len(p.trained_on) == 36
    tuned = loaded("tuned")
    assert len(tuned.history["loss"]) == 3 and tuned.history["kept"] == "tuned"
    assert tuned.chosen["policy"] == "last_layers"


def test_an_old_predictor_evaluates_as_before():
    truth = hs.Dataset.from_arrays(ARRAYS["inputs/vectors"], EXPECTED["truth"])
    result = loaded("classes").evaluate(truth).metrics
    for name, (value, low, high) in EXPECTED["predictors"]["classes"]["metrics"].items():
        ends = [np.nan if v is None else v for v in (float(result[name]), result[name].low, result[name].high)]
        expected = [np.nan if v is None else v for v in (value, low, high)]
        np.testing.assert_allclose(ends, expected, rtol=1e-9 if SAME else 1e-3, atol=1e-12 if SAME else 1e-4)


def test_copies_of_training_items_are_still_noticed():
    result = loaded("classes").evaluate(vectors().take(range(6)))
    assert any("6" in note for note in result.notes)


def test_an_old_predictor_is_replaced_in_place(tmp_path):
    path = shutil.copytree(FILES / "predictors/classes.headstart", tmp_path / "p.headstart")
    loaded("lda").save(path)
    answers_as_before("lda", hs.load(path))


@needs_torch
@pytest.mark.parametrize("name", [name for name, known in EXPECTED["predictors"].items() if "of" in known])
def test_an_old_exact_predictor_forgets(name, tmp_path):
    store = shutil.copytree(FILES / "store", tmp_path / "store")
    reference, p = EXPECTED["predictors"][name], loaded(name)
    items = [ARRAYS["inputs/learned from"][i] for i in reference["forget"]]
    rest = p.forget(items, store=store)
    assert len(rest.trained_on) == len(p.trained_on) - len(items)
    answers_as_before(name, rest)
    again = hs.load(rest.save(tmp_path / "rest.headstart"))
    answers_as_before(name, again)


def test_sources_inside_predictors():
    for folder in sorted((FILES / "predictors").iterdir()):
        reference = EXPECTED["predictors"][folder.stem]
        if reference.get("module") or (
            "needs" in reference and installed(reference["needs"].replace("_", "-")) == "absent"
        ):
            continue
        record = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        for item in record["sources"]:
            assert hs.load_source(f"saved:{folder / item['folder']}").fingerprint == item["fingerprint"]


# ---- sources, statistics, moments -----------------------------------------------------------------------------------


def test_a_saved_source():
    source, reference = hs.load_source(f"saved:{FILES / 'digits'}"), EXPECTED["digits"]
    assert source.fingerprint == reference["fingerprint"]
    assert [f"{v.name} {v.kind} {list(v.shape)}" for v in source.layers] == reference["layers"]
    assert source.meta["loss"] == reference["loss"]


def test_a_saved_source_is_saved_again(tmp_path):
    again = hs.load_source(f"saved:{FILES / 'digits'}").save(tmp_path / "again")
    assert hs.load_source(f"saved:{again}").fingerprint == EXPECTED["digits"]["fingerprint"]


def test_statistics_of_a_source_are_found():
    digits = hs.Dataset.from_arrays(ARRAYS["inputs/digits"], ["a", "b"] * 5)
    ranking = hs.rank(f"saved:{FILES / 'digits'}", digits, layers=["relu3"])
    assert [item["layer"] for item in ranking.shared["distance"]] == EXPECTED["digits"]["statistics"]["layers"]
    (file,) = (FILES / "digits/moments").glob("*.safetensors")
    result = hs.Moments.load(file)
    same_bits(result.mean, ARRAYS["statistics/relu3/mean"])
    same_bits(result.scatter, ARRAYS["statistics/relu3/scatter"])
    assert result.count == EXPECTED["digits"]["statistics"]["items"]


@pytest.mark.parametrize("name", list(EXPECTED["moments"]))
def test_moments(name, tmp_path):
    result = hs.Moments.load(FILES / "moments" / f"{name}.safetensors")
    result.save(tmp_path / "again.safetensors")
    for item in (result, hs.Moments.load(tmp_path / "again.safetensors")):
        for part in ("mean", "scatter", "cross", "target_mean", "target_scatter"):
            same_bits(getattr(item, part), ARRAYS[f"moments/{name}/{part}"])
        assert item.count == EXPECTED["moments"][name]["count"]
        assert (item.classes is not None) == (name == "of classes")


# ---- banks ----------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("known", EXPECTED["banks"], ids=lambda known: known["name"])
def test_banks_are_used_again(known, tmp_path):
    store = shutil.copytree(FILES / "store", tmp_path / "store")
    name = known["name"]
    if name == "files":
        source, data = hs.load_source("fake:image"), hs.Dataset.from_folder(FILES / "pictures")
    elif name == "steps of texts":
        source = hs.load_source(f"saved:{FILES / 'predictors/texts.headstart/sources/0'}")
        data = hs.Dataset.from_arrays(EXPECTED["inputs"]["texts"])
    else:
        source, data = hs.load_source(f"saved:{FILES / 'digits'}"), hs.Dataset.from_arrays(ARRAYS["inputs/digits"])
    options = {"engine": "torch", "precision": known["precision"], "batch_size": 4, "store": store}
    bank = hs.extract(source, data, layers=known["layers"], pooling=known["pooling"], **options)
    assert bank.computed == 0
    assert list(bank.layers) == known["layers"]
    for layer in bank.layers:
        expected = ARRAYS[f"bank/{name}/{layer}"]
        if (lengths := ARRAYS.get(f"bank/{name}/{layer}/lengths")) is None:
            same_bits(bank.rows(layer, data), expected)
        else:
            rows = bank.sequences(layer, data)
            assert [len(row) for row in rows] == lengths.tolist()
            same_bits(np.concatenate(rows), expected)
    assert sorted(p.name for p in store.iterdir()) == EXPECTED["folders of the store"]


@needs_torch
def test_an_old_bank_grows(tmp_path):
    store = shutil.copytree(FILES / "store", tmp_path / "store")
    digits = ARRAYS["inputs/digits"]
    more = hs.Dataset.from_arrays(np.concatenate([digits, 255 - digits[:2]]))
    source = hs.load_source(f"saved:{FILES / 'digits'}")
    options = {"layers": ["relu2"], "pooling": "avg", "batch_size": 4, "store": store, **FP32}
    bank = hs.extract(source, more, **options)
    assert bank.computed == 2
    same_bits(bank.rows("relu2", more)[:10], ARRAYS["bank/digits/relu2"])
    assert hs.extract(source, more, **options).computed == 0


def test_keys_of_files():
    data = hs.Dataset.from_folder(FILES / "pictures")
    result = {Path(p).name: key.hex() for p, key in zip(data.items, data.keys(), strict=True)}
    assert result == EXPECTED["keys of files"]


# ---- runs that were killed ------------------------------------------------------------------------------------------


def pretraining(name, tmp_path):
    reference = EXPECTED["killed"]["pretraining"]
    path = shutil.copy(FILES / "killed" / f"{name}.safetensors", tmp_path / "run.safetensors")
    labels = ["good" if "good" in text else "bad" for text in reference["data"]]
    data = hs.Dataset.from_arrays(reference["data"], labels, task="classification")
    return hs.pretrain("lstm", data, checkpoint=path, **reference["how"])


def test_killed_pretraining_goes_on(tmp_path):
    reference = EXPECTED["killed"]["pretraining"]
    source = pretraining("pretraining", tmp_path)
    np.testing.assert_allclose(source.meta["loss"], reference["loss"], atol=0 if SAME else 1e-3)
    if SAME:
        assert source.fingerprint == reference["fingerprint"]
    texts = hs.Dataset.from_arrays(EXPECTED["inputs"]["texts"])
    last = source.select("last")[0]
    bank = hs.extract(source, texts, layers=last, store=False, batch_size=4, **FP32)
    same(bank.rows(last, texts), ARRAYS["killed/pretraining"])


def test_killed_pretraining_takes_up_what_was_done(tmp_path):
    """The same file, but it says of the epochs done that their loss was 7.125."""
    reference = EXPECTED["killed"]["pretraining"]
    done = reference["epochs done"]
    loss = pretraining("pretraining, marked", tmp_path).meta["loss"]
    assert loss[:done] == [7.125] * done
    np.testing.assert_allclose(loss[done:], reference["loss"][done:], atol=0 if SAME else 1e-3)


def tuning(name, tmp_path):
    path = shutil.copy(FILES / "killed" / f"{name}.safetensors", tmp_path / "run.safetensors")
    policy = hs.policy("last_layers", layers=1, epochs=EXPECTED["killed"]["tuning"]["epochs"], precision="fp32")
    return hs.fit(
        "fake:vector", vectors(), layers="last", head="ridge", policy=policy, guard=False, store=False,
        checkpoint=path, random_state=0, **FP32,
    )  # fmt: skip


bits_of_this_machine = pytest.mark.skipif(
    not SAME, reason="such a checkpoint belongs to one solved head, whose last bits are those of one machine"
)


@bits_of_this_machine
def test_killed_tuning_goes_on(tmp_path):
    reference = EXPECTED["killed"]["tuning"]
    p = tuning("tuning", tmp_path)
    assert p.history["loss"] == reference["loss"]
    assert p.source.fingerprint == reference["fingerprint"]
    same(p.predict_proba(ARRAYS["inputs/vectors"]), ARRAYS["killed/tuning"])


@bits_of_this_machine
def test_killed_tuning_takes_up_what_was_done(tmp_path):
    reference = EXPECTED["killed"]["tuning"]
    done = reference["epochs done"]
    loss = tuning("tuning, marked", tmp_path).history["loss"]
    assert loss == [7.125] * done + reference["loss"][done:]


@needs_torch
@pytest.mark.skipif(hs.__version__ != EXPECTED["headstart"], reason="by design another version begins a proof again")
def test_a_killed_proof_goes_on(tmp_path):
    reference = EXPECTED["killed"]["proving"]
    path = shutil.copytree(FILES / "killed/proving", tmp_path / "proving")
    before = {name: (path / name).read_bytes() for name in reference["files"]}
    data = hs.Dataset.from_arrays(ARRAYS["inputs/proof"], reference["labels"])
    proof = hs.prove("fake:vector", data, checkpoint=path, store=tmp_path / "store", **reference["how"])
    assert len(list(path.iterdir())) == 1  # it found its folder
    assert {name: (path / name).read_bytes() for name in reference["files"]} == before
    assert len(list(path.rglob("*.json"))) > len(before)
    rows = [[row.name, row.shots, row.accuracy, row.low, row.high, list(row.scores)] for row in proof.rows]
    if SAME:
        assert rows == reference["rows"] and proof.helps == reference["helps"]
    assert [row[:2] for row in rows] == [row[:2] for row in reference["rows"]]


# ---- records --------------------------------------------------------------------------------------------------------


def within(old, new, path=""):
    """Everything that the old record says, the new one says, too."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and old.keys() <= new.keys(), path
        for key in old:
            within(old[key], new[key], f"{path}/{key}")
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), path
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            within(a, b, f"{path}/{i}")
    else:
        assert old == new, path


@pytest.mark.parametrize("name", list(EXPECTED["records"]))
def test_records(name, tmp_path):
    old = json.loads((FILES / "records" / f"{name}.json").read_text(encoding="utf-8"))
    old.pop("predictor", None)  # which the command line adds, and takes away again: see the next test
    result = getattr(hs, EXPECTED["records"][name]).from_dict(old)
    within(old, json.loads(json.dumps(result.to_dict())))
    assert str(result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert hs.report(result, tmp_path / "page.html").stat().st_size > 1000


def test_records_on_the_command_line(tmp_path):
    files = [FILES / "records" / f"{name}.json" for name in EXPECTED["records"]]
    command = [sys.executable, "-m", "headstart", "report", *map(str, files), "-o", str(tmp_path / "page.html"), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.html").stat().st_size > 1000
