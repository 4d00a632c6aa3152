"""Texts as network input: a fast tokenizer, truncation that is counted, padding that is masked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.errors import SourceError
from headstart.sources.base import Batch

_EXAMPLE = "the quick brown fox jumps over the lazy dog near a river bank at noon"


@dataclass(frozen=True)
class TextInput:
    """Text → token numbers.

    Attributes
    ----------
    tokenizer : str
        The tokenizer as JSON, in the form of the ``tokenizers`` library; it is part of the source.
    max_length : int
        Longer texts are cut, and the cut is reported.
    names : tuple of str
        Inputs that the network takes, of ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    pad : int
        Number of the padding token.

    Notes
    -----
    Cost: about 0.1 ms per sentence. Positions beyond a text's end are masked everywhere, so padding changes nothing.
    """

    tokenizer: str = field(repr=False)
    max_length: int = 256
    names: tuple[str, ...] = ("input_ids", "attention_mask")
    pad: int = 0
    modality: str = "text"

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        try:
            made = Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the library raises bare exceptions
            raise SourceError(
                f"The tokenizer.json is damaged, or of a newer form: {error}. Save it again, or fetch the model again."
            ) from error
        made.no_padding()
        made.no_truncation()
        object.__setattr__(self, "_made", made)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextInput:
        return self  # it is frozen, and tokenizers copy slowly

    def reading(self) -> dict[str, Any]:
        """Nothing to say to the reader."""
        return {}

    def prepare(self, decoded: Any) -> dict[str, np.ndarray]:
        """One text → token numbers, at most ``max_length`` of them, special tokens kept at the end."""
        made = self._made.encode(str(decoded))  # type: ignore[attr-defined]
        ids, types = np.array(made.ids, np.int64), np.array(made.type_ids, np.int64)
        total = len(ids)
        if total > self.max_length:
            special = np.array(made.special_tokens_mask, bool)
            tail = int(special[-1]) if total else 0  # keep a closing [SEP] or </s>
            keep = np.r_[0 : self.max_length - tail, total - tail : total]
            ids, types = ids[keep], types[keep]
        return {"ids": ids, "types": types, "total": np.array(total)}

    def length(self, sample: dict[str, np.ndarray]) -> int:
        """Tokens of a sample: batches are formed of texts of about one length."""
        return len(sample["ids"])

    def remark(self, sample: dict[str, np.ndarray]) -> str | None:
        """What is worth reporting about a sample."""
        if int(sample["total"]) > self.max_length:
            return f"longer than {self.max_length} tokens and cut there"
        return None

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> Batch:
        """Pad to the longest."""
        longest = max(max(len(s["ids"]) for s in samples), 1)
        ids = np.full((len(samples), longest), self.pad, np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, sample in enumerate(samples):
            n = len(sample["ids"])
            ids[row, :n], types[row, :n], mask[row, :n] = sample["ids"], sample["types"], 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return Batch({name: given[name] for name in self.names}, mask=mask)

    def tensors(self, batch: Batch, device: Any, dtype: Any) -> dict[str, Any]:
        """As torch tensors; token numbers stay whole numbers."""
        import torch

        return {name: torch.from_numpy(value).to(device) for name, value in batch.inputs.items()}

    def example(self, n: int) -> Batch:
        """Texts of different lengths."""
        words = _EXAMPLE.split()
        return self.collate([self.prepare(" ".join(words[: 4 + i % len(words)])) for i in range(n)])

    def describe(self) -> dict[str, Any]:
        """Everything that changes numbers; the tokenizer by its hash."""
        tokenizer = hashlib.sha256(json.dumps(json.loads(self.tokenizer), sort_keys=True).encode()).hexdigest()[:32]
        return {"kind": "text", "tokenizer": tokenizer, "max_length": self.max_length, "names": list(self.names)}
