"""What has been done so far, on the disk: one small JSON file per run, written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart._files import read_json, write_json
from headstart._progress import note
from headstart.errors import StoreError


@dataclass(frozen=True)
class RunCache:
    """Finished pieces of work by name, in a folder that belongs to one proof: its name is a fingerprint of it."""

    folder: Path

    def done(self, name: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What a piece of work came to: read where it is done already, else done now and written down.

        ``wall`` is added: the seconds it took, also when it was done by an earlier process.
        """
        if (known := self.known(name)) is not None:
            return known
        begun = time.perf_counter()
        found = dict(work())
        found["wall"] = round(time.perf_counter() - begun, 4)
        write_json(self._path(name), found)
        return found

    def known(self, name: str) -> dict[str, Any] | None:
        """What is there already; a damaged file is set aside as if it were not."""
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            found = read_json(path, "finished run of a proof")
        except StoreError as error:
            note(f"{error} It is done again.")
            return None
        return found if isinstance(found, dict) and "wall" in found else None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
