"""Store and Table: files, folders, messages, limits. The laws of rows and damage are in laws/test_store_laws.py."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from headstart._base import files as _files
from headstart._base.hashing import fingerprint
from headstart._base.progress import listening
from headstart.bank import Store, Table
from headstart.bank import shards as shard_rows
from headstart.bank.shard_format import BFLOAT16
from headstart.errors import DataError, OptionError, StoreError
from listeners import Notes

RECIPE = {"source": "f00d", "layer": "blocks.6"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def table(store):
    return store.table(RECIPE)


@pytest.fixture
def quick(monkeypatch):
    """Do not wait for the disk: for tests that write thousands of shards."""
    monkeypatch.setattr(_files, "_sync", lambda path: None)


def keys(count, first=0):
    return [i.to_bytes(16, "big") for i in range(first, first + count)]


def rows(count, width=3, first=0):
    return np.arange(first * width, (first + count) * width, dtype=np.float32).reshape(count, width)


def files(table):
    return sorted(path.name for path in table.folder.iterdir())


def shards(table):
    return sorted(table.folder.glob("*.safetensors"))


def reopened(table):
    return Table.open(table.folder, table.recipe)


@contextmanager
def notes():
    with listening(heard := Notes()):
        yield heard


# ---- folders and recipes


def test_nothing_is_created_before_the_first_row(store):
    table = store.table(RECIPE)
    assert (table.count, table.nbytes, table.dtype, table.shape, table.ragged) == (0, 0, None, None, False)
    assert not table.has(keys(2)).any()
    table.append([], np.empty((0, 3)))
    with store.key_table():
        pass
    assert not store.root.exists()


def test_the_folder_is_the_fingerprint_of_the_recipe(store):
    table = store.table(RECIPE)
    table.append(keys(1), rows(1))
    assert table.folder == store.root / fingerprint(RECIPE)
    assert json.loads((table.folder / "recipe.json").read_text()) == RECIPE
    assert [name.rpartition(".")[2] for name in files(table)] == ["safetensors", "json"]


def test_a_recipe_may_hold_numpy_numbers_tuples_and_paths(store):
    recipe = {"mean": (np.float32(0.5), 1), "levels": np.arange(2), "file": Path("a/b"), "names": {"y", "x"}}
    store.table(recipe).append(keys(1), rows(1))
    assert store.table(recipe).count == 1
    assert store.table(recipe).recipe == {"mean": [0.5, 1], "levels": [0, 1], "file": "a/b", "names": ["x", "y"]}


@pytest.mark.parametrize("recipe", [{"x": object()}, {"f": print}, {1: 2, "a": 3}])
def test_a_recipe_that_is_no_plain_data_is_refused(store, recipe):
    with pytest.raises(OptionError, match="plain data"):
        store.table(recipe)


def test_another_recipe_in_the_folder_is_refused(table):
    table.append(keys(1), rows(1))
    (table.folder / "recipe.json").write_text(json.dumps({**RECIPE, "layer": "blocks.5"}))
    with pytest.raises(StoreError, match="not the recipe asked for"):
        reopened(table)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_recipe_is_refused(table, content):
    table.append(keys(1), rows(1))
    (table.folder / "recipe.json").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        reopened(table)


def test_a_lost_recipe_is_written_again(table):
    table.append(keys(1), rows(1))
    (table.folder / "recipe.json").unlink()
    again = reopened(table)
    assert again.count == 1
    again.append(keys(1, first=1), rows(1))
    assert (table.folder / "recipe.json").exists()


def test_shards_of_another_recipe_are_never_trusted(store, table):
    other = store.table({**RECIPE, "layer": "blocks.5"})
    other.append(keys(2), rows(2))
    table.append(keys(1), rows(1))
    shutil.copy(shards(other)[0], table.folder)
    assert table.has(keys(2)).tolist() == [True, False]
    table.refresh()
    assert table.has(keys(2)).tolist() == [True, False]
    assert list(table.damaged) == [shards(other)[0].name]


def test_a_store_that_is_a_file_or_lies_in_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("not a folder")
    with pytest.raises(StoreError, match="Cannot read the store"):
        Store(path).table(RECIPE)
    table = Store(tmp_path / "store").table(RECIPE)
    table.folder.parent.write_text("a file came in between")
    with pytest.raises(StoreError, match="Cannot write"):
        table.append(keys(1), rows(1))


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/bank").table(RECIPE).folder.parent == tmp_path / "bank"
    assert Store(Path("~/bank")).key_table().folder == tmp_path / "bank" / "keys"


def test_a_table_travels_to_another_process_as_its_place(table):
    table.append(keys(3), rows(3))
    copy = pickle.loads(pickle.dumps(table))
    assert np.array_equal(copy.get(keys(3)), rows(3))
    assert repr(copy) == f"Table({table.folder.name}: 3 items in 1 shards)"


# ---- what may be written


def test_types_and_shapes_are_those_of_the_first_rows(table):
    table.append(keys(2), rows(2))
    assert (table.dtype, table.shape, table.ragged) == (np.dtype(np.float32), (3,), False)
    for wrong in (rows(2, width=4), rows(2).astype(np.float64), [rows(1), rows(1)], rows(2)[:, :, None]):
        with pytest.raises(DataError, match=r"this table has rows of shape \(3,\) and type F32, and these are"):
            table.append(keys(2, first=2), wrong)
    assert table.count == 2
    assert len(shards(table)) == 1


def test_two_writers_with_different_types_the_first_by_name_wins(table):
    other = reopened(table)
    table.append(keys(2), rows(2))
    other.append(keys(2, first=2), rows(2).astype(np.float64))
    again = reopened(table)
    assert again.dtype == np.float32
    assert list(again.damaged) == [shards(table)[1].name]
    assert "this table has rows" in again.damaged[shards(table)[1].name]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_type_in_the_recipe_is_enforced(store, dtype):
    table = store.table({"dtype": dtype})
    stored = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    table.append(keys(1), np.zeros((1, 2), stored))
    assert table.dtype == stored
    for wrong in {np.float64, np.float32, np.float16, np.uint16, np.int8} - {stored.type}:
        with pytest.raises(DataError):
            table.append(keys(1), np.zeros((1, 2), wrong))


def test_bfloat16_is_bfloat16_in_the_file(store):
    safetensors = pytest.importorskip("safetensors")
    table = store.table({"dtype": "bfloat16"})
    values = np.array([[1.5, -2.0, 1e30]], np.float32)
    table.append(keys(1), values.astype(BFLOAT16))
    with safetensors.safe_open(shards(table)[0], framework="numpy") as file:
        assert file.get_slice("rows").get_dtype() == "BF16"


def test_other_byte_orders_and_strides_are_stored_the_same(table):
    swapped = rows(4).astype(">f4")
    table.append(keys(2), swapped[:2])
    table.append(keys(2, first=2), np.asfortranarray(rows(8))[4:8:2])
    assert table.get(keys(4)).dtype == np.float32
    assert np.array_equal(table.get(keys(4)), np.concatenate([rows(2), rows(8)[4:8:2]]))


@pytest.mark.parametrize(
    ("rows_and_keys", "message"),
    [
        (np.zeros((2, 3), complex), "cannot be stored"),
        (np.array([["a"], ["b"]]), "cannot be stored"),
        (np.array([[object()], [None]]), "cannot be stored"),
        (np.zeros((2, *[1] * 15)), "cannot be stored"),
        (np.zeros((3, 3)), "2 keys and 3 rows"),
        ([np.zeros(3)], "2 keys and 1 rows"),
        ([np.zeros((1, 3)), np.zeros((1, 4))], "one type and inner shape"),
        ([np.zeros((1, 3)), np.zeros((1, 3), np.float32)], "one type and inner shape"),
        ([np.zeros((1, 3)), [1.0]], "one type and inner shape"),
        ([np.float64(1), np.float64(2)], "one type and inner shape"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused(table, rows_and_keys, message):
    with pytest.raises(DataError, match=message):
        table.append(keys(2), rows_and_keys)
    assert not table.folder.exists()


@pytest.mark.parametrize(
    "bad", [[b"short"], ["0123456789abcdef"], [None], np.zeros((1, 8), np.uint8), np.zeros((1, 16))]
)
def test_keys_that_are_none_are_refused(table, bad):
    with pytest.raises(DataError, match=r"16 bytes|\(n, 16\)"):
        table.append(bad, rows(1))


# ---- reading


def test_one_block_of_one_shard_is_a_view_of_the_file(table):
    table.append(keys(10), rows(10))
    table.append(keys(10, first=10), rows(10, first=10))
    view = table.get(keys(5, first=3))
    assert isinstance(view, np.memmap)
    assert not view.flags.writeable
    assert view.ctypes.data % 4 == 0
    for requested in (keys(3)[::-1], keys(6, first=7), [keys(1)[0], keys(3)[2]]):
        fresh = table.get(requested)
        assert not isinstance(fresh, np.memmap)
        assert fresh.flags.writeable
        assert np.array_equal(fresh, rows(20)[[int.from_bytes(k, "big") for k in requested]])
    assert isinstance(table.get(keys(5), floats=True), np.memmap)


def test_rows_begin_at_a_multiple_of_64_bytes(table):
    for count in (1, 2, 3, 7):
        table.append(keys(count, first=table.count), rows(count))
    for path in shards(table):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        assert (8 + length + header["rows"]["data_offsets"][0]) % 64 == 0


def test_a_view_outlives_the_file(table):
    table.append(keys(4), rows(4))
    view = table.get(keys(4))
    shutil.rmtree(table.folder)
    assert np.array_equal(view, rows(4))


def test_no_keys_give_no_rows(store, table):
    assert table.get([]).shape == (0, 0)
    table.append(keys(2), rows(2))
    assert table.get([]).shape == (0, 3)
    assert table.get([]).dtype == np.float32
    assert table.get(np.empty((0, 16), np.uint8)).shape == (0, 3)
    assert list(table.batches([], 4)) == []
    ragged = store.table({"ragged": True})
    ragged.append(keys(1), [rows(2)])
    assert ragged.get([]) == []


def test_missing_rows_are_counted(table):
    table.append(keys(3), rows(3))
    with pytest.raises(StoreError, match=r"2 of 4 rows are not in .*the first is number 1.*Extract again"):
        table.get([keys(1)[0], keys(9)[8], keys(3)[2], keys(9)[7]])
    with pytest.raises(StoreError, match="1 of 2 rows"):
        table.get([keys(1)[0], None])
    with pytest.raises(StoreError, match="1 of 1 rows"):
        table.batches(keys(1, first=5), 2)  # before the first batch is asked for


@pytest.mark.parametrize("size", [0, -1, True])
def test_batches_need_a_size(table, size):
    with pytest.raises(OptionError, match="≥ 1"):
        table.batches([], size)


def test_rows_of_another_process_are_found_when_they_are_needed(table):
    other = reopened(table)
    other.append(keys(3), rows(3))
    assert not table.has(keys(3)).any()
    assert np.array_equal(table.get(keys(3)), rows(3))
    other.append(keys(3, first=3), rows(3, first=3))
    table.refresh()
    assert table.has(keys(6)).all()


def test_the_first_shard_by_name_wins_for_every_reader(table):
    table.append(keys(2), rows(2))
    table.append(keys(2), rows(2) + 100)
    _, second = shards(table)
    assert np.array_equal(table.get(keys(2)), rows(2))
    second.rename(table.folder / "0-was-second.safetensors")
    table.refresh()
    assert np.array_equal(table.get(keys(2)), rows(2) + 100)
    assert np.array_equal(reopened(table).get(keys(2)), rows(2) + 100)
    assert table.count == 2
    table.compact()
    assert np.array_equal(reopened(table).get(keys(2)), rows(2) + 100)


def test_a_shard_that_arrives_late_with_an_earlier_name_wins_at_once(store, table):
    """Readers that were there before and readers that come after must agree."""
    table.append(keys(2), rows(2))
    reader = reopened(table)
    twin = Table.open(store.root / "twin", table.recipe)
    twin.append(keys(3), rows(3) + 100)
    shutil.copy(shards(twin)[0], table.folder / "0-late.safetensors")
    reader.refresh()
    assert np.array_equal(reader.get(keys(3)), reopened(table).get(keys(3)))
    assert np.array_equal(reader.get(keys(3)), rows(3) + 100)


def test_names_ascend_even_when_the_clock_goes_back(table, monkeypatch):
    monkeypatch.setattr(time, "time_ns", iter(range(10**18, 0, -(10**17))).__next__)
    for i in range(4):
        table.append(keys(1, first=i), rows(1, first=i))
    assert np.array_equal(np.concatenate([reopened(table).get(keys(4))]), rows(4))
    assert [int(path.name[:16], 16) for path in shards(table)] == [10**18 + i for i in range(4)]


def test_ten_new_rows_are_ten_new_rows(table):
    table.append(keys(100), rows(100))
    before = {path: path.read_bytes() for path in shards(table)}
    requested = keys(110)
    missing = np.flatnonzero(~table.has(requested))
    assert missing.tolist() == list(range(100, 110))
    table.append([requested[i] for i in missing], rows(10, first=100))
    assert {path: path.read_bytes() for path in before} == before  # append-only
    assert np.array_equal(reopened(table).get(requested), rows(110))


def test_ragged_items_share_no_memory_with_the_file(store):
    table = store.table({"ragged": True})
    items = [rows(2), rows(0), rows(3)]
    table.append(keys(3), items)
    result = table.get(keys(3))
    result[0][:] = -1
    assert np.array_equal(table.get(keys(3))[0], rows(2))
    assert (table.ragged, table.shape) == (True, (3,))


def test_a_large_result_lies_in_a_file_that_has_no_name(table, monkeypatch):
    table.append(keys(100), rows(100))
    table.spill = 1000
    before = files(table)
    monkeypatch.setattr(shard_rows, "BLOCK", 100)
    result = table.get(keys(100)[::-1])
    assert isinstance(result, np.memmap)
    assert not result.flags.writeable
    assert files(table) == before
    shutil.rmtree(table.folder)
    assert np.array_equal(result, rows(100)[::-1])
    assert not isinstance(table.get(keys(0)), np.memmap)


def test_a_full_disk_under_a_large_result_is_an_error_not_a_crash(table, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    table.append(keys(10), rows(10))
    table.spill = 0
    monkeypatch.setattr(shard_rows, "_temporary_file", lambda folder: Full())
    with pytest.raises(StoreError, match=r"No space left.*read them in batches"):
        table.get(keys(10)[::-1])


def test_a_million_keys(table, quick):
    rng = np.random.default_rng(0)
    million_keys = rng.integers(0, 256, (1_000_000, 16), dtype=np.uint8)
    values = np.arange(len(million_keys), dtype=np.int32)[:, None]
    for part in np.array_split(np.arange(len(million_keys)), 20):
        table.append(million_keys[part], values[part])
    again = reopened(table)
    order = rng.permutation(len(million_keys))
    assert again.count == len(million_keys)
    assert np.array_equal(again.get(million_keys[order]), values[order])
    assert not again.has(rng.integers(0, 256, (1000, 16), dtype=np.uint8)).any()


def test_thousands_of_shards_need_no_file_handles(table, quick):
    resource = pytest.importorskip("resource")
    for i in range(1500):
        table.append(keys(2, first=2 * i), rows(2, first=2 * i))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        again = reopened(table)
        memory_mapped = again.get(keys(3000))
        assert np.array_equal(memory_mapped, rows(3000))
        assert sum(len(batch) for batch in again.batches(keys(3000)[::-1], 7)) == 3000
        assert again.compact() == 1500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(reopened(table).get(keys(3000)), rows(3000))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes read through /proc")
def test_opening_reads_keys_and_not_rows(table, quick):
    for i in range(4):
        table.append(keys(1000, first=1000 * i), np.zeros((1000, 1000), np.float32))
    before = int(Path("/proc/self/io").read_text().split()[1])
    again = reopened(table)
    read = int(Path("/proc/self/io").read_text().split()[1]) - before
    assert again.count == 4000
    assert read < 500_000 < again.nbytes / 30


# ---- damage


def broken_files(folder):
    yield "empty.safetensors", b""
    yield "short.safetensors", b"\x10"
    yield "endless.safetensors", (2**63).to_bytes(8, "little") + b"{}"
    yield "header-only.safetensors", (2).to_bytes(8, "little") + b"{}"
    yield "pickle.safetensors", pickle.dumps({"rows": [1, 2, 3]})
    np.save(folder / "x.npy", np.zeros(10))
    yield "numpy.safetensors", (folder / "x.npy").read_bytes()
    import safetensors.numpy

    yield (
        "foreign.safetensors",
        safetensors.numpy.save({"keys": np.zeros((2, 16), np.uint8), "rows": np.zeros((2, 3), np.float32)}),
    )


def test_foreign_files_are_ignored_named_and_reported_once(table, tmp_path):
    table.append(keys(2), rows(2))
    bad = dict(broken_files(tmp_path))
    for name, content in bad.items():
        (table.folder / name).write_bytes(content)
    with notes() as heard:
        again = reopened(table)
        again.refresh()
        again.refresh()
    assert set(again.damaged) == set(bad)
    assert len(heard) == len(bad)
    assert all("computed again" in note for note in heard)
    assert np.array_equal(again.get(keys(2)), rows(2))
    with pytest.raises(StoreError, match=r"Set aside as damaged: empty.safetensors, endless.safetensors"):
        again.get(keys(3))
    assert set(bad) <= set(files(table))  # nothing that is not ours is removed
    again.compact()
    assert set(bad) <= set(files(table))


def test_what_is_no_file_is_ignored(table):
    table.append(keys(1), rows(1))
    (table.folder / "folder.safetensors").mkdir()
    os.mkfifo(table.folder / "pipe.safetensors")  # opening it would wait for ever
    (table.folder / "circle.safetensors").symlink_to("circle.safetensors")
    (table.folder / "nowhere.safetensors").symlink_to("nothing-there")
    (table.folder / "notes.txt").write_text("mine")
    again = reopened(table)
    assert {"folder.safetensors", "pipe.safetensors"} <= set(again.damaged)
    assert again.count == 1


def test_damaged_rows_are_set_aside_for_later_processes_too(table):
    table.append(keys(3), rows(3))
    table.append(keys(3, first=3), rows(3, first=3))
    path = shards(table)[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    again = reopened(table)
    assert again.has(keys(6)).all()  # from outside the shard looks whole
    assert np.array_equal(again.get(keys(2)), rows(2))  # and these rows are
    with notes() as heard, pytest.raises(StoreError, match=f"3 of 6 rows.*{path.name}"):
        again.get(keys(6))
    assert len(heard) == 1
    assert path.name in heard[0]
    assert files(table)[0] == path.name + ".damaged"
    later = reopened(table)
    assert later.has(keys(6)).tolist() == [False] * 3 + [True] * 3
    assert later.damaged == {}
    later.append(keys(3), rows(3))
    assert np.array_equal(again.get(keys(6)), rows(6))


def test_damaged_rows_that_are_elsewhere_too_are_taken_from_there(table):
    table.append(keys(3), rows(3))
    table.append(keys(3), rows(3))
    content = bytearray(shards(table)[0].read_bytes())
    content[-1] ^= 1
    shards(table)[0].write_bytes(content)
    assert np.array_equal(table.get(keys(3)), rows(3))
    assert len(table.damaged) == 1


def test_a_shard_that_shrinks_under_a_reader_is_set_aside(table):
    table.append(keys(3), rows(3))
    os.truncate(shards(table)[0], 100)
    with pytest.raises(StoreError, match="3 of 3 rows"):
        table.get(keys(3))
    assert "now has 100" in next(iter(table.damaged.values()))


def test_shards_removed_by_others_count_as_missing(table):
    table.append(keys(3), rows(3))
    table.append(keys(3, first=3), rows(3, first=3))
    shards(table)[0].unlink()
    assert np.array_equal(table.get(keys(3, first=3)), rows(3, first=3))
    with pytest.raises(StoreError, match="3 of 3 rows"):
        table.get(keys(3))
    table.refresh()
    assert table.count == 3
    shutil.rmtree(table.folder)
    table.refresh()
    assert table.count == 0
    table.append(keys(1), rows(1))
    assert np.array_equal(reopened(table).get(keys(1)), rows(1))


# ---- writing fails


def test_a_full_disk_is_an_error_and_nothing_is_visible(table, monkeypatch):
    table.append(keys(2), rows(2))
    before = files(table)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files, "_sync", full)
    with pytest.raises(StoreError, match=r"No space left on device. Is the disk full"):
        table.append(keys(2, first=2), rows(2))
    assert files(table) == before
    assert table.count == 2
    monkeypatch.undo()
    table.append(keys(2, first=2), rows(2, first=2))
    assert np.array_equal(table.get(keys(4)), rows(4))


FILE_LIMIT = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from headstart.bank import Store
from headstart.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
table = Store(Path(sys.argv[1])).table({"a": 1})
table.append([bytes(16)], np.zeros((1, 1000), np.float32))
try:
    table.append([bytes(15) + bytes([i]) for i in range(1, 11)], np.zeros((10, 1000), np.float32))
except StoreError as error:
    print("StoreError", error)
print(table.count)
"""


