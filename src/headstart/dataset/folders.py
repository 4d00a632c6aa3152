"""Modalities by file suffix, and the class folders, parts and files below a folder."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from headstart._base.files import did_you_mean
from headstart._base.registry import unknown_name
from headstart._base.typing import Modality
from headstart.errors import DataError, UnknownName

_BY_MODALITY: dict[Modality, str] = {
    "image": "jpg jpeg jpe jfif png gif bmp dib webp tif tiff ppm pgm pbm pnm avif heic heif jp2",
    "audio": "wav flac ogg oga opus mp3 aif aiff aifc au caf m4a aac wma",
    "text": "txt md text",
}
SUFFIXES: dict[str, Modality] = {f".{s}": m for m, words in _BY_MODALITY.items() for s in words.split()}
_BY_NAME: dict[str, Modality] = {name: name for name in _BY_MODALITY}
_NOUNS = {"image": "image", "audio": "audio", "text": "text"}
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "thumbs.db", "desktop.ini", "$RECYCLE.BIN"})
_LONGEST_PATH = 1024


@dataclass(frozen=True)
class FoundFile:
    """One file of a folder: its class (None outside class folders) and its part (None without parts)."""

    path: Path
    label: str | None
    part: str | None


@dataclass(frozen=True)
class Scan:
    """The content of a folder: usable files in path order, files left out, class folders without a usable file."""

    files: list[FoundFile]
    modality: Modality
    ignored: list[Path]
    empty: list[str]


def modality_from_suffix(path: Path | str) -> Modality | None:
    """Return the modality that a file name's suffix stands for.

    >>> modality_from_suffix("cat.JPG"), modality_from_suffix("notes.docx")
    ('image', None)
    """
    return SUFFIXES.get(os.path.splitext(path)[1].lower())


def canonical_part(name: str) -> str | None:
    """Return ``"train"``, ``"val"`` or ``"test"`` for the names that folders and split columns give them, else None."""
    return _PARTS.get(name.strip().lower())


def scan_folder(root: Path, modality: str | None = None) -> Scan:
    """List the usable files under a folder, their modality, and the files left out.

    The first folder level names the classes; what is nested deeper belongs to them. When every first-level folder is
    called train, val or test (or a synonym), those are parts and the classes lie one level deeper. Links to folders
    are followed, each folder once. A broken link or a damaged file with a known suffix stays: whoever reads it says so.

    Raises
    ------
    DataError
        When the folder does not exist, holds nothing usable, or holds several modalities.
    """
    _check(root, modality)
    files: list[FoundFile] = []
    ignored: list[Path] = []
    empty: list[str] = []
    parts = _parts(root)
    if parts[0][0] is not None:
        ignored += _listing(root)[1]  # a readme or a table beside train/ and test/ belongs to neither
    for part, folder in parts:
        folders, beside = _listing(folder)
        seen = {os.path.realpath(f) for f in (root, folder)}
        inside = {sub.name: [FoundFile(path, sub.name, part) for path in _walk(sub, set(seen))] for sub in folders}
        candidates = [*chain.from_iterable(inside.values()), *(FoundFile(path, None, part) for path in beside)]
        usable = [f for f in candidates if _usable(f.path, modality)]
        if any(f.label is not None for f in usable):  # there are class folders: what lies beside them has no class
            usable = [f for f in usable if f.label is not None]
        files += usable
        used = {f.path for f in usable}
        ignored += [f.path for f in candidates if f.path not in used]
        empty += sorted(set(inside) - {f.label for f in usable if f.label})
    files.sort(key=lambda f: f.path.relative_to(root).parts)
    return Scan(files, _single_modality(files, root, ignored, modality), sorted(ignored), empty)


def _check(root: Path, modality: str | None) -> None:
    if modality is not None and modality not in _BY_MODALITY:
        raise UnknownName(unknown_name("modalities of files", modality, list(_BY_MODALITY)))
    if not os.path.exists(root):
        raise DataError(f"There is no folder {root}.{did_you_mean(root)}")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder. Tables (csv, tsv, jsonl, parquet) go to Dataset.from_table.")


def _parts(root: Path) -> list[tuple[str | None, Path]]:
    """Return (part, folder) pairs of a train/test layout, else the root alone; a lone flat ``train/`` is a class."""
    folders = _listing(root)[0]
    parts = [(canonical_part(folder.name), folder) for folder in folders]
    layout = bool(parts) and all(part for part, _ in parts)
    if layout and (len(parts) > 1 or _listing(folders[0])[0]):
        return parts
    return [(None, root)]


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return (folders, files) of a folder in name order, without hidden ones, system droppings, pipes and devices."""
    folders, files = [], []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"Cannot list the folder {folder}: {error.strerror or error}.") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _JUNK:
            continue
        if entry.is_dir():
            folders.append(folder / entry.name)
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is a broken file, and is reported as one
            files.append(folder / entry.name)
    return folders, files


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield every file below a folder; one that was seen already (a loop of links, a way back up) is not entered."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        folders, files = _listing(current)
        waiting += reversed(folders)
        yield from files


