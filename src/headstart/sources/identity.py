"""The items themselves as features: raw pixels, raw vectors, log-mel spectra. The baseline that transfer must beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from headstart.errors import UnknownName
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Input, Source
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput
from headstart.sources.inputs.log_mel import PatchInput


# The names of these classes are part of the fingerprints of saved sources (structure_of): they must not change.
class Pixels(nn.Sequential):
    """One layer: everything in one row."""


class Spectrum(nn.Module):
    """(patches, 1, frames, bands) → (patches, frames, bands)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].clone()


def load(name: str = "vector", *, size: int = 32, shape: tuple[int, ...] | None = None) -> Source:
    """``identity:vector`` passes vectors on; ``identity:image`` gives ``size`` × ``size`` pixels.

    ``identity:audio`` gives the log-mel spectrogram (YAMNet's: 64 bands, 10 ms), a vector per frame.

    Raises
    ------
    UnknownName
        For any other name.
    """
    if name == "vector":
        input: Input = ArrayInput(tuple(shape) if shape else None)
    elif name == "image":
        input = ImageInput(size=(size, size), crop_pct=1.0, crop_mode="squash", mean=(0.5,) * 3, std=(0.25,) * 3)
    elif name == "audio":
        input = PatchInput()
    else:
        raise UnknownName(f"identity:{name} is not known; there are identity:vector, identity:image, identity:audio.")

    options: dict[str, Any] = {"size": size, "shape": list(shape) if shape else None}
    module = Pixels(Spectrum() if name == "audio" else nn.Flatten())
    address, rebuild = f"identity:{name}", {"family": "identity", "name": name, "options": options}
    return Source(address, TorchBackend(module.eval(), address), input, rebuild=rebuild)
