"""Pieces of a page: what a record says is shown as text and never obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from headstart._base.printing import clean


def shown(value: object) -> str:
    """Any value as harmless text, on one line.

    >>> shown("<b>a\\nb")
    '&lt;b&gt;a·b'
    """
    return escape(clean(value))


def number(value: Any, how: str) -> str:
    """A number in its format; a dash where there is none."""
    known = isinstance(value, (int, float)) and value == value
    return format(value, how if abs(value) < 1e6 else ".3g") if known else "–"


def bullets(heading: str, entries: Iterable[object]) -> str:
    """A list under its heading; nothing where there are no entries."""
    points = "".join(f"<li>{shown(one)}</li>" for one in entries)
    return f"<h2>{shown(heading)}</h2><ul>{points}</ul>" if points else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], *, left: Sequence[int] = (), tinted: Iterable[int] = ()
) -> str:  # fmt: skip
    """A table; ``left`` are the columns of words, ``tinted`` the rows to point out."""
    tinted = set(tinted)

    def cells(tag: str, row: Sequence[object]) -> str:
        marks = (" class=l" if i in left else "" for i in range(len(row)))
        return "".join(f"<{tag}{mark}>{shown(value)}</{tag}>" for mark, value in zip(marks, row, strict=True))

    body = "".join(f"<tr{' class=tinted' if i in tinted else ''}>{cells('td', row)}</tr>" for i, row in enumerate(rows))
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'
