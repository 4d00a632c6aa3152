"""The way of candidates through screening and contest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart._typing import Array, Float
from headstart.heads._contest import SCREENERS, CrossValidation, CVResult, HeadCandidate, complete_results
from headstart.heads._cross import CAUTIOUS, FEW
from headstart.heads._fusion import forward_selection
from headstart.heads.base import Problem

_FINALISTS = 2


def concatenate(blocks: Sequence[Array]) -> Array:
    """The features of several layers put side by side (n, Σd)."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def search(
    features: Mapping[str, Array], contest: CrossValidation, entries: list[HeadCandidate], *, fuse: bool, budget: float
) -> tuple[list[CVResult], list[tuple[str, ...]]]:
    """All trials, and the sets of features that reached the contest."""
    scales = _scales(contest, entries)
    trials, standing = _screened(features, contest, entries, scales[0])
    share = budget / (len(scales) * len(standing) + fuse)
    for name, problem in standing.items():
        for scale in scales:
            done = {trial.head for trial in trials if trial.candidates == (name,)} if scale == scales[0] else ()
            fresh = [entry for entry in entries if entry.name not in done and entry.takes(scale)]
            if fresh:
                scaled = problem.scaled(scale)
                trials += contest.enter((name,), scaled, contest.affordable(scaled, fresh, share))
    finals: list[tuple[str, ...]] = [(name,) for name in standing]
    able = [entry for entry in entries if entry.takes("standard")]
    fused = forward_selection(features, contest, _by_cost(features, trials)) if fuse and able else ()
    if len(fused) > 1:
        problem = contest.problem(concatenate([features[name] for name in fused]), "standard")
        trials += contest.enter(fused, problem, contest.affordable(problem, able, share))
        finals.append(fused)
    return trials, finals


def _screened(
    features: Mapping[str, Array], contest: CrossValidation, entries: list[HeadCandidate], scale: str
) -> tuple[list[CVResult], dict[str, Problem]]:
    """A first trial of every candidate, and the best few, ready for more."""
    able = [entry for entry in entries if entry.takes(scale)]
    screeners = [entry for entry in able if entry.name in SCREENERS] or able
    trials: list[CVResult] = []
    standing: dict[str, Problem] = {}
    for name, X in features.items():
        standing[name] = contest.problem(X, scale)
        if len(features) > 1:
            trials += contest.enter((name,), standing[name], screeners)
            best = _by_cost(standing, trials)[:_FINALISTS]
            standing = {kept: standing[kept] for kept in best}  # the others' decompositions are let go
    return trials, standing


def _by_cost(names: Mapping[str, Any], trials: Sequence[CVResult]) -> list[str]:
    """Candidates, the one with the cheapest trial first; of equals the first."""
    whole = complete_results(trials)
    least = {name: min((t.cost for t in whole if t.candidates == (name,)), default=np.inf) for name in names}
    return sorted(names, key=lambda name: least[name])


def _scales(contest: CrossValidation, entries: Sequence[HeadCandidate]) -> list[str]:
    """Scalings that compete: on few rows only the plain features, unless a head asks for others."""
    asked = any(entry.fields is not None for entry in entries)
    wanted = ("none", "standard") if asked or not is_few(contest.T, contest.aim.task) else ("none",)
    return [scale for scale in wanted if any(entry.takes(scale) for entry in entries)]


def is_few(T: Float, task: str) -> bool:
    """Whether there are so few rows that choosing among many settings would be choosing noise."""
    counts = T.sum(axis=0)
    return len(T) <= CAUTIOUS or (task == "classification" and float(np.median(counts[counts > 0])) <= FEW)
