"""What every script here needs: where the data is, the words of its command line, and where its figures go.

The standard library only: some scripts call themselves in environments that have little else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("HEADSTART_SHARED") or HERE.parent.parent / "shared") / "data"

Part = Callable[[argparse.Namespace], dict[str, Any]]


def words(about: str | None) -> argparse.ArgumentParser:
    """A command line that shows the script's own text as its help, with ``--save``."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="write the figures to benchmarks/results")
    return parser


def finish(name: str, report: Mapping[str, Any], *, save: bool) -> None:
    """Print a report as JSON, and with ``save`` keep it."""
    print(_text(report), flush=True)
    if save:
        keep(name, report)


def keep(name: str, report: Mapping[str, Any]) -> None:
    """Write results/NAME.json."""
    path = _report_path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(_text(report) + "\n", encoding="utf-8")


def saved_report(name: str) -> dict[str, Any]:
    """Return what results/NAME.json has, an empty report where there is none."""
    path = _report_path(name)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def run_parts(name: str, parts: Mapping[str, Part], parser: argparse.ArgumentParser) -> None:
    """Run the requested parts (all by default); those of results/NAME.json that are not stay as they are."""
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of: {', '.join(parts)}")
    args = parser.parse_args()
    if strange := [part for part in args.parts if part not in parts]:
        parser.error(f"no part {', '.join(strange)}; there are {', '.join(parts)}")
    report = saved_report(name)
    versions = {package: version(package) for package in ("numpy", "torch")}
    for part in args.parts or parts:
        report[part] = {**parts[part](args), "machine": machine(), "versions": versions}
        print(_text({part: report[part]}), flush=True)
        if args.save:
            keep(name, report)


def _report_path(name: str) -> Path:
    return HERE / "results" / f"{name}.json"


def _text(report: Mapping[str, Any]) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False, default=str)
