"""KeyTable: the key of a file is remembered as long as the file has surely not changed, and not a moment longer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headstart._base import files
from headstart._base.hashing import key_of_bytes, key_of_file
from headstart._base.progress import listening
from headstart.bank import Store, Table, file_keys
from headstart.dataset import Dataset
from listeners import Notes

A, B = b"first content", b"other content"  # of one size


@pytest.fixture
def later(monkeypatch):
    """The clock shows ten seconds more, so that files just written have been left alone."""
    monkeypatch.setattr(file_keys, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + 10**10))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(A)
    return path


def learn(store, path, content=None) -> bool:
    """Look the file up, read it, record it: what a dataset does."""
    with store.key_table() as table:
        assert table.lookup(path) is None
        return table.record(path, key_of_file(path) if content is None else key_of_bytes(content))


def stored_key(store, path):
    with store.key_table() as table:
        return table.lookup(path)


def rewrite(path, content, *, mtime_ns=None):
    """Change the content, and the modification time to what is asked; at least a tick of the file system passes."""
    time.sleep(0.02)
    path.write_bytes(content)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))


# ---- what is remembered


def test_an_unchanged_file_is_known_to_later_tables(store, photo, later):
    assert learn(store, photo)
    assert stored_key(store, photo) == key_of_bytes(A)
    with store.key_table() as table:
        assert table.lookup(photo) == key_of_bytes(A)
        assert table.lookup(photo) == key_of_bytes(A)
        assert table.hits == 2


def test_it_is_known_at_once_in_the_same_table(store, photo, later):
    with store.key_table() as table:
        assert table.lookup(photo) is None
        assert table.record(photo, key_of_bytes(A))
        assert table.lookup(photo) == key_of_bytes(A)
        table.flush()
        assert table.lookup(photo) == key_of_bytes(A)
        assert not table.record(photo, key_of_bytes(B))  # it was known: nobody had to read it


def test_a_path_may_be_relative_a_string_or_odd(store, photo, later, monkeypatch):
    assert learn(store, photo)
    monkeypatch.chdir(photo.parent)
    for same in ("photo.jpg", Path("photo.jpg"), "./x/../photo.jpg", str(photo)):
        assert stored_key(store, same) == key_of_bytes(A)
    for name in ("new\nline", "żółw ☃", b"\xff\xfe".decode("utf-8", "surrogateescape"), "a b", "-n"):
        odd = photo.parent / name
        odd.write_bytes(name.encode("utf-8", "surrogateescape"))
        assert learn(store, odd)
        assert stored_key(store, odd) == key_of_file(odd)


def test_reading_a_file_does_not_make_it_unknown(store, photo, later):
    assert learn(store, photo)
    time.sleep(0.02)
    photo.read_bytes()
    assert stored_key(store, photo) == key_of_bytes(A)


def test_an_empty_file_has_a_key(store, tmp_path, later):
    empty = tmp_path / "empty"
    empty.touch()
    assert learn(store, empty)
    assert stored_key(store, empty) == key_of_bytes(b"")


def test_all_zero_keys_and_entries_are_kept(store, photo, later):
    with store.key_table() as table:
        table.lookup(photo)
        table.record(photo, bytes(16))
    assert stored_key(store, photo) == bytes(16)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "null"])
def test_what_is_no_ordinary_file_has_no_key(store, tmp_path, kind, later):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "null":
        path = tmp_path / "a\0b"
    with store.key_table() as table:
        assert table.lookup(path) is None
        assert not table.record(path, bytes(16))


# ---- what must be noticed


def test_a_change_that_keeps_the_size_is_noticed(store, photo, later):
    learn(store, photo)
    rewrite(photo, B)
    assert stored_key(store, photo) is None
    assert learn(store, photo)
    assert stored_key(store, photo) == key_of_bytes(B)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
def test_a_modification_time_that_was_set_back_is_noticed(store, photo, later):
    learn(store, photo)
    rewrite(photo, B, mtime_ns=photo.stat().st_mtime_ns)
    assert photo.stat().st_size == len(A)
    assert stored_key(store, photo) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no change time")
def test_another_file_moved_to_its_place_is_noticed(store, photo, later):
    learn(store, photo)
    other = photo.with_name("other.jpg")
    rewrite(other, B, mtime_ns=photo.stat().st_mtime_ns)
    os.replace(other, photo)
    assert stored_key(store, photo) is None


def test_a_link_pointed_elsewhere_is_noticed(store, photo, later):
    other, link = photo.with_name("other.jpg"), photo.with_name("link.jpg")
    rewrite(other, B)
    link.symlink_to(photo)
    learn(store, link)
    assert stored_key(store, link) == key_of_bytes(A)
    link.unlink()
    link.symlink_to(other)
    assert stored_key(store, link) is None


def test_a_file_at_another_place_is_another_file(store, photo, later):
    learn(store, photo)
    assert stored_key(store, shutil.copy2(photo, photo.with_name("copy.jpg"))) is None
    photo.rename(photo.with_name("moved.jpg"))
    assert stored_key(store, photo) is None
    assert stored_key(store, photo.with_name("moved.jpg")) is None


def test_a_file_that_comes_back_as_it_was_is_hashed_again(store, photo, later):
    learn(store, photo)
    rewrite(photo, B)
    rewrite(photo, A)
    assert stored_key(store, photo) is None


# ---- the racy case


def test_a_file_written_just_now_is_not_remembered(store, photo):
    assert not learn(store, photo)
    assert stored_key(store, photo) is None
    assert not store.root.exists()


def test_a_change_within_one_tick_of_the_clock_cannot_be_missed(store, photo):
    """Two writes in one tick look the same afterwards; no entry was made between them."""
    looks = photo.stat().st_mtime_ns
    assert not learn(store, photo)
    photo.write_bytes(B)
    os.utime(photo, ns=(looks, looks))
    assert stored_key(store, photo) is None


def test_an_old_modification_time_does_not_hide_a_late_change(store, photo):
    os.utime(photo, ns=(10**18, 10**18))  # as unpacking an archive does, a moment ago
    assert photo.stat().st_mtime_ns == 10**18
    assert learn(store, photo) == (os.name == "nt")


def test_a_modification_time_in_the_future_is_never_trusted(store, photo, later):
    ahead = time.time_ns() + 3600 * 10**9
    os.utime(photo, ns=(ahead, ahead))
    assert not learn(store, photo)
    os.utime(photo, ns=(0, 0))
    assert learn(store, photo)  # the clock shows ten seconds more: the change time is old enough, too


def test_a_file_changed_while_it_was_read_is_not_remembered(store, photo, later):
    with store.key_table() as table:
        assert table.lookup(photo) is None
        key = key_of_file(photo)
        rewrite(photo, B)
        assert not table.record(photo, key)
        assert table.lookup(photo) is None
        photo.unlink()
        assert not table.record(photo, key)


def test_a_key_without_a_look_before_is_not_remembered(store, photo, later):
    """Nobody knows when the file was read."""
    with store.key_table() as table:
        assert not table.record(photo, key_of_bytes(A))
    assert stored_key(store, photo) is None


class Changes(RuleBasedStateMachine):
    """Any order of writes of equal size, forged times, moves, looks and records: a known key is always the right one.

    The real clock and file system, with the two seconds shortened to 40 milliseconds (still ten ticks of ext4).
    """

    names = st.sampled_from(["a", "b"])

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="headstart-keys-"))
        self.before, file_keys._RACY_NS = file_keys._RACY_NS, 40_000_000
        self.sync, files._sync = files._sync, lambda path: None
        self.table = Store(self.folder / "store").key_table().__enter__()
        self.looked = {}

    def teardown(self):
        file_keys._RACY_NS, files._sync = self.before, self.sync
        shutil.rmtree(self.folder)

    @rule(name=names, content=st.sampled_from([A, B]))
    def write(self, name, content):
        (self.folder / name).write_bytes(content)

    @rule(name=names, moment=st.sampled_from([10**18, 10**18 + 1]))
    def forge(self, name, moment):
        if (self.folder / name).exists():
            os.utime(self.folder / name, ns=(moment, moment))

    @rule()
    def swap(self):
        if (self.folder / "a").exists():
            os.replace(self.folder / "a", self.folder / "b")

    @rule()
    def wait(self):
        time.sleep(0.05)

    @rule(name=names)
    def look_and_read(self, name):
        if self.table.lookup(self.folder / name) is None and (self.folder / name).exists():
            self.looked[name] = key_of_file(self.folder / name)

    @rule(name=names)
    def record(self, name):
        if name in self.looked:
            self.table.record(self.folder / name, self.looked.pop(name))

    @rule()
    def open_again(self):
        self.table.close()
        self.table = Store(self.folder / "store").key_table().__enter__()
        self.looked = {}

    @invariant()
    def a_known_key_is_right(self):
        for path in (self.folder / "a", self.folder / "b"):
            key = file_keys.KeyTable.lookup(self.table, path) if path.exists() else None
            self.looked.pop(path.name, None) if key else None
            assert key in (None, key_of_file(path) if path.exists() else None)


Changes.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestChanges = Changes.TestCase


# ---- the table itself


def paths_in(folder, count, first=0):
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.txt" for i in range(first, first + count)]
    for i, path in enumerate(paths):
        path.write_bytes(b"%d" % (i + first))
    return paths


def test_entries_are_written_in_batches(store, tmp_path, later):
    paths = paths_in(tmp_path / "many", 25)
    with store.key_table() as table:
        table.flush_every = 10
        for i, path in enumerate(paths):
            table.lookup(path)
            table.record(path, key_of_file(path))
            assert len(list((store.root / "keys").glob("*.safetensors"))) == (i + 1) // 10
    assert len(list((store.root / "keys").glob("*.safetensors"))) == 3
    with store.key_table() as table:
        assert [table.lookup(path) for path in paths] == [key_of_file(path) for path in paths]


def test_what_was_written_survives_a_kill(store, tmp_path, later):
    paths = paths_in(tmp_path / "many", 10)
    table = store.key_table().__enter__()
    table.flush_every = 5
    for path in paths[:7]:
        table.lookup(path)
        table.record(path, key_of_file(path))
    del table  # never closed
    with store.key_table() as again:
        assert [again.lookup(path) is not None for path in paths] == [True] * 5 + [False] * 5


def test_many_shards_are_merged_when_the_table_closes(store, tmp_path, later):
    paths = paths_in(tmp_path / "many", 40)
    for path in paths:
        learn(store, path)
    shards = list((store.root / "keys").glob("*.safetensors"))
    assert len(shards) <= 33
    with store.key_table() as table:
        assert [table.lookup(path) for path in paths] == [key_of_file(path) for path in paths]


WRITER = """
import sys
from pathlib import Path
from headstart._base.hashing import key_of_file
from headstart.bank import Store, file_keys
file_keys._RACY_NS = -10**10
with Store(Path(sys.argv[1])).key_table() as table:
    table.flush_every = 3
    for path in sorted(Path(sys.argv[2]).iterdir()):
        if table.lookup(path) is None:
            table.record(path, key_of_file(path))
