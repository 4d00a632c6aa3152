"""Forward passes with torch, on CPU, CUDA or MPS: fp32, or bf16/fp16 weights; convolutional nets in channels-last.

Cost: one converted copy of the network where the precision is not fp32, or the network convolves pictures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from headstart.engines.base import RuntimeConfig, checked, described, rows_of_batch
from headstart.errors import NumericsError, OptionError, SourceError

_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """See :class:`headstart.engines.base.Engine`."""

    def __init__(self, source: Any, reduce: Mapping[str, Callable[[Any, Any], Any]], choice: RuntimeConfig) -> None:
        if choice.precision not in _DTYPE:
            raise OptionError(f"precision must be one of {', '.join(_DTYPE)}; got {choice.precision!r}.")
        self._source = source
        self._reduce = dict(reduce)
        self._precision = choice.precision
        self._device = _device(choice.device)
        self._channels_last = any(isinstance(module, torch.nn.Conv2d) for module in source.network.modules())
        dtype = _DTYPE[choice.precision]
        self._network = _prepared(source.network, dtype, self._device, channels_last=self._channels_last)

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Rows of every layer asked for.

        Raises
        ------
        NumericsError
            When the network gives NaN or infinity, or ends without reaching a layer; the layer is named.
        SourceError
            When the network cannot run this batch.
        """
        reduce = rows_of_batch(self._reduce, batch)
        try:
            with torch.inference_mode(), _whole_fp32(self._device):
                kept = self._source.run(self._network, self._tensors(batch), reduce)
        except RuntimeError as error:
            what = f"{self._source.address} cannot run {described(batch)} on {self._device}"
            raise SourceError(f"{what}: {error}") from error
        missing = [name for name in reduce if name not in kept]
        if missing:
            raise NumericsError(f"The network ended without reaching {', '.join(missing)} for this batch.")
        return checked(self._source, kept, self._precision)

    def _tensors(self, batch: Any) -> dict[str, Any]:
        tensors = self._source.input.tensors(batch, self._device, _DTYPE[self._precision])
        return {k: _to_channels_last(v) for k, v in tensors.items()} if self._channels_last else tensors

    @staticmethod
    def precisions(source: Any, device: str) -> tuple[str, ...]:
        """fp32 always; bf16 where it is native (AVX512-BF16, AMX, recent GPUs) and the source's own code allows it."""
        kind = torch.device(device).type
        offered: tuple[str, ...] = ("fp32",)
        if kind == "cuda":
            offered = ("fp32", "bf16") if torch.cuda.is_bf16_supported() else ("fp32", "fp16")
        elif kind == "cpu" and any(p.is_floating_point() for p in source.network.parameters()) and _native_bf16():
            offered = ("fp32", "bf16")
        allowed = getattr(source, "precisions", None)
        return offered if allowed is None else tuple(name for name in offered if name in allowed)

    @staticmethod
    def version() -> dict[str, str]:
        """torch's version without the build suffix."""
        return {"torch": torch.__version__.partition("+")[0]}


@contextmanager
def _whole_fp32(device: torch.device) -> Iterator[None]:
    """Convolutions of fp32 numbers keep all their bits on a GPU, too: cuDNN would round them to TF32 (10 bits)."""
    before = torch.backends.cudnn.allow_tf32
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = before


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        why = "torch knows no such device" if said.startswith("Expected one of") else said.rstrip(".")
        raise OptionError(
            f"device={name!r} cannot be used here: {why}. Say auto, cpu, cuda (cuda:1, …) or mps."
        ) from error
    return device


def _native_bf16() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def _prepared(network: Any, dtype: torch.dtype, device: torch.device, *, channels_last: bool) -> Any:
    """The network itself where it can be run as it is, else a converted copy; the source's own is never changed."""
    kinds = {(p.device, p.dtype) for p in network.parameters() if p.is_floating_point()}
    if not channels_last and kinds <= {(device, dtype)}:
        return network.eval()
    try:
        twin = copy.deepcopy(network).to(device=device, dtype=dtype).eval()
    except RuntimeError as error:  # weights that are computed in a hook cannot be copied
        if kinds <= {(device, dtype)}:
            return network.eval()
        raise SourceError(f"The network cannot be copied to {device} in {dtype}: {error}") from error
    return twin.to(memory_format=torch.channels_last) if channels_last else twin


def _to_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
