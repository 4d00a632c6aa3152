"""Figures of rankings and proofs as plotly specifications: plain data that the page's script draws.

Names of sources, layers and classes come from files that anyone may have written: plotly reads a few HTML tags in its
texts, so every text is escaped here (:func:`text`), and a number that no axis can hold is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from headstart._base.printing import clean
from headstart.errors import OptionError
from headstart.result.proof import Proof, ProofRow
from headstart.result.ranking import Ranking, Row

# Okabe and Ito's palette: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6d31", "#555555")
_MAX_NUMBER = 1e12  # numbers beyond that are no scores: they are not drawn
_MAX_NAME = 40
_MAX_CELLS = 72  # of a map, across
_SIDE_BY_SIDE = 0.25  # in doublings of labels, between methods that all have the same number of labels

Spec = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A score with its 95 % interval, None where there is none, and the text that hovers over it."""

    x: float
    y: float
    low: float | None
    high: float | None
    hint: str


def is_drawable(value: object) -> bool:
    """Return True for a number that an axis can hold.

    >>> [is_drawable(value) for value in (0.5, None, float("nan"), 1e300, "high")]
    [True, False, False, False, False]
    """
    return isinstance(value, (int, float)) and -_MAX_NUMBER < value < _MAX_NUMBER


def text(value: object) -> str:
    """Return any value as one line of text in which plotly finds no tag.

    >>> text("<b>a\\nb")
    '&lt;b&gt;a·b'
    """
    return escape(clean(value), quote=False)


def depth_figure(ranking: Ranking) -> Spec | None:
    """Score over the depth of every source, with intervals; None where nothing was scored."""
    scored = [row for row in ranking.rows if is_drawable(row.accuracy) and is_drawable(row.depth)]
    if not scored:
        return None
    sources = list(dict.fromkeys((row.source, row.fingerprint) for row in scored))
    traces = []
    for i, key in enumerate(sources):
        rows = [row for row in scored if (row.source, row.fingerprint) == key]
        traces += _curve(key[0][-_MAX_NAME:], [_ranking_point(row) for row in rows], COLOURS[i % len(COLOURS)])
    best = scored[0]
    label = best.layer if len(sources) == 1 else f"{best.layer} of {best.source[-_MAX_NAME:]}"
    layout = _layout(
        "Score of each layer on your data", "depth (share of the network's work)", f"{ranking.metric}, cross-validated"
    )
    layout["annotations"] = [{"x": best.depth, "y": best.accuracy, "text": f"<b>{text(label)}</b>", "ay": -36}]
    return {"data": traces, "layout": _with_level(layout, ranking.baseline)}


def _ranking_point(row: Row) -> Point:
    return Point(row.depth or 0.0, row.accuracy or 0.0, row.low, row.high, f"{row.layer}: {row.accuracy:.3f}")


