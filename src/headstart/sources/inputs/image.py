"""Images as network input: resize, centre crop, channels, mean and standard deviation. No torchvision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import DataError, OptionError
from headstart.sources.inputs.array import stacked
from headstart.sources.types import Batch

if TYPE_CHECKING:
    import torch

_CROPS = ("center", "squash", "border")
_MOST_PIXELS = 64 << 20
_MODES = ("bilinear", "bicubic", "nearest")


@dataclass(frozen=True)
class ImageInput:
    """RGB (or grey) pixels → (n, c, h, w) floats, the way the weights were trained.

    Attributes
    ----------
    size : (height, width)
    channels : 1 or 3
    mean, std : per channel, for pixels scaled to 0–1
    crop_pct : float
        The shorter side is resized to ``size / crop_pct`` before the centre crop.
    crop_mode : "center" | "squash" | "border"
        ``"squash"`` resizes both sides, whatever the image's shape; ``"border"`` fits the longer side and fills up
        with the mean colour.
    interpolation : "bilinear" | "bicubic" | "nearest"
    channels_last : bool
        True gives (n, h, w, c), for Keras networks.

    Notes
    -----
    The same pixels as timm's evaluation transform, to one grey level. Resizing is antialiased, on uint8, like
    Pillow's. Cost: about 0.3 ms for a 500 × 400 photo on one core, after decoding.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bilinear"
    channels_last: bool = False
    modality: str = "image"

    def reader_options(self) -> dict[str, Any]:
        """The reader may decode at reduced scale, but never below the size that is then resized to."""
        return {"size_hint": self._scaled()}

    def prepare(self, decoded: object) -> np.ndarray:
        """(h, w, 3) or (h, w) uint8 → (c, height, width) uint8. Float arrays pass as they are.

        Raises
        ------
        DataError
            When the array is no image.
        OptionError
            When a field has a value that is not allowed.
        """
        pixels = np.asarray(decoded)
        if pixels.dtype != np.uint8:
            return self._already(pixels)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
            raise DataError(f"An image is (h, w), (h, w, 1) or (h, w, 3); got shape {pixels.shape}.")
        self._check()
        return self._cropped(_to_channels(pixels, self.channels))

    def _check(self) -> None:
        if self.crop_mode not in _CROPS:
            raise OptionError(f"crop_mode must be one of {', '.join(_CROPS)}; got {self.crop_mode!r}.")
        if self.interpolation not in _MODES:
            raise OptionError(f"interpolation must be one of {', '.join(_MODES)}; got {self.interpolation!r}.")
        if self.channels not in (1, 3) or len(self.mean) != self.channels or len(self.std) != self.channels:
            raise OptionError(f"channels must be 1 or 3, with a mean and a std each; got {self.channels}.")

    def _already(self, array: np.ndarray) -> np.ndarray:
        """A float array counts as preprocessed; only the channel axis is put where the network wants it."""
        array = np.asarray(array, dtype=np.float32)
        if array.ndim == 2:
            array = array[None]
        if array.ndim != 3 or self.channels not in (array.shape[0], array.shape[2]):
            raise DataError(f"A preprocessed image needs {self.channels} channel(s); got shape {array.shape}.")
        last = array.shape[2] == self.channels
        if last and array.shape[0] == self.channels:  # either could be: the image's own size decides
            last = array.shape[:2] == tuple(self.size)
        if last == self.channels_last:
            return array
        return np.moveaxis(array, -1, 0) if last else np.moveaxis(array, 0, -1)

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        contiguous = np.ascontiguousarray(pixels)
        if not contiguous.flags.writeable:  # torch warns of memory that it may not write to
            contiguous = contiguous.copy()
        tensor = torch.from_numpy(contiguous).permute(2, 0, 1)[None]
        size = self._resized(pixels.shape[0], pixels.shape[1])
        if size[0] * size[1] > _MOST_PIXELS:
            raise DataError(f"Too elongated: {pixels.shape[1]} × {pixels.shape[0]} would be resized to {size[::-1]}.")
        if tuple(tensor.shape[2:]) != size:
            tensor = _nearest(tensor, size) if self.interpolation == "nearest" else self._smooth(tensor, size)
        crop = self._filled(tensor[0])
        top, left = (int(round((have - want) / 2)) for have, want in zip(crop.shape[1:], self.size))  # noqa: RUF046
        crop = crop[:, top : top + self.size[0], left : left + self.size[1]]
        return np.ascontiguousarray((crop.permute(1, 2, 0) if self.channels_last else crop).numpy())

    def _smooth(self, tensor: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
        from torch.nn.functional import interpolate

        return interpolate(tensor, size=target, mode=self.interpolation, antialias=True)

    def _filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean colour around an image that is smaller than the crop."""
        height, width = (max(have, want) for have, want in zip(tensor.shape[1:], self.size))
        if (height, width) == tuple(tensor.shape[1:]):
            return tensor
        canvas = tensor.new_tensor([round(255 * v) for v in self.mean])[:, None, None].repeat(1, height, width)
        y, x = (height - tensor.shape[1]) // 2, (width - tensor.shape[2]) // 2
        canvas[:, y : y + tensor.shape[1], x : x + tensor.shape[2]] = tensor
        return canvas

    def _scaled(self) -> tuple[int, int]:
        return math.floor(self.size[0] / self.crop_pct), math.floor(self.size[1] / self.crop_pct)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before the crop, rounded as torchvision and timm round."""
        tall, wide = self._scaled()
        if self.crop_mode == "squash":
            return tall, wide
        if self.crop_mode == "center" and tall == wide:
            short, long = sorted((height, width))
            longer = int(tall * long / short)
            return (tall, longer) if height <= width else (longer, tall)
        choose = max if self.crop_mode == "border" else min
        ratio = choose(height / tall, width / wide)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def collate(self, samples: Sequence[np.ndarray]) -> Batch:
        """Stack samples of one shape and dtype."""
        return Batch({"x": stacked(samples)})

    def tensors(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Scale uint8 to 0–1 and normalise; floats are taken as they are."""
        import torch

        x = torch.tensor(batch.inputs["x"], device=device)  # a copy: a network may write into its input
        if x.dtype == torch.uint8:
            shape = (1, 1, 1, -1) if self.channels_last else (1, -1, 1, 1)
            mean = torch.tensor(self.mean, device=device).mul(255).view(shape)
            std = torch.tensor(self.std, device=device).mul(255).view(shape)
            x = x.float().sub_(mean).div_(std)
        return {"x": x.to(dtype)}

    def example(self, n: int) -> Batch:
        """Smooth random images, always the same ones."""
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (n, 9, 9, self.channels), dtype=np.uint8)
        rows = np.linspace(0, 8, self.size[0]).astype(int)
        cols = np.linspace(0, 8, self.size[1]).astype(int)
        pixels = coarse[:, rows][:, :, cols]
        return Batch({"x": np.ascontiguousarray(pixels if self.channels_last else np.moveaxis(pixels, -1, 1))})

    def describe(self) -> dict[str, Any]:
        """All fields; the kind is named."""
        return {"kind": "image", **asdict(self)}


def _nearest(tensor: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    """The pixel whose middle is nearest; steps are added up one by one, as Pillow does it."""
    rows, columns = (
        np.cumsum(np.r_[have / n / 2, np.full(n - 1, have / n)]).astype(int).clip(max=have - 1)
        for n, have in zip(target, tensor.shape[2:])
    )
    return tensor[:, :, rows][:, :, :, columns]


def _to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    # ITU-R 601 luma in integers, as Pillow's convert("L") does it
    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.astype(np.uint8)[..., None]
