"""Whether the frozen part can run once, decided by trying: the boundary, its stubs, one comparison. See _boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from headstart._samples import Samples
from headstart.errors import HeadstartError
from headstart.finetuning._boundary import CacheInvalid, TruncatedForward, agree, boundary_of, truncated_forward
from headstart.finetuning._network import BoundaryActivations, FineTuneModel, LayerSpec
from headstart.finetuning._places import ParameterMap
from headstart.sources._records import Batch

_TRIED = 6
_FALLBACKS = 2


def prefix(
    model: FineTuneModel, places: ParameterMap, lowest: int | None, *, moving: Sequence[str], samples: Samples
) -> TruncatedForward:
    """Stubs for the frozen part, once one batch has shown that they give what the full forward pass gives.

    Raises
    ------
    Untrue
        When they do not, or there is no frozen part; the text says why.
    """
    if not lowest:
        raise CacheInvalid("everything from the first unit on moves")
    few = np.arange(min(_TRIED, len(samples)))
    if len(few) < 3:
        raise CacheInvalid("there are too few items to compare on")
    probes = [_probe(model, samples.batch(few[:n])) for n in (2, 3)]
    reasons = []
    for layer in _boundaries(model.source, places.ends[lowest - 1]):
        try:
            made = truncated_forward(model.source, model.network, layer, probes)
            _compare(model, made, samples, few=few, moving=moving)
            return made
        except CacheInvalid as reason:
            reasons.append(reason)
        except HeadstartError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            reasons.append(CacheInvalid(f"the network cannot be run from layer {layer} on ({what})"))
    raise reasons[0]


def _boundaries(source: Any, layer: str) -> list[str]:
    """The boundary, and outer layers below it: a layer inside a block may have the block's own connection over it."""
    names = [one.name for one in source.layers]
    below = names[: names.index(layer)][::-1]
    found, depth = [layer], layer.count(".")
    for name in below:
        if name.count(".") < depth and len(found) <= _FALLBACKS:
            found.append(name)
            depth = name.count(".")
    return found


def below_boundary(source: Any, features: Sequence[LayerSpec], layer: str) -> list[LayerSpec]:
    """The features that the frozen part gives: those of layers that end before the boundary does."""
    order = {one.name: i for i, one in enumerate(source.layers)}
    return [f for f in features if order[f.layer] < order[layer]]


def _probe(model: FineTuneModel, batch: Batch) -> tuple[Batch, dict[str, Any]]:
    return batch, model.source.input.tensors(batch, model.device, torch.float32)


def _compare(
    model: FineTuneModel, made: TruncatedForward, samples: Samples, *, few: np.ndarray, moving: Sequence[str]
) -> None:
    """Features and their gradients, full and fed, in evaluation mode and fp32."""
    batch = samples.batch(few)
    named = dict(model.network.named_parameters())
    watched = [named[name] for name in moving]
    state = [parameter.requires_grad for parameter in watched]
    bf16, model.bf16 = model.bf16, False
    try:
        for parameter in watched:
            parameter.requires_grad_(True)
        full = _with_gradients(model, batch, None, watched)
        again = model.rows(samples.batch(few[:2]))
        if not agree([full[0][:2]], [again.detach()]):
            raise CacheInvalid("an item's features change with its batch-mates or from run to run")
        fed = BoundaryActivations(*_frozen(model, made.layer, batch))
        empty = Batch({} if made.synthetic else batch.inputs, counts=batch.counts, mask=batch.mask)
        model.shortcut = made
        made.poison = True
        with made.installed():
            short = _with_gradients(model, empty, fed, watched)
    finally:
        made.poison, model.shortcut, model.bf16 = False, None, bf16
        for parameter, was in zip(watched, state):
            parameter.requires_grad_(was)
    if not agree(full[:1], short[:1]):
        raise CacheInvalid("something below the boundary is used again above it")
    if not agree(full[1:], short[1:]):
        raise CacheInvalid("a parameter that moves is used below the boundary, too")


def _frozen(model: FineTuneModel, layer: str, batch: Batch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """The boundary's output and the features below it, from a full forward pass."""
    with torch.no_grad():
        value = boundary_of(model.source, model.network, layer, model._tensors(batch, None))
        lower = below_boundary(model.source, model.features, layer)
        parts = model.parts(batch, lower) if lower else {}
    return value, parts


def _with_gradients(
    model: FineTuneModel, batch: Batch, fed: BoundaryActivations | None, watched: Sequence[torch.nn.Parameter]
) -> list[torch.Tensor]:
    rows = model.rows(batch, fed)
    weights = torch.linspace(-1.0, 1.0, rows.shape[1], device=rows.device)
    value = (rows @ weights).square().mean() + rows.sum() / rows.numel()
    found = torch.autograd.grad(value, list(watched), allow_unused=True) if rows.requires_grad else ()
    zero = [torch.zeros_like(p) if g is None else g for p, g in zip(watched, found)]
    return [rows.detach(), *zero]
