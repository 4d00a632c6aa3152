"""Which sentences a reference summary asks for: the greedy oracle, on own n-gram counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from headstart._base.typing import Array, Float
from headstart.metrics.text import words

_MOST = 4_000  # sentences that are looked at: those that share most with the reference


def oracle(sentences: Sequence[str], reference: str) -> Array:
    """The sentences that together come nearest to the reference, chosen greedily.

    One after another the sentence is added that raises ROUGE-1 + ROUGE-2 (F, of words as they are, without stemming)
    most, until none does.

    Returns
    -------
    (n,) array of bool

    Notes
    -----
    Cost: O(n · v) time per sentence added and memory, v the different n-grams of the reference.

    References
    ----------
    Nallapati et al. (2017), SummaRuNNer.
    """
    grams = _grams(words(reference))
    chosen = np.zeros(len(sentences), dtype=bool)
    if not grams or not len(sentences):
        return chosen
    index = {gram: i for i, gram in enumerate(grams)}
    target_counts = np.array(list(grams.values()), dtype=np.int32)
    single = np.array([len(gram) == 1 for gram in grams])
    counted = [_grams(words(sentence)) for sentence in sentences]
    shared = np.array(
        [
            sum(min(count, grams[gram]) for gram, count in grams_of_sentence.items() if gram in grams)
            for grams_of_sentence in counted
        ]
    )
    looked = np.sort(np.argsort(-shared, kind="stable")[:_MOST])
    looked = looked[shared[looked] > 0]
    counts = np.zeros((len(looked), len(grams)), dtype=np.int32)
    sizes = np.zeros((len(looked), 2))
    for row, sentence in enumerate(looked):
        for gram, count in counted[sentence].items():
            sizes[row, len(gram) - 1] += count
            if gram in index:
                counts[row, index[gram]] = count
    chosen[looked[_greedy(counts, sizes, target_counts, single)]] = True
    return chosen


def _greedy(counts: Array, sizes: Float, target_counts: Array, single: Array) -> list[int]:
    """Rows of ``counts`` (n, v) to take; ``sizes`` (n, 2) are their numbers of words and of pairs."""
    goal = np.array([target_counts[single].sum(), target_counts[~single].sum()], dtype=np.float64)
    covered, size, best = np.zeros(len(target_counts), dtype=np.int32), np.zeros(2), 0.0
    taken: list[int] = []
    while len(taken) < len(counts):
        hits = np.minimum(covered + counts, target_counts)
        both = np.stack([hits[:, single].sum(1), hits[:, ~single].sum(1)], axis=1)
        scores = (2 * both / np.maximum(goal + size + sizes, 1)).sum(1)
        scores[taken] = -1
        row = int(scores.argmax())
        if scores[row] <= best + 1e-12:
            break
        best = float(scores[row])
        taken.append(row)
        covered, size = covered + counts[row], size + sizes[row]
    return taken


def rouge(reference: str, summary: str, n: int = 1) -> float:
    """ROUGE-n F of words as they are: what choices are made by. Reported figures come from ``headstart.metrics``.

    >>> rouge("the cat sat", "the cat ran")
    0.6666666666666666
    """
    true, predicted = (_counted(words(text), n) for text in (reference, summary))
    total = sum(true.values()) + sum(predicted.values())
    return 2 * sum((true & predicted).values()) / total if total else 0.0


def _grams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    return _counted(tokens, 1) + _counted(tokens, 2)


def _counted(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n))))
