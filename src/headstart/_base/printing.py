"""Text for any terminal: one kind of aligned table, paragraphs and lists, at most 100 columns wide. Floor 0."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
_PADDING = 2  # cells between columns
_MIN_CELLS = 8  # of a column of words


def clean(text: object) -> str:
    """One line without control characters: names of files and classes are printed, never obeyed by the terminal.

    >>> clean("a\\x1b[31mb\\nc")
    'a·[31mb·c'
    """
    return "".join("·" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in str(text))


def width(text: str) -> int:
    """Return how many terminal cells a text takes: East Asian wide characters take two, combining marks none."""
    return cell_len(text)


def shorten(text: str, cells: int) -> str:
    """The text in at most ``cells`` cells; what is left out of its middle becomes ``…``.

    >>> shorten("a/very/long/path.jpg", 11)
    'a/ver…h.jpg'
    """
    if width(text) <= cells:
        return text
    head, tail, room = "", "", cells - 1
    front, back = 0, len(text)
    while front < back:
        side = text[front] if width(head) <= width(tail) else text[back - 1]
        if width(head) + width(tail) + width(side) > room:
            break
        if width(head) <= width(tail):
            head, front = head + side, front + 1
        else:
            tail, back = side + tail, back - 1
    return head + "…" + tail


def grid(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    align: str = "lr",
    *,
    limit: int = WIDTH,
    unbroken: int | None = None,
    bold: Collection[int] = (),
    missing: Text | str = "-",
) -> Table:
    """Lay rows out under their headers, for rich to print; nothing is cut, long cells go on in the next line.

    Parameters
    ----------
    headers : sequence of str
        One per column; no line of headers when all are empty.
    rows : iterable of sequences
        Cells: rich texts are taken as they are, anything else as harmless text on one line.
    align : str
        ``l`` or ``r`` per column; the last letter goes on.
    limit : int
        Terminal cells per line.
    unbroken : int, optional
        A column that keeps its cells in one line as long as it alone fits (names to be copied). Right-aligned columns
        keep theirs while there is room for all of them.
    bold : collection of int
        Rows to point out.
    missing : text
        Stands for None.
    """
    align += align[-1] * len(headers)
    cells = [[_cell(value, missing) for value in row] for row in rows]
    widest = [max([cell_len(header), *(row[i].cell_len for row in cells)]) for i, header in enumerate(headers)]
    numbers = sum(widest[i] + _PADDING for i in range(len(headers)) if align[i] == "r" and i != unbroken)
    numbers_fit = numbers + (0 if unbroken is None else widest[unbroken]) <= limit
    layout = Table(
        box=None, padding=(0, _PADDING, 0, 0), pad_edge=False, header_style="dim", show_header=any(headers)
    )  # fmt: skip
    for i, header in enumerate(headers):
        fits = widest[i] <= limit if i == unbroken else align[i] == "r" and numbers_fit
        justify: Literal["left", "right"] = "right" if align[i] == "r" else "left"
        layout.add_column(Text(clean(header)), justify=justify, no_wrap=fits, overflow="fold")
    for i, row in enumerate(cells):
        layout.add_row(*row, style="bold" if i in bold else None)
    return layout


def _cell(value: object, missing: Text | str) -> Text:
    if value is None:
        value = missing
    return value if isinstance(value, Text) else Text(clean(value))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], align: str = "lr", limit: int = WIDTH) -> str:
    """Return rows under their headers, columns aligned, as plain text without colour codes; see :func:`grid`.

    Where numbers have no room in one line, whole columns are left out from the right.

    Examples
    --------
    >>> print(table(["class", "n"], [["glass", 12], ["paper", 7]]))
    class   n
    glass  12
    paper   7
    """
    align += align[-1] * len(headers)
    cells = [[_cell(value, "-") for value in row] for row in rows]
    needed = []
    for i, header in enumerate(headers):
        widest = max([cell_len(header), *(row[i].cell_len for row in cells)])
        needed.append(widest if align[i] == "r" else min(widest, _MIN_CELLS))
    shown = len(headers)
    while shown > 1 and sum(needed[:shown]) + _PADDING * (shown - 1) > limit:
        shown -= 1
    page = io.StringIO()
    # every setting that rich would else take from the environment of whoever prints is fixed
    console = Console(file=page, width=limit, color_system=None, force_terminal=False, legacy_windows=False)
    console.print(grid(headers[:shown], [row[:shown] for row in cells], align, limit=limit))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())


def paragraph(text: object, indent: str = "", limit: int = WIDTH) -> str:
    """Text in lines of at most ``limit`` cells, broken at spaces; lines after the first are indented further.

    >>> print(paragraph("one two three", "- ", limit=9))
    - one two
      three
    """
    lines, line, empty = [], indent, True
    for word in clean(text).split():
        word = shorten(word, limit - width(indent))
        if not empty and width(line) + 1 + width(word) > limit:
            lines.append(line)
            line, empty = " " * width(indent), True
        line, empty = line + word if empty else f"{line} {word}", False
    return "\n".join([*lines, line])


def listing(title: str, entries: Sequence[object], limit: int = 5) -> str:
    """A title with indented paragraphs under it, the first few only; empty when there are none."""
    if not entries:
        return ""
    lines = [paragraph(entry, "  ") for entry in entries[:limit]]
    more = [f"  … and {len(entries) - limit} more"] if len(entries) > limit else []
    return "\n".join([title, *lines, *more])


def blocks(*parts: str) -> str:
    """Parts that are not empty, a blank line between them."""
    return "\n\n".join(part for part in parts if part)


def seconds(value: float | None) -> str:
    """A duration for people.

    >>> seconds(0.0123), seconds(3.21), seconds(75), seconds(4000)
    ('12 ms', '3.2 s', '1 min 15 s', '1 h 6 min')
    """
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
