"""Does OpenVINO pay? MobileNetV2's candidates of real photos with torch and with OpenVINO, both in bf16, empty stores.

The same photos are read, prepared and stored by both; OpenVINO's seconds contain the conversion of the network. More
than 600 photos are the same JPEG files with other bytes after their end: as long to decode, but other content.

    python benchmarks/engines.py [PHOTOS...]      # writes results/engines.json
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from _features import DATA, MOBILENET

import headstart as hs
from headstart.engines import ENGINES

PRECISION, BATCH = "bf16", 16


def photos(folder: Path, count: int) -> hs.Dataset:
    """``count`` files whose content differs."""
    originals = sorted((DATA / "images" / "trashnet").glob("*/*.jpg"))
    folder.mkdir()
    paths = []
    for i in range(count):
        path = folder / f"{i:05d}.jpg"
        path.write_bytes(originals[i % len(originals)].read_bytes() + bytes([i // len(originals)]))
        paths.append(path)
    return hs.Dataset.from_items(paths, "image")


def measured(source: hs.Source, data: hs.Dataset, engine: str, store: Path) -> dict[str, float]:
    begun = time.perf_counter()
    bank = hs.extract(source, data, engine=engine, precision=PRECISION, batch_size=BATCH, store=store)
    assert bank.computed == len(data)
    stages = {name: round(value, 2) for name, value in bank.seconds.items()}
    return {"seconds": round(time.perf_counter() - begun, 2), **{f"{k} s": v for k, v in stages.items()}}


def main(counts: list[int]) -> None:
    source = hs.load_source(f"timm:{MOBILENET}")
    versions = {**ENGINES["torch"].version(), **ENGINES["openvino"].version()}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        measured(source, photos(Path(work) / "warm", 32), "torch", Path(work) / "warm-store")
        for count in counts:
            data = photos(Path(work) / f"photos-{count}", count)
            data.keys()
            for engine in ("torch", "openvino"):
                found = measured(source, data, engine, Path(work) / f"{engine}-{count}")
                rows.append({"photos": count, "engine": engine, **found})
                print(rows[-1], flush=True)
    what = {"precision": PRECISION, "batch": BATCH, "threads": torch.get_num_threads(), "versions": versions}
    path = Path(__file__).parent / "results" / "engines.json"
    path.write_text(json.dumps({"claim": "seconds to extract all candidates", **what, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [600, 3000])
