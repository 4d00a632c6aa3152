"""The recurrent text network with a vocabulary fitted on the source texts: see ``sources/lstm.py``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from headstart._base.registry import check_parameters
from headstart.errors import DataError, UnreadableItem
from headstart.readers.base import reader
from headstart.sources.base import SOURCES, Source
from headstart.sources.inputs.text import fit_vocabulary


def build(
    data: Any,
    *,
    seed: int,
    image_size: int | None = None,
    classes: int = 2,
    vocabulary: int = 10_000,
    max_length: int = 100,
    **options: Any,
) -> Source:
    """Initial weights from ``seed``; ``vocabulary`` is how many of the most frequent words are kept.

    Raises
    ------
    DataError
        When the data holds no texts.
    """
    if data.modality != "text":
        raise DataError(f"The architecture 'lstm' takes texts; this dataset is {data.modality}.")
    check_parameters("options of architecture 'lstm'", options, SOURCES["lstm"])
    words = fit_vocabulary(_readable(data.items), vocabulary)
    return SOURCES["lstm"]("lstm", vocabulary=words, classes=classes, max_length=max_length, seed=seed, **options)


def _readable(items: Iterable[Any]) -> Iterator[str]:
    """What cannot be read has no words; ``pretrain`` names it and leaves it out."""
    read = reader("text").read
    for item in items:
        try:
            yield read(item)
        except UnreadableItem:
            continue
