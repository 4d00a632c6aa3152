"""Images as a viewer shows them, from every kind of file; and every kind of broken file refused with its reason."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from headstart import readers
from headstart.errors import MissingPackage, OptionError, UnreadableItem
from headstart.readers import reader
from headstart.readers.image import ImageReader

ORIENTATION = 0x0112


def scene(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """A smooth colour picture with no symmetry."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image | None = None, **options) -> bytes:
    out = io.BytesIO()
    (scene() if image is None else image).save(out, kind, **options)
    return out.getvalue()


def read(blob, **options) -> np.ndarray:
    return reader("image", **options).read(blob)


def reason(blob, **options) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read(blob, **options)
    return caught.value.reason


def close(a: np.ndarray, b: np.ndarray, by: float) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    assert np.abs(a.astype(int) - b).mean() <= by


PIXELS = np.asarray(scene())

# ---- kinds of files ------------------------------------------------------------------------------------------------

EXACT = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "ppm": ("PPM", {}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "jpeg 2000": ("JPEG2000", {"irreversible": False}),
}
LOSSY = {
    "jpeg": ("JPEG", {"quality": 95}),
    "jpeg progressive": ("JPEG", {"quality": 95, "progressive": True}),
    "jpeg 4:4:4": ("JPEG", {"quality": 95, "subsampling": 0}),
    "webp": ("WEBP", {"quality": 95}),
    "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
    "gif": ("GIF", {}),
    "avif": ("AVIF", {"quality": 95}),
}


@pytest.mark.parametrize("name", EXACT)
def test_lossless_files_come_back_exactly(name):
    kind, options = EXACT[name]
    got = read(encoded(kind, **options))
    assert np.array_equal(got, PIXELS) and got.dtype == np.uint8 and got.flags.c_contiguous


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_files_come_back_nearly(name):
    kind, options = LOSSY[name]
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    close(read(encoded(kind, **options)), PIXELS, 8 if kind == "GIF" else 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (17, 33)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_small_and_odd_sizes(kind, shape):
    height, width = shape
    assert read(encoded(kind, scene(width, height))).shape == (height, width, 3)


def test_grey_palette_and_bilevel():
    grey = scene().convert("L")
    want = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    for kind in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(read(encoded(kind, grey)), want)
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE, colors=40)
    assert np.array_equal(read(encoded("PNG", palette)), np.asarray(palette.convert("RGB")))
    two = scene().convert("1")
    assert np.array_equal(read(encoded("PNG", two)), np.asarray(two.convert("RGB")))
    assert set(np.unique(read(encoded("PNG", two)))) == {0, 255}


def test_one_channel():
    for kind in ("PNG", "JPEG", "WEBP"):
        got = read(encoded(kind), mode="L")
        assert got.shape == (90, 120, 1)
        close(got, np.asarray(scene().convert("L"))[..., None], 2)
    assert np.array_equal(read(encoded("PNG"), mode="L")[..., 0], np.asarray(scene().convert("L")))
    assert read(np.zeros((4, 5, 3), np.uint8), mode="L").shape == (4, 5, 1)


# ---- transparency --------------------------------------------------------------------------------------------------


