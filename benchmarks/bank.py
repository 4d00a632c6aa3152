"""Claim: rows found by content, each checked, cost less than two microseconds of CPU per row beside plain files.

The plain twin is what a user would write: ``np.save`` per block of features, ``np.load(mmap_mode="r")`` and
``np.concatenate`` to read them back; no content keys, no check sums, no order but its own. With ``+ fsync`` the plain
writer makes its files durable too (the bank flushes each shard and then its folder, so that the new name is safe as
well: two flushes for one). All ways take turns in one process; figures are medians, quartiles and extremes of wall and
CPU milliseconds (other work may share the machine: the load average is recorded beside them). Every read is compared
with what was written, outside the measured time.

    python benchmarks/bank.py [--repeats 9] [--rows 100000] [--width 384] [--block 1000] [--save]
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _parts import finish, machine, words

from headstart.bank import Store

RECIPE = {"what": "benchmark", "dtype": "float32"}
Round = dict[str, tuple[float, float]]
PAIRS = {
    "read in order": ("read in order: np.load, concatenate", "read in order: open bank, get"),
    "read shuffled": ("read shuffled: np.load, concatenate, index", "read shuffled: open bank, get"),
    "map of one file": ("sum of one file: np.load(mmap)", "sum of one shard: open bank, get (a map)"),
    "append": ("append: np.save + fsync", "append: bank"),
}


class Plain:
    """One .npy file per block."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder, self.durable = folder, durable
        folder.mkdir()

    def append(self, number: int, rows: np.ndarray) -> None:
        path = self.folder / f"{number:06d}.npy"
        with open(path, "wb") as file:
            np.save(file, rows)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())

    def maps(self) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in sorted(self.folder.iterdir())]

    def in_order(self) -> np.ndarray:
        return np.concatenate(self.maps())

    def shuffled(self, order: np.ndarray) -> np.ndarray:
        return np.concatenate(self.maps())[order]

    def some(self, wanted: np.ndarray, block: int) -> np.ndarray:
        maps = self.maps()
        return np.array([maps[i // block][i % block] for i in wanted.tolist()])


def timed(work: Callable[[], object]) -> tuple[tuple[float, float], object]:
    """Wall and CPU milliseconds, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return (1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)), result


def one_round(
    folder: Path, rows: np.ndarray, keys: np.ndarray, block: int, rng: np.random.Generator
) -> dict[str, float]:
    """Milliseconds of every step, in one fresh folder. Keys are given as an array and, once, as a list of bytes."""
    took: Round = {}
    starts = range(0, len(rows), block)
    order = rng.permutation(len(rows))
    expected = rng.choice(len(rows), 1000, replace=False)

    def step(name: str, work: Callable[[], object], want: np.ndarray | None = None) -> object:
        took[name], result = timed(work)
        if want is not None:
            assert np.array_equal(np.asarray(result), want), name
        return result

    def write(append: Callable[[int, np.ndarray], None]) -> None:
        for first in starts:
            append(first, rows[first : first + block])

    plain, durable = (Plain(folder / name, durable=name == "durable") for name in ("plain", "durable"))
    store = Store(folder / "store")
    table = store.table(RECIPE)
    steps: list[Callable[[], object]] = [
        lambda: step("append: np.save", lambda: write(plain.append)),
        lambda: step("append: np.save + fsync", lambda: write(durable.append)),
        lambda: step("append: bank", lambda: write(lambda i, part: table.append(keys[i : i + block], part))),
    ]
    for i in rng.permutation(len(steps)):
        steps[i]()
    full = folder / "whole.npy"
    np.save(full, rows)
    listed = [key.tobytes() for key in keys]
    opened = store.table(RECIPE)
    steps = [
        lambda: step("read in order: np.load, concatenate", plain.in_order, rows),
        lambda: step("read in order: open bank, get", lambda: store.table(RECIPE).get(keys), rows),
        lambda: step("read in order: bank, keys as bytes", lambda: opened.get(listed), rows),
        lambda: step("read shuffled: np.load, concatenate, index", lambda: plain.shuffled(order), rows[order]),
        lambda: step("read shuffled: open bank, get", lambda: store.table(RECIPE).get(keys[order]), rows[order]),
        lambda: step("1000 rows: np.load, index", lambda: plain.some(expected, block), rows[expected]),
        lambda: step("1000 rows: open bank, get", lambda: store.table(RECIPE).get(keys[expected]), rows[expected]),
        lambda: step("open bank", lambda: store.table(RECIPE)),
        lambda: step("has, all keys", lambda: opened.has(keys), np.ones(len(keys), bool)),
        lambda: step("batches of 1000", lambda: sum(len(b) for b in opened.batches(keys, 1000))),
    ]
    for i in rng.permutation(len(steps)):
        steps[i]()
    step("compact", table.compact)
    steps = [
        lambda: step("sum of one file: np.load(mmap)", lambda: np.load(full, mmap_mode="r").sum(), rows.sum()),
        lambda: step(
            "sum of one shard: open bank, get (a map)", lambda: store.table(RECIPE).get(keys).sum(), rows.sum()
        ),
    ]
    for i in rng.permutation(len(steps)):
        steps[i]()
    took["bytes"] = tuple(sum(p.stat().st_size for p in f.iterdir()) for f in (plain.folder, table.folder))
    return took


def summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {
        k: round(v, 3)
        for k, v in zip(("median", "q1", "q3", "min", "max"), (middle, low, high, min(values), max(values)))
    }


def main() -> None:
    parser = words(__doc__)
    for name, value in (("repeats", 9), ("rows", 100_000), ("width", 384), ("block", 1000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    values_given = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((values_given.rows, values_given.width), dtype=np.float32)
    keys = rng.integers(0, 256, (values_given.rows, 16), dtype=np.uint8)
    rounds = []
    for number in range(values_given.repeats + 1):
        folder = Path(tempfile.mkdtemp(prefix="headstart-bank-benchmark-"))
        try:
            results = one_round(folder, rows, keys, values_given.block, rng)
        finally:
            shutil.rmtree(folder)
        if number:  # the first round does not count
            rounds.append(results)
    sizes = rounds[0]["bytes"]
    names = [name for name in rounds[0] if name != "bytes"]
    steps = {n: {u: summary([r[n][i] for r in rounds]) for i, u in enumerate(("wall", "cpu"))} for n in sorted(names)}
    more = {
        name: {
            unit: round(1000 * (steps[ours][unit]["median"] - steps[plain][unit]["median"]) / values_given.rows, 3)
            for unit in ("wall", "cpu")
        }
        for name, (plain, ours) in PAIRS.items()
    }
    result = {
        "claim": __doc__.splitlines()[0],
        "unit": "milliseconds",
        "settings": {name: getattr(values_given, name) for name in ("repeats", "rows", "width", "block")},
        "megabytes": round(rows.nbytes / 1e6, 1),
        "steps": steps,
        "microseconds per row more than plain": more,
        "bytes on disk": {"np.save": sizes[0], "bank": sizes[1]},
        "machine": {**machine(), "numpy": np.__version__, "system": platform.platform()},
    }
    finish("bank", result, save=values_given.save)
    for name, values in steps.items():
        wall, cpu = values["wall"], values["cpu"]
        print(f"{name:45s} {wall['median']:8.1f} ms ({wall['q1']:.1f} to {wall['q3']:.1f}), cpu {cpu['median']:.1f} ms")
    print(more)
    for name in ("read in order", "read shuffled", "map of one file"):
        assert more[name]["cpu"] < 2, (name, more[name])


if __name__ == "__main__":
    main()