def similarity_figure(ranking: Ranking) -> Spec | None:
    """Map of linear CKA between all layers; None for fewer than two."""
    cka = ranking.shared.get("cka") or {}
    labels, values = cka.get("labels") or [], cka.get("values") or []
    if len(labels) < 2:
        return None
    step = -(-len(labels) // _MAX_CELLS)
    names = [text(f"{label['layer']} of {label['source']}") for label in labels[::step]]
    rows = [row[::step] for row in values[::step]]
    if any(len(row) != len(names) for row in rows) or len(rows) != len(names):
        raise ValueError("a map of layers has as many rows and columns as layers")
    thinned = f", one layer in {step}" if step > 1 else ""
    heatmap = {
        "type": "heatmap",
        "z": [[value if is_drawable(value) else None for value in row] for row in rows],
        "text": [[f"{a} and {b}" for b in names] for a in names],
        "hovertemplate": "%{text}: %{z:.2f}<extra></extra>",
        "colorscale": "Blues",
        "reversescale": True,
        "zmin": 0,
        "zmax": 1,
    }
    ticks = {"tickvals": list(range(len(names))), "ticktext": [text(label["layer"]) for label in labels[::step]]}
    layout = _layout(f"Similarity of layers on your data (linear CKA{thinned})", "", "")
    layout["xaxis"] = {**ticks, "automargin": True, "constrain": "domain", "showgrid": False, "zeroline": False}
    layout["yaxis"] = {**layout["xaxis"], "autorange": "reversed", "scaleanchor": "x"}
    layout["height"] = 560
    return {"data": [heatmap], "layout": layout}


def curves_figure(proof: Proof) -> Spec | None:
    """Score over labels per class, one line per method with its interval; None where there is nothing to show."""
    rows = [row for row in proof.rows if is_drawable(row.accuracy) and row.shots > 0]
    if not rows:
        return None
    shots = sorted({row.shots for row in rows})
    names = list(dict.fromkeys(row.name for row in rows))
    traces = []
    for i, name in enumerate(names):
        # one number of labels has all intervals on one spot: they stand side by side
        offset = 0.0 if len(shots) > 1 else _SIDE_BY_SIDE * (i - (len(names) - 1) / 2)
        ours = [row for row in rows if row.name == name]
        description = ours[0].description or ours[0].name
        title = f"transfer: {description}" if ours[0].transfer else description
        points = [_proof_point(row, description, offset) for row in ours]
        traces += _curve(title, points, COLOURS[i % len(COLOURS)], width=4 if ours[0].transfer else 2)
    layout = _layout("Score with and without transfer, for the same labels", "labels per class", proof.metric)
    # doublings are equally far apart
    layout["xaxis"] |= {"tickvals": [math.log2(count) for count in shots], "ticktext": [str(count) for count in shots]}
    return {"data": traces, "layout": _with_level(layout, proof.chance)}


def _proof_point(row: ProofRow, description: str, offset: float) -> Point:
    hint = f"{description}, {row.shots} labels per class: {row.accuracy:.3f}"
    return Point(math.log2(row.shots) + offset, row.accuracy, row.low, row.high, hint)


def figure(record: Ranking | Proof, kind: str = "depth") -> Spec | None:
    """Return a figure of a record; ``plotly.graph_objects.Figure(spec)`` shows it in a notebook.

    Parameters
    ----------
    record : Ranking or Proof
    kind : {"depth", "similarity"}
        Of a ranking: the score over the depth of every source, with intervals; or linear CKA between all layers.

    Returns
    -------
    dict or None
        ``data`` and ``layout``; None where there is nothing to show.
    """
    if isinstance(record, Proof):
        return curves_figure(record)
    kinds = {"depth": depth_figure, "similarity": similarity_figure}
    if kind not in kinds:
        raise OptionError(f"kind must be 'depth' or 'similarity'; got {kind!r}.")
    return kinds[kind](record)


def _curve(name: str, points: Sequence[Point], colour: str, *, width: int = 2) -> list[Spec]:
    points = sorted(points, key=lambda point: point.x)
    complete = [point for point in points if is_drawable(point.low) and is_drawable(point.high)]
    line: Spec = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": text(name),
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "hovertext": [text(point.hint) for point in points],
        "hoverinfo": "text",
        "line": {"color": colour, "width": width},
    }
    if len(complete) < len(points) or len(points) < 2:
        # a band needs two points and no gaps: else the intervals that are known are drawn as bars
        line["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_arm(point.high, point.y) for point in points],
            "arrayminus": [_arm(point.y, point.low) for point in points],
        }
        return [line]
    there_and_back = [*points, *reversed(points)]
    ends = [*(point.high for point in points), *(point.low for point in reversed(points))]
    band = {
        "type": "scatter",
        "x": [point.x for point in there_and_back],
        "y": ends,
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.12,
        "mode": "none",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, line]


def _arm(upper: float | None, lower: float | None) -> float | None:
    return upper - lower if is_drawable(upper) and is_drawable(lower) else None  # type: ignore[operator]


def _layout(title: str, x: str, y: str) -> Spec:
    return {
        "title": {"text": text(title), "font": {"size": 15}, "x": 0, "xanchor": "left"},
        "xaxis": {"title": {"text": text(x)}, "zeroline": False},
        "yaxis": {"title": {"text": text(y.replace("_", " "))}, "zeroline": False, "automargin": True},
        "legend": {"orientation": "h", "y": -0.22},
        "margin": {"l": 60, "r": 16, "t": 44, "b": 60},
        "height": 420,
        "template": "none",
        "font": {"family": "system-ui, sans-serif"},
    }


def _with_level(layout: Spec, chance: float | None) -> Spec:
    """Draw a dashed line at the chance level, where it is known."""
    if not is_drawable(chance):
        return layout
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": chance, "y1": chance}
    label = {"text": "chance level", "textposition": "end", "font": {"size": 11}}
    return {**layout, "shapes": [{**line, "line": {"dash": "dash", "color": "#888"}, "label": label}]}
