"""Sounds of every kind come out as one channel of float32, at the rate asked for, whole or not at all."""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from headstart.errors import MissingPackage, OptionError, UnreadableItem
from headstart.readers import Clip, reader
from headstart.readers import audio as module
from headstart.readers.audio import _ogg_checksum, resample

soundfile = pytest.importorskip("soundfile", reason="pip install headstart[audio]")


def tone(seconds: float = 1.0, rate: int = 16000, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """(n,) or (n, channels) float64, each channel a little quieter than the one before."""
    n = round(seconds * rate)
    sound = 0.5 * np.sin(2 * np.pi * hertz * np.arange(n) / rate) * np.linspace(0.2, 1, n)
    return sound if channels == 1 else np.stack([sound * 0.7**c for c in range(channels)], axis=1)


def encoded(samples: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def read(item, **options) -> Clip:
    return reader("audio", **options).read(item)


def reason(item, **options) -> str:
    with pytest.raises(UnreadableItem) as caught:
        read(item, **options)
    return caught.value.reason


# ---- kinds of files ------------------------------------------------------------------------------------------------

KINDS = {  # kind, subtype → largest error against the samples written
    ("WAV", "PCM_U8"): 2**-7,
    ("WAV", "PCM_16"): 2**-15,
    ("WAV", "PCM_24"): 2**-23,
    ("WAV", "PCM_32"): 2**-23,
    ("WAV", "FLOAT"): 2**-24,
    ("WAV", "DOUBLE"): 2**-24,
    ("WAV", "ULAW"): 0.02,
    ("WAVEX", "PCM_16"): 2**-15,
    ("RF64", "PCM_16"): 2**-15,
    ("AIFF", "PCM_16"): 2**-15,
    ("AIFF", "PCM_24"): 2**-23,
    ("FLAC", "PCM_16"): 2**-15,
    ("FLAC", "PCM_24"): 2**-23,
    ("OGG", "VORBIS"): 0.1,
    ("OGG", "OPUS"): None,
    ("MP3", "MPEG_LAYER_III"): 0.1,
    ("CAF", "PCM_16"): 2**-15,
    ("AU", "PCM_16"): 2**-15,
    ("W64", "PCM_16"): 2**-15,
}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_kind(kind, channels):
    samples = tone(channels=channels)
    clip = read(encoded(samples, 16000, *kind))
    want = samples if channels == 1 else samples.mean(axis=1)
    assert clip.sample_rate == 16000 and clip.samples.dtype == np.float32 and clip.samples.shape == (16000,)
    if "OPUS" in kind:  # keeps the sound, not the wave
        assert math.isclose(clip.samples.std(), want.std(), rel_tol=0.1)
    else:
        assert np.abs(clip.samples - want).max() <= KINDS[kind] * 1.01
    assert clip.samples.flags.c_contiguous and not clip.silent and math.isclose(clip.seconds, 1.0)


def test_against_the_standard_library():
    """An independent decoder of 16-bit WAV: Python's own."""
    blob = encoded(tone(channels=2), subtype="PCM_16")
    with wave.open(io.BytesIO(blob)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    want = (raw / np.float32(32768)).astype(np.float32).mean(axis=1, dtype=np.float32)
    assert np.array_equal(read(blob).samples, want)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_the_rate_of_the_file_unless_asked(rate):
    blob = encoded(tone(0.2, rate), rate)
    assert read(blob).sample_rate == rate
    clip = read(blob, sample_rate=16000)
    assert clip.sample_rate == 16000 and len(clip.samples) == math.ceil(round(0.2 * rate) * 16000 / rate)


def test_loudness_is_left_alone():
    loud = tone() * 40
    assert math.isclose(read(encoded(loud, subtype="FLOAT")).peak, np.abs(loud).max(), rel_tol=1e-6)
    quiet = tone() * 1e-3
    assert math.isclose(read(encoded(quiet, subtype="FLOAT")).peak, np.abs(quiet).max(), rel_tol=1e-6)


def test_channels_are_averaged():
    left = tone()
    for right, want in ((left, left), (np.zeros_like(left), left / 2), (-left, np.zeros_like(left))):
        clip = read(encoded(np.stack((left, right), 1), subtype="DOUBLE"))
        assert np.abs(clip.samples - want).max() < 1e-7
    assert clip.silent
    n_items = np.repeat(tone(0.1)[:, None], 12, axis=1)
    assert np.abs(read(encoded(n_items, subtype="FLOAT")).samples - n_items[:, 0]).max() < 1e-6


def test_real_clips_against_soundfile(shared):
    for path in (
        sorted((shared / "audio/esc10").glob("*/*.ogg"))[::40] + sorted((shared / "audio/fsdd").glob("*.wav"))[:3]
    ):
        want, rate = soundfile.read(path, dtype="float32", always_2d=True)
        clip = read(path)
        assert clip.sample_rate == rate and np.array_equal(clip.samples, want.mean(axis=1, dtype=np.float32))


# ---- the clip ------------------------------------------------------------------------------------------------------


def test_silence_is_read_and_reported():
    clip = read(encoded(np.zeros(8000)))
    assert clip.silent and clip.peak == 0 and len(clip.samples) == 8000 and "silent" in repr(clip)
    assert read(encoded(np.full(8000, 5e-5), subtype="FLOAT")).silent
    audible = read(encoded(np.full(8000, -2e-4), subtype="FLOAT"))
    assert not audible.silent and "silent" not in repr(audible)
    assert Clip(np.empty(0, np.float32), 16000).silent


@pytest.mark.parametrize(
    "bad, words", [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (1e300, "infinite")]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_numbers_that_are_none(bad, words, channels):
    samples = tone(channels=channels)
    samples[(7000,) + (channels - 1,) * (channels > 1)] = bad
    blob = encoded(samples, subtype="DOUBLE")
    assert words in reason(blob)
    assert words in reason(blob, sample_rate=8000)


def test_values_too_large_to_resample():
    assert "too large" in reason(encoded(np.full(8000, 3.3e38), 44100, subtype="DOUBLE"), sample_rate=16000)


def test_a_clip_is_an_item_too():
    clip = Clip(tone().astype(np.float32), 16000)
    assert np.array_equal(read(clip).samples, clip.samples)
    down = read(clip, sample_rate=8000)
    assert down.sample_rate == 8000 and np.array_equal(down.samples, resample_poly(clip.samples, 1, 2))
    assert reason(Clip(np.empty(0, np.float32), 16000)) == "no samples"
    assert "NaN" in reason(Clip(np.array([0, np.nan], np.float32), 16000))
    assert "(n,)" in reason(Clip(np.zeros((2, 100), np.float32), 16000))
    assert "sample rate" in reason(np.zeros(100, np.float32))


# ---- the sample rate -----------------------------------------------------------------------------------------------

RATES = [(44100, 16000), (48000, 16000), (22050, 16000), (11025, 16000), (8000, 16000), (16000, 44100), (16001, 16000)]


@pytest.mark.parametrize("source, target", RATES)
def test_scipy_is_exactly_resample_poly(source, target):
    """Bit for bit, although it works in blocks."""
    samples = np.random.default_rng(0).normal(size=source * 2).astype(np.float32) * np.float32(0.1)
    common = math.gcd(source, target)
    want = resample_poly(samples, target // common, source // common)
    got = read(Clip(samples, source), sample_rate=target)
    assert got.samples.dtype == np.float32 and np.array_equal(got.samples, want)


@pytest.mark.parametrize("source, target", RATES)
def test_soxr_is_exactly_soxr(source, target):
    soxr = pytest.importorskip("soxr")
    samples = np.random.default_rng(0).normal(size=source * 2).astype(np.float32) * np.float32(0.1)
    got = read(Clip(samples, source), sample_rate=target, resampler="soxr")
    assert np.array_equal(got.samples, soxr.resample(samples, source, target))


@settings(max_examples=80)
@given(
    cuts=st.lists(st.integers(1, 4000), min_size=1, max_size=12),
    rates=st.sampled_from([*RATES, (44100, 8000), (32000, 16000), (16000, 15999)]),
    method=st.sampled_from(["scipy", "soxr"]),
)
def test_where_blocks_are_cut_changes_nothing(cuts, rates, method):
    if method == "soxr":
        pytest.importorskip("soxr")
    samples = np.random.default_rng(sum(cuts)).normal(size=sum(cuts)).astype(np.float32)
    blocks = np.split(samples, np.cumsum(cuts)[:-1])
    full = np.concatenate(list(resample([samples], *rates, method=method)))
    parts = np.concatenate(list(resample(iter(blocks), *rates, method=method)))
    assert np.array_equal(parts, full)
    assert abs(len(full) - len(samples) * rates[1] / rates[0]) <= 1


@pytest.mark.parametrize("method, limit", [("scipy", -45), ("soxr", -100)])
def test_a_tone_stays_and_what_is_too_high_goes(method, limit):
    """1 kHz passes with its loudness; 12 kHz does not come back as another tone. (Nearer the edge soxr is better.)"""
    if method == "soxr":
        pytest.importorskip("soxr")
    remaining = read(Clip(tone(1, 44100, hertz=1000).astype(np.float32), 44100), sample_rate=16000, resampler=method)
    want = tone(1, 16000, hertz=1000)
    assert np.abs(remaining.samples - want)[200:-200].max() < 2e-3
    gone = read(Clip(tone(1, 44100, hertz=12000).astype(np.float32), 44100), sample_rate=16000, resampler=method)
    assert 20 * np.log10(gone.samples[500:-500].std() / want.std()) < limit


# ---- blocks --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seconds=st.floats(0.01, 3), length=st.floats(0.05, 2), rate=st.sampled_from([None, 8000, 16000]), kind=st.booleans()
)
def test_blocks_are_the_whole_clip(seconds, length, rate, kind):
    blob = encoded(tone(length, 22050, 2), 22050, "FLAC" if kind else "OGG")
    result = reader("audio", sample_rate=rate)
    clips = list(result.blocks(blob, seconds=seconds))
    full = result.read(blob)
    assert np.array_equal(np.concatenate([clip.samples for clip in clips]), full.samples)
    size = max(1, round(seconds * full.sample_rate))
    assert [len(clip.samples) for clip in clips[:-1]] == [size] * (len(clips) - 1)
    assert 0 < len(clips[-1].samples) <= size
    assert {clip.sample_rate for clip in clips} == {full.sample_rate}


def test_there_is_no_empty_last_block():
    clip = Clip(tone().astype(np.float32), 16000)
    for seconds, lengths in ((0.25, [4000] * 4), (1.0, [16000]), (0.6, [9600, 6400])):
        assert [len(part.samples) for part in reader("audio").blocks(clip, seconds=seconds)] == lengths


def test_small_decoding_blocks_change_nothing(monkeypatch):
    blob = encoded(tone(2, 44100, 2), 44100, "FLAC")
    want = read(blob, sample_rate=16000).samples
    for size in (1000, 7777, 1 << 14):
        monkeypatch.setattr(module, "_BLOCK", size)
        assert np.array_equal(read(blob, sample_rate=16000).samples, want)


def test_blocks_refuse_what_read_refuses(tmp_path):
    result = reader("audio")
    with pytest.raises(UnreadableItem, match="empty file"):
        next(result.blocks(b""))
    with pytest.raises(UnreadableItem, match="no such file"):
        next(result.blocks(tmp_path / "gone.wav"))
    for wrong in (0, -1, float("nan")):
        with pytest.raises(OptionError, match="seconds"):
            next(result.blocks(encoded(tone()), seconds=wrong))


def test_an_error_of_the_caller_is_not_the_items():
    """What happens while a block is being used passes unchanged."""
    with pytest.raises(ZeroDivisionError):
        for _ in reader("audio").blocks(encoded(tone()), seconds=0.1):
            1 / 0


def long_wav(path: Path, seconds: int, rate: int) -> None:
    """Mostly zeros, written sparsely: the file system keeps holes, the reader sees every sample."""
    size = seconds * rate * 2
    with open(path, "wb") as file:
        file.write(
            b"RIFF"
            + struct.pack("<I", 36 + size)
            + b"WAVEfmt "
            + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate * 2, 2, 16)
        )
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
        for second in range(0, seconds, 60):
            file.seek(44 + second * rate * 2)
            file.write((tone(1, rate) * 32767).astype("<i2").tobytes())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_an_hour_in_little_memory(tmp_path):
    """One hour at 44.1 kHz is 635 MB of float32; going through it adds less than 40 MB."""
    import subprocess

    path = tmp_path / "hour.wav"
    long_wav(path, 3600, 44100)
    code = (
        "import resource, sys\nfrom headstart.readers import reader\nimport soundfile, scipy.signal\n"
        "made = reader('audio', sample_rate=16000)\n"
        "next(made.blocks(sys.argv[1]))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(len(clip.samples) for clip in made.blocks(sys.argv[1], seconds=10))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 3600 * 16000
    assert grown < 40_000, f"{grown} kB"


# ---- too long, too odd ---------------------------------------------------------------------------------------------


def test_the_limit_on_length_is_an_option():
    blob = encoded(tone(2))
    assert "max_seconds" in reason(blob, max_seconds=1.9)
    assert read(blob, max_seconds=2).seconds == 2
    result = reader("audio", max_seconds=0.5)
    assert sum(clip.seconds for clip in result.blocks(blob)) == 2
    assert "max_seconds" in reason(Clip(np.zeros(32000, np.float32), 16000), max_seconds=1)


@pytest.mark.parametrize("rate", [1, 999, 500_001, 2**31 - 1])
def test_rates_that_no_sound_has(rate):
    """A filter for 2³¹ Hz would take all the memory there is."""
    blob = bytearray(encoded(tone()))
    blob[24:28] = struct.pack("<I", rate)
    assert "sample rate" in reason(bytes(blob), sample_rate=16000)


# ---- broken files --------------------------------------------------------------------------------------------------

WAV, FLOAT = encoded(tone(2, channels=2), subtype="PCM_16"), encoded(tone(2), subtype="FLOAT")
FLAC, OGG, MP3, AIFF = (encoded(tone(2), kind=kind) for kind in ("FLAC", "OGG", "MP3", "AIFF"))
OPUS = encoded(tone(2), kind="OGG", subtype="OPUS")


def flipped(blob: bytes, share: float) -> bytes:
    at = int(len(blob) * share)
    return blob[:at] + bytes((blob[at] ^ 0x55,)) + blob[at + 1 :]


BROKEN = {
    "empty": (b"", "empty file"),
    "one byte": (b"R", "not an audio file"),
    "text": (b"not an audio file at all " * 50, "not an audio file (plain text)"),
    "html": (b"<html>404</html>" * 50, "not an audio file (an HTML or XML page)"),
    "zeros": (bytes(4000), "not an audio file (nothing but zeros)"),
    "noise": (np.random.default_rng(1).bytes(4000), "not an audio file (unknown bytes)"),
    "photo": (b"\xff\xd8\xff\xe0" + bytes(400), "not an audio file (a JPEG image)"),
    "mp4 video": (b"\x00\x00\x00\x18ftypmp42" + bytes(2000), "convert it to WAV"),
    "quicktime": (b"\x00\x00\x00\x14ftypqt  " + bytes(2000), "not an audio file (a QuickTime video)"),
    "m4a": (b"\x00\x00\x00\x18ftypM4A " + bytes(2000), "convert it to WAV"),
    "matroska": (b"\x1aE\xdf\xa3" + bytes(2000), "not an audio file (a Matroska or WebM video)"),
    "avi": (b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(2000), "not an audio file (an AVI video)"),
    "webp": (b"RIFF\x00\x10\x00\x00WEBPVP8 " + bytes(2000), "not an audio file (a WebP image)"),
    "wav: the head only": (WAV[:20], "damaged or truncated"),
    "wav: no samples": (encoded(np.zeros(0)), "no samples"),
    "wav: a third": (WAV[: len(WAV) // 3], "truncated ("),
    "wav: the last 20 bytes missing": (WAV[:-20], "truncated (20 bytes"),
    "wav float: a third": (FLOAT[: len(FLOAT) // 3], "truncated"),
    "wav: chunks without end": (b"RIFF\xff\xff\xff\x7fWAVE" + b"junk\x00\x00\x00\x00" * 20_000, "ten thousand chunks"),
    "aiff: a third": (AIFF[: len(AIFF) // 3], "truncated"),
    "flac: as in the acceptance test": (b"fLaC" + bytes(30), "damaged or truncated"),
    "flac: a third": (FLAC[: len(FLAC) // 3], "damaged or truncated"),
    "flac: the last byte missing": (FLAC[:-1], "damaged or truncated"),
    "flac: a flipped byte": (flipped(FLAC, 0.6), "damaged or truncated"),
    "ogg: a third": (OGG[: len(OGG) // 3], "truncated"),
    "ogg: the last byte missing": (OGG[:-1], "truncated"),
    "ogg: the last page missing": (OGG[: OGG.rindex(b"OggS")], "truncated"),
    "ogg: a flipped byte": (flipped(OGG, 0.6), "checksum"),
    "ogg: a page missing": (OGG[:58] + b"x" + OGG[58:], "a page is missing"),
    "ogg: no samples": (encoded(np.zeros(0), kind="OGG"), "no samples"),
    "opus: the last byte missing": (OPUS[:-1], "truncated"),
    "opus: a flipped byte": (flipped(OPUS, 0.7), "checksum"),
    "mp3: a third": (MP3[: len(MP3) // 3], "truncated ("),
    "mp3: the head only": (MP3[:60], "damaged or truncated"),
    "mp3: half zeros": (MP3[: len(MP3) // 2] + bytes(len(MP3) // 2), "damaged or truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_a_reason(name, tmp_path):
    blob, words = BROKEN[name]
    path = tmp_path / f"{name.replace(':', '')}.wav"
    path.write_bytes(blob)
    assert words in reason(path)
    assert reason(path) == reason(blob)
    assert reason(blob, sample_rate=8000) == reason(blob)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_clip_cut_anywhere_is_refused(kind, share):
    """libsndfile itself would hand over a shorter clip."""
    blob = {"WAV": WAV, "FLAC": FLAC, "OGG": OGG, "AIFF": AIFF}[kind]
    cut = blob[: int(share * (len(blob) - 1))]
    assert reason(cut)


def test_the_last_byte_of_a_wav_may_be_padding():
    assert len(read(WAV[:-1]).samples) == 31999


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_written_to_a_pipe_has_no_length(length):
    """ffmpeg and sox leave a placeholder; the clip is what is there."""
    blob = bytearray(WAV)
    blob[4:8] = blob[40:44] = struct.pack("<I", length)
    assert np.array_equal(read(bytes(blob)).samples, read(WAV).samples)


def test_chunks_before_the_samples():
    """Notes of odd length, as recorders write them."""
    note = b"LIST" + struct.pack("<I", 7) + b"INFOabc" + b"\0"
    blob = WAV[:36] + note + WAV[36:]
    assert np.array_equal(read(blob).samples, read(WAV).samples)
    assert "truncated" in reason(blob[:-100])


def test_tags_after_an_ogg_are_no_damage():
    assert np.array_equal(read(OGG + b"TAG" + bytes(125)).samples, read(OGG).samples)


def test_a_file_called_raw(tmp_path):
    """soundfile takes the suffix for headerless samples."""
    path = tmp_path / "clip.raw"
    path.write_bytes(WAV)
    assert np.array_equal(read(path).samples, read(WAV).samples)


def test_the_checksum_of_ogg_pages():
    """Against the definition: polynomial 0x04c11db7, most significant bit first, start and end 0."""

    def slow(data: bytes) -> int:
        crc = 0
        for byte in data:
            crc ^= byte << 24
            for _ in range(8):
                crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
                crc &= 0xFFFFFFFF
        return crc

    for data in (b"", b"a", b"OggS" + bytes(30), np.random.default_rng(0).bytes(500)):
        assert _ogg_checksum(data) == slow(data)
    assert _ogg_checksum(b"abc") != zlib.crc32(b"abc")


FLIPPED = {"WAV": WAV[:3000], "FLAC": FLAC, "OGG": OGG, "MP3": MP3, "AIFF": AIFF}


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "FLOAT"])
@pytest.mark.timeout(240)
@settings(max_examples=80)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
    front=st.booleans(),
)
def test_flipped_bytes_give_a_clip_or_a_refusal(kind, flips, front):
    samples = tone(0.3)
    blob = bytearray(encoded(samples, kind="WAV", subtype="FLOAT") if kind == "FLOAT" else encoded(samples, kind=kind))
    for position, mask in flips:
        blob[int(position * (min(60, len(blob)) if front else len(blob)))] ^= mask
    try:
        clip = read(bytes(blob), sample_rate=16000, max_seconds=60)
    except UnreadableItem as error:
        assert 3 < len(error.reason) < 200
    else:
        assert clip.sample_rate == 16000 and clip.samples.dtype == np.float32 and clip.samples.ndim == 1
        assert 0 < len(clip.samples) <= 60 * 16000 + 1 and np.isfinite(clip.samples).all()


# ---- packages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package, options", [("soundfile", {}), ("soxr", {"sample_rate": 8000, "resampler": "soxr"})])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, package, options):
    """Not an unreadable item: nothing is wrong with the file."""
    from headstart._base import extras

    present = extras.is_installed
    monkeypatch.setattr(extras, "is_installed", lambda name: name != package and present(name))
    with pytest.raises(MissingPackage, match=rf"'{package}'.*pip install .*headstart\[audio\]"):
        read(WAV, **options)
