"""The store among processes: killed at any moment, many writers, bounded memory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from headstart.bank import Store
from headstart.bank.shard_format import BFLOAT16

RECIPE = {"layer": "pool"}
ITEMS, PER_SHARD, WIDTH = 900, 30, 2000

# Every writer computes rows from the key alone, as a network does, and only those that are missing.
WORK = """
import hashlib, os, signal, sys
from pathlib import Path
import numpy as np
from headstart.bank import Store

def key(i):
    return hashlib.sha256(b"%d" % i).digest()[:16]

def row(i, width):
    return np.random.default_rng(i).standard_normal(width).astype(np.float32)

def fill(table, items, per_shard, width):
    missing = [i for i in items if not table.has([key(i)])[0]]
    for first in range(0, len(missing), per_shard):
        some = missing[first : first + per_shard]
        table.append([key(i) for i in some], np.array([row(i, width) for i in some]))
"""
exec(WORK)  # the same functions here

FILL = """
table = Store(Path(sys.argv[1])).table({"layer": "pool"})
print("ready", flush=True)
fill(table, range(int(sys.argv[2]), int(sys.argv[3])), int(sys.argv[4]), int(sys.argv[5]))
"""


def start(code, *arguments, **options):
    command = [sys.executable, "-c", WORK + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def finish(process):
    output = process.communicate()[0]
    assert process.returncode == 0
    return output


def expected(count=ITEMS, width=WIDTH):
    return np.array([row(i, width) for i in range(count)])  # noqa: F821


def all_keys(count=ITEMS):
    return [key(i) for i in range(count)]  # noqa: F821


def killed_soon(folder, chance) -> bool:
    """Run a writer and kill it after some milliseconds; False when it was done before."""
    process = start(FILL, folder, 0, ITEMS, PER_SHARD, WIDTH)
    process.stdout.readline()
    time.sleep(chance.uniform(0, 0.05))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_kills_at_random_moments_and_the_rows_are_bit_identical(tmp_path):
    chance = random.Random(0)
    want, requested = expected(), all_keys()
    kills = 0
    for attempt in range(20):  # a fast machine may finish several times before there were enough kills
        folder, before = tmp_path / str(attempt), 0
        while kills < 15 and killed_soon(folder, chance):
            kills += 1
            table = Store(folder).table(RECIPE)
            assert table.damaged == {}  # nothing half-written was ever visible
            present = np.flatnonzero(table.has(requested))
            for i, row in zip(present, table.batches([requested[i] for i in present], 1)):
                assert np.array_equal(row[0], want[i])
            assert table.count % PER_SHARD == 0
            assert table.count >= before  # what was written stays
            before = table.count
        finish(start(FILL, folder, 0, ITEMS, PER_SHARD, WIDTH))
        assert Store(folder).table(RECIPE).get(requested).tobytes() == want.tobytes()
        if kills >= 12:
            return
    pytest.fail(f"only {kills} writers were killed before they were done")


KILL_AT = """
from headstart._base import files
from headstart.bank import shard_folder, shards

where = sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def after(function):
    def both(*arguments, **options):
        function(*arguments, **options)
        die()
    return both

table = Store(Path(sys.argv[1])).table({"layer": "pool"})
fill(table, range(10), 10, 50)
if where == "before writing":
    shard_folder.write_shard = die
if where == "in the middle of the rows":
    raw = shards.as_bytes
    class Half:
        def __init__(self, block):
            self.block = block
    def half(block):
        with open(next(table.folder.glob(".*.tmp")), "r+b") as file:
            file.seek(0, 2)
            file.write(raw(block)[:777])
        die()
    shards.as_bytes = half
if where == "before flushing":
    files._sync = die
if where == "before renaming":
    os.replace = die
if where == "after renaming":
    os.replace = after(os.replace)
fill(table, range(20), 10, 50)
"""


@pytest.mark.parametrize(
    "where",
    ["before writing", "in the middle of the rows", "before flushing", "before renaming", "after renaming"],
)
def test_a_kill_at_every_stage_of_a_write(tmp_path, where):
    process = start(KILL_AT, tmp_path, where)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    table = Store(tmp_path).table(RECIPE)
    assert table.damaged == {}
    assert table.count == (20 if where == "after renaming" else 10)
    left = list(table.folder.glob(".*.tmp"))
    assert len(left) == (where in ("in the middle of the rows", "before flushing", "before renaming"))
    fill(table, range(20), 10, 50)  # noqa: F821
    assert table.get(all_keys(20)).tobytes() == expected(20, 50).tobytes()
    for path in left:
        os.utime(path, (time.time() - 100_000,) * 2)
    assert Store(tmp_path).table(RECIPE).count == 20
    assert not any(path.exists() for path in left)


def test_four_writers_at_once_one_of_them_over_the_others_items(tmp_path):
    spans = [(0, 300), (300, 600), (600, 900), (150, 750)]
    writers = [start(FILL, tmp_path, *span, 7, 64) for span in spans]
    for writer in writers:
        finish(writer)
    table = Store(tmp_path).table(RECIPE)
    assert (table.count, table.damaged) == (900, {})
    assert table.get(all_keys(900)).tobytes() == expected(900, 64).tobytes()
    assert json.loads((table.folder / "recipe.json").read_text()) == RECIPE


MERGE = """
import time
table = Store(Path(sys.argv[1])).table({"layer": "pool"})
merged = 0
until = time.time() + 30
while table.count < 600 and time.time() < until:
    merged += table.compact()
