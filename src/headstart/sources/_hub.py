"""Model hubs: what is in the local cache, and one quick look whether a host answers before a slow client tries."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies

from headstart import _extras

_SECONDS = 4.0
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_YES = ("1", "true", "yes", "on")


def cached_file(repository: str, names: Iterable[str | None]) -> Path | None:
    """The first of these files of a hub repository that is in the local cache."""
    if not repository or not _extras.available("huggingface_hub"):
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in filter(None, names):
        found = try_to_load_from_cache(repository, str(name))
        if isinstance(found, str):
            return Path(found)
    return None


def unreachable(address: str | None = None) -> str:
    """Why a host cannot be asked, or nothing when it can. Cost: one connection; at most 4 s without a network.

    Parameters
    ----------
    address : str, optional
        Anything on that host; the hub's own (``$HF_ENDPOINT``) when not given.
    """
    for switch in _SWITCHES if address is None else ():
        if os.environ.get(switch, "").lower() in _YES:
            return f"{switch} is set"
    parts = urlsplit(address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxy = getproxies().get(parts.scheme)
    asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
    port = asked.port or (443 if asked.scheme == "https" else 80)
    answer: list[str] = []
    # in a thread, because looking up a name has no time limit of its own
    thread = Thread(target=_connect, args=(asked.hostname or "", port, answer), daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return answer[0] if answer else f"no answer from {asked.hostname} within {_SECONDS:.0f} s"


def _connect(host: str, port: int, answer: list[str]) -> None:
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        answer.append(f"there is no network ({host}: {error.strerror or error})")
    else:
        answer.append("")
