"""Progress and notes of long work, reported to a listener instead of printed. Floor 0.

The library reports plans, notes and counts to whoever listens; the command line shows them with rich, a notebook or a
script may install its own listener, and by default nobody listens. No module below the command line prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

LEFT_OUT = "could not be read and were left out"  # in notes, for listeners that show a list of those items themselves


class Listener(Protocol):
    """Receiver of notes and progress."""

    def note(self, text: str) -> None:
        """One sentence worth knowing (a choice made, a plan, something left out)."""

    def start(self, label: str, total: int) -> None:
        """A counted piece of work begins."""

    def advance(self, label: str, steps: int) -> None:
        """``steps`` more of it are done."""

    def finish(self, label: str) -> None:
        """It has ended, whether done or stopped by an error."""


_listener: ContextVar[Listener | None] = ContextVar("headstart_listener", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send every report made inside the block to ``listener`` (None silences it)."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def note(text: str) -> None:
    """Report one sentence."""
    listener = _listener.get()
    if listener is not None:
        listener.note(text)


class Track:
    """A counter handed out by :func:`track`; call it with the number of steps done."""

    def __init__(self, label: str, listener: Listener | None) -> None:
        self._label = label
        self._listener = listener

    def __call__(self, steps: int = 1) -> None:
        if self._listener is not None:
            self._listener.advance(self._label, steps)


@contextmanager
def track(label: str, total: int) -> Iterator[Track]:
    """Report a counted piece of work: ``with track("photos", 600) as done: … done(32)``."""
    listener = _listener.get()
    if listener is not None:
        listener.start(label, total)
    try:
        yield Track(label, listener)
    finally:
        if listener is not None:
            listener.finish(label)
