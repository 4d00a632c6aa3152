"""extract(): what costs a forward pass, what is left out and how it is said, and what survives a kill."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import networks
from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.errors import DataError, NumericsError, OptionError, StoreError, UnknownName, UnreadableItem
from headstart.extraction import extract, pipeline, readable_items, recipe, sample_loader
from headstart.sources import load_source
from listeners import Notes
from networks import image_source, picture_data, pictures, vector_source, vectors

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4}
LAST = {**PLAIN, "layers": "7"}


class Log:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.notes, self.events = [], []

    def note(self, text):
        self.notes.append(text)

    def start(self, label, total):
        self.events.append(("start", label, total))

    def advance(self, label, steps):
        self.events.append(("advance", label, steps))

    def finish(self, label):
        self.events.append(("finish", label))


def write(folder: Path, count: int, *, first: int = 0, classes: int = 2) -> list[Path]:
    """``count`` small pictures in class folders, each of other content."""
    paths = []
    for i in range(first, first + count):
        path = folder / f"class{i % classes}" / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(1, side=10, seed=i)[0]).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def rows_of(bank, data, layer="7"):
    return bank.rows(layer, data)


# ---- what is computed -----------------------------------------------------------------------------------------------


def test_rows_come_in_dataset_order(store):
    data = picture_data(9)
    bank = extract("fake:image", data, store=store, **LAST)
    shuffled = data.take([4, 0, 8, 2])
    assert bank.computed == 9
    assert rows_of(bank, data).shape == (9, 24)
    assert np.array_equal(rows_of(bank, shuffled), rows_of(bank, data)[[4, 0, 8, 2]])


def test_a_second_run_costs_nothing(store):
    data = picture_data(6)
    first = extract("fake:image", data, store=store, **LAST)
    second = extract("fake:image", picture_data(6), store=store, **LAST)
    assert (first.computed, second.computed) == (6, 0)
    assert rows_of(first, data).tobytes() == rows_of(second, data).tobytes()


def test_ten_new_photos_cost_ten_forward_passes(folder, store):
    assert extract("fake:image", Dataset.from_folder(folder), store=store, **LAST).computed == 12
    write(folder, 10, first=100)
    more = Dataset.from_folder(folder)
    bank = extract("fake:image", more, store=store, **LAST)
    assert (len(more), bank.computed) == (22, 10)
    fresh = extract("fake:image", more, store=store / "fresh", **LAST)
    assert np.allclose(rows_of(bank, more), rows_of(fresh, more), atol=1e-6)


def test_renamed_moved_and_relabelled_photos_cost_nothing(folder, store, tmp_path):
    extract("fake:image", Dataset.from_folder(folder), store=store, **LAST)
    shutil.copytree(folder, tmp_path / "elsewhere")
    for number, path in enumerate(sorted((tmp_path / "elsewhere").rglob("*.png"))):
        path.rename(path.with_name(f"renamed {number}.PNG"))
    (tmp_path / "elsewhere" / "class0").rename(tmp_path / "elsewhere" / "other name")
    again = extract("fake:image", Dataset.from_folder(tmp_path / "elsewhere"), store=store, **LAST)
    assert again.computed == 0


def test_copies_are_computed_once(store):
    X = pictures(4)[[0, 1, 0, 2, 1, 0, 3]]
    data = Dataset.from_arrays(X, list("abacbad"))
    bank = extract("fake:image", data, store=store, **LAST)
    assert bank.computed == 4
    assert bank.table("7").count == 4
    rows = rows_of(bank, data)
    assert np.array_equal(rows[[0, 2, 5]], rows[[0, 0, 0]])


def test_a_subset_of_layers_costs_nothing(store):
    data = picture_data(6)
    extract("fake:image", data, store=store, layers="all", **PLAIN)
    assert extract("fake:image", data, store=store, layers=["3", "7"], **PLAIN).computed == 0


def test_one_more_layer_writes_only_that_layer(store):
    data = picture_data(6)
    first = extract("fake:image", data, store=store, layers="3", **PLAIN)
    size = first.table("3").nbytes
    both = extract("fake:image", data, store=store, layers=["3", "7"], **PLAIN)
    assert both.computed == 6
    assert both.table("7").count == 6
    assert both.table("3").nbytes == size  # not written a second time
    assert extract("fake:image", data, store=store, layers=["3", "7"], **PLAIN).computed == 0


def test_layers_with_different_gaps_are_filled_without_duplicates(store):
    data = picture_data(10)
    extract("fake:image", data.take(range(6)), store=store, layers="3", **PLAIN)
    extract("fake:image", data.take(range(4, 10)), store=store, layers="7", **PLAIN)
    bank = extract("fake:image", data, store=store, layers=["3", "7"], **PLAIN)
    assert bank.computed == 8  # 4 and 5 are in both
    for name in ("3", "7"):
        assert bank.table(name).count == len(bank.table(name).keys()) == 10
        expected = extract("fake:image", data, store=False, layers=name, **PLAIN)
        assert np.allclose(bank.rows(name, data), expected.rows(name, data), atol=1e-6)


def test_only_what_is_asked_for_is_run(store):
    source = image_source(networks.Normed)
    extract(
        source, picture_data(1), store=store, layers="blocks.1", **PLAIN
    )  # the network is measured and checked once
    counts, handles = networks.counted(source.module)
    extract(source, picture_data(9), store=store, layers="blocks.1", **PLAIN)
    for handle in handles:
        handle.remove()
    # convolutional nets run as a copy, whose hooks count here, too
    assert counts["blocks.1"] == 2
    assert counts["blocks.2"] == counts["blocks.3"] == counts["classifier"] == 0


def test_what_changes_numbers_has_another_folder(store):
    data = picture_data(4)
    source = load_source("fake:image")
    kinds = [
        {"layers": "3"}, {"layers": "5"}, {"layers": "3", "pooling": "max"}, {"layers": "3", "precision": "bf16"},
    ]  # fmt: skip
    for kind in kinds:
        assert extract(source, data, store=store, **{**PLAIN, **kind}).computed == 4
    assert extract(load_source("fake:image", seed=1), data, store=store, **{**PLAIN, "layers": "3"}).computed == 4
    assert extract(load_source("fake:image", size=12), data, store=store, **{**PLAIN, "layers": "3"}).computed == 4
    assert len([p for p in store.iterdir() if (p / "recipe.json").is_file() and p.name != "keys"]) == 6


def test_what_does_not_change_numbers_has_the_same_folder(store):
    data = picture_data(5)
    extract("fake:image", data, store=store, **LAST)
    for kind in ({"batch_size": 2}, {"workers": 0}, {"on_error": "skip"}):
        assert extract("fake:image", data, store=store, **{**LAST, **kind}).computed == 0


def test_the_recipe_says_everything():
    source, data = load_source("fake:image"), picture_data(2)
    bank = extract(source, data, store=False, **LAST)
    result = recipe(source, "7", "avg", bank.choice, data=data)
    assert result == bank.recipe["7"]
    assert result["source"] == source.fingerprint
    assert result["pooling"] == "avg"
    assert result["precision"] == "fp32"
    assert result["reading"]["reader"] == "image"
    assert "torch" in result["versions"]


def test_changed_weights_never_meet_old_rows(store):
    data = Dataset.from_arrays(vectors(5))
    source = vector_source(networks.Dense)
    before = extract(source, data, store=store, layers="a", **PLAIN).rows("a", data).copy()
    source.module.a.weight.data[0, 0] += 1  # behind the back of the counter of writes
    stale = vector_source(networks.Dense)
    stale.module.a.weight.data.copy_(source.module.a.weight)
    after = extract(stale, data, store=store, layers="a", **PLAIN)
    assert after.computed == 5
    assert not np.array_equal(before, after.rows("a", data))


# ---- poolings -------------------------------------------------------------------------------------------------------


def test_one_pooling_per_layer(store):
    data = picture_data(3)
    bank = extract("fake:image", data, store=store, layers=["3", "5"], pooling={"3": "max", "5": "avg+std"}, **PLAIN)
    assert bank.rows("3", data).shape == (3, 16)
    assert bank.rows("5", data).shape == (3, 48)
    mixed = extract("fake:image", data, store=store, layers=["3", "5"], pooling={"3": "max"}, **PLAIN)
    assert mixed.recipe["5"]["pooling"] == "flatten"


def test_a_pooling_for_a_layer_that_is_not_extracted(store):
    with pytest.raises(UnknownName, match="'33' is not one of the layers extracted, which pooling= can name"):
        extract("fake:image", picture_data(2), store=store, layers=["3"], pooling={"33": "max"}, **PLAIN)
    with pytest.raises(UnknownName, match="did you mean 'avg'"):
        extract("fake:image", picture_data(2), store=store, layers=["3"], pooling="avgg", **PLAIN)


def test_unpooled_rows(store):
    data = picture_data(3)
    bank = extract("fake:image", data, store=store, layers="5", pooling="none", **PLAIN)
    assert bank.rows("5", data).shape == (3, 24, 4, 4)
    pooled = extract("fake:image", data, store=store, layers="5", pooling="avg", **PLAIN)
    assert np.allclose(bank.rows("5", data).mean((2, 3)), pooled.rows("5", data), atol=1e-6)


def test_unpooled_texts_have_their_own_lengths(store):
    data = Dataset.from_arrays(["a cat", "a cat sat on the mat", "dogs"])
    source = load_source("lstm:x", vocabulary=("a", "cat", "sat"), embedding=4, hidden=3)
    bank = extract(source, data, store=store, layers="embedding", pooling="none", **PLAIN)
    assert [len(item) for item in bank.sequences("embedding", data)] == [2, 6, 1]
    pooled = extract(source, data, store=store, layers="embedding", pooling="avg", **PLAIN).rows("embedding", data)
    assert np.allclose([item.mean(0) for item in bank.sequences("embedding", data)], pooled, atol=1e-6)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(folder):
    """Three broken files among twelve good ones, and one that disappears after it was listed."""
    (folder / "class0" / "0001-empty.png").write_bytes(b"")
    (folder / "class0" / "0005-text.png").write_text("<html>404</html>")
    full = (folder / "class1" / "0003.png").read_bytes()
    (folder / "class1" / "0004-cut.png").write_bytes(full[: len(full) // 2])
    gone = folder / "class1" / "0009-gone.png"
    gone.write_bytes(full)
    data = Dataset.from_folder(folder)
    gone.unlink()
    return data


def test_broken_files_are_left_out_and_named_in_order(broken, store):
    bank = extract("fake:image", broken, store=store, **LAST)
    assert [entry.item.name for entry in bank.skipped] == [
        "0001-empty.png",
        "0005-text.png",
        "0004-cut.png",
        "0009-gone.png",
    ]
    reasons = " | ".join(entry.reason for entry in bank.skipped)
    for words in ("empty", "HTML", "truncated", "no such file"):
        assert words in reasons
    assert all(broken.items[entry.index] == entry.item for entry in bank.skipped)
    assert bank.computed == 12
    keep = bank.keep(broken)
    remaining = broken.take(np.flatnonzero(keep))
    assert keep.sum() == 12
    assert all(target == Path(item).parent.name for item, target in zip(remaining.items, remaining.targets))
    with pytest.raises(DataError, match="0001-empty"):
        bank.rows("7", broken)


def test_good_rows_are_not_touched_by_broken_neighbours(broken, folder, store, tmp_path):
    bank = extract("fake:image", broken, store=store, **LAST)
    remaining = broken.take(np.flatnonzero(bank.keep(broken)))
    alone = extract("fake:image", Dataset.from_items(list(remaining.items)), store=tmp_path / "other", **LAST)
    assert np.allclose(bank.rows("7", remaining), alone.rows("7", remaining), atol=1e-6)


def test_what_was_left_out_is_written_down(broken, store):
    with listening(log := Log()):
        extract("fake:image", broken, store=store, **LAST)
    (report,) = (store / "skipped").glob("*.csv")
    with open(report, newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["item", "reason"]
    assert len(table) == 5
    assert table[1][0].endswith("0001-empty.png")
    (message,) = [text for text in log.notes if "left out" in text]
    assert "4 of 16 items" in message
    assert str(report) in message


def test_broken_files_are_tried_again_and_cost_nothing_else(broken, folder, store):
    extract("fake:image", broken, store=store, **LAST)
    write(folder, 1, first=5)  # another of the good files; the broken ones stay
    (folder / "class0" / "0001-empty.png").write_bytes((folder / "class0" / "0002.png").read_bytes())
    bank = extract("fake:image", Dataset.from_folder(folder), store=store, **LAST)
    assert bank.computed == 0  # the mended file is a copy
    assert [item.item.name for item in bank.skipped] == ["0005-text.png", "0004-cut.png"]


def test_on_error_raise_names_the_first(broken, store):
    with pytest.raises(UnreadableItem, match=r"0009-gone\.png: no such file"):  # that takes no reading
        extract("fake:image", broken, store=store, on_error="raise", **LAST)
    present = broken.take([i for i, item in enumerate(broken.items) if "gone" not in item.name])
    with pytest.raises(UnreadableItem, match=r"0001-empty\.png") as caught:
        extract("fake:image", present, store=store, on_error="raise", **LAST)
    assert Path(caught.value.item).name == "0001-empty.png"


def test_arrays_are_strict_by_default(store):
    data = Dataset.from_arrays(np.where(np.arange(40).reshape(5, 8) == 17, 1e300, 1.0))
    with pytest.raises(UnreadableItem, match=r"item 2: .* too large for float32"):
        extract("fake:vector", data, store=store, layers="last", **PLAIN)
    bank = extract("fake:vector", data, store=store, layers="last", on_error="skip", **PLAIN)
    assert [(item.item, item.index) for item in bank.skipped] == [("item 2", 2)]


def test_copies_of_a_broken_item_are_all_named(folder, store):
    for name in "abc":
        (folder / "class0" / f"{name}.png").write_text("no picture")
    bank = extract("fake:image", Dataset.from_folder(folder), store=store, **LAST)
    assert [item.item.name for item in bank.skipped] == ["a.png", "b.png", "c.png"]
    assert len({item.reason for item in bank.skipped}) == 1


def test_when_nothing_can_be_read(tmp_path, store):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("nothing")
    data = Dataset.from_items(sorted(tmp_path.glob("*.png")))
    with pytest.raises(DataError, match=r"None of the 3 items could be read; the first: .*0\.png: not an image"):
        extract("fake:image", data, store=store, **LAST)


def test_a_file_that_changes_after_it_was_looked_at_is_not_read_in_its_place(folder, store):
    """Else the new content's features would be kept under the old content's key, for ever."""
    data = Dataset.from_folder(folder)
    data.keys()
    changed = data.items[3]
    Image.fromarray(pictures(1, side=10, seed=999)[0]).save(changed)
    bank = extract("fake:image", data, store=store, **LAST)
    assert [(item.item, item.index) for item in bank.skipped] == [(changed, 3)]
    assert "changed since" in bank.skipped[0].reason
    again = Dataset.from_folder(folder)
    assert extract("fake:image", again, store=store, **LAST).computed == 1


def test_other_problems_are_not_taken_for_broken_items(store, monkeypatch):
    def fail(self, item):
        raise ZeroDivisionError

    monkeypatch.setattr("headstart.readers.image.ImageReader.read", fail)
    with pytest.raises(ZeroDivisionError):
        extract("fake:image", picture_data(3), store=store, on_error="skip", **LAST)


def test_texts_that_are_cut_are_counted(store):
    source = load_source("lstm:x", vocabulary=("a",), max_length=3)
    data = Dataset.from_arrays(["a a a a a", "a", "a a a a"])
    with listening(log := Log()):
        extract(source, data, store=store, layers="last", **PLAIN)
    assert any("2 of 3 items: longer than 3 tokens and cut there" in text for text in log.notes)


# ---- what cannot be done --------------------------------------------------------------------------------------------


def test_wrong_modalities_and_empty_data(store):
    with pytest.raises(DataError, match="fake:image takes image data; this dataset is vector"):
        extract("fake:image", Dataset.from_arrays(vectors(2)), store=store)
    with pytest.raises(DataError, match="fake:vector takes vector data; this dataset is text"):
        extract("fake:vector", Dataset.from_arrays(["a"]), store=store)
    with pytest.raises(DataError, match="empty"):
        extract("fake:image", picture_data(3).take([]), store=store)


@pytest.mark.parametrize("thing", [["a.jpg"], "photos/", np.zeros((2, 4, 4, 3), np.uint8), None])
def test_only_datasets_are_taken(thing):
    with pytest.raises(DataError, match=r"takes a Dataset; got .*from_folder"):
        extract("fake:image", thing)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"on_error": "ignore"}, OptionError, "on_error must be 'skip' or 'raise'"),
        ({"batch_size": 0}, OptionError, "batch_size must be a whole number"),
        ({"batch_size": 2.5}, OptionError, "batch_size must be a whole number"),
        ({"batch_size": True}, OptionError, "batch_size must be a whole number"),
        ({"workers": -1}, OptionError, "workers must be a whole number"),
        ({"runner": "locale"}, UnknownName, "did you mean 'local'"),
        ({"engine": "tensorrt"}, UnknownName, "engines of fake:image"),
        ({"precision": "fp8"}, UnknownName, "precisions"),
        ({"layers": "nope"}, UnknownName, "layers of fake:image"),
        ({"layers": []}, OptionError, "layers is empty"),
        ({"device": "gpu"}, OptionError, "device='gpu'"),
    ],
)
def test_options_that_are_wrong(options, kind, said, store):
    with pytest.raises(kind, match=said):
        extract("fake:image", picture_data(3), store=store, **{"layers": "7", **options})
    assert not store.exists() or not list(store.rglob("*.safetensors"))


def test_arrays_of_different_sizes_are_named(store):
    rng = np.random.default_rng(0)
    data = Dataset.from_arrays([rng.normal(size=(3, side, side)).astype(np.float32) for side in (16, 16, 20)])
    with pytest.raises(DataError, match=r"(?s)one shape|preprocessed"):
        extract("fake:image", data, store=store, **LAST)


def test_numbers_that_are_not_finite_are_not_stored(store):
    source = vector_source(networks.Dense)
    source.module.b.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="NaN or infinity at layer b"):
        extract(source, Dataset.from_arrays(vectors(3)), store=store, layers="b", **PLAIN)
    assert not list(store.rglob("*.safetensors"))


@pytest.mark.parametrize("make", [networks.BatchStatistics, networks.RandomForward])
@pytest.mark.parametrize("how", [{}, PLAIN])
@pytest.mark.parametrize("count", [1, 6])
def test_features_that_depend_on_batch_mates_are_refused(make, how, count, store):
    from headstart.errors import SourceError

    with pytest.raises(SourceError, match="change with its batch-mates or from run to run"):
        extract(image_source(make), picture_data(count), store=store, layers="all", **how)
    assert not list(store.rglob("*.safetensors"))


# ---- the store ------------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError):
        extract("fake:image", picture_data(3), store=tmp_path / "file" / "store", **LAST)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_is_read_only(store):
    store.mkdir()
    store.chmod(0o500)
    with pytest.raises(StoreError, match="Cannot write"):
        extract("fake:image", picture_data(3), store=store, **LAST)


def test_a_full_disk_stops_the_run_and_keeps_whole_shards(store, monkeypatch):
    data = picture_data(12)
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "_FLUSH_SHARE", 0.0)
    from headstart.bank.table import Table

    real, calls = Table.append, []

    def append(self, keys, rows):
        calls.append(len(keys))
        if len(calls) == 3:
            raise StoreError("Cannot write: No space left on device")
        real(self, keys, rows)

    monkeypatch.setattr(Table, "append", append)
    with pytest.raises(StoreError, match="No space left"):
        extract("fake:image", data, store=store, **LAST)
    monkeypatch.undo()
    bank = extract("fake:image", data, store=store, **LAST)
    assert bank.computed in (4, 8)  # two shards of four were there
    assert np.isfinite(rows_of(bank, data)).all()


def test_memory_only(store, monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    data = picture_data(3)
    bank = extract("fake:image", data, store=False, **LAST)
    assert bank.computed == 3
    assert rows_of(bank, data).shape == (3, 24)
    assert not (tmp_path / "cache" / "bank").exists()


def test_the_default_store_is_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    extract("fake:image", picture_data(2), **LAST)
    assert list((tmp_path / "cache" / "bank").glob("*/*.safetensors"))


def test_an_interrupt_leaves_whole_shards_and_no_threads(store, monkeypatch):
    import threading

    from headstart.engines.torch import TorchEngine

    data = picture_data(20)
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "_FLUSH_SHARE", 0.0)
    real, calls = TorchEngine.__call__, []

    def interrupted(self, batch):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, batch)

    extract("fake:image", data.take([0]), store=False, **LAST)  # the check of the source is remembered
    monkeypatch.setattr(TorchEngine, "__call__", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        extract("fake:image", data, store=store, **{**LAST, "batch_size": 2})
    monkeypatch.undo()
    assert threading.active_count() <= before + 1
    assert not list(store.rglob("*.tmp"))
    bank = extract("fake:image", data, store=store, **{**LAST, "batch_size": 2})
    assert 10 <= bank.computed < 20
    full = extract("fake:image", data, store=False, **{**LAST, "batch_size": 2})
    assert rows_of(bank, data).tobytes() == rows_of(full, data).tobytes()


def test_a_damaged_shard_is_computed_again(store):
    data = picture_data(5)
    bank = extract("fake:image", data, store=store, **LAST)
    expected = rows_of(bank, data).copy()
    (shard,) = bank.table("7").folder.glob("*.safetensors")
    shard.chmod(0o600)
    blob = bytearray(shard.read_bytes())
    shard.write_bytes(blob[: len(blob) // 2])
    again = extract("fake:image", data, store=store, **LAST)
    assert again.computed == 5
    assert np.array_equal(rows_of(again, data), expected)


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_progress_counts_every_item_once(broken, store):
    with listening(log := Log()):
        extract("fake:image", broken, store=store, **LAST)
    (start,) = [event for event in log.events if event[0] == "start"]
    assert start[2] == 15  # sixteen less the one that is gone
    assert sum(event[2] for event in log.events if event[0] == "advance") == 15
    assert log.events[-1][0] == "finish"


def test_a_long_run_is_announced(store, monkeypatch):
    module = import_module("headstart.extraction.extract")  # the package gives the function of that name

    monkeypatch.setattr(module, "_LONG_SECONDS", 0.0)
    with listening(log := Log()):
        extract("fake:image", picture_data(6), store=store, layers=["3", "7"])
    (plan,) = [text for text in log.notes if "MB on disk" in text]
    assert "6 items × 2 layer(s)" in plan


def test_seconds_and_choice_are_kept(store):
    bank = extract("fake:image", picture_data(6), store=store, layers="7")
    assert bank.seconds.keys() == {"choose", "read", "forward", "write", "total"}
    assert all(value >= 0 for value in bank.seconds.values())
    assert bank.choice.engine == "torch"


def test_reading_and_readable(broken):
    source = load_source("fake:image")
    with listening(log := Log()):
        remaining = readable_items(source, broken)
    assert len(remaining) == 12
    assert len(log.notes) == 4
    assert sample_loader(source, remaining)(0).shape == (3, 16, 16)
    with pytest.raises(DataError, match="None of the 1 items"):
        readable_items(source, broken.take([i for i, p in enumerate(broken.items) if "empty" in p.name]))


# ---- other processes ------------------------------------------------------------------------------------------------

WORK = """
import os, random, signal, sys, time
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
from pathlib import Path
from headstart.extraction import pipeline
from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.readers.image import ImageReader