print(merged)
"""

READ = """
import time
table = Store(Path(sys.argv[1])).table({"layer": "pool"})
read = 0
until = time.time() + 30
while read < 600 and time.time() < until:
    table.refresh()
    there = [i for i, yes in enumerate(table.has([key(i) for i in range(600)])) if yes]
    if there:
        found = np.concatenate(list(table.batches([key(i) for i in there], 50)))
        assert found.tobytes() == np.array([row(i, 64) for i in there]).tobytes()
    read = len(there)
print(read)
"""


def test_writers_readers_and_two_that_merge_at_the_same_time(tmp_path):
    writers = [start(FILL, tmp_path, 300 * i, 300 * (i + 1), 5, 64) for i in range(2)]
    mergers = [start(MERGE, tmp_path) for _ in range(2)]
    reader = start(READ, tmp_path)
    for writer in writers:
        finish(writer)
    assert sum(int(finish(merger)) for merger in mergers) > 0
    assert finish(reader).strip() == "600"
    table = Store(tmp_path).table(RECIPE)
    table.compact()
    assert (table.count, table.damaged) == (600, {})
    assert table.get(all_keys(600)).tobytes() == expected(600, 64).tobytes()


def test_a_merge_killed_at_random_moments_loses_nothing(tmp_path):
    table = Store(tmp_path).table(RECIPE)
    fill(table, range(600), 20, 500)  # noqa: F821
    once = """
table = Store(Path(sys.argv[1])).table({"layer": "pool"})
print("ready", flush=True)
table.compact()
"""
    chance = random.Random(1)
    for _ in range(6):
        process = start(once, tmp_path)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.communicate()
        assert Store(tmp_path).table(RECIPE).get(all_keys(600)).tobytes() == expected(600, 500).tobytes()
    finish(start(once, tmp_path))
    again = Store(tmp_path).table(RECIPE)
    assert again.shards == 1
    assert again.get(all_keys(600)).tobytes() == expected(600, 500).tobytes()


def test_threads_share_one_table(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    table = Store(tmp_path).table(RECIPE)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda first: fill(table, range(first, first + 50), 5, 16), range(0, 200, 50)):  # noqa: F821
            assert table.count % 5 == 0
    assert table.get(all_keys(200)).tobytes() == expected(200, 16).tobytes()


# ---- memory

MEASURE = """
from headstart.bank import FeatureBank, bank, shards

bank._BATCH_BYTES = 2 << 20
shards.BLOCK = 2 << 20

class Column:
    def __init__(self, n):
        self.n, self.name, self.classes = n, "y", (0, 1)
    def matrix(self):
        return np.eye(2)[np.arange(self.n) % 2]
    def codes(self):
        return np.arange(self.n) % 2

class Data:
    groups = None
    def __init__(self, n):
        self.n, self.columns = n, (Column(n),)
    def __len__(self):
        return self.n
    def keys(self):
        return [key(i) for i in range(self.n)]

def peak():
    # Not ru_maxrss: that one starts from what the parent had when it forked.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

table = Store(Path(sys.argv[1])).table({"layer": "pool"})
bank = FeatureBank({"pool": table})
bank.summarise("pool", Data(8000))
before = peak()
if sys.argv[2] == "summarise":
    assert bank.summarise("pool", Data(table.count)).count == table.count
    assert sum(m.count for m in bank.summarise("pool", Data(table.count), by="class").values()) == table.count
if sys.argv[2] == "batches":
    keys = [key(i) for i in np.random.default_rng(0).permutation(table.count)]
    assert sum(len(batch) for batch in table.batches(keys, 1000)) == table.count
if sys.argv[2] == "spill":
    table.spill = 1
    assert isinstance(table.get([key(i) for i in range(table.count)][::-1]), np.memmap)
if sys.argv[2] == "compact":
    assert table.compact() == 20
if sys.argv[2] == "everything":
    assert len(np.array(table.get([key(i) for i in range(table.count)][::-1]))) == table.count
print(peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20 shards of 8 MiB."""
    store = Store(tmp_path_factory.mktemp("large"))
    table = store.table(RECIPE)
    rng = np.random.default_rng(0)
    for i in range(20):
        keys = [key(j) for j in range(8000 * i, 8000 * (i + 1))]  # noqa: F821
        table.append(keys, rng.standard_normal((8000, 256), dtype=np.float32))
    return store


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("what", ["summarise", "batches", "spill", "compact"])
def test_memory_does_not_grow_with_the_table(large, what):
    size = large.table(RECIPE).nbytes
    assert int(finish(start(MEASURE, large.root, what))) < size // 4
    if what == "compact":
        assert large.table(RECIPE).shards == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_measure_of_memory_can_fail(large):
    size = large.table(RECIPE).nbytes
    assert int(finish(start(MEASURE, large.root, "everything"))) > size // 4


def test_a_table_of_bfloat16_costs_half(tmp_path):
    sizes = []
    for dtype in ("float32", "bfloat16"):
        table = Store(tmp_path).table({"dtype": dtype})
        values = np.ones((100, 1000), np.float32)
        table.append(all_keys(100), values.astype(BFLOAT16) if dtype == "bfloat16" else values)
        sizes.append(table.nbytes)
        assert np.array_equal(table.get(all_keys(100), floats=True), values)
    assert sizes[1] < 0.52 * sizes[0]
    assert Path(tmp_path).is_dir()
