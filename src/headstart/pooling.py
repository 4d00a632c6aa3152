"""Pooling: from a layer's output to one row per item, by averages, maxima, tokens or segments.

A layer gives (inputs, …) with the axes named in its Layer; an item may own several inputs
(patches of a clip), and positions may be padding (a mask). Every pooling sees all real positions of all inputs of an
item together, in float32, so neither padding nor batch-mates can change a row.

================  ============================================================  ==================
name              rows                                                          width for c channels
================  ============================================================  ==================
``avg``           mean over positions                                           c
``max``           maximum over positions                                        c
``avg+max``       both, one after the other                                     2 c
``avg+std``       mean and standard deviation                                   2 c
``gem``           generalised mean, p = 3, of the positive part                 c
``cls``           the first token                                               c
``cls+avg``       the first token, then the mean of the others                  2 c
``flatten``       everything in one row (fixed shapes only)                     all
``segmentsN``     means of N equal parts of the sequence, in order              N c
``none``          un-pooled: what the layer gave; of items with several inputs
                  or with padding, a list of what is real
``frames``        un-pooled in time: a list of (steps, d), oldest first. Of a
                  map (time × frequency) a step has all of its frequencies;    c · frequencies
                  where patches of a clip overlap, that step of several of one
                  moment is taken which stands nearest to its patch's middle.
                  A clip that was cut has no steps: (0, d)
================  ============================================================  ==================
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart._base.registry import unknown_name
from headstart.errors import OptionError, UnknownName

if TYPE_CHECKING:
    from headstart.sources.types import Batch


def frames_of(output: torch.Tensor, axes: str, batch: Batch) -> list[torch.Tensor]:
    """One (steps, d) tensor per item.

    Shapes
    ------
    output : (inputs, \\*layer.shape)

    Raises
    ------
    OptionError
        For images and vectors, which have no time.
    """
    timing = getattr(batch, "timing", None)
    sizes = list(batch.counts or [1] * len(output))
    if timing is None and axes not in ("tc", "ct"):
        raise OptionError("pooling='frames' is for audio and texts: images and vectors have no steps in time.")
    if timing is None or batch.mask is not None:
        frames = _sequences(output if axes == "tc" else output.transpose(1, 2), batch.mask, sizes)
        cut_items = [False] * len(frames) if timing is None else (timing.lengths == 0).tolist()
        return [item[:0] if is_cut else item for item, is_cut in zip(frames, cut_items)]
    steps = _in_time(output, axes)
    frames, first = [], 0
    for size, length in zip(sizes, timing.lengths.tolist()):
        positions = _frame_order(timing.starts[first : first + size], steps.shape[1], timing.span, length)
        frames.append(steps[first : first + size].flatten(0, 1)[torch.from_numpy(positions).to(steps.device)])
        first += size
    return frames


def _sequences(steps: torch.Tensor, mask: np.ndarray | None, sizes: list[int]) -> list[torch.Tensor]:
    if mask is None:
        return [part.flatten(0, 1).clone() for part in steps.split(sizes)]
    return [part[mask_part] for part, mask_part in zip(steps.split(sizes), real_positions(mask, steps).split(sizes))]


def _in_time(output: torch.Tensor, axes: str) -> torch.Tensor:
    """(inputs, …) → (inputs, steps, d): the first side of a map is time."""
    if axes == "chw":
        return output.permute(0, 2, 1, 3).flatten(2)
    if axes == "hwc":
        return output.flatten(2)
    if axes == "ct":
        return output.transpose(1, 2)
    return output if axes == "tc" else output.flatten(1)[:, None]


def _frame_order(starts: np.ndarray, steps: int, span: int, length: int) -> np.ndarray:
    """Positions among an item's (inputs × steps), oldest first: one for each moment, of which any part is real.

    Step j of an input that starts at s stands at s + span·(j + ½)/steps; in whole numbers, 2·steps times that.
    """
    j = np.arange(steps)
    moment = (2 * steps * starts[:, None] + span * (2 * j + 1)).ravel()
    off_middle = np.tile(np.abs(2 * j + 1 - steps), len(starts))
    order = np.lexsort((off_middle, moment))
    oldest_first = order[np.unique(moment[order], return_index=True)[1]]
    return oldest_first[moment[oldest_first] - span < 2 * steps * length]


def real_positions(mask: np.ndarray | None, steps: torch.Tensor) -> torch.Tensor:
    """(inputs, steps) of booleans; a convolutional front end shortens the sequence: the same fraction is real."""
    is_real = torch.as_tensor(mask, device=steps.device)
    if is_real.shape[1] != steps.shape[1]:
        length = (is_real.sum(1).float() / is_real.shape[1] * steps.shape[1]).round().clamp(min=1)
        is_real = torch.arange(steps.shape[1], device=steps.device)[None] < length[:, None]
    return is_real.bool()


Reduce = Callable[[torch.Tensor, "Batch"], Any]
NAMES = ("auto", "avg", "avg+max", "avg+std", "cls", "cls+avg", "flatten", "frames", "gem", "max", "none", "segmentsN")
_PLAIN = frozenset(NAMES) - {"auto", "segmentsN"}
_FLATTEN_UP_TO = 2048
_GEM_POWER = 3.0
_LEAST_VARIANCE = 1e-14


def resolve(
    pooling: str, *, axes: str, shape: tuple[int, ...], modality: str = "image", class_token: bool = False
) -> str:
    """``"auto"`` → the pooling for this layer; any other name is checked and kept.

    Small fixed maps (up to 2,048 numbers) are flattened, because where something is still matters there; larger ones
    are averaged, those of audio averaged and maximised; token sequences use the class token where there is one, and the
    mean.

    Raises
    ------
    UnknownName
        For a name that is not in the table above.
    """
    if pooling != "auto":
        if pooling not in _PLAIN and not re.fullmatch(r"segments[1-9]\d?", pooling):
            raise UnknownName(unknown_name("poolings (for N a number from 1 to 99)", pooling, list(NAMES)))
        return pooling
    if axes == "c":
        return "avg"
    if modality == "audio":
        return "avg+max"
    if axes in ("chw", "hwc") and all(side > 0 for side in shape) and math.prod(shape) <= _FLATTEN_UP_TO:
        return "flatten"
    return "cls+avg" if axes == "tc" and class_token else "avg"


def width(pooling: str, *, axes: str, shape: Sequence[int]) -> int:
    """Numbers per item for a resolved pooling; for un-pooled sequences of any length, those of one position.

    >>> width("avg+max", axes="chw", shape=(320, 7, 7))
    640
    """
    if pooling in ("flatten", "none") or axes == "any":
        return math.prod(max(side, 1) for side in shape)
    if pooling == "frames" and axes in ("chw", "hwc"):
        return math.prod(shape) // (shape[1] if axes == "chw" else shape[0])
    channels = shape[0] if axes in ("chw", "ct") else shape[-1]
    if pooling.startswith("segments"):
        return channels * int(pooling.removeprefix("segments"))
    return channels * (1 + pooling.count("+"))


def reducer(pooling: str, axes: str) -> Reduce:
    """The function (layer output, batch) → (items, width) tensor for a resolved pooling.

    Shapes
    ------
    output : (inputs, \\*layer.shape); the batch gives ``counts`` (inputs per item) and ``mask`` (inputs, positions).
    """

    def reduce(output: torch.Tensor, batch: Batch) -> Any:
        counts = batch.counts
        if pooling == "none":
            return _unpooled(output, axes, counts, batch.mask)
        if pooling == "frames":
            return frames_of(output, axes, batch)
        if axes == "any":
            output = output.flatten(1)
        if pooling == "flatten":
            return _flatten(output, axes, counts, batch.mask)
        if pooling in ("avg", "max", "avg+max") and axes == "chw" and counts is None:
            return _maps(output, pooling)
        values = _positions(output, axes).float()
        mask = _mask(batch.mask, values)
        return _pool(pooling, values, mask, counts)

    return reduce


def _maps(output: torch.Tensor, pooling: str) -> torch.Tensor:
    """The fast path: one image per item, no padding; no transposed copy of the map."""
    parts = []
    if "avg" in pooling:
        parts.append(output.mean((2, 3), dtype=torch.float32))
    if "max" in pooling:
        parts.append(output.amax((2, 3)).float())
    return torch.cat(parts, 1)


def _unpooled(output: torch.Tensor, axes: str, counts: Sequence[int] | None, mask: np.ndarray | None) -> Any:
    if counts is None and (mask is None or axes != "tc"):
        return output.clone()
    real = _mask(mask, output) if axes == "tc" else None
    parts = output.split(list(counts or [1] * len(output)))
    if real is None:
        return [part.clone() if axes != "tc" else part.flatten(0, 1).clone() for part in parts]
    return [part[keep] for part, keep in zip(parts, real.split([len(part) for part in parts]))]


def _positions(output: torch.Tensor, axes: str) -> torch.Tensor:
    """(inputs, …) → (inputs, positions, channels)."""
    if axes == "chw":
        return output.flatten(2).transpose(1, 2)
    if axes == "hwc":
        return output.flatten(1, 2)
    if axes == "ct":
        return output.transpose(1, 2)
    return output[:, None] if output.ndim == 2 else output


def _mask(mask: np.ndarray | None, values: torch.Tensor) -> torch.Tensor | None:
    return None if mask is None or values.shape[1] == 1 else real_positions(mask, values)


def _pool(name: str, values: torch.Tensor, mask: torch.Tensor | None, counts: tuple[int, ...] | None) -> torch.Tensor:
    if name.startswith("segments"):
        return _segments(int(name.removeprefix("segments")), values, mask, counts)
    if name in ("cls", "cls+avg"):
        first = values[:, 0].clone() if counts is None else values[_starts(counts, values)][:, 0]
        if name == "cls" or values.shape[1] == 1:
            return first
        rest = None if mask is None else mask[:, 1:]
        return torch.cat([first, _mean(values[:, 1:], rest, counts)], 1)
    if name == "gem":
        return _mean(values.clamp(min=1e-6) ** _GEM_POWER, mask, counts) ** (1 / _GEM_POWER)
    mean = _mean(values, mask, counts) if "avg" in name else None
    if name == "avg":
        assert mean is not None
        return mean
    if name == "avg+std":
        assert mean is not None
        centred = values - (mean if counts is None else mean[_owner(counts, values)])[:, None]
        # the root has no slope at zero: a feature that never varies must not turn gradients into NaN
        return torch.cat([mean, _mean(centred**2, mask, counts).clamp(min=_LEAST_VARIANCE).sqrt()], 1)
    peak = _peak(values, mask, counts)
    return peak if mean is None else torch.cat([mean, peak], 1)


def _peak(values: torch.Tensor, mask: torch.Tensor | None, counts: tuple[int, ...] | None) -> torch.Tensor:
    low = values if mask is None else values.masked_fill(~mask[..., None], -torch.inf)
    peak = low.amax(1)
    if counts is not None:
        peak = torch.stack([part.amax(0) for part in peak.split(list(counts))])
    return peak if mask is None else peak.masked_fill(peak == -torch.inf, 0.0)  # an item without a real position


def _mean(values: torch.Tensor, mask: torch.Tensor | None, counts: tuple[int, ...] | None) -> torch.Tensor:
    if mask is None:
        # shape[0], not len(): a tracer must see that the number of inputs is open
        total, number = values.sum(1), torch.full((values.shape[0], 1), float(values.shape[1]), device=values.device)
    else:
        total, number = (values * mask[..., None]).sum(1), mask.sum(1, keepdim=True).float()
    if counts is not None:
        total = torch.stack([part.sum(0) for part in total.split(list(counts))])
        number = torch.stack([part.sum(0) for part in number.split(list(counts))])
    return total / number.clamp(min=1)


def _segments(n: int, values: torch.Tensor, mask: torch.Tensor | None, counts: tuple[int, ...] | None) -> torch.Tensor:
    rows = []
    sizes = counts or (1,) * len(values)
    masks = [None] * len(sizes) if mask is None else mask.split(list(sizes))
    for part, keep in zip(values.split(list(sizes)), masks):
        flat = part.flatten(0, 1) if keep is None else part[keep]
        if len(flat) == 0:
            flat = values.new_zeros(1, values.shape[2])
        edges = [(2 * i * len(flat) + n) // (2 * n) for i in range(n + 1)]  # i/n of the way, rounded
        starts = [min(edge, len(flat) - 1) for edge in edges[:-1]]
        rows.append(torch.cat([flat[a : max(b, a + 1)].mean(0) for a, b in zip(starts, edges[1:])]))
    return torch.stack(rows)


def _flatten(output: torch.Tensor, axes: str, counts: tuple[int, ...] | None, mask: np.ndarray | None) -> torch.Tensor:
    if counts is not None and any(c != 1 for c in counts):
        raise OptionError("pooling='flatten' needs one input per item; clips of several patches have no fixed length.")
    if mask is not None and output.ndim > 2:
        raise OptionError("pooling='flatten' needs items of one length; use 'avg', 'cls' or 'segmentsN' for texts.")
    return output.flatten(1).to(torch.float32, copy=True)  # a later in-place activation may overwrite the output


def _starts(counts: tuple[int, ...], values: torch.Tensor) -> torch.Tensor:
    sizes = torch.tensor(counts)
    return (sizes.cumsum(0) - sizes).to(values.device)


def _owner(counts: tuple[int, ...], values: torch.Tensor) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(values.device)
