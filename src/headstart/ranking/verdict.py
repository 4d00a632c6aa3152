"""Does anything transfer? The best score against what knowing nothing gives, without the luck of having tried many.

Three steps, the cheap ones first. Honest score: the setting is chosen on one half of the examples and scored on the
other. Far above the baseline it settles the matter; not above it, too. Between the two, on few examples, labels are
permuted: the best cross-validated score over all layers must beat those of 99 in 100 permutations, each of which tries
all layers as well. That test keeps its level whatever the size, because held-out scores of rows that share most of
their training data vary more than independent ones.

References
----------
Ojala & Garriga (2010), Permutation tests for studying classifier performance; Westfall & Young (1993), Resampling-based
multiple testing (the maximum over all that was tried).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from headstart.errors import NumericsError
from headstart.linalg.ridge_cv import centered_gram, kernel_out_of_fold
from headstart.metrics.kernels import mean_average_precision
from headstart.result.ranking import Row
from headstart.selection.cross_validation import CVResult
from headstart.selection.search import Selection

_LEVEL = 0.01
_CLEARLY = 6.0  # standard errors above the baseline that no permutation needs to confirm
_SURELY = 3.5  # … on many rows: at the 2.3 of independent rows, 4 of 120 sets of 700 noise pictures were above
_HALVINGS = 10
_ORDERS = 50
_STAGES = (9, 39, 199)  # permutations after which to see whether the level can still be reached
_LAYERS = 24
_MOST = 600  # rows up to which labels are permuted; on more the normal approximation holds
_PENALTIES = (0.03, 0.3)  # of the mean product of a row with itself


def verdict(
    found: Sequence[Row],
    rows: Mapping[str, np.ndarray],
    T: np.ndarray,
    *,
    choice: Selection,
    groups: np.ndarray | None,
) -> tuple[bool, float, str]:
    """(whether anything transfers, what knowing nothing gives, the sentence)."""
    best = found[0]
    if best.accuracy is None or choice.folds is None:
        return False, 0.0, "There are too few examples to hold any out: nothing can be said."
    if choice.task == "classification":
        baseline, score, error = _chance_of_classes(T, choice)
        nothing = f"always saying the same gives {baseline:.3f}"
    else:
        baseline, error = _chance_precision(T) if choice.task == "multilabel" else (0.0, 0.0)
        score = best.accuracy
        nothing = f"knowing nothing gives {baseline:.3f}"
    if len(T) <= _MOST:
        transfers = score > baseline and (
            (error > 0 and score > baseline + _CLEARLY * error)
            or permutation_p_value(rows, T, choice=choice, groups=groups) <= _LEVEL
        )
    else:
        luckiest = norm.ppf(1 - _LEVEL / max(len(choice.trials), 1))
        above = score > baseline + (_SURELY if choice.task == "classification" else luckiest) * error
        transfers = bool(above and (choice.task == "classification" or (best.low or 0.0) > baseline))
    if not transfers:
        return False, baseline, f"Nothing transfers: the best row reaches {best.accuracy:.3f}, and {nothing}."
    name = f"{best.layer} of {best.source}"
    return True, baseline, f"Use {name}: {best.accuracy:.3f} [{best.low:.3f}, {best.high:.3f}]; {nothing}."


def _chance_of_classes(T: np.ndarray, choice: Selection) -> tuple[float, float, float]:
    """(share that saying the same gives, honest score, standard error of a share of so many rows)."""
    shares = T.mean(0)
    baseline = float(1 / (shares > 0).sum() if choice.metric == "balanced_accuracy" else shares.max())
    return (
        baseline,
        split_half_score(choice.trials, T, choice.metric),
        float(np.sqrt(baseline * (1 - baseline) / len(T))),
    )


def split_half_score(trials: Sequence[CVResult], T: np.ndarray, metric: str) -> float:
    """Score of the best setting without the luck of choosing it: chosen on one half of the examples, scored on another.

    The mean over both directions of several random halvings. With labels that mean nothing it is near chance, while the
    best of hundreds of settings is not.
    """
    rows = np.stack([trial.row_scores for trial in trials]).astype(np.float64)
    counts = T.sum(0)
    weight = (T / np.maximum(counts, 1)).sum(1) if metric == "balanced_accuracy" else np.ones(len(T))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_HALVINGS):
        half = rng.permutation(len(T)) % 2 == 0
        for chosen, scored in ((half, ~half), (~half, half)):
            means = rows[:, chosen] @ weight[chosen] / weight[chosen].sum()
            at = int(np.argmax(means))
            found.append(rows[at, scored] @ weight[scored] / weight[scored].sum())
    return float(np.mean(found))


def permutation_p_value(
    rows: Mapping[str, np.ndarray], T: np.ndarray, *, choice: Selection, groups: np.ndarray | None
) -> float:
    """p-value: the share of label orders, the true one among them, whose best layer does as well as the true one's.

    The score is that of ridge, held out, at two strengths; folds are those of the choice. Labels that are one per
    group change places between groups, others within their group. It ends as soon as the level is out of reach, on
    noise after a few permutations; of many layers some, evenly spaced, speak for the others.

    Cost: an n × n inverse per layer and strength, up to three times, and n²·t per permutation.
    """
    assert choice.folds is not None
    fold_ids = choice.folds[0]
    members = [np.flatnonzero(fold_ids == fold) for fold in np.unique(fold_ids)]
    spread = np.linspace(0, len(rows) - 1, min(len(rows), _LAYERS)).astype(int)
    products_ = [centered_gram(X, standard=False) for i, X in enumerate(rows.values()) if i in set(spread.tolist())]
    kernels = [K for K in products_ if np.trace(K) > 0]
    orders = _label_permutations(T, groups)
    found = np.zeros(0)
    for drawn in _STAGES:
        some = orders[len(found) : 1 + drawn]
        found = np.append(found, _best_scores(kernels, T[some], members, choice))
        as_good = int((found >= found[0] - 1e-12).sum())  # the true order counts
        if as_good > _LEVEL * (1 + _STAGES[-1]):
            break
    return as_good / len(found)


def _best_scores(
    kernels: Sequence[np.ndarray], T: np.ndarray, members: list[np.ndarray], choice: Selection
) -> np.ndarray:
    """The best score of any layer and strength for each of b label orders (b, n, t)."""
    best = np.full(len(T), -np.inf)
    for K in kernels:
        level = float(np.trace(K)) / len(K)
        for penalty in _PENALTIES:
            best = np.maximum(best, _out_of_fold_scores(K, T, members, penalty=level * penalty, choice=choice))
    return best


def _out_of_fold_scores(
    K: np.ndarray, T: np.ndarray, members: list[np.ndarray], *, penalty: float, choice: Selection
) -> np.ndarray:
    """Held-out score of each of b label orders (b, n, t)."""
    b, n, t = T.shape
    try:
        held = kernel_out_of_fold(K, T.transpose(1, 0, 2).reshape(n, b * t), members, penalty).reshape(n, b, t)
    except NumericsError:
        return np.full(b, -np.inf)
    held = held.transpose(1, 0, 2)
    if choice.task == "classification":
        right = (held.argmax(2) == T.argmax(2)).astype(np.float64)
        if choice.metric != "balanced_accuracy":
            return np.asarray(right.mean(1))
        recalls = np.einsum("bn,bnt->bt", right, T) / np.maximum(T.sum(1), 1)
        return np.asarray(recalls.sum(1) / (T[0].sum(0) > 0).sum())
    if choice.task == "multilabel":
        return np.concatenate([mean_average_precision(one, truth) for one, truth in zip(held, T, strict=True)])
    return -np.asarray(((held - T) ** 2).sum((1, 2)))


def _label_permutations(T: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Row numbers (b, n) that put labels elsewhere; the first leaves them where they are."""
    n = len(T)
    rng = np.random.default_rng(0)
    if groups is None:
        return np.stack([np.arange(n), *(rng.permutation(n) for _ in range(_STAGES[-1]))])
    first = np.unique(groups, return_index=True)[1]
    number = np.unique(groups, return_inverse=True)[1].ravel()
    if np.array_equal(T[first[number]], T):
        places = (rng.permutation(len(first)) for _ in range(_STAGES[-1]))
        return np.stack([np.arange(n), *(first[order[number]] for order in places)])
    by_group = np.argsort(number, kind="stable")
    found = [np.arange(n)]
    for _ in range(_STAGES[-1]):
        shuffled = rng.permutation(n)
        order = np.empty(n, dtype=np.int64)
        order[by_group] = shuffled[np.argsort(number[shuffled], kind="stable")]
        found.append(order)
    return np.stack(found)


