"""Any Pillow image → plain 8-bit pixels. Part of image.py; floor 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart._typing import Array
from headstart.readers.base import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # the tag of EXIF and TIFF
# EXIF orientation → what puts the stored pixels upright: (swap rows with columns, then flip rows, flip columns)
_UPRIGHT = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def flat(image: Image, mode: str) -> Array:
    """Any Pillow image → (h, w, channels) uint8: deep pixels to 8 bits, transparency on white, palettes resolved."""
    from PIL import Image as pillow

    if image.mode.startswith(("I", "F")):
        image = pillow.fromarray(_eight_bits(image))
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = pillow.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    pixels: Array = np.array(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _eight_bits(image: Image) -> Array:
    """The high bits of integer pixels; 0–1 floats times 255."""
    values: Array = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # NaN fails, too
            raise Refused("floating-point pixels outside 0–1 have no agreed white; give it as an array")
        return (values * 255 + 0.5).astype(np.uint8)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise Refused("signed or 32-bit integer pixels have no agreed white; give it as an array")
    tags = getattr(image, "tag_v2", {})
    bits = int(np.max(tags.get(258, 16)))
    high: Array = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # a TIFF may say that 0 is white
        np.invert(high, out=high)
    return high


def orientation_of(image: Image) -> int:
    """The EXIF orientation of a loaded image, 1 when it says none."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return found if isinstance(found, int) else 1


def upright(pixels: Array, orientation: int) -> Array:
    """Stored pixels → as they are meant to be seen."""
    swap, rows, columns = _UPRIGHT.get(orientation, (False, False, False))
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
