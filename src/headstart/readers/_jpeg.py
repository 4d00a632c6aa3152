"""JPEG: what the markers say, and two decoders that give the same pixels. Part of image.py; floor 3."""

from __future__ import annotations

import io
import re
import struct
from typing import Any, NamedTuple

import numpy as np

from headstart._extras import available, need
from headstart._typing import Array
from headstart.readers._pixels import ORIENTATION, flat
from headstart.readers.base import Refused


class Header(NamedTuple):
    """What the markers before the first scan say: ``orientation`` as in EXIF, ``scans`` whether more may follow."""

    height: int
    width: int
    components: int
    orientation: int
    scans: bool


def read_header(blob: bytes) -> Header:
    """Size and orientation, from the markers before the first scan. Cost: a few microseconds."""
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
            raise Refused("damaged (a JPEG without a picture)")
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
            if tag == ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:  # a damaged EXIF block says nothing about the pixels
        pass
    return 1


def turbo(blob: bytes, header: Header, *, mode: str, scale: int, required: bool) -> Array | None:
    """Decode with simplejpeg; None when Pillow has to decide (not installed, or a kind of JPEG it does not know)."""
    if not required and not available("simplejpeg"):
        return None
    decode = need("simplejpeg", "for ImageReader(decoder='simplejpeg')").decode_jpeg
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


def drafted(blob: bytes, header: Header, *, mode: str, scale: int) -> Array:
    """Decode a JPEG with Pillow, at the same reduced scale."""
    from PIL import Image

    with Image.open(io.BytesIO(blob), formats=("JPEG",)) as image:
        if header.components in (1, 3):
            image.draft(mode, (header.width // scale, header.height // scale))
        elif scale > 1:
            image.draft(None, (header.width // scale, header.height // scale))
        image.load()
        return flat(image, mode)
