"""``headstart extract``: features of a folder or table, computed once and kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

import headstart as hs
from headstart._base.files import cache_folder, write_atomic
from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.options import (
    Columns,
    Data,
    Device,
    Engine,
    Layers,
    OnError,
    Options,
    Pooling,
    Precision,
    Source,
    Store,
    Weights,
    count_items,
    dataset,
    load_source,
)
from headstart.cli.output import Page, facts, shell_line, short, table, title, with_heading
from headstart.cli.sources import short_address
from headstart.errors import OptionError

if TYPE_CHECKING:
    from headstart.bank.bank import FeatureBank
    from headstart.dataset.dataset import Dataset
    from headstart.sources.base import Source as SourceModel

PANEL = "Work"
_MOST_SKIPPED = 5


@command("extract", PANEL, listed=True)
def extract(
    data: Data,
    *,
    source: Source,
    weights: Weights = None,
    options: Options = None,
    layers: Layers = None,
    pooling: Pooling = "auto",
    columns: Columns,
    store: Store = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    on_error: OnError = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="NUMBER", show_default=False, help="Threads that read the files.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.npz", show_default=False,
                     help="Also write the features to a NumPy file."),
    ] = None,
) -> Page:  # fmt: skip
    """Compute features once and keep them; only what is new is computed again."""
    if output is not None and output.suffix != ".npz":
        raise OptionError(f"--output writes a NumPy file and must end with .npz; got {output}.")
    items = dataset(data, columns)
    loaded = load_source(source, weights, options)
    bank = hs.extract(
        loaded, items, layers=layers or "auto", pooling=pooling, store=store, engine=engine, precision=precision,
        device=device, on_error=on_error, workers=workers,
    )  # fmt: skip
    if output is not None:
        _export(bank, items, output)
    root = (store or cache_folder() / "bank").expanduser()
    return _page(bank, items, loaded, root=root, output=output, data=data)


def _page(
    bank: FeatureBank, items: Dataset, loaded: SourceModel, *, root: Path, output: Path | None, data: str
) -> Page:
    n_readable = int(bank.keep(items).sum())
    widths = {name: math.prod(bank.table(name).shape or ()) for name in bank.layers}
    recipe = bank.recipe[bank.layers[0]]
    document = {
        "source": loaded.address,
        "fingerprint": loaded.fingerprint,
        "items": len(items),
        "rows": n_readable,
        "computed": bank.computed,
        "skipped": [{"item": str(skipped.item), "reason": skipped.reason} for skipped in bank.skipped],
        "layers": [{"name": n, "pooling": bank.recipe[n]["pooling"], "width": widths[n]} for n in bank.layers],
        "engine": recipe["engine"],
        "precision": recipe["precision"],
        "store": str(root),
        "seconds": dict(bank.seconds),
        "output": None if output is None else str(output),
    }
    blocks: list[Any] = [
        title(short_address(loaded.address), count_items(items), seconds(bank.seconds["total"])),
        facts([
            ("computed", f"{bank.computed:,} new, {n_readable - bank.computed:,} were there already"),
            ("run by", f"{recipe['engine']}, {recipe['precision']} on {recipe['device']}"),
            ("kept in", short(root)),
            ("written to", None if output is None else short(output)),
        ]),
        table(["layer", "pooling", "numbers per item"],
              [[n, bank.recipe[n]["pooling"], f"{widths[n]:,}{' a step' * bank.table(n).ragged}"] for n in bank.layers],
              align="llr"),
    ]  # fmt: skip
    if bank.skipped:
        blocks.append(skipped_items([(skipped.item, skipped.reason) for skipped in bank.skipped], len(items)))
    source = short_address(loaded.address)
    return Page(document, blocks, [shell_line("fit", data, "--source", source, "-o", "my.headstart")])


def skipped_items(problems: list[tuple[Any, str]], total: int) -> Any:
    """Items that could not be read, the first few by name."""
    rows = [[short(item), reason] for item, reason in problems[:_MOST_SKIPPED]]
    more = f", the first {_MOST_SKIPPED}" if len(problems) > _MOST_SKIPPED else ""
    heading = f"{len(problems):,} of {total:,} items could not be read and were left out{more}"
    return with_heading(heading, table(["item", "reason"], rows, align="ll"))


def _export(bank: FeatureBank, items: Dataset, path: Path) -> None:
    """An array for each layer, the items' names, and the targets, as plain NumPy arrays (no pickles)."""
    readable = items.take(bank.keep(items))
    arrays: dict[str, Any] = {}
    for name in bank.layers:
        if bank.table(name).ragged:  # the steps of all items one after the other, and how many each has
            steps = bank.sequences(name, readable)
            arrays |= {name: np.concatenate(steps), f"steps:{name}": np.array([len(sequence) for sequence in steps])}
        else:
            arrays[name] = bank.rows(name, readable)
    arrays["items"] = np.array([str(item) for item in readable.items])
    for column in readable.columns:
        arrays[f"target:{column.name}"] = np.array(["" if v is None else str(v) for v in column.values])

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomic(path.expanduser(), write)
