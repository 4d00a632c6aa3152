"""``headstart rank``: which source, which layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import headstart as hs
from headstart._base.files import write_json
from headstart._base.printing import seconds, shorten
from headstart.cli.app import command
from headstart.cli.options import (
    Balance,
    Columns,
    Data,
    Device,
    EachWeights,
    Layers,
    Options,
    Pooling,
    Seed,
    Store,
    count_items,
    dataset,
    load_source,
    need_file_name,
    parse_named,
    sources_of,
    training_part,
)
from headstart.cli.output import Page, console, interval, shell_line, table, title, with_heading
from headstart.errors import HeadstartError, OptionError

if TYPE_CHECKING:
    from headstart.result.ranking import Ranking

PANEL = "Work"
_ROWS = 15
_WORTH = 6  # letters that are worth leaving out
_COLUMNS = ("logme", "h_score", "knn", "nce", "leep", "static", "seconds", "macs", "mbytes")
_NAMES = {
    "h_score": "h-score", "knn": "kNN", "nce": "NCE", "leep": "LEEP", "logme": "LogME", "static": "params M",
    "seconds": "time", "macs": "MMACs", "mbytes": "MB",
}  # fmt: skip


@command("rank", PANEL)
def rank(
    data: Data,
    *,
    source: Annotated[
        list[str],
        typer.Option("--source", "-s", metavar="FAMILY:NAME", show_default=False,
                     help="A candidate; may be repeated. See: headstart sources."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Also write the ranking as JSON."),
    ] = None,
    weights: EachWeights = None,
    options: Options = None,
    layers: Layers = None,
    pooling: Pooling = "auto",
    head: Annotated[
        str, typer.Option(metavar="NAME[:FIELD=VALUE,…]", help="What would be deployed, as for headstart fit.")
    ] = "auto",
    budget: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", show_default="all sources in full",
                     help="For the extraction: weaker sources are dropped on growing samples of the data."),
    ] = None,
    balance: Balance = "auto",
    validate: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", show_default=False,
                     help="Then fit the first K rows and some others in full: what was every score worth?"),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME[:…]", show_default="frozen",
                                 help="With --validate: fine-tune each of them, e.g. full:epochs=3.")
    ] = None,
    all_rows: Annotated[
        bool, typer.Option("--all", metavar="", help=f"Show all rows, not only the first {_ROWS}.")
    ] = False,
    columns: Columns,
    store: Store = None,
    device: Device = "auto",
    seed: Seed = 0,
) -> Page:  # fmt: skip
    """Rank sources and their layers on your data, by the cross-validated score of what would be deployed."""
    if policy is not None and validate is None:
        raise OptionError("--policy is for --validate K: ranking itself trains nothing.")
    need_file_name(output, "ranking.json")
    items = training_part(dataset(data, columns))
    sources = _loaded(source, weights, options)
    begun = time.perf_counter()
    ranking = hs.rank(
        sources, items, layers=layers or "auto", head=parse_named("head", head), pooling=pooling, budget=budget,
        balance=balance, store=store, random_state=seed, device=device,
    )  # fmt: skip
    spent = time.perf_counter() - begun
    checked = None
    if validate is not None:
        fit_options = {} if policy is None else {"fit": hs.fit, "policy": parse_named("policy", policy), "store": store}
        checked = ranking.validate(validate, **fit_options)
    document = ranking.to_dict()
    if checked is not None:
        document["validation"] = {
            "rows": checked.rows, "tau": checked.tau, "regret": checked.regret, "metric": checked.metric,
        }  # fmt: skip
    if output is not None:
        write_json(output.expanduser(), ranking.to_dict())
    blocks = [
        title("Ranking", count_items(items), f"{len(ranking.rows)} layers by {ranking.metric}", seconds(spent)),
        *_blocks(ranking, None if all_rows else _ROWS),
        *([] if checked is None else [str(checked)]),
    ]
    return Page(document, blocks, [_next(data, ranking, sources)] if ranking.transfers else [])


def _next(data: str, ranking: Ranking, sources: Sequence[Any]) -> str:
    """The command that fits what was found best."""
    fused = ranking.fused
    fingerprints = fused.fingerprints if fused is not None and fused.wins else (ranking.best.fingerprint,)
    used = [s.address for s in sources if not isinstance(s, str) and s.fingerprint in fingerprints]
    return shell_line("fit", data, *(word for address in used for word in ("--source", address)), "-o", "my.headstart")


def _loaded(addresses: Sequence[str], weights: Sequence[Path] | None, options: Sequence[str] | None) -> list[Any]:
    """The sources; one that cannot be loaded is left to ``rank``, which goes on without it, unless it is the only."""
    sources: list[Any] = []
    for address, file in sources_of(addresses, weights):
        try:
            sources.append(load_source(address, file, options))
        except HeadstartError:
            if len(addresses) == 1 or file is not None or options:
                raise
            sources.append(address)
    return sources


def _blocks(ranking: Ranking, limit: int | None) -> list[Any]:
    rows = ranking.rows[:limit]
    more = len(ranking.rows) - len(rows)
    blocks: list[Any] = [_table(ranking, rows), ranking.verdict]
    if more:
        blocks[0] = with_heading(f"The first {len(rows)} of {len(ranking.rows)}; --all shows them all", blocks[0])
    if ranking.fused is not None:
        blocks.append(ranking.fusion_summary)
    if words := ranking.shared.get("words"):
        blocks.append(
            with_heading("What your data shares with the sources", table([""], [[w] for w in words], align="l"))
        )
    if ranking.notes:
        blocks.append(with_heading("Notes", table([""], [[n] for n in ranking.notes], align="l")))
    return blocks


def _table(ranking: Ranking, rows: Sequence[Any]) -> Any:
    """As many columns as the terminal is wide; the score and its interval always."""
    short = distinct(list(dict.fromkeys(row.source for row in ranking.rows)))
    several = len(short) > 1
    lead = ["", *(["source"] if several else []), "layer", ranking.metric, "95 % interval", "to the best"]
    body = []
    for position, row in enumerate(rows, 1):
        score = "–" if row.accuracy is None else f"{row.accuracy:.3f}"
        apart = "" if row.difference is None or position == 1 else f"{row.difference:+.3f}"
        names = [short[row.source], row.layer] if several else [row.layer]
        body.append([f"{position}{'=' if row.tied else ''}", *names, score, interval(row.low, row.high), apart])
    used = 4 + sum(2 + max(len(h), *(len(line[i]) for line in body)) for i, h in enumerate(lead))
    extra = []
    for name in _COLUMNS:
        cells = [_cell(name, getattr(row, name)) for row in rows]
        if all(getattr(row, name) is None for row in ranking.rows):
            continue
        used += 2 + max(len(_NAMES[name]), *map(len, cells))
        if used > console().width:
            break
        extra.append(_NAMES[name])
        body = [[*line, cell] for line, cell in zip(body, cells, strict=True)]
    tied = [i for i, row in enumerate(rows) if row.tied]
    align = "ll" + "l" * several + "rl" + "r"
    return table([*lead, *extra], body, align=align, keep=1 + several, bold=tied)


def distinct(names: Sequence[str]) -> dict[str, str]:
    """Names without the beginning that all of them share, in at most 24 cells.

    >>> distinct(["mobilenetv2_100.imagenet", "mobilenetv2_100.inat"])
    {'mobilenetv2_100.imagenet': '…imagenet', 'mobilenetv2_100.inat': '…inat'}
    """
    alike = 0
    while len(names) > 1 and len({name[: alike + 1] for name in names}) == 1 and alike < len(names[0]):
        alike += 1
    cut = max(names[0].rfind(mark, 0, alike) for mark in "./ ") + 1
    if cut < _WORTH or any(len(name) == cut for name in names):
        cut = 0
    return {name: shorten("…" * bool(cut) + name[cut:], 24) for name in names}


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return seconds(value) if name == "seconds" else f"{value:.3g}"
