"""``headstart demo``: transfer against training from scratch, on digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.options import LIBRARY, Seed
from headstart.cli.output import Page, console, interval, shell_line, short, table, title, with_heading

if TYPE_CHECKING:
    from headstart.demo.demo import Demo

PANEL = "Start here"
_WIDE = 84


@command("demo", PANEL)
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the predictor and some images are left.")
    ] = Path("headstart-demo"),
    repeats: Annotated[
        int | None, typer.Option(metavar="NUMBER", show_default=False, help="How often everything is learned anew.")
    ] = None,
    seed: Seed = 0,
) -> Page:
    """See transfer against training from scratch, in about a minute; needs no data and no network."""
    result = LIBRARY["demo"](output, random_state=seed, **({} if repeats is None else {"repeats": repeats}))
    following = shell_line("predict", short(result.predictor), short(result.samples[0]))
    document = {**result.to_dict(), "next": following}
    flat = next((layer for layer in result.layers if layer.layer == "flatten"), None)
    blocks: list[Any] = [
        title("Digits 5–9", f"{result.per_class} labelled images of each", f"{result.repeats} repeats"),
        _rows(result),
        Text(result.verdict, style="bold green" if result.helped else "bold yellow"),
        with_heading("Layers, chosen by cross-validation on the labelled images alone", _layers(result)),
        f"Digits 0–4 were learned first, in {seconds(result.source_seconds)}. All three methods are trained on "
        "the same images and are evaluated on the same test images; scratch has the learning rate that suits it best.",
    ]
    if flat is None or 2 * flat.chosen < result.repeats:
        blocks.append("The flattened convolutions, usually the best here, were not chosen this time.")
    return Page(document, blocks, [following])


def _rows(result: Demo) -> Any:
    what = {
        "scratch": "the same network, from random weights",
        "frozen": "features of digits 0–4, a solved head",
        "fine-tuned": "that, and the weights moved",
    }
    wide = console().width >= _WIDE
    best = max(range(len(result.rows)), key=lambda i: result.rows[i].accuracy)
    rows = [
        [
            r.name,
            f"{r.accuracy:.3f}",
            interval(r.low, r.high),
            f"{r.seconds:.1f} s",
            what.get(r.name, "") if wide else "",
        ]
        for r in result.rows
    ]
    return table(["", "accuracy", "95 % interval", "time", ""], rows, align="lrrrl", bold=[best])


def _layers(result: Demo) -> Any:
    body = [
        [layer.layer, layer.what, f"{layer.numbers:,}", f"{layer.accuracy:.3f}", f"{layer.chosen} of {result.repeats}"]
        for layer in result.layers
    ]
    highest = max((layer.chosen for layer in result.layers), default=0)
    bold = [i for i, layer in enumerate(result.layers) if layer.chosen == highest]
    return table(["layer", "what it is", "numbers", "accuracy", "chosen"], body, align="llrrr", bold=bold)
