"""Claim: the readers decode photos faster than Pillow, to the same pixels; a hint on size makes large photos cheap.

Every way of decoding is run in turns within one process, so that all meet the same machine; figures are medians and
quartiles of CPU milliseconds per item (wall beside it: other work may share the machine). The plain twin is what a user
would write: ``np.asarray(Image.open(path).convert("RGB"))``. Sounds: the two resamplers and the log-mel front end.

    python benchmarks/decode.py [--repeats 15] [--save]
"""

from __future__ import annotations

import io
import statistics
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
from _parts import DATA, finish, machine, words
from PIL import Image

from headstart.readers import reader
from headstart.sources.inputs.log_mel import LogMel

HINT = (256, 256)


def photos(count: int = 24) -> list[bytes]:
    """Real photos of 384 × 512."""
    paths = sorted((DATA / "images/trashnet").glob("*/*.jpg"))
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)]][:count]


def phone_photos(small: list[bytes], count: int = 3) -> list[bytes]:
    """12 megapixels, as a phone takes them: real photos side by side (their own detail, not blown up)."""
    out = []
    for number in range(count):
        canvas = Image.new("RGB", (4032, 3024))
        for i in range(8 * 8):
            tile = Image.open(io.BytesIO(small[(i + number) % len(small)])).convert("RGB")
            canvas.paste(tile, (i % 8 * 512, i // 8 * 384))
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=90)
        out.append(file.getvalue())
    return out


def plain(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def race(ways: dict[str, Callable[[object], object]], items: list, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds per item; the ways take turns, after one round that does not count."""
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            begun = time.perf_counter(), time.thread_time()
            for item in items:
                way(item)
            if turn:
                cpu[name].append((time.thread_time() - begun[1]) * 1000 / len(items))
                wall[name].append((time.perf_counter() - begun[0]) * 1000 / len(items))
    return {name: {**spread(cpu[name]), "wall_ms": round(statistics.median(wall[name]), 3)} for name in ways}


def spread(figures: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(figures, n=4)
    return {"cpu_ms": round(middle, 3), "lower_quartile": round(low, 3), "upper_quartile": round(high, 3)}


def runs_beside(way: Callable[[object], object], item: object) -> bool:
    """Whether another thread gets on while one decodes: with a switch interval of 100 s, only if the GIL is let go."""
    steps, seen, interval = 0, [], sys.getswitchinterval()

    def work() -> None:
        begun = steps
        for _ in range(20):
            way(item)
        seen.append(steps - begun)

    sys.setswitchinterval(100)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        while not seen:
            steps += 1
            if steps % 1000 == 0:
                time.sleep(0)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return seen[0] > 0


def images(repeats: int) -> dict:
    small = photos()
    large = phone_photos(small)
    ways = {
        "simplejpeg": reader("image", decoder="simplejpeg").read,
        "pillow": reader("image", decoder="pillow").read,
        "simplejpeg, hint": reader("image", decoder="simplejpeg", size_hint=HINT).read,
        "pillow, hint": reader("image", decoder="pillow", size_hint=HINT).read,
        "plain twin": plain,
    }
    for blob in small[:6] + large[:1]:
        assert np.array_equal(ways["simplejpeg"](blob), ways["pillow"](blob))
        assert np.array_equal(ways["simplejpeg, hint"](blob), ways["pillow, hint"](blob))
        assert np.array_equal(ways["simplejpeg"](blob), plain(blob))
    shrunk, full = (
        np.asarray(Image.fromarray(ways[name](large[0])).resize((224, 224), Image.Resampling.BICUBIC), float)
        for name in ("simplejpeg, hint", "simplejpeg")
    )
    return {
        "384 x 512 photo": race({n: w for n, w in ways.items() if "hint" not in n}, small, repeats),
        "3024 x 4032 photo": race(ways, large, max(5, repeats // 3)),
        "GIL let go": {name: runs_beside(way, small[0]) for name, way in ways.items()},
        "hint: mean change of the 224 x 224 result, of 255": round(float(np.abs(shrunk - full).mean()), 3),
    }


def sounds(repeats: int) -> dict:
    clips = sorted((DATA / "audio/esc10").glob("*/*.ogg"))[::20]
    mel = LogMel()
    ready = [reader("audio", sample_rate=16000).read(clip) for clip in clips]
    ways = {
        "decode only": reader("audio").read,
        "decode, scipy to 16 kHz": reader("audio", sample_rate=16000).read,
        "decode, soxr to 16 kHz": reader("audio", sample_rate=16000, resampler="soxr").read,
    }
    return {
        "5 s of OGG, 44.1 kHz": race(ways, clips, repeats),
        "5 s, log-mel patches": race({"patches": mel.patches}, ready, repeats),
        "GIL let go": {name: runs_beside(way, clips[0]) for name, way in ways.items()},
    }


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    requested = parser.parse_args()
    result = {
        "images": images(requested.repeats),
        "sounds": sounds(requested.repeats),
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "pillow", "simplejpeg", "soundfile", "soxr", "scipy")},
    }
    small, large = result["images"]["384 x 512 photo"], result["images"]["3024 x 4032 photo"]
    assert small["simplejpeg"]["cpu_ms"] < small["plain twin"]["cpu_ms"], small
    assert large["simplejpeg, hint"]["cpu_ms"] < 0.5 * large["plain twin"]["cpu_ms"], large
    finish("decode", result, save=requested.save)


if __name__ == "__main__":
    main()
