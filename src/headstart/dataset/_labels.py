"""Labels as they arrive (cells, JSON values, arrays) → plain Python values, and the task they stand for.

A plain label is a ``str``, ``int``, ``float``, ``bool``, a tuple of those, or None where it is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart._progress import note
from headstart._typing import Array, Task
from headstart.errors import DataError

LARGEST = 1e150  # of a number whose square is still far from float64's end
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")
_NOT_A_VALUE = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
_LONG = 60  # letters on average: no names of classes, where no two are alike
_FEW = 20  # up to this many different whole numbers may be class labels even when they are not 0, 1, 2, …


def unpack(name: str, values: Sequence[Any] | Array, task: str | None) -> tuple[list[Any], str | None, int | None]:
    """Plain labels, the task when the shape decides it, and the number of columns of a 0-1 matrix."""
    if hasattr(values, "detach") or hasattr(values, "to_numpy"):  # torch tensors, pandas and polars columns
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1 and task != "multilabel":
            values = values[:, 0]
        if values.ndim not in (1, 2):
            raise DataError(f"Target {name!r} has shape {values.shape}; give one label or one row per item.")
        if values.ndim == 2 and values.dtype.kind in "biuf":
            return _unpack_matrix(name, values, task)
    return [plain(name, v) for v in values], task, None


def _unpack_matrix(name: str, values: Array, task: str | None) -> tuple[list[Any], str | None, int | None]:
    zero_one = bool(np.isin(values, (0, 1)).all())
    if task == "multilabel" and not zero_one:
        raise DataError(f"Target {name!r} is a matrix {values.shape} with other values than 0 and 1: not multilabel.")
    if task == "classification":
        raise DataError(
            f"Target {name!r} is a matrix {values.shape}, but classification takes one label per item: "
            'give y.argmax(axis=1), or say task="multilabel".'
        )
    if task == "multilabel" or (task is None and zero_one and values.dtype.kind in "biu"):
        return [tuple(np.flatnonzero(row).tolist()) for row in values], "multilabel", values.shape[1]
    return [plain(name, row) for row in values.astype(np.float64)], task or "regression", None


def plain(name: str, value: Any) -> Any:
    """One label as plain Python: numpy scalars unwrapped, lists as tuples, NaN and pandas' NA as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=lambda v: (str(type(v)), v))
    if isinstance(value, (list, tuple)):
        row = tuple(plain(name, v) for v in value)
        return None if row and all(v is None for v in row) else row
    raise DataError(
        f"Target {name!r} holds a {type(value).__name__} ({str(value)[:60]!r}); "
        "allowed are texts, numbers, booleans, lists of labels, and None for a missing one."
    )


def from_cells(cells: Sequence[str], task: str | None) -> list[Any]:
    """Plain labels from a table's cells, where everything is a string; an empty cell is a missing label."""
    if task == "regression":
        return [None if cell.strip().lower() in _NOT_A_VALUE else cell for cell in cells]
    given: list[str | None] = [cell if cell.strip() else None for cell in cells]
    if task in ("transcription", "summarization"):
        return given
    if task in ("multilabel", None) and (lists := _json_lists(given)) is not None:
        return lists
    if task == "multilabel":
        separator = ";" if any(";" in cell for cell in cells) else "|"
        return [None if c is None else [s for label in c.split(separator) if (s := label.strip())] for c in given]
    return _numbers(given, whole_only=task == "classification")


def _numbers(cells: list[str | None], whole_only: bool) -> list[Any]:
    """Cells as ints when all are, else as floats when all are numbers (unless ``whole_only``), else as they are."""
    skip = frozenset() if whole_only else _NOT_A_VALUE
    given = [c for c in cells if c is not None and c.strip().lower() not in skip]
    if given and all(_INTEGER.fullmatch(c.strip()) for c in given):
        return [None if c is None or c.strip().lower() in skip else int(c) for c in cells]
    # 007 is no whole number above: leading zeros belong to codes, and codes are names. So some cell must have a
    # fraction or an exponent before the column counts as numbers.
    fraction = any(not c.strip().lstrip("+-").isdigit() for c in given)
    if not whole_only and fraction and all(_NUMBER.fullmatch(c) for c in given):
        return [None if c is None or c.strip().lower() in skip else float(c) for c in cells]
    return list(cells)


def _json_lists(cells: list[str | None]) -> list[Any] | None:
    """The cells as lists when every one of them is a JSON list, else None."""
    given = [c for c in cells if c is not None]
    if not given or not all(c.lstrip().startswith("[") for c in given):
        return None
    out: list[Any] = []
    for cell in cells:
        try:
            value = None if cell is None else json.loads(cell)
        except (ValueError, RecursionError):
            return None
        if value is not None and not isinstance(value, list):
            return None
        out.append(value)
    return out


def infer_task(name: str, values: list[Any]) -> Task:
    """The task that plain labels stand for; the choice is reported where it is not obvious."""
    given = [v for v in values if v is not None]
    kinds = {type(v) for v in given}
    if not given:
        raise DataError(f"Target {name!r} has no value in any of its {len(values):,} rows; say task=, or leave it out.")
    if tuple in kinds:
        inside = {type(x) for v in given if isinstance(v, tuple) for x in v}
        equal = len({len(v) if isinstance(v, tuple) else 0 for v in given}) == 1
        return "regression" if equal and float in inside and inside <= {float, int} else "multilabel"
    if kinds <= {bool} or str in kinds:
        _mention_free_text(name, given)
        return "classification"
    written = float in kinds  # 1.0 and 0.0: how tables that have gaps are often written
    if written and not (all(float(v).is_integer() for v in given) and like_classes([int(v) for v in given])):
        return "regression"
    task: Task = "classification" if not written and like_classes(given) else "regression"
    other = "regression" if task == "classification" else "classification"
    many = f"{len(set(given)):,} different whole numbers" + (f", written as {given[0]}" if written else "")
    note(f"Target {name!r} holds {many}: taken as {task}; task={other!r} changes it.")
    return task


def like_classes(numbers: Sequence[int]) -> bool:
    """Whether whole numbers look like class labels: 0 … k-1 or 1 … k, or only a few values that repeat.

    >>> like_classes([0, 1, 2, 1]), like_classes([31, 64, 19, 47])
    (True, False)
    """
    different = sorted(set(numbers))
    repeated = len(different) <= max(2, len(numbers) // 2)
    if different[0] in (0, 1) and different[-1] - different[0] == len(different) - 1:
        return repeated or len(different) <= _FEW
    return repeated and len(different) <= _FEW


def _mention_free_text(name: str, given: list[Any]) -> None:
    written = len(given) > 2 and len(set(given)) == len(given) and sum(len(str(v)) for v in given) > _LONG * len(given)
    if written or (len(given) > 50 and len(set(given)) > len(given) // 2):
        note(
            f"Target {name!r} has {len(set(given)):,} different values in {len(given):,} rows, each taken as a class. "
            'If they are free text, say task="summarization" or task="transcription".'
        )


def as_number(value: Any) -> float | tuple[float, ...] | None:
    """A finite number up to 1e150, or a row of them, from a plain label; None when it is not: errors are squared."""
    if isinstance(value, tuple):
        row = [as_number(v) for v in value]
        return tuple(v for v in row if isinstance(v, float)) if row and all(isinstance(v, float) for v in row) else None
    if value is None or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None
