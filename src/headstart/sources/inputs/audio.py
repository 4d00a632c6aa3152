"""Audio as network input: the waveform itself, and how many frames a convolutional front end makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import DataError
from headstart.sources.types import Batch, Timing

if TYPE_CHECKING:
    import torch

_TINY = 1e-7  # as transformers' feature extractor: silence stays finite


@dataclass(frozen=True)
class WaveInput:
    """Clip → samples (n,), alone brought to mean 0 and variance 1 where the model was trained so.

    Attributes
    ----------
    sample_rate : int
    normalise : bool
    convolutions : tuple of (kernel, stride)
        Of the front end, without padding: how many frames come out.
    max_seconds : float
        Longer clips are cut there, and reported; such a clip has no frame-level features.

    Notes
    -----
    A clip shorter than one frame is filled up with zeros. Samples beyond a clip's end are zeros and masked; the mask of
    a batch counts frames. Cost: attention grows with the square of the length.
    """

    sample_rate: int = 16_000
    normalise: bool = True
    convolutions: tuple[tuple[int, int], ...] = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
    max_seconds: float = 30.0
    modality: str = "audio"

    def reader_options(self) -> dict[str, Any]:
        """The sample rate."""
        return {"sample_rate": self.sample_rate}

    def prepare(self, decoded: object) -> dict[str, np.ndarray]:
        """One clip → its samples."""
        rate = getattr(decoded, "sample_rate", self.sample_rate)
        if rate != self.sample_rate:
            raise DataError(f"The model wants {self.sample_rate} Hz; this clip has {rate} Hz.")
        samples = np.asarray(getattr(decoded, "samples", decoded), dtype=np.float32)
        if not len(samples):
            raise DataError("A clip without samples.")
        if not np.isfinite(samples).all():
            raise DataError("The clip has samples that are not finite.")
        limit = round(self.max_seconds * self.sample_rate)
        flags = {"cut": len(samples) > limit, "silent": bool(getattr(decoded, "silent", False))}
        samples = samples[:limit]
        if self.normalise:
            centred = samples - samples.mean(dtype=np.float64)
            samples = (centred / np.sqrt(np.square(centred).mean(dtype=np.float64) + _TINY)).astype(np.float32)
        samples = np.pad(samples, (0, max(0, self.shortest - len(samples))))
        return {"x": samples, **{name: np.array(value) for name, value in flags.items()}}

    @property
    def shortest(self) -> int:
        """Samples that one frame looks at: 400 for wav2vec2."""
        length = 1
        for kernel, stride in reversed(self.convolutions):
            length = (length - 1) * stride + kernel
        return length

    def frames(self, samples: int) -> int:
        """Frames that come out of so many samples."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def length(self, sample: dict[str, np.ndarray]) -> int:
        """Samples: batches are formed of clips of about one length."""
        return len(sample["x"])

    def warning(self, sample: dict[str, np.ndarray]) -> str | None:
        """A remark that is worth counting about a sample, for the user."""
        if bool(sample["cut"]):
            return f"longer than {self.max_seconds:g} s and cut there"
        return "silent" if bool(sample["silent"]) else None

    def collate(self, samples: Sequence[dict[str, np.ndarray]]) -> Batch:
        """Filled up with zeros to the longest; the mask is of frames."""
        sizes = np.array([len(s["x"]) for s in samples])
        x = np.zeros((len(samples), sizes.max()), np.float32)
        for row, sample in zip(x, samples):
            row[: len(sample["x"])] = sample["x"]
        frames = np.array([self.frames(n) for n in sizes.tolist()])
        mask = (np.arange(frames.max()) < frames[:, None]).astype(np.int64)
        uncut_frames = np.where([bool(s["cut"]) for s in samples], 0, frames)
        timing = Timing(np.zeros(len(samples), int), uncut_frames, int(frames.max()))
        return Batch({"x": x, "samples": sizes}, mask=mask, timing=timing)

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """As torch tensors; the numbers of samples stay whole numbers."""
        import torch

        x, samples = (torch.from_numpy(batch.inputs[name]).to(device) for name in ("x", "samples"))
        return {"x": x.to(dtype), "samples": samples}

    def example(self, n: int) -> Batch:
        """Noise of different lengths, always the same."""
        rng = np.random.default_rng(0)
        short = max(self.sample_rate // 8, 2 * self.shortest)
        clips = [rng.normal(0, 0.1, short + i * self.shortest).astype(np.float32) for i in range(n)]
        return self.collate([self.prepare(clip) for clip in clips])

    def describe(self) -> dict[str, Any]:
        """Everything that changes numbers."""
        return {"kind": "wave", **{name: value for name, value in vars(self).items() if name != "modality"}}