folder, store, job = Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
pipeline._FLUSH_SECONDS = pipeline._FLUSH_SHARE = 0.0
real = ImageReader.read

def slow(self, item):
    time.sleep(0.004)
    return real(self, item)

ImageReader.read = slow

def run():
    data = Dataset.from_folder(folder)
    bank = extract("fake:image", data, layers=["3", "7"], store=store, engine="torch", precision="fp32", batch_size=4)
    return bank.computed

def fork():
    child = os.fork()  # before torch has started any thread of its own
    if child == 0:
        try:
            done = run()
            (store / f"done-{os.getpid()}").write_text(str(done))
        finally:
            os._exit(0)
    return child

def shards():
    return len(list(store.glob("*/*.safetensors")))

store.mkdir(parents=True, exist_ok=True)
def kill(seed, times):
    chance = random.Random(seed)
    for _ in range(times):
        before = shards()
        child = fork()
        wanted = before + chance.randrange(1, 16)
        while shards() < wanted and os.waitpid(child, os.WNOHANG)[0] == 0:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.02)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    return run()

if job == "kill":
    left = []
    for seed in sys.argv[7:]:  # each in a store of its own
        store = Path(sys.argv[4]) / seed
        store.mkdir(parents=True)
        left.append(kill(int(seed), int(sys.argv[6])))
    print(*left)
