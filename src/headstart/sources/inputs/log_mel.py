"""Audio as network input: log-mel spectrograms, and patches of them, as many per item as its length asks for.

The front end is numpy alone, so that readers and baselines can use it, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np

from headstart._base.constraints import Interval, validate
from headstart._base.registry import unknown_name
from headstart._base.typing import Array
from headstart.errors import DataError, OptionError
from headstart.sources.types import Batch, Timing

if TYPE_CHECKING:
    import torch

_CHUNK = 512  # frames transformed at once: about 3 MB, which stays in the cache
_FIXED = {"kind": "log_mel", "window": "periodic_hann", "mel_scale": "htk", "magnitude": "abs"}


class AudioClip(Protocol):
    """One channel of samples (n,) and their rate; ``headstart.readers.Clip`` is one."""

    @property
    def samples(self) -> Array:
        """Floats of shape (n,)."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""


@dataclass(frozen=True)
class LogMel:
    """Clip → log-mel frames and patches. The defaults are YAMNet's.

    Parameters
    ----------
    sample_rate : int
        Of the clips, in Hz; a clip at another rate is refused, never resampled here.
    window_seconds, hop_seconds : float
        Length of the analysis window and step from one frame to the next.
    n_fft : int
        FFT size, at least the window.
    n_mels : int
        Mel bands between ``f_min`` and ``f_max`` (Hz).
    log_offset : float
        Added before the logarithm.
    patch_frames, patch_hop_frames : int
        Frames of one patch, and from one patch to the next.

    Notes
    -----
    **Cost.** One FFT per frame: about 2 ms for 10 s of audio on one core; memory O(frames · n_mels).

    Examples
    --------
    >>> import numpy as np
    >>> mel = LogMel()
    >>> mel.frames(np.zeros(16000, np.float32)).shape, mel.patches(np.zeros(16000, np.float32)).shape
    ((98, 64), (2, 96, 64))
    """

    sample_rate: Annotated[int, Interval(1000, 500_000, integer=True)] = 16000
    window_seconds: Annotated[float, Interval(0, 1, closed="right")] = 0.025
    hop_seconds: Annotated[float, Interval(0, 1, closed="right")] = 0.010
    n_fft: Annotated[int, Interval(2, 1 << 16, integer=True)] = 512
    n_mels: Annotated[int, Interval(1, 1024, integer=True)] = 64
    f_min: Annotated[float, Interval(0, None)] = 125.0
    f_max: Annotated[float, Interval(0, None, closed="right")] = 7500.0
    log_offset: Annotated[float, Interval(0, None, closed="neither")] = 0.001
    patch_frames: Annotated[int, Interval(1, None, integer=True)] = 96
    patch_hop_frames: Annotated[int, Interval(1, None, integer=True)] = 48

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LogMel:
        """From the ``audio_frontend`` block of a model's configuration.

        Raises
        ------
        OptionError
            A key or a kind of front end that this one does not cover; never guessed, since features would be wrong.
        """
        names = [field.name for field in fields(cls)]
        options = dict(config)
        problems = []
        for key, value in _FIXED.items():
            if options.pop(key, value) != value:
                problems.append(f"LogMel covers {key}={value!r} only; got {config[key]!r}.")
        if "log" in options:
            options["log_offset"] = _offset(options.pop("log"))
        problems += [unknown_name("fields of a log-mel front end", key, names) for key in options if key not in names]
        if problems:
            raise OptionError("\n".join(problems))
        front_end = cls(**options)
        _tables(front_end)
        return front_end

    @property
    def window_samples(self) -> int:
        """Samples of one analysis window."""
        return round(self.window_seconds * self.sample_rate)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_seconds * self.sample_rate)

    @property
    def patch_samples(self) -> int:
        """Samples that one patch looks at: 15 600 (0.975 s) for YAMNet."""
        return (self.patch_frames - 1) * self.hop_samples + self.window_samples

    def frames(self, clip: AudioClip | Array) -> Array:
        """The log-mel spectrogram, without padding.

        Parameters
        ----------
        clip : Clip (or anything with samples and sample_rate) or ndarray (n,)
            A clip at ``sample_rate``, or its bare samples.

        Returns
        -------
        ndarray (t, n_mels) float32
            t = 1 + ⌊(n − window) / hop⌋, and 0 for a clip shorter than one window.
        """
        window, mel = _tables(self)
        samples = self._samples(clip)
        length, hop = self.window_samples, self.hop_samples
        count = max(0, 1 + (len(samples) - length) // hop)
        out = np.empty((count, self.n_mels), np.float32)
        if not count:
            return out
        framed = np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]
        for start in range(0, count, _CHUNK):
            part = framed[start : start + _CHUNK] * window
            magnitude = np.abs(np.fft.rfft(part, self.n_fft)).astype(np.float32, copy=False)
            out[start : start + _CHUNK] = magnitude @ mel
        out += np.float32(self.log_offset)
        return np.log(out, out=out)

    def patches(self, clip: AudioClip | Array) -> Array:
        """The patches that a network sees; every sample of the clip is in at least one.

        As in YAMNet, zeros are added to the end of the *waveform*: up to one whole patch for a shorter clip, up to the
        end of the last patch for a longer one. (Padding the spectrogram instead would give other numbers.)

        Returns
        -------
        ndarray (p, patch_frames, n_mels) float32
            p = 1 + ⌈(n − patch_samples) / (patch_hop_frames · hop)⌉ ≥ 1 when the patches leave no gap.

        Raises
        ------
        DataError
            A clip without samples, at another rate, with more than one channel, or with values that are not finite.
        """
        _tables(self)  # checks the fields before they are counted with
        samples = self._samples(clip)
        if not len(samples):
            raise DataError("A clip without samples has no patches.")
        step = self.patch_hop_frames * self.hop_samples
        count = 1 + max(0, -(-(len(samples) - self.patch_samples) // step))
        padded = np.zeros(self.patch_samples + (count - 1) * step, np.float32)
        padded[: len(samples)] = samples[: len(padded)]
        return self.patches_of(self.frames(padded))

    def patches_of(self, frames: Array) -> Array:
        """Whole patches of a spectrogram (t, n_mels) → (p, patch_frames, n_mels); a rest of frames is left out."""
        if len(frames) < self.patch_frames:
            return np.empty((0, self.patch_frames, frames.shape[1]), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(frames, self.patch_frames, axis=0)
        return np.ascontiguousarray(windows[:: self.patch_hop_frames].swapaxes(1, 2))

    def recipe(self) -> dict[str, Any]:
        """Plain data that changes whenever the numbers would."""
        return {"frontend": "log_mel", "revision": 1, **asdict(self)}

    def _samples(self, clip: AudioClip | Array) -> Array:
        rate = getattr(clip, "sample_rate", self.sample_rate)
        if rate != self.sample_rate:
            raise DataError(
                f"The front end wants {self.sample_rate} Hz; this clip has {rate} Hz. "
                f"Read it with reader('audio', sample_rate={self.sample_rate})."
            )
        samples: Array = np.asarray(getattr(clip, "samples", clip))
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise DataError(f"Samples are floats of shape (n,); got {samples.dtype} {samples.shape}.")
        samples = samples.astype(np.float32, copy=False)
        if not np.isfinite(samples).all():
            raise DataError("The clip has samples that are not finite.")
        return samples


@lru_cache(maxsize=32)
def _tables(spec: LogMel) -> tuple[Array, Array]:
    """Checked once per front end: the window (L,) and the mel weights (n_fft // 2 + 1, n_mels)."""
    validate(spec)
    if spec.hop_samples < 1 or spec.window_samples < 2:
        raise OptionError("LogMel: window_seconds and hop_seconds must span at least 2 and 1 samples.")
    if spec.n_fft < spec.window_samples:
        raise OptionError(f"LogMel(n_fft={spec.n_fft}) must be at least the window, {spec.window_samples} samples.")
    if not spec.f_min < spec.f_max <= spec.sample_rate / 2:
        raise OptionError(f"LogMel needs f_min < f_max ≤ {spec.sample_rate / 2:g} Hz; got {spec.f_min}, {spec.f_max}.")
    length = spec.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    tables = window.astype(np.float32), mel_weights(spec).astype(np.float32)
    for table in tables:
        table.flags.writeable = False
    return tables


def mel_weights(spec: LogMel) -> Array:
    """Triangular bands, linear on the HTK mel axis: (n_fft // 2 + 1, n_mels) float64. DC lies on no triangle.

    References: O'Shaughnessy, 2595·log₁₀(1 + f/700), here as 1127·ln(1 + f/700).
    """
    bins = _mel(np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate / spec.n_fft))
    edges = np.linspace(_mel(np.float64(spec.f_min)), _mel(np.float64(spec.f_max)), spec.n_mels + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rise = (bins[:, None] - lower) / (centre - lower)
    fall = (upper - bins[:, None]) / (upper - centre)
    weights: Array = np.maximum(0.0, np.minimum(rise, fall))
    return weights


def _mel(hertz: Array | np.float64) -> Array:
    return 1127.0 * np.log1p(hertz / 700.0)


def _offset(text: object) -> float:
    """The offset in ``"log(mel + 0.001)"``; a bare number counts as the offset."""
    inner = str(text).replace(" ", "")
    if inner.startswith("log(mel+") and inner.endswith(")"):
        inner = inner[len("log(mel+") : -1]
    try:
        return float(inner)
    except ValueError:
        raise OptionError(f"LogMel covers log='log(mel + OFFSET)' only; got {text!r}.") from None


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
    Cost: about 1 ms per second of audio. Loudness is left alone.
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

    def reader_options(self) -> dict[str, Any]:
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

    def n_windows(self, sample: dict[str, np.ndarray]) -> int:
        """Patches of a sample."""
        return len(sample["x"])

    def warning(self, sample: dict[str, np.ndarray]) -> str | None:
        """A remark that is worth counting about a sample, for the user."""
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

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
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
