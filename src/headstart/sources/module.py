"""Any ``torch.nn.Module`` with a preprocessing, as a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._base.registry import check_names, unknown_name
from headstart.errors import DataError, OptionError, SourceError, UnknownName
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Input, Source
from headstart.sources.fingerprint import code_of
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput
from headstart.sources.types import Batch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CallableInput:
    """A preprocessing given as a Python function: decoded item → array of the network's input shape."""

    function: Callable[[Any], Any]
    shape: tuple[int, ...]
    modality: str
    label: str

    def reader_options(self) -> dict[str, Any]:
        """The reader gives its default."""
        return {}

    def prepare(self, decoded: object) -> np.ndarray:
        """Apply the function; torch tensors are taken, too."""
        array = np.asarray(self.function(decoded), dtype=np.float32)
        if array.shape != self.shape:
            raise DataError(f"{self.label} must give an array of shape {self.shape}; it gave {array.shape}.")
        return array

    def collate(self, samples: Sequence[np.ndarray]) -> Batch:
        """Stack samples of one shape."""
        return ArrayInput(self.shape, self.modality).collate(samples)

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As torch tensors."""
        return ArrayInput(self.shape, self.modality).tensors(batch, device, dtype)

    def example(self, n: int) -> Batch:
        """Standard normal numbers, always the same ones."""
        return ArrayInput(self.shape, self.modality).example(n)

    def describe(self) -> dict[str, Any]:
        """The function by its name and its code: another function, other features."""
        shape = {"label": self.label, "shape": list(self.shape), "modality": self.modality}
        return {"kind": "callable", **shape, "code": code_of(self.function)}


def from_module(
    module: torch.nn.Module,
    *,
    name: str | None = None,
    modality: str = "image",
    size: tuple[int, int] = (224, 224),
    preprocess: Callable[[Any], Any] | Input | None = None,
    shape: tuple[int, ...] | None = None,
    classifier: str | None = None,
    meta: Mapping[str, Any] | None = None,
    **image_options: Any,
) -> Source:
    """Make a source from a torch module.

    Parameters
    ----------
    module : torch.nn.Module
        Called with one tensor. It is put in evaluation mode and not changed otherwise.
    name : str, optional
        For tables and recipes; the class name when not given.
    modality : "image" | "vector" | "audio" | "text"
    size : (height, width)
        Of the images given to it.
    preprocess : callable or Input, optional
        Decoded item (uint8 (h, w, 3) for images) → input array. Its code goes into the fingerprint. When not given:
        resize, centre crop, and the ImageNet mean and std (``mean=``, ``std=``, ``crop_pct=``, …).
    shape : tuple of int, optional
        Shape of one input, needed with a ``preprocess`` function or for vectors.
    classifier : str, optional
        Name of the module that is its classifier; layers from there on are no candidates.

    Raises
    ------
    OptionError, UnknownName
        When something needed is not given, or something given would have no effect.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    >>> Source.from_module(net, modality="vector", shape=(4,)).select("last")
    ('1',)
    """
    if not hasattr(module, "state_dict") or not hasattr(module, "named_modules"):
        raise SourceError(f"from_module takes a torch.nn.Module; got {type(module).__name__}.")
    names = [name for name, _ in module.named_modules()]
    if classifier is not None and classifier not in names:
        raise UnknownName(unknown_name("modules of this network", classifier, names[1:]))
    label = name or type(module).__name__
    input = _input(modality, size, preprocess, shape=shape, options=image_options)
    backend = TorchBackend(module.eval(), f"module:{label}")
    return Source(backend.label, backend, input, classifier=classifier, meta=dict(meta or {}))


def _input(
    modality: str,
    size: tuple[int, int],
    preprocess: Callable[[Any], Any] | Input | None,
    *,
    shape: tuple[int, ...] | None,
    options: dict[str, Any],
) -> Input:
    is_image = modality == "image" and preprocess is None
    names = sorted({field.name for field in fields(ImageInput)} - {"size", "modality"})
    check_names("options of from_module", options, names)
    if options and not is_image:
        raise OptionError(f"{', '.join(options)} would have no effect: they belong to the preprocessing of images.")
    if is_image:
        return ImageInput(size=(int(size[0]), int(size[1])), **options)
    if isinstance(preprocess, Input):
        return preprocess
    if shape is None and (preprocess is not None or modality != "vector"):
        raise OptionError("shape= is needed: the shape of one input, for example (3, 224, 224).")
    if preprocess is None and modality != "vector":
        raise OptionError(f"modality={modality!r} needs preprocess=, a function from a decoded item to an array.")
    sides = None if shape is None else tuple(int(side) for side in shape)
    if preprocess is None:
        return ArrayInput(sides, modality)
    label = getattr(preprocess, "__qualname__", type(preprocess).__qualname__)
    return CallableInput(preprocess, sides or (), modality, label)
