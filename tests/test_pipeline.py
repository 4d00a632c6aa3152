"""The pipeline behind extract(): batches and windows, what is flushed when, and what an error leaves behind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from headstart._base.progress import Track
from headstart.bank import Store
from headstart.errors import StoreError, UnreadableItem
from headstart.extraction import pipeline
from headstart.extraction.pipeline import (
    PipelineStats,
    WorkItem,
    Writer,
    drop_unreadable,
    iter_windows,
    make_reader,
    run_pipeline,
)
from headstart.sources import Batch


def key(i: int) -> bytes:
    return i.to_bytes(16, "big")


def works(samples):
    return iter([WorkItem(i, key(i), sample) for i, sample in enumerate(samples)])


class Plain:
    """An input without lengths: samples are numbers."""

    def collate(self, samples):
        return Batch({"x": np.array(samples, np.float32)[:, None]})


class Texts(Plain):
    def length(self, sample):
        return sample


class Clips(Plain):
    def n_windows(self, sample):
        return sample


class Table:
    """A table that remembers what it was given."""

    def __init__(self, fails_at=None, there=()):
        self.shards, self.fails_at, self.there = [], fails_at, set(there)

    def has(self, keys):
        return np.array([k in self.there for k in keys], bool)

    def append(self, keys, rows):
        if self.fails_at == len(self.shards):
            raise StoreError("the disk is full")
        self.shards.append((list(keys), rows))
        self.there |= set(keys)


# ---- batches --------------------------------------------------------------------------------------------------------


@given(count=st.integers(0, 50), size=st.integers(1, 9))
def test_without_lengths_a_window_is_a_batch_in_order(count, size):
    result = list(iter_windows(works(range(count)), size, Plain()))
    assert all(len(window) == 1 for window in result)
    batches = [window[0] for window in result]
    assert [w.position for batch in batches for w in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])


@given(lengths=st.lists(st.integers(1, 30), max_size=80), size=st.integers(1, 4))
def test_with_lengths_a_window_is_sorted_and_nothing_is_lost(lengths, size):
    result = list(iter_windows(works(lengths), size, Texts()))
    seen = [w.position for window in result for batch in window for w in batch]
    assert sorted(seen) == list(range(len(lengths)))
    for window in result:
        inside = [w.sample for batch in window for w in batch]
        assert inside == sorted(inside)
        assert all(len(batch) <= size for batch in window)
    n_items = size * pipeline._SORTED_BATCHES
    for number, window in enumerate(result):  # windows keep their place: an interrupted run resumes at their borders
        assert {w.position // n_items for batch in window for w in batch} == {number}


@given(pieces=st.lists(st.integers(1, 40), max_size=60), size=st.integers(1, 5))
def test_items_of_many_pieces_make_smaller_batches(pieces, size):
    result = [batch for window in iter_windows(works(pieces), size, Clips()) for batch in window]
    assert [w.position for batch in result for w in batch] == list(range(len(pieces)))
    for batch in result:
        assert len(batch) == 1 or sum(w.sample for w in batch) <= size * pipeline._WINDOWS_PER_ITEM
        assert len(batch) <= size


def test_works_are_taken_only_when_wanted():
    taken = []

    def slowly():
        for work in works(range(100)):
            taken.append(work.position)
            yield work

    result = iter_windows(slowly(), 4, Plain())
    next(result)
    assert len(taken) == 4


# ---- reading --------------------------------------------------------------------------------------------------------


def test_only_unreadable_items_are_the_items_fault():
    def read(index):
        if index == 1:
            raise UnreadableItem("item 1", "broken")
        if index == 2:
            raise ZeroDivisionError
        return index

    spent = PipelineStats()
    item = make_reader(read, spent)
    assert item((0, key(0))).sample == 0
    assert item((1, key(1))).problem.reason == "broken"
    with pytest.raises(ZeroDivisionError):
        item((2, key(2)))
    assert spent.read > 0


def test_warnings_are_counted():
    spent = PipelineStats()
    item = make_reader(lambda i: i, spent, lambda sample: "odd" if sample % 2 else None)
    for i in range(5):
        item((i, key(i)))
    assert spent.warnings == {"odd": 2}


def test_counts_are_complete_when_several_threads_read():
    class SlowCounter(Counter):
        """Another thread gets its turn between reading a count and writing it."""

        def __getitem__(self, key):
            value = super().__getitem__(key)
            time.sleep(0.002)
            return value

    stats = PipelineStats(warnings=SlowCounter())
    read = make_reader(lambda i: i, stats, lambda sample: "cut")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [(i, key(i)) for i in range(64)]))
    assert dict(stats.warnings) == {"cut": 64}


def test_problems_are_kept_or_raised():
    problem = UnreadableItem("item 1", "broken")
    mixed = [WorkItem(0, key(0), 5), WorkItem(1, key(1), problem=problem), WorkItem(2, key(2), 6)]
    spent, steps = PipelineStats(), []
    done = SimpleNamespace(__call__=None)
    assert [w.sample for w in drop_unreadable(iter(mixed), spent, steps.append, raising=False)] == [5, 6]
    assert [w.problem for w in spent.problems] == [problem]
    assert steps == [1]
    with pytest.raises(UnreadableItem):
        list(drop_unreadable(iter(mixed), PipelineStats(), done, raising=True))


# ---- writing --------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_written_again():
    full, empty, partly = Table(there=[key(i) for i in range(4)]), Table(), Table(there=[key(1), key(2)])
    writer = Writer({"a": full, "b": empty, "c": partly}, PipelineStats())
    rows = np.arange(8.0).reshape(4, 2)
    writer.add([key(i) for i in range(4)], {"a": rows, "b": rows, "c": rows})
    writer.close(failed=False)
    assert [len(keys) for keys, _ in full.shards] in ([], [0])
    assert len(empty.shards[0][0]) == 4
    assert partly.shards[0][0] == [key(0), key(3)]
    assert np.array_equal(partly.shards[0][1], rows[[0, 3]])


def test_ragged_rows_keep_their_lengths(tmp_path):
    table = Store(tmp_path).table({"layer": "a"})
    writer = Writer({"a": table}, PipelineStats())
    first = [np.ones((2, 3), np.float32), np.zeros((5, 3), np.float32)]
    writer.add([key(0), key(1)], {"a": first})
    writer.add([key(2)], {"a": [np.full((1, 3), 7, np.float32)]})
    writer.close(failed=False)
    result = table.get([key(2), key(1), key(0)])
    assert [len(item) for item in result] == [1, 5, 2]
    assert np.array_equal(result[0], np.full((1, 3), 7))


def test_shards_hold_whole_windows(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "_FLUSH_SHARE", 0.0)
    table, spent = Table(), PipelineStats()
    source = SimpleNamespace(input=Plain())
    run_pipeline(
        works(range(10)),
        lambda b: {"a": b.inputs["x"]},
        Writer({"a": table}, spent),
        source=source,
        batch_size=4,
        done=Track("x", None),
    )
    assert [len(keys) for keys, _ in table.shards] == [4, 4, 2]
    assert spent.rows == 10
    assert spent.write > 0


def test_bytes_fill_a_shard(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 1e9)
    monkeypatch.setattr(pipeline, "_FLUSH_BYTES", 40)
    table = Table()
    source = SimpleNamespace(input=Plain())
    run_pipeline(
        works(range(30)),
        lambda b: {"a": b.inputs["x"]},
        Writer({"a": table}, PipelineStats()),
        source=source,
        batch_size=5,
        done=Track("x", None),
    )
    assert [len(keys) for keys, _ in table.shards] == [10, 10, 10]  # 4 bytes a row


def test_without_reason_to_flush_there_is_one_shard(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 1e9)
    table = Table()
    source = SimpleNamespace(input=Plain())
    run_pipeline(
        works(range(30)),
        lambda b: {"a": b.inputs["x"]},
        Writer({"a": table}, PipelineStats()),
        source=source,
        batch_size=5,
        done=Track("x", None),
    )
    assert [len(keys) for keys, _ in table.shards] == [30]


def test_a_failing_writer_stops_the_run(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "_FLUSH_SHARE", 0.0)
    ran = []

    def engine(batch):
        ran.append(len(batch))
        return {"a": batch.inputs["x"]}

    before = threading.active_count()
    with pytest.raises(StoreError, match="the disk is full"):
        writer = Writer({"a": Table(fails_at=1)}, PipelineStats())
        run_pipeline(
            works(range(1000)),
            engine,
            writer,
            source=SimpleNamespace(input=Plain()),
            batch_size=4,
            done=Track("x", None),
        )
    assert len(ran) <= 5
    assert threading.active_count() <= before


def test_a_failing_engine_keeps_what_was_handed_over(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "_FLUSH_SHARE", 0.0)
    table, calls = Table(), []

    def engine(batch):
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return {"a": batch.inputs["x"]}

    with pytest.raises(MemoryError):
        run_pipeline(
            works(range(40)),
            engine,
            Writer({"a": table}, PipelineStats()),
            source=SimpleNamespace(input=Plain()),
            batch_size=4,
            done=Track("x", None),
        )
    assert [len(keys) for keys, _ in table.shards] == [4, 4, 4]


def test_what_was_not_handed_over_is_dropped(monkeypatch):
    monkeypatch.setattr(pipeline, "_FLUSH_SECONDS", 1e9)
    table = Table()
    writer = Writer({"a": table}, PipelineStats())
    writer.add([key(0)], {"a": np.ones((1, 2))})
    writer.close(failed=True)
    assert table.shards == []


def test_progress_counts_items():
    steps = []
    run_pipeline(works(range(7)), lambda b: {"a": b.inputs["x"]}, Writer({"a": Table()}, PipelineStats()),
        source=SimpleNamespace(input=Plain()), batch_size=3, done=steps.append)  # fmt: skip
    assert steps == [3, 3, 1]


def test_passes_that_overlap_give_the_threads_back():
    """The one that began first ends first: the other must not restore the single thread that it found."""

    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        first, second = pipeline._one_blas_thread(), pipeline._one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before and set(before) == {2}
