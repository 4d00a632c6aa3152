"""Atomic files: either complete or absent, never half-written. Floor 0.

Everything that headstart stores is written to a temporary name in the same folder, flushed to the disk, and renamed.
A kill at any moment leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import difflib
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.errors import StoreError

_MAX_JSON = 256 << 20
_LONGEST_NAME = 255


def cache_folder() -> Path:
    """Return ``$HEADSTART_CACHE``, else ``$XDG_CACHE_HOME/headstart``, else ``~/.cache/headstart``."""
    folder = os.environ.get("HEADSTART_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "headstart"


def write_atomic(path: Path, write: bytes | str | Callable[[Path], None]) -> None:
    """Write a file so that it appears complete or not at all.

    Parameters
    ----------
    path : Path
        Its final name; the folder is made when it is missing.
    write : bytes, str, or callable
        The content, or a function that writes it to the temporary path given.

    Raises
    ------
    StoreError
        When the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(write):
            write(temporary)
        else:
            # a file may be called what UTF-8 cannot write; escaped as here it is what JSON means by it, too
            temporary.write_bytes(write.encode("utf-8", "backslashreplace") if isinstance(write, str) else write)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror or error}. Is the disk full or read-only?") from error
    finally:
        with suppress(OSError):  # absent, or in a folder that is none: what went wrong before says more
            temporary.unlink()


def write_json(path: Path, value: object) -> None:
    """Write plain data as readable JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """Read a JSON document of at most 256 MiB; anything else is a StoreError that names the file."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise StoreError(f"{path} is no headstart {what}: {path.stat().st_size:,} bytes of JSON are too many.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"There is no {what} at {path}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged and cannot be read as a {what}: {error}") from error


def did_you_mean(path: Path) -> str:
    """Return `` Did you mean X?`` with the entry of the folder whose name is nearest to a missing path, or ""."""
    try:
        near = difflib.get_close_matches(path.name[:_LONGEST_NAME], os.listdir(path.parent), n=1, cutoff=0.7)
    except (OSError, ValueError):
        return ""
    return f" Did you mean {path.parent / near[0]}?" if near else ""


def _sync(path: Path) -> None:
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) if path.is_dir() else os.O_RDONLY
    try:
        handle = os.open(path, flags)
    except PermissionError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
