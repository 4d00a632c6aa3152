"""Arrays as network input: they are taken as preprocessed already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import DataError
from headstart.sources.types import Batch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ArrayInput:
    """Numbers as they are: (n, *shape) floats; ``shape`` None accepts any one shape."""

    shape: tuple[int, ...] | None = None
    modality: str = "vector"

    def reader_options(self) -> dict[str, Any]:
        """Nothing to say to the reader."""
        return {}

    def prepare(self, decoded: object) -> np.ndarray:
        """One array → float32, its shape and its numbers checked."""
        try:
            with np.errstate(over="ignore"):  # it is said below
                array = np.asarray(decoded, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"The source takes arrays of numbers; got {type(decoded).__name__}.") from error
        if self.shape is not None and array.shape != tuple(self.shape):
            raise DataError(f"The source takes arrays of shape {tuple(self.shape)}; got {array.shape}.")
        if not np.isfinite(array).all():
            raise DataError("It holds numbers that are not finite, or too large for float32.")
        return array

    def collate(self, samples: Sequence[np.ndarray]) -> Batch:
        """Stack samples of one shape."""
        return Batch({"x": stacked(samples)})

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As torch tensors, copied: a network may write into its input."""
        import torch

        return {"x": torch.tensor(batch.inputs["x"], device=device).to(dtype)}

    def example(self, n: int) -> Batch:
        """Standard normal numbers, always the same ones."""
        return Batch({"x": np.random.default_rng(0).normal(size=(n, *(self.shape or (8,)))).astype(np.float32)})

    def describe(self) -> dict[str, Any]:
        """All fields; the kind is named."""
        return {"kind": "array", **asdict(self)}


def stacked(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Samples of one shape and type as one array; DataError names the first that differs."""
    for sample in samples:
        if sample.shape != samples[0].shape or sample.dtype != samples[0].dtype:
            raise DataError(
                f"Items of one dataset must have one shape; one gives {samples[0].dtype} {samples[0].shape}, "
                f"another {sample.dtype} {sample.shape}. Bring them to one size, or extract them apart."
            )
    return np.stack(samples)
