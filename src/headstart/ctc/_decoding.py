"""Reading a text off log-probabilities per frame: best path, and prefix beam search. numpy only.

References
----------
Graves, Supervised sequence labelling with recurrent neural networks, 2012, ch. 7. Hannun et al., First-pass large
vocabulary continuous speech recognition using bi-directional recurrent DNNs, 2014 (prefix beam search).
"""

from __future__ import annotations

import math

import numpy as np

from headstart._typing import Array

BLANK = 0
_UNLIKELY = -14.0  # a symbol of less than a millionth extends no prefix


def greedy(emissions: Array) -> list[int]:
    """The best symbol of every frame, repeats merged, blanks dropped.

    Shapes
    ------
    emissions : (T, symbols + 1) log-probabilities; number 0 is the blank.

    Examples
    --------
    >>> greedy(np.log([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]]))
    [1, 1]
    """
    best = np.asarray(emissions).argmax(1)
    merged = best[np.flatnonzero(np.diff(best, prepend=-1))]
    return [int(n) for n in merged if n != BLANK]


def beam_search(emissions: Array, width: int = 8) -> list[int]:
    """The most probable text among those that ``width`` prefixes lead to: alignments of one text are summed.

    Cost: T · width · (likely symbols), in Python: about 10 ms for 100 frames, width 8 and 11 symbols.

    Examples
    --------
    >>> beam_search(np.log([[0.6, 0.4], [0.6, 0.4]]))
    [1]
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}  # log P ending in (blank, symbol)
    for frame in np.asarray(emissions, np.float64):
        likely = [int(n) for n in np.flatnonzero(frame > _UNLIKELY) if n != BLANK]
        scores = frame.tolist()
        following: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, symbol) in beams.items():
            whole = _sum(blank, symbol)
            last = prefix[-1] if prefix else None
            again = -math.inf if last is None else symbol + scores[last]
            _add(following, prefix, whole + scores[BLANK], again)
            for n in likely:  # an equal symbol starts anew only after a blank
                _add(following, (*prefix, n), -math.inf, (blank if n == last else whole) + scores[n])
        ranked = sorted(following.items(), key=lambda item: (-_sum(*item[1]), item[0]))
        beams = dict(ranked[:width])
    return list(next(iter(beams)))


def _add(
    beams: dict[tuple[int, ...], tuple[float, float]], prefix: tuple[int, ...], blank: float, symbol: float
) -> None:
    old = beams.get(prefix, (-math.inf, -math.inf))
    beams[prefix] = (_sum(old[0], blank), _sum(old[1], symbol))


def _sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
