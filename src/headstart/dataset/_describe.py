"""One line that tells what a Dataset holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from headstart.dataset._target import Target

_SHOWN = 6
_NOUNS = {
    "image": ("image", "images"),
    "text": ("text", "texts"),
    "audio": ("clip", "clips"),
    "vector": ("vector", "vectors"),
}


def describe(items: Sequence[Any], modality: str, columns: Sequence[Target], extras: Sequence[str]) -> str:
    """``600 images, 6 classes (cardboard 100, glass 100, …), 3 groups``."""
    n = len(items)
    first = items[0] if n else None
    size = _size(first) if isinstance(first, np.ndarray) else _lengths(items)
    words = f"{n:,} {_NOUNS[modality][n != 1]}" + (f" of {size}" if size else "")
    parts = [words, *(_column(c, named=len(columns) > 1) for c in columns), *extras]
    return ", ".join(parts if columns else [words, "no targets", *extras])


def _size(row: np.ndarray[Any, Any]) -> str:
    return " × ".join(map(str, row.shape))


def _lengths(items: Sequence[Any]) -> str:
    """How long texts are, where they differ: what tells whether a network will have to cut them."""
    found = sorted(len(item) for item in items if isinstance(item, str))
    if not found or found[0] == found[-1]:
        return ""
    return f"{found[0]:,} to {found[-1]:,} characters (median {found[len(found) // 2]:,})"


def _column(column: Target, *, named: bool) -> str:
    missing = sum(v is None for v in column.values)
    lack = f", {missing:,} without a label" if missing else ""
    lead = f"{column.name}: " if named or column.task == "regression" else ""
    if column.task == "regression":
        numbers = column.matrix()
        seen = numbers[~np.isnan(numbers)]
        span = f"{seen.min():g} to {seen.max():g}" if len(seen) else "no values"
        return f"{lead}{span}{f' in {numbers.shape[1]} outputs' if numbers.shape[1] > 1 else ''} (regression{lack})"
    if column.classes is None:
        return f"{lead}{'transcripts' if column.task == 'transcription' else 'summaries'}{lack}"
    counts = Counter(column.pairs()[1].tolist())
    shown = ", ".join(f"{label} {counts[i]:,}" for i, label in enumerate(column.classes[:_SHOWN]))
    more = ", …" if len(column.classes) > _SHOWN else ""
    noun = {"classification": ("class", "classes"), "multilabel": ("label", "labels")}[column.task]
    return f"{lead}{len(column.classes)} {noun[len(column.classes) != 1]} ({shown}{more}){lack}"
