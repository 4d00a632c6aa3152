"""Class imbalance: one switch, ``balance=``, with one meaning everywhere. Floor 2: numpy only.

=========== ============================================================== ===================
balance     what is done                                                   what it aims at
=========== ============================================================== ===================
``none``    nothing: classes are predicted with their training frequency   accuracy
``logit``   log-odds of class c are moved by −log π_c, π the training      balanced accuracy
            frequencies (logit adjustment, after the fit)
``weights`` rows are weighted n / (t·n_c) in the fit                       balanced accuracy
``auto``    ``logit`` where the most frequent class has at least 3 times   the one that follows
            the rows of the rarest, else ``none``
=========== ============================================================== ===================

On frozen features the representation is fine and the head is the problem, so the remedy is in the head, and logit
adjustment is the cheapest that works with every head. **It trades accuracy for balanced accuracy**: rare classes are
found more often, and the frequent ones less. Where plain accuracy on data as unbalanced as the training data is what
counts, say ``balance="none"``. Weights and adjustment together would count twice; no setting does both.

References
----------
Menon et al. (2021), Long-tail learning via logit adjustment. Kang et al. (2020), Decoupling representation and
classifier for long-tailed recognition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart._base.constraints import Options
from headstart._base.registry import unknown_name
from headstart._base.typing import Array, Float
from headstart.errors import DataError, OptionError, UnknownName

__all__ = [
    "BALANCES",
    "RATIO",
    "Balance",
    "class_weights",
    "log_adjustment",
    "prior",
    "ratio",
    "resolve",
    "row_weights",
]

BALANCES = Options("auto", "none", "logit", "weights")
RATIO = 3.0  # most frequent : rarest, from which "auto" adjusts


@dataclass(frozen=True)
class Balance:
    """The balancing that a ``balance=`` resolved to.

    Attributes
    ----------
    kind : {"none", "logit", "weights"}
    metric : {"accuracy", "balanced_accuracy"}
        What choices under it aim at.
    reason : str
        One sentence for the record.
    """

    kind: str
    metric: str
    reason: str


def resolve(balance: str, counts: Array, task: str = "classification") -> Balance:
    """Turn ``auto`` into what the counts ask for, and say why.

    Parameters
    ----------
    balance : {"auto", "none", "logit", "weights"}
    counts : (t,) array
        Rows of each class.
    task : str
        Only classification has classes to balance: elsewhere ``auto`` is ``none``, and the others are refused.

    Raises
    ------
    UnknownName, OptionError
        When the name is not known, or asked of a task without classes.

    Examples
    --------
    >>> resolve("auto", [50, 40]).kind, resolve("auto", [50, 5]).kind
    ('none', 'logit')
    """
    if not BALANCES.allows(balance):
        raise UnknownName(unknown_name("values of balance", balance, list(BALANCES.names)))
    if task != "classification":
        if balance in ("logit", "weights"):
            raise OptionError(f"balance={balance!r} needs classes; this task is {task!r}. Use balance='none'.")
        return Balance("none", "accuracy", f"{task} has no classes to balance")
    uneven = ratio(counts)
    if balance != "auto":
        return Balance(balance, _metric(balance), f"balance={balance!r} was asked for")
    kind = "logit" if uneven >= RATIO else "none"
    words = f"the most frequent class has {uneven:.1f} times the rows of the rarest"
    why = "so log-odds are adjusted for balanced accuracy" if kind == "logit" else "which needs no adjustment"
    return Balance(kind, _metric(kind), f"{words}, {why}")


def ratio(counts: Array) -> float:
    """Rows of the most frequent class over those of the rarest that has any."""
    seen = _seen(counts)
    return float(seen.max() / seen.min())


def prior(counts: Array) -> Float:
    """Class frequencies (t,)."""
    numbers = _check_counts(counts)
    return np.asarray(numbers / numbers.sum())


def log_adjustment(counts: Array, tau: float = 1.0) -> Float:
    """Terms to add to log-odds (t,) so that all classes count alike: −τ·log π_c, 0 on average over the classes.

    ``head.adjust(log_adjustment(counts))`` applies it. A class without rows gets 0.

    Examples
    --------
    >>> log_adjustment([10, 10])
    array([0., 0.])
    """
    numbers = _check_counts(counts)
    seen = numbers > 0
    out = np.zeros(len(numbers))
    out[seen] = -tau * np.log(numbers[seen])
    out[seen] -= out[seen].mean()
    return out + 0.0


def class_weights(counts: Array) -> Float:
    """Weights n / (t·n_c) (t,) that give every class the same total; 0 for a class without rows.

    Examples
    --------
    >>> class_weights([1, 3])
    array([2.        , 0.66666667])
    """
    numbers = _check_counts(counts)
    seen = numbers > 0
    out = np.zeros(len(numbers))
    out[seen] = numbers.sum() / (seen.sum() * numbers[seen])
    return out


def row_weights(T: Array) -> Float:
    """The weight (n,) of each row of one-hot targets (n, t): that of its class."""
    targets = np.asarray(T, dtype=np.float64)
    if targets.ndim != 2 or not (targets.sum(axis=1) == 1).all():
        raise DataError(f"Row weights need one-hot targets (n, t); got shape {targets.shape}.")
    return np.asarray(targets @ class_weights(targets.sum(axis=0)))


def _metric(kind: str) -> str:
    return "accuracy" if kind == "none" else "balanced_accuracy"


def _seen(counts: Array) -> Float:
    numbers = _check_counts(counts)
    return numbers[numbers > 0]


def _check_counts(counts: Array) -> Float:
    numbers = np.asarray(counts, dtype=np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
        raise DataError(f"Class counts must be numbers ≥ 0, one per class, not all 0; got {counts!r}.")
    return numbers
