"""``headstart forget``: a predictor that has not learned from some of its items."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.app import command
from headstart.cli.fit import check_output
from headstart.cli.options import Input, Store, count, load_predictor
from headstart.cli.output import Page, facts, shell_line, short, title
from headstart.cli.predict import named_items

PANEL = "Work"


@command("forget", PANEL)
def forget(
    predictor: Annotated[
        Path, typer.Argument(metavar="PREDICTOR", show_default=False, help="What headstart fit --exact saved.")
    ],
    items: Annotated[
        list[str],
        typer.Argument(metavar="ITEM", show_default=False, help="Files, folders, a table, or texts in quotes."),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="PREDICTOR", show_default=False,
                     help="Where the new one is saved; it may replace the old one."),
    ],
    input: Input = None,
    store: Store = None,
) -> Page:  # fmt: skip
    """Take items out of a predictor again, exactly; it needs no labels."""
    check_output(output)
    loaded = load_predictor(predictor)
    left = loaded.forget(named_items(items, input, loaded.source.modality), store=store)
    saved = left.save(output)
    done = left.provenance["forgotten"][-1]
    document = {"predictor": str(predictor), "output": str(saved), "left": len(left.trained_on), **done}
    lines = [
        ("left", count(len(left.trained_on), "item")),
        ("solved again", ", ".join(done["solved_again"])),
        ("unchanged", ", ".join(done["unchanged"])),
        ("also delete", "the old predictor, what was exported from it, and its features in the store"),
    ]
    blocks = [title(short(saved), f"{count(done['items'], 'item')} forgotten"), facts(lines)]
    return Page(document, blocks, [shell_line("evaluate", short(saved), "TEST-DATA")])
