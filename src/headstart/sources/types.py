"""Records about networks that every room may use: a layer, a batch of inputs, and their positions in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layer:
    """One layer of a source, at which features can be taken.

    Attributes
    ----------
    name : str
        The module's own name (``"blocks.4"``); ``"output"`` is what the whole network returns.
    shape : tuple of int
        Output shape of one input, without the batch axis; -1 where it depends on the input's length.
    kind : str
        Lower-case type of the module (``"conv2d"``, ``"invertedresidual"``, ``"stage"``, …).
    depth : float
        Fraction of the network's multiply-adds done when it is reached, 0 to 1.
    macs : int
        The multiply-adds themselves, for one input.
    axes : str
        What the axes mean: ``"chw"``, ``"hwc"``, ``"tc"`` (tokens × channels), ``"ct"`` or ``"c"``.
    candidate : bool
        True where ``layers="auto"`` and ranking look at it: block outputs, aliases and trivial layers left out.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    depth: float
    macs: int
    axes: str = "c"
    candidate: bool = False


@dataclass(frozen=True)
class Timing:
    """Positions in time of a batch's inputs, in steps of the front end (frames of a spectrogram).

    Attributes
    ----------
    starts : (inputs,) whole numbers
        The first frame of each input.
    lengths : (items,) whole numbers
        Frames of each item; 0 for one of which not everything is in the batch.
    span : int
        Frames of an input.
    """

    starts: np.ndarray
    lengths: np.ndarray
    span: int


@dataclass(frozen=True)
class Batch:
    """Network inputs of a few items at once.

    Attributes
    ----------
    inputs : mapping of str to array
        Named inputs; the single input of an ordinary network is ``"x"``.
    counts : tuple of int, optional
        Inputs per item where one item gives several (patches of a clip); they are pooled together.
    mask : (inputs, positions) array, optional
        1 where a position is real, 0 where it is padding.
    timing : Timing, optional
        Of patches of audio.
    """

    inputs: Mapping[str, np.ndarray]
    counts: tuple[int, ...] | None = None
    mask: np.ndarray | None = None
    timing: Timing | None = None

    def __len__(self) -> int:
        return len(self.counts) if self.counts is not None else len(next(iter(self.inputs.values())))
