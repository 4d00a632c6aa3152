"""Pictures as SVG text: axes, lines with bands, maps of numbers. No dependency, no script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from headstart.errors import OptionError
from headstart.reporting.html import bullets, number, shown, table
from headstart.result.proof import Proof, ProofRow
from headstart.result.ranking import Ranking, Row

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#555555")
_INK, _FAINT = "#333", "#ddd"


_WIDTH, _TOP, _LEFT, _RIGHT, _HEIGHT = 760.0, 34.0, 64.0, 24.0, 300.0
_ACROSS = _WIDTH - _LEFT - _RIGHT
_HUGE = 1e12  # numbers beyond that are no scores: they are not drawn


@dataclass(frozen=True)
class Line:
    """One curve: points (x, y), the interval of each (None where there is none), hints, and a name."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float | None, float | None]] = ()
    labels: Sequence[str] = field(default_factory=tuple)
    heavy: bool = False

    @property
    def drawn(self) -> list[tuple[float, float, tuple[float, float] | None, str]]:
        """What can be drawn of it: (x, y, interval, hint)."""
        band = [(low, high) if known(low) and known(high) else None for low, high in self.band]
        whole = zip_longest(self.points, band, self.labels)
        return [(x, y, ends, hint or "") for (x, y), ends, hint in whole if known(x) and known(y)]  # type: ignore[misc]


def known(value: object) -> bool:
    """Whether it is a number that has a place on a page.

    >>> [known(value) for value in (0.5, None, float("nan"), 1e300, "high")]
    [True, False, False, False, False]
    """
    return isinstance(value, (int, float)) and -_HUGE < value < _HUGE


