"""Another sample rate, block by block, with the same numbers as in one piece. Part of audio.py; floor 3."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from headstart._extras import need
from headstart._typing import Array


def resampled(blocks: Iterable[Array], source: int, target: int, *, method: str) -> Iterator[Array]:
    """Blocks of float32 samples (n,) at ``source`` Hz → blocks at ``target`` Hz.

    ``"scipy"`` gives bit for bit ``scipy.signal.resample_poly`` of the whole clip, ``"soxr"`` what ``soxr.resample``
    (HQ) does; where the blocks are cut changes nothing. Cost: O(1) memory in the length of the clip.
    """
    if source == target:
        yield from blocks
    elif method == "soxr":
        yield from _soxr(blocks, source, target)
    else:
        common = math.gcd(source, target)
        yield from _polyphase(blocks, target // common, source // common)


def _soxr(blocks: Iterable[Array], source: int, target: int) -> Iterator[Array]:
    stream = need("soxr", "for AudioReader(resampler='soxr')").ResampleStream(source, target, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _polyphase(blocks: Iterable[Array], up: int, down: int) -> Iterator[Array]:
    """Overlap-save: each piece is resampled with as much of its neighbours as the filter reaches.

    Pieces start at multiples of ``down``, where the filter's phase is that of the clip's first sample, so that every
    output is the same sum in the same order as in one piece.
    """
    from scipy.signal import resample_poly

    taps = _taps(up, down)
    reach = -(-(len(taps) // 2) // up)
    pad = -(-reach // down) * down
    held = np.empty(0, np.float32)
    before = 0  # how many of the held samples have been resampled already and are kept as left neighbours
    for block in blocks:
        held = np.concatenate((held, block))
        ready = (len(held) - before - pad) // down * down
        if ready > 0:
            out = resample_poly(held[: before + ready + pad], up, down, window=taps)
            yield out[before // down * up : (before + ready) // down * up]
            drop = max(0, before + ready - pad)
            held, before = held[drop:], before + ready - drop
    if len(held) > before:
        yield resample_poly(held, up, down, window=taps)[before // down * up :]


@lru_cache(maxsize=8)
def _taps(up: int, down: int) -> Array:
    """The low-pass that ``resample_poly`` designs by default (Kaiser, β = 5, ten zero crossings a side), made once."""
    from scipy.signal import firwin

    widest = max(up, down)
    taps: Array = firwin(20 * widest + 1, 1.0 / widest, window=("kaiser", 5.0)).astype(np.float32)
    taps.flags.writeable = False
    return taps