def _usable(path: Path, modality: str | None) -> bool:
    kind = modality_from_suffix(path)
    return kind is not None and modality in (None, kind)


def _single_modality(files: Sequence[FoundFile], root: Path, ignored: Sequence[Path], modality: str | None) -> Modality:
    """Return the one modality of the files; DataError where there are none or several."""
    counts = Counter(kind for f in files if (kind := modality_from_suffix(f.path)) is not None)
    if not counts:
        suffixes = [suffix for suffix, kind in SUFFIXES.items() if modality in (None, kind)]
        reason = f" Left out: {count_by_suffix(ignored)}." if ignored else " It is empty."
        noun = _NOUNS.get(modality or "", "image, audio or text")
        raise DataError(f"No {noun} file is in {root}.{reason} Known suffixes: {' '.join(suffixes)}.")
    if len(counts) > 1:
        listed = ", ".join(f"{n:,} {kind}" for kind, n in counts.most_common())
        raise DataError(
            f"{root} holds several modalities ({listed}); say which one to use, e.g. "
            f"modality={counts.most_common(1)[0][0]!r} (--modality)."
        )
    return next(iter(counts))


def count_by_suffix(paths: Iterable[Path]) -> str:
    """Count files by suffix, for a message.

    >>> count_by_suffix([Path("a.csv"), Path("b.mp4"), Path("c.mp4")])
    '3 files (.mp4 2, .csv 1)'
    """
    counts = Counter(path.suffix.lower() or path.name for path in paths)
    kinds = ", ".join(f"{suffix} {n:,}" for suffix, n in counts.most_common(6))
    total = sum(counts.values())
    return f"{total:,} file{'s' * (total != 1)} ({kinds}{', …' * (len(counts) > 6)})"


def resolve_inputs(cells: Sequence[str], folder: Path, modality: str | None) -> tuple[list[Path] | None, Modality]:
    """Decide whether a table's input column holds paths or texts.

    They are paths when they end like files and at least one of the files exists; a few that are missing stay, and are
    reported when they are read. ``modality="image"`` or ``"audio"`` says that they are paths.

    Returns
    -------
    paths : list of Path, or None when the cells are texts
    modality : str

    Raises
    ------
    DataError
        When all cells look like files and none of them exists, or when they are of several modalities.
    """
    if modality is not None and modality not in _BY_MODALITY:
        raise UnknownName(unknown_name("modalities of a table's input", modality, list(_BY_MODALITY)))
    kinds = Counter(kind for c in cells if _looks_like_file(c) and (kind := modality_from_suffix(c)) is not None)
    only_paths = modality in ("image", "audio")
    if not only_paths and not kinds:
        return None, "text"
    if not any(_is_file(folder / cell) for cell in cells if only_paths or _looks_like_file(cell)):
        if not only_paths and (modality == "text" or sum(kinds.values()) < len(cells)):
            return None, "text"
        raise DataError(
            f"None of the {len(cells):,} files that the input column names exists; the first would be "
            f"{(folder / cells[0]).absolute()}. Paths are relative to the table's folder; URLs are not downloaded."
        )
    if modality is None and len(kinds) > 1:
        listed = ", ".join(f"{n:,} {kind}" for kind, n in kinds.most_common())
        raise DataError(f"The input column names files of several modalities ({listed}); say modality=.")
    paths = [folder / cell for cell in cells]
    return paths, _BY_NAME[modality] if modality is not None else next(iter(kinds))


def _looks_like_file(cell: str) -> bool:
    return (
        0 < len(cell) <= _LONGEST_PATH
        and "\n" not in cell
        and "\0" not in cell
        and modality_from_suffix(cell) is not None
    )


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
