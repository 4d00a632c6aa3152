"""Saved sources: they come back to the bit, and every kind of tampering is an error of the store."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from headstart.errors import HeadstartError, MissingPackage, StoreError
from headstart.pretraining import pretrain
from headstart.sources import SOURCES, load_source
from headstart.sources.weights import RECORD, WEIGHTS, checksum_of
from networks import state_bytes


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    source = dataclasses.replace(
        load_source("cnn:small", size=(16, 16), classes=3), meta={"licence": "MIT", "classes": [1]}
    )
    return source.save(tmp_path_factory.mktemp("saved") / "source")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def with_files(tmp_path):
    return load_source("lstm:x", vocabulary=("a", "b")).save(tmp_path / "with files")


def record_of(folder) -> dict:
    return json.loads((folder / RECORD).read_text())


def rewrite(folder, **changes) -> None:
    """As somebody who knows the format would forge it: with a fresh check sum."""
    record = {**record_of(folder), **changes}
    (folder / RECORD).write_text(json.dumps({**record, "check": checksum_of(record)}))


def test_what_is_saved_comes_back(saved):
    before, after = load_source("cnn:small", size=(16, 16), classes=3), load_source(f"saved:{saved}")
    assert after.fingerprint == before.fingerprint
    assert after.address == f"saved:{saved}"
    assert after.meta == {"licence": "MIT", "classes": [1]}
    assert after.classifier == "classifier"
    assert state_bytes(after.module) == state_bytes(before.module)
    assert not after.module.training


def test_a_folder_holds_nothing_but_tensors_and_json(saved, with_files):
    assert sorted(p.name for p in saved.iterdir()) == [RECORD, WEIGHTS]
    assert sorted(str(p.relative_to(with_files)) for p in with_files.rglob("*") if p.is_file()) == [
        "files/vocabulary.json", RECORD, WEIGHTS,
    ]  # fmt: skip
    json.loads((saved / RECORD).read_text())
    load_file(saved / WEIGHTS)


def test_saving_what_was_loaded_changes_nothing(saved, tmp_path):
    again = load_source(f"saved:{saved}").save(tmp_path / "again")
    a, b = record_of(saved), record_of(again)
    assert {**a, "address": 0, "check": 0} == {**b, "address": 0, "check": 0}
    assert (again / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert load_source(f"saved:{again}").fingerprint == a["fingerprint"]


def test_trained_weights_come_back(tmp_path):
    from networks import picture_data

    trained = pretrain("cnn", picture_data(12), epochs=1, image_size=12, batch_size=4)
    again = load_source(f"saved:{trained.save(tmp_path / 's')}")
    assert again.fingerprint == trained.fingerprint
    assert again.meta["loss"] == trained.meta["loss"]
    assert state_bytes(again.module) == state_bytes(trained.module)


def test_files_that_belong_to_it_come_back(with_files):
    source = load_source(f"saved:{with_files}")
    assert source.fingerprint == load_source("lstm:x", vocabulary=("a", "b")).fingerprint
    assert json.loads(source.files["vocabulary.json"]) == ["a", "b"]


def test_saving_over_an_old_one(copy):
    other = load_source("cnn:small", size=(12, 12), seed=4)
    other.save(copy)
    assert load_source(f"saved:{copy}").fingerprint == other.fingerprint


# ---- tampering ------------------------------------------------------------------------------------------------------


def test_a_missing_folder(tmp_path):
    with pytest.raises(StoreError, match="There is no saved source at"):
        load_source(f"saved:{tmp_path / 'nothing'}")


@pytest.mark.parametrize("name", [RECORD, WEIGHTS])
def test_a_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(StoreError):
        load_source(f"saved:{copy}")


@given(data=st.data())
def test_any_flipped_bit_is_noticed(saved, tmp_path_factory, data):
    copy = shutil.copytree(saved, tmp_path_factory.mktemp("bit") / "copy")
    path = copy / data.draw(st.sampled_from([RECORD, WEIGHTS]))
    blob = bytearray(path.read_bytes())
    location = data.draw(st.integers(0, len(blob) - 1))
    blob[location] ^= 1 << data.draw(st.integers(0, 7))
    same = path.name == RECORD and _reads_the_same(path.read_bytes(), bytes(blob))
    path.write_bytes(blob)
    if same:  # white space between two entries
        assert load_source(f"saved:{copy}").fingerprint == record_of(saved)["fingerprint"]
        return
    with pytest.raises(StoreError):
        load_source(f"saved:{copy}")


def _reads_the_same(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


@given(part=st.floats(0, 0.999), name=st.sampled_from([RECORD, WEIGHTS]))
def test_any_truncation_is_noticed(saved, tmp_path_factory, part, name):
    copy = shutil.copytree(saved, tmp_path_factory.mktemp("cut") / "copy")
    blob = (copy / name).read_bytes()
    cut = blob[: int(part * len(blob))]
    if name == RECORD and _reads_the_same(blob, cut):
        return
    (copy / name).write_bytes(cut)
    with pytest.raises(StoreError):
        load_source(f"saved:{copy}")


@pytest.mark.parametrize("content", ["", "[]", "null", '"text"', "{}", '{"format": 1}', "[" * 100_000])
def test_records_that_are_none(copy, content):
    (copy / RECORD).write_text(content)
    with pytest.raises(StoreError):
        load_source(f"saved:{copy}")


def test_every_entry_is_under_the_check_sum(copy):
    full = record_of(copy)
    for name in full:
        (copy / RECORD).write_text(json.dumps({**full, name: "changed"}))
        with pytest.raises(StoreError):
            load_source(f"saved:{copy}")
        (copy / RECORD).write_text(json.dumps({k: v for k, v in full.items() if k != name}))
        with pytest.raises(StoreError):
            load_source(f"saved:{copy}")


FORGED = [
    {"rebuild": {"family": "no such family", "name": "x", "options": {}}},
    {"rebuild": {"family": "module", "name": "os.system", "options": {}}},
    {"rebuild": {"family": "saved", "name": "elsewhere", "options": {}}},
    {"rebuild": {"family": "cnn", "name": "x", "options": {"classes": -1}}},
    {"rebuild": {"family": "cnn", "name": "x", "options": {"no_such": 1}}},
    {"rebuild": {"family": "cnn", "name": "x", "options": {"size": "large"}}},
    {"rebuild": {"family": "fake", "name": "image", "options": {}}},
    {"rebuild": {"family": "cnn"}},
    {"rebuild": None},
    {"rebuild": {"family": ["cnn"], "name": "x", "options": {}}},
    {"fingerprint": "0" * 32},
    {"weights": "0" * 32},
    {"files": {"../../etc/passwd": "0" * 32}},
    {"files": {"tokenizer.json": "0" * 32}},
    {"files": 3},
]


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_forged_records_are_errors_of_the_store(copy, forged):
    rewrite(copy, **forged)
    with pytest.raises(StoreError):
        load_source(f"saved:{copy}")


def test_a_record_of_another_version(copy):
    rewrite(copy, format=99)
    with pytest.raises(StoreError, match="format 99; this version reads format 1"):
        load_source(f"saved:{copy}")


def test_weights_exchanged_for_others_of_the_same_shape(copy):
    state = {k: v + 1 for k, v in load_file(copy / WEIGHTS).items()}
    save_file(state, copy / WEIGHTS)
    with pytest.raises(StoreError, match="is not the file that was saved"):
        load_source(f"saved:{copy}")


def test_weights_exchanged_and_the_record_forged_still_differ_in_the_fingerprint(copy):
    from headstart._base.hashing import key_of_file

    state = {k: v + 1 for k, v in load_file(copy / WEIGHTS).items()}
    save_file(state, copy / WEIGHTS)
    rewrite(copy, weights=key_of_file(copy / WEIGHTS).hex())
    with pytest.raises(StoreError, match="another fingerprint than when it was saved"):
        load_source(f"saved:{copy}")


def test_a_tensor_less_is_refused(copy):
    from headstart._base.hashing import key_of_file

    state = {k: v for k, v in load_file(copy / WEIGHTS).items() if k != "dense.bias"}
    save_file(state, copy / WEIGHTS)
    rewrite(copy, weights=key_of_file(copy / WEIGHTS).hex())
    with pytest.raises(StoreError, match=r"dense\.bias"):
        load_source(f"saved:{copy}")


@pytest.mark.parametrize("change", ["content", "missing", "not asked for"])
def test_files_beside_the_weights(with_files, change):
    path = with_files / "files" / "vocabulary.json"
    if change == "content":
        path.write_text('["b", "a"]')
    elif change == "missing":
        path.unlink()
    else:  # more files than the record names are ignored, whatever they hold
        (with_files / "files" / "evil.py").write_text("raise SystemExit")
        assert load_source(f"saved:{with_files}")
        return
    with pytest.raises(StoreError, match=r"vocabulary\.json"):
        load_source(f"saved:{with_files}")


def test_a_missing_package_is_said_as_such(copy, monkeypatch):
    def absent(name, **options):
        raise MissingPackage("The package 'timm' is needed. Install it with: pip install timm")

    monkeypatch.setitem(SOURCES._table, "timm", "test_source_saved:absent")
    monkeypatch.setattr("test_source_saved.absent", absent, raising=False)
    rewrite(copy, rebuild={"family": "timm", "name": "x", "options": {}})
    with pytest.raises(MissingPackage, match="pip install timm"):
        load_source(f"saved:{copy}")


# ---- writing --------------------------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="Cannot write"):
        load_source("fake:vector").save(tmp_path / "file" / "source")


def test_an_interrupted_save_is_no_source(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart.sources.weights.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_source("fake:vector").save(tmp_path / "half")
    with pytest.raises(StoreError, match="There is no saved source"):
        load_source(f"saved:{tmp_path / 'half'}")


def test_every_error_is_headstarts(copy):
    rewrite(copy, rebuild={"family": "cnn", "name": "x", "options": {"size": [10**9, 10**9]}})
    with pytest.raises(HeadstartError):
        load_source(f"saved:{copy}")


def test_odd_dtypes_survive(tmp_path):
    source = load_source("cnn:x", size=(12, 12))
    source.module.register_buffer("third", torch.tensor([1 / 3], dtype=torch.float64))
    twin = load_source("cnn:x", size=(12, 12))
    twin.module.register_buffer("third", torch.zeros(1, dtype=torch.float64))
    from headstart.sources.weights import fit_weights, read_weights, write_weights

    write_weights(tmp_path / "w.safetensors", source.module.state_dict())
    fit_weights(twin.module, read_weights(tmp_path / "w.safetensors"), "w")
    assert twin.fingerprint == source.fingerprint
    assert np.float64(twin.module.third) == 1 / 3


def test_home_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    source = load_source("fake:vector")
    source.save("~/kept/source")
    assert (tmp_path / "kept" / "source" / "source.json").is_file() and not (tmp_path / "~").exists()
    assert load_source("saved:~/kept/source").fingerprint == source.fingerprint


def test_class_names_that_utf8_cannot_write(tmp_path):
    """They come from the names of folders."""
    source = dataclasses.replace(load_source("fake:vector"), meta={"classes": ["naïve ☕", "caf\udce9"]})
    source.save(tmp_path)
    assert load_source(f"saved:{tmp_path}").meta["classes"] == ["naïve ☕", "caf\udce9"]
