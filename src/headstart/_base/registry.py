"""Families of members by name, from tables name → "module:attribute"; nothing loads until it is used. Floor 0.

Adding a member is one file and one line in the family's table; outsiders use the entry-point group
``headstart.<family>``. Unknown names answer with the nearest known name and the whole list.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headstart.errors import UnknownName

_MAX_LISTED, _NEAREST = 40, 8  # of more names than the first, a message lists the nearest only


class Family(Mapping[str, Any]):
    """A lazy, read-only mapping of member names to the objects that implement them.

    Parameters
    ----------
    kind : str
        What a member is called in messages and in the entry-point group (``headstart.<kind>``), e.g. ``"heads"``.
    table : mapping of str to str
        Name → ``"package.module:attribute"``.

    Examples
    --------
    >>> letters = Family("letters", {"sqrt": "math:sqrt"})
    >>> letters["sqrt"](9.0)
    3.0
    >>> list(letters)
    ['sqrt']
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)
        self._outside: dict[str, EntryPoint] | None = None

    @property
    def builtin_names(self) -> tuple[str, ...]:
        """The table's names, without those of other packages, which take a search through all that is installed."""
        return tuple(sorted(self._table))

    def _plugins(self) -> dict[str, EntryPoint]:
        if self._outside is None:
            points = entry_points(group=f"headstart.{self.kind}")
            self._outside = {point.name: point for point in points if point.name not in self._table}
        return self._outside

    def __getitem__(self, name: str) -> Any:
        if name in self._table:
            module, _, attribute = self._table[name].partition(":")
            return getattr(import_module(module), attribute)
        if name in self._plugins():
            return self._plugins()[name].load()
        raise UnknownName(unknown_name(self.kind, name, list(self)))

    def __iter__(self) -> Iterator[str]:
        yield from sorted({*self._table, *self._plugins()})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._table or name in self._plugins()


def unknown_name(what: str, name: object, names: list[str]) -> str:
    """Return the one sentence for a name that is not one of the names: the nearest known one first, then the list.

    >>> unknown_name("heads", "rigde", ["lda", "ridge"])
    "'rigde' is not one of the heads; did you mean 'ridge'? Known: lda, ridge."
    >>> unknown_name("models", "?", [f"net{i}" for i in range(100)])
    "'?' is not one of the models. Some of 100: net0, net1, net2, net3, net4, net5, net6, net7."
    """
    near = difflib.get_close_matches(str(name), names, n=_NEAREST, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    if len(names) > _MAX_LISTED:
        which = "The nearest" if near else "Some"
        listed = ", ".join(near or names[:_NEAREST])
        return f"{name!r} is not one of the {what}{hint} {which} of {len(names):,}: {listed}."
    return f"{name!r} is not one of the {what}{hint} Known: {', '.join(names) or 'none'}."


def check_names(what: str, requested: Iterable[str], names: Sequence[str]) -> None:
    """Raise UnknownName for all the requested names that are not one of the names.

    >>> check_names("fields of ridge", ["alpha"], ["alpha", "scale"])
    """
    problems = [unknown_name(what, name, list(names)) for name in requested if name not in names]
    if problems:
        raise UnknownName("\n".join(problems))


def check_fields(what: str, requested: Iterable[str], kind: type) -> None:
    """Raise UnknownName for the requested names that are no field by which a dataclass is made."""
    check_names(what, requested, [field.name for field in dataclasses.fields(kind) if field.init])


def check_parameters(what: str, requested: Iterable[str], function: Callable[..., object]) -> None:
    """Raise UnknownName for the requested names that are no keyword-only parameter of a function.

    >>> def load(name, *, seed=0): ...
    >>> check_parameters("options of fake: sources", ["seed"], load)
    """
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = sorted(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
    check_names(what, requested, names)
