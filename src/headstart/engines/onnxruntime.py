"""Forward passes of ONNX files with onnxruntime, in the precision of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from headstart._base import extras
from headstart.engines.base import Engine, Reduce, Rows, RuntimeConfig, checked, rows_of_batch
from headstart.errors import OptionError
from headstart.sources.onnx.network import OnnxBackend
from headstart.sources.types import Batch

if TYPE_CHECKING:
    from headstart.sources.base import Source


class OnnxRuntimeEngine(Engine):
    """See :class:`headstart.engines.base.Engine`."""

    def __init__(
        self, source: Source, reduce: Mapping[str, Reduce], runtime: RuntimeConfig, shared: Engine | None = None
    ) -> None:
        if runtime.precision != "fp32":
            raise OptionError(
                f"precision={runtime.precision!r} is not possible: onnxruntime runs a file in the precision that it "
                "was written in. Leave it out, or say 'fp32'."
            )
        if not isinstance(source.backend, OnnxBackend):
            raise OptionError(f"{source.address} is no ONNX file: engine='onnxruntime' cannot run it.")
        self._input, self._label = source.input, source.address
        self._reduce = {layer.name: reduce[layer.name] for layer in source.layers if layer.name in reduce}
        self.network = source.backend.to(runtime)
        self.network.sessions(list(reduce))  # a device that is not there is an error now, not at the first batch

    def __call__(self, batch: Batch) -> dict[str, Rows]:
        """Return the rows of every layer; see :meth:`headstart.engines.base.Engine.__call__`."""
        tensors = self._input.tensors(batch, torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            features = self.network.run(tensors, rows_of_batch(self._reduce, batch))
            return checked(self._label, features, "fp32")

    @staticmethod
    def precisions(source: Source, device: str) -> tuple[str, ...]:
        """Return fp32 only, which stands for what the file is written in."""
        return ("fp32",)

    @staticmethod
    def default_device() -> str:
        """Return cuda where onnxruntime can use it, else cpu: it has builds of its own, whatever torch can do."""
        ort = extras.require_package("onnxruntime", "to run onnx: sources")
        return "cuda" if "CUDAExecutionProvider" in ort.get_available_providers() else "cpu"

    @staticmethod
    def version() -> dict[str, str]:
        """Return onnxruntime's version."""
        ort = extras.require_package("onnxruntime", "to run onnx: sources")
        return {"onnxruntime": str(ort.__version__)}
