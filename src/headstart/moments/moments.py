"""Moments: mergeable sufficient statistics of feature rows and their targets.

The arithmetic of centred sums is in ``centred``, that of exact integer sums in ``exact``, the file in ``storage``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from headstart._base.typing import Array, Float, Ints
from headstart.errors import DataError, HeadstartError, NumericsError, OptionError, StoreError
from headstart.linalg.pca import symmetric_eig
from headstart.moments import centred, storage
from headstart.moments import exact as exact_mode
from headstart.moments.centred import Centred, check_rows, float_blocks, oas_share, read_only, shrink
from headstart.moments.exact import Quantiser, Sums

State: TypeAlias = Centred | Sums


@dataclass(frozen=True, eq=False, repr=False)
class Moments:
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
        """Return the moments of no rows: the neutral element of ``+``."""
        state: State
        if exact is None:
            state = centred.zero(features, targets, fourth=fourth)
        elif fourth:
            raise OptionError(
                "fourth=True and exact= do not go together: fourth powers of 14-bit integers overflow float64. "
                "Choose one; oas() shrinks without fourth-order accumulators."
            )
        else:
            state = exact_mode.zero(exact, features, targets)
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
        total = empty = cls.zero(X.shape[1], T.shape[1], exact=exact, per_class=per_class, fourth=fourth)
        for rows, targets in float_blocks(X, T):
            total = total + _sum_block(rows, targets, empty)
        return total

    def update(self, X: Array, T: Array | None = None) -> Moments:
        """Return these moments with further rows merged in, kept in the same way."""
        per_class = self.classes is not None
        return self + Moments.from_rows(X, T, exact=self.quantiser, per_class=per_class, fourth=self.has_fourth)

    # ---- what follows from the arrays; results are read-only: copy before changing one

    @cached_property
    def centred(self) -> Centred:
        """The six arrays as one record; in exact mode derived from the integer sums."""
        return self.state.centred() if isinstance(self.state, Sums) else self.state

    @property
    def quantiser(self) -> Quantiser | None:
        """The grid of exact moments, else None."""
        return self.state.quantiser if isinstance(self.state, Sums) else None

    @property
    def is_one_hot(self) -> bool:
        """True where every row had one-hot targets."""
        return self.one_hot == self.count

    @property
    def is_binary(self) -> bool:
        """True where every target was 0 or 1."""
        return self.binary == self.count

    @property
    def count(self) -> int:
        """Number of rows n."""
        return int(self.state.count)

    @property
    def features(self) -> int:
        """Number of features d."""
        return self.state.shape[0]

    @property
    def targets(self) -> int:
        """Number of target columns t."""
        return self.state.shape[1]

    @property
    def mean(self) -> Float:
        """Mean of the features (d,)."""
        return self.centred.mean

    @property
    def scatter(self) -> Float:
        """Σ (x−μ)(x−μ)ᵀ, (d, d)."""
        return self.centred.scatter

    @property
    def target_mean(self) -> Float:
        """Mean of the targets (t,): the class frequencies of one-hot targets."""
        return self.centred.target_mean

    @property
    def cross(self) -> Float:
        """Σ (x−μ)(y−ȳ)ᵀ, (d, t)."""
        return self.centred.cross

    @property
    def target_scatter(self) -> Float:
        """Σ (y−ȳ)² of each target column (t,)."""
        return self.centred.target_scatter

    @property
    def has_fourth(self) -> bool:
        """True where the fourth-order accumulators are kept."""
        return isinstance(self.state, Centred) and self.state.fourth is not None

    @property
    def covariance(self) -> Float:
        """The unbiased covariance scatter / (n − 1), (d, d).

        Raises
        ------
        NumericsError
            With fewer than two rows.
        """
        if self.count < 2:
            raise NumericsError(f"A covariance needs two rows; these moments hold {self.count}.")
        return self.scatter / (self.count - 1)

    @cached_property
    def spectrum(self) -> tuple[Float, Float]:
        """Eigenvalues (r,), ascending, and eigenvectors (d, r) of the scatter: its range, to rounding.

        Ranks and scores, ridge at every ``alpha`` and shrunken inverses all start here, so it is computed once and
        kept. Of n rows at most n − 1 directions are there; those below ``d · eps`` of the largest are rounding and
        left out. **Cost**: O(d³) time, O(d·r) memory. NumericsError where numbers are beyond float64's range.
        """
        values, vectors = symmetric_eig(self.scatter)
        rounding = max(self.features, 16) * float(np.finfo(np.float64).eps) * float(values.max(initial=0))
        rank = min(int(np.count_nonzero(values > rounding)), max(self.count - 1, 0))
        first = len(values) - rank
        return read_only(values[first:].copy()), read_only(np.ascontiguousarray(vectors[:, first:]))

    @cached_property
    def class_counts(self) -> Ints:
        """Rows of each class (one-hot), or with each label (multi-label), (t,).

        Raises
        ------
        DataError
            When targets are values: those have no classes.
        """
        if not self.is_binary:
            raise DataError("Class counts need targets of 0 and 1; these moments hold values (regression).")
        if isinstance(self.state, Sums):
            totals = self.state.quantiser.target_step * self.state.target_total
        else:
            totals = self.count * self.target_mean
        return read_only(np.rint(totals).astype(np.int64))

    @cached_property
    def class_means(self) -> Float:
        """Mean of each class (t, d); the row of a class without rows is NaN."""
        counts = self.class_counts[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = self.mean + self.cross.T / counts
        means[counts[:, 0] == 0] = np.nan
        return read_only(means)

    @cached_property
    def between(self) -> Float:
        """Scatter of the class means Σ n_c (μ_c−μ)(μ_c−μ)ᵀ, (d, d); it needs one-hot targets."""
        self._check_one_hot()
        present = self.class_counts > 0
        deviations = self.cross[:, present] / np.sqrt(self.class_counts[present])
        return read_only(deviations @ deviations.T)

    @cached_property
    def within(self) -> Float:
        """Pooled scatter about the class means, (d, d); it needs one-hot targets."""
        self._check_one_hot()
        if self.classes is not None:
            within = np.zeros((self.features, self.features))
            for part in self.classes:
                within += part.scatter
            return read_only(within)
        within = self.scatter - self.between
        np.fill_diagonal(within, np.maximum(within.diagonal(), 0.0))  # rounding only: the two may be nearly equal
        return read_only(within)

    def select(self, columns: slice | Array) -> Moments:
        """Return the moments of some of the features: a layer of a concatenation, a subset in forward selection.

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

    def weighted(self, weights: Float) -> Centred:
        """Return the same six arrays with every row of class c counted ``weights[c]`` times.

        Parameters
        ----------
        weights : (t,) array
            Non-negative weight of each class, e.g. ``n / (t · class_counts)`` for balanced classes.

        Returns
        -------
        Centred
            Its ``count`` is the sum of weights. Exact: it needs each class's own scatter (``per_class=True``).

        Raises
        ------
        OptionError
            When the classes' own moments are not kept, or the weights do not fit.
        """
        if self.classes is None:
            raise OptionError("Class weights need per-class scatter; make the moments with per_class=True.")
        weights = np.asarray(weights, dtype=np.float64)
        fits = weights.shape == (self.targets,)
        class_weight = weights * self.class_counts if fits else np.full(1, np.nan)
        if not (np.isfinite(class_weight).all() and (weights >= 0).all() and class_weight.sum() > 0):
            raise OptionError(f"weights must be {self.targets} numbers ≥ 0, some class of weight > 0 having rows.")
        total, frequency = float(class_weight.sum()), class_weight / class_weight.sum()
        class_means = np.stack([part.mean for part in self.classes])
        mean = frequency @ class_means
        weighted_deviation = class_weight[:, None] * (class_means - mean)
        root = np.sqrt(class_weight)[:, None] * (class_means - mean)
        scatter = root.T @ root
        for weight, part in zip(weights, self.classes, strict=True):
            scatter += weight * part.scatter
        return Centred(
            count=total,
            mean=mean,
            scatter=scatter,
            target_mean=frequency,
            cross=weighted_deviation.T - np.outer(weighted_deviation.sum(axis=0), frequency),
            target_scatter=total * frequency * (1 - frequency),
        )

    def oas(self, *, within: bool = False) -> tuple[Float, float]:
        """Shrink the covariance by OAS: ``(1−ρ)·S + ρ·tr(S)/d·I`` with S = scatter / n.

        Parameters
        ----------
        within : bool
            Shrink the pooled within-class covariance instead of that of all rows.

        Returns
        -------
        covariance : (d, d) array
        shrinkage : float
            ρ, from 0 to 1.

        References
        ----------
        Chen, Wiesel, Eldar, Hero (2010), Shrinkage algorithms for MMSE covariance estimation.
        """
        sample = self._sample_covariance(within)
        share = oas_share(float(np.trace(sample)), float(np.sum(sample**2)), rows=self.count, features=self.features)
        return shrink(sample, share), share

    def ledoit_wolf(self, *, within: bool = False) -> tuple[Float, float]:
        """Shrink the covariance by Ledoit–Wolf, from moments kept with ``fourth=True``.

        With ``within`` they must be kept with ``per_class=True`` as well.

        Returns and parameters as for :meth:`oas`. Equal to scikit-learn's on the centred rows.

        Raises
        ------
        OptionError
            When the accumulators were not kept; :meth:`oas` needs none.

        References
        ----------
        Ledoit, Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices.
        """
        fourths = [part.centred.fourth for part in self.classes or ()] if within else [self.centred.fourth]
        if not fourths or any(f is None for f in fourths):
            options = "fourth=True and per_class=True" if within else "fourth=True"
            raise OptionError(
                f"Ledoit–Wolf shrinkage needs moments made with {options}; oas() needs no more than these."
            )
        sample = self._sample_covariance(within)
        d, n = self.features, self.count
        mean_variance = float(np.trace(sample)) / d
        square = float(np.sum(sample**2))
        power = sum(f.power for f in fourths if f is not None)
        noise = (power / n - square) / (d * n)
        signal = square / d - mean_variance**2
        noise = min(noise, signal)
        share = noise / signal if noise > 0 else 0.0
        return shrink(sample, share), share

    def _sample_covariance(self, within: bool) -> Float:
        if not self.count:
            raise NumericsError("A covariance needs rows; these moments hold none.")
        return (self.within if within else self.scatter) / self.count

    def _check_one_hot(self) -> None:
        if not self.is_one_hot:
            raise DataError("Scatter within and between classes needs one-hot targets: np.eye(classes)[labels].")

    # ---- saving, merging, comparing

    def pack(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return named arrays and a plain record, which :meth:`unpack` turns back into the same bits.

        In exact mode all arrays are integer sums: those of two parts, added, are those of both merged, which is what
        masked sums need.
        """
        exact = None if self.quantiser is None else self.quantiser.config()
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
        """Rebuild the moments that :meth:`pack` took apart.

        Raises
        ------
        StoreError
            When anything is missing, of another shape, not finite, or contradicts itself.
        """
        try:
            layout = storage.MomentsLayout.from_config(record, list(arrays))
            parts = [cls(*layout.state(arrays, f"class{c}.", 0)) for c in range(layout.classes or 0)]
            state, one_hot, binary = layout.state(arrays, "", layout.targets)
            moments = cls(state, one_hot, binary, None if layout.classes is None else tuple(parts))
            moments._check_class_counts()
        except (KeyError, TypeError, ValueError, AttributeError, HeadstartError) as error:
            raise StoreError(f"These are not the arrays of moments: {error}") from error
        return moments

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

    def _check_class_counts(self) -> None:
        """Check that the class counts of a file are integers and add up."""
        if self.is_binary and self.count:
            counts = self.count * self.target_mean
            if np.abs(counts - self.class_counts).max(initial=0) > 1e-6 * self.count or (self.class_counts < 0).any():
                raise ValueError("the counts of classes are not whole numbers")
        if self.classes is not None:
            counts_of_parts = [part.count for part in self.classes]
            if counts_of_parts != self.class_counts.tolist() or sum(counts_of_parts) != self.count:
                raise ValueError("the classes do not add up to the total")

    def __add__(self, other: Moments) -> Moments:
        return self._combine(other, 1) if isinstance(other, Moments) else NotImplemented

    def __radd__(self, other: object) -> Moments:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # lets sum(parts) work

    def __sub__(self, other: Moments) -> Moments:
        return self._combine(other, -1) if isinstance(other, Moments) else NotImplemented

    def _combine(self, other: Moments, sign: int) -> Moments:
        _check_compatible(self, other)
        state: State
        if isinstance(self.state, Sums) and isinstance(other.state, Sums):
            state = exact_mode.add(self.state, other.state, sign)
        else:
            combine = centred.merge if sign > 0 else centred.remove
            state = combine(self.centred, other.centred)
        if sign < 0:
            _check_counts(self, other)
        classes = None
        if self.classes is not None and other.classes is not None:
            classes = tuple(a._combine(b, sign) for a, b in zip(self.classes, other.classes, strict=True))
        return Moments(state, self.one_hot + sign * other.one_hot, self.binary + sign * other.binary, classes)

    def __eq__(self, other: object) -> bool:
        """Compare every number to the last bit."""
        if not isinstance(other, Moments):
            return NotImplemented
        (a, own_record), (b, other_record) = self.pack(), other.pack()
        return own_record == other_record and all(np.array_equal(a[name], b[name]) for name in a)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = "" if self.quantiser is None else f", exact in {self.quantiser.bits} bits"
        return f"Moments(count={self.count:,}, features={self.features}, targets={self.targets}{kind})"


def _sum_block(rows: Float, targets: Float, empty: Moments) -> Moments:
    """Sum one block, kept as those of ``empty`` are; ``rows`` is overwritten."""
    zero_one = ((targets == 0) | (targets == 1)).all(axis=1)
    one_hot = zero_one & (targets.sum(axis=1) == 1)
    classes = None
    if empty.classes is not None:
        if not one_hot.all():
            raise DataError(
                "per_class=True needs one-hot targets, and some rows are not. "
                "Use T = np.eye(number_of_classes)[labels], or per_class=False."
            )
        parts = []
        for mask, empty_class in zip(targets.T == 1, empty.classes, strict=True):
            # rows[mask] is a copy, which may be overwritten
            parts.append(_sum_block(rows[mask], targets[mask, :0], empty_class) if mask.any() else empty_class)
        classes = tuple(parts)
    state: State
    with np.errstate(over="ignore", invalid="ignore"):
        if empty.quantiser is not None:
            state = exact_mode.sum_block(empty.quantiser, rows, targets)
        else:
            state = centred.sum_block(rows, targets, fourth=empty.has_fourth)
            if not np.isfinite(state.scatter).all() or not np.isfinite(state.target_scatter).all():
                raise NumericsError("Squares of these features or targets are beyond float64. Rescale them.")
    return Moments(state, int(one_hot.sum()), int(zero_one.sum()), classes)


def _check_counts(total: Moments, part: Moments) -> None:
    """Refuse a removal that would leave less than nothing of a kind or of a class."""
    kinds = (total.one_hot - part.one_hot, total.binary - part.binary)
    has_classes = total.is_binary and part.is_binary
    remaining = total.class_counts - part.class_counts if has_classes else np.zeros(1)
    if min(kinds) < 0 or remaining.min(initial=0) < 0:
        raise NumericsError(
            "Removing these rows would leave a class with fewer than no rows: they were never part of these moments. "
            "Remove only what was merged before."
        )


def _check_compatible(a: Moments, b: Moments) -> None:
    """Refuse to combine moments of other shapes, or kept in another way."""
    sides = {
        "features": (a.features, b.features),
        "targets": (a.targets, b.targets),
        "quantiser": (a.quantiser, b.quantiser),
        "per_class": (a.classes is not None, b.classes is not None),
        "fourth": (a.has_fourth, b.has_fourth),
    }
    problems = [f"{name}: {left} and {right}" for name, (left, right) in sides.items() if left != right]
    if problems:
        raise DataError("These moments cannot be combined, they differ in " + "; ".join(problems) + ".")
