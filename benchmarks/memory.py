"""Claim: extracting a folder of any size, and summarising it, stays under 1.5 GB beside the model.

The folder holds the trashnet photos over and over, each copy with other bytes at its end, so that every one is new. All
candidate layers of MobileNetV2 are extracted and the moments of every layer are taken. Each size runs in a process of
its own; what counts is the peak of its resident memory less what it had after loading the source and running it once.

    python benchmarks/memory.py [--sizes 600 6000] [--save]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _parts import DATA, finish, words

LIMIT = 1500  # MB


def folder_of(count: int, where: Path) -> Path:
    """``count`` photos in class folders, no two with the same bytes."""
    photos = sorted((DATA / "images" / "trashnet").glob("*/*.jpg"))
    for number in range(count):
        photo = photos[number % len(photos)]
        target = where / photo.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photo.read_bytes() + number.to_bytes(8, "big"))
    return where


def child(folder: str) -> None:
    """Peak memory of extraction and moments, in MB, beside the loaded model."""
    import headstart as hs

    data = hs.Dataset.from_folder(folder)
    source = hs.load_source(f"timm:{DATA / 'weights' / 'mobilenetv2_100.imagenet'}")
    small = data.sample(n=64, random_state=0)
    hs.extract(source, small, layers="auto", store=False)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    with tempfile.TemporaryDirectory() as store:
        bank = hs.extract(source, data, layers="auto", store=store)
        after_extract = status("VmHWM")
        for layer in bank.layers:
            bank.summarise(layer, data)
        numbers = {"extract": after_extract - before, "extract and summarise": status("VmHWM") - before}
    print(json.dumps({"items": len(data), "layers": len(bank.layers), "model": before, **numbers, **rounded(bank)}))


def rounded(bank: object) -> dict[str, float]:
    return {"seconds": round(bank.seconds["total"], 1)}  # type: ignore[attr-defined]


def status(field: str) -> int:
    line = next(item for item in Path("/proc/self/status").read_text().splitlines() if item.startswith(field))
    return int(line.split()[1]) // 1024


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[600, 6000])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    requested = parser.parse_args()
    if requested.child:
        child(requested.child)
        return
    result = []
    for size in requested.sizes:
        with tempfile.TemporaryDirectory() as where:
            folder_of(size, Path(where))
            done = subprocess.run(
                [sys.executable, __file__, "--child", where], stdout=subprocess.PIPE, text=True, check=True
            )
        result.append(json.loads(done.stdout.splitlines()[-1]))
    report = {"unit": "MB of resident memory", "runs": result}
    report["holds"] = all(run["extract and summarise"] < LIMIT for run in result)
    finish("memory", report, save=requested.save)


if __name__ == "__main__":
    main()
