"""A ranking as pictures: score by depth of every source, and how alike its layers see the data."""

from __future__ import annotations

from headstart.errors import OptionError
from headstart.report._svg import Line, chart, heat, known
from headstart.result import Ranking, Row

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