else:
    for child in [fork(), fork()]:
        os.waitpid(child, 0)
    print(sum(int(p.read_text()) for p in store.glob("done-*")))
"""


def work(tmp_path, *arguments) -> str:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    here = Path(__file__).parent
    paths = [str(here.parent / "src"), str(here)]
    done = subprocess.run(
        [sys.executable, str(script), *paths, *map(str, arguments)], capture_output=True, text=True, timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
def test_killed_at_random_moments_and_resumed_is_the_same_to_the_bit(tmp_path):
    folder, store = tmp_path / "photos", tmp_path / "store"
    write(folder, 80)
    (folder / "class0" / "0050-broken.png").write_text("broken")
    left = int(work(tmp_path, folder, store, "kill", 3, 1))
    assert left < 80  # something survived every kill
    store /= "1"
    data = Dataset.from_folder(folder)
    remaining = data.take([i for i, item in enumerate(data.items) if "broken" not in item.name])
    options = {**PLAIN, "layers": ["3", "7"]}
    resumed = extract("fake:image", data, store=store, **options)
    full = extract("fake:image", data, store=tmp_path / "whole", **options)
    assert (resumed.computed, full.computed) == (0, 80)
    for layer in ("3", "7"):
        assert resumed.table(layer).count == 80
        assert resumed.rows(layer, remaining).tobytes() == full.rows(layer, remaining).tobytes()


@pytest.mark.slow
@needs_fork
def test_killed_more_often(tmp_path):
    folder, seeds = tmp_path / "photos", ["2", "3", "4", "5", "6"]
    write(folder, 90)
    work(tmp_path, folder, tmp_path / "store", "kill", 8, *seeds)
    data = Dataset.from_folder(folder)
    full = rows_of(extract("fake:image", data, store=False, **LAST), data).tobytes()
    for seed in seeds:
        resumed = extract("fake:image", data, store=tmp_path / "store" / seed, **LAST)
        assert resumed.computed == 0
        assert rows_of(resumed, data).tobytes() == full


@needs_fork
def test_two_processes_at_once(tmp_path):
    folder, store = tmp_path / "photos", tmp_path / "store"
    write(folder, 40)
    both = int(work(tmp_path, folder, store, "together"))
    assert 40 <= both <= 80
    data = Dataset.from_folder(folder)
    bank = extract("fake:image", data, store=store, **{**PLAIN, "layers": ["3", "7"]})
    assert bank.computed == 0
    alone = extract("fake:image", data, store=False, **{**PLAIN, "layers": ["3", "7"]})
    for layer in ("3", "7"):
        assert bank.rows(layer, data).tobytes() == alone.rows(layer, data).tobytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """1,200 un-pooled maps more are 354 MB; both runs hold a few batches and up to three shards of them."""
    code = """
