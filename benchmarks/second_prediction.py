"""The second prediction of a server, beside a bare forward pass of the same network.

One image in memory, a predictor that has predicted before: what does the next prediction cost? The peer is torch alone:
the same module, the same prepared tensor, the same precision, in the same process, one call of each in turn, so that
both meet the same load. Give another tree's ``src`` to measure it with the same script::

    PYTHONPATH=src python benchmarks/second_prediction.py
    PYTHONPATH=/path/to/old/src python benchmarks/second_prediction.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _parts import finish, machine, words

import headstart as hs

SOURCES = ("fake:image", "timm:resnet18", "timm:mobilenetv2_100")


def predictor_on(address: str) -> tuple[Any, np.ndarray]:
    """A predictor on random images, and one of them. Random weights: only time is measured."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 224, 224, 3), dtype=np.uint8)
    source = hs.load_source(address, pretrained=False) if address.startswith("timm") else hs.load_source(address)
    data = hs.Dataset.from_arrays(images, ["a", "b"] * 12)
    predictor = hs.fit(source, data, layers="last", head="ridge", store=False, engine="torch", precision="fp32")
    return predictor, images[0]


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call; one call of each per round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()}


def measure(address: str, rounds: int) -> dict[str, float]:
    """First and second predictions, and the forward pass alone, in milliseconds."""
    predictor, image = predictor_on(address)
    source = predictor.source
    module = source.module.eval()
    batch = source.input.collate([source.input.prepare(image)])
    (tensor,) = source.input.tensors(batch, torch.device("cpu"), torch.float32).values()
    infer = getattr(predictor, "infer", predictor.predict)  # version 0.1 has no infer

    def forward() -> None:
        with torch.inference_mode():
            module(tensor)

    start = time.perf_counter()
    infer(image)
    first = time.perf_counter() - start
    forward()
    medians = interleaved({"predict": lambda: infer(image), "torch": forward}, rounds)
    overhead = round(medians["predict"] - medians["torch"], 2)
    return {"first": round(1e3 * first, 2), **medians, "overhead": overhead}


if __name__ == "__main__":
    parser = words(__doc__)
    parser.add_argument("--sources", nargs="+", default=list(SOURCES))
    parser.add_argument("--rounds", type=int, default=40)
    arguments: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    rows = {address: measure(address, arguments.rounds) for address in arguments.sources}
    finish("second_prediction", {"machine": machine(), "milliseconds": rows}, save=arguments.save)
