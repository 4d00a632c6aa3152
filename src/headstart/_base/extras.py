"""Optional packages: imported at the point of use, with the exact pip line when one is missing. Floor 0."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from headstart.errors import MissingPackage

_DISTRIBUTION = {"sklearn": "scikit-learn", "PIL": "pillow", "rouge_score": "rouge-score"}


def require_package(module: str, why: str) -> ModuleType:
    """Import an optional module or say exactly how to install it.

    Parameters
    ----------
    module : str
        Importable name, e.g. ``"timm"``.
    why : str
        What it is needed for, to complete "… is needed for WHY".

    Raises
    ------
    MissingPackage
        With the pip line, read from headstart's own metadata.
    """
    if not is_installed(module):
        raise MissingPackage(f"The package {distribution_name(module)!r} is needed {why}. {install_hint(module)}")
    return import_module(module)


def is_installed(module: str) -> bool:
    """Return True where a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def distribution_name(module: str) -> str:
    """Return the name under which a module is installed: ``sklearn`` → ``scikit-learn``."""
    root = module.partition(".")[0]
    return _DISTRIBUTION.get(root, root)


def installed_version(module: str) -> str | None:
    """Return the installed version of the distribution that carries a module, or None."""
    try:
        return version(distribution_name(module))
    except PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """Return the requirement lines of each extra: of the checkout that this is, else of the installed package.

    An editable install keeps the metadata of the day it was made, however old, and the code goes on.
    """
    checkout = Path(__file__).resolve().parents[3] / "pyproject.toml"
    declared = _declared_extras(checkout)
    if declared is not None:
        return declared
    requirements: dict[str, list[str]] = {}
    try:
        lines = requires("headstart") or []
    except PackageNotFoundError:
        return requirements
    for line in lines:
        match = re.match(r"(?P<requirement>[^;]+);.*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]", line)
        if match:
            requirements.setdefault(match["extra"], []).append(match["requirement"].strip())
    return requirements


def _declared_extras(pyproject: Path) -> dict[str, list[str]] | None:
    """Return the extras of headstart's own pyproject.toml; None where there is none (an ordinary install)."""
    import tomllib  # 3 ms of every start, for a line that few ever see

    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return None
    return dict(project.get("optional-dependencies", {})) if project.get("name") == "headstart" else None


def install_hint(module: str) -> str:
    """Return the sentence that says how to install a module, with the extra that carries it."""
    name = distribution_name(module).lower()
    for extra, lines in extras().items():
        names = {re.split(r"[<>=!~\[ ]", line, maxsplit=1)[0].lower() for line in lines}
        if name in names and extra not in ("all", "dev"):
            return f'Install it with: pip install "headstart[{extra}]"'
    return f"Install it with: pip install {name}"
