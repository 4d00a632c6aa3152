"""How a frozen record becomes plain data and is read back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, Self

import numpy as np

from headstart._base.intervals import Metric, format_number, mover_difference, paired_difference
from headstart._base.printing import blocks, table
from headstart._base.typing import Array, SkippedItem
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


def _skipped_item(record: Any) -> SkippedItem:
    """The record with its item as text: a file of results holds plain data."""
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


# ---- Two results side by side: which metrics differ by more than chance. ----


class Comparable(Protocol):
    """What a comparison reads of a Result."""

    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def row_scores(self) -> Mapping[str, Array]: ...
    @property
    def provenance(self) -> Mapping[str, object]: ...


@dataclass(frozen=True)
class Difference:
    """One metric of two results. ``difference`` is ours - theirs, with its interval."""

    metric: str
    ours: Metric
    theirs: Metric
    difference: Metric
    paired: bool

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no clear difference``, or ``unknown`` when there is no interval."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "unknown"
        if low <= 0 <= high:
            return "no clear difference"
        return "better" if (low > 0) == (self.ours.better == "higher") else "worse"


@dataclass(frozen=True)
class Comparison:
    """Every metric that two results share; prints as a table."""

    rows: tuple[Difference, ...]

    def __getitem__(self, metric: str) -> Difference:
        for row in self.rows:
            if row.metric == metric:
                return row
        raise KeyError(f"{metric!r} is not shared by both results; shared: {', '.join(r.metric for r in self.rows)}.")

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        body = [
            [
                r.metric,
                format_number(r.ours),
                format_number(r.theirs),
                repr(r.difference),
                r.verdict,
                "yes" if r.paired else "no",
            ]
            for r in self.rows
        ]
        text = table(["metric", "ours", "theirs", "difference, 95 %", "ours is", "paired"], body, "lrrll")
        unpaired = any(not row.paired for row in self.rows)
        hint = "paired no: from the two intervals alone, which is cautious when both used the same rows." * unpaired
        return blocks(text, hint)


def compare(ours: Comparable, theirs: Comparable) -> Comparison:
    """Differences of the shared metrics; paired where both kept the scores of the very same rows."""
    data = ours.provenance.get("data")
    same = data is not None and data == theirs.provenance.get("data")
    return Comparison(
        tuple(_difference(name, ours, theirs, same) for name in ours.metrics if name in theirs.metrics),
    )


def _difference(name: str, ours: Comparable, theirs: Comparable, same: bool) -> Difference:
    a, b = ours.metrics[name], theirs.metrics[name]
    rows = ours.row_scores.get(name), theirs.row_scores.get(name)
    if same and rows[0] is not None and rows[1] is not None and len(rows[0]) == len(rows[1]) > 0:
        mean, low, high = paired_difference(rows[0], rows[1])
        return Difference(name, a, b, Metric(mean, low, high, a.better), paired=True)
    return Difference(name, a, b, Metric(float(a) - float(b), *mover_difference(a, b), better=a.better), paired=False)
