"""Forward passes of torch networks with OpenVINO on a CPU: the network is converted, layers and pooling included.

Only on request (``engine="openvino"``): converting takes seconds per set of layers, see docs/decisions.md. OpenVINO
sends telemetry from a package of its own when it is imported; here it is imported without that package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from headstart._base import extras
from headstart.engines.base import RuntimeConfig, checked, described, rows_of_batch
from headstart.errors import OptionError, SourceError

_SAME = 0.1  # bf16 rounds otherwise in batches of other sizes; what is mixed up differs by much more
_HINT = {"fp32": "f32", "bf16": "bf16"}
_TELEMETRY = "openvino_telemetry"


class OpenVinoEngine:
    """See :class:`headstart.engines.base.Engine`. The network is converted when it sees its first batch."""

    def __init__(self, source: Any, reduce: Mapping[str, Callable[[Any, Any], Any]], choice: RuntimeConfig) -> None:
        if choice.precision not in _HINT:
            raise OptionError(f"precision must be one of {', '.join(_HINT)} for OpenVINO; got {choice.precision!r}.")
        if choice.device != "cpu":
            raise OptionError(f"OpenVINO is used on processors here; got device={choice.device!r}.")
        if not OpenVinoEngine.runs(source):
            raise OptionError(
                f"{source.address} cannot be run by OpenVINO: it takes torch networks of one fixed input."
            )
        self._source = source
        self._names = [layer.name for layer in source.layers if layer.name in reduce]
        self._reduce = dict(reduce)
        self._precision = choice.precision
        self._compiled: Any = None

    def __call__(self, batch: Any) -> dict[str, Any]:
        """Rows of every layer asked for.

        Raises
        ------
        NumericsError
            When the network gives NaN or infinity; the layer is named.
        SourceError
            When it cannot be converted, or cannot run this batch.
        """
        if batch.counts is not None or batch.mask is not None:
            raise SourceError(f"{self._source.address} gives several inputs per item; OpenVINO runs one per item.")
        x = self._source.input.tensors(batch, torch.device("cpu"), torch.float32)["x"].contiguous()
        if self._compiled is None:
            self._compiled = self._converted(x, batch)
        try:
            found = self._compiled([x.numpy()])
        except RuntimeError as error:
            raise SourceError(f"{self._source.address} cannot run {described(batch)}: {error}") from error
        kept = {name: torch.from_numpy(found[i].copy()) for i, name in enumerate(self._names)}
        return checked(self._source, kept, self._precision)

    def _converted(self, x: torch.Tensor, batch: Any) -> Any:
        ov = _openvino()
        model = _Tapped(self._source, self._names, self._reduce, batch)
        try:
            with torch.inference_mode(False), torch.no_grad():
                converted = ov.convert_model(model, example_input=(x.clone(),), input=[(-1, *x.shape[1:])])
            core = ov.Core()
            threads = str(torch.get_num_threads())
            how = {"INFERENCE_PRECISION_HINT": _HINT[self._precision], "PERFORMANCE_HINT": "LATENCY"}
            compiled = core.compile_model(converted, "CPU", {**how, "INFERENCE_NUM_THREADS": threads})
            if not _is_open(compiled, x.numpy()):
                raise ValueError("its code fixes the number of inputs (len(x), for example), so other batches go wrong")
            return compiled
        except Exception as error:  # tracing and conversion raise what they like
            text = " ".join(str(error).split())[:300]
            raise SourceError(f"OpenVINO cannot convert {self._source.address}: {text}. Use engine='torch'.") from error

    @staticmethod
    def runs(source: Any) -> bool:
        """Whether a source can be converted: a torch network of one input that takes one picture or vector per item."""
        return "torch" in source.engines and source.modality in ("image", "vector") and source.invoke is None

    @staticmethod
    def precisions(source: Any, device: str) -> tuple[str, ...]:
        """bf16 where the processor has it."""
        native = "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("fp32", "bf16") if native else ("fp32",)

    @staticmethod
    def default_device() -> str:
        """It is here for processors."""
        return "cpu"

    @staticmethod
    def version() -> dict[str, str]:
        """OpenVINO's version, and torch's, which the network is converted with."""
        found = extras.installed_version("openvino")
        if found is None:
            _openvino()
        return {"openvino": str(found), "torch": torch.__version__.partition("+")[0]}


class _Tapped(torch.nn.Module):
    """The network up to the deepest layer asked for; returns pooled rows."""

    def __init__(self, source: Any, names: list[str], reduce: Mapping[str, Any], batch: Any) -> None:
        super().__init__()
        self.network = source.network.eval()
        self._taken = rows_of_batch({name: reduce[name] for name in names}, batch)
        self._source, self._names = source, names

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = self._source.run(self.network, {"x": x}, self._taken)
        return tuple(kept[name].float() for name in self._names)


def _is_open(compiled: Any, x: np.ndarray) -> bool:
    """Whether the converted network takes any number of inputs: tracing keeps what Python code computed from it."""
    other = x[:1] if len(x) > 1 else np.concatenate([x, x])
    many, few = compiled([x]), compiled([other])
    for i in range(len(compiled.outputs)):
        first, again = many[i][:1].astype(np.float64), few[i][:1].astype(np.float64)
        if len(few[i]) != len(other) or np.linalg.norm(first - again) > _SAME * np.linalg.norm(first) + 1e-6:
            return False
    return True


def _openvino() -> Any:
    """OpenVINO, imported without the package that it sends telemetry with."""
    if "openvino" in sys.modules:
        return extras.require_package("openvino", "for engine='openvino'")
    with _without(_TELEMETRY):
        return extras.require_package("openvino", "for engine='openvino'")


@contextmanager
def _without(package: str) -> Any:
    """Inside the block, importing the package fails, which OpenVINO takes as it not being installed."""
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == package}
    for name in kept:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(kept)