def test_a_write_that_the_system_refuses_in_the_middle(tmp_path):
    done = subprocess.run([sys.executable, "-c", FILE_LIMIT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "StoreError Cannot write" in done.stdout
    assert done.stdout.split()[-1] == "1"
    table = Store(tmp_path).table({"a": 1})
    assert (table.count, table.damaged, len(files(table))) == (1, {}, 2)


@contextmanager
def as_nobody():
    """Without the rights of root, for whom no folder is read-only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_store():
    """A store that others may enter: pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="headstart-open-"))
    folder.chmod(0o755)
    yield Store(folder / "store")
    shutil.rmtree(folder)


def test_a_folder_that_may_only_be_read(open_store):
    table = open_store.table(RECIPE)
    table.append(keys(3), rows(3))
    table.append(keys(3, first=3), rows(3, first=3))
    for path in [*table.folder.iterdir(), table.folder, table.folder.parent]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with as_nobody():
            again = reopened(table)
            again.spill = 1
            assert np.array_equal(again.get(keys(6)[::-1]), rows(6)[::-1])  # in the system's temporary folder
            for write in (lambda: again.append(keys(1, first=6), rows(1)), again.compact):
                with pytest.raises(StoreError, match=r"Cannot write .*Permission denied"):
                    write()
            with pytest.raises(StoreError, match="Permission denied"):
                Store(table.folder.parent).table({"new": 1}).append(keys(1), rows(1))
            assert np.array_equal(again.get(keys(6)), rows(6))
    finally:
        for path in (table.folder.parent, table.folder):
            path.chmod(0o755)


