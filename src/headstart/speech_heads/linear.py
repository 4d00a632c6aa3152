"""One linear layer per frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from headstart.speech_heads.base import CtcHead


@dataclass(frozen=True, kw_only=True)
class Linear(CtcHead):
    """Standardise, drop out, one linear layer. Cost: T · features · symbols per item."""

    name = "linear"

    def network(self, features: int, outputs: int) -> nn.Module:
        """See :class:`CtcHead`."""
        return _LinearNetwork(features, outputs, self.dropout)


class _LinearNetwork(nn.Module):
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(features, outputs)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.drop((frames - self.mean) / self.scale))
        return out
