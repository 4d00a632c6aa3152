"""``headstart doctor``: what is installed, what is missing, what this machine can do."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from rich.text import Text

from headstart._base.extras import extras, installed_version, is_installed
from headstart._base.files import cache_folder
from headstart.cli.app import command
from headstart.cli.options import LIBRARY, count
from headstart.cli.output import Page, facts, short, size_of, table, title, with_heading
from headstart.engines.base import ENGINES

# ---- What this machine has and can do, as plain data. Each question is answered even when another one fails. ----


_BASE = ("numpy", "scipy", "scikit-learn", "torch", "safetensors", "pillow", "typer", "rich")


def packages() -> dict[str, Any]:
    """Versions of the base packages, and per extra what is installed and what is missing."""
    report: dict[str, Any] = {"base": {name: installed_version(name) for name in _BASE}, "extras": {}}
    for extra, lines in sorted(extras().items()):
        names = [re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0] for line in lines]
        if extra in ("all", "dev") or not names:
            continue
        versions = {name: installed_version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        report["extras"][extra] = {
            "versions": versions,
            "missing": missing,
            "install": f'pip install "headstart[{extra}]"' if missing else None,
        }
    return report


def engines() -> dict[str, str | None]:
    """Engines that can run a network here: name → version, None where it is not installed."""
    return {name: installed_version(name) for name in ENGINES}


def processor() -> dict[str, Any]:
    """The processor and the memory."""
    return {"name": _processor_name(), "cores": os.cpu_count(), "usable": _usable(), "memory": _memory()}


def torch_state() -> dict[str, Any]:
    """Abilities of torch here: threads, bf16, CUDA, MPS; ``problem`` when it does not even load."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        return {"problem": f"torch does not load ({_first_line(error)}). {_TOGETHER}"}
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_bf16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        if torch.backends.mkldnn.is_available()
        else False,
        "gpus": gpus,
        "gpu_bf16": bool(gpus) and bool(torch.cuda.is_bf16_supported()),
        "mps": bool(torch.backends.mps.is_available()),
        "cuda_build": torch.version.cuda,
    }


def torchvision_state() -> dict[str, Any]:
    """State of torchvision: ``native``, ``repaired`` (a mismatch with torch that is worked around), or ``absent``."""
    if not is_installed("torchvision"):
        return {"state": "absent"}
    try:
        state = LIBRARY["repair_torchvision"]()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        state = "broken"
        return {
            "state": state,
            "problem": f"torchvision does not load with this torch ({_first_line(error)}). {_TOGETHER}",
        }
    if state == "repaired":
        return {"state": state, "problem": f"torchvision was built for another torch (a CUDA build); headstart works "
                f"around it, other programs may not. {_TOGETHER}"}  # fmt: skip
    return {"state": state}


def cache() -> dict[str, Any]:
    """The cache folder: where it is, whether it can be written, its size, and the choices remembered in it."""
    root = cache_folder()
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    return {
        "folder": str(root),
        "writable": _writable(root),
        "bytes": sum(_size(path) for path in files),
        "files": len(files),
        "choices": len(list((root / "choices").glob("*.json"))),
    }


_TOGETHER = "Install both together: pip install --force-reinstall torch torchvision"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable() -> int | None:
    counted = getattr(os, "sched_getaffinity", None)
    return len(counted(0)) if counted is not None else os.cpu_count()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _writable(root: Path) -> bool:
    """True if the folder, or the nearest one above it that exists, can be written."""
    here = root
    while not here.exists() and here != here.parent:
        here = here.parent
    return here.is_dir() and os.access(here, os.W_OK)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def python_state() -> dict[str, Any]:
    """Python and the system."""
    return {
        "version": sys.version.partition(" ")[0],
        "executable": sys.executable,
        "system": platform.platform(terse=True),
    }


PANEL = "Look around"


@command("doctor", PANEL)
def doctor() -> Page:
    """Check the installation: versions, what is missing, what this machine can do."""
    document: dict[str, Any] = {
        "headstart": installed_version("headstart"),
        "python": python_state(),
        "packages": packages(),
        "processor": processor(),
        "torch": torch_state(),
        "torchvision": torchvision_state(),
        "engines": engines(),
        "cache": cache(),
    }
    problems = _problems(document)
    document |= {"problems": problems, "ok": not problems}
    python = document["python"]
    blocks: list[Any] = [
        title(f"headstart {document['headstart']}", f"Python {python['version']}", python["system"]),
        with_heading("This machine", facts(_machine_facts(document))),
        with_heading("Packages", _package_table(document["packages"])),
    ]
    if problems:
        blocks.append(
            with_heading(
                "To put right", table(["", ""], [[Text("!", style="bold yellow"), p] for p in problems], align="ll")
            )
        )
    else:
        blocks.append(Text("Nothing is wrong.", style="green"))
    return Page(document, blocks, ["headstart demo"])


def _problems(document: dict[str, Any]) -> list[str]:
    problems = [
        f"{name} is missing: pip install {name}" for name, v in document["packages"]["base"].items() if v is None
    ]
    problems += [document[part]["problem"] for part in ("torch", "torchvision") if "problem" in document[part]]
    if not document["cache"]["writable"]:
        problems.append(
            f"The cache folder {document['cache']['folder']} cannot be written: set HEADSTART_CACHE to another."
        )
    return problems


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


def _engines(versions: dict[str, str | None]) -> str | None:
    installed = [name for name, version in versions.items() if version is not None]
    absent = [name for name, version in versions.items() if version is None]
    return ", ".join(installed) + (f" (not installed: {', '.join(absent)})" if absent else "") if installed else None


def _bf16(torch: dict[str, Any]) -> str:
    if torch["gpu_bf16"]:
        return "native on the GPU"
    return "native on this processor: tried automatically" if torch["cpu_bf16"] else "not native here: fp32 is used"


def _package_table(packages: dict[str, Any]) -> Any:
    def versions(named: dict[str, str | None]) -> str:
        return ", ".join(f"{name} {version}" for name, version in named.items() if version is not None)

    rows: list[list[Any]] = [["base", versions(packages["base"])]]
    for extra, state in packages["extras"].items():
        installed = versions(state["versions"])
        if state["missing"]:
            line = Text(installed + "  " if installed else "")
            rows.append(
                [extra, line + Text(f"missing {', '.join(state['missing'])}: {state['install']}", style="yellow")]
            )
        else:
            rows.append([extra, installed])
    return table(["", ""], rows, align="ll")
