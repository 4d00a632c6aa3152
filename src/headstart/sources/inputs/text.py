"""Texts as network input: a fast tokenizer, truncation that is counted, padding that is masked."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart._base.hashing import fingerprint
from headstart.errors import DataError, SourceError
from headstart.sources.types import Batch

if TYPE_CHECKING:
    import torch

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
            tokenizer = Tokenizer.from_str(self.tokenizer)
        except Exception as error:  # the library raises bare exceptions
            raise SourceError(
                f"The tokenizer.json is damaged, or of a newer form: {error}. Save it again, or fetch the model again."
            ) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        object.__setattr__(self, "_tokenizer", tokenizer)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextInput:
        return self  # it is frozen, and tokenizers copy slowly

    def reader_options(self) -> dict[str, Any]:
        """Nothing to say to the reader."""
        return {}

    def prepare(self, decoded: object) -> dict[str, np.ndarray]:
        """One text → token numbers, at most ``max_length`` of them, special tokens kept at the end."""
        encoding = self._tokenizer.encode(str(decoded))  # type: ignore[attr-defined]
        ids, types = np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64)
        total = len(ids)
        if total > self.max_length:
            special = np.array(encoding.special_tokens_mask, bool)
            tail = int(special[-1]) if total else 0  # keep a closing [SEP] or </s>
            keep = np.r_[0 : self.max_length - tail, total - tail : total]
            ids, types = ids[keep], types[keep]
        return {"ids": ids, "types": types, "total": np.array(total)}

    def length(self, sample: dict[str, np.ndarray]) -> int:
        """Tokens of a sample: batches are formed of texts of about one length."""
        return len(sample["ids"])

    def warning(self, sample: dict[str, np.ndarray]) -> str | None:
        """A remark that is worth counting about a sample, for the user."""
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
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return Batch({name: arrays[name] for name in self.names}, mask=mask)

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
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


# Texts as numbered words, with a vocabulary fitted on the source texts: the input of built-in recurrent
# networks.


PAD, UNKNOWN = 0, 1
_FIRST = 2
# Scripts written without spaces are read character by character, all others word by word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f\U00020000-\U0002fa1f"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


def tokenise(text: str) -> list[str]:
    """Lower-case words, single characters of Chinese, Japanese and Thai, and punctuation marks.

    >>> tokenise("Don't stop! 你好")
    ['don', "'", 't', 'stop', '!', '你', '好']
    """
    return _TOKEN.findall(text.lower())


def fit_vocabulary(texts: Iterable[str], size: int = 10_000) -> tuple[str, ...]:
    """The ``size`` most frequent tokens; ties in alphabetical order, so the same texts give the same numbers."""
    counts = Counter(token for text in texts for token in tokenise(text))
    if not counts:
        raise DataError("The source texts hold no words to build a vocabulary from.")
    return tuple(token for token, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:size])


@dataclass(frozen=True)
class VocabularyInput:
    """Text → numbers of its first ``length`` tokens; 0 is padding, 1 an unknown word."""

    vocabulary: tuple[str, ...] = field(repr=False)
    max_length: int = 100
    modality: str = "text"

    def __post_init__(self) -> None:
        numbers = {token: number for number, token in enumerate(self.vocabulary, _FIRST)}
        object.__setattr__(self, "_numbers", numbers)

    def reader_options(self) -> dict[str, Any]:
        """Nothing to say to the reader."""
        return {}

    def prepare(self, decoded: object) -> dict[str, np.ndarray]:
        """One text → token numbers, at least one."""
        tokens = tokenise(str(decoded))
        numbers: dict[str, int] = self._numbers  # type: ignore[attr-defined]
        ids = [numbers.get(token, UNKNOWN) for token in tokens[: self.max_length]] or [UNKNOWN]
        return {"ids": np.array(ids, np.int64), "total": np.array(len(tokens))}

    def length(self, sample: dict[str, np.ndarray]) -> int:
        """Tokens of a sample."""
        return len(sample["ids"])

    def warning(self, sample: dict[str, np.ndarray]) -> str | None:
        """A remark that is worth counting about a sample, for the user."""
        return f"longer than {self.max_length} tokens and cut there" if sample["total"] > self.max_length else None

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> Batch:
        """Pad to the longest."""
        ids = np.full((len(samples), max(len(s["ids"]) for s in samples)), PAD, np.int64)
        for row, sample in enumerate(samples):
            ids[row, : len(sample["ids"])] = sample["ids"]
        return Batch({"x": ids}, mask=(ids != PAD).astype(np.int64))

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As torch tensors."""
        import torch

        return {"x": torch.from_numpy(batch.inputs["x"]).to(device)}

    def example(self, n: int) -> Batch:
        """Numbers of different lengths."""
        n_numbers = _FIRST + len(self.vocabulary)
        lengths = [max(1, min(self.max_length, 12) - i % 4) for i in range(n)]
        return self.collate([{"ids": 1 + np.arange(k) % (n_numbers - 1), "total": np.array(k)} for k in lengths])

    def describe(self) -> dict[str, Any]:
        """The vocabulary by its hash, and the length."""
        return {"kind": "sequence", "vocabulary": fingerprint(list(self.vocabulary), 32), "max_length": self.max_length}