def test_a_shard_that_may_not_be_read_is_set_aside(open_store):
    table = open_store.table(RECIPE)
    table.append(keys(3), rows(3))
    shards(table)[0].chmod(0)
    with as_nobody():
        again = reopened(table)
    assert "Permission denied" in next(iter(again.damaged.values()))
    assert again.count == 0
    table.folder.chmod(0)
    with as_nobody(), pytest.raises(StoreError, match=r"Cannot read .*Permission denied"):
        reopened(table)
    table.folder.chmod(0o700)


def test_old_temporary_files_are_swept_and_new_ones_are_not(table):
    table.append(keys(1), rows(1))
    old, new = (table.folder / f".a.safetensors.{digit * 12}.tmp" for digit in "01")
    mine = table.folder / ".mine.tmp"
    for path in (old, new, mine):
        path.write_bytes(b"half a shard")
    for path in (old, mine):
        os.utime(path, (time.time() - 90_000,) * 2)
    again = reopened(table)
    assert not old.exists()
    assert new.exists()
    assert mine.exists()
    assert (again.count, again.damaged) == (1, {})


# ---- merging


def test_merging_makes_one_file_in_the_order_of_writing(table):
    for i in range(5):
        table.append(keys(4, first=3 * i), rows(4, first=3 * i))  # each repeats the last of the one before
    assert table.compact() == 5
    assert len(shards(table)) == 1
    assert isinstance(table.get(keys(16)), np.memmap)
    assert np.array_equal(reopened(table).get(keys(16)), rows(16))
    assert table.count == 16
    assert table.compact() == 0


