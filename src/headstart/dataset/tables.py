"""Read columns of a table file (csv, tsv, jsonl, parquet), row by row.

Only the requested columns are kept. Every complaint names the file and the line.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from headstart._base.extras import require_package
from headstart._base.files import did_you_mean
from headstart._base.registry import unknown_name
from headstart.errors import DataError, UnknownName

_DELIMITERS: Mapping[str, str] = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}
_LINES, _PARQUET = (".jsonl", ".ndjson"), (".parquet", ".pq")
SUFFIXES = (*_DELIMITERS, *_LINES, *_PARQUET)
_LARGEST_CELL = 1 << 28
_SHOWN = 3  # problems listed in one message

ColumnSelector: TypeAlias = Callable[[Sequence[str]], Sequence[str]]  # names of a file → those to read


@dataclass(frozen=True)
class TableFile:
    """Some columns of a table.

    Attributes
    ----------
    names : tuple of str
        All the columns that the file has.
    columns : dict of str to list
        The requested columns. Cells are strings (``typed=False``) or JSON values (``typed=True``), None where absent.
    lines : list of int
        The 1-based line of the file (row for parquet) on which each row starts.
    typed : bool
    """

    names: tuple[str, ...]
    columns: dict[str, list[Any]]
    lines: list[int]
    typed: bool


def read_table(path: Path, select: ColumnSelector) -> TableFile:
    """Read the columns that ``select`` picks from the names a file has.

    Raises
    ------
    DataError
        No such file, an unknown format, damaged or ragged rows, another encoding than UTF-8, no rows.
    UnknownName
        A column that the file has not.

    Notes
    -----
    Cost: one pass; memory for the requested columns. A tab-separated file whose quotes do not pair up is read with
    quotes as plain characters, as most data sets in that format mean them.
    """
    if not os.path.exists(path):
        raise DataError(f"There is no table {path}.{did_you_mean(path)}")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a table. Folders go to Dataset.from_folder.")
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        table = _read_delimited(path, select)
    elif suffix in _LINES:
        table = _read_jsonl(path, select)
    elif suffix in _PARQUET:
        table = _read_parquet(path, select)
    else:
        raise DataError(
            f"{path.name} is no table that can be read; known formats: csv, tsv, jsonl, parquet. "
            "Save it as one of them."
        )
    if not table.lines:
        raise DataError(f"{path} has columns ({', '.join(table.names)}) but no rows.")
    return table


def check_columns(path: Path, requested: Sequence[str], names: Sequence[str]) -> None:
    """Refuse columns that are not there, and columns that are there twice."""
    for name in requested:
        if name not in names:
            raise UnknownName(unknown_name(f"columns of {path.name}", name, list(names)))
        if list(names).count(name) > 1:
            raise DataError(f"{path} has {list(names).count(name)} columns called {name!r}; rename one.")


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their endings; UTF-8 only, with or without a byte-order mark."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise DataError(f"{path}, line {number}: a NUL byte. This is no text file, or it is damaged.")
                yield line
    except UnicodeDecodeError as error:
        raise DataError(_encoding_message(path, error)) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _encoding_message(path: Path, error: UnicodeDecodeError) -> str:
    with open(path, "rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return f"{path} is encoded in UTF-16; save it as UTF-8."
        file.seek(0)
        number = 0
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as first:
                byte = line[first.start]
                return f"{path}, line {number}: the byte 0x{byte:02x} is not UTF-8. Save the file in UTF-8 encoding."
    return f"{path} is not UTF-8 ({error.reason}). Save the file in UTF-8 encoding."


# ---------------------------------------------------------------------------------------------- csv and tsv


def _read_delimited(path: Path, select: ColumnSelector) -> TableFile:
    # The limit is global in the csv module. It is raised and left so: setting it back could break another thread.
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    delimiter, names = _header(path)
    picked = select(names)
    check_columns(path, picked, names)
    if path.suffix.lower() == ".csv":
        return _rows(path, names, picked, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
    try:
        table = _rows(path, names, picked, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)
        torn = any("\t" in cell and "\n" in cell for column in table.columns.values() for cell in column)
        problem = DataError(f"{path} has cells that reach over several rows.") if torn else None
    except DataError as error:
        problem = error
    if problem is None:
        return table
    try:
        return _rows(path, names, picked, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    except DataError:
        raise problem from None


def _header(path: Path) -> tuple[str, list[str]]:
    """Return the delimiter that cuts the first row into most cells (the usual one when several do), and those cells."""
    header: tuple[str, list[str]] | None = None
    for delimiter in _DELIMITERS[path.suffix.lower()]:
        try:
            first = next((row for row in csv.reader(_lines(path), delimiter=delimiter) if row), None)
        except csv.Error as error:
            raise DataError(f"{path}, line 1: {error}.") from error
        if first is None:
            raise DataError(f"{path} is empty: a table starts with a row of column names.")
        if header is None or len(first) > len(header[1]):
            header = delimiter, first
    assert header is not None
    return header[0], [name.strip() for name in header[1]]


def _rows(path: Path, names: list[str], picked: Sequence[str], *, delimiter: str, quoting: int) -> TableFile:
    positions = [names.index(name) for name in picked]
    columns: dict[str, list[Any]] = {name: [] for name in picked}
    appends = [columns[name].append for name in picked]
    lines: list[int] = []
    ragged: list[str] = []
    reader = csv.reader(_lines(path), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    start = 0
    try:
        for row in reader:
            if row and start:
                if len(row) != len(names) and len(ragged) < _SHOWN:
                    ragged.append(f"{path}, line {start}: {len(row)} cells, but the header has {len(names)}.")
                elif not ragged:
                    lines.append(start)
                    for append, position in zip(appends, positions):
                        append(row[position])
            # The header is the first row that is not blank; before it ``start`` is 0.
            start = reader.line_num + 1 if row or start else 0
    except csv.Error as error:
        raise DataError(
            f"{path}, line {max(start, 1)}: {error}. Does a quote open there and never close, or stand inside a cell?"
        ) from error
    if ragged:
        hint = "A cell that holds the delimiter must be quoted; is the delimiter right?"
        raise DataError("\n".join([*ragged, hint]))
    return TableFile(tuple(names), columns, lines, typed=False)


# ---------------------------------------------------------------------------------------------- json lines


def _read_jsonl(path: Path, select: ColumnSelector) -> TableFile:
    seen: dict[str, None] = {}
    picked: Sequence[str] | None = None
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        record = _record(path, number, line)
        if picked is None:  # the first object gives the names; later ones may leave some out or add to them
            seen.update(dict.fromkeys(record))
            picked = select(list(seen))
            columns = {name: [] for name in picked}
        seen.update(dict.fromkeys(record))
        lines.append(number)
        for name in picked:
            columns[name].append(record.get(name))
    if picked is None:
        raise DataError(f"{path} is empty: each line of a jsonl file is one object.")
    check_columns(path, picked, list(seen))
    return TableFile(tuple(seen), columns, lines, typed=True)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number} is no JSON ({error}). Each line of a jsonl file is one object."
        ) from error
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f"{path}, line {number} is a JSON {kind}; each line of a jsonl file is one object {{…}}.")
    return record


# ---------------------------------------------------------------------------------------------- parquet


def _read_parquet(path: Path, select: ColumnSelector) -> TableFile:
    parquet = require_package("pyarrow.parquet", "to read parquet tables")
    arrow = require_package("pyarrow", "to read parquet tables")
    try:
        with parquet.ParquetFile(os.fspath(path)) as file:
            names = list(file.schema_arrow.names)
            picked = select(names)
            check_columns(path, picked, names)
            columns: dict[str, list[Any]] = {name: [] for name in picked}
            count = 0
            for batch in file.iter_batches(batch_size=8192, columns=list(picked)):
                count += batch.num_rows
                for name in picked:
                    columns[name].extend(_json_like(v) for v in batch.column(name).to_pylist())
    except (arrow.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as parquet: {first}") from error
    return TableFile(tuple(names), columns, list(range(1, count + 1)), typed=True)


def _json_like(value: Any) -> Any:
    """Return dates, decimals and the like as text or numbers; what JSON knows stays."""
    if value is None or isinstance(value, (str, int, float, bool, list, dict, bytes)):
        return value
    return float(value) if hasattr(value, "as_tuple") else str(value)
