"""``headstart prove``: was the transfer worth anything? Measured on your data, against doing without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import headstart as hs
from headstart._base.files import write_json
from headstart._base.printing import seconds
from headstart.cli.app import command
from headstart.cli.options import (
    LEARN,
    Columns,
    Data,
    Device,
    Layers,
    Options,
    Pooling,
    Seed,
    Source,
    Store,
    Weights,
    count,
    count_items,
    dataset,
    load_source,
    need_file_name,
    one_of,
    parse_named,
)
from headstart.cli.output import Page, shell_line, table, title, with_heading
from headstart.cli.sources import short_address
from headstart.errors import OptionError
from headstart.policies.base import POLICIES

if TYPE_CHECKING:
    from headstart.result.proof import Proof

PANEL = "Work"
_HOW_MUCH = "How much is compared"
_STYLE = {True: "bold green", False: "bold red", None: "bold yellow"}


@command("prove", PANEL)
def prove(
    data: Data,
    *,
    source: Source,
    weights: Weights = None,
    options: Options = None,
    shots: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Labels per class to compare at.", rich_help_panel=_HOW_MUCH)
    ] = "4,16,64",
    repeats: Annotated[
        int, typer.Option(min=2, metavar="NUMBER", help="Draws of training items.", rich_help_panel=_HOW_MUCH)
    ] = 5,
    budget: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="For everything; 0 is no limit.", rich_help_panel=_HOW_MUCH)
    ] = 600.0,
    test_size: Annotated[
        float, typer.Option(min=0, metavar="SHARE", help="Held out, or so many items.", rich_help_panel=_HOW_MUCH)
    ] = 0.3,
    policy: Annotated[
        str, typer.Option(metavar="NAME[:…]", rich_help_panel=LEARN,
                          help=f"Of fine-tuning: {one_of(['auto', *POLICIES.builtin_names])}; frozen leaves it out.")
    ] = "auto",
    source_data: Annotated[
        str | None, typer.Option(metavar="DATA", show_default=False, rich_help_panel=LEARN,
                                 help="Items of the source task: how much of it fine-tuning forgets.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Also write it as JSON.")
    ] = None,
    layers: Layers = None,
    pooling: Pooling = "auto",
    columns: Columns,
    store: Store = None,
    device: Device = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FOLDER", show_default="your cache folder",
                                  help="Finished runs; taken up after a kill.", rich_help_panel="How it is run")
    ] = None,
    seed: Seed = 0,
) -> Page:  # fmt: skip
    """Prove what transfer is worth here: against training from scratch, random weights and raw features."""
    items = dataset(data, columns)
    other = None if source_data is None else dataset(source_data, Columns(modality=columns.modality))
    need_file_name(output, "proof.json")
    if columns.target is not None and len(columns.target) > 1:
        raise OptionError(f"prove takes one --target; got {', '.join(columns.target)}.")
    proof = hs.prove(
        load_source(source, weights, options), items, shots=_numbers(shots), repeats=repeats, budget=budget or None,
        policy=parse_named("policy", policy), layers=layers or "auto", pooling=pooling, source_data=other,
        test_size=test_size if test_size < 1 else round(test_size), store=store,
        checkpoint=checkpoint, device=device, random_state=seed,
    )  # fmt: skip
    document = proof.to_dict()
    if output is not None:
        write_json(output.expanduser(), document)
    heading = title(short_address(source), count_items(items), f"{count(proof.provenance['repeats'], 'repeat')}",
                    seconds(proof.cost["seconds"]))  # fmt: skip
    return Page(document, [heading, *_blocks(proof)], _following(proof, data, source, output))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise OptionError(f"--shots takes whole numbers, as 4,16,64; got {text!r}.") from error


def _blocks(proof: Proof) -> list[Any]:
    blocks: list[Any] = [Text(proof.verdict, style=_STYLE[proof.helps]), _curves(proof)]
    if proof.summary:
        blocks.append(
            with_heading("Labels saved", table([""], [[f"{sentence}."] for sentence in proof.summary], align="l"))
        )
    if proof.time_saved is not None:
        blocks.append(f"With {proof.time_saved}.")
    if proof.forgetting is not None:
        blocks.append(f"On the source task: {proof.forgetting}.")
    if proof.notes:
        blocks.append("\n".join(proof.notes))
    return blocks


def _curves(proof: Proof) -> Any:
    gains = [i for i, line in enumerate(proof.table_rows) if line[1].startswith("→")]
    return table(proof.table_headers, proof.table_rows, align="rllrr", keep=1, bold=gains)


def _following(proof: Proof, data: str, source: str, output: Path | None) -> list[str]:
    if proof.helps is False:
        return [shell_line("sources")]
    return [shell_line("fit", data, "--source", short_address(source), "-o", "my.headstart")]
