"""report(): one self-contained HTML page for rankings, results and proofs: templates, and a registry of sections."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart._base import extras
from headstart._base.files import write_atomic
from headstart._base.printing import clean
from headstart.errors import DataError
from headstart.reporting.figures import Spec, curves_figure, depth_figure, similarity_figure
from headstart.result.proof import Proof
from headstart.result.ranking import Ranking, Row
from headstart.result.record import Record, plain
from headstart.result.result import Confusion, Result

_COLUMNS = {
    "logme": "LogME", "h_score": "H-score", "knn": "kNN", "nce": "NCE", "leep": "LEEP", "static": "params (M)",
    "seconds": "seconds", "macs": "multiply-adds (M)", "mbytes": "MB",
}  # fmt: skip
_FIRST_ROWS, _MAX_SKIPPED = 12, 20
# a record that was read from a file may hold what its types do not rule out
_NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class HtmlTable:
    """Cells of a table; ``left`` are the columns of words, ``tinted`` the rows to point out."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    left: Sequence[int] = ()
    tinted: Sequence[int] = ()


def report(results: Record | Sequence[Record], path: str | Path) -> Path:
    """Write one self-contained HTML file: tables, verdicts in words, figures; opens anywhere, fetches nothing.

    Parameters
    ----------
    results : Ranking, Result, Proof, or a list of them
        In the order in which they are shown.
    path : str or Path

    Returns
    -------
    Path

    Raises
    ------
    DataError
        When there is nothing to report, something that is no record, or a record whose fields hold nonsense.
    MissingPackage
        Without jinja2. Without plotly the page has a line that says so in the place of each figure.
    StoreError
        When the file cannot be written.
    """
    records: list[Any] = list(results) if isinstance(results, (list, tuple)) else [results]
    wrong = [type(record).__name__ for record in records if not isinstance(record, Record)]
    if wrong or not records:
        got = ", ".join(wrong) or "nothing"
        raise DataError(f"report() takes a Ranking, a Result, a Proof, or a list of them; got {got}.")
    jinja2 = extras.require_package("jinja2", "to write a report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if hasattr(value, "__html__") else clean(value),
    )
    environment.globals["number"] = number
    sections, figures = [], []
    for position, record in enumerate(records, 1):
        kind = type(record).__name__
        try:
            context = {**SECTIONS[type(record)](record), **_ending(record)}
            specs = context.pop("figures")
            ids = {name: f"figure-{position}-{name}" for name, spec in specs.items() if spec is not None}
            figures += [{"id": ids[name], "spec": _script_json(specs[name])} for name in ids]
            template = environment.get_template(f"{kind.lower()}.html.j2")
            sections.append(template.render(record=record, figures=ids, **context))
        except _NONSENSE as error:
            raise DataError(
                f"Record {position} is no {kind} that can be shown: {type(error).__name__}, {error}."
            ) from error
    missing = "" if extras.is_installed("plotly") else f"Figures need plotly. {extras.install_hint('plotly')}"
    page = environment.get_template("page.html.j2").render(
        sections=sections, figures=figures, missing=missing, plotly_js=_plotly_js() if figures and not missing else ""
    )
    target = Path(path).expanduser()
    write_atomic(target, page)
    return target


def number(value: object, format_spec: str) -> str:
    """Return a number in its format; a dash where there is none."""
    if not isinstance(value, (int, float)) or value != value:
        return "–"
    return format(value, format_spec if abs(value) < 1e6 else ".3g")


def _plotly_js() -> str:
    return str(extras.require_package("plotly.offline", "to draw figures").get_plotlyjs())


def _script_json(spec: Spec) -> str:
    """Return JSON that may stand in a script: no tag can begin or end in it, and nothing in it is not ASCII."""
    encoded = json.dumps(spec, allow_nan=False)
    return encoded.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# ---- Sections: what a template shows of a record. ----


