"""Records: frozen dataclasses that turn into plain data for JSON, and are validated by pydantic when read back.

Constructors trust the code that calls them; whatever comes from a file or over the wire passes :func:`read_as`. A field
whose key in saved files is an older word names that key as its ``alias``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Annotated, Any, Protocol, Self, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, GetPydanticSchema, TypeAdapter, ValidationError
from pydantic_core import core_schema

from headstart._base.intervals import Better, Metric, format_number, mover_difference, paired_difference
from headstart._base.printing import blocks, clean, shorten, table
from headstart._base.typing import Array, SkippedItem
from headstart.errors import DataError

_MAX_PROBLEMS = 5  # of a broken file that are named
_MAX_CELLS = 60  # of a key in a message: whoever wrote the file chose it

T = TypeVar("T")

# ---- Types of fields, as saved files hold them. JSON has no NaN: it is written as null. ----

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class _SavedMetric:
    value: Number
    low: float | None
    high: float | None
    better: Better


MetricField = Annotated[
    Metric,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(
            lambda saved: Metric(**vars(saved)), handler(_SavedMetric)
        )
    ),
]
ScoresField = Annotated[
    Array,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(np.asarray, handler(list[Number]))
    ),
]
CountsField = Annotated[
    Array,
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(np.asarray, handler(list[list[Count]]))
    ),
]


def plain(value: Any) -> Any:
    """Return data that JSON can hold: numbers that are not finite become None, anything unknown its text.

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
    if isinstance(value, (set, frozenset)):
        return plain(sorted(value, key=repr))
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        public = (f for f in dataclasses.fields(value) if not f.name.startswith("_"))
        return {f.metadata.get("alias", f.name): plain(getattr(value, f.name)) for f in public}
    return str(value)


def read_as(kind: type[T], data: object) -> T:
    """Build a dataclass, and the ones inside it, from plain data.

    Raises
    ------
    DataError
        When fields are missing, unknown, or of another type; the first few are named.
    """
    try:
        record: T = _adapter(kind).validate_python(data)  # type: ignore[arg-type]
        return record
    except ValidationError as error:
        problems = [_problem(entry["loc"], entry["msg"]) for entry in error.errors(include_url=False)]
        rest = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        listed = "; ".join(problems[:_MAX_PROBLEMS])
        raise DataError(f"This is no {kind.__name__} that can be read: {listed}{rest}.") from error


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _problem(location: tuple[int | str, ...], message: str) -> str:
    path = ".".join(shorten(clean(step), _MAX_CELLS) for step in location)
    return f"{path}: {message}" if path else message


def frozen(array: Array) -> Array:
    """Return a read-only view of an array."""
    array = array.view()
    array.flags.writeable = False
    return array


class Record:
    """Base of the records: a frozen dataclass that turns into plain data, and is equal when that data is."""

    __pydantic_config__ = {"extra": "forbid"}
    cost: Mapping[str, Any]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]
    skipped: tuple[SkippedItem, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the record's ``kind``; fields that start with ``_`` stay behind."""
        fields = plain(self)
        skipped = [SkippedItem(str(s.item), str(s.reason), getattr(s, "index", None)) for s in self.skipped]
        return {"kind": type(self).__name__, **fields, "skipped": plain(skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises
        ------
        DataError
            When the data is another record, has unknown fields, or values that do not fit theirs.
        """
        field_names = {f.metadata.get("alias", f.name) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        fields = {name: value for name, value in data.items() if name != "kind"}
        problems = []
        if data.get("kind") != cls.__name__:
            problems.append(f"its kind is {data.get('kind')!r}, not {cls.__name__!r}")
        if unknown := sorted(str(name) for name in fields if name not in field_names):
            problems.append(f"it has fields that {cls.__name__} has not: {', '.join(unknown)}")
        if problems:
            raise DataError(f"Cannot read a {cls.__name__}: {'; '.join(problems)}. Was it written by to_dict()?")
        return read_as(cls, fields)

    def _freeze(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            sealed = MappingProxyType(dict(value)) if isinstance(value, Mapping) else tuple(value)
            object.__setattr__(self, name, sealed)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Record) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy through the constructor: read-only mappings as dictionaries, without private helpers."""
        fields = [f.name for f in dataclasses.fields(self) if not f.name.startswith("_")]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in fields}
        unsealed = {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()}
        return partial(type(self), **unsealed), ()


# ---- Two results side by side: which metrics differ by more than chance. ----


class Comparable(Protocol):
    """The part of a Result that a comparison reads."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Metric by name."""

    @property
    def row_scores(self) -> Mapping[str, Array]:
        """Scores (n,) of single rows, by metric."""

    @property
    def provenance(self) -> Mapping[str, object]:
        """Data fingerprint, seed and versions."""


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
