"""``headstart sources`` and ``headstart layers``: where features can come from, and at which places."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from headstart._base.extras import install_hint, is_installed, require_package
from headstart.cli import finding
from headstart.cli.app import command
from headstart.cli.options import LIBRARY, Options, Weights, count, load_source
from headstart.cli.output import Page, big, shell_line, short, size_of, table, title, with_heading
from headstart.errors import DataError

PANEL = "Look around"
# family → the package it needs, what it is, how it is written, of what, and whether weights can come from the network
_ABOUT: dict[str, tuple[str | None, str, str, str, bool]] = {
    "cnn": (None, "small network, untrained", "cnn:cnn", "image", False),
    "fake": (None, "tiny networks, to try things", "fake:image", "image", False),
    "hf": ("transformers", "transformers' encoders", "hf:NAME or FOLDER", "text, audio", True),
    "identity": (None, "raw pixels, spectra, numbers", "identity:image", "any", False),
    "keras": ("keras", "Keras and TensorFlow networks", "keras:FILE", "image", False),
    "lstm": (None, "recurrent network, untrained", "lstm:lstm", "text", False),
    "module": (None, "your torch module (Python)", "Source.from_module", "any", False),
    "onnx": ("onnxruntime", "networks in ONNX files", "onnx:FILE", "any", False),
    "saved": (None, "what headstart has saved", "saved:FOLDER", "any", False),
    "timm": ("timm", "timm's networks", "timm:NAME or FOLDER", "image, audio", True),
}
_MOST_NAMES = 40


@command("sources", PANEL)
def sources(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", show_default=False, help="Folders to look through.")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", show_default=False, help="Also list timm's names like this: 'mobilenet*'."),
    ] = None,
) -> Page:
    """Show where features can come from: families, what is on this machine, and what needs installing."""
    families = [_family(name) for name in LIBRARY["SOURCES"]]
    local = [source for folder in folders or () for source in finding.in_folder(folder)]
    if folders and not local:
        raise DataError(
            f"No source is in {', '.join(map(str, folders))}: no timm folder, saved source, or network file."
        )
    cached = [] if folders else [*finding.in_packages(), *finding.in_hub_cache()]
    names = [] if search is None else _names(search)
    document = {
        "families": families,
        "found": [vars(source) for source in (*local, *cached)],
        **({} if search is None else {"names": names}),
    }
    blocks: list[Any] = [] if folders else [_family_table(families)]
    if local or cached:
        blocks.append(with_heading("Weights on this machine: no network is asked", _source_list([*local, *cached])))
    if names:
        shown = [[f"timm:{name}"] for name in names[:_MOST_NAMES]]
        more = f", the first {_MOST_NAMES}" if len(names) > _MOST_NAMES else ""
        blocks.append(with_heading(f"{count(len(names), 'name')} like {search}{more}", table([""], shown)))
    example = (local or cached or [finding.FoundSource("timm:mobilenetv2_100", "", 0)])[0].address
    return Page(document, blocks, [shell_line("layers", example)])


def _source_list(sources: list[finding.FoundSource]) -> Any:
    """Each address on a line of its own, which it often fills, and below it what is known."""
    lines = Text()
    for source in sources:
        facts = (source.what, source.modality, source.input, source.licence, size_of(source.bytes))
        lines.append(f"  {short_address(source.address)}\n").append(f"      {' · '.join(filter(None, facts))}\n", "dim")
    lines.rstrip()
    return lines


def _family(name: str) -> dict[str, Any]:
    package, what, address, of, online = _ABOUT.get(name, (None, "from another package", f"{name}:NAME", "any", False))
    ready = package is None or is_installed(package)
    install = None if ready or package is None else install_hint(package).partition(": ")[2]
    facts = {"family": name, "what": what, "address": address, "modality": of}
    return {**facts, "ready": ready, "install": install, "network": online}


def _family_table(families: list[dict[str, Any]]) -> Any:
    rows = []
    for family in sorted(families, key=lambda family: not family["ready"]):
        state = "ready, online too" if family["network"] else "ready"
        shown = Text(state, style="green") if family["ready"] else Text(family["install"], style="yellow")
        rows.append([family["address"], family["what"], family["modality"], shown])
    return table(["source", "what", "of", ""], rows, align="llll")


def _names(pattern: str) -> list[str]:
    """timm's names like a pattern; a plain word is looked for anywhere in them."""
    if is_installed("timm"):
        LIBRARY["repair_torchvision"]()
    timm = require_package("timm", "to list its names")
    pattern_ = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = sorted(name for name in timm.list_models() if fnmatchcase(name, pattern_))
    if not names:
        raise DataError(f"timm has no model like {pattern!r}. Try a shorter pattern, e.g. 'mobilenet*'.")
    return names


@command("layers", PANEL)
def layers(
    source: Annotated[str, typer.Argument(metavar="SOURCE", show_default=False, help="FAMILY:NAME, or a folder.")],
    weights: Weights = None,
    options: Options = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", metavar="", help="Every layer, not only those that --layers auto looks at.")
    ] = False,
) -> Page:
    """Show the layers of a source in the order in which they run."""
    loaded = load_source(source, weights, options)
    listed = [layer for layer in loaded.layers if everything or layer.candidate]
    total = max((layer.macs for layer in loaded.layers), default=0)
    candidates = sum(layer.candidate for layer in loaded.layers)
    document = {
        "source": loaded.address,
        "modality": loaded.modality,
        "fingerprint": loaded.fingerprint,
        "layers": [vars(layer) for layer in loaded.layers],
    }
    rows = [
        ["*" if layer.candidate else "", layer.name, layer.kind, _shape(layer.shape), f"{100 * layer.depth:.0f} %",
         big(layer.macs)]
        for layer in listed
    ]  # fmt: skip
    heading = title(short_address(loaded.address), loaded.modality, count(len(loaded.layers), "layer"),
                    f"{big(total)} multiply-adds per item")  # fmt: skip
    blocks: list[Any] = [
        heading,
        table(["", "layer", "kind", "shape", "depth", "multiply-adds"], rows, align="lllrrr", keep=1),
    ]
    if everything:
        blocks.append(f"* {count(candidates, 'candidate')}: what --layers auto looks at.")
    elif candidates < len(loaded.layers):
        blocks.append(f"{count(candidates, 'candidate')}: what --layers auto looks at. --all shows every layer.")
    pick = next((layer.name for layer in reversed(listed) if layer.candidate), "auto")
    return Page(
        document, blocks, [shell_line("extract", "DATA", "--source", short_address(loaded.address), "--layers", pick)]
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join("n" if side < 0 else str(side) for side in shape)


def short_address(address: str) -> str:
    """An address whose folder, if it names one below here, is written relative to here."""
    family, colon, name = address.partition(":")
    return f"{family}{colon}{short(name)}" if colon and Path(name).exists() else address
