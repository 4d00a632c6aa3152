"""The demonstration: small runs of the real thing, its records against independent references, its honest sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

import headstart as hs
from headstart.demo import demo
from headstart.demo.demo import Demo, DemoRow, tasks
from headstart.errors import OptionError, StoreError

NAMES = ["scratch", "frozen", "fine-tuned"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def small(folder) -> Demo:
    """Two repeats with a short source task: everything happens, little is learned."""
    return demo(folder, repeats=2, per_class=4, source_epochs=2, epochs=3)


def test_the_tasks_share_no_class_and_no_picture():
    low, high = tasks()
    assert set(low.targets) == set("01234")
    assert set(high.targets) == set("56789")
    assert not low.overlap(high)
    assert len(low) + len(high) == 1797


def test_three_rows_with_intervals_and_seconds(small):
    assert [row.name for row in small.rows] == NAMES
    for row in small.rows:
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert len(row.accuracies) == 2 and row.seconds > 0
        assert row.accuracy == pytest.approx(np.mean(row.accuracies))


def test_the_table_of_layers_is_in_order_and_says_what_was_chosen(small):
    names = [tried.layer for tried in small.layers]
    assert names == ["relu1", "pool1", "relu2", "flatten", "relu3"]
    assert sum(tried.chosen for tried in small.layers) >= small.repeats
    assert all(0 <= tried.accuracy <= 1 and 0 <= tried.chosen <= small.repeats for tried in small.layers)
    assert next(t.numbers for t in small.layers if t.layer == "flatten") == 1600


def test_the_predictor_left_behind_reads_the_pictures_left_behind(small):
    predictor = hs.load(small.predictor)
    assert small.samples and all(path.is_file() for path in small.samples)
    labels = predictor.predict([str(path) for path in small.samples])
    assert set(labels) <= set("56789")


def test_the_same_seed_gives_the_same_accuracies(small, tmp_path):
    again = demo(tmp_path, repeats=2, per_class=4, source_epochs=2, epochs=3)
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in small.rows]
    assert again.scratch_lr == small.scratch_lr


def test_threads_and_cache_are_left_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "mine"))
    threads = torch.get_num_threads()
    demo(tmp_path / "out", repeats=2, per_class=2, source_epochs=1, epochs=1)
    assert torch.get_num_threads() == threads
    assert os.environ["HEADSTART_CACHE"] == str(tmp_path / "mine")
    assert not (tmp_path / "mine" / "bank").exists()


def test_an_interval_is_students():
    values = [0.91, 0.95, 0.93, 0.99, 0.90]
    row = DemoRow.of("frozen", values, [1.0, 2.0, 3.0, 4.0, 5.0])
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row.low, row.high, row.seconds) == pytest.approx((low, high, 3.0))
    assert DemoRow.of("frozen", [1.0, 0.9, 1.0], [1.0] * 3).high == 1.0


@pytest.mark.parametrize(
    ("scratch", "tuned", "helped"),
    [((0.80, 0.81, 0.79), (0.95, 0.96, 0.94), True), ((0.95, 0.96, 0.94), (0.80, 0.81, 0.79), False)],
    ids=["helps", "hurts"],
)
def test_the_verdict_follows_the_figures(small, scratch, tuned, helped):
    rows = tuple(DemoRow.of(name, values, [1.0] * 3) for name, values in zip(NAMES, (scratch, tuned, tuned)))
    messages = dataclasses.replace(small, rows=rows)
    assert messages.helped is helped
    assert (float(messages.gain) > 0) is helped
    assert messages.verdict.startswith("Transfer helped" if helped else "Transfer hurts")


@pytest.mark.parametrize("wrong", [{"repeats": 1}, {"per_class": 1}, {"source_epochs": 0}, {"epochs": 0}])
def test_too_little_is_refused(tmp_path, wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        demo(tmp_path, **wrong)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("here already")
    with pytest.raises(StoreError, match="file"):
        demo(tmp_path / "file")


@pytest.mark.slow
def test_the_demonstration_on_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "demo", "--json", "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    messages = json.loads(done.stdout)
    rows = {row["name"]: row for row in messages["rows"]}
    assert list(rows) == NAMES
    # what the machine must find out by itself: the layers, and that they carry over
    assert max(rows["frozen"]["accuracy"], rows["fine-tuned"]["accuracy"]) > rows["scratch"]["accuracy"]
    assert rows["frozen"]["accuracy"] > 0.93
    assert rows["fine-tuned"]["accuracy"] > rows["frozen"]["accuracy"] - 0.03  # it starts there, in small steps
    assert set(hs.load(messages["predictor"]).classes) == set("56789")
