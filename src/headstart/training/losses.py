"""Losses on decision values, per task.

Every one is a mean over items; targets are (n, t) float tensors. Classification: cross entropy against one-hot rows,
smoothed. Multi-label: binary cross entropy. Regression: squared error in units of each target's variance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from headstart.errors import OptionError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_for(task: str, targets: torch.Tensor, *, smoothing: float = 0.0, offset: torch.Tensor | None = None) -> Loss:
    """The loss of a task.

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

        def cross_entropy(decision: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            logits = decision if offset is None else decision + offset
            soft = wanted * (1 - smoothing) + smoothing / wanted.shape[1]
            return -(soft * F.log_softmax(logits, 1)).sum(1).mean()

        return cross_entropy
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits
    if task == "regression":
        variance = targets.var(0, unbiased=False).clamp(min=1e-12)
        return lambda decision, wanted: ((decision - wanted) ** 2 / variance).mean()
    raise OptionError(f"Fine-tuning knows classification, multilabel and regression; this task is {task}.")
