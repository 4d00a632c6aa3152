"""The family of readers: its table, the translation of decoders' errors, and the bytes of an item.

A reader turns one item into an array or a text, or says in a few words why it cannot. It never repairs in silence,
never hands back something else in place of what was asked, and never lets another library's exception through. A
reader keeps no state between items, so one reader may be used by any number of threads.

Imports: floors 0–2 and numpy. Members import this file and the library that decodes, at the point of use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from headstart._base.constraints import validate
from headstart._base.registry import Family, check_fields
from headstart._base.typing import Array
from headstart.errors import HeadstartError, UnreadableItem

Item: TypeAlias = "os.PathLike[str] | str | bytes | bytearray | memoryview | Array | Clip"

READERS = Family(
    "readers",
    {
        "audio": "headstart.readers.audio:AudioReader",
        "image": "headstart.readers.image:ImageReader",
        "text": "headstart.readers.text:TextReader",
        "vector": "headstart.readers.array:ArrayReader",
    },
)


@runtime_checkable
class Reader(Protocol):
    """Items of one modality → arrays or texts.

    A reader is a frozen dataclass whose fields are its options; two readers with equal fields read alike. Laws, tested
    for every member: the same item gives the same bytes; a file and its content as ``bytes`` give the same; whatever
    is missing, empty, broken, of another kind or too large raises :class:`~headstart.UnreadableItem` and nothing else.
    """

    modality: ClassVar[str]

    def read(self, item: Item) -> Any:
        """Decode one item; raises UnreadableItem with a short reason."""

    def recipe(self) -> dict[str, Any]:
        """Return plain data that changes whenever the same item would be decoded to other values."""


@dataclass(frozen=True, eq=False)
class Clip:
    """A sound: one channel of float32 samples and their rate.

    Shapes: ``samples (n,)``. Units: full scale is ±1 (floating-point files may exceed it), ``sample_rate`` in Hz.
    """

    samples: Array
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.sample_rate

    @property
    def peak(self) -> float:
        """The largest magnitude of a sample."""
        if not len(self.samples):
            return 0.0
        return float(max(self.samples.max(), -self.samples.min()))

    @property
    def silent(self) -> bool:
        """True where nothing is above −80 dB of full scale. A silent clip is read, but worth reporting."""
        return self.peak < 1e-4

    def __repr__(self) -> str:
        return f"Clip({self.seconds:.3f} s at {self.sample_rate} Hz{', silent' if self.silent else ''})"


def reader(modality: str, **options: Any) -> Reader:
    """Return the reader of a modality, with its options checked.

    >>> reader("text").read("two words")
    'two words'

    Raises
    ------
    UnknownName
        No such modality, or an option that this reader has not.
    OptionError
        A value that an option does not allow.
    """
    kind = READERS[modality]
    check_fields(f"options of the {modality} reader", options, kind)
    instance: Reader = kind(**options)
    validate(instance)
    return instance


def item_label(item: object) -> object:
    """Name an item in an error: a path as it is, anything else in a few words."""
    if isinstance(item, os.PathLike):
        return item
    if isinstance(item, str):
        return item if len(item) <= 60 else item[:57] + "…"
    if isinstance(item, (bytes, bytearray, memoryview)):
        return f"{len(item):,} bytes"
    if isinstance(item, np.ndarray):
        return f"array {item.shape} {item.dtype}"
    return repr(item) if isinstance(item, Clip) else f"{type(item).__name__} object"


class Refused(Exception):
    """Raised inside :func:`refusing` with the very reason to give."""


@contextmanager
def translate_errors(item: object, reasons: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into UnreadableItem.

    Parameters
    ----------
    item : object
        What is being read.
    reasons : mapping of str to str, optional
        Fragments of the decoder's message (lower case) → the reason to give instead.
    """
    try:
        yield
    except HeadstartError:
        raise
    except Refused as error:
        raise UnreadableItem(item_label(item), str(error)) from error.__cause__
    except MemoryError as error:
        raise UnreadableItem(item_label(item), "too large for the memory there is") from error
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        matching = (reason for part, reason in (reasons or {}).items() if part in text.lower())
        raise UnreadableItem(item_label(item), next(matching, f"damaged ({text[:120]})")) from error


def unreadable(item: object, reason: str) -> UnreadableItem:
    """Return the error for an item, to be raised."""
    return UnreadableItem(item_label(item), reason)


def read_bytes(item: Item, *, max_bytes: int) -> bytes:
    """Return the bytes of a path or of a bytes-like item.

    Raises
    ------
    UnreadableItem
        Missing, a folder, a device or pipe, not permitted, empty, or larger than ``max_bytes``.
    """
    if isinstance(item, (bytes, bytearray, memoryview)):
        blob = bytes(item)
        if len(blob) > max_bytes:
            raise unreadable(item, f"too large: more than {max_bytes:,} bytes")
    elif isinstance(item, (str, os.PathLike)):
        size = regular_file_size(item, max_bytes=max_bytes)
        with translate_errors(item), open(item, "rb") as file:
            blob = file.read(size + 1)
        if len(blob) != size:
            raise unreadable(item, "changed while it was read")
    else:
        raise unreadable(item, "neither a path nor bytes")
    if not blob:
        raise unreadable(item, "empty file")
    return blob


def regular_file_size(path: os.PathLike[str] | str, *, max_bytes: int | None = None) -> int:
    """Return the size of a regular file; every other thing that a path can name is refused with its reason."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise unreadable(path, "no such file") from None
    except (OSError, ValueError) as error:
        raise unreadable(path, f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(status.st_mode):
        raise unreadable(path, "a folder, not a file")
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever, a device may never end
        raise unreadable(path, "a device or pipe, not a file")
    if not os.access(path, os.R_OK):
        raise unreadable(path, "no permission to read it")
    if max_bytes is not None and status.st_size > max_bytes:
        raise unreadable(path, f"too large: {status.st_size:,} bytes; at most {max_bytes:,} are read")
    return status.st_size


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"fLaC", "a FLAC audio file"),
    (b"OggS", "an OGG audio file"),
    (b"ID3", "an MP3 audio file"),
    (b"FORM", "an AIFF audio file"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xffO\xffQ", "a JPEG 2000 image"),
    *((f"P{digit}{end}".encode(), "a PPM image") for digit in "123456" for end in " \n"),
)
_BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"qt  ": "a QuickTime video",
    b"M4A ": "an M4A audio file",
}
_HEIC = frozenset((b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim", b"heis"))


def file_kind(blob: bytes) -> str:
    """Say what a file is by its first bytes, whatever its name says.

    >>> file_kind(b"<html><body>404 Not Found")
    'an HTML or XML page'
    """
    head = blob[:512]
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": "a WAV audio file", b"WEBP": "a WebP image", b"AVI ": "an AVI video"}.get(
            head[8:12], "a RIFF file"
        )
    if head[4:8] == b"ftyp":
        return "a HEIC photo" if head[8:12] in _HEIC else _BRANDS.get(head[8:12], "an MP4 video or audio file")
    for start, words in _SIGNATURES:
        if head.startswith(start):
            return words
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # frame sync, layer III
        return "an MP3 audio file"
    if not head.strip(b"\x00"):
        return "nothing but zeros"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return "an HTML or XML page"
    printable = sum(byte >= 32 or byte in (9, 10, 13) for byte in head)
    return "plain text" if b"\x00" not in head and printable == len(head) and _is_utf8(head) else "unknown bytes"


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # a character cut by the end of the head
    return True
