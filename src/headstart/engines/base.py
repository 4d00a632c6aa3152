"""Engines: how the forward pass of a source is run, as a callable from a batch to one row per item and layer.

An engine is made for one source, the layers requested with the reducers that pool them, and a :class:`RuntimeConfig`.
``sessions.py`` keeps engines for as long as they are useful; nothing else needs to make one, but what measures them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._base.registry import Family
from headstart._base.typing import RuntimeConfig as RuntimeConfig
from headstart.errors import NumericsError

if TYPE_CHECKING:
    import torch

    from headstart.sources.base import Source
    from headstart.sources.types import Batch

ENGINES = Family(
    "engines",
    {
        "torch": "headstart.engines.torch:TorchEngine",
        "openvino": "headstart.engines.openvino:OpenVinoEngine",
        "onnxruntime": "headstart.engines.onnxruntime:OnnxRuntimeEngine",
    },
)

PRECISIONS = ("fp32", "bf16", "fp16")

Rows = np.ndarray | list[np.ndarray]
Reduce = Callable[["torch.Tensor", "Batch"], Any]


class Engine(ABC):
    """A forward pass made ready: the network as the runtime wants it, and the layers to take.

    It holds what it needs of a source (network, input, name for messages) and never the source itself, so that an
    engine that is cached keeps no source alive. It may be called from several threads at once.

    Parameters
    ----------
    source : Source
    reduce : mapping of str to callable
        Layer → function (output, batch) → rows.
    runtime : RuntimeConfig
    shared : Engine, optional
        Another engine of the same source and runtime, whose converted network serves both.
    """

    @abstractmethod
    def __init__(
        self, source: Source, reduce: Mapping[str, Reduce], runtime: RuntimeConfig, shared: Engine | None = None
    ) -> None: ...

    @abstractmethod
    def __call__(self, batch: Batch) -> dict[str, Rows]:
        """Return layer → (items, width) float32, or (inputs, …) un-pooled, in the batch's order.

        Raises
        ------
        NumericsError
            When the network gives NaN or infinity, or ends without reaching a layer; the layer is named.
        SourceError
            When the network cannot run this batch.
        """

    def evaluate(self) -> None:  # noqa: B027 - engines of compiled networks have no modes
        """Put the network into evaluation mode again, where somebody may have trained it in between."""

    @staticmethod
    @abstractmethod
    def precisions(source: Source, device: str) -> tuple[str, ...]:
        """Return the precisions worth measuring for this source on this device, the plain one first."""

    @staticmethod
    @abstractmethod
    def version() -> dict[str, str]:
        """Return the library versions that change numbers."""

    @staticmethod
    def runs(source: Source) -> bool:
        """Return whether it runs a source that does not name it, on request; it is never chosen by itself."""
        return False


# ---- From a layer's output to the rows that leave an engine: pooled, float32, finite. --------------------------------


def rows_of_batch(reduce: Mapping[str, Reduce], batch: Batch) -> dict[str, Callable[[torch.Tensor], Any]]:
    """Bind reducers, which are functions of (output, batch), to this batch."""
    return {name: partial(_reduced, function, batch) for name, function in reduce.items()}


def _reduced(function: Reduce, batch: Batch, output: torch.Tensor) -> Any:
    return function(output, batch)


def checked(label: str, features: Mapping[str, Any], precision: str) -> dict[str, Rows]:
    """Return every layer's rows as float32 arrays; un-pooled items of different lengths are lists of them.

    Raises
    ------
    NumericsError
        When any number is not finite; the layer is named, and the source by its ``label``.
    """
    rows = {name: _as_arrays(value) for name, value in features.items()}
    for name, values in rows.items():
        arrays = values if isinstance(values, list) else [values]
        if all(np.isfinite(array).all() for array in arrays):
            continue
        hint = "its weights or its input are not finite" if precision == "fp32" else "precision='fp32' may help"
        raise NumericsError(f"{label} gives NaN or infinity at layer {name} in {precision}; {hint}.")
    return rows


def described(batch: Batch) -> str:
    """A batch in words."""
    return "a batch of " + ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.inputs.items())


def _as_arrays(value: torch.Tensor | list[torch.Tensor]) -> Rows:
    if isinstance(value, list):
        return [_as_array(item) for item in value]
    return _as_array(value)


def _as_array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.float().cpu().numpy()
    return array
