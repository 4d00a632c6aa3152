"""Arrays pass as they are; what is no array of finite numbers is refused, and nothing is ever unpickled."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headstart.errors import UnreadableItem
from headstart.readers import reader
from headstart.readers.base import file_kind, item_label


def saved(array, **options) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def read(item, **options) -> np.ndarray:
    return reader("vector", **options).read(item)


def reason(item, **options) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read(item, **options)
    return caught.value.reason


FINITE = {"allow_nan": False, "allow_infinity": False}
ARRAYS = st.sampled_from(["?", "u1", "i2", "<i4", ">i8", "f2", "<f4", ">f8"]).flatmap(
    lambda name: hnp.arrays(name, hnp.array_shapes(max_dims=4), elements=FINITE if "f" in name else None)
)


@given(array=ARRAYS, fortran=st.booleans())
def test_numbers_come_back_exactly(array, fortran):
    """From memory and from a file, in either memory order and byte order."""
    array = np.asfortranarray(array) if fortran else array
    for item in (array, saved(array)):
        got = read(item)
        assert np.array_equal(got, array) and got.shape == array.shape
        assert got.flags.c_contiguous and got.dtype == array.dtype.newbyteorder("=") and got.dtype.isnative


def test_a_contiguous_array_is_not_copied():
    array = np.arange(10.0)
    assert np.shares_memory(read(array), array)
    assert read(saved(array)).flags.writeable


@pytest.mark.parametrize("bad, words", [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_numbers_that_are_none(bad, words, dtype):
    array = np.ones((3, 4), dtype)
    array[1, 2] = bad
    assert words in reason(array) and words in reason(saved(array))


@pytest.mark.parametrize(
    "array, words",
    [
        (np.array(["a", "b"]), "not numbers"),
        (np.array([object()]), "not numbers"),
        (np.array([1 + 2j]), "not numbers"),
        (np.array(["2026-01-01"], "datetime64[D]"), "not numbers"),
        (np.zeros(3, [("x", "f4")]), "not numbers"),
        (np.array(3.0), "a row"),
        (np.zeros((0, 4)), "empty"),
    ],
    ids=range(7),
)
def test_arrays_that_are_no_rows(array, words):
    assert words in reason(array)


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    blob = saved(np.array([Bomb()], dtype=object), allow_pickle=True)
    assert "unpickled" in reason(blob)
    reason(pickle.dumps(Bomb()))
    assert not (tmp_path / "exploded").exists()


def test_a_header_that_promises_too_much_allocates_nothing():
    blob = saved(np.zeros(3))
    for shape in ("(9000000000000,)", "(-1,)", "(10**9,)", "(2, -3)", "(1, 4,)"):
        forged = blob.replace(b"(3,), }" + b" " * (len(shape) - 4), f"{shape}, }}".encode())
        assert forged != blob and len(forged) == len(blob)
        assert reason(forged)
    assert reason(blob[:-1]) == "truncated"


def test_other_files_are_named():
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    assert "ZIP" in reason(archive.getvalue())
    assert "plain text" in reason(b"1,2,3\n")


def test_the_limit():
    assert "too large" in reason(np.zeros(1000), max_bytes=7999)
    assert read(np.zeros(1000), max_bytes=8000).shape == (1000,)


# ---- the words for files, and for items ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head, words",
    [
        (b"\xff\xd8\xff\xe1", "a JPEG image"),
        (b"RIFF....WEBP", "a WebP image"),
        (b"RIFF....WAVE", "a WAV audio file"),
        (b"RIFF....XXXX", "a RIFF file"),
        (b"....ftypheic", "a HEIC photo"),
        (b"....ftypavif", "an AVIF image"),
        (b"....ftypisom", "an MP4 video or audio file"),
        (b"\xff\xfb\x90\x00", "an MP3 audio file"),
        (b"\xff\xfe\x41\x00", "unknown bytes"),
        (b"ID3\x04", "an MP3 audio file"),
        (bytes(10), "nothing but zeros"),
        (b"\xef\xbb\xbf  <?xml", "an HTML or XML page"),
        ("Grüße".encode(), "plain text"),
        (("a" * 511 + "ü").encode(), "plain text"),
        (b"caf\xe9 au lait", "unknown bytes"),
        (b"\x01\x02\x03", "unknown bytes"),
    ],
)
def test_what_a_file_is_by_its_first_bytes(head, words):
    assert file_kind(head) == words


@given(blob=st.binary(max_size=600))
def test_every_file_is_something(blob):
    assert file_kind(blob)


def test_labels_are_short(tmp_path):
    assert item_label(tmp_path) is tmp_path
    assert item_label("short") == "short" and len(item_label("x" * 1000)) <= 60
    assert item_label(bytes(1234)) == "1,234 bytes"
    assert item_label(np.zeros((2, 3), np.float32)) == "array (2, 3) float32"
    assert item_label(object()) == "object object"
