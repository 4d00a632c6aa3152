"""A layer's output as steps in time, one after the other, oldest first. Floor 3; part of pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from headstart.errors import OptionError


def frames_of(output: torch.Tensor, axes: str, batch: Any) -> list[torch.Tensor]:
    """One (steps, d) tensor per item.

    Shapes
    ------
    output : (inputs, \\*layer.shape)

    Raises
    ------
    OptionError
        For pictures and vectors, which have no time.
    """
    timing = getattr(batch, "timing", None)
    sizes = list(batch.counts or [1] * len(output))
    if timing is None and axes not in ("tc", "ct"):
        raise OptionError("pooling='frames' is for sounds and texts: pictures and vectors have no steps in time.")
    if timing is None or batch.mask is not None:
        found = _sequences(output if axes == "tc" else output.transpose(1, 2), batch.mask, sizes)
        cut = [False] * len(found) if timing is None else (timing.lengths == 0).tolist()
        return [part[:0] if short else part for part, short in zip(found, cut)]
    steps = _in_time(output, axes)
    found, first = [], 0
    for size, length in zip(sizes, timing.lengths.tolist()):
        places = _order(timing.starts[first : first + size], steps.shape[1], timing.span, length)
        found.append(steps[first : first + size].flatten(0, 1)[torch.from_numpy(places).to(steps.device)])
        first += size
    return found


def _sequences(steps: torch.Tensor, mask: Any, sizes: list[int]) -> list[torch.Tensor]:
    if mask is None:
        return [part.flatten(0, 1).clone() for part in steps.split(sizes)]
    return [part[some] for part, some in zip(steps.split(sizes), real(mask, steps).split(sizes))]


def _in_time(output: torch.Tensor, axes: str) -> torch.Tensor:
    """(inputs, …) → (inputs, steps, d): the first side of a map is time."""
    if axes == "chw":
        return output.permute(0, 2, 1, 3).flatten(2)
    if axes == "hwc":
        return output.flatten(2)
    if axes == "ct":
        return output.transpose(1, 2)
    return output if axes == "tc" else output.flatten(1)[:, None]


def _order(starts: np.ndarray, steps: int, span: int, length: int) -> np.ndarray:
    """Positions among an item's (inputs × steps), oldest first: one for each moment, of which any part is real.

    Step j of an input that starts at s stands at s + span·(j + ½)/steps; in whole numbers, 2·steps times that.
    """
    j = np.arange(steps)
    moment = (2 * steps * starts[:, None] + span * (2 * j + 1)).ravel()
    off_middle = np.tile(np.abs(2 * j + 1 - steps), len(starts))
    order = np.lexsort((off_middle, moment))
    kept = order[np.unique(moment[order], return_index=True)[1]]
    return kept[moment[kept] - span < 2 * steps * length]


def real(mask: Any, steps: torch.Tensor) -> torch.Tensor:
    """(inputs, steps) of booleans; a convolutional front end shortens the sequence: the same fraction is real."""
    known = torch.as_tensor(mask, device=steps.device)
    if known.shape[1] != steps.shape[1]:
        length = (known.sum(1).float() / known.shape[1] * steps.shape[1]).round().clamp(min=1)
        known = torch.arange(steps.shape[1], device=steps.device)[None] < length[:, None]
    return known.bool()
