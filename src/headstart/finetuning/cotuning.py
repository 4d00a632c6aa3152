"""Co-Tuning: the source's own classifier goes on being trained, on what its classes say about the target's.

How target classes relate to source classes is read off once, before training: the mean of the source's probabilities
over the training items of each target class.

References
----------
You et al., Co-Tuning for transfer learning, NeurIPS 2020.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from headstart.errors import OptionError
from headstart.finetuning.batches import BatchProvider
from headstart.finetuning.model import FineTuneModel


def source_class_relation(provider: BatchProvider, targets: torch.Tensor, task: str) -> torch.Tensor:
    """Return (t, source classes) probabilities of source classes given a target class.

    Raises
    ------
    OptionError
        When the source has no classifier that gives one row per item, or the task has no classes.
    """
    model = provider.model
    classifier = model.source.classifier
    if classifier is None or task != "classification":
        raise OptionError(
            f"cotuning= needs classes and a source with a classifier of its own; the task is {task}, and "
            f"{model.source.address} has {'none' if classifier is None else classifier!r}. Leave it out."
        )
    probabilities = []
    with model.capture(classifier), torch.inference_mode():
        for batch in provider.in_order():
            model(batch.inputs, batch.activations)
            probabilities.append(_logits(model, len(batch.indices)).float().softmax(1))
    return (targets.T @ torch.cat(probabilities)) / targets.sum(0).clamp(min=1)[:, None]


def cotuning_loss(model: FineTuneModel, targets: torch.Tensor, relation: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the source classifier's output against what the one-hot targets (n, t) say of it."""
    logits = _logits(model, len(targets)).float()
    return -((targets @ relation) * F.log_softmax(logits, 1)).sum(1).mean()


def _logits(model: FineTuneModel, items: int) -> torch.Tensor:
    logits = model.captured
    assert logits is not None
    if logits.ndim != 2 or len(logits) != items:
        raise OptionError(
            f"cotuning= needs one row of source classes per item; the classifier gives {tuple(logits.shape)}."
        )
    return logits
