"""Does OpenVINO pay? MobileNetV2's candidates of real photos with torch and with OpenVINO, both in bf16, empty stores.

The same photos are read, prepared and stored by both; OpenVINO's seconds contain the conversion of the network. More
than 600 photos are the same JPEG files with other bytes after their end: as long to decode, but other content.

    python benchmarks/engines.py [PHOTOS...] [--save]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from _features import MOBILENET
from _parts import DATA, finish, words

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


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("photos", nargs="*", type=int, default=[600, 3000])
    arguments = parser.parse_args()
    source = hs.load_source(f"timm:{MOBILENET}")
    versions = {**ENGINES["torch"].version(), **ENGINES["openvino"].version()}
    rows = []
    with tempfile.TemporaryDirectory() as work:
        measured(source, photos(Path(work) / "warm", 32), "torch", Path(work) / "warm-store")
        for count in arguments.photos:
            data = photos(Path(work) / f"photos-{count}", count)
            data.keys()
            for engine in ("torch", "openvino"):
                result = measured(source, data, engine, Path(work) / f"{engine}-{count}")
                rows.append({"photos": count, "engine": engine, **result})
                print(rows[-1], flush=True)
    what = {"precision": PRECISION, "batch": BATCH, "threads": torch.get_num_threads(), "versions": versions}
    finish("engines", {"claim": "seconds to extract all candidates", **what, "rows": rows}, save=arguments.save)


if __name__ == "__main__":
    main()
