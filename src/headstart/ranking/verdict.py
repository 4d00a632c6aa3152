"""The verdict of a ranking: the best score against the chance level, corrected for having tried many settings.

Three steps, the cheap ones first. Split-half score: the setting is chosen on one half of the examples and scored on the
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
_CLEAR_MARGIN = 6.0  # standard errors above the baseline that no permutation needs to confirm
_MANY_ROWS_MARGIN = 3.5  # … on many rows: at the 2.3 of independent rows, 4 of 120 sets of 700 noise images were above
_N_SPLITS = 10
_N_RANDOM_ORDERS = 50
_PERMUTATION_STAGES = (9, 39, 199)  # permutations after which to see whether the level can still be reached
_LAYERS = 24
_MAX_PERMUTED_ROWS = 600  # rows up to which labels are permuted; on more the normal approximation holds
_PENALTIES = (0.03, 0.3)  # of the mean product of a row with itself


def verdict(
    ranked: Sequence[Row],
    rows: Mapping[str, np.ndarray],
    T: np.ndarray,
    *,
    choice: Selection,
    groups: np.ndarray | None,
) -> tuple[bool, float, str]:
    """Return (True if anything transfers, chance level, the sentence)."""
    best = ranked[0]
    if best.accuracy is None or choice.folds is None:
        return False, 0.0, "There are too few examples to hold any out: nothing can be said."
    if choice.task == "classification":
        baseline, score, error = _chance_of_classes(T, choice)
        baseline_text = f"always predicting one class gives {baseline:.3f}"
    else:
        baseline, error = _chance_precision(T) if choice.task == "multilabel" else (0.0, 0.0)
        score = best.accuracy
        baseline_text = f"chance level is {baseline:.3f}"
    if len(T) <= _MAX_PERMUTED_ROWS:
        transfers = error > 0 and score > baseline + _CLEAR_MARGIN * error
        if not transfers and score > baseline:  # permutations cost most, so they come last
            transfers = permutation_p_value(rows, T, choice=choice, groups=groups) <= _LEVEL
    elif choice.task == "classification":
        transfers = score > baseline + _MANY_ROWS_MARGIN * error
    else:
        quantile = norm.ppf(1 - _LEVEL / max(len(choice.trials), 1))
        transfers = bool(score > baseline + quantile * error and (best.low or 0.0) > baseline)
    if not transfers:
        return False, baseline, f"Nothing transfers: the best row reaches {best.accuracy:.3f}, and {baseline_text}."
    name = f"{best.layer} of {best.source}"
    return True, baseline, f"Use {name}: {best.accuracy:.3f} [{best.low:.3f}, {best.high:.3f}]; {baseline_text}."


def _chance_of_classes(T: np.ndarray, choice: Selection) -> tuple[float, float, float]:
    """Return (chance level, split-half score, standard error of the chance level on so many rows)."""
    shares = T.mean(0)
    baseline = float(1 / (shares > 0).sum() if choice.metric == "balanced_accuracy" else shares.max())
    error = float(np.sqrt(baseline * (1 - baseline) / len(T)))
    return baseline, split_half_score(choice.trials, T, choice.metric), error


def split_half_score(trials: Sequence[CVResult], T: np.ndarray, metric: str) -> float:
    """Return the best setting's score without selection bias: chosen on one half of the examples, scored on the other.

    The mean over both directions of several random splits. With meaningless labels it is near chance, while the best of
    hundreds of settings is not.
    """
    rows = np.stack([trial.row_scores for trial in trials]).astype(np.float64)
    counts = T.sum(0)
    weight = (T / np.maximum(counts, 1)).sum(1) if metric == "balanced_accuracy" else np.ones(len(T))
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(_N_SPLITS):
        half = rng.permutation(len(T)) % 2 == 0
        for chosen, scored in ((half, ~half), (~half, half)):
            means = rows[:, chosen] @ weight[chosen] / weight[chosen].sum()
            best = int(np.argmax(means))
            scores.append(rows[best, scored] @ weight[scored] / weight[scored].sum())
    return float(np.mean(scores))


def permutation_p_value(
    rows: Mapping[str, np.ndarray], T: np.ndarray, *, choice: Selection, groups: np.ndarray | None
) -> float:
    """Return the share of label permutations (the true order is one) whose best layer scores as well as the true one's.

    The score is that of ridge, held out, at two strengths; folds are those of the choice. Labels that are one per
    group change places between groups, others within their group. It ends as soon as the level is out of reach, on
    noise after a few permutations; of many layers some, evenly spaced, stand for the others.

    Cost: an n × n inverse per layer and strength, up to three times, and n²·t per permutation.
    """
    assert choice.folds is not None
    fold_ids = choice.folds[0]
    members = [np.flatnonzero(fold_ids == fold) for fold in np.unique(fold_ids)]
    spread = np.linspace(0, len(rows) - 1, min(len(rows), _LAYERS)).astype(int)
    layers = list(rows.values())
    grams = [centered_gram(layers[i], standard=False) for i in spread]
    kernels = [K for K in grams if np.trace(K) > 0]  # a constant layer predicts nothing
    permutations = _label_permutations(T, groups)
    scores = np.zeros(0)
    for n_drawn in _PERMUTATION_STAGES:
        batch = permutations[len(scores) : 1 + n_drawn]
        scores = np.append(scores, _best_scores(kernels, T[batch], members, choice))
        as_good = int((scores >= scores[0] - 1e-12).sum())  # the true order counts
        if as_good > _LEVEL * (1 + _PERMUTATION_STAGES[-1]):
            break
    return as_good / len(scores)


def _best_scores(
    kernels: Sequence[np.ndarray], T: np.ndarray, members: list[np.ndarray], choice: Selection
) -> np.ndarray:
    """Return the best score of any layer and strength for each of b label orders (b, n, t)."""
    best = np.full(len(T), -np.inf)
    for K in kernels:
        level = float(np.trace(K)) / len(K)
        for penalty in _PENALTIES:
            best = np.maximum(best, _out_of_fold_scores(K, T, members, penalty=level * penalty, choice=choice))
    return best


def _out_of_fold_scores(
    K: np.ndarray, T: np.ndarray, members: list[np.ndarray], *, penalty: float, choice: Selection
) -> np.ndarray:
    """Return the held-out score of each of b label orders (b, n, t)."""
    b, n, t = T.shape
    try:
        predictions = kernel_out_of_fold(K, T.transpose(1, 0, 2).reshape(n, b * t), members, penalty).reshape(n, b, t)
    except NumericsError:
        return np.full(b, -np.inf)
    predictions = predictions.transpose(1, 0, 2)
    if choice.task == "classification":
        correct = (predictions.argmax(2) == T.argmax(2)).astype(np.float64)
        if choice.metric != "balanced_accuracy":
            return np.asarray(correct.mean(1))
        recalls = np.einsum("bn,bnt->bt", correct, T) / np.maximum(T.sum(1), 1)
        return np.asarray(recalls.sum(1) / (T[0].sum(0) > 0).sum())
    if choice.task == "multilabel":
        pairs = zip(predictions, T, strict=True)
        return np.concatenate([mean_average_precision(decision, truth) for decision, truth in pairs])
    return -np.asarray(((predictions - T) ** 2).sum((1, 2)))


def _label_permutations(T: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Return row numbers (b, n) that permute labels; the first is the identity."""
    n = len(T)
    rng = np.random.default_rng(0)
    if groups is None:
        return np.stack([np.arange(n), *(rng.permutation(n) for _ in range(_PERMUTATION_STAGES[-1]))])
    first = np.unique(groups, return_index=True)[1]
    group_index = np.unique(groups, return_inverse=True)[1].ravel()
    if np.array_equal(T[first[group_index]], T):
        group_orders = (rng.permutation(len(first)) for _ in range(_PERMUTATION_STAGES[-1]))
        return np.stack([np.arange(n), *(first[order[group_index]] for order in group_orders)])
    by_group = np.argsort(group_index, kind="stable")
    permutations = [np.arange(n)]
    for _ in range(_PERMUTATION_STAGES[-1]):
        shuffled = rng.permutation(n)
        order = np.empty(n, dtype=np.int64)
        order[by_group] = shuffled[np.argsort(group_index[shuffled], kind="stable")]
        permutations.append(order)
    return np.stack(permutations)


