"""A tiny deterministic network per modality, for tests without weights and without waiting. It is public on purpose."""

from __future__ import annotations

import torch
from torch import nn

from headstart.errors import UnknownName
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Input, Source
from headstart.sources.inputs.array import ArrayInput
from headstart.sources.inputs.image import ImageInput


def load(name: str = "image", *, seed: int = 0, size: int = 16) -> Source:
    """``fake:image`` (three small convolutions) or ``fake:vector`` (two dense layers), random weights from ``seed``.

    Raises
    ------
    UnknownName
        For any other name.
    """
    with torch.random.fork_rng(devices=[]):  # making layers draws from the global generator
        network, input = _network(name, size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 1.0 / max(parameter[0].numel(), 1) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    rebuild = {"family": "fake", "name": name, "options": {"seed": seed, "size": size}}
    address = f"fake:{name}"
    return Source(address, TorchBackend(network.eval(), address), input, rebuild=rebuild)


def _network(name: str, size: int) -> tuple[nn.Module, Input]:
    if name == "image":
        layers = [
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ]
        return nn.Sequential(*layers), ImageInput(size=(size, size), crop_pct=1.0)
    if name == "vector":
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh()), ArrayInput((8,))
    raise UnknownName(f"fake:{name} is not known; there are fake:image and fake:vector.")
