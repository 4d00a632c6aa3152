"""Co-Tuning (You et al. 2020): the source's own classifier goes on being taught, by what its classes say about ours.

How target classes relate to source classes is read off once, before training: the mean of the source's probabilities
over the training items of each target class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from headstart.errors import OptionError
from headstart.finetuning.batches import BatchProvider


def relation(feed: BatchProvider, targets: torch.Tensor, task: str, size: int = 64) -> torch.Tensor:
    """(t, source classes): probabilities of source classes given a target class.

    Raises
    ------
    OptionError
        When the source has no classifier that gives one row per item, or the task has no classes.
    """
    model = feed.model
    name = model.source.classifier
    if name is None or task != "classification":
        raise OptionError(
            f"cotuning= needs classes and a source with a classifier of its own; the task is {task}, and "
            f"{model.source.address} has {'none' if name is None else name!r}. Leave it out."
        )
    parts = []
    with model.capture(name), torch.inference_mode():
        for first in range(0, len(feed.samples), size):
            indices = np.arange(first, min(first + size, len(feed.samples)))
            model(*feed.batch(indices))
            parts.append(_logits(model, len(indices)).float().softmax(1))
    return (targets.T @ torch.cat(parts)) / targets.sum(0).clamp(min=1)[:, None]


def cotuning(model: Any, wanted: torch.Tensor, related: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the source classifier's output against what the target classes, one-hot (n, t), say."""
    logits = _logits(model, len(wanted)).float()
    return -((wanted @ related) * F.log_softmax(logits, 1)).sum(1).mean()


def _logits(model: Any, items: int) -> torch.Tensor:
    found: torch.Tensor = model.captured
    if found.ndim != 2 or len(found) != items:
        raise OptionError(
            f"cotuning= needs one row of source classes per item; the classifier gives {tuple(found.shape)}."
        )
    return found
