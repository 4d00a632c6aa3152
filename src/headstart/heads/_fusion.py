"""Which sets of features to put side by side: forward selection by the held-out cost of ridge.

Standardised features of a union are known by the sum of their rows' products, so that every union is one sum and one
inverse (``_solve.kernel``) and nothing is fitted twice. The first is the best on its own; each next one is that which
lowers the cost most, until none does or four are together. On many rows the search looks at a sample of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headstart._solve.kernel import left_out, products
from headstart._typing import Array, Float
from headstart.errors import NumericsError
from headstart.heads._contest import Contest
from headstart.heads._cross import measure

MOST = 4
_ROWS = 600
_PENALTIES = (0.01, 0.1, 1.0)  # of the mean product of a row with itself
_CONTENDERS = 8  # that are tried again after the first step


def forward(features: Mapping[str, Array], contest: Contest, ranked: Sequence[str]) -> tuple[str, ...]:
    """The names to put side by side, in the order in which they were added.

    Parameters
    ----------
    ranked : sequence of str
        Names of ``features``, the best on its own first.

    Notes
    -----
    Cost: n²·d per candidate, and about n³ for each and for eight per further step, with n ≤ 600.
    """
    if len(ranked) < 2:
        return tuple(ranked)
    rows = np.linspace(0, len(contest.T) - 1, min(len(contest.T), _ROWS)).astype(np.int64)
    sample = contest.thinned(rows)
    search = _Search(sample, {name: products(features[name][rows], standard=True) for name in ranked})
    chosen = [ranked[0]]
    total = search.kernels[ranked[0]]
    least, penalty = min((search.cost(total, p), p) for p in _PENALTIES)
    contenders = [name for name in ranked if name != chosen[0]]
    while contenders and len(chosen) < MOST:
        first = len(chosen) == 1
        tried = {name: search.cost(total + search.kernels[name], penalty) for name in contenders}
        contenders = sorted(tried, key=lambda name: tried[name])[: _CONTENDERS if first else None]
        best = contenders[0]
        total = total + search.kernels[best]
        cost, penalty = min((search.cost(total, p), p) for p in _PENALTIES)
        if cost >= least and not first:
            break
        least = cost
        chosen.append(best)
        contenders = contenders[1:]
    return tuple(chosen)


@dataclass(frozen=True, eq=False)
class _Search:
    """What every union is judged by."""

    contest: Contest
    kernels: Mapping[str, Float]
    members: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        ids = self.contest.folds[0]
        object.__setattr__(self, "members", [np.flatnonzero(ids == fold) for fold in np.unique(ids)])

    def cost(self, kernel: Float, penalty: float) -> float:
        """Held-out cost of ridge at a strength relative to the mean product of a row with itself."""
        contest = self.contest
        level = float(np.trace(kernel)) / len(kernel)
        if level <= 0:
            return np.inf
        try:
            held = left_out(kernel, contest.T, self.members, level * penalty)
        except NumericsError:
            return np.inf
        if contest.aim.task == "multilabel":
            held = held - 0.5
        return float(measure(held[None], contest.T, contest.folds[:1], contest.aim).costs.mean())
