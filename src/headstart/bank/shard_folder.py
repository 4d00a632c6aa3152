"""A folder of shards as one process sees it: trusted shards, an index of their keys, damaged ones. Floor 1."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headstart._base.files import write_atomic
from headstart._base.progress import note
from headstart._base.typing import Array, Ints
from headstart.bank.key_index import MAX_ROWS, KeyIndex
from headstart.bank.shard_format import DamagedShard, RowFormat
from headstart.bank.shards import SUFFIX, PackedRows, Shard, check_format, merge_parts, open_shard, write_shard
from headstart.errors import DataError, StoreError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
_STALE = 24 * 3600.0  # seconds after which a temporary file has no living writer
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{8}\.safetensors")


@dataclass(frozen=True)
class FolderState:
    """The shards that are trusted, in the order of their names, and an index of their keys. Replaced, never changed."""

    shards: tuple[Shard, ...] = ()
    index: KeyIndex = field(default_factory=KeyIndex)

    @property
    def form(self) -> RowFormat | None:
        """Format of the rows; None while there are none."""
        return self.shards[0].layout.form if self.shards else None

    def added(self, opened: Sequence[tuple[Shard, Array]]) -> FolderState:
        """Return the state with more shards and their keys, after the others."""
        first = len(self.shards)
        index = self.index.added([(first + i, keys) for i, (_, keys) in enumerate(opened)])
        return FolderState((*self.shards, *(shard for shard, _ in opened)), index)


class ShardFolder:
    """Reads, adds, merges and sets aside the shards of one table.

    ``state`` may be read by any thread at any time; it is replaced under a lock of this process. Between processes
    nothing is locked: a shard appears whole under its final name, and never changes.
    """

    def __init__(self, folder: Path, *, recipe: str, dtype: str | None) -> None:
        self.folder = folder
        self.state = FolderState()
        self.damaged: dict[str, str] = {}
        self._recipe = recipe
        self._dtype = dtype
        self._lock = threading.RLock()

    def sweep(self) -> None:
        """Remove temporary files whose writers were killed more than a day ago."""
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if _TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(OSError):
                        if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                            os.unlink(entry.path)

    def refresh(self) -> None:
        """Take in what other writers have added, merged or removed; reads one listing and the keys of new shards."""
        with self._lock:
            names = self._names()
            trusted = {shard.path.name for shard in self.state.shards}
            new = names - trusted
            # Names give the order of precedence: one that sorts before a trusted one means reading all again.
            if trusted - names or (new and trusted and min(new) < max(trusted)):
                new, self.state = names, FolderState()
            if new:
                self.state = self.state.added(self._opened(sorted(new)))

    def add(self, packed: PackedRows) -> None:
        """Write one shard. StoreError when that fails; then nothing has changed."""
        with self._lock:
            check_format(packed.layout.form, self.state.form, self._dtype)
            self.state = self.state.added([(self._write(packed), packed.keys)])

    def merge(self, below: int) -> int:
        """Merge the shards smaller than ``below`` bytes into one; return their number.

        Raises
        ------
        VanishedShard
            When another process merged them meanwhile.
        DamagedShard
            When rows of one of them are.
        """
        with self._lock:
            self.refresh()
            small = [i for i, shard in enumerate(self.state.shards) if shard.size < below]
            if len(small) < 2:
                return 0
            _, positions = self.state.index.items()
            parts: list[tuple[Shard, Ints]] = []
            for i in small:
                first, last = np.searchsorted(positions, [i * MAX_ROWS, (i + 1) * MAX_ROWS])
                parts.append((self.state.shards[i], positions[first:last] - i * MAX_ROWS))
            if filled := [part for part in parts if len(part[1])]:
                self._write(merge_parts(filled))
            for shard, _ in parts:  # the merged one is on the disk: only now, and what stays is a harmless duplicate
                with suppress(OSError):
                    shard.path.unlink(missing_ok=True)
            self.refresh()
            return len(parts)

    def set_aside(self, damage: DamagedShard) -> None:
        """Forget a shard whose rows are damaged; renamed, because to later processes it would look whole."""
        assert damage.path is not None
        with self._lock:
            with suppress(OSError):  # a read-only store keeps it under its name, and this process ignores it
                os.replace(damage.path, damage.path.with_name(damage.path.name + ".damaged"))
            self._report(damage.path.name, damage.reason)
            self.state = FolderState()
            self.refresh()

    def _names(self) -> set[str]:
        """Return the names of the regular files that may be shards and were not found damaged."""
        names = set()
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(SUFFIX) or entry.name in self.damaged:
                        continue
                    if os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
                        names.add(entry.name)
                    else:  # opening a pipe would wait for ever
                        self._report(entry.name, "it is no regular file")
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(f"Cannot read the store at {self.folder}: {error.strerror}.") from error
        return names

    def _opened(self, names: Sequence[str]) -> list[tuple[Shard, Array]]:
        opened: list[tuple[Shard, Array]] = []
        form = self.state.form
        for name in names:
            try:
                shard, keys = open_shard(self.folder / name, self._recipe)
                check_format(shard.layout.form, form, self._dtype)
            except FileNotFoundError:  # merged since the folder was listed
                continue
            except (DamagedShard, DataError, OSError) as error:
                self._report(name, str(error))
                continue
            form = shard.layout.form
            opened.append((shard, keys))
        return opened

    def _report(self, name: str, reason: str) -> None:
        self.damaged[name] = reason
        note(f"Set aside {self.folder / name}: {reason}. Its rows count as missing and are computed again.")

    def _write(self, packed: PackedRows) -> Shard:
        """Write a shard, atomically, under a name that sorts after all that are known."""
        last = self.state.shards[-1].path.name if self.state.shards else ""
        now = max(time.time_ns(), int(last[:16], 16) + 1 if _NAME.fullmatch(last) else 0)
        path = self.folder / f"{now:016x}-{secrets.token_hex(4)}{SUFFIX}"
        written: list[Shard] = []
        write_atomic(path, lambda temporary: written.append(write_shard(temporary, packed, self._recipe)))
        return replace(written[0], path=path)
