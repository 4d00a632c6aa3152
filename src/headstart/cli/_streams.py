"""Standard output belongs to the answer: whatever a library prints meanwhile goes to standard error."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def printing_aside() -> Iterator[None]:
    """Inside the block, Python's ``print`` and the ``printf`` of C libraries write to standard error."""
    real, descriptor = sys.stdout, _descriptor(sys.stdout)
    flush()
    kept = None if descriptor is None else os.dup(descriptor)
    if descriptor is not None and (error := _descriptor(sys.stderr)) is not None:
        os.dup2(error, descriptor)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _flush_c()
        sys.stdout = real
        if kept is not None and descriptor is not None:
            os.dup2(kept, descriptor)
            os.close(kept)


def close_stdout() -> None:
    """From here on nothing reaches standard output: threads and exit handlers may still print."""
    flush()
    out, error = _descriptor(sys.stdout), _descriptor(sys.stderr)
    if out is not None and error is not None:
        os.dup2(error, out)


def drop_stdout() -> None:
    """The reader of standard output has gone away (``| head``): what is left is written to nowhere."""
    with suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def lenient() -> None:
    """A character that the terminal cannot show becomes a question mark, never a crash."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def flush() -> None:
    """Write out what Python still holds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError):  # a stream in memory, or none at all (pythonw)
        return None


def _flush_c() -> None:
    with suppress(Exception):
        ctypes.CDLL(None).fflush(None)
