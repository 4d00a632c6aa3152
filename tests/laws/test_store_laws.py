"""What a store must satisfy whatever is written, in whatever pieces, and whatever happens to its files."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headstart._base import files as _files
from headstart.bank import Store
from headstart.bank.key_index import KEY, MAX_ROWS, MISSING, KeyIndex, as_keys
from headstart.bank.shard_format import BFLOAT16, DamagedShard, RowFormat, ShardLayout, checksums, parse_header
from headstart.bank.shards import open_shard
from headstart.errors import DataError, StoreError

DTYPES = ["<f8", "<f4", "<f2", "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"]
RECIPE = {"layer": "pool"}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(_files, "_sync", lambda path: None)


@contextmanager
def store():
    folder = tempfile.mkdtemp(prefix="headstart-store-laws-")
    try:
        yield Store(Path(folder) / "store")
    finally:
        shutil.rmtree(folder)


def keys_for(count: int, *, first: int = 0) -> list[bytes]:
    """Different keys with many zero bytes and shared beginnings: the worst for anything that treats them as text."""
    return [(i % 3).to_bytes(2, "big") + bytes(12) + i.to_bytes(2, "little") for i in range(first, first + count)]


def same(a, b) -> bool:
    """Equal to the last bit (NaN payloads and signed zeros too), in shape and in type."""
    return a.shape == b.shape and a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def shard_files(table) -> list[Path]:
    return sorted(table.folder.glob("*.safetensors"))


@st.composite
def dense(draw, least: int = 1):
    """(keys, rows): any storable type, any inner shape, any bits."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    inner = draw(st.lists(st.integers(0, 4), max_size=3))
    count = draw(st.integers(least, 20))
    size = count * math.prod(inner) * dtype.itemsize
    bits = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, 256, size, dtype=np.uint8)
    if dtype.kind == "b":
        bits = bits % 2
    return keys_for(count), bits.view(dtype).reshape(count, *inner)


@st.composite
def ragged(draw):
    """(keys, rows): any lengths, zero too."""
    inner = draw(st.lists(st.integers(1, 3), max_size=2))
    dtype = np.dtype(draw(st.sampled_from(DTYPES[:3] + DTYPES[5:])))
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = [rng.integers(0, 100, (n, *inner)).astype(dtype) for n in lengths]
    return keys_for(len(rows)), rows


def pieces(draw_from: np.random.Generator, count: int) -> list[np.ndarray]:
    """Some partition of ``range(count)`` into runs of shuffled numbers."""
    cuts = np.sort(draw_from.integers(0, count + 1, draw_from.integers(0, 4)))
    return [p for p in np.split(draw_from.permutation(count), cuts) if len(p)]


# ---- rows come back


@given(dense(), st.integers(0, 2**32))
def test_rows_come_back_bit_for_bit_in_any_order_however_they_were_split(given_rows, seed):
    keys, rows = given_rows
    rng = np.random.default_rng(seed)
    requested = rng.integers(0, len(keys), rng.integers(1, 30))  # repeated, shuffled
    with store() as home:
        table = home.table(RECIPE)
        for part in pieces(rng, len(keys)):
            table.append([keys[i] for i in part], rows[part])
        for reader in (table, home.table(RECIPE)):
            assert same(reader.get([keys[i] for i in requested]), rows[requested])
            assert same(reader.get(keys), rows)
            assert reader.count == len(keys)
        table.compact()
        for reader in (table, home.table(RECIPE)):
            assert len(shard_files(table)) == 1
            assert same(reader.get([keys[i] for i in requested]), rows[requested])


@given(ragged(), st.integers(0, 2**32), st.booleans())
def test_ragged_rows_come_back_in_any_order_however_they_were_split(given_rows, seed, spilled):
    keys, rows = given_rows
    rng = np.random.default_rng(seed)
    requested = rng.integers(0, len(keys), rng.integers(1, 30))
    with store() as home:
        table = home.table(RECIPE)
        for part in pieces(rng, len(keys)):
            table.append([keys[i] for i in part], [rows[i] for i in part])
        merged = home.table(RECIPE)
        merged.compact()
        for reader in (table, home.table(RECIPE)):
            reader.spill = 0 if spilled else reader.spill
            result = reader.get([keys[i] for i in requested])
            assert len(result) == len(requested)
            assert all(same(a, rows[i]) for a, i in zip(result, requested))


