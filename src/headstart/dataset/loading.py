"""Folders and tables → what a Dataset is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headstart._base.progress import note
from headstart.dataset.folders import count_by_suffix, resolve_inputs, scan_folder
from headstart.dataset.tables import TableFile, read_table
from headstart.dataset.targets import Target, make_target, parse_target, resolve_tasks, to_python
from headstart.errors import DataError, OptionError

_SHOWN = 8
_INPUT_NAMES = ("path", "file", "filename", "filepath", "image", "audio", "text", "sentence", "document")


def load_folder(root: Path, modality: str | None) -> dict[str, Any]:
    """The arguments of a Dataset from class folders (see ``Dataset.from_folder``)."""
    root = root.expanduser()
    found = scan_folder(root, modality)
    notes = []
    if found.ignored:
        notes.append(f"{root}: left out {count_by_suffix(found.ignored)}, e.g. {found.ignored[0]}.")
    if found.empty:
        notes.append(f"{root}: no {found.modality} file is in {', '.join(found.empty[:5])}.")
    labels = [f.label for f in found.files]
    parts = [f.part for f in found.files]
    return _finish(
        items=tuple(f.path for f in found.files),
        columns=(make_target("class", labels, "classification"),) if any(labels) else (),
        modality=found.modality,
        parts=tuple(parts) if any(parts) else None,
        root=root,
        meta={"ignored": tuple(found.ignored), "notes": tuple(notes)},
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
) -> dict[str, Any]:
    """The arguments of a Dataset from a table (see ``Dataset.from_table``)."""
    path = path.expanduser()
    tasks = resolve_tasks(targets, task)
    chosen: list[str] = []

    def wanted(names: Sequence[str]) -> list[str]:
        chosen[:] = [input or _guess_input(path, names)]
        return list(dict.fromkeys([*chosen, *targets, *(c for c in (groups, split) if c is not None)]))

    table = read_table(path, wanted)
    cells = _inputs(path, table, chosen[0])
    paths, kind = resolve_inputs(cells, path.parent, modality)
    return _finish(
        items=tuple(cells if paths is None else paths),
        columns=tuple(_target(path, table, name, tasks[name]) for name in dict.fromkeys(targets)),
        modality=kind,
        groups=None if groups is None else parse_groups(_or_none(table.columns[groups])),
        parts=None if split is None else tuple(None if v is None else str(v) for v in _or_none(table.columns[split])),
        root=None if paths is None else path.parent,
        meta={},
    )


def parse_groups(groups: Any) -> tuple[Any, ...] | None:
    """Groups as plain Python values; None stays None, and so does a missing group."""
    if groups is None:
        return None
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise OptionError(f"groups must be a sequence with one group per item; got {groups!r}.")
    return tuple(to_python("groups", g) for g in groups)


def _finish(*, meta: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    for text in meta.get("notes", ()):
        note(text)
    return {**arguments, "meta": {key: value for key, value in meta.items() if value}}


def _guess_input(path: Path, names: Sequence[str]) -> str:
    likely = [name for name in names if name.lower() in _INPUT_NAMES]
    if len(likely) != 1:
        why = f"{' and '.join(map(repr, likely))} both could be" if likely else "no column has an obvious name"
        raise OptionError(
            f"Say input=, the column of {path.name} with texts or paths: {why}. Columns: {', '.join(names)}."
        )
    others = [name for name in names if name != likely[0]]
    more = f"; others: {', '.join(others[:_SHOWN])}{', …' if len(others) > _SHOWN else ''}" if others else ""
    note(f"{path.name}: the inputs are taken from the column {likely[0]!r}{more}.")
    return likely[0]


def _inputs(path: Path, table: TableFile, name: str) -> list[str]:
    """The input column as strings; a row without input has nothing to look at and is refused."""
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
