"""Finished runs of a proof on disk: one small JSON file each, validated when it is read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from headstart._base.files import read_json, write_json
from headstart._base.progress import note
from headstart.errors import DataError, StoreError
from headstart.result.record import Number, plain, read_as


@dataclass(frozen=True)
class WallTimed:
    """A record of finished work; ``wall`` are the seconds it took."""

    wall: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class RunRecord(WallTimed):
    """Outcome of one run.

    Attributes
    ----------
    predicted : tuple of int
        Class of each test item.
    seconds : float
        Features of the training items, training and choices; not the test.
    epochs, lr : float or None
        Where a network was trained.
    moved : bool or None
        Whether fine-tuned weights were kept.
    source_task : tuple of float or None
        Which items of the source task are right after fine-tuning.
    failed : str or None
        The reason, when there is no outcome.
    """

    predicted: tuple[int, ...] = ()
    seconds: Number = 0.0
    epochs: float | None = None
    lr: float | None = None
    moved: bool | None = None
    source_task: tuple[float, ...] | None = None
    failed: str | None = None


@dataclass(frozen=True)
class LearningRate(WallTimed):
    """The learning rate for training from scratch, and the held-out loss of each one that was tried."""

    lr: float
    losses: Mapping[str, float]
    epochs: int


@dataclass(frozen=True)
class SourceScores(WallTimed):
    """Which items of the source task are right (1.0) before fine-tuning."""

    right: tuple[float, ...]


T = TypeVar("T", bound=WallTimed)


@dataclass(frozen=True)
class RunCache:
    """Finished pieces of work by name: one small JSON file each, written whole or not at all.

    The folder belongs to one proof: its name is a fingerprint of everything that the runs depend on.
    """

    folder: Path

    def get_or_run(self, name: str, kind: type[T], work: Callable[[], T]) -> T:
        """Read the outcome of a piece of work where it was done before, else do it now and write it down.

        ``wall`` is filled in: the seconds it took, also when it was done by an earlier process.
        """
        if (finished := self.read(name, kind)) is not None:
            return finished
        started = time.perf_counter()
        record = work()
        record = dataclasses.replace(record, wall=round(time.perf_counter() - started, 4))
        write_json(self._path(name), plain(record))
        return record

    def read(self, name: str, kind: type[T]) -> T | None:
        """Return the outcome on disk; a damaged file counts as none."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            data = read_json(path, "finished run of a proof")
            # fields have defaults, the mark of a finished run has none
            return read_as(kind, data) if isinstance(data, dict) and "wall" in data else None
        except (DataError, StoreError) as error:
            note(f"{error} It is done again.")
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
