"""The same architecture with initial weights: what a source would be had it learned nothing."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
from typing import Any

import numpy as np
import torch

from headstart import _extras
from headstart.errors import SourceError
from headstart.sources.base import SOURCES, Source

_OTHER = 20_240_607
_SPREAD = 0.02  # of parameters whose module does not say how they begin: the usual one of transformers


def reinitialize(source: Source, seed: int) -> Source:
    """A source of the same architecture and preprocessing whose weights are drawn anew.

    A source that is built from plain data is built again, as its library begins to train it; a Python object is copied,
    and every module in it asked to begin anew.

    Raises
    ------
    SourceError
        When it is not run by torch, has no weights, or some of its weights stay what they are.
    """
    if not any(True for _ in source.module.parameters()):
        raise SourceError(f"{source.address} has no weights: it has learned nothing that could be transferred.")
    # A source may itself be one that was drawn by this very seed.
    other = int(np.random.SeedSequence([seed, _OTHER]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(other)
        made = _again(source, other)
    before = {name: p.detach().cpu() for name, p in source.module.named_parameters()}
    after = {name: p.detach().cpu() for name, p in made.module.named_parameters() if p.ndim > 1 and p.numel() > 1}
    same = [name for name, p in after.items() if name in before and torch.equal(p, before[name])]
    if same:
        raise SourceError(f"{source.address} cannot be begun anew: {same[0]} and others keep their weights.")
    return dataclasses.replace(made, address=f"{source.address}+random-{seed}", meta={**source.meta, "random": seed})


def _again(source: Source, seed: int) -> Source:
    rebuild = source.rebuild
    if rebuild is None:
        network = copy.deepcopy(source.module)
        _redraw(network)
        return dataclasses.replace(source, network=network)
    if rebuild["family"] == "keras":  # its file is the architecture together with the weights
        return dataclasses.replace(source, network=_keras_clone(source.module, seed))
    build = SOURCES[rebuild["family"]]
    known = inspect.signature(build).parameters
    extra: dict[str, Any] = {"seed": seed} if "seed" in known else {}
    if source.files and "files" in known:
        extra["files"] = source.files
    made: Source = build(rebuild["name"], **{**rebuild["options"], **extra})
    return made


def _keras_clone(model: Any, seed: int) -> Any:
    keras = _extras.need("keras", "for keras: sources")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - Keras seeds the global ones
    try:
        keras.utils.set_random_seed(seed)
        return keras.models.clone_model(model).eval()
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _redraw(network: torch.nn.Module) -> None:
    """Every module that knows how begins anew; parameters of others get the customary beginning."""
    for module in network.modules():
        begin = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(begin):
            begin()
            continue
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, _SPREAD)
                else:
                    parameter.fill_(0.0 if "bias" in name else 1.0)
