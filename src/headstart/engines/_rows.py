"""From what a layer gave to rows that leave an engine: pooled, float32, and their numbers looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from headstart.errors import NumericsError


def rows_of_batch(reduce: Mapping[str, Callable[[Any, Any], Any]], batch: Any) -> dict[str, Callable[[Any], Any]]:
    """Poolings, which are functions of (output, batch), as functions of a layer's output in this batch."""
    return {name: partial(_swapped, function, batch) for name, function in reduce.items()}


def _swapped(function: Callable[[Any, Any], Any], batch: Any, output: Any) -> Any:
    return function(output, batch)


def checked(source: Any, kept: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Rows of every layer as float32 arrays; un-pooled items of different lengths are lists of them.

    Raises
    ------
    NumericsError
        When any number is not finite; the layer is named.
    """
    rows = {name: _as_arrays(value) for name, value in kept.items()}
    for name, values in rows.items():
        if all(np.isfinite(one).all() for one in (values if isinstance(values, list) else [values])):
            continue
        hint = "its weights or its input are not finite" if precision == "fp32" else "precision='fp32' may help"
        raise NumericsError(f"{source.address} gives NaN or infinity at layer {name} in {precision}; {hint}.")
    return rows


def described(batch: Any) -> str:
    """A batch in words."""
    return "a batch of " + ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.inputs.items())


def _as_arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_arrays(one) for one in value]
    array: np.ndarray = value.float().cpu().numpy()
    return array
