"""``headstart doctor``: what is installed, what is missing, what this machine can do."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from headstart._extras import installed_version
from headstart.cli import _machine
from headstart.cli._app import command
from headstart.cli._options import count
from headstart.cli._output import Page, facts, short, size_of, table, title, under

PANEL = "Look around"


@command("doctor", PANEL)
def doctor() -> Page:
    """Check the installation: versions, what is missing, what this machine can do."""
    document: dict[str, Any] = {
        "headstart": installed_version("headstart"),
        "python": _machine.python(),
        "packages": _machine.packages(),
        "processor": _machine.processor(),
        "torch": _machine.torch_state(),
        "torchvision": _machine.torchvision_state(),
        "engines": _machine.engines(),
        "cache": _machine.cache(),
    }
    problems = _problems(document)
    document |= {"problems": problems, "ok": not problems}
    python = document["python"]
    blocks: list[Any] = [
        title(f"headstart {document['headstart']}", f"Python {python['version']}", python["system"]),
        under("This machine", facts(_machine_facts(document))),
        under("Packages", _package_table(document["packages"])),
    ]
    if problems:
        blocks.append(
            under("To put right", table(["", ""], [[Text("!", style="bold yellow"), p] for p in problems], align="ll"))
        )
    else:
        blocks.append(Text("Nothing is wrong.", style="green"))
    return Page(document, blocks, ["headstart demo"])


def _problems(document: dict[str, Any]) -> list[str]:
    found = [f"{name} is missing: pip install {name}" for name, v in document["packages"]["base"].items() if v is None]
    found += [document[part]["problem"] for part in ("torch", "torchvision") if "problem" in document[part]]
    if not document["cache"]["writable"]:
        found.append(
            f"The cache folder {document['cache']['folder']} cannot be written: set HEADSTART_CACHE to another."
        )
    return found


def _machine_facts(document: dict[str, Any]) -> list[tuple[str, Any]]:
    chip, torch, cache = document["processor"], document["torch"], document["cache"]
    usable = f", {chip['usable']} usable" if chip["usable"] != chip["cores"] else ""
    memory = f", {size_of(chip['memory'])} memory" if chip["memory"] else ""
    where = "a GPU: " + ", ".join(torch["gpus"]) if torch.get("gpus") else "Apple's GPU" if torch.get("mps") else "none"
    return [
        ("processor", f"{chip['name']}, {chip['cores']} cores{usable}{memory}"),
        ("torch uses", count(torch["threads"], "thread") if "threads" in torch else None),
        ("bf16", None if "cpu_bf16" not in torch else _bf16(torch)),
        ("GPU", where),
        ("engines", _engines(document.get("engines", {}))),
        ("cache", f"{short(cache['folder'])}, {size_of(cache['bytes'])}"),
        (
            "remembered",
            f"{count(cache['choices'], 'choice')} of engine and precision" if cache["choices"] else "no choices yet",
        ),
    ]


def _engines(found: dict[str, str | None]) -> str | None:
    there = [name for name, version in found.items() if version is not None]
    absent = [name for name, version in found.items() if version is None]
    return ", ".join(there) + (f" (not installed: {', '.join(absent)})" if absent else "") if there else None


def _bf16(torch: dict[str, Any]) -> str:
    if torch["gpu_bf16"]:
        return "native on the GPU"
    return "native on this processor: tried automatically" if torch["cpu_bf16"] else "not native here: fp32 is used"


def _package_table(packages: dict[str, Any]) -> Any:
    def versions(named: dict[str, str | None]) -> str:
        return ", ".join(f"{name} {version}" for name, version in named.items() if version is not None)

    rows: list[list[Any]] = [["base", versions(packages["base"])]]
    for extra, state in packages["extras"].items():
        there = versions(state["versions"])
        if state["missing"]:
            line = Text(there + "  " if there else "")
            rows.append(
                [extra, line + Text(f"missing {', '.join(state['missing'])}: {state['install']}", style="yellow")]
            )
        else:
            rows.append([extra, there])
    return table(["", ""], rows, align="ll")
