"""A trained CTC head with its alphabet: frames → text, and as arrays + plain data without pickling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from headstart.errors import DataError
from headstart.speech_heads.base import CtcHead, ctc
from headstart.speech_heads.decoding import Alphabet, beam_search, greedy

_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Recogniser:
    """What a CTC head has learned.

    Attributes
    ----------
    head : CtcHead
    alphabet : Alphabet
    network : torch.nn.Module
    """

    head: CtcHead
    alphabet: Alphabet
    network: torch.nn.Module

    @classmethod
    def fresh(cls, head: CtcHead, alphabet: Alphabet, frames: Sequence[np.ndarray], seed: int = 0) -> Self:
        """Initial weights; features are standardised by the frames (T, d) of the training items."""
        total = np.concatenate([np.asarray(sequence, np.float64).reshape(len(sequence), -1) for sequence in frames])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = head.network(total.shape[1], len(alphabet.symbols) + 1)
        spread = total.std(0)
        scale = np.where(spread > 1e-6 * max(spread.max(), 1e-30), spread, 1.0)
        network.load_state_dict(
            {
                **network.state_dict(),
                "mean": torch.from_numpy(total.mean(0)).float(),
                "scale": torch.from_numpy(scale).float(),
            }
        )
        return cls(head, alphabet, network)

    @property
    def features(self) -> int:
        """Numbers per frame."""
        return int(self.network.get_buffer("mean").shape[0])

    def emissions(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities (T, symbols + 1) of every item, in evaluation mode. Padding changes nothing."""
        out: list[np.ndarray] = []
        self.network.eval()
        for start in range(0, len(frames), _AT_ONCE):
            batch, lengths = self.padded(frames[start : start + _AT_ONCE])
            with torch.inference_mode():
                scores = self.network(batch, lengths).log_softmax(2).numpy()
            out += [sequence[:length].copy() for sequence, length in zip(scores, lengths.tolist())]
        return out

    def texts(self, frames: Sequence[np.ndarray]) -> list[str]:
        """Return the texts that are spoken."""
        width = self.head.beam
        decoded = [
            greedy(emission) if width == 1 else beam_search(emission, width) for emission in self.emissions(frames)
        ]
        return [self.alphabet.text(numbers) for numbers in decoded]

    def padded(self, frames: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, T, d) and (n,) lengths.

        Raises
        ------
        DataError
            When frames have another width than in training.
        """
        wrong = {
            sequence.shape[1:]
            for sequence in frames
            if sequence.ndim != 2 or sequence.shape[1] != self.features or not len(sequence)
        }
        if wrong:
            raise DataError(f"Frames must be (T ≥ 1, {self.features}); got (…, {', '.join(map(str, wrong))}).")
        tensors = [torch.from_numpy(np.array(sequence, np.float32)) for sequence in frames]
        return pad_sequence(tensors, batch_first=True), torch.tensor([len(sequence) for sequence in tensors])

    def config(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "head": {"name": self.head.name, "fields": self.head.config()},
            "alphabet": {"units": self.alphabet.units, "symbols": list(self.alphabet.symbols)},
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything learned."""
        return {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}

    @classmethod
    def from_config(cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """From :meth:`record` and :meth:`arrays`; whatever does not fit is a ValueError, KeyError or TypeError."""
        head = ctc(record["head"]["name"], **record["head"]["fields"])
        head.check()
        units, symbols = record["alphabet"]["units"], record["alphabet"]["symbols"]
        texts = isinstance(symbols, list) and all(isinstance(symbol, str) for symbol in symbols)
        if units not in ("characters", "words") or not texts or symbols != sorted(set(symbols)) or not symbols:
            raise ValueError("an alphabet cannot be right")
        network = head.network(int(arrays["mean"].shape[0]), len(symbols) + 1)
        expected_state = network.state_dict()
        if expected_state.keys() != arrays.keys() or any(
            expected_state[name].shape != arrays[name].shape for name in expected_state
        ):
            raise ValueError("weights cannot be right")
        if not all(value.dtype == np.float32 and np.isfinite(value).all() for value in arrays.values()):
            raise ValueError("weights cannot be right")
        network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
        return cls(head, Alphabet(tuple(symbols), units), network.eval())
