"""The page of a command: one document for programs, blocks for people, and the commands to go on with."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleRenderable, Group
from rich.padding import Padding
from rich.text import Text

from headstart._base.printing import clean, grid
from headstart.result.record import plain

_PIPED_WIDTH = 160  # a file or a pipe has no width; nothing should be cut short for it


@dataclass(frozen=True)
class Page:
    """The answer of a command.

    Attributes
    ----------
    document : mapping
        Everything, as plain data: what ``--json`` prints.
    blocks : sequence
        Renderables or texts, for people; a blank line comes between them.
    following : sequence of str
        Commands (or a sentence) to go on with; the last thing that is printed.
    """

    document: Mapping[str, Any]
    blocks: Sequence[ConsoleRenderable | str] = ()
    following: Sequence[str] = field(default=())


class _PipeConsole(Console):
    """rich's console, but whoever prints decides what a reader that went away means."""

    def on_broken_pipe(self) -> None:
        """Called inside ``except BrokenPipeError``; rich would leave the program with 1."""
        raise BrokenPipeError


def console(stream: Any = None) -> Console:
    """A console that honours NO_COLOR and COLUMNS, and cuts nothing short where there is no terminal."""
    stream = stream or sys.stdout
    console_ = _PipeConsole(file=stream, highlight=False, emoji=False, markup=False)
    if not console_.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console_.width = _PIPED_WIDTH
    return console_


def show(page: Page) -> None:
    """Print a page for people on standard output."""
    out = console()
    for block in page.blocks:
        out.print(block if not isinstance(block, str) else Text(block))
        out.print()
    for number, line in enumerate(page.following):
        # never wrapped by us: a command must be copied in one piece
        out.print(Text("Next  " if number == 0 else "      ", style="bold green") + Text(line), soft_wrap=True)


def show_json(document: Mapping[str, Any]) -> None:
    """Print exactly one JSON document on standard output."""
    text = json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False)
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    try:
        safe = encoding == "utf8" and text.encode() is not None
    except UnicodeEncodeError:  # a file name that is not UTF-8
        safe = False
    sys.stdout.write((text if safe else json.dumps(plain(document), indent=1, allow_nan=False)) + "\n")
    sys.stdout.flush()


def title(text: str, *facts: str) -> Text:
    """A bold name with facts after it: ``flowers.headstart · 600 images · 6 classes``."""
    line = Text(clean(text), style="bold")
    for fact in filter(None, facts):
        line.append(f" · {clean(fact)}", style="not bold")
    return line


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    align: str = "",
    keep: int | None = None,
    bold: Iterable[int] = (),
) -> ConsoleRenderable:
    """Aligned columns without lines.

    Parameters
    ----------
    align : str
        ``l`` or ``r`` per column; the last letter goes on.
    keep : int, optional
        The column that is never shortened (names to be copied); the first one when not given. It is folded only when it
        alone is wider than the terminal.
    bold : iterable of int
        Rows to point out.
    """
    layout = grid(
        headers, rows, align or "lr", limit=console().width - 4, unbroken=keep or 0, bold=frozenset(bold),
        missing=Text("–", style="dim"),
    )  # fmt: skip
    return Padding(layout, (0, 0, 0, 2), expand=False)


def facts(pairs: Iterable[tuple[str, Any]]) -> ConsoleRenderable:
    """Names and values, one per line; those without a value are left out."""
    rows = [(Text(name, style="dim"), value) for name, value in pairs if value not in (None, "")]
    return table(["", ""], rows, align="ll")


def with_heading(heading: str, block: ConsoleRenderable) -> ConsoleRenderable:
    """A block below its heading."""
    return Group(Text(heading), block)


def interval(low: float | None, high: float | None) -> str:
    """``0.81 – 0.87``; empty when there is none."""
    return "" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def big(number: float) -> str:
    """A count for people.

    >>> big(950), big(3_400_000), big(5.6e9)
    ('950', '3.4 M', '5.6 G')
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 100 * size else f"{number / size:.0f} {unit}"
    return f"{number:.0f}"


def size_of(count: float) -> str:
    """Bytes for people: ``1.4 MB``."""
    return f"{big(count)}B" if count >= 1000 else f"{count:.0f} B"


def shell_line(*words: Any) -> str:
    """A command line that can be copied: paths are quoted where the shell needs it.

    >>> shell_line("predict", "my flowers.headstart", "PHOTO.jpg")
    "headstart predict 'my flowers.headstart' PHOTO.jpg"
    """
    return " ".join(["headstart", *(_quoted(str(word)) for word in words)])


def _quoted(word: str) -> str:
    if os.name == "nt":
        return f'"{word}"' if re.search(r"\s", word) else word
    return shlex.quote(word) if not re.fullmatch(r"[\w@%+=:,./~…\-*]+", word) else word


def short(path: Path | str) -> str:
    """A path relative to where we are when it lies below, else as it is.

    >>> short("see https://example.org//a/../b")
    'see https://example.org//a/../b'
    """
    try:
        if not Path(path).is_absolute():  # or no path at all: a text, which is not to be tidied up
            return str(path)
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
