"""The classic recurrent text network: embedding 64 → LSTM 64 → dense. Trained with ``pretrain("lstm", data)``.

The vocabulary is fitted on the source texts and is part of the source. Padding is packed away, so a text's features
do not depend on its batch-mates, in both directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from headstart._base.registry import unknown_name
from headstart.errors import OptionError, StoreError, UnknownName
from headstart.sources.backends import TorchBackend
from headstart.sources.base import Source
from headstart.sources.inputs.text import PAD, VocabularyInput

_FILE = "vocabulary.json"
_CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


class Recurrent(nn.Module):
    """(n, t, e) embeddings and (n,) lengths → (n, t, h) states; zeros beyond each text's end."""

    def __init__(self, cell: str, width: int, hidden: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.cell = _CELLS[cell](width, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, embedded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.cell(packed)
        return pad_packed_sequence(states, batch_first=True, total_length=embedded.shape[1])[0]


class LastState(nn.Module):
    """(n, t, h) states → (n, h): the last real state forwards, the first one backwards."""

    def __init__(self, *, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        if not self.bidirectional:
            return last
        half = states.shape[2] // 2
        return torch.cat([last[:, :half], states[:, 0, half:]], 1)


class TextNetwork(nn.Module):
    """Token numbers (n, t) → class scores (n, classes)."""

    def __init__(
        self, words: int, classes: int, *, cell: str, embedding: int, hidden: int, bidirectional: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=PAD)
        self.recurrent = Recurrent(cell, embedding, hidden, bidirectional=bidirectional)
        self.state = LastState(bidirectional=bidirectional)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(hidden * (2 if bidirectional else 1), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = (x != PAD).sum(1).clamp(min=1)
        states = self.recurrent(self.embedding(x), lengths)
        return self.classifier(self.dropout(self.state(states, lengths)))


def load(
    name: str = "lstm",
    *,
    vocabulary: tuple[str, ...] = (),
    classes: int = 2,
    max_length: int = 100,
    embedding: int = 64,
    hidden: int = 64,
    bidirectional: bool = False,
    cell: str = "lstm",
    seed: int = 0,
    files: Mapping[str, bytes] | None = None,
) -> Source:
    """Build the network with initial weights drawn from ``seed``.

    Raises
    ------
    OptionError, UnknownName
        When a size is not a whole number above 0, or ``cell`` is neither ``"lstm"`` nor ``"gru"``.
    StoreError
        When a saved vocabulary is damaged.
    """
    if cell not in _CELLS:
        raise UnknownName(unknown_name("cells of a recurrent network", cell, list(_CELLS)))
    sizes = {"classes": classes, "max_length": max_length, "embedding": embedding, "hidden": hidden}
    for name_of_size, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise OptionError(f"{name_of_size} must be a whole number, at least 1; got {size!r}.")
    if files is not None:
        vocabulary = _vocabulary(files)
    options: dict[str, Any] = {
        **sizes,
        "bidirectional": bidirectional,
        "cell": cell,
        "seed": seed,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TextNetwork(
            len(vocabulary) + 2, classes, cell=cell, embedding=embedding, hidden=hidden, bidirectional=bidirectional
        )
    return Source(
        f"lstm:{name}",
        TorchBackend(network.eval(), f"lstm:{name}"),
        VocabularyInput(tuple(vocabulary), max_length),
        classifier="classifier",
        rebuild={"family": "lstm", "name": name, "options": options},
        files={_FILE: json.dumps(list(vocabulary), ensure_ascii=False).encode()},
        minimum_cosine=0.999999,
    )


def _vocabulary(files: Mapping[str, bytes]) -> tuple[str, ...]:
    try:
        words = json.loads(files[_FILE])
    except (KeyError, ValueError) as error:
        raise StoreError(f"The saved vocabulary is damaged or missing: {error!r}. Save the source again.") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise StoreError("The saved vocabulary is damaged: it is no list of words. Save the source again.")
    return tuple(words)
