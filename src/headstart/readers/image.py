"""Images: JPEG, PNG, GIF, WebP, TIFF, BMP, PPM, JPEG 2000 and AVIF → uint8 pixels, upright, on white.

What comes out is what a viewer shows: EXIF rotation applied, palettes and CMYK resolved, transparency laid on white,
16-bit channels cut to their high byte (8-bit value v stored as 257·v comes back as v), the first frame of an
animation. Colour profiles are not applied, as in every training pipeline known to us.

A JPEG goes through simplejpeg (libjpeg-turbo) when it is installed, else through Pillow; the pixels are bit-identical
at every scale (tests compare them). simplejpeg also reports damage inside the compressed data, which Pillow passes
over in silence: without it, a JPEG that was cut *and* closed again decodes with a grey rest.

Below the reader: JPEG markers and the two decoders, then any Pillow image to 8-bit pixels.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np

from headstart._base.constraints import Allow, Each, Interval, Options
from headstart._base.extras import is_installed, require_package
from headstart._base.typing import Array
from headstart.errors import OptionError
from headstart.readers.base import Item, Refused, file_kind, read_bytes, translate_errors

if TYPE_CHECKING:
    from PIL.Image import Image

REVISION = 1  # raise it when the same file would give other pixels
_MAX_BYTES = 1 << 30
_MAX_PASSES = 20  # scans of a progressive JPEG, counted in images of max_pixels: a few kilobytes could ask for hours
_PLUGINS = {
    "a JPEG image": ("JPEG",),
    "a PNG image": ("PNG",),
    "a GIF image": ("GIF",),
    "a WebP image": ("WEBP",),
    "a TIFF image": ("TIFF",),
    "a BMP image": ("BMP",),
    "a PPM image": ("PPM",),
    "a JPEG 2000 image": ("JPEG2000",),
    "an AVIF image": ("AVIF",),
}
_REASONS = {
    "truncated": "truncated",
    "premature end": "truncated",
    "only got": "truncated",
    "decompression bomb": "too large: more pixels than max_pixels or Pillow's own PIL.Image.MAX_IMAGE_PIXELS",
    "cannot identify": "damaged or of a kind that Pillow cannot read",
    "could not create decoder": "damaged or truncated",
    "decoder error": "damaged or truncated",
    "'avif'": "an AVIF image, which this build of Pillow cannot read",
}
ORIENTATION_TAG = 0x0112  # the tag of EXIF and TIFF
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


class Header(NamedTuple):
    """Facts of the markers before the first scan: ``orientation`` as in EXIF, ``scans`` whether more may follow."""

    height: int
    width: int
    components: int
    orientation: int
    scans: bool


@dataclass(frozen=True)
class ImageReader:
    """Image files, their bytes, or uint8 arrays → uint8 pixels.

    Parameters
    ----------
    mode : {"RGB", "L"}
        Three channels, or one (luma).
    size_hint : (height, width), optional
        The size that will be asked for afterwards, upright. A JPEG at least twice as large both ways is decoded at
        1/2, 1/4 or 1/8, never below the hint; every other image comes at its full size.
    max_pixels : int
        Larger images are refused before anything is allocated.
    decoder : {"auto", "simplejpeg", "pillow"}
        For JPEG; the pixels do not depend on it.

    Notes
    -----
    **Shapes.** (h, w, 3) for RGB, (h, w, 1) for L; contiguous.
    **Cost.** O(h·w) time; about 7 bytes of memory per pixel while decoding. The decoders release the GIL.

    Examples
    --------
    >>> import numpy as np
    >>> ImageReader().read(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
    """

    modality: ClassVar[str] = "image"

    mode: Annotated[str, Options("RGB", "L")] = "RGB"
    size_hint: Annotated[tuple[int, int] | None, Allow(None), Each(Interval(1, None, integer=True))] = None
    max_pixels: Annotated[int, Interval(1, None, integer=True)] = 178_956_970
    decoder: Annotated[str, Options("auto", "simplejpeg", "pillow")] = "auto"

    def read(self, item: Item) -> Array:
        """Return the pixels of a path, of a file's bytes, or of a uint8, uint16 or bool array (h, w[, channels])."""
        if isinstance(item, np.ndarray):
            with translate_errors(item):
                return _of_array(item, self.mode)
        blob = read_bytes(item, max_bytes=_MAX_BYTES)
        with translate_errors(item, _REASONS):
            kind = file_kind(blob)
            if kind in ("a HEIC photo", "a JPEG XL image"):
                raise Refused(f"{kind}, a format that is not read; convert it to JPEG or PNG")
            if kind not in _PLUGINS:
                raise Refused(f"not an image ({kind})")
            if kind == "a JPEG image":
                return self._jpeg(blob)
            _check_container(blob, kind)
            return self._other(blob, kind)

    def recipe(self) -> dict[str, Any]:
        """Return plain data that changes whenever the pixels would; all decoders give the same."""
        hint = None if self.size_hint is None else list(self.size_hint)
        return {"reader": "image", "revision": REVISION, "mode": self.mode, "size_hint": hint}

    def _jpeg(self, blob: bytes) -> Array:
        header = read_header(blob)
        self._check_size(header.height, header.width, passes=blob.count(b"\xff\xda") if header.scans else 1)
        scale = self._scale(header)
        pixels = None
        if self.decoder != "pillow" and header.components in (1, 3):
            pixels = decode_simplejpeg(blob, header, mode=self.mode, scale=scale, required=self.decoder == "simplejpeg")
        if pixels is None:
            pixels = decode_pillow(blob, header, mode=self.mode, scale=scale)
        return apply_orientation(pixels, header.orientation)

    def _other(self, blob: bytes, kind: str) -> Array:
        from PIL import Image

        with Image.open(io.BytesIO(blob), formats=_PLUGINS[kind]) as image:
            self._check_size(image.height, image.width)
            image.load()
            return apply_orientation(to_uint8(image, self.mode), exif_orientation(image))

    def _check_size(self, height: int, width: int, passes: int = 1) -> None:
        if height < 1 or width < 1:
            raise Refused("damaged (its size is 0)")
        if height * width > self.max_pixels:
            raise Refused(
                f"too large: {width:,} × {height:,} pixels; at most {self.max_pixels:,} (max_pixels) are read"
            )
        if height * width * passes > self.max_pixels * _MAX_PASSES:
            raise Refused(f"too large: {width:,} × {height:,} pixels in {passes:,} passes")

    def _scale(self, header: Header) -> int:
        """The largest of 1, 2, 4, 8 by which the image may shrink without falling below the hint."""
        if self.size_hint is None:
            return 1
        if len(self.size_hint) != 2:
            raise OptionError(f"ImageReader(size_hint=…) must be (height, width); got {self.size_hint!r}.")
        height, width = self.size_hint if header.orientation < 5 else self.size_hint[::-1]
        allowed = (s for s in (8, 4, 2) if s <= min(header.height, header.width))
        return next((s for s in allowed if -(-header.height // s) >= height and -(-header.width // s) >= width), 1)


def _check_container(blob: bytes, kind: str) -> None:
    """Check what the decoders do not: that the file is all there, and the checksums of a PNG."""
    if kind == "a WebP image" and int.from_bytes(blob[4:8], "little") + 8 > len(blob):
        raise Refused("truncated")
    if kind != "a PNG image":
        return
    view, at = memoryview(blob), 8
    while at + 12 <= len(blob):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(blob):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise Refused("damaged (a checksum is wrong)")
        if blob[at + 4 : at + 8] == b"IEND":
            return
        at = end
    raise Refused("truncated")


def _of_array(array: Array, mode: str) -> Array:
    from PIL import Image

    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise Refused("its pixels are not uint8; float arrays count as preprocessed and need no image reader")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4))):
        raise Refused("not (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)")
    if array.ndim == 3 and array.shape[2] == 3 and mode == "RGB":
        return np.ascontiguousarray(array)
    return to_uint8(Image.fromarray(np.ascontiguousarray(array)), mode)


def read_header(blob: bytes) -> Header:
    """Read size and orientation from the markers before the first scan. Cost: a few microseconds."""
    at, orientation, frame = 2, 1, (0, 0, 0)
    progressive = False
    while at + 4 <= len(blob):
        marker = blob[at + 1]
        if blob[at] != 0xFF:
            raise Refused("damaged (a JPEG marker is missing)")
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        body = blob[at + 4 : at + 2 + int.from_bytes(blob[at + 2 : at + 4], "big")]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            frame, progressive = struct.unpack(">xHHB", body[:6]), marker not in (0xC0, 0xC1)
        elif marker == 0xE1 and orientation == 1:
            orientation = _exif_orientation(body)
        elif marker == 0xDA and body and frame[2]:
            return Header(*frame, orientation, progressive or body[0] < frame[2])
        elif marker in (0xD9, 0xDA):
            raise Refused("damaged (a JPEG without an image)")
        at += 4 + len(body)
    raise Refused("truncated")


def _exif_orientation(segment: bytes) -> int:
    if not segment.startswith(b"Exif\x00\x00"):
        written = re.search(rb'tiff:Orientation(?:="|>)([1-8])', segment)  # XMP, where some editors put it
        return int(written[1]) if written else 1
    tiff = segment[6:]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        for entry in range(struct.unpack_from(order + "H", tiff, start)[0]):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:  # a damaged EXIF block says nothing about the pixels
        pass
    return 1


def decode_simplejpeg(blob: bytes, header: Header, *, mode: str, scale: int, required: bool) -> Array | None:
    """Decode with simplejpeg; None when Pillow has to decide (not installed, or a kind of JPEG it does not know)."""
    if not required and not is_installed("simplejpeg"):
        return None
    decode = require_package("simplejpeg", "for ImageReader(decoder='simplejpeg')").decode_jpeg
    options: dict[str, Any] = {"colorspace": "GRAY" if mode == "L" else "RGB"}
    if scale > 1:
        options |= {"min_height": -(-header.height // scale), "min_width": -(-header.width // scale)}
    try:
        return np.asarray(decode(blob, **options))
    except ValueError as error:
        text = str(error).lower()
        left = re.search(r"(\d+) extraneous bytes before marker 0xd9", text)
        if left and bytes(int(left[1])) + b"\xff\xd9" in blob:  # some cameras pad with zeros: nothing is lost
            return np.asarray(decode(blob, **options, strict=False))
        if "premature" in text:
            raise Refused("truncated") from error
        if "corrupt" in text:
            raise Refused(f"damaged ({text.removeprefix('corrupt jpeg data: ')})") from error
        return None


def decode_pillow(blob: bytes, header: Header, *, mode: str, scale: int) -> Array:
    """Decode a JPEG with Pillow, at the same reduced scale."""
    from PIL import Image

    with Image.open(io.BytesIO(blob), formats=("JPEG",)) as image:
        if header.components in (1, 3):
            image.draft(mode, (header.width // scale, header.height // scale))
        elif scale > 1:
            image.draft(None, (header.width // scale, header.height // scale))
        image.load()
        return to_uint8(image, mode)


def to_uint8(image: Image, mode: str) -> Array:
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


def exif_orientation(image: Image) -> int:
    """The EXIF orientation of a loaded image, 1 when it says none."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def apply_orientation(pixels: Array, orientation: int) -> Array:
    """Stored pixels → as they are meant to be seen."""
    swap, rows, columns = _UPRIGHT.get(orientation, (False, False, False))
    if swap:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])