import resource, sys
sys.path[:0] = sys.argv[1:3]
import numpy as np
from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.sources import load_source
rng = np.random.default_rng(0)
data = Dataset.from_arrays(rng.integers(0, 256, (int(sys.argv[4]), 8, 8, 3), dtype=np.uint8))
source = load_source("fake:image", size=96)
extract(source, data, layers="1", pooling="none", store=sys.argv[3], engine="torch", precision="fp32", batch_size=16)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    here = Path(__file__).parent
    peak = {}
    for count in (1200, 2400):
        done = subprocess.run(
            [sys.executable, "-c", code, str(here.parent / "src"), str(here), str(tmp_path / str(count)), str(count)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        peak[count] = int(done.stdout)
    assert peak[2400] - peak[1200] < 120, peak


def test_a_list_of_skipped_items_that_cannot_be_kept_stops_nothing(tmp_path):
    """A store that is only read, say: the rows are there, and that is what was asked for."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(pictures(1)[0]).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no picture")
    store = tmp_path / "store"
    store.mkdir()
    (store / "skipped").write_text("a file where the folder of lists would be")
    with listening(heard := Notes()):
        bank = extract("fake:image", Dataset.from_folder(folder), store=store, **PLAIN)
    assert bank.computed == 1 and [item.item.name for item in bank.skipped] == ["b.png"]
    assert any("the list cannot be kept" in text and "b.png" in text for text in heard)


def test_a_skipped_item_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(pictures(1)[0]).save(folder / "a.png")
    try:
        (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes no such names")
    extract("fake:image", Dataset.from_folder(folder), store=tmp_path / "store", **PLAIN)
    (listed,) = (tmp_path / "store" / "skipped").iterdir()
    assert "caf\\udce9.png" in listed.read_text(encoding="utf-8")


def test_rows_in_memory_are_ragged_as_those_on_disk_are(store):
    """Also where all items happen to have as many steps."""
    data = Dataset.from_arrays(["one two", "three four"])
    source = load_source("lstm:lstm", vocabulary=("one", "two"))
    for home in (store, False):
        bank = extract(source, data, layers=["recurrent"], pooling="frames", store=home, **PLAIN)
        assert bank.table("recurrent").ragged and bank.table("recurrent").shape == (64,)
        assert [item.shape for item in bank.sequences("recurrent", data)] == [(2, 64)] * 2
        with pytest.raises(DataError, match="sequences"):
            bank.rows("recurrent", data)
