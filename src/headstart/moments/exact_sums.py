"""Unlearning state: the exact sums that a head was solved from, so that items can be removed again, to the last bit.

Each row's features become integers on a grid of its own, a power of two that its largest feature decides: what a row
adds depends on no other row. Rows of one grid are summed exactly, and the sums, finest grid first, are merged into the
moments that heads are solved from. These are therefore a function of the *set* of rows alone, and with some rows
removed they equal the moments of the others.

Numeric targets are split into limbs of 13 bits, on one grid for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from headstart._base.constraints import check_saved
from headstart._base.hashing import key_of_bytes
from headstart._base.typing import Array, Float, Ints
from headstart.errors import DataError, NumericsError
from headstart.linalg.pca import row_blocks
from headstart.moments.exact import Quantiser
from headstart.moments.moments import Moments

SHORT = 8  # bytes of a content key that are kept
_LIMB_GRID = Quantiser(8191.0)  # integers of 13 bits and a sign stay what they are
_LIMB_UNITS = 2.0 ** (13 * np.arange(5, -7, -1))  # what 1 in each of the twelve limbs stands for, largest first
_LARGEST = 2.0**13 * _LIMB_UNITS[0]
_SMALLEST = 2.0**26 * _LIMB_UNITS[-1]  # the largest of a column must keep 26 bits
# Names in saved predictors are those of version 0.1: "ledger", "grids", "marks" and "pieces".
_PREFIX = "ledger."


@dataclass(frozen=True, eq=False)
class ExactSums:
    """Exact sums of rows, with what is needed to remove a row from them.

    Attributes
    ----------
    sums : mapping of int to Moments
        Exponent → exact moments of the rows whose features are below 2**exponent.
    keys, row_hashes : (n, 8) arrays of uint8
        Each row's short content key, and a hash of the integers that its features became.
    targets : (n, t) array
    target_limbs : Moments or None
        Exact moments of the limbs of numeric targets.
    """

    sums: Mapping[int, Moments]
    keys: Array
    row_hashes: Array
    targets: Float
    target_limbs: Moments | None = None

    @classmethod
    def from_rows(cls, X: Array, T: Float, keys: Sequence[bytes] | Array, *, regression: bool) -> Self:
        """Sum the rows (n, d) and targets (n, t) of a fit; with ``regression`` targets are numbers.

        **Cost**: O(n·d²) time, O(d²) memory for each exponent.
        """
        summed = split_into_limbs(T) if regression else T
        exponents = row_exponents(X)
        row_hashes = np.empty((len(X), SHORT), np.uint8)
        sums = {}
        for exponent in np.unique(exponents).tolist():
            index = np.flatnonzero(exponents == exponent)
            quantiser = _quantiser(exponent)
            sums[exponent] = Moments.from_rows(X[index], summed[index], exact=quantiser)
            for part in row_blocks(len(index), X.shape[1]):
                integers = quantiser.integers(X[index[part]].astype(np.float64))
                row_hashes[index[part]] = _hash_rows(exponent, integers)
        short = keys if isinstance(keys, np.ndarray) else _shorten(keys)
        limbs = Moments.from_rows(summed, exact=_LIMB_GRID) if regression else None
        return cls(sums, short, row_hashes, T, limbs)

    @cached_property
    def moments(self) -> Moments:
        """Moments of all rows: what heads are solved from."""
        # A fixed order of exponents: the merge of floats depends on it.
        parts = [Moments(part.centred, part.one_hot, part.binary) for _, part in sorted(self.sums.items())]
        total = sum(parts[1:], parts[0])
        if self.target_limbs is None:
            return total
        # A target's limbs lie side by side: this maps (t · 12) limbs to t numbers.
        to_targets = np.kron(np.eye(self.targets.shape[1]), _LIMB_UNITS[:, None])
        limbs = total.centred
        state = dataclasses.replace(
            limbs,
            target_mean=limbs.target_mean @ to_targets,
            cross=limbs.cross @ to_targets,
            target_scatter=np.einsum("pt,pt->t", to_targets, self.target_limbs.scatter @ to_targets),
        )
        return Moments(state)

    def without(self, X: Array, keys: Sequence[bytes]) -> Self:
        """Remove every row of the items with these short keys; X (m, d) has their features.

        Raises
        ------
        DataError
            When a row's features are not those that were added: what is left would keep a trace of them.
        """
        item_of_key = {key: i for i, key in enumerate(keys)}
        items = np.array([item_of_key.get(row.tobytes(), -1) for row in self.keys], dtype=np.int64)
        removed, remaining = np.flatnonzero(items >= 0), items < 0
        if not len(removed):
            return self
        regression = self.target_limbs is not None
        part = self.from_rows(X[items[removed]], self.targets[removed], self.keys[removed], regression=regression)
        differs = (part.row_hashes != self.row_hashes[removed]).any(axis=1)
        if differs.any():
            count = len(np.unique(items[removed][differs]))
            raise DataError(
                f"The features of {count} of {len(keys)} items are not to the last bit those that were fitted on: "
                "taking them out would leave a trace. Those of the fit are no longer in the store, and what is "
                "computed again differs with what else is computed beside it. Give store= as it was given to fit, and "
                "the items in the form in which fit was given them; or fit again on a dataset without them."
            )
        sums = dict(self.sums)
        for exponent, removed_sums in part.sums.items():
            sums[exponent] = sums[exponent] - removed_sums
        sums = {exponent: moments for exponent, moments in sums.items() if moments.count}
        limbs = None
        if self.target_limbs is not None and part.target_limbs is not None:
            limbs = self.target_limbs - part.target_limbs
        return type(self)(sums, self.keys[remaining], self.row_hashes[remaining], self.targets[remaining], limbs)

    def config(self) -> dict[str, Any]:
        """Plain data that, with :meth:`state`, rebuilds it."""
        return {
            "grids": [[exponent, moments.pack()[1]] for exponent, moments in sorted(self.sums.items())],
            "pieces": None if self.target_limbs is None else self.target_limbs.pack()[1],
        }

    def state(self) -> dict[str, Array]:
        """All numbers, as named arrays."""
        targets = self.targets if self.target_limbs is not None else self.targets.astype(np.uint8)
        arrays = {"keys": self.keys, "marks": self.row_hashes, "targets": targets}
        for exponent, moments in self.sums.items():
            arrays |= {f"{exponent}.{name}": array for name, array in moments.pack()[0].items()}
        if self.target_limbs is not None:
            arrays |= {f"pieces.{name}": array for name, array in self.target_limbs.pack()[0].items()}
        return {_PREFIX + name: array for name, array in arrays.items()}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any] | None, state: Mapping[str, Array], *, task: str, shape: tuple[int, int]
    ) -> Self | None:
        """Rebuild from what was saved, for ``shape`` features and targets; None where nothing was kept.

        Raises
        ------
        ValueError, KeyError, TypeError, StoreError
            When what was saved cannot be right; whoever loads a file says which.
        """
        if config is None:
            return None
        sums = {
            exponent: Moments.unpack(_with_prefix(f"{_PREFIX}{exponent}.", state), record)
            for exponent, record in config["grids"]
        }
        limbs = None
        if config["pieces"] is not None:
            limbs = Moments.unpack(_with_prefix(f"{_PREFIX}pieces.", state), config["pieces"])
        keys, row_hashes, targets = (state[_PREFIX + name] for name in ("keys", "marks", "targets"))
        check_saved((limbs is not None) == (task == "regression"), "the unlearning state")
        check_saved(len(sums) == len(config["grids"]) > 0, "the unlearning state")
        check_saved(targets.dtype == (np.uint8 if limbs is None else np.float64), "the targets to unlearn")
        rebuilt = cls(sums, keys, row_hashes, targets.astype(np.float64), limbs)
        rebuilt._check(task, shape)
        return rebuilt

    def _check(self, task: str, shape: tuple[int, int]) -> None:
        """Check at loading what could otherwise only go wrong when an item is forgotten."""
        n = len(self.targets)
        finite = bool(np.isfinite(self.targets).all())
        check_saved(finite and self.targets.shape == (n, shape[1]), "the targets to unlearn")
        for array in (self.keys, self.row_hashes):
            check_saved(array.shape == (n, SHORT) and array.dtype == np.uint8, "the keys to unlearn by")
        summed = self.targets if self.target_limbs is None else split_into_limbs(self.targets)
        for exponent, part in self.sums.items():
            check_saved(type(exponent) is int and part.quantiser == _quantiser(exponent), "the sums to unlearn from")
            fits = (part.features, part.targets) == (shape[0], summed.shape[1])
            check_saved(fits and part.count > 0, "the sums to unlearn from")
        check_saved(sum(part.count for part in self.sums.values()) == n, "the sums to unlearn from")
        total = np.sum([part.state.target_total for part in self.sums.values()], axis=0)  # type: ignore[union-attr]
        check_saved(np.array_equal(total, summed.sum(axis=0)), "the sums to unlearn from")
        kinds = {"classification": self.moments.is_one_hot, "multilabel": self.moments.is_binary}
        check_saved(kinds.get(task, True), "the targets to unlearn")
        if self.target_limbs is not None:
            expected = Moments.from_rows(summed, exact=_LIMB_GRID)
            check_saved(self.target_limbs == expected, "the limbs of the targets to unlearn")


def row_exponents(X: Array) -> Ints:
    """Return the even power of two above each row's largest magnitude, (n,).

    Even powers only: at most two bits are lost, and a data set has few of them.
    """
    exponents = np.frexp(np.abs(X).max(axis=1).astype(np.float64))[1]
    return np.asarray(exponents + (exponents & 1), dtype=np.int64)


def split_into_limbs(T: Float) -> Float:
    """Split numbers (n, t) into integers (n, 12 t) of 13 bits; limbs times their units give T again, to 3e-24.

    Raises
    ------
    NumericsError
        When the largest number of a column is beyond the limbs.
    """
    largest = np.abs(T).max(axis=0)
    if (largest >= _LARGEST).any() or ((largest > 0) & (largest < _SMALLEST)).any():
        raise NumericsError(
            f"exact=True holds target columns whose largest number is from {_SMALLEST:.0e} to {_LARGEST:.0e}; these "
            f"have {', '.join(f'{value:.3g}' for value in largest)}. Rescale them."
        )
    limbs, rest = [], T.astype(np.float64)
    for unit in _LIMB_UNITS:
        limbs.append(np.trunc(rest / unit))
        rest = rest - limbs[-1] * unit
    return np.stack(limbs, axis=2).reshape(len(T), -1)


def _quantiser(exponent: int) -> Quantiser:
    return Quantiser(2.0**exponent)


def _shorten(keys: Sequence[bytes]) -> Array:
    return np.frombuffer(b"".join(key[:SHORT] for key in keys), np.uint8).reshape(len(keys), SHORT)


def _hash_rows(exponent: int, integers: Float) -> Array:
    """Hash rows (m, d) of integers together with their exponent, (m, 8) uint8."""
    salt = exponent.to_bytes(2, "little", signed=True)
    return _shorten([key_of_bytes(salt + row.tobytes()) for row in integers.astype("<i2")])


def _with_prefix(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
