"""``headstart demo``: transfer against training from scratch, on digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart._printing import seconds
from headstart.cli._app import command
from headstart.cli._library import LIBRARY
from headstart.cli._options import Seed
from headstart.cli._output import Page, interval, shell_line, short, table, title, under

PANEL = "Start here"


@command("demo", PANEL)
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the predictor and some pictures are left.")
    ] = Path("headstart-demo"),
    repeats: Annotated[
        int | None, typer.Option(metavar="NUMBER", show_default=False, help="How often everything is learned anew.")
    ] = None,
    seed: Seed = 0,
) -> Page:
    """See transfer against training from scratch, in about a minute; needs no data and no network."""
    found = LIBRARY["demo"](output, random_state=seed, **({} if repeats is None else {"repeats": repeats}))
    following = shell_line("predict", short(found.predictor), short(found.samples[0]))
    document = {**found.to_dict(), "next": following}
    per_class = f"{found.per_class} labelled pictures of each"
    blocks: list[Any] = [
        title("Digits 5–9", per_class, f"{found.repeats} repeats", seconds(found.seconds)),
        _rows(found),
        found.verdict,
        under(f"Which layer? Cross-validated on those pictures alone{_joined(found)}", _layers(found)),
        f"Digits 0–4 were learned first, in {seconds(found.source_seconds)}. All three ways learn from the same "
        "pictures and are measured on the same others; scratch has the learning rate that suits it best.",
    ]
    return Page(document, blocks, [following])


def _rows(found: Any) -> Any:
    what = {
        "scratch": "the same network, from random weights",
        "frozen": "features of digits 0–4, a solved head",
        "fine-tuned": "that, and the weights moved",
    }
    best = max(range(len(found.rows)), key=lambda i: found.rows[i].accuracy)
    body = [[r.name, f"{r.accuracy:.3f}", interval(r.low, r.high), seconds(r.seconds), what.get(r.name, "")]
            for r in found.rows]  # fmt: skip
    return table(["", "accuracy", "95 % interval", "time", ""], body, align="lrrrl", bold=[best])


def _layers(found: Any) -> Any:
    body = [
        ["→" if one.chosen else "", one.layer, one.what, f"{one.numbers:,}", f"{one.accuracy:.3f}"]
        for one in found.layers
    ]
    bold = [i for i, one in enumerate(found.layers) if one.chosen]
    return table(["", "layer", "what it is", "numbers", "accuracy"], body, align="lllrr", keep=1, bold=bold)


def _joined(found: Any) -> str:
    return ""
