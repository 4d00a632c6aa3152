"""Read folders and tables into the fields of a Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart._base.progress import note
from headstart._base.typing import Array, Modality
from headstart.dataset.folders import count_by_suffix, resolve_inputs, scan_folder
from headstart.dataset.tables import TableFile, read_table
from headstart.dataset.targets import Target, make_target, parse_target, resolve_tasks, to_python
from headstart.errors import DataError, OptionError

_SHOWN = 8
_INPUT_NAMES = ("path", "file", "filename", "filepath", "image", "audio", "text", "sentence", "document")


@dataclass(frozen=True)
class DatasetFields:
    """The fields of a Dataset, as a folder or a table gives them; see :class:`headstart.dataset.Dataset`."""

    items: tuple[Any, ...]
    columns: tuple[Target, ...]
    modality: Modality
    groups: tuple[Any, ...] | None = None
    parts: tuple[str | None, ...] | None = None
    root: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def load_folder(root: Path, modality: str | None) -> DatasetFields:
    """Read class folders (see ``Dataset.from_folder``)."""
    root = root.expanduser()
    scan = scan_folder(root, modality)
    notes = []
    if scan.ignored:
        notes.append(f"{root}: left out {count_by_suffix(scan.ignored)}, e.g. {scan.ignored[0]}.")
    if scan.empty:
        notes.append(f"{root}: no {scan.modality} file is in {', '.join(scan.empty[:5])}.")
    for text in notes:
        note(text)
    labels = [file.label for file in scan.files]
    parts = [file.part for file in scan.files]
    meta = {"ignored": tuple(scan.ignored), "notes": tuple(notes)}
    return DatasetFields(
        items=tuple(file.path for file in scan.files),
        columns=(make_target("class", labels, "classification"),) if any(labels) else (),
        modality=scan.modality,
        parts=tuple(parts) if any(parts) else None,
        root=root,
        meta={name: value for name, value in meta.items() if value},
    )


def load_table(
    path: Path,
    input: str | None,
    targets: Sequence[str],
    *,
    task: str | Mapping[str, str] | None,
    groups: str | None,
    split: str | None,
    modality: str | None,
) -> DatasetFields:
    """Read a table (see ``Dataset.from_table``)."""
    path = path.expanduser()
    tasks = resolve_tasks(targets, task)
    others = [name for name in (*targets, groups, split) if name is not None]

    def select_columns(names: Sequence[str]) -> list[str]:
        return list(dict.fromkeys([input or _guess_input(path, names), *others]))

    table = read_table(path, select_columns)
    input_column = next(iter(table.columns))  # the first that was selected
    cells = _input_cells(path, table, input_column)
    paths, kind = resolve_inputs(cells, path.parent, modality)
    return DatasetFields(
        items=tuple(cells if paths is None else paths),
        columns=tuple(_target(path, table, name, tasks[name]) for name in dict.fromkeys(targets)),
        modality=kind,
        groups=None if groups is None else parse_groups(_or_none(table.columns[groups])),
        parts=None if split is None else tuple(None if v is None else str(v) for v in _or_none(table.columns[split])),
        root=None if paths is None else path.parent,
    )


def parse_groups(groups: Sequence[Any] | Array | None) -> tuple[Any, ...] | None:
    """Return groups as plain Python values; None stays None, and so does a missing group."""
    if groups is None:
        return None
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise OptionError(f"groups must be a sequence with one group per item; got {groups!r}.")
    return tuple(to_python("groups", g) for g in groups)


def _guess_input(path: Path, names: Sequence[str]) -> str:
    likely = [name for name in names if name.lower() in _INPUT_NAMES]
    if len(likely) != 1:
        why = "no column has an obvious name"
        if likely:
            why = f"{' and '.join(map(repr, likely))} both could be"
        raise OptionError(
            f"Say input=, the column of {path.name} with texts or paths: {why}. Columns: {', '.join(names)}."
        )
    others = [name for name in names if name != likely[0]]
    more = ""
    if others:
        dots = ", …" if len(others) > _SHOWN else ""
        more = f"; others: {', '.join(others[:_SHOWN])}{dots}"
    note(f"{path.name}: the inputs are taken from the column {likely[0]!r}{more}.")
    return likely[0]


def _input_cells(path: Path, table: TableFile, name: str) -> list[str]:
    """Return the input column as strings; a row without input has nothing to look at and is refused."""
    values = table.columns[name]
    for value, line in zip(values, table.lines):
        if not isinstance(value, str):
            what = "nothing" if value is None else f"a {type(value).__name__}"
            more = " Vectors go to Dataset.from_arrays." if isinstance(value, list) else ""
            raise DataError(f"{path}, line {line}: the input column {name!r} holds {what}, not a text or a path.{more}")
    return values


def _target(path: Path, table: TableFile, name: str, task: str | None) -> Target:
    values = table.columns[name]

    def where(i: int) -> str:
        return f"line {table.lines[i]} of {path.name}"

    if not table.typed:
        return parse_target(name, values, task, where=where)
    return make_target(name, values, task, where=where)


def _or_none(cells: Sequence[Any]) -> list[Any]:
    return [None if isinstance(cell, str) and not cell.strip() else cell for cell in cells]
