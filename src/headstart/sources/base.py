"""Sources: a backbone with its own preprocessing, its layers in measured execution order, and a fingerprint.

Every model family (timm, transformers, keras, onnx, …) is one file beside this one with a function
``load(name, *, weights=None, **options) -> Source``, and one line in :data:`SOURCES`. A family decides three things:
the network, the :class:`Input` that turns decoded items into what the network takes, and how the network can be built
again from plain data (``rebuild``), so that it can be saved without pickling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from headstart._base.hashing import fingerprint, fingerprint_tensors, key_of_bytes
from headstart._base.registry import Family, check_parameters, unknown_name
from headstart.errors import OptionError, SourceError, UnknownName
from headstart.sources.backends import Backend, Reducers, Tensors, TorchBackend
from headstart.sources.types import Batch, Layer
from headstart.sources.weights import save

if TYPE_CHECKING:
    import torch

    from headstart.sources.statistics import Statistics

SOURCES = Family(
    "sources",
    {
        "timm": "headstart.sources.timm:load",
        "cnn": "headstart.sources.cnn:load",
        "keras": "headstart.sources.keras:load",
        "lstm": "headstart.sources.lstm:load",
        "module": "headstart.sources.module:from_module",
        "saved": "headstart.sources.saved:load",
        "identity": "headstart.sources.identity:load",
        "hf": "headstart.sources.hf:load",
        "onnx": "headstart.sources.onnx.load:load",
        "fake": "headstart.sources.fake:load",
    },
)


@runtime_checkable
class Input(Protocol):
    """The preprocessing: decoded item → network input. A plain record, whose description is part of the fingerprint."""

    @property
    def modality(self) -> str:
        """image, text, audio or vector: which reader decodes its items."""

    def reader_options(self) -> dict[str, Any]:
        """Options for the modality's reader (size hint, sample rate)."""

    def prepare(self, decoded: object) -> Any:
        """One decoded item → one sample. Called from several threads."""

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Samples → a batch."""

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """A batch → the tensors that the network takes (normalised, on the device, floats in ``dtype``)."""

    def example(self, n: int) -> Batch:
        """A deterministic batch for measuring layers and speed."""

    def describe(self) -> dict[str, Any]:
        """Everything that changes numbers, as plain data."""


@dataclass(frozen=True, eq=False)
class Source:
    """A backbone with its own preprocessing, layers in measured execution order, and a fingerprint.

    Use :func:`load_source` or :meth:`from_module` to get one. It is never modified: fine-tuning gives a new Source.

    Attributes
    ----------
    address : str
        How it was asked for, e.g. ``"timm:mobilenetv2_100"``.
    backend : Backend
        The network, a torch module or an ONNX graph, and how it is run.
    input : Input
    rebuild : mapping, optional
        ``{"family": …, "name": …, "options": {…}}`` to build the same network with empty weights; None for a Python
        object that cannot be built from plain data.
    engines : tuple of str
        Engines that can run it, preferred first.
    meta : mapping
        Licence, origin, class names and the like, as plain data.
    files : mapping of str to bytes
        Small files that belong to it (a tokenizer), saved beside the weights.
    minimum_cosine : float
        A faster precision is accepted only if no row's cosine to fp32 falls below it.
    precisions : tuple of str, optional
        Precisions that its code can run in at all; None is any.
    statistics : Statistics, optional
        Moments of its features on its own training data; saved with it. See :func:`headstart.source_statistics`.
    """

    address: str
    backend: Backend
    input: Input
    classifier: str | None = None
    rebuild: Mapping[str, Any] | None = None
    engines: tuple[str, ...] = ("torch",)
    meta: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    minimum_cosine: float = 0.99
    precisions: tuple[str, ...] | None = None
    statistics: Statistics | None = None

    @property
    def name(self) -> str:
        """A short name for tables: the last part of the address; a predictor's own source has the predictor's name."""
        *before, last = self.address.replace("\\", "/").rstrip("/").split("/")
        if last.isdigit() and len(before) > 1 and before[-1].startswith("sources"):
            last = before[-2]
        return last.partition(":")[2] or last

    @property
    def modality(self) -> str:
        """image, text, audio or vector."""
        return self.input.modality

    @property
    def module(self) -> torch.nn.Module:
        """The network as a torch module, in evaluation mode.

        Raises
        ------
        SourceError
            When the source is not run by torch (an ONNX file).
        """
        return self.torch_backend.module

    @property
    def torch_backend(self) -> TorchBackend:
        """The torch backend: the module together with how it is called and what its layers are.

        Raises
        ------
        SourceError
            When the source is not run by torch (an ONNX file).
        """
        if "torch" not in self.engines or not isinstance(self.backend, TorchBackend):
            raise SourceError(
                f"{self.address} is run by {self.engines[0]}, not by torch: it cannot be trained or fine-tuned. Use "
                "policy='frozen', or load the torch original (timm:, hf:, Source.from_module) and train that."
            )
        return self.backend

    def with_module(self, module: torch.nn.Module, **changes: Any) -> Source:
        """Return this source with another module of its architecture (trained weights), and other fields changed."""
        return replace(self, backend=self.torch_backend.with_module(module), **changes)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers in measured execution order. Cost: one forward pass of a few example inputs, once."""
        return self.backend.layers(self.input, self.classifier)

    @property
    def fingerprint(self) -> str:
        """Hex digest of weights, architecture and preprocessing.

        Cost: one pass over the weights, once, and again when somebody has trained the network in place.
        """
        return self.stamped_fingerprint()[1]

    def stamped_fingerprint(self) -> tuple[tuple[int, ...], str]:
        """The stamp of the weights as they are now (see :meth:`Backend.stamp`), and the fingerprint."""
        stamp = self.backend.stamp()
        cached: tuple[tuple[int, ...], str] | None = self.__dict__.get("_fingerprint")
        if cached is None or cached[0] != stamp:
            cached = self.__dict__["_fingerprint"] = (stamp, self._digest())
        return cached

    def _digest(self) -> str:
        identity = {
            "weights": fingerprint_tensors(self.backend.state()),
            "input": self.input.describe(),
            "files": {name: key_of_bytes(content).hex() for name, content in self.files.items() if ".json" in name},
            **self.backend.architecture(by_name=self.rebuild is not None),
        }
        if self.rebuild is not None:
            identity["build"] = dict(self.rebuild)
        return fingerprint(identity, 32)

    def layer(self, name: str) -> Layer:
        """The layer of that name; UnknownName with the nearest one otherwise."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UnknownName(unknown_name(f"layers of {self.address}", name, [layer.name for layer in self.layers]))

    def select(self, layers: str | Iterable[str]) -> tuple[str, ...]:
        """Names, patterns, ``"auto"``, ``"last"`` or ``"all"`` → layer names in execution order.

        Raises
        ------
        UnknownName, OptionError
            When a name or pattern matches nothing, or nothing is asked for.
        """
        patterns = [layers] if isinstance(layers, str) else list(layers)
        if not patterns:
            raise OptionError("layers is empty; give names, patterns, 'auto', 'last' or 'all'.")
        chosen: set[str] = set()
        for pattern in patterns:
            chosen |= self._match(pattern)
        return tuple(layer.name for layer in self.layers if layer.name in chosen)

    def _match(self, pattern: str) -> set[str]:
        names = [layer.name for layer in self.layers]
        candidates = [layer.name for layer in self.layers if layer.candidate]
        if pattern == "all":
            return set(names)
        if pattern == "auto":
            return set(candidates or names[-1:])
        if pattern == "last":
            return {(candidates or names)[-1]}
        if pattern in names:
            return {pattern}
        matches = {name for name in names if fnmatchcase(name, pattern)}
        return matches or {self.layer(pattern).name}

    def run(self, tensors: Tensors, reduce: Reducers, *, module: torch.nn.Module | None = None) -> dict[str, Any]:
        """Run forward and return ``{layer: reduce[layer](output)}``, ending after the deepest layer.

        ``module`` stands in for the source's own: a copy that is being trained. No hook survives an exception.
        """
        backend = self.backend if module is None else self.torch_backend.with_module(module)
        return backend.run(tensors, reduce)

    def forward(self, tensors: Tensors, *, module: torch.nn.Module | None = None) -> torch.Tensor:
        """Run forward to the end; the main tensor of what the module (or the one given in its place) returns."""
        backend = self.torch_backend if module is None else self.torch_backend.with_module(module)
        return backend.forward(tensors)

    def save(self, folder: str | Path) -> Path:
        """Save as a folder of safetensors + JSON that ``load_source("saved:FOLDER")`` reads."""
        return save(self, Path(folder).expanduser())

    @staticmethod
    def from_module(module: torch.nn.Module, **options: Any) -> Source:
        """A source from a Python object: see :func:`headstart.sources.module.from_module`."""
        return SOURCES["module"](module, **options)

    def __repr__(self) -> str:
        return f"Source({self.address!r}, {self.modality})"


def load_source(address: str | Source, **options: Any) -> Source:
    """Load a source by its address.

    Parameters
    ----------
    address : str or Source
        ``family:name``, e.g. ``"timm:mobilenetv2_100"``, ``"timm:FOLDER"``, ``"saved:FOLDER"``. A Source is returned
        as it is.
    **options
        ``weights=`` a local safetensors or pth file; ``options=`` a mapping of the family's own construction options;
        further ones as the family says.

    Raises
    ------
    UnknownName
        When there is no such family, or no such model in it.
    OfflineError
        When the weights are not on this machine and there is no network.
    WeightsError
        When fewer than 95 % of the backbone's tensors match.

    Examples
    --------
    >>> load_source("fake:image").modality
    'image'
    """
    if isinstance(address, Source):
        if options:
            raise OptionError(f"{address!r} is loaded already; {', '.join(options)} would have no effect.")
        return address
    family, colon, name = str(address).partition(":")
    if not colon or not name:
        reads = f" Say what reads the folder: 'timm:{address}', 'hf:{address}' or 'saved:{address}'."
        near = reads if Path(str(address)).expanduser().is_dir() else ""
        raise OptionError(f"A source address is FAMILY:NAME, e.g. 'timm:mobilenetv2_100'; got {str(address)!r}.{near}")
    load = SOURCES[family]
    check_parameters(f"options of {family}: sources", options, load)
    source: Source = load(name, **options)
    return source


def display_names(sources: Sequence[Source]) -> list[str]:
    """Names for tables: each source's name; namesakes by their addresses, numbered where those are the same, too."""
    names = [source.name for source in sources]
    addresses = [source.address for source in sources]
    return [
        name if names.count(name) == 1 else address if addresses.count(address) == 1 else f"{name}#{number}"
        for number, (name, address) in enumerate(zip(names, addresses, strict=True), 1)
    ]
