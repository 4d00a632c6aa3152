"""Is a sound file all there? What libsndfile passes over in silence. Part of audio.py; floor 3.

libsndfile shortens a cut WAV or AIFF to what is left, and drops damaged OGG pages without a word (a flipped bit in a
page may cost half the clip). FLAC it checks itself; an MP3 has nothing to check but its length. In rarer containers
(CAF, AU, W64, RF64) a missing end goes unnoticed.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO

from headstart.readers.base import Refused

_OPEN_ENDED = 0x7FFF_0000  # written for the length by programs that stream and cannot go back
_MAX_CHUNKS = 10_000
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_container(file: BinaryIO, size: int, kind: str) -> None:
    """Raise Refused when a file is shorter than it says, or a page of it is damaged; leaves the file at its start."""
    if kind in ("a WAV sound", "an AIFF sound"):
        _check_chunks(file, size)
    elif kind == "an OGG sound":
        _check_pages(file)
    file.seek(0)


def _check_chunks(file: BinaryIO, size: int) -> None:
    big = file.read(12)[:4] == b"FORM"
    at = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return  # no samples at all: the decoder says so
        length = int.from_bytes(head[4:], "big" if big else "little")
        if head[:4] in (b"data", b"SSND"):
            missing = at + 8 + length - size
            if missing > 1 and length < _OPEN_ENDED:  # one byte may be padding
                raise Refused(f"truncated ({missing:,} bytes are missing)")
            return
        at += 8 + length + length % 2
    raise Refused("damaged (no samples in ten thousand chunks)")


def _check_pages(file: BinaryIO) -> None:
    ended = False
    while header := file.read(27):
        if header[:4] != b"OggS":
            if ended:  # tags that some programs append
                return
            raise Refused("damaged (a page is missing)")
        table = file.read(header[26]) if len(header) == 27 else b""
        body = file.read(sum(table))
        if len(header) < 27 or len(table) < header[26] or len(body) < sum(table):
            raise Refused("truncated")
        if _ogg_checksum(header[:22] + bytes(4) + header[26:] + table + body) != int.from_bytes(
            header[22:26], "little"
        ):
            raise Refused("damaged (a checksum is wrong)")
        ended = bool(header[5] & 4)
    if not ended:
        raise Refused("truncated")


def _ogg_checksum(page: bytes) -> int:
    """OGG's CRC-32 is zlib's with every bit order turned round, and neither started nor ended with ones."""
    turned = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)
