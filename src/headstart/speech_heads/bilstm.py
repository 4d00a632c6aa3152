"""A small bidirectional LSTM: every frame sees what comes before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from headstart._base.constraints import Interval
from headstart.speech_heads.base import CtcHead


@dataclass(frozen=True, kw_only=True)
class BiLstm(CtcHead):
    """Standardise, project, one bidirectional LSTM, one linear layer.

    Attributes
    ----------
    width : int
        Numbers per frame that the features are projected to.
    hidden : int
        Of the LSTM, in each direction.

    Notes
    -----
    Cost: T · (features · width + 8 · hidden · (width + hidden)) per item.
    """

    name = "bilstm"

    width: Annotated[int, Interval(1, 4096, integer=True)] = 96
    hidden: Annotated[int, Interval(1, 2048, integer=True)] = 64

    def network(self, features: int, outputs: int) -> nn.Module:
        """See :class:`CtcHead`."""
        return _BiLstmNetwork(features, outputs, self)


class _BiLstmNetwork(nn.Module):
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int, outputs: int, head: BiLstm) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.drop = nn.Dropout(head.dropout)
        self.project = nn.Linear(features, head.width)
        self.lstm = nn.LSTM(head.width, head.hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * head.hidden, outputs)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.project(self.drop((frames - self.mean) / self.scale)))
        packed = pack_padded_sequence(inner, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=frames.shape[1])
        out: torch.Tensor = self.out(self.drop(states))
        return out
