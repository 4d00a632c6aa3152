"""``headstart demo``: transfer against training from scratch, on digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.library import LIBRARY
from headstart.cli.options import Seed
from headstart.cli.output import Page, console, interval, shell_line, short, table, title, under

PANEL = "Start here"
_WIDE = 84


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
    flat = next((one for one in found.layers if one.layer == "flatten"), None)
    blocks: list[Any] = [
        title("Digits 5–9", f"{found.per_class} labelled pictures of each", f"{found.repeats} repeats"),
        _rows(found),
        Text(found.verdict, style="bold green" if found.helped else "bold yellow"),
        under("Which layer to take? headstart asked the labelled pictures alone, by cross-validation", _layers(found)),
        f"Digits 0–4 were learned first, in {seconds(found.source_seconds)}. All three ways learn from the same "
        "pictures and are measured on the same others; scratch has the learning rate that suits it best.",
    ]
    if flat is None or 2 * flat.chosen < found.repeats:
        blocks.append("The flattened convolutions, usually the best here, were not chosen this time.")
    return Page(document, blocks, [following])


def _rows(found: Any) -> Any:
    what = {
        "scratch": "the same network, from random weights",
        "frozen": "features of digits 0–4, a solved head",
        "fine-tuned": "that, and the weights moved",
    }
    wide = console().width >= _WIDE
    best = max(range(len(found.rows)), key=lambda i: found.rows[i].accuracy)
    rows = [
        [
            r.name,
            f"{r.accuracy:.3f}",
            interval(r.low, r.high),
            f"{r.seconds:.1f} s",
            what.get(r.name, "") if wide else "",
        ]
        for r in found.rows
    ]
    return table(["", "accuracy", "95 % interval", "time", ""], rows, align="lrrrl", bold=[best])


def _layers(found: Any) -> Any:
    body = [
        [one.layer, one.what, f"{one.numbers:,}", f"{one.accuracy:.3f}", f"{one.chosen} of {found.repeats}"]
        for one in found.layers
    ]
    most = max((one.chosen for one in found.layers), default=0)
    bold = [i for i, one in enumerate(found.layers) if one.chosen == most]
    return table(["layer", "what it is", "numbers", "accuracy", "chosen"], body, align="llrrr", bold=bold)
