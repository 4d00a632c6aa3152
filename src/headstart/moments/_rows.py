"""Rows as they come in: checked, and handed out in float64 blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart._typing import Array, Float
from headstart.errors import DataError, NumericsError

_BLOCK_BYTES = 32 << 20


def checked(X: Any, T: Any) -> tuple[Array, Array]:
    """Features (n, d) and targets (n, t) as arrays of real numbers, or one DataError with all that is wrong."""
    X = np.asarray(X)
    T = np.zeros((len(X) if X.ndim else 0, 0)) if T is None else np.asarray(T)
    problems = []
    for name, array, wish in (("X", X, "(n, d) features"), ("T", T, "(n, t) targets")):
        if array.ndim != 2:
            problems.append(f"{name} must be {wish}; got shape {array.shape}.")
        elif array.dtype.kind not in "fiub":
            problems.append(f"{name} must hold real numbers; got dtype {array.dtype}.")
    if T.ndim == 1:
        problems.append("For classes give T = np.eye(number_of_classes)[labels]; for one column of values, T[:, None].")
    if not problems and len(X) != len(T):
        problems.append(f"X has {len(X):,} rows and T {len(T):,}; they must have one row per item each.")
    if problems:
        raise DataError("\n".join(problems))
    return X, T


def blocks(X: Array, T: Array) -> Iterator[tuple[Float, Float]]:
    """Float64 copies of blocks of about 32 MiB: never of the whole of a large X.

    Raises
    ------
    NumericsError
        When rows are not finite; it counts them over all of X and T.
    """
    size = max(64, _BLOCK_BYTES // (8 * max(1, X.shape[1] + T.shape[1])))
    for start in range(0, len(X), size):
        rows = X[start : start + size].astype(np.float64)
        targets = T[start : start + size].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(rows.sum()) and np.isfinite(targets.sum())
        if not finite:  # a sum can also overflow over finite rows: then none is counted, and the scatter will say it
            _refuse_bad_rows(X, T, size)
        yield rows, targets


def _refuse_bad_rows(X: Array, T: Array, size: int) -> None:
    counts = []
    for array in (X, T):
        steps = range(0, len(array), size)
        counts.append(sum(int((~np.isfinite(array[s : s + size]).all(axis=1)).sum()) for s in steps))
    if any(counts):
        raise NumericsError(
            f"{counts[0]:,} of {len(X):,} rows of features and {counts[1]:,} of targets are not finite (NaN or inf). "
            "Leave them out, with their targets: keep = np.isfinite(X).all(axis=1) & np.isfinite(T).all(axis=1)."
        )
