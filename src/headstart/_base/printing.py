"""Aligned text tables for any terminal, at most 100 columns wide. Floor 1: standard library only."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

WIDTH = 100
_GAP = "  "
_LEAST = 8


def clean(text: object) -> str:
    """One line without control characters: names of files and classes are printed, never obeyed by the terminal.

    >>> clean("a\\x1b[31mb\\nc")
    'a·[31mb·c'
    """
    return "".join("·" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in str(text))


def width(text: str) -> int:
    """How many terminal cells a text takes: East Asian wide characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


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


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str = "", limit: int = WIDTH) -> str:
    """Rows under their headers, columns aligned.

    Parameters
    ----------
    headers : sequence of str
        One per column.
    rows : sequence of sequences
        Cells; None prints as ``-``.
    align : str
        ``l`` or ``r`` per column; the last letter goes on, and the default is left then right.
    limit : int
        Cells per line. Left-aligned columns are shortened first, then whole columns are left out from the right.

    Examples
    --------
    >>> print(table(["class", "n"], [["glass", 12], ["paper", 7]]))
    class   n
    glass  12
    paper   7
    """
    align = align or "lr"
    align = (align + align[-1] * len(headers))[: len(headers)]
    cells = [[clean(h) for h in headers]] + [["-" if c is None else clean(c) for c in row] for row in rows]
    widths = _fit([max(width(row[i]) for row in cells) for i in range(len(headers))], align, limit)
    return "\n".join(
        _GAP.join(_pad(shorten(cell, w), w, a) for cell, w, a in zip(row, widths, align)).rstrip() for row in cells
    )


def _pad(text: str, cells: int, align: str) -> str:
    space = " " * (cells - width(text))
    return space + text if align == "r" else text + space


def _fit(widths: list[int], align: str, limit: int) -> list[int]:
    def over() -> int:
        return sum(widths) + len(_GAP) * (len(widths) - 1) - limit

    while over() > 0:
        long = [i for i, w in enumerate(widths) if align[i] == "l" and w > _LEAST]
        if long:
            widths[max(long, key=lambda i: widths[i])] -= 1
        elif len(widths) > 1:
            widths.pop()
        else:
            widths[0] = limit
    return widths


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


def listing(title: str, entries: Sequence[object], most: int = 5) -> str:
    """A title with indented paragraphs under it, the first few only; empty when there are none."""
    if not entries:
        return ""
    lines = [paragraph(entry, "  ") for entry in entries[:most]]
    more = [f"  … and {len(entries) - most} more"] if len(entries) > most else []
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
