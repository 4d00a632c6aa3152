"""Parse what users hand over as data: arrays, lists of arrays, texts, paths, or files' contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from headstart._base.registry import unknown_name
from headstart._base.typing import MODALITIES, Array, Modality
from headstart.dataset.folders import modality_from_suffix
from headstart.errors import DataError, OptionError, UnknownName

_CHANNELS = (1, 3, 4)
_CHECK_SIZE = 1 << 24  # numbers looked at in one go, so that the check for NaN needs no copy of a large array


def parse_arrays(X: ArrayLike, modality: str | None) -> tuple[tuple[Any, ...], Modality, bool]:
    """Return items, modality, and True where the items count as preprocessed already, of a user's ``X``.

    Raises
    ------
    DataError
        When there are no items, the shape or dtype fits no modality, or numbers are not finite.
    """
    if modality is not None and modality not in MODALITIES:
        raise UnknownName(unknown_name("modalities", modality, list(MODALITIES)))
    if hasattr(X, "toarray"):
        raise DataError("X is a sparse matrix; give X.toarray().")
    if isinstance(X, (str, bytes, Path)) or not hasattr(X, "__len__") or isinstance(X, dict):
        raise OptionError(f"X must be an array or a list of texts or arrays; got {type(X).__name__}.")
    if isinstance(X, (list, tuple)) or (isinstance(X, np.ndarray) and X.dtype.kind in "OUS"):
        return _from_sequence(list(X), modality)
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"X has no items (shape {array.shape}).")
    array = _immutable(array)
    kind = _kind_of(array, modality)
    return tuple(array), kind, kind == "image" and array.dtype.kind == "f"


def _from_sequence(values: list[Any], modality: str | None) -> tuple[tuple[Any, ...], Modality, bool]:
    if not values:
        raise DataError("X has no items.")
    if all(isinstance(v, str) for v in values):
        if modality not in (None, "text"):
            raise DataError(
                f"X holds strings, which are texts; for {modality} files use Dataset.from_folder or from_table."
            )
        return tuple(map(str, values)), "text", False
    if any(isinstance(v, (str, bytes, Path, dict)) or v is None for v in values):
        kinds = ", ".join(sorted({type(v).__name__ for v in values}))
        raise DataError(f"X must be an array, a list of texts or a list of arrays; it holds {kinds}.")
    arrays = [np.asarray(v) for v in values]
    if len({(a.shape, a.dtype.kind) for a in arrays}) == 1:
        return parse_arrays(np.stack(arrays), modality)
    kinds_found = {_kind_of(_immutable(a[None]), modality) for a in arrays}
    if len(kinds_found) > 1 or kinds_found == {"vector"}:
        shapes = ", ".join(map(str, sorted({a.shape for a in arrays})[:4]))
        raise DataError(f"The arrays in X have different shapes ({shapes}); only images and audio may.")
    floats = {a.dtype.kind == "f" for a in arrays}
    if len(floats) > 1:
        raise DataError("X mixes uint8 images with float ones; give one kind.")
    return tuple(_immutable(a) for a in arrays), next(iter(kinds_found)), kinds_found == {"image"} and floats == {True}


def _immutable(array: Array) -> Array:
    """Return a read-only array. One that could be written to is copied, or content keys would go stale unseen."""
    owner: Any = array  # of the memory: a read-only view of a writable array can change, too
    while isinstance(owner, np.ndarray) and not owner.flags.writeable:
        owner = owner.base
    if isinstance(owner, np.ndarray):
        array = array.copy()
    view = array.view()
    view.flags.writeable = False
    return view


def _kind_of(array: Array, modality: str | None) -> Modality:
    """Infer the modality of a batch from its number of axes and dtype."""
    kind: Modality
    if array.dtype.kind not in "iufb":
        raise DataError(f"X has dtype {array.dtype}; give numbers, or a list of texts.")
    if array.ndim == 1:
        raise DataError(f"X has shape {array.shape}: one number per item. One feature is X.reshape(-1, 1).")
    if array.ndim == 2:
        kind = "audio" if modality == "audio" else "vector"
    elif array.ndim in (3, 4):
        kind = "image"
        _check_image(array)
    else:
        raise DataError(f"X has shape {array.shape}; give (n, d) vectors or (n, height, width[, channels]) images.")
    if modality not in (None, kind):
        raise DataError(f"X has shape {array.shape} and dtype {array.dtype}, which is {kind}, not {modality}.")
    _check_finite(array)
    return kind


def _check_image(array: Array) -> None:
    last = array.shape[-1] in _CHANNELS
    first = array.ndim == 4 and array.shape[1] in _CHANNELS
    if array.dtype.kind != "f" and array.dtype != np.uint8:
        raise DataError(
            f"Images of dtype {array.dtype} have no agreed range. Give uint8 from 0 to 255 (X.astype(np.uint8)), or "
            "float if they are preprocessed already."
        )
    if array.ndim == 4 and not last:
        if first and array.dtype == np.uint8:
            raise DataError(
                f"uint8 images are (n, height, width, channels); {array.shape} needs X.transpose(0, 2, 3, 1)."
            )
        if not first:
            raise DataError(f"X has shape {array.shape}; images have 1, 3 or 4 channels in the last axis.")
    if 0 in array.shape:
        raise DataError(f"X has shape {array.shape}: the images have no pixels.")


def _check_finite(array: Array) -> None:
    if array.dtype.kind != "f":
        return
    step = max(1, _CHECK_SIZE // max(1, array[0].size))
    for start in range(0, len(array), step):
        block = array[start : start + step]
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))[0])
            raise DataError(
                f"X is not finite in row {row}: NaN or infinity. Leave such rows out or fill them in first."
            )


def parse_items(x: object, modality: str | None) -> tuple[tuple[Any, ...], Modality, bool]:
    """Return the items of a prediction: one item or a list of paths, texts, file contents or arrays.

    A string is a path where images or audio are expected and a text where texts are; a ``Path`` is always a file.
    """
    if isinstance(x, (str, bytes, Path)):
        x = [x]
    if hasattr(x, "__array__") and not isinstance(x, (list, tuple)):
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.kind not in "OUS":
        single = x.ndim == 1 or (x.ndim in (2, 3) and _is_single_image(x, modality))
        return parse_arrays(x[None] if single else x, modality)
    values: list[Any] = list(x) if isinstance(x, Iterable) else [x]
    if not values:
        raise DataError("There is nothing to predict: the list of items is empty.")
    if all(hasattr(v, "__array__") and not isinstance(v, np.str_) for v in values):
        return parse_arrays(values, modality)
    if any(not isinstance(v, (str, bytes, Path)) for v in values):
        kinds = " and ".join(sorted({type(v).__name__ for v in values}))
        raise DataError(f"Items are paths, texts and files' contents, or they are arrays; got {kinds}.")
    kind = _check_modality(modality) if modality is not None else _guess_modality(values)
    if kind == "vector":
        raise DataError(f"Vectors are given as arrays, not as {type(values[0]).__name__}.")
    return tuple(_as_item(v, kind) for v in values), kind, False


def _is_single_image(array: Array, modality: str | None) -> bool:
    return modality == "image" and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in _CHANNELS))


def _as_item(value: str | bytes | Path, kind: Modality) -> Path | str | bytes:
    if isinstance(value, bytes):
        return value
    return str(value) if isinstance(value, str) and kind == "text" else Path(value)


def _check_modality(modality: str) -> Modality:
    for name in MODALITIES:
        if name == modality:
            return name
    raise UnknownName(unknown_name("modalities", modality, list(MODALITIES)))


def _guess_modality(values: Sequence[Any]) -> Modality:
    kinds = Counter(modality_from_suffix(v) if isinstance(v, (str, Path)) else None for v in values)
    by_suffix = [kind for kind in kinds if kind is not None]
    if len(by_suffix) == 1 and None not in kinds:
        return by_suffix[0]
    if not by_suffix and all(isinstance(v, str) for v in values):
        return "text"
    raise DataError("It is not clear whether the items are images, audio or texts; say modality=.")
