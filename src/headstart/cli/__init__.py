"""The command line: ``headstart sources|layers|extract|fit|evaluate|predict|pretrain|demo|doctor``. Floor 8.

Commands take the same words as the Python calls. Each is a function from its parameters to a :class:`Page`: a document
for ``--json`` and blocks for people; ``_app`` runs it, shows the page, and turns errors into exit codes. Nothing here
loads torch before a command needs it: the library is reached through the lazy table in ``_library``.
"""

from headstart.cli import _demo, _doctor, _extract, _fit, _predict, _pretrain, _sources
from headstart.cli._app import main, run

__all__ = ["main", "run"]
_COMMANDS = (_demo, _sources, _extract, _fit, _predict, _pretrain, _doctor)  # importing them enrols them