@given(dense(), st.integers(0, 2**32))
def test_a_result_too_large_for_memory_is_the_same_from_a_file(given_rows, seed):
    keys, rows = given_rows
    order = np.random.default_rng(seed).permutation(len(keys))
    with store() as home:
        table = home.table(RECIPE)
        table.append(keys, rows)
        table.spill = 0
        assume(rows.nbytes)
        result = table.get([keys[i] for i in order])
        assert isinstance(result, np.memmap)
        assert same(result, rows[order])


@given(dense(), st.integers(1, 25))
def test_batches_are_the_rows_cut_into_pieces(given_rows, size):
    keys, rows = given_rows
    with store() as home:
        table = home.table(RECIPE)
        table.append(keys[: len(keys) // 2], rows[: len(keys) // 2])
        table.append(keys[len(keys) // 2 :], rows[len(keys) // 2 :])
        batches = list(table.batches(keys[::-1], size))
        assert all(0 < len(batch) <= size for batch in batches)
        assert all(batch.flags.owndata and batch.flags.writeable for batch in batches)
        assert same(np.concatenate(batches), rows[::-1])


@given(dense(), st.data())
def test_has_is_membership(given_rows, data):
    keys, rows = given_rows
    present = data.draw(st.sets(st.sampled_from(range(len(keys)))))
    with store() as home:
        table = home.table(RECIPE)
        table.append([keys[i] for i in sorted(present)], rows[sorted(present)])
        requested = [*keys, None, *keys_for(5, first=len(keys))]
        assert table.has(requested).tolist() == [i in present for i in range(len(keys))] + [False] * 6


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32)), st.sampled_from(["f2", "f4", "bf16"]))
def test_floats_are_float32_of_what_was_stored(values, kind):
    keys = keys_for(len(values))
    with np.errstate(over="ignore"):
        stored = values.astype(BFLOAT16) if kind == "bf16" else values.astype(kind)
    want = stored.astype(np.float32)
    with store() as home:
        table = home.table({"dtype": {"f2": "float16", "f4": "float32", "bf16": "bfloat16"}[kind]})
        table.append(keys, stored[:, None])
        assert same(table.get(keys), stored[:, None])
        assert same(table.get(keys, floats=True), want[:, None])
        assert same(np.concatenate(list(table.batches(keys, 3, floats=True))), want[:, None])
        table.spill = 0
        assert same(table.get(keys[::-1], floats=True), want[::-1, None])


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=5), st.randoms())
def test_a_recipe_is_its_content(recipe, random):
    shuffled = list(recipe.items())
    random.shuffle(shuffled)
    with store() as home:
        recipe.pop("dtype", None)
        first, second = home.table(recipe), home.table(dict(kv for kv in shuffled if kv[0] != "dtype"))
        other = home.table({**recipe, "one more": 1})
        assert first.folder == second.folder != other.folder
        first.append(keys_for(1), np.zeros((1, 2)))
        assert home.table(recipe).count == 1
        assert home.table({**recipe, "one more": 1}).count == 0


# ---- damage


@pytest.fixture(scope="module", params=["dense", "ragged"])
def shard(request, tmp_path_factory):
    """A table of two shards, the bytes of the first, and all its rows."""
    home = Store(tmp_path_factory.mktemp(request.param))
    rows = np.arange(6 * 5, dtype=np.float32).reshape(6, 5) + 1
    items = rows if request.param == "dense" else [rows[:1], rows[1:1], rows[1:4], rows[:2], rows[2:3], rows[3:]]
    table = home.table(RECIPE)
    table.append(keys_for(3), items[:3])
    table.append(keys_for(3, first=3), items[3:])
    return table, shard_files(table)[0].read_bytes(), items


@contextmanager
def replaced(table, content: bytes):
    """A copy of the store in which the first shard holds something else."""
    with store() as home:
        shutil.copytree(table.folder.parent, home.root)
        shard_files(home.table(RECIPE))[0].write_bytes(content)
        yield home


def rows_of(result) -> list[bytes]:
    return [np.asarray(row).tobytes() for row in result]


