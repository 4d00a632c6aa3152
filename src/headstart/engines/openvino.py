"""Forward passes of torch networks with OpenVINO on a CPU: the network is converted, layers and pooling included.

Only on request (``engine="openvino"``): converting takes seconds per set of layers, see docs/decisions.md. OpenVINO
sends telemetry from a package of its own when it is imported; here it is imported without that package.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headstart._base import extras
from headstart.engines.base import Engine, Reduce, Rows, RuntimeConfig, checked, described, rows_of_batch
from headstart.errors import OptionError, SourceError
from headstart.sources.backends import TorchBackend
from headstart.sources.types import Batch

if TYPE_CHECKING:
    from headstart.sources.base import Source

_SAME = 0.1  # bf16 rounds otherwise in batches of other sizes; what is mixed up differs by much more
_HINT = {"fp32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"


class OpenVinoEngine(Engine):
    """See :class:`headstart.engines.base.Engine`. The network is converted when it sees its first batch."""

    def __init__(
        self, source: Source, reduce: Mapping[str, Reduce], runtime: RuntimeConfig, shared: Engine | None = None
    ) -> None:
        if runtime.precision not in _HINT:
            raise OptionError(f"precision must be one of {', '.join(_HINT)} for OpenVINO; got {runtime.precision!r}.")
        if runtime.device != "cpu":
            raise OptionError(f"OpenVINO is used on processors here; got device={runtime.device!r}.")
        if not OpenVinoEngine.runs(source):
            raise OptionError(
                f"{source.address} cannot be run by OpenVINO: it takes torch networks of one fixed input."
            )
        self._input, self._label = source.input, source.address
        self._names = [layer.name for layer in source.layers if layer.name in reduce]
        self._reduce = dict(reduce)
        self._precision = runtime.precision
        self.network = source.torch_backend
        self._compiled: Any = None
        self._lock = Lock()  # a compiled model has one request, which only one thread may use at a time

    def __call__(self, batch: Batch) -> dict[str, Rows]:
        """Return the rows of every layer; see :meth:`headstart.engines.base.Engine.__call__`.

        Raises
        ------
        SourceError
            Also when the network cannot be converted.
        """
        if batch.counts is not None or batch.mask is not None:
            raise SourceError(f"{self._label} gives several inputs per item; OpenVINO runs one per item.")
        x = self._input.tensors(batch, torch.device("cpu"), torch.float32)["x"].contiguous()
        with self._lock:
            if self._compiled is None:
                self._compiled = self._compile(x, batch)
            try:
                outputs = self._compiled([x.numpy()])
            except RuntimeError as error:
                raise SourceError(f"{self._label} cannot run {described(batch)}: {error}") from error
            features = {name: torch.from_numpy(outputs[i].copy()) for i, name in enumerate(self._names)}
        return checked(self._label, features, self._precision)

    def _compile(self, x: torch.Tensor, batch: Batch) -> Any:
        ov = _openvino()
        model = _FeatureModule(self.network, self._names, self._reduce, batch)
        try:
            with torch.inference_mode(False), torch.no_grad():
                converted = ov.convert_model(model, example_input=(x.clone(),), input=[(-1, *x.shape[1:])])
            core = ov.Core()
            options = {
                "INFERENCE_PRECISION_HINT": _HINT[self._precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            }
            compiled = core.compile_model(converted, "CPU", options)
            if not _takes_any_batch_size(compiled, x.numpy()):
                raise ValueError("its code fixes the number of inputs (len(x), for example), so other batches go wrong")
            return compiled
        except Exception as error:  # tracing and conversion raise what they like
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"OpenVINO cannot convert {self._label}: {text}. Use engine='torch'.") from error

    @staticmethod
    def runs(source: Source) -> bool:
        """Return whether a source can be converted: a torch network of one input, one image or vector per item."""
        if not isinstance(source.backend, TorchBackend) or source.backend.invoke is not None:
            return False
        return source.modality in ("image", "vector")

    @staticmethod
    def precisions(source: Source, device: str) -> tuple[str, ...]:
        """Return fp32, and bf16 where the processor has it."""
        native = "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if native else ("fp32",)

    @staticmethod
    def default_device() -> str:
        """Return cpu: it is here for processors."""
        return "cpu"

    @staticmethod
    def version() -> dict[str, str]:
        """Return OpenVINO's version, and torch's, which the network is converted with."""
        version = extras.installed_version("openvino")
        if version is None:
            _openvino()
        return {"openvino": str(version), "torch": torch.__version__.partition("+")[0]}


class _FeatureModule(torch.nn.Module):
    """The network up to the deepest layer requested; returns pooled rows."""

    def __init__(self, backend: TorchBackend, names: Sequence[str], reduce: Mapping[str, Reduce], batch: Batch) -> None:
        super().__init__()
        self.network = backend.module.eval()
        self._backend, self._names = backend, names
        self._reduce = rows_of_batch({name: reduce[name] for name in names}, batch)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self._backend.run({"x": x}, self._reduce)
        return tuple(features[name].float() for name in self._names)


def _takes_any_batch_size(compiled: Any, x: np.ndarray) -> bool:
    """True where a row is the same in a batch of another size: tracing keeps what Python code computed of sizes."""
    other = x[:1] if len(x) > 1 else np.concatenate([x, x])
    outputs, other_outputs = compiled([x]), compiled([other])
    for i in range(len(compiled.outputs)):
        if len(other_outputs[i]) != len(other):
            return False
        first, again = outputs[i][:1].astype(np.float64), other_outputs[i][:1].astype(np.float64)
        if np.linalg.norm(first - again) > _SAME * np.linalg.norm(first) + 1e-6:
            return False
    return True


def _openvino() -> ModuleType:
    """OpenVINO, imported without the package that it sends telemetry with."""
    if "openvino" in sys.modules:
        return extras.require_package("openvino", "for engine='openvino'")
    with _without(_TELEMETRY):
        return extras.require_package("openvino", "for engine='openvino'")


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Inside the block, importing the package fails, which OpenVINO takes as it not being installed."""
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    for name in loaded:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(loaded)
