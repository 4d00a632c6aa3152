"""Documents with summaries that can be learned, for the tests of summarization."""

from __future__ import annotations

import numpy as np

WORDS = "river market council garden engine harvest window bridge letter summer captain village".split()  # noqa: SIM905


def stories(count: int = 12, *, seed: int = 0, chinese: bool = False) -> tuple[list[str], list[str]]:
    """Documents whose summaries are their sentences with figures: nothing that stands first, or is central."""
    rng = np.random.default_rng(seed)
    documents, summaries = [], []
    for _ in range(count):
        chosen = set(rng.choice(10, 3, replace=False).tolist())
        sentences = [_sentence(rng, told=path in chosen, chinese=chinese) for path in range(10)]
        remaining = [sentences[path] for path in sorted(chosen)]
        documents.append(("" if chinese else " ").join(sentences))
        summaries.append("\n".join(remaining))
    return documents, summaries


def _sentence(rng, *, told: bool, chinese: bool) -> str:
    if chinese:
        middle = "".join(chr(0x4E00 + n) for n in rng.integers(0, 300, 8))
        return f"{middle}{rng.integers(10, 99)}。" if told else f"{middle}。"
    words = " ".join(rng.choice(WORDS, 6))
    return f"The {words} {rng.integers(1000, 9999)}." if told else f"The {words}."
