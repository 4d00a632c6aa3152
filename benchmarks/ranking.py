"""Claim: ranking all candidate layers of several sources costs at most 1.3 × the extraction passes it needs.

Both ways start from an empty store and look at the same pictures. The twin is ``extract()`` with the layers that the
ranking looks at; the ranking does that, and cross-validates every layer, computes the scores and gives the verdict.
They alternate, after one run of each that does not count; how a source is run is measured there and remembered.

    python benchmarks/ranking.py [--pictures 1000] [--side 128] [--sources timm:mobilenetv2_100 …] [--save]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.ranking import rank
from headstart.sources import load_source

HERE = Path(__file__).resolve().parent
CLASSES = 10
BAR = 1.3


def pictures(count: int, side: int) -> Dataset:
    """Noise around one faint pattern per class."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % CLASSES
    patterns = rng.normal(size=(CLASSES, 8, 8, 3)) * 12
    large = np.kron(patterns, np.ones((1, -(-side // 8), -(-side // 8), 1)))[:, :side, :side]
    X = rng.normal(128, 50, size=(count, side, side, 3)) + large[y]
    return Dataset.from_arrays(X.clip(0, 255).astype(np.uint8), [f"class {i}" for i in y])


def seconds(run: Callable[[Path], object]) -> float:
    """Wall time of one run into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run(Path(folder))
        return time.perf_counter() - begun


def measure(sources: list, data: Dataset, repeats: int) -> tuple[list[float], list[float]]:
    """Times of the passes alone, and of the ranking, in turn."""

    def passes(store: Path) -> None:
        for source in sources:
            extract(source, data, layers="auto", store=store)

    def ranking(store: Path) -> None:
        rank(sources, data, store=store)

    times = [(seconds(passes), seconds(ranking)) for _ in range(repeats + 1)][1:]
    return [a for a, _ in times], [b for _, b in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--sources", nargs="+", default=["timm:mobilenetv2_100", "timm:resnet18"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    sources = [load_source(address) for address in args.sources]
    alone, ranked = measure(sources, pictures(args.pictures, args.side), args.repeats)
    ratios = [b / a for a, b in zip(alone, ranked, strict=True)]
    result = {
        "claim": f"ranking costs at most {BAR} x the extraction passes",
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "extract_seconds": alone,
        "rank_seconds": ranked,
        "holds": statistics.median(ratios) <= BAR,
        "setting": {**vars(args), "layers": sum(len(s.select("auto")) for s in sources)},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("numpy", "torch")},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.save:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "ranking.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
