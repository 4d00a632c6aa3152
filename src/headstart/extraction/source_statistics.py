"""source_statistics(): moments of a source's features on its own training data. Floor 5."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from headstart.dataset.dataset import Dataset
from headstart.extraction.extract import extract
from headstart.sources.base import Source, load_source
from headstart.sources.statistics import Statistics


def source_statistics(
    source: Source | str,
    data: Dataset,
    *,
    layers: str | Iterable[str] = "auto",
    pooling: str = "auto",
    store: str | Path | bool | None = None,
    device: str = "auto",
) -> Statistics:
    """Summarise the data that a source was trained on, once, so that rankings can say what a target shares with it.

    Parameters
    ----------
    source : Source or address
    data : Dataset
        What it was trained on, or data like it; a part is enough. With one target column, class means are kept, too.
    layers, pooling, store, device
        As for :func:`headstart.extract`; they must be those that rankings use (``"auto"`` are).

    Returns
    -------
    Statistics
        ``.save(FOLDER)`` puts them beside a saved source or a local timm folder, where rankings find them.

    Notes
    -----
    Cost: one forward pass per item; O(d²) numbers per layer on disk, whatever the number of items. Moments are not
    private: a class of one item shows its features as the class mean.

    Examples
    --------
    >>> from headstart.sources import load_source
    >>> data = Dataset.from_arrays(np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8))
    >>> source_statistics("fake:image", data, store=False).items
    8
    """
    source = load_source(source)
    bank = extract(source, data, layers=layers, pooling=pooling, store=store, device=device)
    readable = data.take(np.flatnonzero(bank.keep(data)))
    single = data.columns[0] if len(data.columns) == 1 else None
    moments = {}
    for layer in bank.layers:
        moments[layer] = bank.summarise(layer, readable if single is not None else readable.without_targets())
    classes = None if single is None or single.classes is None else tuple(map(str, single.classes))
    poolings = {layer: str(bank.recipe[layer]["pooling"]) for layer in bank.layers}
    return Statistics(source.fingerprint, data.fingerprint, len(readable), poolings, classes, moments)
