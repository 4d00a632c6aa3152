"""Progress of the library on standard error: notes, and bars with rate and time left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from headstart._base.printing import clean, seconds
from headstart._base.progress import LEFT_OUT

_WORTH_A_LINE = 5.0  # seconds; without a terminal, only longer work is mentioned


@dataclass
class _TrackedTask:
    total: int
    begun: float
    done: int = 0
    task: Any = None


class ConsoleListener:
    """Shows notes as lines and counted work as bars; bars only on a terminal, and gone when the work is done.

    Parameters
    ----------
    console : Console
        Of standard error.
    quiet : bool
        Says nothing but warnings.
    listed : bool
        The page of the command will list what was left out: a note of it would say the same.
    """

    def __init__(self, console: Console, *, quiet: bool = False, listed: bool = False) -> None:
        self._console, self._quiet, self._listed = console, quiet, listed
        self._works: dict[str, _TrackedTask] = {}
        self._bars: Any = None

    def note(self, text: str) -> None:
        """One sentence, dim."""
        if not self._quiet and not (self._listed and LEFT_OUT in text):
            self._say(text, "dim")

    def warn(self, text: str) -> None:
        """One sentence that should be read, whether quiet or not."""
        self._say(text, "yellow", "Warning: ")

    def start(self, label: str, total: int) -> None:
        """A counted piece of work begins."""
        work = self._works[label] = _TrackedTask(total, time.monotonic())
        if self._console.is_terminal and not self._quiet:
            if self._bars is None:
                self._bars = _bars(self._console)
                self._bars.start()
            work.task = self._bars.add_task(clean(label), total=total)

    def advance(self, label: str, steps: int) -> None:
        """More of it is done."""
        work = self._works.get(label)
        if work is None:
            return
        work.done += steps
        if work.task is not None:
            self._bars.advance(work.task, steps)

    def finish(self, label: str) -> None:
        """It has ended."""
        work = self._works.pop(label, None)
        if work is None:
            return
        if work.task is not None:
            self._bars.remove_task(work.task)
            if not self._works:
                self.close()
        elif (spent := time.monotonic() - work.begun) > _WORTH_A_LINE:
            self.note(f"{label}: {work.done:,} of {work.total:,} in {seconds(spent)}")

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _say(self, text: str, style: str, before: str = "") -> None:
        for line in text.splitlines() or [""]:
            self._console.print(Text(before + clean(line), style=style), soft_wrap=not self._console.is_terminal)


def _bars(console: Console) -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    class Rate(ProgressColumn):
        """Steps per second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s", style="dim")

    label = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2))
    bar = BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6))
    count = TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=Column(no_wrap=True))
    left = TimeRemainingColumn(compact=True)
    return Progress(label, bar, count, Rate(), left, console=console, transient=True, expand=True)
