"""Cache of the content keys of unchanged files, so that they need not be read again. Floor 1.

An entry says: the file at this path, with this size, modification time and change time, had this content key. It is
stored as a hash of the first four and the key, in a table of the store, so that it is as safe as any row: no lock that
a stopped or killed process could hold, and a check sum for each entry (an SQLite file has neither).

Like git's index it must beat the *racy* case: a file written twice within one tick of the file system's clock looks the
same before and after. An entry is therefore made only when the file had been left alone for two seconds when its
reading began (two seconds are FAT's tick) and looks the same after it. Entries are never wrong because of:

- a change of content that keeps the size: the modification time differs;
- a modification time set back afterwards (``touch -d``, ``cp -p``, ``rsync -t``, a hostile ``utime``): the change time,
  which no program can set, differs;
- a file changed while it was read, or just before or after.

What cannot be seen: a change made while the system's clock was set back to exactly the old time; a write past the file
system (to the raw device), or through a shared memory map that had been dirty since before the entry was made; a file
server whose clock runs more than two seconds behind ours; on Windows, where the change time is the time of creation, a
modification time that was forged. ``touch`` the file, or delete the store's ``keys`` folder, when that may be.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import Self

import numpy as np

from headstart._base.hashing import KEY_BYTES
from headstart._base.progress import note
from headstart._base.typing import Array
from headstart.bank.key_index import KEY
from headstart.bank.table import Table
from headstart.errors import StoreError

_RECIPE = {"keys of files": ["path", "size", "mtime_ns", "ctime_ns"], "format": 1}
_RACY_NS = 2_000_000_000  # an entry is made only of files that were left alone for so many nanoseconds
_MERGE_FROM = 32  # shards


class KeyTable:
    """Content keys of unchanged files. Made by :meth:`headstart.bank.Store.key_table`; use it in a ``with`` block.

    It only saves time: when it cannot be read or written, files are read again and a note says why.

    Parameters
    ----------
    folder : Path
    flush_every : int
        New entries are written in batches of this many, and when the block ends.

    Attributes
    ----------
    hits : int
        Number of files whose key was in the table.
    """

    def __init__(self, folder: Path, *, flush_every: int = 4096) -> None:
        self.folder = folder
        self.flush_every = flush_every
        self.hits = 0
        self._table: Table | None = None
        self._entries = np.empty(0, KEY)
        self._keys = np.empty((0, KEY_BYTES), np.uint8)
        self._looked_up: dict[str, bytes] = {}  # path → entry, of files whose key may be recorded
        self._unwritten: dict[bytes, bytes] = {}
        self._written: dict[bytes, bytes] = {}  # by us, since the table was loaded

    def __enter__(self) -> Self:
        try:
            self._table = Table.open(self.folder, _RECIPE)
            self._load(self._table)
        except StoreError as error:
            self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lookup(self, path: Path | str) -> bytes | None:
        """Return the key of the file as it is now; None when it has no entry, has changed, or is no ordinary file.

        **Cost**: one ``stat`` and a binary search.
        """
        absolute = os.path.abspath(path)
        entry, settled = _entry_of(absolute)
        if entry is None:
            return None
        key = self._unwritten.get(entry) or self._written.get(entry) or self._find(entry)
        if key is not None:
            self.hits += 1
        elif settled:
            self._looked_up[absolute] = entry
        return key

    def record(self, path: Path | str, key: bytes) -> bool:
        """Remember the key of a file that was hashed because :meth:`lookup` had none.

        Returns
        -------
        bool
            False when the entry would not be safe: the file was changed since, or less than two seconds before the
            look-up, or was never looked up.
        """
        absolute = os.path.abspath(path)
        entry = self._looked_up.pop(absolute, None)
        if entry is None or _entry_of(absolute)[0] != entry:
            return False
        self._unwritten[entry] = key
        if len(self._unwritten) >= self.flush_every:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the new entries, for other processes to see."""
        if self._unwritten and self._table is not None:
            try:
                keys = np.frombuffer(b"".join(self._unwritten.values()), np.uint8).reshape(-1, KEY_BYTES)
                self._table.append(list(self._unwritten), keys)
                self._written |= self._unwritten
                self._unwritten = {}
            except StoreError as error:
                self._give_up(error)

    def close(self) -> None:
        """Write the new entries, and merge the shards when they have become many."""
        self.flush()
        if self._table is not None and self._table.shards > _MERGE_FROM:
            try:
                self._table.compact()
            except StoreError as error:
                self._give_up(error)
        self._looked_up.clear()

    def _load(self, table: Table) -> None:
        """Read entries and keys into two arrays: a look-up may not open a file."""
        entries = table.keys()
        keys = table.get(entries) if len(entries) else self._keys
        if keys.dtype != np.uint8 or keys.shape != (len(entries), KEY_BYTES):
            raise StoreError(f"{self.folder} holds no keys of files but {keys.dtype} {keys.shape}; delete it.")
        order = np.argsort(entries)
        self._entries, self._keys = entries[order], np.array(keys[order])

    def _find(self, entry: bytes) -> bytes | None:
        query: Array = np.frombuffer(entry, KEY)
        index = int(np.searchsorted(self._entries, query)[0])
        if index < len(self._entries) and self._entries[index : index + 1] == query:
            return bytes(self._keys[index])
        return None

    def _give_up(self, error: StoreError) -> None:
        self._table = None
        note(f"Keys of files are not remembered: {error}")


def _entry_of(path: str) -> tuple[bytes | None, bool]:
    """Return a hash of path, size and times as they are, and True where the file had been left alone long enough."""
    now = time.time_ns()  # before the times are read: a later change counts as recent
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None, False
    if not stat.S_ISREG(status.st_mode):
        return None, False
    looks = f"{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode() + os.fsencode(path)
    settled = max(status.st_mtime_ns, status.st_ctime_ns) < now - _RACY_NS
    return hashlib.sha256(looks).digest()[:KEY_BYTES], settled