"""


def test_many_writers_at_once(store, tmp_path):
    paths = paths_in(tmp_path / "many", 60)
    arguments = [sys.executable, "-c", WRITER, str(store.root), str(tmp_path / "many")]
    for writer in [subprocess.Popen(arguments) for _ in range(3)]:
        assert writer.wait() == 0
    with store.key_table() as table:
        assert [table.lookup(path) for path in paths] == [key_of_file(path) for path in paths]


def test_a_damaged_shard_only_costs_time(store, photo, later):
    learn(store, photo)
    (shard,) = (store.root / "keys").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # in the key itself
    shard.write_bytes(content)
    assert stored_key(store, photo) is None
    assert learn(store, photo)
    assert stored_key(store, photo) == key_of_bytes(A)


def test_a_table_that_cannot_be_read_or_written_only_says_so(tmp_path, photo, later):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the store should be")
    ear = Notes()
    with listening(ear), Store(blocked).key_table() as table:
        assert table.lookup(photo) is None
        assert table.record(photo, key_of_bytes(A))
        assert table.lookup(photo) == key_of_bytes(A)
    assert len(ear) == 1
    assert "not remembered" in ear[0]


def test_a_full_disk_only_says_so(store, photo, later, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    ear = Notes()
    with listening(ear):
        assert learn(store, photo)
    assert len(ear) == 1
    monkeypatch.undo()
    assert stored_key(store, photo) is None


def test_other_rows_in_the_folder_are_refused(store, photo, later):
    learn(store, photo)
    shutil.rmtree(store.root)
    Table.open(store.root / "keys", file_keys._RECIPE).append([bytes(16)], np.zeros((1, 3)))
    ear = Notes()
    with listening(ear):
        assert stored_key(store, photo) is None
    assert "holds no keys of files" in ear[0]


def test_no_path_is_kept_in_the_store(store, tmp_path, later):
    secret = tmp_path / "patient-4711.png"
    secret.write_bytes(A)
    learn(store, secret)
    assert not any(b"patient-4711" in path.read_bytes() for path in (store.root / "keys").iterdir())


# ---- with a dataset


def test_a_dataset_reads_unchanged_files_only_once(store, tmp_path, later, monkeypatch):
    for name in ("cat", "dog"):
        paths_in(tmp_path / "texts", 0)
        paths_in(tmp_path / "texts" / name, 5, first=len(name) * 7 + (name == "dog") * 100)
    reads = []
    from headstart.dataset import duplicates

    monkeypatch.setattr(duplicates, "key_of_file", lambda path: reads.append(path) or key_of_file(path))

    def keys():
        with store.key_table() as table:
            return Dataset.from_folder(tmp_path / "texts").keys(table)

    first = keys()
    assert len(reads) == 10
    assert keys() == first == [key_of_file(path) for path in Dataset.from_folder(tmp_path / "texts").items]
    assert len(reads) == 10
    changed = Dataset.from_folder(tmp_path / "texts").items[3]
    rewrite(changed, changed.read_bytes()[::-1])
    assert [a == b for a, b in zip(keys(), first)] == [i != 3 for i in range(10)]
    assert reads[10:] == [changed]
