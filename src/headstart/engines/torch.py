"""Forward passes with torch, on CPU, CUDA or MPS: fp32, or bf16/fp16 weights; convolutional nets in channels-last.

Cost: one converted copy of the network where the precision is not fp32, or the network convolves images.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from headstart.engines.base import Engine, Reduce, Rows, RuntimeConfig, checked, described, rows_of_batch
from headstart.errors import NumericsError, OptionError, SourceError
from headstart.sources.backends import DTYPES, Tensors, TorchBackend, torch_device
from headstart.sources.types import Batch

if TYPE_CHECKING:
    from headstart.sources.base import Source


class TorchEngine(Engine):
    """See :class:`headstart.engines.base.Engine`."""

    def __init__(
        self, source: Source, reduce: Mapping[str, Reduce], runtime: RuntimeConfig, shared: Engine | None = None
    ) -> None:
        if runtime.precision not in DTYPES:
            raise OptionError(f"precision must be one of {', '.join(DTYPES)}; got {runtime.precision!r}.")
        self._input, self._label = source.input, source.address
        self._reduce = dict(reduce)
        self._precision = runtime.precision
        self._device = torch_device(runtime.device)
        backend = source.torch_backend
        self._channels_last = backend.channels_last
        self._module_of_source = weakref.ref(source.module)
        self.network: TorchBackend = shared.network if isinstance(shared, TorchEngine) else backend.to(runtime)

    def __call__(self, batch: Batch) -> dict[str, Rows]:
        """Return the rows of every layer; see :meth:`headstart.engines.base.Engine.__call__`."""
        reduce = rows_of_batch(self._reduce, batch)
        try:
            with torch.inference_mode(), _full_fp32(self._device):
                features = self.network.run(self._tensors(batch), reduce)
        except RuntimeError as error:
            what = f"{self._label} cannot run {described(batch)} on {self._device}"
            raise SourceError(f"{what}: {error}") from error
        missing = [name for name in reduce if name not in features]
        if missing:
            raise NumericsError(f"The network ended without reaching {', '.join(missing)} for this batch.")
        return checked(self._label, features, self._precision)

    def _tensors(self, batch: Batch) -> Tensors:
        tensors: Tensors = self._input.tensors(batch, self._device, DTYPES[self._precision])
        return {name: _to_channels_last(value) for name, value in tensors.items()} if self._channels_last else tensors

    def evaluate(self) -> None:
        """Put the network into evaluation mode, where it is the source's own: somebody may have trained that since."""
        if self.network.module is self._module_of_source():
            self.network.module.eval()

    @staticmethod
    def precisions(source: Source, device: str) -> tuple[str, ...]:
        """Return fp32, and bf16 where it is native (AVX512-BF16, AMX, recent GPUs) and the source's code allows it."""
        kind = torch.device(device).type
        offered: tuple[str, ...] = ("fp32",)
        if kind == "cuda":
            offered = ("fp32", "bf16") if torch.cuda.is_bf16_supported() else ("fp32", "fp16")
        elif kind == "cpu" and any(p.is_floating_point() for p in source.module.parameters()) and _native_bf16():
            offered = ("fp32", "bf16")
        if source.precisions is None:
            return offered
        return tuple(name for name in offered if name in source.precisions)

    @staticmethod
    def version() -> dict[str, str]:
        """Return torch's version without the build suffix."""
        return {"torch": torch.__version__.partition("+")[0]}


@contextmanager
def _full_fp32(device: torch.device) -> Iterator[None]:
    """Convolutions of fp32 numbers keep all their bits on a GPU, too: cuDNN would round them to TF32 (10 bits)."""
    before = torch.backends.cudnn.allow_tf32
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = before


def _native_bf16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def _to_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