def _chance_precision(T: np.ndarray) -> tuple[float, float]:
    """Mean average precision of random orders: expected (more than the labels' share on few rows), and its spread."""
    n = len(T)
    T = T[:, (T.sum(0) > 0) & (T.sum(0) < n)]
    if not T.shape[1]:
        return 0.0, 0.0
    first = (1 / np.arange(1, n + 1)).mean()
    expected = float((first + (T.sum(0) - 1) / (n - 1) * (1 - first)).mean())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_ORDERS):
        hits = T[rng.permutation(n)]
        precision = hits.cumsum(0) / np.arange(1, n + 1)[:, None]
        drawn.append(((precision * hits).sum(0) / hits.sum(0)).mean())
    return expected, float(np.std(drawn, ddof=1))


# ---- What is shared, in sentences that a practitioner understands. ----


_ALIKE = 0.9
_MUCH, _SOME = 0.15, 0.08  # of what is left beyond chance


def describe_similarity(found: Mapping[str, Any], best: Row) -> list[str]:
    """At most a handful of sentences."""
    several = len({one["source"] for one in found["cka"]["labels"]}) > 1
    return [
        *(_describe_directions(one, several) for one in found["subspace"]),
        *_describe_distances(found["distance"], several),
        *_describe_cka(found["cka"], best),
    ]


