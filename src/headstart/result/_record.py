"""How a frozen record becomes plain data and is read back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from headstart._intervals import Metric
from headstart._typing import Array
from headstart.errors import DataError


def plain(value: Any) -> Any:
    """Data that JSON can hold: numbers that are not finite become None, anything unknown its text.

    >>> plain({"a": np.float32(0.5), 1: (np.nan, {"x"})})
    {'a': 0.5, '1': [None, ['x']]}
    """
    if isinstance(value, Metric):
        return {"value": plain(float(value)), "low": value.low, "high": value.high, "better": value.better}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value)


def frozen(array: Array) -> Array:
    """A read-only view of an array."""
    array = array.view()
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class SkippedItem:
    """An item that could not be read, and why."""

    item: str
    reason: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.item}: {self.reason}"


def _skipped_item(record: Any) -> SkippedItem:
    return SkippedItem(str(record.item), str(record.reason), getattr(record, "index", None))


class Record:
    """Root of the records: a frozen dataclass that turns into plain data, and is equal when that data is."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the record's ``kind``; fields that start with ``_`` stay behind."""
        fields = {name: value for name, value in self._values().items() if not name.startswith("_")}
        if "skipped" in fields:
            fields["skipped"] = [_skipped_item(record) for record in fields["skipped"]]
        return {"kind": type(self).__name__, **plain(fields)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record that :meth:`to_dict` gave."""
        return cls(**cls._fields(data))

    @classmethod
    def _fields(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        known = {f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")}  # type: ignore[arg-type]
        given = {k: v for k, v in data.items() if k != "kind"}
        problems = []
        if data.get("kind") != cls.__name__:
            problems.append(f"its kind is {data.get('kind')!r}, not {cls.__name__!r}")
        if extra := sorted(set(given) - known):
            problems.append(f"it has fields that {cls.__name__} has not: {', '.join(extra)}")
        if problems:
            raise DataError(f"Cannot read a {cls.__name__}: {'; '.join(problems)}. Was it written by to_dict()?")
        if "skipped" in given:
            given["skipped"] = tuple(SkippedItem(**record) for record in given["skipped"])
        return given

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def _freeze(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            sealed = MappingProxyType(dict(value)) if isinstance(value, Mapping) else tuple(value)
            object.__setattr__(self, name, sealed)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Record) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickling and copying: read-only mappings travel as dictionaries, private helpers stay behind."""
        values = {k: v for k, v in self._values().items() if not k.startswith("_")}
        return _rebuild, (type(self), {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()})


def _rebuild(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**values)
