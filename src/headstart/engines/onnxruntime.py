"""Forward passes of ONNX files with onnxruntime, in the precision of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from headstart._base import extras
from headstart.engines.base import RuntimeConfig, checked, rows_of_batch
from headstart.errors import OptionError


class OnnxRuntimeEngine:
    """See :class:`headstart.engines.base.Engine`."""

    def __init__(self, source: Any, reduce: Mapping[str, Callable[[Any, Any], Any]], choice: RuntimeConfig) -> None:
        if choice.precision != "fp32":
            raise OptionError(
                f"precision={choice.precision!r} is not possible: onnxruntime runs a file in the precision that it was "
                "written in. Leave it out, or say 'fp32'."
            )
        self._source = source
        self._reduce = dict(reduce)
        self._device = choice.device
        source.network.ready(source, list(self._reduce), self._device)

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Rows of every layer asked for.

        Raises
        ------
        NumericsError
            When the network gives NaN or infinity; the layer is named.
        SourceError
            When the network cannot run this batch.
        """
        reduce = rows_of_batch(self._reduce, batch)
        tensors = self._source.input.tensors(batch, torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            kept = self._source.network.run_tapped(self._source, tensors, reduce, self._device)
            return checked(self._source, kept, "fp32")

    @staticmethod
    def precisions(source: Any, device: str) -> tuple[str, ...]:
        """What the file is written in."""
        return ("fp32",)

    @staticmethod
    def default_device() -> str:
        """cuda where onnxruntime can use it, else cpu: it has builds of its own, whatever torch can do."""
        ort = extras.require_package("onnxruntime", "to run onnx: sources")
        return "cuda" if "CUDAExecutionProvider" in ort.get_available_providers() else "cpu"

    @staticmethod
    def version() -> dict[str, str]:
        """onnxruntime's version."""
        ort = extras.require_package("onnxruntime", "to run onnx: sources")
        return {"onnxruntime": str(ort.__version__)}
