"""``headstart pretrain``: a source of your own, trained on a source task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

import headstart as hs
from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.options import Columns, Data, Options, Seed, count, count_items, dataset, parse_pairs, training_part
from headstart.cli.output import Page, facts, shell_line, short, title
from headstart.errors import DataError

PANEL = "Work"


@command("pretrain", PANEL)
def pretrain(
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCHITECTURE",
            show_default=False,
            help="cnn (images), lstm (texts), or a source to train further.",
        ),
    ],
    data: Data,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", show_default=False, help="Where the source is saved.")
    ],
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="supervised, or random: leave initial weights.")
    ] = "supervised",
    epochs: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Rounds through the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Items per step.")] = 32,
    lr: Annotated[float, typer.Option(metavar="RATE", help="Highest learning rate.")] = 1e-3,
    budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", show_default=False, help="Fewer epochs when they do not fit.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, metavar="PIXELS", show_default=False, help="Side of the images.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Written every epoch; taken up after a kill."),
    ] = None,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics", metavar="", help="Keep moments of the training data beside it, for: headstart rank."
        ),
    ] = False,
    options: Options = None,
    columns: Columns,
    seed: Seed = 0,
) -> Page:
    """Train a small network on a source task, to be used as a source afterwards."""
    if output.expanduser().exists() and not (output.expanduser() / "source.json").is_file():
        raise DataError(f"{output} exists and is no saved source; it is not overwritten. Give -o another folder.")
    items = training_part(dataset(data, columns))
    begun = time.perf_counter()
    source = hs.pretrain(
        architecture, items, objective=objective, epochs=epochs, batch_size=batch_size, lr=lr, budget=budget,
        image_size=image_size, checkpoint=checkpoint, statistics=statistics, random_state=seed, **parse_pairs(options),
    )  # fmt: skip
    spent = time.perf_counter() - begun
    folder = source.save(output)
    loss = list(source.meta.get("loss", ()))
    document = {
        "source": f"saved:{folder}",
        "fingerprint": source.fingerprint,
        "objective": objective,
        "items": len(items),
        "loss": loss,
        "seconds": spent,
    }
    blocks: list[Any] = [
        title(short(folder), count_items(items), seconds(spent)),
        facts([
            ("architecture", architecture),
            ("objective", objective),
            ("loss", _course(loss)),
            ("layers", f"{sum(layer.candidate for layer in source.layers)} candidates"),
        ]),
    ]  # fmt: skip
    return Page(
        document, blocks, [shell_line("fit", "DATA", "--source", f"saved:{short(folder)}", "-o", "my.headstart")]
    )


def _course(loss: list[float]) -> str:
    return f"{loss[0]:.3f} → {loss[-1]:.3f} in {count(len(loss), 'epoch')}" if loss else "nothing was trained"
