"""Texts decoded strictly: what cannot be read for certain is refused with the place where it goes wrong."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import UnreadableItem
from headstart.readers import reader
from headstart.readers.text import TextLength, TextReader

WORDS = "Grüße, 世界! 🙂\r\nsecond\tline"


def read(item, **options) -> str:
    return reader("text", **options).read(item)


def reason(item, **options) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read(item, **options)
    return caught.value.reason


# ---- files ---------------------------------------------------------------------------------------------------------


@given(text=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
def test_utf8_comes_back_as_it_was(text):
    """From a string, from bytes, with and without the mark; nothing is normalised or stripped."""
    if text.isspace():
        assert reason(text) == reason(text.encode()) == "empty text"
    else:
        assert read(text) == text
        without = text.removeprefix("\ufeff")
        assert read(text.encode()) == without
        assert read(codecs.BOM_UTF8 + text.encode()) == text or text.startswith("\ufeff")


@pytest.mark.parametrize(
    "mark, encoding",
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
    ids=["plain", "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"],
)
def test_marked_encodings(mark, encoding, tmp_path):
    blob = mark + WORDS.encode(encoding)
    (tmp_path / "a.txt").write_bytes(blob)
    assert read(tmp_path / "a.txt") == read(blob) == WORDS


@pytest.mark.parametrize(
    "blob, words",
    [
        ("café au lait".encode("latin-1"), "byte 0xe9 at offset 3"),
        ("日本語".encode("shift_jis"), "byte 0x93 at offset 0"),
        ("日本語".encode("gbk"), "at offset"),
        (b"ok so far \xff", "byte 0xff at offset 10"),
        (codecs.BOM_UTF8 + b"abc\xe9def", "byte 0xe9 at offset 6"),
    ],
    ids=range(5),
)
def test_other_encodings_are_refused_with_the_place(blob, words):
    message = reason(blob)
    assert words in message and "UTF-8" in message


def test_the_place_in_a_long_file():
    assert "offset 25,000" in reason(b"long " * 5000 + b"\xe9 and more")


def test_a_character_cut_at_the_end():
    blob = "ab世".encode()
    assert "ends inside a character at offset 2" in reason(blob[:-1])
    assert "ends inside a character" in reason(codecs.BOM_UTF16_LE + "ab".encode("utf-16-le")[:-1])


@pytest.mark.parametrize(
    "blob, words",
    [
        (WORDS.encode("utf-16-le"), "UTF-"),
        ("plain ascii".encode("utf-16-le"), "UTF-16 without its mark"),
        ("plain ascii".encode("utf-16-be"), "UTF-16 without its mark"),
        (b"text\0and more", "NUL at offset 4"),
        (codecs.BOM_UTF8 + b"text\0", "NUL at offset 7"),
        (codecs.BOM_UTF16_BE + "a\0b".encode("utf-16-be"), "NUL at offset 4"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a text (a PNG image)"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not a text (a JPEG image)"),
    ],
    ids=range(8),
)
def test_binary_files_are_no_texts(blob, words):
    assert words in reason(blob)


def test_a_text_that_begins_like_a_picture():
    """The first bytes of BMP, AIFF, PPM and ZIP files are letters, too."""
    for text in (
        "BM is short for",
        "FORM follows function",
        "P3 was first",
        "ID3 trees",
        "GIF8 my love",
        "PK, he said",
    ):
        assert read(text.encode()) == text


# ---- strings -------------------------------------------------------------------------------------------------------


def test_a_string_is_a_text_and_never_a_path(tmp_path):
    (tmp_path / "a.txt").write_text("inside")
    assert read(str(tmp_path / "a.txt")) == str(tmp_path / "a.txt")
    assert read(tmp_path / "a.txt") == "inside"


@pytest.mark.parametrize("text", ["", " ", "\n\t\r", "\u3000\u2003", "\0", "\0 \0"])
def test_empty_texts(text, tmp_path):
    assert reason(text) == "empty text"
    if text and "\0" not in text:
        (tmp_path / "blank.txt").write_bytes(text.encode())
        assert reason(tmp_path / "blank.txt") == "empty text"
    assert reason(codecs.BOM_UTF8) == "empty text"


@pytest.mark.parametrize(
    "text, want, repaired",
    [
        ("a\ud83d\ude42b", "a🙂b", 2),  # a pair, as some JSON decoders leave it
        ("a\ud83db", "a\ufffdb", 1),
        ("\ude42", "\ufffd", 1),
        ("\ude42\ud83d", "\ufffd\ufffd", 2),
        ("a\0b\0", "ab", 2),
        ("\0\ud83d\ude42", "🙂", 3),
        ("plain", "plain", 0),
    ],
)
def test_what_no_tokenizer_takes_is_repaired_and_counted(text, want, repaired):
    assert read(text) == want
    assert reader("text").length(text).repaired == repaired
    want.encode()  # would raise if a surrogate were left


@given(text=st.text(st.characters(), min_size=1))
def test_every_string_gives_clean_unicode_or_a_refusal(text):
    try:
        got = read(text)
    except UnreadableItem as error:
        assert error.reason == "empty text"
    else:
        got.encode("utf-8")
        assert "\0" not in got and read(got) == got


def test_a_megabyte_and_the_limit():
    text = "wörter und mehr " * 65536
    assert read(text) == text and read(text.encode()) == text
    assert "too large" in reason(text, max_bytes=1000)
    assert "too large" in reason(text.encode(), max_bytes=1000)
    assert read("x" * 1000, max_bytes=1000) == "x" * 1000


def test_the_limit_on_files(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"y" * 1001)
    assert "1,001 bytes; at most 1,000" in reason(tmp_path / "a.txt", max_bytes=1000)
    assert read(tmp_path / "a.txt", max_bytes=1001) == "y" * 1001


# ---- lengths -------------------------------------------------------------------------------------------------------


def test_lengths(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"three  short\nwords ")
    assert TextReader().length(tmp_path / "a.txt") == TextLength(characters=19, words=3, repaired=0)
    assert TextReader().length("世界") == TextLength(characters=2, words=1, repaired=0)
    with pytest.raises(UnreadableItem):
        TextReader().length("")


@given(words=st.lists(st.text("abcäö", min_size=1), min_size=1, max_size=30))
def test_words_are_runs_between_white_space(words):
    text = " ".join(words)
    assert TextReader().length(text) == TextLength(len(text), len(words), 0)


# ---- what an error calls a text ------------------------------------------------------------------------------------


def test_a_long_text_is_cut_in_the_message():
    with pytest.raises(UnreadableItem) as caught:
        read("word " * 300, max_bytes=10)
    assert len(str(caught.value.item)) <= 60 and len(str(caught.value)) < 200
