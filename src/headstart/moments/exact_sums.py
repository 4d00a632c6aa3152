"""What a head was solved from, kept so that items can be taken out of it again, to the last bit.

Features become whole numbers on a grid of their row's own, which the largest of them decides: what a row adds depends
on no other row. Rows of one grid are summed, exactly; the sums, the finest grid first, are merged into the moments that
heads are solved from. So these are a function of the *set* of rows, and less some rows they are those of the others.

Targets that are numbers are cut into pieces of 13 bits, on one grid for all of them.
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
from headstart.errors import DataError, NumericsError
from headstart.linalg.pca import blocks
from headstart.moments.exact import Quantiser
from headstart.moments.moments import Moments

SHORT = 8  # bytes of a content key
_PIECE = Quantiser(8191.0)  # whole numbers of 13 bits and a sign stay what they are
_UNITS = 2.0 ** (13 * np.arange(5, -7, -1))  # of the pieces of a number, the largest first
_LARGEST = 2.0**13 * _UNITS[0]
_SMALLEST = 2.0**26 * _UNITS[-1]  # the largest of a column must keep 26 bits


@dataclass(frozen=True, eq=False)
class ExactSums:
    """Sums of whole numbers, and what of them is whose.

    Attributes
    ----------
    sums : mapping of int to Moments
        Grid → exact moments of its rows; features are cut off at 2**grid.
    keys, marks : (n, 8) arrays of uint8
        Each row's short content key, and a hash of the whole numbers that its features became.
    targets : (n, t) array
    pieces : Moments or None
        Exact moments of the pieces of targets that are numbers.
    """

    sums: Mapping[int, Moments]
    keys: np.ndarray
    marks: np.ndarray
    targets: np.ndarray
    pieces: Moments | None = None

    @classmethod
    def of(cls, X: np.ndarray, T: np.ndarray, keys: Sequence[bytes] | np.ndarray, *, numbers: bool) -> Self:
        """The rows of a fit; ``numbers`` where targets are values. Cost: O(n·d²) time, O(d²) memory for each grid."""
        summed = _cut(T) if numbers else T
        grids, marks, sums = _grids(X), np.empty((len(X), SHORT), np.uint8), {}
        for grid in np.unique(grids).tolist():
            index = np.flatnonzero(grids == grid)
            quantiser = _quantiser(grid)
            sums[grid] = Moments.from_rows(X[index], summed[index], exact=quantiser)
            for part in blocks(len(index), X.shape[1]):
                marks[index[part]] = _hashed(grid, quantiser.integers(X[index[part]].astype(np.float64)))
        short = keys if isinstance(keys, np.ndarray) else _short(keys)
        return cls(sums, short, marks, T, Moments.from_rows(summed, exact=_PIECE) if numbers else None)

    @cached_property
    def moments(self) -> Moments:
        """Of all rows: what heads are solved from."""
        parts = [Moments(one.centred, one.one_hot, one.binary) for _, one in sorted(self.sums.items())]
        whole = sum(parts[1:], parts[0])
        if self.pieces is None:
            return whole
        back = np.kron(np.eye(self.targets.shape[1]), _UNITS[:, None])  # a target's pieces lie side by side
        found = whole.centred
        spread = np.einsum("pt,pt->t", back, self.pieces.scatter @ back)
        return Moments(
            dataclasses.replace(
                found, target_mean=found.target_mean @ back, cross=found.cross @ back, target_scatter=spread
            )
        )

    def without(self, X: np.ndarray, keys: Sequence[bytes]) -> Self:
        """Less every row of the items with these short keys; X (m, d) has their features.

        Raises
        ------
        DataError
            When a row's features are not those that were added: what is left would keep a trace of them.
        """
        place = {key: i for i, key in enumerate(keys)}
        found = np.array([place.get(row.tobytes(), -1) for row in self.keys], dtype=np.int64)
        gone, left = np.flatnonzero(found >= 0), found < 0
        if not len(gone):
            return self
        part = self.of(X[found[gone]], self.targets[gone], self.keys[gone], numbers=self.pieces is not None)
        other = {*found[gone][(part.marks != self.marks[gone]).any(axis=1)].tolist()}
        if other:
            raise DataError(
                f"The features of {len(other)} of {len(keys)} items are not to the last bit those that were fitted on: "
                "taking them out would leave a trace. Those of the fit are no longer in the store, and what is "
                "computed again differs with what else is computed beside it. Give store= as it was given to fit, and "
                "the items in the form in which fit was given them; or fit again on a dataset without them."
            )
        sums = {grid: one - part.sums[grid] if grid in part.sums else one for grid, one in self.sums.items()}
        kept = {grid: one for grid, one in sums.items() if one.count}
        pieces = None if self.pieces is None or part.pieces is None else self.pieces - part.pieces
        return type(self)(kept, self.keys[left], self.marks[left], self.targets[left], pieces)

    def record(self) -> dict[str, Any]:
        """Plain data that, with :meth:`arrays`, rebuilds it."""
        return {
            "grids": [[grid, one.pack()[1]] for grid, one in sorted(self.sums.items())],
            "pieces": None if self.pieces is None else self.pieces.pack()[1],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers, under names that begin with ``ledger.``."""
        targets = self.targets if self.pieces is not None else self.targets.astype(np.uint8)
        found = {"keys": self.keys, "marks": self.marks, "targets": targets}
        for grid, one in self.sums.items():
            found |= {f"{grid}.{name}": array for name, array in one.pack()[0].items()}
        if self.pieces is not None:
            found |= {f"pieces.{name}": array for name, array in self.pieces.pack()[0].items()}
        return {f"ledger.{name}": array for name, array in found.items()}

    @classmethod
    def rebuilt(
        cls, record: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray], *, task: str, shape: tuple[int, int]
    ) -> Self | None:
        """From what was saved, for ``shape`` features and targets; None where nothing was kept."""
        if record is None:
            return None
        sums = {grid: Moments.unpack(_under(f"ledger.{grid}.", arrays), one) for grid, one in record["grids"]}
        numbers, pieces = record["pieces"], None
        if numbers is not None:
            pieces = Moments.unpack(_under("ledger.pieces.", arrays), numbers)
        keys, marks, targets = (arrays[f"ledger.{name}"] for name in ("keys", "marks", "targets"))
        check_saved(
            (pieces is not None) == (task == "regression") and len(sums) == len(record["grids"]) > 0, "its ledger"
        )
        check_saved(targets.dtype == (np.uint8 if pieces is None else np.float64), "the targets of its ledger")
        found = cls(sums, keys, marks, targets.astype(np.float64), pieces)
        found._check(task, shape)
        return found

    def _check(self, task: str, shape: tuple[int, int]) -> None:
        """Whatever could only go wrong when something is forgotten."""
        n = len(self.targets)
        check_saved(
            self.targets.shape == (n, shape[1]) and np.isfinite(self.targets).all(), "the targets of its ledger"
        )
        check_saved(
            all(one.shape == (n, SHORT) and one.dtype == np.uint8 for one in (self.keys, self.marks)), "its keys"
        )
        summed = self.targets if self.pieces is None else _cut(self.targets)
        grids = all(type(grid) is int and one.quantiser == _quantiser(grid) for grid, one in self.sums.items())
        fits = all((one.features, one.targets) == (shape[0], summed.shape[1]) for one in self.sums.values())
        check_saved(grids and fits and all(one.count for one in self.sums.values()), "the sums of its ledger")
        check_saved(sum(one.count for one in self.sums.values()) == n, "the sums of its ledger")
        total = np.sum([one.state.target_total for one in self.sums.values()], axis=0)  # type: ignore[union-attr]
        check_saved(np.array_equal(total, summed.sum(axis=0)), "the sums of its ledger")
        kinds = {"classification": self.moments.is_one_hot, "multilabel": self.moments.is_binary}
        check_saved(kinds.get(task, True), "the targets of its ledger")
        if self.pieces is not None:
            check_saved(self.pieces == Moments.from_rows(summed, exact=_PIECE), "the pieces of its ledger")


