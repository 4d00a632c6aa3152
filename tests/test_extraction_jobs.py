"""Extraction jobs: plain data that another process can run, the same rows to the bit, counts that add up."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headstart import StoreError
from headstart.bank.bank import Store
from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.extraction.jobs import ExtractionJob, JobReport, run_job
from headstart.sources import load_source

PLAIN = {"engine": "torch", "precision": "fp32", "batch_size": 4, "layers": ["1", "3"]}


def vectors(count: int, *, broken: tuple[int, ...] = ()) -> Dataset:
    X = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    items = tuple(x[:5] if i in broken else x for i, x in enumerate(X))  # five numbers are too few
    return Dataset(items, modality="vector")


def job_of(folder: Path, count: int = 22, **fields) -> ExtractionJob:
    """The job that extract() would make for an empty store."""
    source, data = load_source("fake:vector"), vectors(count, **fields)
    bank = extract(source, data, store=folder / "elsewhere", on_error="skip", **PLAIN)
    return ExtractionJob(
        source="fake:vector",
        data=data,
        keys=tuple(data.keys()),
        positions=tuple(range(count)),
        poolings={name: recipe["pooling"] for name, recipe in bank.recipe.items()},
        recipes=bank.recipe,
        runtime=bank.runtime,
        store=folder / "store",
        threads=1,
    )


def rows_of(store: Path, job: ExtractionJob) -> dict[str, np.ndarray]:
    return {name: np.asarray(Store(store).table(job.recipes[name]).get(job.keys)) for name in job.poolings}


def test_a_job_that_was_pickled_gives_the_same_rows(tmp_path):
    job = job_of(tmp_path)
    report = run_job(pickle.loads(pickle.dumps(job)))  # what a process is handed is what we have just written
    assert report.computed == 22 and not report.problems
    expected = rows_of(tmp_path / "elsewhere", job)
    for name, rows in rows_of(tmp_path / "store", job).items():
        assert rows.tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("n_jobs", [1, 2, 3, 40])
def test_jobs_are_whole_windows_and_lose_nothing(tmp_path, n_jobs):
    job = job_of(tmp_path)
    parts = job.split(n_jobs, 4)
    assert len(parts) <= n_jobs and all(len(part.keys) % 4 == 0 for part in parts[:-1])
    assert [key for part in parts for key in part.keys] == list(job.keys)
    assert all(tuple(part.data.keys()) == part.keys for part in parts)
    merged = JobReport.merge([run_job(part) for part in parts])
    assert merged.computed == 22 and merged.seconds["read"] > 0


def test_an_item_that_cannot_be_read_is_counted_by_the_job_that_had_it(tmp_path):
    parts = job_of(tmp_path, broken=(3, 17)).split(2, 4)
    reports = [run_job(part) for part in parts]
    assert [len(report.problems) for report in reports] == [1, 1]
    merged = JobReport.merge(reports)
    assert merged.computed == 20 and all("(5,)" in reason for reason in merged.problems.values())


@pytest.mark.slow
@pytest.mark.parametrize("broken", [(), (5,)])
def test_two_processes_write_the_rows_of_one(tmp_path, broken):
    """To the bit where all can be read; an item that is left out shifts the batches behind it, and so the last bits."""
    source, data = load_source("fake:vector"), vectors(30, broken=broken)
    alone = extract(source, data, store=tmp_path / "one", on_error="skip", **PLAIN)
    both = extract(source, data, store=tmp_path / "two", on_error="skip", runner="processes", workers=2, **PLAIN)
    assert both.computed == alone.computed == 30 - len(broken)
    assert [str(item) for item in both.skipped] == [str(item) for item in alone.skipped]
    readable = data.take(np.flatnonzero(alone.keep(data)))
    for name in alone.layers:
        rows, expected = both.rows(name, readable), alone.rows(name, readable)
        assert np.allclose(rows, expected, rtol=1e-5, atol=1e-6)
        assert broken or rows.tobytes() == expected.tobytes()
    assert extract(source, data, store=tmp_path / "two", on_error="skip", **PLAIN).computed == 0


def test_a_source_that_no_address_rebuilds_is_worked_on_here(tmp_path):
    source = replace(load_source("fake:vector"), rebuild=None)
    bank = extract(source, vectors(6), store=tmp_path, runner="processes", workers=2, **PLAIN)
    assert bank.computed == 6


KILLED = """
import os, signal, sys
from headstart.dataset import Dataset
from headstart.extraction import extract, pipeline
import numpy as np

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    extract("fake:vector", Dataset.from_items(list(X), "vector"), layers=["1"], engine="torch", precision="fp32",
            batch_size=4, store=sys.argv[1], runner="processes", workers=2)
"""


@pytest.mark.slow
def test_a_killed_worker_is_named_and_what_was_written_is_kept(tmp_path):
    """The worker is killed as soon as it appears; the run ends with a StoreError, and the next computes the rest."""
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "store")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    killed = False
    while run.poll() is None and time.monotonic() < deadline and not killed:
        for pid in worker_pids(run.pid):
            os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    _, errors = run.communicate(timeout=120)
    assert killed, "no worker was seen"
    assert run.returncode != 0 and StoreError.__name__ in errors and "run again" in errors
    data = vectors(40)
    bank = extract(
        "fake:vector", data, store=tmp_path / "store", layers=["1"], engine="torch", precision="fp32", batch_size=4
    )
    assert bank.computed == 40 or bank.computed % 4 == 0
    assert np.isfinite(bank.rows("1", data)).all()


def worker_pids(parent: int) -> list[int]:
    """Processes that the fork server, a child of ``parent``, has started."""
    result = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, ppid = int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        result.append((pid, ppid, command))
    servers = {pid for pid, ppid, command in result if ppid == parent and b"forkserver" in command}
    return [pid for pid, ppid, _ in result if ppid in servers]
