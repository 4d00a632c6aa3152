"""Target columns: labels as plain Python values, the task they stand for, and labels as numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import TASKS, Array, Float, Ints, Task
from headstart.errors import DataError, OptionError, UnknownName

LARGEST = 1e150  # number whose square is still far from float64's end
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?\s*")
_NOT_A_VALUE = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>"})
_FREE_TEXT = 60  # letters on average: no names of classes, where no two are alike
_MAX_CODES = 20  # up to this many different whole numbers may be class labels even when they are not 0, 1, 2, …


def parse_labels(
    name: str, values: Sequence[Any] | Array, task: str | None
) -> tuple[list[Any], str | None, int | None]:
    """Return plain labels, the task when the shape decides it, and the number of columns of a 0-1 matrix."""
    if hasattr(values, "detach") or hasattr(values, "to_numpy"):  # torch tensors, pandas and polars columns
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1 and task != "multilabel":
            values = values[:, 0]
        if values.ndim not in (1, 2):
            raise DataError(f"Target {name!r} has shape {values.shape}; give one label or one row per item.")
        if values.ndim == 2 and values.dtype.kind in "biuf":
            return _unpack_matrix(name, values, task)
    return [to_python(name, v) for v in values], task, None


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
    return [to_python(name, row) for row in values.astype(np.float64)], task or "regression", None


def to_python(name: str, value: Any) -> Any:
    """Return one label as plain Python: numpy scalars unwrapped, lists as tuples, NaN and pandas' NA as None."""
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
        row = tuple(to_python(name, v) for v in value)
        return None if row and all(v is None for v in row) else row
    raise DataError(
        f"Target {name!r} holds a {type(value).__name__} ({str(value)[:60]!r}); "
        "allowed are texts, numbers, booleans, lists of labels, and None for a missing one."
    )


def parse_cells(cells: Sequence[str], task: str | None) -> list[Any]:
    """Return plain labels from a table's cells, where everything is a string; an empty cell is a missing label."""
    if task == "regression":
        return [None if cell.strip().lower() in _NOT_A_VALUE else cell for cell in cells]
    texts: list[str | None] = [cell if cell.strip() else None for cell in cells]
    if task in ("transcription", "summarization"):
        return texts
    if task in ("multilabel", None) and (lists := _json_lists(texts)) is not None:
        return lists
    if task == "multilabel":
        separator = ";" if any(";" in cell for cell in cells) else "|"
        return [None if text is None else _split_labels(text, separator) for text in texts]
    return _parse_numbers(texts, integers_only=task == "classification")


def _split_labels(text: str, separator: str) -> list[str]:
    labels = (label.strip() for label in text.split(separator))
    return [label for label in labels if label]


def _parse_numbers(cells: list[str | None], integers_only: bool) -> list[Any]:
    """Return ints when all cells are, floats when all are numbers (unless ``integers_only``), else the cells."""
    skip = frozenset() if integers_only else _NOT_A_VALUE
    values = [c for c in cells if c is not None and c.strip().lower() not in skip]
    if values and all(_INTEGER.fullmatch(c.strip()) for c in values):
        return [None if c is None or c.strip().lower() in skip else int(c) for c in cells]
    # 007 is no whole number above: leading zeros belong to codes, and codes are names. So some cell must have a
    # fraction or an exponent before the column counts as numbers.
    fraction = any(not c.strip().lstrip("+-").isdigit() for c in values)
    if not integers_only and fraction and all(_NUMBER.fullmatch(c) for c in values):
        return [None if c is None or c.strip().lower() in skip else float(c) for c in cells]
    return list(cells)