def _chance_precision(T: np.ndarray) -> tuple[float, float]:
    """Return mean average precision of random orders (above the label share on few rows) and its standard deviation."""
    n = len(T)
    T = T[:, (T.sum(0) > 0) & (T.sum(0) < n)]
    if not T.shape[1]:
        return 0.0, 0.0
    first = (1 / np.arange(1, n + 1)).mean()
    expected = float((first + (T.sum(0) - 1) / (n - 1) * (1 - first)).mean())
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_N_RANDOM_ORDERS):
        hits = T[rng.permutation(n)]
        precision = hits.cumsum(0) / np.arange(1, n + 1)[:, None]
        drawn.append(((precision * hits).sum(0) / hits.sum(0)).mean())
    return expected, float(np.std(drawn, ddof=1))


_SIMILAR_CKA = 0.9
_LARGE_GAIN, _SMALL_GAIN = 0.15, 0.08  # of what is left beyond chance


def describe_similarity(similarity: Mapping[str, Any], best: Row) -> list[str]:
    """Return sentences on directions, distances and similarity of layers."""
    several = len({entry["source"] for entry in similarity["cka"]["labels"]}) > 1
    return [
        *(_describe_directions(entry, several) for entry in similarity["subspace"]),
        *_describe_distances(similarity["distance"], several),
        *_describe_cka(similarity["cka"], best),
    ]