def _describe_directions(one: Mapping[str, Any], several: bool) -> str:
    whose = "its own classifier relies on" if one["against"] == "classifier" else "tell its own training classes apart"
    where = f"{one['source']}, {one['layer']}" if several else one["layer"]
    gain = (one["share"] - one["chance"]) / max(1 - one["chance"], 1e-9)
    if gain > _MUCH:
        meaning = "it was taught to look at much of what you need"
    elif gain > _SOME:
        meaning = "it was taught to look at some of what you need"
    else:
        meaning = "its own task hardly points at yours; what may help you lies beside it"
    return (
        f"{where}: {one['share']:.0%} of the differences between your classes lies along the directions that {whose} "
        f"(meaningless labels: {one['chance']:.0%}): {meaning}."
    )


def _describe_distances(found: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    words = []
    for source in dict.fromkeys(one["source"] for one in found):
        mine = [one for one in found if one["source"] == source and one["relative"] is not None]
        if not mine:
            continue
        near, far = min(mine, key=lambda one: one["relative"]), max(mine, key=lambda one: one["relative"])
        name = source if several else "the source"
        words.append(
            f"Your data lies {near['relative']:.1f} times the spread of {name}'s training data away from it at "
            f"{near['layer']} (nearest) and {far['relative']:.1f} times at {far['layer']} (farthest); "
            "below 1 the two overlap."
        )
    return words


def _describe_cka(cka: Mapping[str, Any], best: Row) -> list[str]:
    labels, values = cka["labels"], cka["values"]
    at = next((i for i, one in enumerate(labels) if (one["source"], one["layer"]) == (best.source, best.layer)), None)
    if at is None:
        return []
    words = []
    same = [i for i, one in enumerate(labels) if one["source"] == best.source and i != at]
    twins = [labels[i]["layer"] for i in same if values[at][i] >= _ALIKE]
    if twins:
        shown = ", ".join(twins[:4]) + (f" and {len(twins) - 4} more" if len(twins) > 4 else "")
        words.append(f"Layers that see your data much as {best.layer} does (CKA ≥ {_ALIKE}): {shown}.")
    others: dict[str, tuple[float, str]] = {}
    for i, one in enumerate(labels):
        if one["source"] != best.source:
            others[one["source"]] = max(others.get(one["source"], (-1.0, "")), (values[at][i], one["layer"]))
    if others:
        told = [f"{name} (at {layer}) {value:.2f}" for name, (value, layer) in sorted(others.items())]
        words.append(
            f"How alike other sources see your data, compared with {best.layer} of {best.source}, 1 being the same: "
            f"{', '.join(told)}. The lower, the more the two can add to each other."
        )
    return words