def see_through() -> Image.Image:
    image = scene().convert("RGBA")
    alpha = np.zeros((90, 120), np.uint8)
    alpha[:, 40:80], alpha[:, 80:] = 128, 255
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_laid_on_white(kind):
    got = read(encoded(kind, see_through(), **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert (got[:, :40] == 255).all()
    close(got[:, 40:80], ((PIXELS[:, 40:80].astype(int) * 128 + 255 * 127) / 255).astype(np.uint8), 1)
    assert np.array_equal(got[:, 80:], PIXELS[:, 80:])


def test_grey_with_alpha():
    image = see_through().convert("LA")
    got = read(encoded("PNG", image))
    assert (got[:, :40] == 255).all()
    assert np.array_equal(got[:, 80:, 0], np.asarray(image.getchannel("L"))[:, 80:])


def test_transparent_palette_entry_and_colour_key():
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    for kind in ("PNG", "GIF"):
        blob = encoded(kind, palette, transparency=3)
        clear = np.asarray(palette) == 3
        assert clear.any()
        got = read(blob)
        assert (got[clear] == 255).all()
        assert np.array_equal(got[~clear], np.asarray(palette.convert("RGB"))[~clear])
    key = tuple(int(v) for v in PIXELS[10, 20])
    got = read(encoded("PNG", transparency=key))
    where = (key == PIXELS).all(axis=2)
    assert (got[where] == 255).all() and np.array_equal(got[~where], PIXELS[~where])


# ---- deep pixels ---------------------------------------------------------------------------------------------------


def test_sixteen_bits_keep_the_high_byte():
    """A clip to 255 – the usual mistake – would be white nearly everywhere."""
    deep = PIXELS[..., 0].astype(np.uint16) * 257
    for kind in ("PNG", "TIFF"):
        got = read(encoded(kind, Image.fromarray(deep)))
        assert np.array_equal(got, np.repeat(PIXELS[..., :1], 3, axis=2)), kind
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(read(encoded("PNG", Image.fromarray(ramp)))[..., 0], (ramp >> 8).astype(np.uint8))
    assert np.array_equal(read(ramp)[..., 0], (ramp >> 8).astype(np.uint8))


def test_sixteen_bit_colour():
    deep = (PIXELS.astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    assert np.array_equal(read(png(120, 90, 16, 2, rows)), PIXELS)


def deep_tiff(order: str, white: int) -> bytes:
    """PIXELS' red channel as a 16-bit grey TIFF; ``white`` is 1 where large values are bright, else 0."""
    grey = (PIXELS[..., 0].astype(np.uint16) * 257).astype(order + "u2")
    tags = [(256, 3, 120), (257, 3, 90), (258, 3, 16), (259, 3, 1), (262, 3, white), (273, 4, 110), (278, 3, 90)]
    entries = b"".join(
        struct.pack(order + ("HHIHxx" if kind == 3 else "HHII"), tag, kind, 1, value)
        for tag, kind, value in [*tags, (279, 4, grey.nbytes)]
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 8)
    return head + entries + bytes(4) + grey.tobytes()


def test_sixteen_bit_tiff_in_either_byte_order_and_sense():
    for order in "<>":
        assert np.array_equal(read(deep_tiff(order, 1))[..., 0], PIXELS[..., 0])
    assert np.array_equal(read(deep_tiff("<", 0))[..., 0], 255 - PIXELS[..., 0])
    assert "Pillow cannot read" in reason(deep_tiff(">", 0))


def test_floating_point_pixels_only_with_a_known_white():
    unit = (PIXELS[..., 0] / np.float32(255)).astype(np.float32)
    assert np.array_equal(read(encoded("TIFF", Image.fromarray(unit)))[..., 0], PIXELS[..., 0])
    for wrong in (unit * 200, unit - 0.5, np.where(unit > 0.5, np.nan, unit)):
        assert "agreed white" in reason(encoded("TIFF", Image.fromarray(wrong.astype(np.float32))))
    assert "agreed white" in reason(encoded("TIFF", Image.fromarray(PIXELS[..., 0].astype(np.int32))))


# ---- CMYK ----------------------------------------------------------------------------------------------------------


def test_cmyk():
    """Photoshop stores CMYK JPEGs inverted; TIFFs are not. Both must look like the picture, not like its negative."""
    ink = scene().convert("CMYK")
    close(read(encoded("TIFF", ink)), np.asarray(ink.convert("RGB")), 0)
    blob = encoded("JPEG", ink, quality=95)
    assert b"Adobe" in blob
    close(read(blob), PIXELS, 4)
    close(read(blob, size_hint=(40, 50)), np.asarray(scene().reduce(2)), 6)


def test_an_rgb_jpeg_without_colour_transform(monkeypatch):
    """An Adobe marker may say that the channels are RGB as they stand."""
    blob = encoded("JPEG", quality=95, keep_rgb=True)
    assert b"Adobe" in blob or blob.count(b"R\x11\x00") >= 0
    for decoder in ("auto", "pillow"):
        close(read(blob, decoder=decoder), PIXELS, 3)


# ---- orientation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_every_orientation(turn, kind, decoder):
    if decoder == "simplejpeg":
        pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[kind]
    blob = encoded(kind, exif=exif, **options)
    want = scene()
    want.getexif()[ORIENTATION] = turn
    want = np.asarray(ImageOps.exif_transpose(want))
    assert want.shape[:2] == ((120, 90) if turn >= 5 else (90, 120))
    got = read(blob, decoder=decoder)
    close(got, want, 1 if kind == "JPEG" else 0)
    assert got.flags.c_contiguous


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_either_byte_order(order):
    blob = with_segment(0xE1, b"Exif\0\0" + tiff_block(order, [(0x010F, 2, 5), (ORIENTATION, 3, 6)]))
    assert read(blob).shape == (120, 90, 3)


def test_orientation_in_xmp():
    for written in (b'<x tiff:Orientation="6"/>', b"<tiff:Orientation>6</tiff:Orientation>"):
        blob = with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + written)
        assert read(blob).shape == (120, 90, 3)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II*\0",
        b"XX*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08",
    ],
    ids=range(6),
)
def test_a_damaged_exif_block_does_not_cost_the_picture(block):
    blob = with_segment(0xE1, b"Exif\0\0" + block)
    assert np.array_equal(read(blob), read(encoded("JPEG")))


