"""Declared constraints of hyper-parameters; one function turns a violation into one sentence. Floor 0.

A member of a family is a dataclass; each field says what it allows in its annotation::

    @dataclass(frozen=True)
    class Ridge:
        alpha: Annotated[float | None, Interval(0, None, closed="neither"), Allow(None)] = None

``validate(self)`` in ``fit`` (constructors only store) checks them all and reports every violation together. The same
declarations give tests their invalid values (``invalid_values``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, get_type_hints

from headstart.errors import OptionError


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high`` (None is no bound); ``integer`` allows whole numbers only."""

    low: float | None = None
    high: float | None = None
    closed: str = "both"
    integer: bool = False

    def allows(self, value: object) -> bool:
        """Return True where the value lies in the interval; bool and NaN never do."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.integer else Real):
            return False
        number = float(value)
        if math.isnan(number):
            return False
        low_ok = self.low is None or number > self.low or (number == self.low and self.closed in ("both", "left"))
        high_ok = self.high is None or number < self.high or (number == self.high and self.closed in ("both", "right"))
        return low_ok and high_ok

    def __str__(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        above = "≥" if self.closed in ("both", "left") else ">"
        below = "≤" if self.closed in ("both", "right") else "<"
        left = "" if self.low is None else f" {above} {self.low:g}"
        right = "" if self.high is None else f" {below} {self.high:g}"
        between = " and" if left and right else ""
        return kind + left + between + right

    def invalid(self) -> list[Any]:
        """Return values that must be refused."""
        step = 1 if self.integer else 1.0
        out: list[Any] = ["not a number", float("nan")]
        if self.low is not None:
            out.append(type(step)(self.low) - step)
        if self.high is not None:
            out.append(type(step)(self.high) + step)
        return out


@dataclass(frozen=True)
class Options:
    """One of a few names."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def allows(self, value: object) -> bool:
        """Return True where the value is one of the names."""
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.names))

    def invalid(self) -> list[Any]:
        """Return values that must be refused."""
        return ["no-such-option", -1]


@dataclass(frozen=True)
class Allow:
    """One further value that is allowed as it is (None, True, False)."""

    value: Any

    def allows(self, value: object) -> bool:
        """Return True where it is exactly that value."""
        return value is self.value

    def __str__(self) -> str:
        return repr(self.value)

    def invalid(self) -> list[Any]:
        """Return nothing: it only widens another constraint."""
        return []


@dataclass(frozen=True)
class Name:
    """A name that is looked up later, where the names are known."""

    of: str = "something"

    def allows(self, value: object) -> bool:
        """Return True where it is a text that could be a name."""
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return f"the name of {self.of}"

    def invalid(self) -> list[Any]:
        """Return values that must be refused."""
        return ["", -1.5]


@dataclass(frozen=True)
class Each:
    """A non-empty list or tuple whose every entry satisfies one constraint."""

    of: Interval | Options

    def allows(self, value: object) -> bool:
        """Return True where it is a non-empty sequence of allowed entries."""
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(self.of.allows(v) for v in value)

    def __str__(self) -> str:
        return f"a list, each {self.of}"

    def invalid(self) -> list[Any]:
        """Return values that must be refused."""
        invalid = self.of.invalid()[0]
        return [[], [invalid] if invalid else []]


@lru_cache(maxsize=256)  # evaluating annotations takes a millisecond, and every prediction validates a reader
def declared_constraints(kind: type) -> tuple[tuple[str, list[Any]], ...]:
    """Return field name and declared constraints of every field of a dataclass that declares some."""
    hints = get_type_hints(kind, include_extras=True)
    constraints: list[tuple[str, list[Any]]] = []
    for field in dataclasses.fields(kind):
        declared = [c for c in getattr(hints[field.name], "__metadata__", ()) if hasattr(c, "allows")]
        if declared:
            constraints.append((field.name, declared))
    return tuple(constraints)


def validate(owner: object) -> None:
    """Check every declared field of a dataclass instance; all violations come in one OptionError."""
    kind: type[Any] = type(owner)
    problems = [
        f"{type(owner).__name__}({name}=…) must be {' or '.join(map(str, declared))}; got {getattr(owner, name)!r}."
        for name, declared in declared_constraints(kind)  # type: ignore[arg-type]  # mypy takes no class as hashable
        if not any(c.allows(getattr(owner, name)) for c in declared)
    ]
    if problems:
        raise OptionError("\n".join(problems))


def invalid_values(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield (field, value) pairs that ``validate`` must refuse: the tests' bad inputs come from the declarations."""
    for name, declared in declared_constraints(kind):
        for constraint in declared:
            for value in constraint.invalid():
                if not any(c.allows(value) for c in declared):
                    yield name, value


def budget_problem(budget: object) -> str:
    """Return the sentence for a budget that is no time, or "".

    >>> budget_problem(60), budget_problem(None), budget_problem("1 min")
    ('', '', "budget must be seconds > 0, or None; got '1 min'.")
    """
    fits = budget is None or Interval(0, None, closed="neither").allows(budget)
    return "" if fits else f"budget must be seconds > 0, or None; got {budget!r}."


def check_saved(holds: bool, what: str) -> None:
    """Refuse saved data that was never written by us."""
    if not holds:
        raise ValueError(f"{what} cannot be right")
