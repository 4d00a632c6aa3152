"""What an engine is: (source, layers, precision) → a callable from a batch to one row per item and layer. Floor 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from headstart._registry import Family

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
