"""From the items of a dataset to prepared samples, and to words about those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.hashing import key_of_bytes
from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, UnreadableItem
from headstart.readers.base import Clip, reader
from headstart.sources.base import Source

_CHECKED_UP_TO = 256 << 20  # larger files are not held in memory only to look at their content key again


def reader_for(source: Source, data: Dataset) -> Any:
    """The modality's reader with the source's wishes; arrays that are preprocessed already are only checked."""
    if data.meta.get("preprocessed"):
        return reader("vector")
    return reader(data.modality, **(source.input.reader_options() if data.modality == source.modality else {}))


def sample_loader(
    source: Source,
    data: Dataset,
    keys: Sequence[bytes | None] | None = None,
    *,
    prepare: Callable[[Any], Any] | None = None,
    positions: Sequence[int] | None = None,
) -> Callable[[int], Any]:
    """index → prepared sample; every failure of an item becomes UnreadableItem.

    Parameters
    ----------
    keys : sequence, optional
        The items' content keys: a file that has other content by now is not read in its place.
    prepare : callable, optional
        Decoded item → sample, in place of the source's own.
    positions : sequence of int, optional
        Numbers of the items in the dataset that the user knows, for errors, where ``data`` is a part of it.
    """
    decode = reader_for(source, data).read
    prepare = prepare or source.input.prepare
    items = data.items

    def name(index: int) -> Any:
        return item_label(data, index, None if positions is None else positions[index])

    def read(index: int) -> Any:
        item = items[index]
        key = None if keys is None else keys[index]
        try:
            if key is not None and isinstance(item, Path):
                item = _verified(item, key)
            elif data.modality == "audio" and isinstance(item, np.ndarray):
                item = _clip(item, data.meta.get("sample_rate"))
            return prepare(decode(item))
        except UnreadableItem as error:
            raise UnreadableItem(name(index), error.reason) from error
        except DataError as error:
            raise UnreadableItem(name(index), str(error)) from error

    return read


def _clip(samples: np.ndarray, rate: int | None) -> Any:
    if rate is None:
        raise DataError("An array of sound needs a sample rate: Dataset.from_arrays(X, y, sample_rate=16_000).")
    return Clip(samples, int(rate))


def _verified(path: Path, key: bytes) -> Path | bytes:
    """The content of a file whose key is known, so that no row is ever kept under another content's key."""
    try:
        if path.stat().st_size > _CHECKED_UP_TO:
            return path
        content = path.read_bytes()
    except OSError:  # the reader says why
        return path
    if key_of_bytes(content) != key:
        raise UnreadableItem(path, "changed since the dataset was first looked at; make the dataset again")
    return content


def unreadable_items(source: Source, data: Dataset) -> dict[int, UnreadableItem]:
    """The items that cannot be read, and why; every item is tried."""
    read = sample_loader(source, data)
    problems = {}
    for index in range(len(data)):
        try:
            read(index)
        except UnreadableItem as problem:
            problems[index] = problem
    return problems


def readable_items(source: Source, data: Dataset) -> Dataset:
    """The items that can be read, the others noted: for training, which has no bank to keep the list.

    Raises
    ------
    DataError
        When none can be read.
    """
    problems = unreadable_items(source, data)
    for problem in problems.values():
        note(f"Left out: {problem}")
    if len(problems) == len(data):
        raise DataError(f"None of the {len(data)} items could be read.")
    return data.take([i for i in range(len(data)) if i not in problems]) if problems else data


def skip_reason(read: Callable[[int], Any], index: int) -> UnreadableItem:
    """Why an item has no content key: what reading it says."""
    try:
        read(index)
    except UnreadableItem as error:
        return error
    return UnreadableItem(f"item {index}", "could not be read when it was looked at first; it can be now, so run again")


def item_label(data: Dataset, index: int, number: int | None = None) -> Any:
    """What an item is called in messages: its path, the beginning of its text, or its number (from 0)."""
    item = data.items[index]
    if isinstance(item, str) and item.strip():
        return item if len(item) <= 80 else item[:77] + "…"
    return item if isinstance(item, Path) else f"item {index if number is None else number}"


def raises_by_default(data: Dataset) -> bool:
    """Arrays are the caller's own making: one that cannot be used is an error, not something to leave out."""
    return isinstance(data.items[0], np.ndarray)