def test_merging_leaves_large_shards_alone(table):
    table.append(keys(1000), rows(1000))
    large = shards(table)[0]
    for i in range(3):
        table.append(keys(1, first=1000 + i), rows(1, first=1000 + i))
    table.append(keys(2), rows(2))  # all of it is in the large one
    assert table.compact(below=5000) == 4
    assert len(shards(table)) == 2
    assert shards(table)[0] == large
    assert np.array_equal(reopened(table).get(keys(1003)), rows(1003))


def test_shards_that_hold_nothing_new_are_only_removed(table):
    table.append(keys(1000), rows(1000))
    table.append(keys(2), rows(2))
    table.append(keys(3), rows(3))
    assert table.compact(below=5000) == 2
    assert len(shards(table)) == 1
    assert np.array_equal(table.get(keys(1000)), rows(1000))


def test_readers_go_on_while_shards_are_merged(table):
    for i in range(6):
        table.append(keys(5, first=5 * i), rows(5, first=5 * i))
    reader, slow = reopened(table), reopened(table)
    batches = slow.batches(keys(30)[::-1], 4)
    got = [next(batches)]
    view = reader.get(keys(5))
    table.compact()
    got.extend(batches)
    assert np.array_equal(np.concatenate(got), rows(30)[::-1])
    assert np.array_equal(reader.get(keys(30)), rows(30))
    assert np.array_equal(view, rows(5))