def check_never_trusted(home, items) -> None:
    """None of the first shard's rows, all of the second's; and they can be written again."""
    table = home.table(RECIPE)
    assert len(table.damaged) + len(list(table.folder.glob("*.damaged"))) == 1
    assert table.has(keys_for(6)).tolist() == [False] * 3 + [True] * 3
    assert rows_of(table.get(keys_for(3, first=3))) == rows_of(items[3:])
    table.append(keys_for(3), items[:3])
    assert rows_of(home.table(RECIPE).get(keys_for(6))) == rows_of(items)


@given(st.data())
@settings(max_examples=150)
def test_a_shard_cut_anywhere_is_never_trusted(shard, data):
    table, content, items = shard
    start = 8 + int.from_bytes(content[:8], "little")
    borders = [0, 1, 7, 8, 9, start - 1, start, start + 1, start + 16, start + 48, start + 49, len(content) - 1]
    cut = data.draw(st.sampled_from(borders) | st.integers(0, len(content) - 1))
    with replaced(table, content[:cut]) as home:
        check_never_trusted(home, items)


@given(st.binary(min_size=1, max_size=200))
def test_a_shard_with_something_after_it_is_never_trusted(shard, more):
    table, content, items = shard
    with replaced(table, content + more) as home:
        check_never_trusted(home, items)


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_anywhere_is_noticed(shard, data):
    """In the header, the keys, the sums or the lengths when the table is opened; in the rows when they are read."""
    table, content, items = shard
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    with replaced(table, bytes(changed)) as home:
        opened = home.table(RECIPE)
        if not opened.damaged:
            with pytest.raises(StoreError, match=r"3 of 6 rows|damaged"):
                opened.get(keys_for(6))
        check_never_trusted(home, items)


@given(st.data())
def test_a_page_of_zeros_in_the_rows_is_noticed(shard, data):
    table, content, _ = shard
    first = data.draw(st.integers(len(content) - 3 * 20, len(content) - 8))  # three rows of five floats end the file
    changed = content[:first] + bytes(len(content) - first)
    assume(changed != content)
    with replaced(table, changed) as home, pytest.raises(StoreError):
        home.table(RECIPE).get(keys_for(3))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=400) | json_values.map(lambda v: json.dumps(v).encode()), st.integers(0, 2**70))
def test_any_header_at_all_is_refused_politely(text, room):
    with pytest.raises(DamagedShard):
        parse_header(text, room)


@given(st.data())
@settings(max_examples=200)
def test_a_header_that_claims_other_things_is_never_trusted(shard, tmp_path_factory, data):
    """One claim of a true header replaced by anything: shapes, offsets, types, names, one more tensor."""
    table, content, _ = shard
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    tensor = data.draw(st.sampled_from(sorted(header)))
    field = data.draw(st.sampled_from(sorted(header[tensor])))
    odd = st.sampled_from(
        [[3, 16], [0, 0], [2**63, 2**63], [-1, 5], [3, 0, 2**62], [True, 16], "F64", [1] * 200, 1e300]
    )
    header[tensor][field] = data.draw(json_values | odd)
    if data.draw(st.booleans()):
        header[data.draw(st.text(max_size=4))] = header["rows"]
    text = json.dumps(header, separators=(",", ":")).encode()
    forged = len(text).to_bytes(8, "little") + text + content[8 + length :]
    assume(text.rstrip() != content[8 : 8 + length].rstrip())
    path = tmp_path_factory.mktemp("forged") / "a.safetensors"
    path.write_bytes(forged)
    with pytest.raises(DamagedShard):
        open_shard(path, table._shards._recipe)


@given(dense(), st.booleans())
def test_the_public_library_reads_what_we_write(given_rows, merged):
    import safetensors.numpy

    keys, rows = given_rows
    with store() as home:
        table = home.table(RECIPE)
        table.append(keys[:1], rows[:1])
        table.append(keys[1:], rows[1:])
        if merged:
            table.compact()
        result = [safetensors.numpy.load_file(path) for path in shard_files(table)]
        assert same(np.concatenate([part["rows"] for part in result]), rows)
        assert np.concatenate([part["keys"] for part in result]).tobytes() == b"".join(keys)


# ---- check sums