def _short(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(key[:SHORT] for key in keys), np.uint8).reshape(len(keys), SHORT)


def _grids(X: np.ndarray) -> np.ndarray:
    """The even power of two above each row's largest number (n,); two bits are lost at most, and few grids are met."""
    exponents = np.frexp(np.abs(X).max(axis=1).astype(np.float64))[1]
    return exponents + (exponents & 1)


def _quantiser(grid: int) -> Quantiser:
    return Quantiser(2.0**grid)


def _hashed(grid: int, whole: np.ndarray) -> np.ndarray:
    """The marks (m, 8) of rows of whole numbers."""
    rows = whole.astype("<i2")
    return _short([key_of_bytes(grid.to_bytes(2, "little", signed=True) + row.tobytes()) for row in rows])


def _cut(T: np.ndarray) -> np.ndarray:
    """Numbers (n, t) as whole numbers (n, 12 t): ``_cut(T) @ units`` is T again, to 3e-24."""
    largest = np.abs(T).max(axis=0)
    if (largest >= _LARGEST).any() or ((largest > 0) & (largest < _SMALLEST)).any():
        raise NumericsError(
            f"exact=True holds target columns whose largest number is from {_SMALLEST:.0e} to {_LARGEST:.0e}; these "
            f"have {', '.join(f'{one:.3g}' for one in largest)}. Rescale them."
        )
    pieces, rest = [], T.astype(np.float64)
    for unit in _UNITS:
        pieces.append(np.trunc(rest / unit))
        rest = rest - pieces[-1] * unit
    return np.stack(pieces, axis=2).reshape(len(T), -1)


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
