"""What follows exactly from the six arrays: counts, class means, scatters between and within, shrunken covariances."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np

from headstart._base.typing import Float, Ints
from headstart.errors import DataError, NumericsError, OptionError
from headstart.linalg.pca import symmetric
from headstart.moments.centred import Centred, read_only
from headstart.moments.exact import Quantiser, Sums

State: TypeAlias = Centred | Sums


class Derived:
    """The read-only face of moments, computed from the fields that whoever inherits it declares.

    Every quantity is a function of the arrays, so that it is the same for merged, split and shuffled rows. Arrays are
    read-only: copy before changing one.
    """

    state: State
    one_hot: int
    binary: int
    classes: tuple[Derived, ...] | None

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
        """Whether every row had one-hot targets."""
        return self.one_hot == self.count

    @property
    def is_binary(self) -> bool:
        """Whether every target was 0 or 1."""
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
        """Whether the fourth-order accumulators are kept."""
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
        values, vectors = symmetric(self.scatter)
        least = max(self.features, 16) * float(np.finfo(np.float64).eps) * float(values.max(initial=0))
        rank = min(int(np.count_nonzero(values > least)), max(self.count - 1, 0))
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
        known = self.state.target_total if isinstance(self.state, Sums) else self.count * self.target_mean
        step = self.quantiser.target_step if self.quantiser is not None else 1.0
        return read_only(np.rint(step * known).astype(np.int64))

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
        self._need_classes()
        present = self.class_counts > 0
        away = self.cross[:, present] / np.sqrt(self.class_counts[present])
        return read_only(away @ away.T)

    @cached_property
    def within(self) -> Float:
        """Pooled scatter about the class means, (d, d); it needs one-hot targets."""
        self._need_classes()
        if self.classes is not None:
            within = np.zeros((self.features, self.features))
            for part in self.classes:
                within += part.scatter
            return read_only(within)
        within = self.scatter - self.between
        np.fill_diagonal(within, np.maximum(within.diagonal(), 0.0))  # rounding only: the two may be nearly equal
        return read_only(within)

    def weighted(self, weights: Float) -> Centred:
        """The same six arrays with every row of class c counted ``weights[c]`` times.

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
        mass = weights * self.class_counts if weights.shape == (self.targets,) else np.full(1, np.nan)
        if not (np.isfinite(mass).all() and (weights >= 0).all() and mass.sum() > 0):
            raise OptionError(f"weights must be {self.targets} numbers ≥ 0, some class of weight > 0 having rows.")
        total, share = float(mass.sum()), mass / mass.sum()
        centres = np.stack([part.mean for part in self.classes])
        mean = share @ centres
        pulled = mass[:, None] * (centres - mean)
        root = np.sqrt(mass)[:, None] * (centres - mean)
        scatter = root.T @ root
        for weight, part in zip(weights, self.classes, strict=True):
            scatter += weight * part.scatter
        cross = pulled.T - np.outer(pulled.sum(axis=0), share)
        return Centred(total, mean, scatter, share, cross, total * share * (1 - share))

    def oas(self, *, within: bool = False) -> tuple[Float, float]:
        """Oracle-approximating shrinkage: ``(1−ρ)·S + ρ·tr(S)/d·I`` with S = scatter / n.

        Parameters
        ----------
        within : bool
            Shrink the pooled within-class covariance instead of the whole.

        Returns
        -------
        covariance : (d, d) array
        shrinkage : float
            ρ, from 0 to 1.

        References
        ----------
        Chen, Wiesel, Eldar, Hero (2010), Shrinkage algorithms for MMSE covariance estimation.
        """
        sample = self._sample(within)
        share = oas_share(float(np.trace(sample)), float(np.sum(sample**2)), rows=self.count, features=self.features)
        return _shrunk(sample, share)

    def ledoit_wolf(self, *, within: bool = False) -> tuple[Float, float]:
        """Ledoit–Wolf shrinkage, from moments kept with ``fourth=True`` (for ``within``, ``per_class=True`` as well).

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
            asked = "fourth=True and per_class=True" if within else "fourth=True"
            raise OptionError(f"Ledoit–Wolf shrinkage needs moments made with {asked}; oas() needs no more than these.")
        sample = self._sample(within)
        d, n = self.features, self.count
        level = float(np.trace(sample)) / d
        square = float(np.sum(sample**2))
        noise = (sum(f.power for f in fourths if f is not None) / n - square) / (d * n)
        signal = square / d - level**2
        noise = min(noise, signal)
        return _shrunk(sample, noise / signal if noise > 0 else 0.0)

    def _sample(self, within: bool) -> Float:
        if not self.count:
            raise NumericsError("A covariance needs rows; these moments hold none.")
        return (self.within if within else self.scatter) / self.count

    def _need_classes(self) -> None:
        if not self.is_one_hot:
            raise DataError("Scatter within and between classes needs one-hot targets: np.eye(classes)[labels].")


def oas_share(trace: float, square: float, *, rows: float, features: int) -> float:
    """ρ of :meth:`Derived.oas` for a covariance of this trace and squared norm ‖S‖²."""
    level, power = trace / features, square / features**2
    below = (rows + 1) * (power - level**2 / features)
    return 1.0 if below <= 0 else min((power + level**2) / below, 1.0)


def _shrunk(sample: Float, shrinkage: float) -> tuple[Float, float]:
    covariance = (1 - shrinkage) * sample
    covariance.flat[:: len(sample) + 1] += shrinkage * float(np.trace(sample)) / len(sample)
    return covariance, shrinkage
