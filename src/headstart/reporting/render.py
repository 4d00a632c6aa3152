"""The page: one HTML file with its style inside and no script, for rankings, results and proofs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart._base.files import write_atomic
from headstart.errors import DataError
from headstart.reporting import figures
from headstart.reporting.figures import picture
from headstart.reporting.html import bullets, number, shown, table
from headstart.result.proof import Proof
from headstart.result.ranking import Ranking
from headstart.result.record import Record, plain
from headstart.result.result import Confusion, Result

_STYLE = """
:root{color-scheme:light;--ink:#222;--faint:#6b7280;--line:#e5e7eb;--good:#0072B2}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);margin:0 auto;max-width:64rem;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;margin:0 0 .25rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
section{border-top:3px solid var(--good);margin-top:2.5rem;padding-top:1rem}section>h2:first-child{margin-top:.5rem}
.verdict{font-size:1.15rem;background:#f3f7fb;border-left:4px solid var(--good);padding:.7rem 1rem;margin:1rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--faint);font-weight:600}td.l,th.l{text-align:left}tr.tinted td{background:#f3f7fb}
.faint{color:var(--faint);font-size:.9rem}ul{padding-left:1.2rem}li{margin:.3rem 0}svg{max-width:100%;height:auto}
details{margin:1rem 0}details summary{cursor:pointer;color:var(--good)}
"""
_COLUMNS = {
    "logme": "LogME", "h_score": "H-score", "knn": "kNN", "nce": "NCE", "leep": "LEEP", "static": "params (M)",
    "seconds": "seconds", "macs": "multiply-adds (M)", "mbytes": "MB",
}  # fmt: skip
_FIRST, _MOST = 12, 20


def report(results: Any, path: str | Path) -> Path:
    """Write one self-contained HTML file: tables, verdicts in words, pictures; opens anywhere, fetches nothing.

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
    StoreError
        When the file cannot be written.
    """
    several = list(results) if isinstance(results, (list, tuple)) else [results]
    wrong = [type(one).__name__ for one in several if not isinstance(one, Record)]
    if wrong or not several:
        given = ", ".join(wrong) or "nothing"
        raise DataError(f"report() takes a Ranking, a Result, a Proof, or a list of them; got {given}.")
    body = "".join(f"<section>{_section(place, one)}</section>" for place, one in enumerate(several, 1))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>headstart report</title>'
        f"<style>{_STYLE}</style></head><body><h1>headstart report</h1>{body}</body></html>\n"
    )
    target = Path(path).expanduser()
    write_atomic(target, page)
    return target


def _section(place: int, one: Any) -> str:
    try:
        return "".join([*_KINDS[type(one)](one), _end(one)])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        kind = type(one).__name__  # records that were read from a file hold whatever the file held
        raise DataError(f"Record {place} is no {kind} that can be shown: {type(error).__name__}, {error}.") from error


def _end(one: Any) -> str:
    left = bullets(
        f"{len(one.skipped)} items left out", [f"{item.item}: {item.reason}" for item in one.skipped[:_MOST]]
    )
    made = _facts({"cost": one.cost, "provenance": one.provenance})
    how = f"<details><summary>How it was made</summary>{table(['', ''], made, left=(0, 1))}</details>" if made else ""
    return bullets("Notes", one.notes) + left + how


def _facts(value: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, one in plain(value).items():
        if isinstance(one, Mapping):
            found += _facts(one, f"{before}{name} · ")
        else:
            found.append((f"{before}{name}", number(one, ".4g") if isinstance(one, float) else one))
    return found


def _ranking(found: Ranking) -> Iterator[str]:
    items = found.cost.get("items")
    counted = f" on {items:,} items" if items else ""
    yield f'<h2>Ranking</h2><p class="faint">{len(found.rows)} layers by {shown(found.metric + counted)}</p>'
    yield f'<p class="verdict">{shown(found.verdict)}</p>'
    if found.fusion_summary:
        yield f"<p>{shown(found.fusion_summary)}</p>"
    yield picture(found, "depth")
    yield _rows(found.rows[:_FIRST], found)
    if len(found.rows) > _FIRST:
        yield f"<details><summary>all {len(found.rows)} rows</summary>{_rows(found.rows, found)}</details>"
    yield bullets("What your data shares with the sources", found.shared.get("words") or ())
    yield picture(found, "likeness")


def _rows(rows: Sequence[Any], found: Ranking) -> str:
    extra = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in found.rows)]
    head = ["", "source", "layer", "depth", found.metric, "95 % interval", "to the best", *(_COLUMNS[n] for n in extra)]
    body = []
    for place, row in enumerate(rows, 1):
        apart = "" if row.difference is None or place == 1 else number(row.difference, "+.3f")
        interval = "" if row.low is None else f"{number(row.low, '.3f')} – {number(row.high, '.3f')}"
        cells = [place, row.source, row.layer, number(row.depth, ".2f"), number(row.accuracy, ".3f"), interval, apart]
        body.append([*cells, *(number(getattr(row, name), ".3g") for name in extra)])
    tied = [i for i, row in enumerate(rows) if row.tied]
    words = '<p class="faint">Tinted rows cannot be told apart from the best.</p>' if len(tied) > 1 else ""
    return table(head, body, left=(1, 2), tinted=tied if words else ()) + words


def _result(found: Result) -> Iterator[str]:
    yield f"<h2>Result{f' · {shown(found.task)}' if found.task else ''}</h2>"
    yield table(["metric", "value, 95 %"], [(name, repr(value)) for name, value in found.metrics.items()], left=(0,))
    if found.per_class:
        classes = [
            (row.label if row.column is None else f"{row.column}: {row.label}", row.n, repr(row.precision),
             repr(row.recall), number(float(row.f1), ".3f"))
            for row in found.per_class
        ]  # fmt: skip
        yield "<h2>Classes</h2>" + table(["class", "n", "precision", "recall", "f1"], classes, left=(0,))
    yield bullets("Most frequent mistakes", _mistakes(found.confusion))


def _mistakes(confusion: Confusion | Mapping[str, Confusion] | None, column: str = "") -> Iterable[str]:
    if isinstance(confusion, Confusion):
        return [f"{column}{true} taken for {said}: {count}" for true, said, count in confusion.mistakes()]
    return [words for name, one in (confusion or {}).items() for words in _mistakes(one, f"{name}: ")]


_KINDS: dict[type, Any] = {Ranking: _ranking, Result: _result, Proof: figures.section}
