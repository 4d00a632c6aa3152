"""What an engine is: (source, layers, precision) → a callable from a batch to one row per item and layer. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from headstart._base.registry import Family
from headstart.errors import NumericsError

ENGINES = Family(
    "engines",
    {
        "torch": "headstart.engines.torch:TorchEngine",
        "openvino": "headstart.engines.openvino:OpenVinoEngine",
        "onnxruntime": "headstart.engines.onnxruntime:OnnxRuntimeEngine",
    },
)

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class RuntimeConfig:
    """How forward passes of one source are run on one machine: made once, remembered, and written into every recipe.

    Attributes
    ----------
    engine, precision : str
    device : str
    batch_size : int
    cosine : float
        Least cosine between these features and fp32's, over the rows measured.
    speed : float
        Items per second measured when it was chosen; 0 when it was given, not measured.
    """

    engine: str
    precision: str
    device: str = "cpu"
    batch_size: int = 16
    cosine: float = 1.0
    speed: float = 0.0

    def recipe(self) -> dict[str, Any]:
        """The part that changes numbers."""
        return {"engine": self.engine, "precision": self.precision, "device": self.device.partition(":")[0]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.engine} {self.precision} on {self.device}, {self.batch_size} at a time"


class Engine(Protocol):
    """A callable made once per run; it owns whatever copy of the network it needs."""

    def __init__(self, source: Any, reduce: Mapping[str, Callable[[Any, Any], Any]], choice: RuntimeConfig) -> None: ...

    def __call__(self, batch: Any) -> dict[str, np.ndarray]:
        """Layer → (items, width) float32, or (inputs, …) un-pooled, in the batch's order."""

    @staticmethod
    def precisions(source: Any, device: str) -> tuple[str, ...]:
        """Precisions worth measuring for this source on this device, the plain one first."""

    @staticmethod
    def version() -> dict[str, str]:
        """Library versions that change numbers."""


# ---- From what a layer gave to rows that leave an engine: pooled, float32, and their numbers looked at. ----


def rows_of_batch(reduce: Mapping[str, Callable[[Any, Any], Any]], batch: Any) -> dict[str, Callable[[Any], Any]]:
    """Poolings, which are functions of (output, batch), as functions of a layer's output in this batch."""
    return {name: partial(_swapped, function, batch) for name, function in reduce.items()}


def _swapped(function: Callable[[Any, Any], Any], batch: Any, output: Any) -> Any:
    return function(output, batch)


def checked(source: Any, kept: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Rows of every layer as float32 arrays; un-pooled items of different lengths are lists of them.

    Raises
    ------
    NumericsError
        When any number is not finite; the layer is named.
    """
    rows = {name: _as_arrays(value) for name, value in kept.items()}
    for name, values in rows.items():
        if all(np.isfinite(one).all() for one in (values if isinstance(values, list) else [values])):
            continue
        hint = "its weights or its input are not finite" if precision == "fp32" else "precision='fp32' may help"
        raise NumericsError(f"{source.address} gives NaN or infinity at layer {name} in {precision}; {hint}.")
    return rows


def described(batch: Any) -> str:
    """A batch in words."""
    return "a batch of " + ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.inputs.items())


def _as_arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_arrays(one) for one in value]
    array: np.ndarray = value.float().cpu().numpy()
    return array
