"""Which target column is meant, and which items belong together. Floor 1."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from headstart._registry import unknown
from headstart._typing import Ints
from headstart.dataset import Dataset, Target
from headstart.errors import DataError, OptionError, UnknownName

_FOLDS = 5
_BY = ("fold", "class", "domain", "client", "group")


def target_column(data: Dataset, target: str | None, *, needed: bool) -> Target | None:
    """The column named, else the only one; None when there is none and it is not needed."""
    columns = {column.name: column for column in data.columns}
    if target is not None:
        if target not in columns:
            raise UnknownName(unknown("target columns", target, list(columns)))
        return columns[target]
    if len(columns) > 1:
        raise OptionError(f"There are several target columns; say which: target= one of {', '.join(columns)}.")
    if needed and not columns:
        raise DataError("by='class' needs targets, and this dataset has none.")
    return next(iter(columns.values()), None)


def groups_of(data: Dataset, by: Any, column: Target | None) -> tuple[list[Any], Ints]:
    """The groups' names and each item's group as an index into them, −1 for none."""
    if isinstance(by, str) and by not in _BY:
        raise UnknownName(unknown("groupings", by, list(_BY)))
    if isinstance(by, str) and by == "class":
        assert column is not None
        return list(column.classes or ()), column.codes()
    if isinstance(by, bool) or (isinstance(by, Integral) and by < 2):
        raise OptionError(f"by= a number of folds must be a whole number ≥ 2; got {by!r}.")
    if isinstance(by, Integral) or (isinstance(by, str) and by == "fold"):
        by = data.fold_ids(int(by) if isinstance(by, Integral) else _FOLDS, random_state=0)
    elif isinstance(by, str):
        by = data.groups
        if by is None:
            raise DataError("This dataset has no groups; give them when it is made: Dataset(…, groups=…).")
    labels = by.tolist() if isinstance(by, np.ndarray) else list(by)
    if len(labels) != len(data):
        raise DataError(f"by= has {len(labels):,} groups for {len(data):,} items; give one per item.")
    index = {label: i for i, label in enumerate(_in_order(labels))}
    return list(index), np.fromiter((index[label] for label in labels), np.int64, len(labels))


def _in_order(labels: Sequence[Any]) -> list[Any]:
    """Each label once: sorted where they can be, else as they come."""
    try:
        return sorted(set(labels))
    except TypeError:
        return list(dict.fromkeys(labels))
