"""Whether tuned weights are worth keeping: what is watched while training, and the verdict afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from headstart._base.typing import Float
from headstart.metrics.kernels import cross_entropy

_LEVEL = 0.16  # of keeping weights that are no better: one standard error, shared by all that could have been kept


def scorer(T: np.ndarray, task: str, *, balanced: bool) -> Any:
    """Decision values of the held-out items → a score; ties in accuracy are broken by the likelihood.

    With ``balanced`` every class counts the same, as everywhere else under that switch.
    """
    share = sample_weights(T, balanced=balanced)

    def score(decision: np.ndarray) -> float:
        if task == "regression":
            return -float(((decision - T) ** 2).mean())
        if task == "multilabel":
            correct = float(((decision > 0) == (T > 0)).mean())
            return correct - 1e-3 * float(cross_entropy(decision, T, task).mean())
        correct = share @ (decision.argmax(1) == T.argmax(1))
        log_loss = share @ cross_entropy(decision, T, task)
        return float(correct) - 1e-3 * min(float(log_loss), 10.0)

    return score


@dataclasses.dataclass(frozen=True, eq=False)
class PairedPredictions:
    """What two predictors decide about the same held-out items.

    Attributes
    ----------
    frozen, tuned : (n, t) arrays
        Decision values; both were solved or trained on the same other items.
    T : (n, t) array
        The truth.
    """

    frozen: Float
    tuned: Float
    T: Float


def improvement(seen: Sequence[PairedPredictions], task: str, *, balanced: bool) -> tuple[float, float, int]:
    """How many fewer mistakes per item the tuned weights make, its standard error, and of how many items."""
    gains = np.concatenate(
        [per_item_error(pair.frozen, pair.T, task) - per_item_error(pair.tuned, pair.T, task) for pair in seen]
    )
    share = sample_weights(np.concatenate([pair.T for pair in seen]), balanced=balanced)
    mean, n = float(share @ gains), len(gains)
    return mean, float(np.sqrt((share**2 @ (gains - mean) ** 2) * n / max(n - 1, 1))), n


def significantly_better(seen: Sequence[PairedPredictions], task: str, *, balanced: bool, choices: int = 2) -> bool:
    """Whether tuned weights are clearly better than the frozen predictor (*do no harm*).

    Parameters
    ----------
    seen : sequence of Evidence
        One or more, about different items.
    choices : int
        Of how many candidates these are the best: tuned and averaged weights, from every start that was tried.

    Notes
    -----
    Both are compared by their *errors*, item by item, with Student's t at the level of one standard error (16 %)
    divided by the number of choices. Log-loss is no part of it: where few items are wrong its tail drowns the
    difference. (TrashNet, 360 photos, 72 of them held out: weights with 2.8 points more on those, 0.6 standard errors,
    were 2.5 points worse than the frozen predictor on 240 fresh photos.)
    """
    mean, error, n = improvement(seen, task, balanced=balanced)
    return bool(mean > student.isf(_LEVEL / choices, max(n - 1, 1)) * error)


def per_item_error(decision: Float, T: Float, task: str) -> Float:
    """What is wrong with every item (n,): 1 for a wrong class, the share of wrong labels, or the squared error."""
    if task == "regression":
        return np.asarray(((decision - T) ** 2 / np.maximum(T.var(0), 1e-12)).mean(1))
    if task == "multilabel":
        return np.asarray(((decision > 0) != (T > 0)).mean(1))
    return np.asarray(decision.argmax(1) != T.argmax(1), dtype=np.float64)


def sample_weights(T: Float, *, balanced: bool) -> Float:
    """What every item counts (n,), 1 together; ``balanced``: every class the same."""
    if not balanced:
        return np.full(len(T), 1 / len(T))
    counts = T.sum(0)
    return np.asarray((T / np.maximum(counts, 1)).sum(1) / (counts > 0).sum())
