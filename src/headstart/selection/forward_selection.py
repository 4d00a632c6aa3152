"""Forward selection: which sets of features to put side by side, by the held-out loss of ridge.

Standardised features of a union are known by the sum of their rows' products, so that every union is one sum and one
inverse (:func:`headstart.linalg.ridge_cv.kernel_out_of_fold`) and nothing is fitted twice. The first set is the best by
itself; each next one is that which lowers the loss the most, until none does or four are together. On many rows the
search looks at a sample of them, and at a smaller one to find the eight candidates that are worth it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import NumericsError
from headstart.linalg.ridge_cv import centered_gram, kernel_out_of_fold
from headstart.selection.cross_validation import CrossValidation, score_out_of_fold

MAX_SETS = 4
_MAX_ROWS = 600
_SCREENING_ROWS = 300  # on which all candidates are tried
_PENALTIES = (0.01, 0.1, 1.0)  # of the mean product of a row with itself
_MAX_CONTENDERS = 8  # that are tried on more rows, and again at every step


def forward_selection(features: Mapping[str, Array], cv: CrossValidation, ranked: Sequence[str]) -> tuple[str, ...]:
    """Select the names to put side by side, in the order in which they were added.

    Parameters
    ----------
    features : mapping of str to (n, d) array
    cv : CrossValidation
    ranked : sequence of str
        Names of ``features``, the best by itself first.

    Notes
    -----
    **Cost**: n²·d + n³ per candidate with n ≤ 300, and the same for eight of them per step with n ≤ 600.
    """
    if len(ranked) < 2:
        return tuple(ranked)
    selected = [ranked[0]]
    contenders = _screen(_KernelSearch.on_rows(features, cv, ranked, _SCREENING_ROWS), ranked)
    search = _KernelSearch.on_rows(features, cv, [*selected, *contenders], _MAX_ROWS)
    union = search.kernels[ranked[0]]
    lowest, penalty = search.best_loss(union)
    while contenders and len(selected) < MAX_SETS:
        losses = {name: search.loss(union + search.kernels[name], penalty) for name in contenders}
        contenders.sort(key=lambda name: losses[name])
        union = union + search.kernels[contenders[0]]
        loss, penalty = search.best_loss(union)
        # two sets are always tried: whether they beat one is for the comparison of finalists to say
        if loss >= lowest and len(selected) > 1:
            break
        lowest = loss
        selected.append(contenders.pop(0))
    return tuple(selected)


def _screen(search: _KernelSearch, ranked: Sequence[str]) -> list[str]:
    """Select the names that lower the loss of the first the most, the best first."""
    first = search.kernels[ranked[0]]
    penalty = search.best_loss(first)[1]
    losses = {name: search.loss(first + search.kernels[name], penalty) for name in ranked[1:]}
    return sorted(losses, key=lambda name: losses[name])[:_MAX_CONTENDERS]


@dataclass(frozen=True, eq=False)
class _KernelSearch:
    """The rows' products (n, n) of each set of features, with the folds by which unions are judged."""

    cv: CrossValidation
    kernels: Mapping[str, Float]
    fold_rows: list[Array] = field(init=False)

    @classmethod
    def on_rows(
        cls, features: Mapping[str, Array], cv: CrossValidation, names: Sequence[str], max_rows: int
    ) -> _KernelSearch:
        """Prepare a search on at most so many rows, evenly spaced."""
        rows = np.linspace(0, len(cv.T) - 1, min(len(cv.T), max_rows)).astype(np.int64)
        kernels = {name: centered_gram(features[name][rows], standard=True) for name in names}
        return cls(cv.take_rows(rows), kernels)

    def __post_init__(self) -> None:
        fold_ids = self.cv.folds[0]
        object.__setattr__(self, "fold_rows", [np.flatnonzero(fold_ids == fold) for fold in np.unique(fold_ids)])

    def best_loss(self, kernel: Float) -> tuple[float, float]:
        """Lowest held-out loss at any penalty, and that penalty."""
        return min((self.loss(kernel, penalty), penalty) for penalty in _PENALTIES)

    def loss(self, kernel: Float, penalty: float) -> float:
        """Held-out loss of ridge; the penalty is relative to the mean product of a row with itself."""
        cv = self.cv
        level = float(np.trace(kernel)) / len(kernel)
        if level <= 0:
            return np.inf
        try:
            held_out = kernel_out_of_fold(kernel, cv.T, self.fold_rows, level * penalty)
        except NumericsError:
            return np.inf
        if cv.scoring.task == "multilabel":
            held_out = held_out - 0.5
        return float(score_out_of_fold(held_out[None], cv.T, cv.folds[:1], cv.scoring).losses.mean())
