"""Losses on decision values, per task, and the loss of a network on labelled batches.

Every one is a mean over items; targets are (n, t) float tensors. Classification: cross entropy against one-hot rows,
smoothed. Multi-label: binary cross entropy. Regression: squared error in units of each target's variance.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.nn import functional as F

from headstart.errors import OptionError
from headstart.sources.types import Batch
from headstart.training.augment import Mix, draw_mix
from headstart.training.batches import SampleBatch
from headstart.training.config import Augment, TrainingConfig

LossFn = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_for(task: str, targets: torch.Tensor, *, smoothing: float = 0.0, offset: torch.Tensor | None = None) -> LossFn:
    """Return the loss of a task: (decision values (n, t), targets (n, t)) → scalar.

    Parameters
    ----------
    targets : (n, t) tensor
        All of them: regression measures errors in units of their variance.
    smoothing : float
        Of labels, for classification.
    offset : (t,) tensor, optional
        Added to the decision values while training (logit adjustment for uneven classes).

    Raises
    ------
    OptionError
        For a task that gradients of a head cannot learn.
    """
    if task == "classification":

        def cross_entropy(decision: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = decision if offset is None else decision + offset
            smoothed = labels * (1 - smoothing) + smoothing / labels.shape[1]
            return -(smoothed * F.log_softmax(logits, 1)).sum(1).mean()

        return cross_entropy
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits
    if task == "regression":
        variance = targets.var(0, unbiased=False).clamp(min=1e-12)  # a constant target gives no infinite loss
        return lambda decision, values: ((decision - values) ** 2 / variance).mean()
    raise OptionError(f"Fine-tuning knows classification, multilabel and regression; this task is {task}.")


class SupervisedLoss:
    """The loss of a whole network on batches of labelled samples: for pretraining and for training from scratch.

    Parameters
    ----------
    forward : callable
        (batch, mix) → (items, t) decision values; ``mix`` is applied to the network's input, where there is one.
    targets : (n, t) tensor
        Of all items that are trained on; batches give indices into it.
    offset : (t,) tensor, optional
        See :func:`loss_for`.
    """

    def __init__(
        self,
        forward: Callable[[Batch, Mix | None], torch.Tensor],
        targets: torch.Tensor,
        task: str,
        *,
        config: TrainingConfig,
        augment: Augment | None = None,
        offset: torch.Tensor | None = None,
    ) -> None:
        self._forward, self._targets = forward, targets
        self._bf16 = config.precision == "bf16"
        self._mixup = augment.mixup if augment is not None else 0.0
        self._loss = loss_for(task, targets, smoothing=config.label_smoothing, offset=offset)

    def __call__(self, batch: SampleBatch, generator: torch.Generator) -> torch.Tensor:
        """Return the mean loss of a batch."""
        labels = self._targets[torch.from_numpy(batch.indices).to(self._targets.device)]
        single = batch.inputs.counts is None and batch.inputs.mask is None  # texts and clips are not mixed
        mix = draw_mix(self._mixup, len(batch.indices), generator) if self._mixup and single else None
        with torch.autocast(self._targets.device.type, torch.bfloat16) if self._bf16 else nullcontext():
            decision = self._forward(batch.inputs, mix)
        return self._loss(decision.float(), labels if mix is None else mix(labels))
