"""A proof on the page: its verdict, the learning curves as a picture and as a table, and what was saved."""

from __future__ import annotations

import math
from collections.abc import Iterator

from headstart.report._html import bullets, shown, table
from headstart.report._svg import Line, chart, known
from headstart.result import Proof, ProofRow

_APART = 0.25  # between contenders where all of them have the same number of labels, in doublings


def section(found: Proof) -> Iterator[str]:
    """The parts of a proof's section, in order."""
    yield f'<h2>Proof</h2><p class="verdict">{shown(found.verdict)}</p>'
    yield curves(found)
    rows = [line for line in found.lines if any(line)]
    if rows:
        gains = [i for i, line in enumerate(rows) if line[1].startswith("→")]
        yield table(found.headers, rows, left=(1, 2), tinted=gains)
    yield bullets("Labels saved", [f"{one}." for one in found.shown])
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
    what = rows[0].what or rows[0].name
    return Line(
        f"transfer: {what}" if rows[0].transfer else what,
        [(math.log2(row.shots) + beside, row.accuracy) for row in rows],
        [(row.low, row.high) for row in rows],
        [f"{what}, {row.shots} labels per class: {row.accuracy:.3f}" for row in rows],
        heavy=rows[0].transfer,
    )