def _describe_directions(overlap: Mapping[str, Any], several: bool) -> str:
    whose = (
        "its own classifier relies on" if overlap["against"] == "classifier" else "tell its own training classes apart"
    )
    where = f"{overlap['source']}, {overlap['layer']}" if several else overlap["layer"]
    gain = (overlap["share"] - overlap["chance"]) / max(1 - overlap["chance"], 1e-9)
    if gain > _LARGE_GAIN:
        meaning = "its training covers much of what you need"
    elif gain > _SMALL_GAIN:
        meaning = "its training covers some of what you need"
    else:
        meaning = "its own task hardly covers yours; what may help you lies in other directions"
    return (
        f"{where}: {overlap['share']:.0%} of the differences between your classes lies along the directions that "
        f"{whose} (meaningless labels: {overlap['chance']:.0%}): {meaning}."
    )


def _describe_distances(distances: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    words = []
    for source in dict.fromkeys(entry["source"] for entry in distances):
        entries = [entry for entry in distances if entry["source"] == source and entry["relative"] is not None]
        if not entries:
            continue
        near, far = min(entries, key=lambda entry: entry["relative"]), max(entries, key=lambda entry: entry["relative"])
        name = source if several else "the source"
        words.append(
            f"Your data lies {near['relative']:.1f} times the spread of {name}'s training data away from it at "
            f"{near['layer']} (nearest) and {far['relative']:.1f} times at {far['layer']} (farthest); "
            "below 1 the two overlap."
        )
    return words


def _describe_cka(cka: Mapping[str, Any], best: Row) -> list[str]:
    labels, values = cka["labels"], cka["values"]
    at = next(
        (i for i, label in enumerate(labels) if (label["source"], label["layer"]) == (best.source, best.layer)), None
    )
    if at is None:
        return []
    words = []
    same = [i for i, label in enumerate(labels) if label["source"] == best.source and i != at]
    similar = [labels[i]["layer"] for i in same if values[at][i] >= _SIMILAR_CKA]
    if similar:
        shown = ", ".join(similar[:4]) + (f" and {len(similar) - 4} more" if len(similar) > 4 else "")
        words.append(
            f"Layers whose features of your data resemble those of {best.layer} (CKA ≥ {_SIMILAR_CKA}): {shown}."
        )
    others: dict[str, tuple[float, str]] = {}
    for i, label in enumerate(labels):
        if label["source"] != best.source:
            others[label["source"]] = max(others.get(label["source"], (-1.0, "")), (values[at][i], label["layer"]))
    if others:
        comparisons = [f"{name} (at {layer}) {value:.2f}" for name, (value, layer) in sorted(others.items())]
        words.append(
            f"Similarity (CKA, 1 is the same) of other sources to {best.layer} of {best.source} on your data: "
            f"{', '.join(comparisons)}. The lower, the more the two can add to each other."
        )
    return words
