"""Sounds as network input: patches of a log-mel spectrogram, one item giving as many as its length asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headstart.errors import OptionError
from headstart.log_mel import LogMel
from headstart.sources._records import Timing
from headstart.sources.base import Batch


@dataclass(frozen=True)
class PatchInput:
    """Clip → (patches, 1, frames, bands) float32.

    Attributes
    ----------
    front_end : LogMel
        Sample rate, window, hop, bands, offset and patch length: part of the source's recipe.
    max_patches : int
        A longer clip gives this many, evenly spread over its length, and is reported; it has no frame-level features.

    Notes
    -----
    Cost: about 1 ms per second of sound. Loudness is left alone.
    """

    front_end: LogMel = field(default_factory=LogMel)
    max_patches: int = 240
    modality: str = "audio"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PatchInput:
        """From the ``audio_frontend`` block of a model folder's config.json; ``max_patches`` may stand in it, too."""
        limit = config.get("max_patches", cls.max_patches)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise OptionError(f"max_patches must be a whole number ≥ 1; got {limit!r}.")
        return cls(LogMel.from_config({key: value for key, value in config.items() if key != "max_patches"}), limit)

    def reading(self) -> dict[str, Any]:
        """The sample rate that the front end works at."""
        return {"sample_rate": self.front_end.sample_rate}

    def prepare(self, decoded: Any) -> dict[str, np.ndarray]:
        """One clip → its patches."""
        patches = self.front_end.patches(decoded)
        total = len(patches)
        if total > self.max_patches:
            patches = patches[np.linspace(0, total - 1, self.max_patches).round().astype(int)]
        silent = bool(getattr(decoded, "silent", False))
        frames = 0 if total > self.max_patches else self._frames(decoded)
        facts = {"total": total, "silent": silent, "frames": frames}
        return {"x": patches[:, None], **{name: np.array(value) for name, value in facts.items()}}

    def _frames(self, decoded: Any) -> int:
        """Frames of the clip itself, without the zeros at its end; at least one."""
        samples = len(getattr(decoded, "samples", decoded))
        return max(1, 1 + (samples - self.front_end.window_samples) // self.front_end.hop_samples)

    def pieces(self, sample: dict[str, np.ndarray]) -> int:
        """Patches of a sample."""
        return len(sample["x"])

    def remark(self, sample: dict[str, np.ndarray]) -> str | None:
        """What is worth reporting about a sample."""
        if int(sample["total"]) > self.max_patches:
            return f"longer than {self.max_patches} patches; so many of them, evenly spread, were used"
        return "silent" if bool(sample["silent"]) else None

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> Batch:
        """All patches one after the other, with the number each clip has."""
        counts = tuple(len(s["x"]) for s in samples)
        starts = np.concatenate([np.arange(n) * self.front_end.patch_hop_frames for n in counts])
        lengths = np.array([int(s["frames"]) for s in samples])
        timing = Timing(starts, lengths, self.front_end.patch_frames)
        return Batch({"x": np.concatenate([s["x"] for s in samples])}, counts=counts, timing=timing)

    def tensors(self, batch: Batch, device: Any, dtype: Any) -> dict[str, Any]:
        """As torch tensors."""
        import torch

        return {"x": torch.from_numpy(batch.inputs["x"]).to(device=device, dtype=dtype)}

    def example(self, n: int) -> Batch:
        """Patches of coloured noise, one per item, always the same ones."""
        shape = (n, 1, self.front_end.patch_frames, self.front_end.n_mels)
        noise = np.random.default_rng(0).normal(-3.0, 2.0, shape).astype(np.float32)
        span = self.front_end.patch_frames
        return Batch({"x": noise}, counts=(1,) * n, timing=Timing(np.zeros(n, int), np.full(n, span), span))

    def describe(self) -> dict[str, Any]:
        """The front end and the limit."""
        return {"kind": "patches", "front_end": self.front_end.recipe(), "max_patches": self.max_patches}
