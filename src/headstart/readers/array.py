"""Arrays: rows of numbers and preprocessed images, from memory or from .npy files. Floor 3: imports base.py.

Nothing is scaled or converted but the byte order; numbers that are not finite are refused.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from headstart._base.constraints import Interval
from headstart._base.typing import Array
from headstart.readers.base import Item, Refused, file_kind, read_bytes, translate_errors

REVISION = 1  # raise it when the same item would give other numbers


@dataclass(frozen=True)
class ArrayReader:
    """Arrays of numbers, .npy files or their bytes → contiguous arrays.

    Parameters
    ----------
    max_bytes : int
        Larger arrays are refused.

    Notes
    -----
    **Shapes.** Any shape of at least one dimension; dtype bool, integer or float, kept as it is.
    **Cost.** O(n); an array that is contiguous already is handed back without a copy.

    Examples
    --------
    >>> import numpy as np
    >>> ArrayReader().read(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    modality: ClassVar[str] = "vector"

    max_bytes: Annotated[int, Interval(1, None, integer=True)] = 8 << 30

    def read(self, item: Item) -> Array:
        """The numbers of an array, of a path to a .npy file, or of such a file's bytes."""
        if isinstance(item, np.ndarray):
            with translate_errors(item):
                return _checked(item, self.max_bytes)
        blob = read_bytes(item, max_bytes=self.max_bytes)
        with translate_errors(item):
            return _checked(_of_npy(blob), self.max_bytes)

    def recipe(self) -> dict[str, Any]:
        """Return plain data that changes whenever the numbers would."""
        return {"reader": "vector", "revision": REVISION}


def _checked(array: Array, max_bytes: int) -> Array:
    if array.dtype.kind not in "biuf":
        raise Refused(f"not numbers but {array.dtype}")
    if array.ndim < 1:
        raise Refused("a single number, not a row of them")
    if not array.size:
        raise Refused(f"empty (shape {array.shape})")
    if array.nbytes > max_bytes:
        raise Refused(f"too large: {array.nbytes:,} bytes; at most {max_bytes:,} are read")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("contains NaN" if np.isnan(array).any() else "contains infinite values")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _of_npy(blob: bytes) -> Array:
    """A .npy file without np.load: the header's word for the size is checked before anything is allocated."""
    if file_kind(blob) != "a NumPy array":
        raise Refused(f"not a .npy array ({file_kind(blob)})")
    file = io.BytesIO(blob)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise Refused("holds Python objects, which would have to be unpickled")
    count, start = math.prod(shape), file.tell()
    if min(shape, default=0) < 0 or count * dtype.itemsize > len(blob) - start:
        raise Refused("truncated")
    numbers = np.frombuffer(blob, dtype, count=count, offset=start)
    return numbers.reshape(shape, order="F" if fortran else "C").copy(order="C")
