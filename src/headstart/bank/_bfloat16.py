"""bfloat16 for numpy, which has no such type: the upper half of a float32 kept as uint16. Floor 1."""

from __future__ import annotations

import numpy as np

from headstart._typing import Array


def to_bf16(values: Array) -> Array:
    """Round float32 to bfloat16, to the nearest and ties to even, as hardware does.

    Parameters
    ----------
    values : array of float32, any shape

    Returns
    -------
    array of uint16, same shape
        Raw bits. NaN stays NaN, infinities stay; finite numbers above the largest bfloat16 become infinite.

    Examples
    --------
    >>> from_bf16(to_bf16(np.array([1.0, 3.14159, np.inf], dtype=np.float32))).tolist()
    [1.0, 3.140625, inf]
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding would carry the bits of some NaN into the exponent or the sign: cut those, and keep them quiet.
    return np.where(np.isnan(values), (bits >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)


def from_bf16(bits: Array) -> Array:
    """The float32 values, exactly, of raw bfloat16 bits (uint16)."""
    return (np.asarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
