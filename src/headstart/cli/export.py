"""``headstart export``: a saved predictor as one file that runs without headstart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.app import command
from headstart.cli.options import load_predictor
from headstart.cli.output import Page, facts, shell_line, short, size_of, title

PANEL = "Work"


@command("export", PANEL)
def export(
    predictor: Annotated[Path, typer.Argument(metavar="PREDICTOR", show_default=False, help="What fit saved.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.onnx", show_default=False, help="Where the file goes.")
    ],
    format: Annotated[str, typer.Option(metavar="NAME", help="onnx.")] = "onnx",
) -> Page:
    """Write a predictor as one ONNX file: network, pooling, head and probabilities."""
    loaded = load_predictor(predictor)
    path = loaded.export(output, format)
    targets = [{"target": a.target, "task": a.task, "classes": a.classes} for a in loaded.targets]
    document: dict[str, Any] = {
        "predictor": str(predictor),
        "output": str(path),
        "format": format,
        "bytes": path.expanduser().stat().st_size,
        "targets": targets,
    }
    lines = [("file", f"{short(path)}, {size_of(document['bytes'])}")]
    lines += [
        (str(target["target"]), f"{target['task']}, {len(target['classes'] or ()) or 'no'} classes")
        for target in targets
    ]
    blocks = [title(short(predictor), "exported"), facts(lines)]
    return Page(document, blocks, [shell_line("layers", f"onnx:{short(path)}")])