@given(dense(), st.data())
def test_every_changed_byte_changes_the_sum_of_its_row_only(given_rows, data):
    keys, rows = given_rows
    assume(rows.nbytes)
    flat = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    before = checksums(flat, rows)
    bits = bytearray(rows.tobytes())
    at = data.draw(st.integers(0, len(bits) - 1))
    bits[at] ^= data.draw(st.integers(1, 255))
    after = checksums(flat, np.frombuffer(bytes(bits), rows.dtype).reshape(rows.shape))
    row = at // (rows.nbytes // len(rows))
    assert np.flatnonzero(before != after).tolist() == [row]


@given(ragged())
def test_sums_do_not_depend_on_neighbours(given_rows):
    keys, rows = given_rows
    flat = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    lengths = np.array([len(r) for r in rows])
    together = checksums(flat, np.concatenate(rows), lengths)
    alone = [int(checksums(flat[i : i + 1], row, lengths[i : i + 1])[0]) for i, row in enumerate(rows)]
    assert together.tolist() == alone


def test_sums_bind_rows_to_keys_and_to_places():
    rng = np.random.default_rng(0)
    keys, rows = rng.integers(0, 256, (2, 16), dtype=np.uint8), rng.standard_normal((2, 8))
    here = checksums(keys, rows)
    assert (checksums(keys[::-1], rows) != here).all()
    assert (checksums(keys, rows[:, ::-1].copy()) != here).all()
    steps = rng.standard_normal((4, 8))
    assert checksums(keys, steps, np.array([2, 2]))[0] != checksums(keys, steps[[1, 0, 2, 3]], np.array([2, 2]))[0]
    assert (
        checksums(keys, np.zeros((4, 8)), np.array([1, 3]))[0] != checksums(keys, np.zeros((4, 8)), np.array([2, 2]))[0]
    )


# ---- the index of keys


@given(st.lists(st.lists(st.integers(0, 30), max_size=80), max_size=12), st.lists(st.integers(0, 40), max_size=90))
def test_the_index_is_a_dictionary_in_which_the_first_wins(batches, requested):
    alphabet = keys_for(41)
    index, model = KeyIndex(), {}
    for shard, batch in enumerate(batches):
        index = index.added([(shard, as_keys([alphabet[i] for i in batch]))])
        for row, i in enumerate(batch):
            model.setdefault(i, shard * MAX_ROWS + row)
    assert index.find(as_keys([alphabet[i] for i in requested])).tolist() == [model.get(i, MISSING) for i in requested]
    assert len(index) == len(model)
    at_once = KeyIndex().added([(s, as_keys([alphabet[i] for i in batch])) for s, batch in enumerate(batches)])
    for built in (index, at_once):
        keys, places = built.items()
        assert places.tolist() == sorted(model.values())
        assert [alphabet.index(k.ljust(16, b"\0")) for k in keys.tolist()] == sorted(model, key=model.__getitem__)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=100))
def test_keys_as_bytes_and_as_arrays_are_the_same(keys):
    array = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    assert as_keys(keys).tobytes() == as_keys(array).tobytes() == as_keys(as_keys(keys)).tobytes() == b"".join(keys)
    assert as_keys(keys).dtype == KEY


@given(st.lists(st.binary(max_size=20) | st.none() | st.text(max_size=16), min_size=1, max_size=6))
def test_anything_else_is_no_key(keys):
    assume(any(not isinstance(key, bytes) or len(key) != 16 for key in keys))
    with pytest.raises(DataError, match="16 bytes"):
        as_keys(keys)


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.integers(0, 5), max_size=3), st.booleans())
def test_a_layout_reads_its_own_header(count, total, inner, is_ragged):
    layout = ShardLayout(RowFormat("F32", tuple(inner), is_ragged), count, total if is_ragged else count)
    head = layout.header("recipe", "d" * 32)
    room = layout.tensors()["rows"][2][1]
    assert parse_header(head[8:], room) == (layout, "d" * 32)
    assert (len(head) + layout.tensors()["rows"][2][0]) % 64 == 0
    for wrong in (room - 1, room + 1):
        with pytest.raises(DamagedShard):
            parse_header(head[8:], wrong)


# ---- bfloat16


@given(st.integers(0, 0xFFFF))
def test_bfloat16_bits_come_back(bits):
    value = np.array([bits], np.uint16).view(BFLOAT16).astype(np.float32)
    back = value.astype(BFLOAT16).view(np.uint16)
    if np.isnan(value[0]):
        assert np.isnan(back.view(BFLOAT16).astype(np.float32)[0])
        assert back[0] & 0x8000 == bits & 0x8000
    else:
        assert back[0] == bits


