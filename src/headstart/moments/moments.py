"""The Moments record: what users hold. Its arithmetic is in ``centred`` and ``_exact``, its file in ``storage``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import DataError, HeadstartError, NumericsError, OptionError, StoreError
from headstart.moments import centred, storage
from headstart.moments import exact as _exact
from headstart.moments.derived import Derived, State
from headstart.moments.exact import Quantiser, Sums

# ---- Rows as they come in: checked, and handed out in float64 blocks. ----


_BLOCK_BYTES = 32 << 20


def check_rows(X: Any, T: Any) -> tuple[Array, Array]:
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


def float_blocks(X: Array, T: Array) -> Iterator[tuple[Float, Float]]:
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


@dataclass(frozen=True, eq=False, repr=False)
class Moments(Derived):
    """Mergeable sufficient statistics of feature rows (n, d) and targets (n, t).

    Made by :meth:`from_rows`, combined by ``+`` and ``-``; never changed in place. Targets are a matrix: one-hot for
    classes, 0 and 1 for multi-label, numbers for regression, or none at all (t = 0).

    Attributes
    ----------
    state : Centred or Sums
        The arrays: centred float64, or exact integer sums.
    one_hot, binary : int
        How many of the rows had one-hot targets, and targets of only 0 and 1.
    classes : tuple of Moments, or None
        Per class, the moments of its rows (without targets), when asked for with ``per_class=True``.

    Notes
    -----
    Accumulated in float64 with the scatter centred, so that an offset of 10⁵ costs no digits; merged by the pairwise
    update of Chan, Golub and LeVeque. With a :class:`Quantiser` all sums are exact integers: merge, removal and
    shuffling then give identical bits. Merging is not privacy: a class of one row shows that row as its mean.

    **Shapes**: ``mean (d,)``, ``scatter (d, d)``, ``target_mean (t,)``, ``cross (d, t)``, ``target_scatter (t,)``.
    **Cost**: O(n·d·(d + t)) time; O(d² + dt) memory, times the number of classes with ``per_class``.

    Examples
    --------
    >>> X, T = np.array([[0.0], [2.0], [4.0]]), np.eye(2)[[0, 0, 1]]
    >>> a, b = Moments.from_rows(X[:1], T[:1]), Moments.from_rows(X[1:], T[1:])
    >>> (a + b).mean, (a + b).scatter, (a + b - a).count
    (array([2.]), array([[8.]]), 2)
    """

    state: State
    one_hot: int = 0
    binary: int = 0
    classes: tuple[Moments, ...] | None = None

    @classmethod
    def zero(
        cls,
        features: int,
        targets: int = 0,
        *,
        exact: Quantiser | None = None,
        per_class: bool = False,
        fourth: bool = False,
    ) -> Moments:
        """No rows at all: the neutral element of ``+``."""
        state: State
        if exact is None:
            state = centred.zero(features, targets, fourth=fourth)
        elif fourth:
            raise OptionError(
                "fourth=True and exact= do not go together: fourth powers of 14-bit integers overflow float64. "
                "Choose one; oas() shrinks without fourth-order accumulators."
            )
        else:
            state = _exact.zero(exact, features, targets)
        classes = (cls.zero(features, exact=exact, fourth=fourth),) * targets if per_class else None
        return cls(state, 0, 0, classes)

    @classmethod
    def from_rows(
        cls,
        X: Array,
        T: Array | None = None,
        *,
        exact: Quantiser | None = None,
        per_class: bool = False,
        fourth: bool = False,
    ) -> Moments:
        """Summarise rows.

        Parameters
        ----------
        X : (n, d) array of numbers
            Features, of any real dtype, memory-mapped or not; read in blocks of 32 MiB, each raised to float64.
        T : (n, t) array, optional
            Targets as a matrix: one-hot, 0 and 1, or values.
        exact : Quantiser, optional
            Count on this grid, in exact integers.
        per_class : bool
            Keep every class's own moments too (class-weighted ridge, QDA); needs one-hot targets.
        fourth : bool
            Keep the two fourth-order accumulators that Ledoit–Wolf shrinkage needs.

        Raises
        ------
        DataError
            When the shapes or the kinds of the arrays do not fit.
        NumericsError
            When rows are not finite (the message says how many), or too large for float64 or the quantiser.
        """
        X, T = check_rows(X, T)
        total = nothing = cls.zero(X.shape[1], T.shape[1], exact=exact, per_class=per_class, fourth=fourth)
        for rows, targets in float_blocks(X, T):
            total = total + _of_block(rows, targets, nothing)
        return total

    def update(self, X: Array, T: Array | None = None) -> Moments:
        """These moments with further rows merged in, kept in the same way."""
        per_class = self.classes is not None
        return self + Moments.from_rows(X, T, exact=self.quantiser, per_class=per_class, fourth=self.has_fourth)

    def select(self, columns: slice | Array) -> Moments:
        """The moments of some of the features: a layer of a concatenation, a subset in forward selection.

        Not with fourth-order accumulators, whose norms run over all features.
        """
        if self.has_fourth:
            raise OptionError("select() cannot take features out of fourth-order accumulators; use fourth=False.")
        index = np.arange(self.features)[columns]
        square = np.ix_(index, index)
        state: State
        if isinstance(self.state, Sums):
            s = self.state
            state = replace(s, total=s.total[index], gram=s.gram[square], cross=s.cross[index])
        else:
            m = self.state
            state = replace(m, mean=m.mean[index], scatter=m.scatter[square], cross=m.cross[index])
        classes = None if self.classes is None else tuple(part.select(index) for part in self.classes)
        return replace(self, state=state, classes=classes)

    def pack(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Named arrays and a plain record, which :meth:`unpack` turns back into the same bits.

        In exact mode all arrays are integer sums: those of two parts, added, are those of the merged whole, which is
        what masked sums need.
        """
        exact = None if self.quantiser is None else self.quantiser.record()
        record = {
            "features": self.features,
            "targets": self.targets,
            "exact": exact,
            "classes": None if self.classes is None else len(self.classes),
            "fourth": self.has_fourth,
        }
        arrays = storage.pack_state(self.state, (self.one_hot, self.binary))
        for c, part in enumerate(self.classes or ()):
            arrays |= storage.pack_state(part.state, (part.one_hot, part.binary), prefix=f"class{c}.")
        return arrays, record

    @classmethod
    def unpack(cls, arrays: Mapping[str, Array], record: Mapping[str, Any]) -> Moments:
        """The moments that :meth:`pack` took apart.

        Raises
        ------
        StoreError
            When anything is missing, of another shape, not finite, or contradicts itself.
        """
        try:
            layout = storage.MomentsLayout.of(record, list(arrays))
            parts = [cls(*layout.state(arrays, f"class{c}.", 0)) for c in range(layout.classes or 0)]
            state, one_hot, binary = layout.state(arrays, "", layout.targets)
            whole = cls(state, one_hot, binary, None if layout.classes is None else tuple(parts))
            whole._check_classes()
        except (KeyError, TypeError, ValueError, AttributeError, HeadstartError) as error:
            raise StoreError(f"These are not the arrays of moments: {error}") from error
        return whole

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, atomically; its size is about 4·d² + 8·d·t bytes."""
        storage.write(Path(path).expanduser(), *self.pack())

    @classmethod
    def load(cls, path: Path | str) -> Moments:
        """Read what :meth:`save` wrote. StoreError when the file is missing, damaged or something else."""
        arrays, record = storage.read(Path(path).expanduser())
        try:
            return cls.unpack(arrays, record)
        except StoreError as error:
            raise StoreError(f"{path} is damaged. {error}") from error

    def _check_classes(self) -> None:
        """Counts of a file must be whole, and those of classes add up."""
        if self.is_binary and self.count:
            counts = self.count * self.target_mean
            if np.abs(counts - self.class_counts).max(initial=0) > 1e-6 * self.count or (self.class_counts < 0).any():
                raise ValueError("the counts of classes are not whole numbers")
        if self.classes is not None:
            parts = [part.count for part in self.classes]
            if parts != self.class_counts.tolist() or sum(parts) != self.count:
                raise ValueError("the classes do not add up to the whole")

    def __add__(self, other: Moments) -> Moments:
        return self._combined(other, 1) if isinstance(other, Moments) else NotImplemented

    def __radd__(self, other: object) -> Moments:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # lets sum(parts) work

    def __sub__(self, other: Moments) -> Moments:
        return self._combined(other, -1) if isinstance(other, Moments) else NotImplemented

    def _combined(self, other: Moments, sign: int) -> Moments:
        _agree(self, other)
        state: State
        if isinstance(self.state, Sums) and isinstance(other.state, Sums):
            state = _exact.add(self.state, other.state, sign)
        else:
            state = (centred.merge if sign > 0 else centred.remove)(self.centred, other.centred)
        if sign < 0:
            _check_counts(self, other)
        classes = None
        if self.classes is not None and other.classes is not None:
            classes = tuple(a._combined(b, sign) for a, b in zip(self.classes, other.classes, strict=True))
        return Moments(state, self.one_hot + sign * other.one_hot, self.binary + sign * other.binary, classes)

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same to the last bit."""
        if not isinstance(other, Moments):
            return NotImplemented
        (a, one), (b, two) = self.pack(), other.pack()
        return one == two and all(np.array_equal(a[name], b[name]) for name in a)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "" if self.quantiser is None else f", exact in {self.quantiser.bits} bits"
        return f"Moments(count={self.count:,}, features={self.features}, targets={self.targets}{kind})"