@dataclass(frozen=True)
class _Plane:
    """Where numbers lie on the page: the least and the greatest of either axis."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def around(cls, lines: Sequence[Line], others: Sequence[float]) -> _Plane:
        points = [point for line in lines for point in line.drawn]
        xs = [x for x, _, _, _ in points] or [0.0, 1.0]
        ys = [y for _, y, _, _ in points] + [end for _, _, ends, _ in points if ends for end in ends] + [*others]
        low, high = min(ys, default=0.0), max(ys, default=1.0)
        room, aside = 0.06 * (high - low or 1.0), 0.03 * (max(xs) - min(xs)) or 0.5
        return cls(min(xs) - aside, max(xs) + aside, low - room, high + room)

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = _ACROSS * (x - self.first) / (self.last - self.first)
        return _LEFT + across, _TOP + _HEIGHT * (self.high - y) / (self.high - self.low)


def text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, extra: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{shown(words)}</text>'


def svg_document(width: float, height: float, parts: Sequence[str], title: str) -> str:
    """A whole SVG, readable by screen readers, in the reader's own font."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'width="{width:.0f}" font-family="system-ui, sans-serif" fill="{_INK}"><title>{shown(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )


def chart(
    lines: Sequence[Line], *, x: str, y: str, title: str, mark: tuple[float, float, str] | None = None,
    level: tuple[float, str] | None = None, at: Sequence[tuple[float, str]] | None = None,
) -> str:  # fmt: skip
    """Curves with their bands over a shared scale; their names below.

    Parameters
    ----------
    mark : (x, y, words), optional
        A point to point out.
    level : (y, words), optional
        A dashed line across.
    at : sequence of (x, words), optional
        What stands below the x axis; round numbers when not given.
    """
    level = level if level and known(level[0]) else None
    plane = _Plane.around(lines, [level[0]] if level else [])
    if at is None:
        at = [(value, f"{value:.10g}") for value in ticks(plane.first, plane.last)]
    parts = [text(0, 16, title, size=14, extra='font-weight="600"'), *_axes(plane, x, y, at)]
    if level:
        _, up = plane.place(plane.first, level[0])
        parts += [_across(up, 'stroke="#888" stroke-dasharray="5 4"')]
        parts += [text(_LEFT + _ACROSS, up - 5, level[1], anchor="end", size=11, extra='fill="#666"')]
    for place, line in enumerate(lines):
        parts += _svg_curve(line, COLOURS[place % len(COLOURS)], plane)
    if mark:
        parts += _pointed_out(plane, *mark)
    below = _TOP + _HEIGHT + 60
    for place, line in enumerate(lines):
        row, column = divmod(place, 2)
        parts += _key(_LEFT + column * _ACROSS / 2, below + 20 * row, line.name, COLOURS[place % len(COLOURS)])
    return svg_document(_WIDTH, below + 20 * ((len(lines) + 1) // 2), parts, title)


def _axes(plane: _Plane, x: str, y: str, at: Sequence[tuple[float, str]]) -> list[str]:
    parts, middle = [], _TOP + _HEIGHT / 2
    for value in ticks(plane.low, plane.high):
        _, up = plane.place(plane.first, value)
        parts += [_across(up, f'stroke="{_FAINT}"'), text(_LEFT - 8, up + 4, f"{value:.10g}", anchor="end", size=11)]
    for value, words in at:
        parts.append(text(plane.place(value, plane.low)[0], _TOP + _HEIGHT + 18, words, anchor="middle", size=11))
    parts.append(text(_LEFT + _ACROSS / 2, _TOP + _HEIGHT + 36, x, anchor="middle"))
    return [*parts, text(14, middle, y, anchor="middle", extra=f'transform="rotate(-90 14 {middle:.0f})"')]


def _across(up: float, how: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_LEFT + _ACROSS}" y1="{up:.1f}" y2="{up:.1f}" {how}/>'


def _pointed_out(plane: _Plane, x: float, y: float, words: str) -> list[str]:
    at, up = plane.place(x, y)
    side, beside = ("end", at - 12) if at > _LEFT + _ACROSS / 2 else ("start", at + 12)
    ring = f'<circle cx="{at:.1f}" cy="{up:.1f}" r="7" fill="none" stroke="{_INK}" stroke-width="2"/>'
    return [ring, text(beside, up - 10, words, anchor=side, extra='font-weight="600"')]


def _svg_curve(line: Line, colour: str, plane: _Plane) -> list[str]:
    points = [plane.place(x, y) for x, y, _, _ in line.drawn]
    bounds = [
        None if ends is None else (plane.place(x, ends[0]), plane.place(x, ends[1])) for x, _, ends, _ in line.drawn
    ]
    parts = []
    whole = [ends for ends in bounds if ends is not None]
    if len(whole) == len(points) > 1:
        around = _path([*(high for _, high in whole), *(low for low, _ in whole[::-1])])
        parts.append(f'<polygon points="{around}" fill="{colour}" opacity="0.12"/>')
    else:  # a band needs two points, and no gaps
        for (at, low), (_, high) in whole:
            edge = f"M{at:.1f} {low:.1f}V{high:.1f}M{at - 4:.1f} {low:.1f}h8M{at - 4:.1f} {high:.1f}h8"
            parts.append(f'<path d="{edge}" stroke="{colour}" class="interval"/>')
    width = 3 if line.heavy else 1.8
    parts.append(f'<polyline points="{_path(points)}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
    for (a, b), (_, _, _, words) in zip(points, line.drawn, strict=True):
        hint = f"<title>{shown(words)}</title>" if words else ""
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}">{hint}</circle>')
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _key(x: float, y: float, name: str, colour: str) -> list[str]:
    return [f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="14" height="9" fill="{colour}"/>', text(x + 20, y, name)]


def heat(
    values: Sequence[Sequence[float | None]], names: Sequence[str], groups: Sequence[str], *, title: str
) -> str:  # fmt: skip
    """A square map of numbers from 0 to 1, white to dark blue, with lines between groups.

    Parameters
    ----------
    names, groups : sequence of str
        What each row (and column) is, and to which group it belongs.
    """
    n = max(len(values), 1)
    cell = max(min(420 / n, 26.0), 4.0)
    left, top = 190.0, 56.0
    parts = [text(0, 16, title, size=14, extra='font-weight="600"')]
    step = max(1, round(11 / cell))
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            hint = f"<title>{shown(f'{names[i]} and {names[j]}: ')}{number(value, '.2f')}</title>"
            parts.append(
                f'<rect x="{left + j * cell:.1f}" y="{top + i * cell:.1f}" width="{cell + 0.3:.1f}" '
                f'height="{cell + 0.3:.1f}" fill="{shade(value)}">{hint}</rect>'
            )
        if i % step == 0:
            parts.append(text(left - 6, top + (i + 0.5) * cell + 4, names[i], anchor="end", size=10))
    for name, start, end in _runs(groups):
        for at in (start, end):
            across, down = top + at * cell, left + at * cell
            end_x, end_y = left + n * cell, top + n * cell
            edges = f"M{left} {across:.1f}H{end_x:.1f}M{down:.1f} {top}V{end_y:.1f}"
            parts.append(f'<path d="{edges}" stroke="{_INK}"/>')
        room = max(int((end - start) * cell / 6.2), 3)
        short = name if len(name) <= room else "…" + name[-(room - 1) :]
        parts.append(text(left + (start + end) / 2 * cell, top - 8, short, anchor="middle", size=11))
    scale = left + n * cell + 26
    for i in range(50):
        fill = shade(1 - i / 49)
        parts.append(f'<rect x="{scale:.1f}" y="{top + i * 3:.1f}" width="14" height="3.4" fill="{fill}"/>')
    parts += [text(scale + 20, top + 9, "1 the same", size=11), text(scale + 20, top + 150, "0 unlike", size=11)]
    return svg_document(scale + 100, top + n * cell + 14, parts, title)


def _runs(groups: Sequence[str]) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    for i, name in enumerate(groups):
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], i + 1)
        else:
            found.append((name, i, i + 1))
    return found


def shade(value: float | None) -> str:
    """White at 0 to dark blue at 1; grey where there is no number.

    >>> shade(0), shade(1)
    ('#ffffff', '#08306b')
    """
    if value is None or not known(value):
        return "#bbbbbb"
    value = min(max(value, 0.0), 1.0)
    ends = ((255, 255, 255), (66, 146, 198), (8, 48, 107))
    low, high = (ends[0], ends[1]) if value < 0.5 else (ends[1], ends[2])
    share = value * 2 if value < 0.5 else value * 2 - 1
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers inside a range.

    >>> ticks(0.13, 0.87)
    [0.2, 0.4, 0.6, 0.8]
    """
    if not high > low:
        return [low]
    step = 10.0 ** _power((high - low) / most)
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most), 10)
    found, at = [], round(low / step)
    while at * step <= high + 1e-9 * step:
        if at * step >= low - 1e-9 * step:
            found.append(round(at * step, 10))
        at += 1
    return found


def _power(value: float) -> int:
    return math.floor(math.log10(value))


# ---- A proof on the page: its verdict, the learning curves as a picture and as a table, and what was saved. ----


_APART = 0.25  # between contenders where all of them have the same number of labels, in doublings


def section(found: Proof) -> Iterator[str]:
    """The parts of a proof's section, in order."""
    yield f'<h2>Proof</h2><p class="verdict">{shown(found.verdict)}</p>'
    yield curves(found)
    rows = [line for line in found.table_rows if any(line)]
    if rows:
        gains = [i for i, line in enumerate(rows) if line[1].startswith("→")]
        yield table(found.table_headers, rows, left=(1, 2), tinted=gains)
    yield bullets("Labels saved", [f"{one}." for one in found.summary])
    parts = {"Time saved": found.time_saved, "On the source task": found.forgetting}
    for heading, part in parts.items():
        yield bullets(heading, [] if part is None else [f"{part}."])


def curves(found: Proof) -> str:
    """Score over labels per class, one line per contender with its interval; empty where there is nothing to show."""
    rows = [row for row in found.rows if known(row.accuracy) and row.shots > 0]
    if not rows:
        return ""
    shots = sorted({row.shots for row in rows})
    names = list(dict.fromkeys(row.name for row in rows))
    lines = []
    for place, name in enumerate(names):
        # one number of labels has all intervals on one spot: they stand side by side
        beside = 0.0 if len(shots) > 1 else _APART * (place - (len(names) - 1) / 2)
        lines.append(_curve([row for row in rows if row.name == name], beside))
    metric = found.metric.replace("_", " ")
    return chart(
        lines, x="labels per class", y=metric, title="What the same labels are worth, with and without transfer",
        level=None if found.chance is None else (found.chance, "guessing"),
        at=[(math.log2(one), str(one)) for one in shots],
    )  # fmt: skip


def _curve(rows: list[ProofRow], beside: float) -> Line:
    rows = sorted(rows, key=lambda row: row.shots)
    what = rows[0].description or rows[0].name
    return Line(
        f"transfer: {what}" if rows[0].transfer else what,
        [(math.log2(row.shots) + beside, row.accuracy) for row in rows],
        [(row.low, row.high) for row in rows],
        [f"{what}, {row.shots} labels per class: {row.accuracy:.3f}" for row in rows],
        heavy=rows[0].transfer,
    )


# ---- A ranking as pictures: score by depth of every source, and how alike its layers see the data. ----


_LONGEST = 40
_CELLS = 72  # of a map, across


def picture(ranking: Ranking, kind: str = "depth") -> str:
    """One picture of a ranking as a self-contained SVG.

    Parameters
    ----------
    ranking : Ranking
    kind : {"depth", "likeness"}
        The score over the depth of every source, with intervals; or linear CKA between all layers.

    Returns
    -------
    str
        Empty where there is nothing to show.
    """
    if kind not in ("depth", "likeness"):
        raise OptionError(f"kind must be 'depth' or 'likeness'; got {kind!r}.")
    return _depth(ranking) if kind == "depth" else _likeness(ranking)


def _depth(ranking: Ranking) -> str:
    scored = [row for row in ranking.rows if known(row.accuracy) and known(row.depth)]
    if not scored:
        return ""
    sources = list(dict.fromkeys((row.source, row.fingerprint) for row in scored))
    lines = [_ranking_line([row for row in scored if (row.source, row.fingerprint) == one]) for one in sources]
    best = scored[0]
    words = best.layer if len(sources) == 1 else f"{best.layer} of {best.source[-_LONGEST:]}"
    metric = ranking.metric.replace("_", " ")
    return chart(
        lines, x="depth (share of the network's work)", y=f"{metric}, cross-validated",
        title="What each layer is worth on your data", mark=(best.depth or 0.0, best.accuracy or 0.0, words),
        level=None if ranking.baseline is None else (ranking.baseline, "knowing nothing"),
    )  # fmt: skip


def _ranking_line(rows: list[Row]) -> Line:
    rows = sorted(rows, key=lambda row: row.depth or 0.0)
    points = [(row.depth or 0.0, row.accuracy or 0.0) for row in rows]
    hints = [f"{row.layer}: {row.accuracy:.3f}" for row in rows]
    return Line(rows[0].source[-_LONGEST:], points, [(row.low, row.high) for row in rows], hints)


def _likeness(ranking: Ranking) -> str:
    cka = ranking.shared.get("cka") or {}
    labels, values = cka.get("labels") or [], cka.get("values") or []
    if len(labels) < 2:
        return ""
    every = -(-len(labels) // _CELLS)
    labels, values = labels[::every], [row[::every] for row in values[::every]]
    left_out = f", one layer in {every}" if every > 1 else ""
    return heat(
        values, [one["layer"] for one in labels], [one["source"] for one in labels],
        title=f"How alike layers see your data (linear CKA{left_out})",
    )  # fmt: skip
