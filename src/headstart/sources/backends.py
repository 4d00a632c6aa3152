"""Backends: a network behind a source, whatever runs it. Torch modules here; ONNX graphs in ``onnx/network.py``.

A source asks five things of its network: which layers it has (measured, in execution order), a forward pass that stops
after the deepest layer requested, the state that its fingerprint is taken from, a copy, and the same network on another
device or in another precision. Engines, the layer table and fingerprints need to know no more.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart.errors import OptionError, SourceError
from headstart.sources.fingerprint import code_of_modules, stamp_of, state_of, structure_of
from headstart.sources.layers import OUTPUT, first_tensor, forward_features, measure_layers
from headstart.sources.types import Layer

if TYPE_CHECKING:
    from headstart.engines.base import RuntimeConfig
    from headstart.sources.base import Input

Tensors = dict[str, torch.Tensor]
Reducers = Mapping[str, Callable[[torch.Tensor], Any]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backend(ABC):
    """A network that gives features. Attribute ``label`` is what error messages call it."""

    label: str

    @abstractmethod
    def layers(self, input: Input, classifier: str | None = None) -> tuple[Layer, ...]:
        """Run example inputs once and list the layers in execution order; none from the classifier on is a candidate.

        Raises
        ------
        SourceError
            When the network cannot take its example input, or returns nothing that has a row per input.
        """

    @abstractmethod
    def run(self, tensors: Tensors, reduce: Reducers) -> dict[str, Any]:
        """Run forward and return ``{layer: reduce[layer](output)}``; nothing beyond the deepest layer is computed.

        Raises
        ------
        UnknownName
            For a layer that the network does not have.
        """

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the network has learned, by name: what the fingerprint is taken from."""

    @abstractmethod
    def state_dict(self) -> Tensors:
        """Return the tensors that are saved beside the record of a source; none where a file holds them already."""

    @abstractmethod
    def architecture(self, *, by_name: bool) -> dict[str, Any]:
        """Return plain data that tells the network from others with the same weights.

        ``by_name``: it is built by the name of a known architecture, so that its code need not be looked at.
        """

    @abstractmethod
    def stamp(self) -> tuple[int, ...]:
        """Return a cheap sign that changes when weights are replaced, moved or written in place, or hooks put on."""

    @abstractmethod
    def clone(self) -> Backend:
        """Return a copy that shares no weights with this one; itself where it never changes."""

    @abstractmethod
    def to(self, runtime: RuntimeConfig) -> Backend:
        """Return the network on the runtime's device and in its precision, ready to be evaluated.

        It is this one itself where nothing has to be converted, and else a copy: this one never changes.
        """


@dataclass(frozen=True, eq=False)
class TorchBackend(Backend):
    """A torch module.

    Attributes
    ----------
    module : torch.nn.Module
    label : str
        What error messages call it.
    invoke : callable, optional
        (module, tensors) → output; ``module(tensors["x"])`` when not given.
    submodules : callable, optional
        module → {name: module inside}, ``""`` for itself; ``named_modules()`` when not given.
    """

    module: torch.nn.Module
    label: str = "This network"
    invoke: Callable[[Any, Tensors], Any] | None = None
    submodules: Callable[[Any], Mapping[str, torch.nn.Module]] | None = None

    def named_modules(self) -> dict[str, torch.nn.Module]:
        """Name → module; ``"output"`` is the whole network, unless a module of that name is inside it."""
        named = self.submodules(self.module) if self.submodules else dict(self.module.named_modules())
        inner = {name: module for name, module in named.items() if name}
        return {OUTPUT: named[""], **inner} if "" in named else inner

    def call(self, tensors: Tensors) -> Any:
        """Run forward to the end; whatever the module returns."""
        if self.invoke is not None:
            return self.invoke(self.module, tensors)
        return self.module(tensors["x"])

    def forward(self, tensors: Tensors) -> torch.Tensor:
        """Run forward to the end; the main tensor of what the module returns."""
        output: torch.Tensor = first_tensor(self.call(tensors))
        return output

    def with_module(self, module: torch.nn.Module) -> TorchBackend:
        """Return the same backend around another module of this architecture (one with trained weights)."""
        return dataclasses.replace(self, module=module)

    @property
    def channels_last(self) -> bool:
        """True where it convolves images: then memory in channels-last order is faster."""
        return any(isinstance(module, torch.nn.Conv2d) for module in self.module.modules())

    def layers(self, input: Input, classifier: str | None = None) -> tuple[Layer, ...]:
        """Measure the layers; see :meth:`Backend.layers`."""
        return measure_layers(self, input, classifier)

    def run(self, tensors: Tensors, reduce: Reducers) -> dict[str, Any]:
        """Run up to the deepest layer; see :meth:`Backend.run`."""
        return forward_features(self, tensors, reduce)

    def state(self) -> dict[str, np.ndarray]:
        """Return what the fingerprint is taken from; see :meth:`Backend.state`."""
        return state_of(self.module)

    def state_dict(self) -> Tensors:
        """Return parameters and buffers; see :meth:`Backend.state_dict`."""
        return dict(self.module.state_dict())

    def architecture(self, *, by_name: bool) -> dict[str, Any]:
        """Describe the modules; see :meth:`Backend.architecture`."""
        plain: dict[str, Any] = {"modules": structure_of(self.module)}
        if not by_name:
            plain |= {"build": str(type(self.module)), "code": code_of_modules(self.module)}
        return plain

    def stamp(self) -> tuple[int, ...]:
        """Return what changes with the weights; see :meth:`Backend.stamp`."""
        return stamp_of(self.module)

    def clone(self) -> TorchBackend:
        """Copy the module; see :meth:`Backend.clone`."""
        return self.with_module(copy.deepcopy(self.module))

    def to(self, runtime: RuntimeConfig) -> TorchBackend:
        """Return the network as this runtime wants it; see :meth:`Backend.to`.

        Raises
        ------
        OptionError
            For a device that is not there.
        SourceError
            When the network has to be copied and cannot be.
        """
        device, dtype = torch_device(runtime.device), DTYPES[runtime.precision]
        kinds = {(p.device, p.dtype) for p in self.module.parameters() if p.is_floating_point()}
        fits = kinds <= {(device, dtype)}
        if fits and not self.channels_last:
            self.module.eval()
            return self
        try:
            module = self.clone().module.to(device=device, dtype=dtype).eval()
        except RuntimeError as error:  # weights that are computed in a hook cannot be copied
            if fits:
                self.module.eval()
                return self
            raise SourceError(f"The network cannot be copied to {device} in {dtype}: {error}") from error
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        return self.with_module(module)


def torch_device(name: str) -> torch.device:
    """The device of that name.

    Raises
    ------
    OptionError
        When this machine, or this build of torch, has no such device.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        if reason.startswith("Expected one of"):  # torch lists every device that it was ever written for
            reason = "torch knows no such device"
        raise OptionError(
            f"device={name!r} cannot be used here: {reason}. Say auto, cpu, cuda (cuda:1, …) or mps."
        ) from error
    return device
