"""Claim: the same code runs on a CUDA GPU, and gives the same features and predictions as the CPU.

On one machine, in one run: features of photos at every candidate layer of MobileNetV2 on the CPU and on the GPU (least
cosine between them, items per second), a fit on each, a predictor fitted on the GPU loaded on the CPU, and fine-tuning
on the GPU with and without the cached boundary. Reads and decodes count: that is what a user waits for, and so do the
1.5 to 2 seconds in which CUDA loads its kernels for the first batch of a shape: a few hundred photos gain nothing.

    python benchmarks/gpu.py [--photos trashnet] [--save]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _parts import DATA, keep, machine, words


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work gives, and its seconds; the GPU is waited for."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    got = work()
    torch.cuda.synchronize()
    return got, time.perf_counter() - start


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def extraction(hs: Any, source: Any, data: Any) -> dict[str, Any]:
    """Seconds and agreement of features; each side fresh, the library and the card warm."""
    small = data.sample(n=64, random_state=0)
    banks, result = {}, {}
    for device in ("cpu", "cuda"):
        hs.extract(source, small, store=False, device=device)
        banks[device], seconds = timed(lambda device=device: hs.extract(source, data, store=False, device=device))
        result[device] = {"seconds": round(seconds, 2), "items/s": round(len(data) / seconds, 1)}
        result[device] |= {"choice": str(banks[device].choice), **rounded(banks[device].seconds)}
    layers = banks["cpu"].layers
    result["layers"] = len(layers)
    result["least cosine cuda to cpu"] = min(
        cosine(banks["cpu"].rows(name, data), banks["cuda"].rows(name, data)) for name in layers
    )
    again = hs.extract(source, data, store=False, device="cuda", precision="fp32")
    plain = hs.extract(source, data, store=False, device="cpu", precision="fp32")
    result["least cosine, fp32 on both"] = min(cosine(again.rows(n, data), plain.rows(n, data)) for n in layers)
    return result


def fitting(hs: Any, source: Any, train: Any, test: Any) -> dict[str, Any]:
    """Accuracy of a frozen fit on each device, and a predictor from the GPU used on the CPU."""
    result = {}
    for device in ("cpu", "cuda"):
        predictor, seconds = timed(
            lambda device=device: hs.fit(source, train, policy="frozen", device=device, random_state=0)
        )
        accuracy = float(predictor.evaluate(test).metrics["accuracy"])
        result[device] = {"seconds": round(seconds, 2), "accuracy": round(accuracy, 4)}
    with tempfile.TemporaryDirectory() as folder:
        path = predictor.save(Path(folder) / "gpu.headstart")
        code = (
            "import sys, json, headstart as hs; p = hs.load(sys.argv[1]); "
            "print(json.dumps([p.predict(x) for x in sys.argv[2:]]))"
        )
        command = [sys.executable, "-c", code, str(path), *map(str, test.items[:16])]
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    same = json.loads(done.stdout.splitlines()[-1]) == list(predictor.predict(list(test.items[:16])))
    result["same labels on the CPU"] = same
    return result


def tuning(hs: Any, source: Any, train: Any, test: Any) -> dict[str, Any]:
    """Seconds per epoch and accuracy of fine-tuning on the GPU."""
    result = {}
    ways = {
        "last_layers, cached": hs.policy("last_layers", layers=2, epochs=4, views=1, cache=True),
        "last_layers, full forward": hs.policy("last_layers", layers=2, epochs=4, views=1, cache=False),
        "full": hs.policy("full", epochs=4),
    }
    for name, policy in ways.items():
        predictor, seconds = timed(
            lambda policy=policy: hs.fit(source, train, policy=policy, device="cuda", guard=False, random_state=0)
        )
        epochs = predictor.history["epoch_seconds"]
        accuracy = float(predictor.evaluate(test).metrics["accuracy"])
        result[name] = {"seconds": round(seconds, 2), "epoch": round(min(epochs), 3), "accuracy": round(accuracy, 4)}
        result[name]["loss"] = [round(value, 4) for value in predictor.history["loss"]]
    return result


def rounded(seconds: Any) -> dict[str, float]:
    return {name: round(value, 2) for name, value in seconds.items()}


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--photos", default="trashnet")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA device here.")
    import headstart as hs

    os.environ["HEADSTART_CACHE"] = tempfile.mkdtemp()
    data = hs.Dataset.from_folder(DATA / "images" / arguments.photos)
    train, test = data.split(test_size=0.3, random_state=0)
    source = hs.load_source(f"timm:{DATA / 'weights' / 'mobilenetv2_100.imagenet'}")
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    report: dict[str, Any] = {"machine": {**card, **machine()}, "items": len(data)}
    for name, work in {
        "extraction": lambda: extraction(hs, source, data),
        "frozen fit": lambda: fitting(hs, source, train, test),
        "fine-tuning": lambda: tuning(hs, source, train, test),
    }.items():
        report[name] = work()
        print(name, json.dumps(report[name], indent=1), flush=True)
    if arguments.save:
        keep("gpu", report)


if __name__ == "__main__":
    main()