def _json_lists(cells: list[str | None]) -> list[Any] | None:
    """Return the cells as lists when every one of them is a JSON list, else None."""
    texts = [c for c in cells if c is not None]
    if not texts or not all(c.lstrip().startswith("[") for c in texts):
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
    """Return the task that plain labels stand for; the choice is reported where it is not obvious."""
    labels = [v for v in values if v is not None]
    kinds = {type(v) for v in labels}
    if not labels:
        raise DataError(f"Target {name!r} has no value in any of its {len(values):,} rows; say task=, or leave it out.")
    if tuple in kinds:
        entries = {type(entry) for row in labels if isinstance(row, tuple) for entry in row}
        equal = len({len(row) if isinstance(row, tuple) else 0 for row in labels}) == 1
        return "regression" if equal and float in entries and entries <= {float, int} else "multilabel"
    if kinds <= {bool} or str in kinds:
        _note_free_text(name, labels)
        return "classification"
    as_float = float in kinds  # 1.0 and 0.0: tables with gaps are often written so
    if as_float and not (all(float(v).is_integer() for v in labels) and looks_like_classes([int(v) for v in labels])):
        return "regression"
    task: Task = "classification" if not as_float and looks_like_classes(labels) else "regression"
    other = "regression" if task == "classification" else "classification"
    values_text = f"{len(set(labels)):,} different whole numbers"
    if as_float:
        values_text += f", written as {labels[0]}"
    note(f"Target {name!r} holds {values_text}: taken as {task}; task={other!r} changes it.")
    return task


