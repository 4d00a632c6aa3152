"""Claim: summarising features costs about as much as one plain XᵀX, and far less than extracting them.

``Moments.from_rows`` on 20,000 float32 rows of 1,280 features and 10 classes, against the plain twin beside it:
``X.astype(float64)`` and ``X.T @ X``, which holds a float64 copy of all rows and is not centred. Run it alone on a
quiet machine::

    python benchmarks/moments_speed.py [--rows 20000] [--features 1280] [--repeats 5] [--save]

It prints medians in seconds, microseconds per row, and peak memory of each as a multiple of X.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from _parts import finish, machine, words

from headstart.moments import Moments, Quantiser


def plain(X, T):
    """What one would write: correct only while the mean is small against the spread."""
    wide = X.astype(np.float64)
    return wide.T @ wide, wide.T @ T


def main() -> None:
    parser = words(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(arguments.rows, arguments.features)).astype(np.float32)
    T = np.eye(10)[rng.integers(0, 10, arguments.rows)]
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(X, T),
        "moments": lambda: Moments.from_rows(X, T),
        "exact": lambda: Moments.from_rows(X, T, exact=Quantiser(8.0)),
        "fourth": lambda: Moments.from_rows(X, T, fourth=True),
    }
    seconds = _medians(ways, arguments.repeats)
    document = {
        "claim": "moments cost about one plain float64 product, in a fraction of its memory",
        "rows": arguments.rows,
        "features": arguments.features,
        "seconds": seconds,
        "ratio": seconds["moments"] / seconds["plain"],
        "microseconds_per_row": 1e6 * seconds["moments"] / arguments.rows,
        "peak_memory_of_X": {name: _peak(way) / X.nbytes for name, way in ways.items()},
        "machine": {**machine(), "numpy": np.__version__},
    }
    finish("moments_speed", document, save=arguments.save)


def _medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Interleaved, so that a busy minute hits all of them; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _peak(way: Callable[[], object]) -> float:
    tracemalloc.start()
    way()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)


if __name__ == "__main__":
    main()
