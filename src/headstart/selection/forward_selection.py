"""Which sets of features to put side by side: forward selection by the held-out cost of ridge.

Standardised features of a union are known by the sum of their rows' products, so that every union is one sum and one
inverse (``_solve.kernel``) and nothing is fitted twice. The first is the best on its own; each next one is that which
lowers the cost most, until none does or four are together. On many rows the search looks at a sample of them, and at a
smaller one to find the eight candidates that are worth it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import NumericsError
from headstart.linalg.ridge_cv import centered_gram, kernel_out_of_fold
from headstart.selection.cross_validation import CrossValidation, score_out_of_fold

MOST = 4
_ROWS = 600
_FIRST_ROWS = 300  # on which all candidates are tried
_PENALTIES = (0.01, 0.1, 1.0)  # of the mean product of a row with itself
_CONTENDERS = 8  # that are tried on more rows, and again at every step


def forward_selection(
    features: Mapping[str, Array], contest: CrossValidation, ranked: Sequence[str]
) -> tuple[str, ...]:
    """The names to put side by side, in the order in which they were added.

    Parameters
    ----------
    ranked : sequence of str
        Names of ``features``, the best on its own first.

    Notes
    -----
    Cost: n²·d + n³ per candidate with n ≤ 300, and the same for eight of them per step with n ≤ 600.
    """
    if len(ranked) < 2:
        return tuple(ranked)
    chosen = [ranked[0]]
    contenders = _promising(_KernelSearch.of(features, contest, ranked, _FIRST_ROWS), ranked)
    search = _KernelSearch.of(features, contest, [*chosen, *contenders], _ROWS)
    total = search.kernels[ranked[0]]
    least, penalty = search.best(total)
    while contenders and len(chosen) < MOST:
        costs = {name: search.mean_loss(total + search.kernels[name], penalty) for name in contenders}
        contenders.sort(key=lambda name: costs[name])
        total = total + search.kernels[contenders[0]]
        cost, penalty = search.best(total)
        if cost >= least and len(chosen) > 1:
            break
        least = cost
        chosen.append(contenders.pop(0))
    return tuple(chosen)


def _promising(search: _KernelSearch, ranked: Sequence[str]) -> list[str]:
    """The names that do most for the first, the best first."""
    start = search.kernels[ranked[0]]
    penalty = search.best(start)[1]
    costs = {name: search.mean_loss(start + search.kernels[name], penalty) for name in ranked[1:]}
    return sorted(costs, key=lambda name: costs[name])[:_CONTENDERS]


@dataclass(frozen=True, eq=False)
class _KernelSearch:
    """What every union is judged by."""

    contest: CrossValidation
    kernels: Mapping[str, Float]
    members: list[Array] = field(init=False)

    @classmethod
    def of(
        cls, features: Mapping[str, Array], contest: CrossValidation, names: Sequence[str], most: int
    ) -> _KernelSearch:
        """On at most so many rows, evenly spaced."""
        rows = np.linspace(0, len(contest.T) - 1, min(len(contest.T), most)).astype(np.int64)
        return cls(
            contest.take_rows(rows), {name: centered_gram(features[name][rows], standard=True) for name in names}
        )

    def __post_init__(self) -> None:
        ids = self.contest.folds[0]
        object.__setattr__(self, "members", [np.flatnonzero(ids == fold) for fold in np.unique(ids)])

    def best(self, kernel: Float) -> tuple[float, float]:
        """The least held-out cost at any strength, and that strength."""
        return min((self.mean_loss(kernel, penalty), penalty) for penalty in _PENALTIES)

    def mean_loss(self, kernel: Float, penalty: float) -> float:
        """Held-out cost of ridge at a strength relative to the mean product of a row with itself."""
        contest = self.contest
        level = float(np.trace(kernel)) / len(kernel)
        if level <= 0:
            return np.inf
        try:
            held = kernel_out_of_fold(kernel, contest.T, self.members, level * penalty)
        except NumericsError:
            return np.inf
        if contest.scoring.task == "multilabel":
            held = held - 0.5
        return float(score_out_of_fold(held[None], contest.T, contest.folds[:1], contest.scoring).losses.mean())