@pytest.mark.parametrize("turn", [0, 9, 300])
def test_an_orientation_that_does_not_exist(turn):
    blob = with_segment(0xE1, b"Exif\0\0" + tiff_block("<", [(ORIENTATION, 3, turn)]))
    assert read(blob).shape == (90, 120, 3)


@given(turn=st.integers(1, 8), noise=st.binary(max_size=60), order=st.sampled_from("<>"))
def test_fast_exif_agrees_with_pillow(turn, noise, order):
    """Our look at the markers and Pillow's full parser give the same picture, other tags around it or not."""
    entries = [(0x8000 + i, 1, byte) for i, byte in enumerate(noise)]
    blob = with_segment(0xE1, b"Exif\0\0" + tiff_block(order, sorted([*entries, (ORIENTATION, 3, turn)])))
    with Image.open(io.BytesIO(blob)) as image:
        want = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read(blob), want)


# ---- JPEG: two decoders, reduced scale -----------------------------------------------------------------------------


@settings(max_examples=120)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    seed=st.integers(0, 5),
    options=st.fixed_dictionaries(
        {"subsampling": st.integers(0, 2), "progressive": st.booleans(), "quality": st.sampled_from([30, 75, 95])}
    ),
    grey=st.booleans(),
    mode=st.sampled_from(["RGB", "L"]),
    hint=st.none() | st.tuples(st.integers(1, 80), st.integers(1, 80)),
    turn=st.integers(1, 8),
)
def test_both_decoders_give_the_same_pixels(width, height, seed, options, grey, mode, hint, turn):
    """To the last bit and at every scale, so that features do not depend on an optional package."""
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    image = scene(width, height, seed)
    blob = encoded("JPEG", image.convert("L") if grey else image, exif=exif, **options)
    fast, plain = (read(blob, decoder=d, mode=mode, size_hint=hint) for d in ("simplejpeg", "pillow"))
    assert np.array_equal(fast, plain)
    shape = (height, width) if turn < 5 else (width, height)
    if hint is None:
        assert fast.shape[:2] == shape
    else:
        scales = [s for s in (1, 2, 4, 8) if all(side >= s and -(-side // s) >= h for side, h in zip(shape, hint))]
        assert fast.shape[:2] == tuple(-(-side // max(scales, default=1)) for side in shape)


def test_real_photos_do_not_depend_on_the_decoder(shared):
    pytest.importorskip("simplejpeg")
    photos = (
        sorted((shared / "images/trashnet").glob("*/*.jpg"))[::60]
        + sorted((shared / "images/sign_digits").glob("*/*.*"))[::200]
    )
    assert len(photos) > 10
    for photo in photos:
        for hint in (None, (100, 100), (40, 40)):
            fast, plain = (read(photo, decoder=d, size_hint=hint) for d in ("simplejpeg", "pillow"))
            assert np.array_equal(fast, plain), photo
            assert hint is None or min(fast.shape[:2]) >= min(100, *hint)


def test_the_hint_is_never_undercut_and_saves_work():
    blob = encoded("JPEG", scene(800, 600), quality=95)
    shapes = {
        hint: read(blob, size_hint=hint).shape[:2] for hint in ((600, 800), (301, 10), (300, 400), (150, 200), (1, 1))
    }
    assert shapes == {
        (600, 800): (600, 800),
        (301, 10): (600, 800),
        (300, 400): (300, 400),
        (150, 200): (150, 200),
        (1, 1): (75, 100),
    }
    assert read(blob, size_hint=(2000, 2000)).shape == (600, 800, 3), "never enlarged"
    half = np.asarray(Image.fromarray(read(blob)).reduce(2))
    close(read(blob, size_hint=(300, 400)), half, 1)


def test_the_hint_counts_upright():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    blob = encoded("JPEG", scene(800, 400), exif=exif)
    assert read(blob, size_hint=(400, 200)).shape == (400, 200, 3)
    assert read(blob, size_hint=(200, 400)).shape == (800, 400, 3)


def test_other_formats_ignore_the_hint():
    assert read(encoded("PNG"), size_hint=(10, 10)).shape == (90, 120, 3)
    with pytest.raises(OptionError, match="height, width"):
        read(encoded("JPEG"), size_hint=(10, 10, 10))


def test_without_simplejpeg(monkeypatch):
    from headstart._base import extras
    from headstart.readers import image as _jpeg

    want = read(encoded("JPEG"))
    monkeypatch.setattr(_jpeg, "is_installed", lambda module: False)
    assert np.array_equal(read(encoded("JPEG")), want)
    monkeypatch.setattr(extras, "is_installed", lambda module: False)
    with pytest.raises(MissingPackage, match="pip install"):
        read(encoded("JPEG"), decoder="simplejpeg")


# ---- first frame ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [scene(seed=seed) for seed in range(3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    blob = encoded(kind, frames[0], save_all=True, append_images=frames[1:], **options)
    close(read(blob), np.asarray(frames[0]), 8 if kind == "GIF" else 0)
    assert np.abs(read(blob).astype(int) - np.asarray(frames[1])).mean() > 20


def test_several_pictures_in_one_jpeg():
    """MPO, as 3-D cameras and some phones write it: the first one counts."""
    blob = encoded("MPO", scene(), save_all=True, append_images=[scene(60, 40, seed=1)], quality=95)
    close(read(blob), PIXELS, 3)
    close(read(encoded("JPEG", quality=95) + b"anything after the end"), PIXELS, 3)


# ---- broken files --------------------------------------------------------------------------------------------------


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_block(order: str, entries: list[tuple[int, int, int]]) -> bytes:
    """The inside of an EXIF segment: tags with their type (3 short, else one byte) and value."""
    body = b"".join(
        struct.pack(order + ("HHIHxx" if kind == 3 else "HHIBxxx"), tag, kind, 1, value) for tag, kind, value in entries
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def with_segment(marker: int, body: bytes) -> bytes:
    blob = encoded("JPEG")
    return blob[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + blob[2:]


def huge(kind: str) -> bytes:
    """A small file whose header promises 60 000 × 60 000 pixels (WebP: 16 383², its most)."""
    if kind == "JPEG":
        blob = bytearray(encoded("JPEG"))
        at = blob.index(b"\xff\xc0")
        blob[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
        return bytes(blob)
    if kind == "PNG":
        return png(60000, 60000, 8, 2, bytes(1000))
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0) + b"," + struct.pack(
            "<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x02\x4c\x01\x00;"  # fmt: skip
    if kind == "BMP":
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack(
            "<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)  # fmt: skip
    if kind == "TIFF":
        tags = [(256, 60000), (257, 60000), (258, 8), (259, 1), (262, 1), (273, 8), (278, 60000), (279, 9)]
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)  # fmt: skip
    canvas = struct.pack("<I", 16382)[:3] * 2
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + encoded("WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


JPEG, PNG, GIF, WEBP, TIFF, BMP = (encoded(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"))
BROKEN = {
    "empty": (b"", "empty file"),
    "one byte": (b"\xff", "not an image"),
    "jpeg: 20 bytes": (JPEG[:20], "truncated"),
    "jpeg: the start only": (JPEG[:3], "truncated"),
    "jpeg: a third": (JPEG[: len(JPEG) // 3], "truncated"),
    "jpeg: the last 2000 bytes missing": (encoded("JPEG", quality=100)[:-2000], "truncated"),
    "jpeg: the last byte missing": (JPEG[:-1], "truncated"),
    "jpeg: the end overwritten by zeros": (JPEG[:-500] + bytes(500), "truncated"),
    "jpeg: no picture": (b"\xff\xd8\xff\xd9" + bytes(30), "without an image"),
    "jpeg: marker missing": (JPEG[:2] + b"\xff\xe0\x00\x04ab" + b"garbage" + JPEG[20:], "marker"),
    "jpeg: size 0": (JPEG.replace(struct.pack(">HH", 90, 120), bytes(4)), "size is 0"),
    "text": (b"not a picture", "not an image (plain text)"),
    "html": (b"<!DOCTYPE html><html>404</html>", "not an image (an HTML or XML page)"),
    "html with a mark": (b"\xef\xbb\xbf\n <html>", "not an image (an HTML or XML page)"),
    "svg": (b"<?xml version='1.0'?><svg/>", "not an image (an HTML or XML page)"),
    "zeros": (bytes(4096), "not an image (nothing but zeros)"),
    "noise": (np.random.default_rng(0).bytes(3000), "not an image (unknown bytes)"),
    "pdf": (b"%PDF-1.7\n%abc", "not an image (a PDF document)"),
    "zip": (b"PK\x03\x04" + bytes(100), "not an image (a ZIP archive or office document)"),
    "video": (b"\x00\x00\x00\x18ftypmp42" + bytes(2000), "not an image (an MP4 video or audio file)"),
    "sound": (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not an image (a WAV audio file)"),
    "heic": (b"\x00\x00\x00\x18ftypheic" + bytes(2000), "convert it to JPEG"),
    "jpeg xl": (b"\xff\x0a" + bytes(100), "convert it to JPEG"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image (plain text)"),
    "png: a third": (PNG[: len(PNG) // 3], "truncated"),
    "png: 20 bytes": (PNG[:20], "truncated"),
    "png: the end mark missing": (PNG[:-12], "truncated"),
    "png: the last byte missing": (PNG[:-1], "truncated"),
    "png: a wrong checksum": (PNG[:45] + bytes((PNG[45] ^ 1,)) + PNG[46:], "checksum"),
    "png: half zeros": (PNG[: len(PNG) // 2] + bytes(len(PNG) // 2), "checksum"),
    "png: nothing compressed": (png(9, 9, 8, 2, b""), "truncated"),
    "png: size 0": (png(0, 0, 8, 2, b""), "damaged"),
    "gif: the head only": (b"GIF89a\x01\x00", "damaged or of a kind"),
    "gif: a third": (GIF[: len(GIF) // 3], "truncated"),
    "gif: half zeros": (GIF[: len(GIF) // 2] + bytes(len(GIF) // 2), "truncated"),
    "webp: the head only": (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "truncated"),
    "webp: a third": (WEBP[: len(WEBP) // 3], "truncated"),
    "webp: the last byte missing": (WEBP[:-1], "truncated"),
    "tiff: no directory": (b"II*\x00\xff\xff\xff\xff", "damaged or of a kind"),
    "tiff: a third": (TIFF[: len(TIFF) // 3], "truncated"),
    "tiff: the last byte missing": (TIFF[:-1], "truncated"),
    "tiff lzw: a third": (encoded("TIFF", compression="tiff_lzw")[:6000], "damaged or of a kind"),
    "bmp: a third": (BMP[: len(BMP) // 3], "truncated"),
    "bmp: the last byte missing": (BMP[:-1], "truncated"),
    "ppm: the last byte missing": (encoded("PPM")[:-1], "truncated"),
    "jpeg 2000: a third": (encoded("JPEG2000")[:3000], "damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_a_reason(name, tmp_path):
    blob, words = BROKEN[name]
    path = tmp_path / f"{name.replace(':', '').replace('/', '')}.jpg"
    path.write_bytes(blob)
    assert words in reason(path)
    assert reason(path) == reason(blob)


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
@given(cut=st.integers(1, 3000))
def test_a_jpeg_cut_anywhere_is_refused(decoder, cut):
    """Never a picture with a grey rest: also when only the end mark is missing."""
    if decoder == "simplejpeg":
        pytest.importorskip("simplejpeg")
    blob = encoded("JPEG", quality=98)
    assert len(blob) > 3000
    assert "truncated" in reason(blob[:-cut], decoder=decoder)
    assert "truncated" in reason(blob[:-cut], decoder=decoder, size_hint=(20, 20))


def test_a_cut_jpeg_that_was_closed_again():
    """Only libjpeg's warning tells; without simplejpeg this one passes (said in the module's docstring)."""
    pytest.importorskip("simplejpeg")
    assert "truncated" in reason(JPEG[: len(JPEG) // 2] + b"\xff\xd9")


def test_zero_padding_before_the_end_mark_is_no_damage():
    pytest.importorskip("simplejpeg")
    assert np.array_equal(read(JPEG[:-2] + bytes(100) + b"\xff\xd9"), read(JPEG))
    assert "left" in reason(JPEG[:-2] + b"\x55\xaa" * 60 + b"\xff\xd9") or "extraneous" in reason(
        JPEG[:-2] + b"\x55\xaa" * 60 + b"\xff\xd9"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_bomb_is_refused_before_anything_is_allocated(kind):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "too large" in reason(huge(kind))
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_limit_on_pixels_is_an_option(kind):
    blob = encoded(kind)
    assert read(blob, max_pixels=90 * 120).shape == (90, 120, 3)
    message = reason(blob, max_pixels=90 * 120 - 1)
    assert "120 × 90 pixels" in message and "10,799" in message and "max_pixels" in message


def test_a_jpeg_of_endless_passes_is_refused():
    """Scans cost a few bytes each and a pass over every pixel."""
    blob = encoded("JPEG", scene(1000, 1000), progressive=True)
    scan = blob[blob.rindex(b"\xff\xda") : -2]
    assert "passes" in reason(blob[:-2] + scan * 5000 + b"\xff\xd9", max_pixels=2_000_000)


# ---- arrays --------------------------------------------------------------------------------------------------------


def test_arrays():
    assert read(PIXELS) is PIXELS or np.array_equal(read(PIXELS), PIXELS)
    grey = PIXELS[..., 0]
    assert np.array_equal(read(grey), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read(grey[..., None]), read(grey))
    assert np.array_equal(read(grey > 100), np.where(grey > 100, 255, 0).astype(np.uint8)[..., None].repeat(3, 2))
    clear = np.dstack((PIXELS, np.zeros_like(grey)))
    assert (read(clear) == 255).all()
    assert read(PIXELS[::2, ::-1]).flags.c_contiguous


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5, 3)),
        np.zeros((4, 5, 3), np.int32),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros(7, np.uint8),
        np.zeros((2, 3, 4, 3), np.uint8),
        np.array(["a"]),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(UnreadableItem, match=r"array \("):
        read(array)


# ---- threads and noise ---------------------------------------------------------------------------------------------


def test_many_threads_many_formats():
    blobs = [encoded(kind, scene(seed=seed)) for seed in range(4) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]
    bad = [JPEG[:300], PNG[:-4], b"", b"text"]
    result = ImageReader()

    def outcome(blob):
        try:
            return result.read(blob).tobytes()
        except UnreadableItem as error:
            return error.reason

    want = [outcome(blob) for blob in blobs + bad]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, (blobs + bad) * 6)) == want * 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000"])
@pytest.mark.timeout(240)
@settings(max_examples=120)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
    front=st.booleans(),
)
def test_flipped_bytes_give_pixels_or_a_refusal(kind, flips, front):
    """Anywhere, or among the first 100 bytes, where the headers are; the limit bounds the sizes that come out."""
    blob = bytearray(FLIPPED[kind])
    for position, mask in flips:
        blob[int(position * (min(100, len(blob)) if front else len(blob)))] ^= mask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata
        for options in ({}, {"mode": "L"}, {"decoder": "pillow", "size_hint": (10, 10)}):
            try:
                got = read(bytes(blob), max_pixels=1_000_000, **options)
            except UnreadableItem as error:
                assert 3 < len(error.reason) < 200
            else:
                assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == (1 if "mode" in options else 3)
                assert 0 < got.size <= 3_000_000 and got.flags.c_contiguous


FLIPPED = {kind: encoded(kind, scene(40, 30)) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000")}


def test_the_accepted_kinds_are_those_that_pillow_knows():
    """A misspelt plugin name would refuse every file of its kind."""
    from headstart.readers.image import _PLUGINS

    Image.init()
    for names in _PLUGINS.values():
        assert set(names) <= set(Image.OPEN) or (names == ("AVIF",) and not features.check("avif"))
    assert "EPS" not in str(_PLUGINS), "Pillow would start Ghostscript"


def test_a_folder_of_photos_with_wrong_names(tmp_path):
    for name, kind in {"a.jpg": "PNG", "b.png": "JPEG", "c.gif": "WEBP", "d": "BMP", "e.txt": "GIF"}.items():
        (tmp_path / name).write_bytes(encoded(kind))
        assert read(tmp_path / name).shape == (90, 120, 3)
    assert isinstance(readers.READERS["image"](), ImageReader)
    assert Path(tmp_path / "a.jpg").exists()
