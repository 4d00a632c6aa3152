"""``headstart report``: what rank, prove and evaluate wrote, as one page with figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import headstart as hs
from headstart._base.files import did_you_mean, read_json
from headstart.cli.app import command
from headstart.cli.options import need_file_name
from headstart.cli.output import Page, facts, short, size_of, title
from headstart.errors import DataError
from headstart.result.result import read_record

PANEL = "Work"
_ASIDE = {"predictor", "validation"}  # what the commands add to a record in their documents


@command("report", PANEL)
def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.json", show_default=False,
                                   help="What rank -o, prove -o and evaluate --json wrote; shown in this order.")
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", show_default=False, help="Where the page goes.")
    ],
) -> Page:  # fmt: skip
    """Show rankings, results and proofs on one page with figures: a file that opens anywhere."""
    target = output.expanduser()
    need_file_name(output, "report.html")
    if target.resolve() in {file.expanduser().resolve() for file in files}:
        raise DataError(f"{output} is one of the records; -o takes the name of another file, such as report.html.")
    records = [_read(file.expanduser()) for file in files]
    path = hs.report(records, target)
    shown = [{"file": str(file), "kind": type(record).__name__} for file, record in zip(files, records, strict=True)]
    document: dict[str, Any] = {"output": str(path), "bytes": path.stat().st_size, "records": shown}
    lines = [(short(record["file"]), record["kind"]) for record in shown]
    return Page(document, [title(short(path), size_of(document["bytes"]), "opens in any browser"), facts(lines)])


def _read(path: Path) -> Any:
    if path.is_dir():
        raise DataError(f"{path} is a folder; report takes the files that rank -o, prove -o and evaluate --json wrote.")
    if not path.exists():
        raise DataError(f"There is no record at {path}.{did_you_mean(path)}")
    plain = read_json(path, "record")
    try:
        return read_record({k: v for k, v in plain.items() if k not in _ASIDE} if isinstance(plain, dict) else plain)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        kind = plain["kind"]
        raise DataError(f"{path} is no {kind} that can be read: {type(error).__name__}, {error}.") from error