def test_bfloat16_agrees_with_torch():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 400_000, dtype=np.uint32)
    halves = np.arange(0, 2**32, 2**15, dtype=np.uint64).astype(np.uint32)  # every tie
    values = np.concatenate([bits, halves, halves + np.uint32(1), halves - np.uint32(1)]).view(np.float32)
    want = torch.from_numpy(values.copy()).to(torch.bfloat16).float().numpy()
    with np.errstate(invalid="ignore"):  # casting NaN
        rounded = values.astype(BFLOAT16).astype(np.float32)
    assert np.array_equal(rounded, want, equal_nan=True)
    assert np.isnan(want).any()


@given(hnp.arrays(np.float32, 5, elements=st.floats(-(2.0**120), 2.0**120, width=32)))
def test_bfloat16_rounds_to_a_nearest_value(values):
    rounded = values.astype(BFLOAT16)
    off = np.abs(rounded.astype(np.float64) - values)
    for step in (1, -1):
        near = (rounded.view(np.uint16).astype(np.int64) + step).clip(0, 0xFFFF).astype(np.uint16).view(BFLOAT16)
        beside = np.abs(near.astype(np.float32).astype(float) - values)
        assert (off <= np.where(np.isnan(beside), np.inf, beside)).all()


# ---- any order of events


class Events(RuleBasedStateMachine):
    """Two writers, one of which merges, files damaged and removed by others: a row is right or missing, never wrong."""

    @staticmethod
    def row(i: int) -> np.ndarray:
        return np.full(3, i * i + 0.5, dtype=np.float32)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="headstart-store-events-")
        self.home = Store(Path(self.folder))
        self.tables = [self.home.table(RECIPE), self.home.table(RECIPE)]
        self.written: set[int] = set()
        self.harmed = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(who=st.integers(0, 1), items=st.lists(st.integers(0, 40), max_size=6))
    def write(self, who, items):
        self.tables[who].append([keys_for(41)[i] for i in items], np.array([self.row(i) for i in items]))
        self.written |= set(items)

    @rule(who=st.integers(0, 1))
    def look_again(self, who):
        self.tables[who].refresh()

    @rule(who=st.integers(0, 1))
    def open_again(self, who):
        self.tables[who] = self.home.table(RECIPE)

    @rule(who=st.integers(0, 1), below=st.sampled_from([1, 600, 1 << 30]))
    def merge(self, who, below):
        self.tables[who].compact(below=below)

    @rule(which=st.integers(0, 5), kind_of_damage=st.sampled_from(["cut", "flip", "remove", "empty"]))
    def harm(self, which, kind_of_damage):
        files = shard_files(self.tables[0])
        if not files:
            return
        path = files[which % len(files)]
        content = bytearray(path.read_bytes())
        self.harmed = True
        if kind_of_damage == "remove":
            path.unlink()
        elif kind_of_damage == "flip":
            content[-1] ^= 1
            path.write_bytes(content)
        else:
            path.write_bytes(content[: len(content) // 2 if kind_of_damage == "cut" else 0])

    @rule()
    def leave_a_temporary_file(self):
        with suppress(OSError):
            (Path(self.tables[0].folder) / ".x.safetensors.0123456789ab.tmp").write_bytes(b"half")

    @invariant()
    def rows_are_right_or_missing(self):
        for table in self.tables:
            for i, present in enumerate(table.has(keys_for(41))):
                if present:
                    with suppress(StoreError):  # harmed since: noticed, not returned
                        assert same(table.get([keys_for(41)[i]])[0], self.row(i))

    @invariant()
    def a_new_reader_finds_all_that_was_written(self):
        if not self.harmed:
            assert set(np.flatnonzero(self.home.table(RECIPE).has(keys_for(41))).tolist()) == self.written


Events.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestEvents = Events.TestCase


def test_the_machine_can_fail():
    """A table that returned another key's row would be noticed by the invariants above."""
    machine = Events()
    try:
        machine.write(0, [1, 2])
        machine.tables[0].get = lambda keys: np.zeros((len(keys), 3), np.float32)
        with pytest.raises(AssertionError):
            machine.rows_are_right_or_missing()
    finally:
        machine.teardown()
    assert not os.path.exists(machine.folder)