def _of_block(rows: Float, targets: Float, nothing: Moments) -> Moments:
    """The moments of one block, kept as those of ``nothing`` are; ``rows`` is overwritten."""
    zero_one = ((targets == 0) | (targets == 1)).all(axis=1)
    one_hot = zero_one & (targets.sum(axis=1) == 1)
    classes = None
    if nothing.classes is not None:
        if not one_hot.all():
            raise DataError(
                "per_class=True needs one-hot targets, and some rows are not. "
                "Use T = np.eye(number_of_classes)[labels], or per_class=False."
            )
        members = list(targets.T == 1)
        classes = tuple(
            _of_block(rows[m], targets[m, :0], none) if m.any() else none
            for m, none in zip(members, nothing.classes, strict=True)
        )
    state: State
    with np.errstate(over="ignore", invalid="ignore"):
        if nothing.quantiser is not None:
            state = _exact.of_block(nothing.quantiser, rows, targets)
        else:
            state = centred.of_block(rows, targets, fourth=nothing.has_fourth)
            if not np.isfinite(state.scatter).all() or not np.isfinite(state.target_scatter).all():
                raise NumericsError("Squares of these features or targets are beyond float64. Rescale them.")
    return Moments(state, int(one_hot.sum()), int(zero_one.sum()), classes)


def _check_counts(whole: Moments, part: Moments) -> None:
    """Refuse a removal that would leave less than nothing of a kind or of a class."""
    kinds = (whole.one_hot - part.one_hot, whole.binary - part.binary)
    left = whole.class_counts - part.class_counts if whole.is_binary and part.is_binary else np.zeros(1)
    if min(kinds) < 0 or left.min(initial=0) < 0:
        raise NumericsError(
            "Removing these rows would leave a class with fewer than no rows: they were never part of these moments. "
            "Remove only what was merged before."
        )


def _agree(a: Moments, b: Moments) -> None:
    sides = {
        "features": (a.features, b.features),
        "targets": (a.targets, b.targets),
        "quantiser": (a.quantiser, b.quantiser),
        "per_class": (a.classes is not None, b.classes is not None),
        "fourth": (a.has_fourth, b.has_fourth),
    }
    problems = [f"{name}: {one} and {two}" for name, (one, two) in sides.items() if one != two]
    if problems:
        raise DataError("These moments cannot be combined, they differ in " + "; ".join(problems) + ".")
