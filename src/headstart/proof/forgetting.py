"""Forgetting of the source task by fine-tuning: the source's own classifier before and after, on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from headstart._base.progress import note
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError
from headstart.extraction.autotune import device_name
from headstart.extraction.loading import readable_items, sample_loader
from headstart.proof.analysis import TestSet, two_way_interval
from headstart.result.proof import Forgetting
from headstart.sources.base import Source
from headstart.training.batches import Samples

_MAX_ITEMS = 500
_BATCH = 32


class SourceTask:
    """Items of the source task, prepared once, with the place of each one's class in the classifier's output."""

    def __init__(self, source: Source, data: Dataset, *, device: str, seed: int) -> None:
        if source.classifier is None:
            raise DataError(f"source_data= needs the source's own classifier, and {source.address} has none.")
        if len(data.columns) != 1 or data.columns[0].task != "classification":
            raise DataError("source_data= needs one target column of classes.")
        labelled = [i for i, label in enumerate(data.columns[0].values) if label is not None]
        if not labelled:
            raise DataError("source_data= has no label in any of its items.")
        data = data if len(labelled) == len(data) else data.take(labelled)
        data = readable_items(source, data.sample(n=_MAX_ITEMS, random_state=seed) if len(data) > _MAX_ITEMS else data)
        self.device = device_name(device)
        self.samples = Samples(sample_loader(source, data), source.input.collate, len(data))
        self.codes = _class_indices(source, data)

    @torch.no_grad()
    def right(self, source: Source) -> np.ndarray:
        """1 where the source's classifier is right. Shape (n,)."""
        network = source.module.to(self.device)
        correct = []
        for part in np.array_split(np.arange(len(self.codes)), max(1, -(-len(self.codes) // _BATCH))):
            tensors = source.input.tensors(self.samples.batch(part), torch.device(self.device), torch.float32)
            output = source.forward(tensors, module=network)
            if not 0 <= int(self.codes.min()) <= int(self.codes.max()) < output.shape[1]:
                raise DataError(f"The source's classifier knows {output.shape[1]} classes; source_data= has others.")
            correct.append(output.argmax(1).cpu().numpy() == self.codes[part])
        return np.concatenate(correct).astype(np.float64)


def _class_indices(source: Source, data: Dataset) -> np.ndarray:
    """Index of each item's class in the output: by name where the source names them, else by number or by order."""
    labels = data.columns[0].values
    named = source.meta.get("classes")
    if isinstance(named, (list, tuple)):
        index = {str(name): i for i, name in enumerate(named)}
        if unknown := sorted({str(label) for label in labels} - set(index)):
            raise DataError(f"The source does not know the classes {', '.join(unknown[:5])} of source_data=.")
        return np.array([index[str(label)] for label in labels])
    classes: tuple[Any, ...] = tuple(data.columns[0].classes or ())
    if named == len(classes):
        return data.columns[0].codes()
    if all(isinstance(label, int) for label in labels):
        return np.array(labels)
    raise DataError(
        f"Which output belongs to which class of source_data= cannot be told: the source has {named} classes without "
        f"names, the data has {len(classes)}. Give labels as whole numbers, the places in the output."
    )


def measure_forgetting(
    before: Sequence[float] | None, after: Sequence[Sequence[float]], n_kept: int
) -> Forgetting | None:
    """Return scores before and after fine-tuning, and the change with its interval over draws and items.

    Parameters
    ----------
    before : (items,) sequence of float or None
        1 where the source is right.
    after : (runs, items)
        The same after each fine-tuning.
    n_kept : int
        Runs in which fine-tuned weights were kept.
    """
    if before is None or not after:
        return None
    table = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not table.any() and not n_kept:
        note("Fine-tuning was never kept, so nothing of the source task is forgotten.")
        change = low = high = 0.0
    else:
        items = TestSet(np.zeros(table.shape[1], dtype=np.int64))
        change, low, high = two_way_interval(table, items, ends=(-1.0, 1.0))
    first = float(np.mean(before))
    return Forgetting(first, first + change, change=change, low=low, high=high, items=table.shape[1], n_kept=n_kept)
