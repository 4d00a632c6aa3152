"""Texts: strings as they are, text files decoded strictly.

Files are UTF-8, with or without its mark (BOM); UTF-16 and UTF-32 are read when they carry theirs. Anything else is
refused with the place of the first wrong byte, never guessed: a wrong guess gives plausible garbage, and features of
it. Line ends and Unicode form are left alone.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from headstart._base.constraints import Interval
from headstart.readers.base import Item, Refused, file_kind, read_bytes, translate_errors, unreadable

REVISION = 1  # raise it when the same item would give another text
_MARKS = (  # the UTF-32 mark begins with the UTF-16 one: longest first
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATES = re.compile("[\ud800-\udfff]")
_TEXTUAL = frozenset(("plain text", "unknown bytes", "an HTML or XML page"))


@dataclass(frozen=True)
class TextLength:
    """Length of a text: the figures that reports on truncation are made of.

    ``words`` counts runs between white space; for scripts that write none between words it says little.
    """

    characters: int
    words: int
    repaired: int


@dataclass(frozen=True)
class TextReader:
    """Strings, text files or their bytes → strings.

    Parameters
    ----------
    max_bytes : int
        Larger files and texts are refused.

    Notes
    -----
    A ``str`` is a text, never a path; a path is a ``Path``. Two things that no tokenizer takes are repaired in
    strings, and counted by :meth:`length`: a pair of surrogates becomes the character it stands for, a lone one
    becomes U+FFFD; NUL characters are dropped. A *file* with NUL bytes is refused: it is binary, or UTF-16 unmarked.

    **Cost.** O(n) time and memory.

    Examples
    --------
    >>> TextReader().read(b"\\xef\\xbb\\xbfsch\\xc3\\xb6n")
    'schön'
    >>> TextReader().length("two  words")
    TextLength(characters=10, words=2, repaired=0)
    """

    modality: ClassVar[str] = "text"

    max_bytes: Annotated[int, Interval(1, None, integer=True)] = 64 << 20

    def read(self, item: Item) -> str:
        """Return the text of a string, of a path, or of a file's bytes."""
        if isinstance(item, str):
            text = _repaired(item)
            if len(text) > self.max_bytes:
                raise unreadable(item, f"too large: {len(text):,} characters; at most {self.max_bytes:,} are read")
        else:
            blob = read_bytes(item, max_bytes=self.max_bytes)
            with translate_errors(item):
                text = _decoded(blob)
        if not text or text.isspace():
            raise unreadable(item, "empty text")
        return text

    def length(self, item: Item) -> TextLength:
        """Characters, words, and characters repaired, of what :meth:`read` gives."""
        text = self.read(item)
        repaired = item.count("\0") + len(_SURROGATES.findall(item)) if isinstance(item, str) else 0
        return TextLength(len(text), len(text.split()), repaired)

    def recipe(self) -> dict[str, Any]:
        """Return plain data that changes whenever the text would."""
        return {"reader": "text", "revision": REVISION}


def _repaired(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "")
    if _SURROGATES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _decoded(blob: bytes) -> str:
    encoding, skip = next(((name, len(mark)) for mark, name in _MARKS if blob.startswith(mark)), ("utf-8", 0))
    try:
        text = blob[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        at, kind = skip + error.start, file_kind(blob)
        if kind not in _TEXTUAL:
            raise Refused(f"not a text ({kind})") from error
        cut = error.reason in ("unexpected end of data", "truncated data")
        wrong = "it ends inside a character" if cut else f"byte 0x{blob[at]:02x}"
        raise Refused(f"not {encoding.upper()}: {wrong} at offset {at:,}; save it as UTF-8") from error
    if "\0" in text:
        at = skip + len(text[: text.index("\0")].encode(encoding))
        raise Refused(f"not a text file: a NUL at offset {at:,} (binary, or UTF-16 without its mark?)")
    return text
