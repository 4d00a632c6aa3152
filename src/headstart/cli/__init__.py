"""The command line: ``headstart sources|layers|extract|rank|fit|prove|report|…``; _app.py has all of them. Floor 8.

Commands take the same words as the Python calls. Each is a function from its parameters to a :class:`Page`: a document
for ``--json`` and blocks for people; ``_app`` runs it, shows the page, and turns errors into exit codes. Nothing here
loads torch before a command needs it: the library is reached through the lazy table in ``_library``.
"""

from headstart.cli import (  # noqa: F401 - importing a file of commands enrols them
    demo,
    doctor,
    export,
    extract,
    fit,
    forget,
    predict,
    pretrain,
    prove,
    rank,
    report,
    sources,
)
from headstart.cli.app import main, run

__all__ = ["main", "run"]