def _ranking(ranking: Ranking) -> dict[str, Any]:
    items = ranking.cost.get("items")
    counted = f" on {items:,} items" if items else ""
    several_tied = sum(row.tied for row in ranking.rows[:_FIRST_ROWS]) > 1
    return {
        "subtitle": f"{len(ranking.rows)} layers by {ranking.metric}{counted}",
        "first": _ranking_table(ranking.rows[:_FIRST_ROWS], ranking),
        "all": _ranking_table(ranking.rows, ranking) if len(ranking.rows) > _FIRST_ROWS else None,
        "several_tied": several_tied,
        "shared": ranking.shared.get("words") or (),
        "figures": {"depth": depth_figure(ranking), "similarity": similarity_figure(ranking)},
    }


def _ranking_table(rows: Sequence[Row], ranking: Ranking) -> HtmlTable:
    extra = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in ranking.rows)]
    names = [_COLUMNS[name] for name in extra]
    headers = ["", "source", "layer", "depth", ranking.metric, "95 % interval", "to the best", *names]
    body = []
    for position, row in enumerate(rows, 1):
        difference = "" if row.difference is None or position == 1 else number(row.difference, "+.3f")
        interval = "" if row.low is None else f"{number(row.low, '.3f')} – {number(row.high, '.3f')}"
        scores = [number(getattr(row, name), ".3g") for name in extra]
        body.append([position, row.source, row.layer, number(row.depth, ".2f"), number(row.accuracy, ".3f"), interval,
                     difference, *scores])  # fmt: skip
    tied = [i for i, row in enumerate(rows) if row.tied]
    return HtmlTable(headers, body, left=(1, 2), tinted=tied if len(tied) > 1 else ())


def _result(result: Result) -> dict[str, Any]:
    classes = []
    for row in result.per_class:
        name = row.label if row.column is None else f"{row.column}: {row.label}"
        classes.append([name, row.n, repr(row.precision), repr(row.recall), number(float(row.f1), ".3f")])
    metrics = [(name, repr(value)) for name, value in result.metrics.items()]
    return {
        "metrics": HtmlTable(["metric", "value, 95 %"], metrics, left=(0,)),
        "classes": HtmlTable(["class", "n", "precision", "recall", "f1"], classes, left=(0,)) if classes else None,
        "mistakes": _mistakes(result.confusion),
        "figures": {},
    }


def _mistakes(confusion: Confusion | Mapping[str, Confusion] | None, column: str = "") -> list[str]:
    if isinstance(confusion, Confusion):
        return [f"{column}{true} taken for {predicted}: {n}" for true, predicted, n in confusion.mistakes()]
    return [line for name, part in (confusion or {}).items() for line in _mistakes(part, f"{name}: ")]


def _proof(proof: Proof) -> dict[str, Any]:
    rows = [row for row in proof.table_rows if any(row)]
    gains = [i for i, row in enumerate(rows) if row[1].startswith("→")]
    return {
        "curves": HtmlTable(proof.table_headers, rows, left=(1, 2), tinted=gains) if rows else None,
        "figures": {"curves": curves_figure(proof)},
    }


def _ending(record: Record) -> dict[str, Any]:
    facts = _facts({"cost": record.cost, "provenance": record.provenance})
    return {
        "skipped": [f"{entry.item}: {entry.reason}" for entry in record.skipped[:_MAX_SKIPPED]],
        "facts": HtmlTable(["", ""], facts, left=(0, 1)) if facts else None,
    }


def _facts(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, entry in plain(value).items():
        if isinstance(entry, Mapping):
            rows += _facts(entry, f"{prefix}{name} · ")
        else:
            rows.append((f"{prefix}{name}", number(entry, ".4g") if isinstance(entry, float) else entry))
    return rows


SECTIONS: dict[type, Callable[[Any], dict[str, Any]]] = {Ranking: _ranking, Result: _result, Proof: _proof}