def looks_like_classes(numbers: Sequence[int]) -> bool:
    """Decide whether whole numbers look like class labels: 0 … k-1 or 1 … k, or only a few values that repeat.

    >>> looks_like_classes([0, 1, 2, 1]), looks_like_classes([31, 64, 19, 47])
    (True, False)
    """
    different = sorted(set(numbers))
    repeated = len(different) <= max(2, len(numbers) // 2)
    if different[0] in (0, 1) and different[-1] - different[0] == len(different) - 1:
        return repeated or len(different) <= _MAX_CODES
    return repeated and len(different) <= _MAX_CODES


def _note_free_text(name: str, labels: list[Any]) -> None:
    n, different = len(labels), len(set(labels))
    texts = n > 2 and different == n and sum(len(str(label)) for label in labels) > _FREE_TEXT * n
    if texts or (n > 50 and different > n // 2):
        note(
            f"Target {name!r} has {different:,} different values in {n:,} rows, each taken as a class. "
            'If they are free text, say task="summarization" or task="transcription".'
        )


def as_number(value: object) -> float | tuple[float, ...] | None:
    """Return a finite number up to 1e150, or a row of them, from a plain label, else None: errors are squared."""
    if isinstance(value, tuple):
        row = [as_number(v) for v in value]
        numbers = tuple(v for v in row if isinstance(v, float))
        return numbers if row and len(numbers) == len(row) else None
    if value is None or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # a plain label that is no text: bool, int or float
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None


RowName: TypeAlias = Callable[[int], str]
_ITEM: RowName = "item {}".format  # the name of a row in messages; tables call it "line 17"


@dataclass(frozen=True)
class Target:
    """One target column.

    Attributes
    ----------
    name : str
    task : {"classification", "multilabel", "regression", "transcription", "summarization"}
    values : tuple
        One per item: a label, a tuple of labels (multilabel), a number or a tuple of numbers (regression), or a text;
        None where the label is missing.
    classes : tuple or None
        The labels in sorted order; None for the tasks that have none.
    """

    name: str
    task: Task
    values: tuple[Any, ...]
    classes: tuple[Any, ...] | None = None

    def take(self, indices: Ints) -> Target:
        """Return the column for some of the items; the classes stay those of all items."""
        return Target(self.name, self.task, tuple([self.values[i] for i in indices.tolist()]), self.classes)

    def codes(self) -> Ints:
        """Return the index of each item's class in ``classes``, -1 where the label is missing. Shape (n,)."""
        if self.task != "classification" or self.classes is None:
            raise DataError(f"Target {self.name!r} is {self.task}: only classification has one class per item.")
        index = {label: i for i, label in enumerate(self.classes)}
        return np.fromiter((-1 if v is None else index[v] for v in self.values), np.int64, len(self.values))

    def pairs(self) -> tuple[Ints, Ints]:
        """Return (item, class index) of every label: the indicator matrix in coordinates. Shapes (m,), (m,).

        Empty for the tasks that have no classes. Cost: O(m) memory, where the matrix takes O(n t).
        """
        if self.task == "classification":
            codes = self.codes()
            items = np.flatnonzero(codes >= 0).astype(np.int64)
            return items, codes[items]
        index = {label: i for i, label in enumerate(self.classes or ())}
        values = self.values if self.task == "multilabel" else ()
        coordinates = [(i, index[label]) for i, labels in enumerate(values) for label in labels or ()]
        pairs = np.array(coordinates, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def matrix(self) -> Float:
        """Return the targets as numbers.

        Returns
        -------
        ndarray of float64, shape (n, t)
            One-hot rows (classification), 0-1 indicators (multilabel) or the values (regression); a row of NaN where
            the label is missing.

        Raises
        ------
        DataError
            For texts: a transcription or a summary is not a number.
        """
        missing = np.array([v is None for v in self.values], bool)
        if self.task == "regression":
            width = max((len(v) for v in self.values if isinstance(v, tuple)), default=1)
            out = np.full((len(self.values), width), np.nan)
            present = [v for v in self.values if v is not None]
            out[~missing] = np.array(present, np.float64).reshape(len(present), width)
            return out
        if self.classes is None:
            raise DataError(f"Target {self.name!r} is {self.task}: its values are texts and have no matrix.")
        out = np.zeros((len(self.values), len(self.classes)))
        out[self.pairs()] = 1.0
        out[missing] = np.nan
        return out


def make_target(name: str, values: Sequence[Any] | Array, task: str | None = None, *, where: RowName = _ITEM) -> Target:
    """Make a target column from Python or numpy values; the task is inferred when it is not given.

    Strings, booleans and a few different whole numbers are classes; other numbers are regression; lists of labels and
    0-1 matrices of whole numbers are multilabel; rows of fractions are regression with several outputs.

    Raises
    ------
    DataError
        When the values do not fit the task, naming the first items that do not.

    Examples
    --------
    >>> make_target("kind", ["dog", "cat", None, "dog"]).classes
    ('cat', 'dog')
    """
    if task is not None and task not in TASKS:
        raise UnknownName(unknown_name("tasks", task, list(TASKS)))
    labels, task, width = parse_labels(name, values, task)
    if width is not None:
        return Target(name, "multilabel", tuple(labels), tuple(range(width)))
    return _BUILDERS[task or infer_task(name, labels)](name, labels, where)


def parse_target(name: str, cells: Sequence[str], task: str | None = None, *, where: RowName = _ITEM) -> Target:
    """Make a target column from a table's cells, where everything is a string; an empty cell is a missing label."""
    return make_target(name, parse_cells(cells, task), task, where=where)


def make_targets(y: Any, n: int, *, task: str | Mapping[str, str] | None, name: str = "target") -> tuple[Target, ...]:
    """Make target columns from a user's ``y``: a sequence, an array, or a mapping name → sequence.

    Raises
    ------
    DataError
        When a column has another length than there are items.
    """
    by_column = {str(key): values for key, values in y.items()} if isinstance(y, Mapping) else {name: y}
    for column, values in by_column.items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            raise OptionError(f"Target {column!r} must be a list or an array with one label per item; got {values!r}.")
        if len(values) != n:
            raise DataError(f"There are {n:,} items but {len(values):,} labels in {column!r}; give one per item.")
    tasks = resolve_tasks(list(by_column), task)
    return tuple(make_target(column, values, tasks[column]) for column, values in by_column.items())


def resolve_tasks(names: Sequence[str], task: str | Mapping[str, str] | None) -> dict[str, str | None]:
    """Return the task of each column, from one word for all or a mapping column → task."""
    if not isinstance(task, Mapping):
        return dict.fromkeys(names, task)
    if extra := sorted(set(task) - set(names)):
        raise UnknownName(unknown_name("target columns", extra[0], list(names)))
    return {name: task.get(name) for name in names}


def relabel(old: Target, values: Any) -> Target:
    """Give a column new labels: its task and its classes stay when the new labels are of the same kind."""
    (guess,) = make_targets(values, len(old.values), task=None, name=old.name)
    same_kind = {type(v) for v in guess.values if v is not None} <= {type(v) for v in old.values if v is not None}
    try:
        new = make_target(old.name, values, old.task) if same_kind or old.task == "regression" else guess
    except DataError:
        return guess
    same_classes = old.classes is not None and new.classes is not None and set(new.classes) <= set(old.classes)
    return Target(new.name, new.task, new.values, old.classes if same_classes else new.classes)


def _name_rows(bad: list[int], where: RowName) -> str:
    shown = ", ".join(map(where, bad[:3]))
    return shown + (f" and {len(bad) - 3:,} more" if len(bad) > 3 else "")


def _classification(name: str, values: list[Any], where: RowName) -> Target:
    if bad := [i for i, v in enumerate(values) if isinstance(v, tuple)]:
        raise DataError(f"Target {name!r} has lists of labels ({_name_rows(bad, where)}): say task='multilabel'.")
    if bad := [i for i, v in enumerate(values) if isinstance(v, float) and not v.is_integer()]:
        raise DataError(
            f"Target {name!r} holds fractions ({_name_rows(bad, where)}), which are no classes: say task='regression'."
        )
    values = [int(v) if isinstance(v, float) else v for v in values]
    if len({type(v) for v in values if v is not None}) > 1:  # 1 and "1" are one name to a reader, and have no order
        values = [None if v is None else str(v) for v in values]
    classes = tuple(sorted({v for v in values if v is not None}))
    folded: dict[Any, Any] = {}
    for label in classes:
        first = folded.setdefault(label.strip().casefold() if isinstance(label, str) else label, label)
        if first != label:
            note(f"Target {name!r}: the classes {first!r} and {label!r} differ only in spaces or capitals.")
    return Target(name, "classification", tuple(values), classes)


def _multilabel(name: str, values: list[Any], where: RowName) -> Target:
    lists = [v if v is None or isinstance(v, tuple) else (v,) for v in values]
    kinds = {type(label) for labels in lists for label in labels or ()}
    if bad := [i for i, labels in enumerate(lists) if labels and {type(x) for x in labels} - {str, int, bool}]:
        raise DataError(
            f"Target {name!r} is multilabel: each item needs a list of names; {_name_rows(bad, where)} has not."
        )
    if len(kinds) > 1:
        lists = [None if v is None else tuple(map(str, v)) for v in lists]
    unique = tuple(None if v is None else tuple(sorted(set(v))) for v in lists)
    classes = {label for labels in unique for label in labels or ()}
    return Target(name, "multilabel", unique, tuple(sorted(classes)))


def _regression(name: str, values: list[Any], where: RowName) -> Target:
    numbers = [as_number(v) for v in values]
    if bad := [i for i, number in enumerate(numbers) if number is None and values[i] is not None]:
        first = str(values[bad[0]])[:60]
        raise DataError(
            f"Target {name!r} is regression, but no finite number is in {_name_rows(bad, where)}, e.g. {first!r}. "
            f"Errors are squared, so numbers go up to {LARGEST:g}."
        )
    widths = {len(v) if isinstance(v, tuple) else 0 for v in numbers if v is not None}
    if len(widths) > 1:
        raise DataError(f"Target {name!r} is regression, but its rows have different lengths: {sorted(widths)}.")
    return Target(name, "regression", tuple(numbers))


def _text_builder(task: Task) -> Callable[[str, list[Any], RowName], Target]:
    def build(name: str, values: list[Any], where: RowName) -> Target:
        if bad := [i for i, v in enumerate(values) if v is not None and not isinstance(v, str)]:
            raise DataError(
                f"Target {name!r} is {task}, so its values are texts; {_name_rows(bad, where)} hold something else."
            )
        if task == "summarization":  # an empty summary is none; an empty transcript may be of a silent clip
            values = [v if v and v.strip() else None for v in values]
        return Target(name, task, tuple(values))

    return build


_BUILDERS: Mapping[str, Callable[[str, list[Any], RowName], Target]] = {
    "classification": _classification,
    "multilabel": _multilabel,
    "regression": _regression,
    "transcription": _text_builder("transcription"),
    "summarization": _text_builder("summarization"),
}
