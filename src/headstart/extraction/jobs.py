"""Extraction jobs: a share of the missing rows as plain data, for this process or another.

A job names its source, items, layers and store; whoever runs it opens the source, writes its own shards into the store
and returns counts. Threads of this process, processes of this machine and, later, other machines differ only in who
calls :func:`run_job`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from headstart._base.progress import track
from headstart.bank.bank import Store
from headstart.bank.table import MemoryTable, Table
from headstart.dataset.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.engines.sessions import open_session
from headstart.extraction import pipeline
from headstart.extraction.loading import sample_loader
from headstart.runners.base import RUNNERS
from headstart.sources.base import Source, load_source


@dataclass(frozen=True)
class ExtractionJob:
    """Rows to compute: which items, at which layers, of which source, for which store. Frozen and picklable.

    Attributes
    ----------
    source : str
        Address of the source.
    data : Dataset
        The items of this job.
    keys : tuple of bytes
        Their content keys.
    positions : tuple of int
        Their numbers in the dataset that the user knows, for errors.
    poolings : mapping
        Layer → pooling.
    recipes : mapping
        Layer → recipe: which table of the store a row goes to.
    runtime : RuntimeConfig
    store : Path
    raising : bool
        Raise on an item that cannot be read, rather than name it in the report.
    threads : int, optional
        Of torch, in a process of its own; None leaves them alone.
    """

    source: str
    data: Dataset
    keys: tuple[bytes, ...]
    positions: tuple[int, ...]
    poolings: Mapping[str, str]
    recipes: Mapping[str, Mapping[str, Any]]
    runtime: RuntimeConfig
    store: Path
    raising: bool = False
    threads: int | None = None

    def split(self, n_jobs: int, multiple: int) -> list[ExtractionJob]:
        """Cut into at most ``n_jobs`` jobs of whole windows of ``multiple`` items, in order.

        Batches never cross a window: where all items can be read, the rows do not depend on the number of jobs.
        """
        n_windows = -(-len(self.keys) // multiple)
        size = -(-n_windows // max(n_jobs, 1)) * multiple
        starts = range(0, len(self.keys), size)
        return [
            replace(self, data=self.data.take(range(start, min(start + size, len(self.keys)))),
                    keys=self.keys[start : start + size], positions=self.positions[start : start + size])
            for start in starts
        ]  # fmt: skip


@dataclass(frozen=True)
class JobReport:
    """Counts of a job that is done: rows computed, items that could not be read, seconds per stage, warnings."""

    computed: int = 0
    problems: Mapping[bytes, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def merge(cls, reports: Sequence[JobReport]) -> JobReport:
        """Add reports up."""
        problems: dict[bytes, str] = {}
        seconds: Counter[str] = Counter()
        warnings: Counter[str] = Counter()
        for report in reports:
            problems.update(report.problems)
            seconds.update(report.seconds)
            warnings.update(report.warnings)
        return cls(sum(report.computed for report in reports), problems, dict(seconds), dict(warnings))


def run_job(job: ExtractionJob) -> JobReport:
    """Run a job in a process that knows nothing of it: open the source and the tables, compute and write the rows.

    Raises
    ------
    UnreadableItem
        With ``job.raising``.
    StoreError
        When the store cannot be written. Shards that were written stay.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    store = Store(job.store)
    return compute_rows(job, load_source(job.source), {name: store.table(job.recipes[name]) for name in job.poolings})


def compute_rows(
    job: ExtractionJob,
    source: Source,
    tables: Mapping[str, Table | MemoryTable],
    *,
    runner: str = "local",
    workers: int | None = None,
) -> JobReport:
    """Read, run and write the items of a job with an open source; ``workers`` read ahead of the forward pass."""
    stats = pipeline.PipelineStats()
    batch_size = job.runtime.batch_size
    read = sample_loader(source, job.data, job.keys, positions=job.positions)
    session = open_session(source, job.poolings, job.runtime)
    with track(f"{source.name}: features", len(job.keys)) as done:
        read_item = pipeline.make_reader(read, stats, getattr(source.input, "warning", None))
        entries = enumerate(job.keys)
        if len(job.keys) == 1 and workers is None and runner == "local":
            workers = 0  # starting threads takes longer than reading one item
        items = RUNNERS[runner](workers).map(read_item, entries, ahead=3 * batch_size)
        usable = pipeline.drop_unreadable(items, stats, done, raising=job.raising)
        writer = pipeline.Writer(dict(tables), stats)
        pipeline.run_pipeline(usable, session.run, writer, source=source, batch_size=batch_size, done=done)
    seconds = {"read": stats.read, "forward": stats.forward, "write": stats.write}
    problems = {item.key: item.problem.reason for item in stats.problems if item.problem is not None}
    return JobReport(stats.rows, problems, seconds, stats.warnings)
