"""The command line: ``headstart sources|layers|extract|rank|fit|prove|report|…``; _app.py has all of them. Floor 8.

Commands take the same words as the Python calls. Each is a function from its parameters to a :class:`Page`: a document
for ``--json`` and blocks for people; ``_app`` runs it, shows the page, and turns errors into exit codes. Nothing here
loads torch before a command needs it: the library is reached through the lazy table in ``_library``.
"""

from headstart.cli import _demo as _demo  # importing a file of commands enrols them
from headstart.cli import _doctor as _doctor
from headstart.cli import _export as _export
from headstart.cli import _extract as _extract
from headstart.cli import _fit as _fit
from headstart.cli import _forget as _forget
from headstart.cli import _predict as _predict
from headstart.cli import _pretrain as _pretrain
from headstart.cli import _prove as _prove
from headstart.cli import _rank as _rank
from headstart.cli import _report as _report
from headstart.cli import _sources as _sources
from headstart.cli._app import main, run

__all__ = ["main", "run"]