def test_two_that_merge_at_once_lose_nothing(table):
    for i in range(6):
        table.append(keys(5, first=5 * i), rows(5, first=5 * i))
    other = reopened(table)
    table.compact()
    table.append(keys(1, first=30), rows(1, first=30))
    other.append(keys(1, first=31), rows(1, first=31))
    assert other.compact() == 3
    assert np.array_equal(reopened(table).get(keys(32)), rows(32))


def test_a_kill_between_writing_and_removing_leaves_harmless_copies(table, monkeypatch):
    for i in range(3):
        table.append(keys(5, first=5 * i), rows(5, first=5 * i))

    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            table.compact()
    again = reopened(table)
    assert len(shards(again)) == 4
    assert again.count == 15
    assert np.array_equal(again.get(keys(15)), rows(15))
    assert again.compact() == 4
    assert np.array_equal(again.get(keys(15)), rows(15))


def test_merging_never_carries_damage_along(table):
    for i in range(3):
        table.append(keys(5, first=5 * i), rows(5, first=5 * i))
    bad = shards(table)[1]
    content = bytearray(bad.read_bytes())
    content[-3] ^= 4
    bad.write_bytes(content)
    assert reopened(table).compact() == 2
    again = reopened(table)
    assert again.has(keys(15)).tolist() == [True] * 5 + [False] * 5 + [True] * 5
    assert list(table.folder.glob("*.damaged")) == [bad.with_name(bad.name + ".damaged")]


def test_a_ragged_table_is_merged_in_blocks(store, monkeypatch):
    monkeypatch.setattr(shard_rows, "BLOCK", 50)
    table = store.table({"ragged": True})
    items = [rows(n) for n in (3, 0, 1, 7, 2, 0)]
    table.append(keys(3), items[:3])
    table.append(keys(3, first=3), items[3:])
    assert table.compact() == 2
    assert all(np.array_equal(a, b) for a, b in zip(reopened(table).get(keys(6)), items, strict=True))
