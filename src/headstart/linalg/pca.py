"""Features in principal coordinates: centred, perhaps scaled, rotated to where the scatter is diagonal.

Every penalty ½λ‖w‖² is blind to rotation, so solving in these coordinates is exact; with fewer rows than features the
n × n side is decomposed and the coordinates are at most n − 1. One decomposition then serves every penalty of every
head, and its eigenvalues precondition the iterative ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart._base.typing import Array, Float
from headstart.errors import NumericsError

_RANK = 1e-12  # directions with less than this share of the largest variance are rounding, not features
_CONSTANT = 1e-6  # a deviation below this share of the feature's size is float32 rounding of a constant
_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class PrincipalCoordinates:
    """Coordinates in which the scatter of the (weighted) rows is diagonal.

    Attributes
    ----------
    mean : (d,) array
    spread : (d,) array or None
        Divisor of each feature, None for none.
    vectors : (d, r) array
        Orthonormal directions of the centred, scaled features, r ≤ min(n − 1, d) in number.
    values : (r,) array
        Scatter along each of them, largest last.
    """

    mean: Float
    feature_scale: Float | None
    vectors: Float
    values: Float

    def coordinates(self, X: Array) -> Float:
        """Rows (n, d) in these coordinates (n, r). Cost: O(n·d·r)."""
        out = np.empty((len(X), len(self.values)))
        for part in row_blocks(len(X), X.shape[1]):
            out[part] = center_and_scale(X[part], self.mean, self.feature_scale) @ self.vectors
        return out

    def to_input_space(self, coef: Float, offset: Float) -> tuple[Float, Float]:
        """Weights (r, t) and offsets (t,) of these coordinates as weights (d, t) and intercepts of plain features."""
        return unscale_coef(self.vectors @ coef, offset, self.mean, self.feature_scale)


def row_blocks(rows: int, features: int) -> list[slice]:
    """Slices of rows that take some tens of MiB each as float64."""
    size = max(64, _BLOCK_BYTES // (8 * max(1, features)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def center_and_scale(X: Array, mean: Float, feature_scale: Float | None) -> Float:
    """A float64 copy of rows without their mean, divided by ``feature_scale``."""
    out = np.subtract(X, mean, dtype=np.float64)
    if feature_scale is not None:
        out /= feature_scale
    return out


def unscale_coef(coef: Float, offset: Float, mean: Float, feature_scale: Float | None) -> tuple[Float, Float]:
    """Weights and offsets of centred, scaled features as weights and intercepts of plain ones."""
    if feature_scale is not None:
        coef = coef / feature_scale[:, None]
    return coef, offset - mean @ coef


def feature_scale(variance: Float, mean: Float, scale: str) -> Float | None:
    """The divisor of each feature: None, or its standard deviation (1 where the feature is constant).

    A feature that is constant in training has weight 0, whatever its divisor.
    """
    if scale == "none":
        return None
    deviation = np.sqrt(np.maximum(variance, 0.0))
    return np.where(deviation > _CONSTANT * np.abs(mean), deviation, 0.0) + (deviation <= _CONSTANT * np.abs(mean))


def pca_of_scatter(mean: Float, scatter: Float, feature_scale: Float | None) -> PrincipalCoordinates:
    """From the centred scatter (d, d) of plain features. Cost: O(d³)."""
    if feature_scale is not None:
        scatter = scatter / np.outer(feature_scale, feature_scale)
    values, vectors = symmetric_eig(scatter)
    mask = values > _RANK * max(values[-1], 0.0)
    return PrincipalCoordinates(mean, feature_scale, np.ascontiguousarray(vectors[:, mask]), values[mask])


def pca_of_rows(rows: Float, mean: Float, feature_scale: Float | None) -> PrincipalCoordinates:
    """From centred, scaled (and weighted) rows (n, d), fewer than features. Cost: O(n²·d + n³)."""
    values, left = symmetric_eig(rows @ rows.T)
    mask = values > _RANK * max(values[-1], 0.0)
    values, left = values[mask], left[:, mask]
    return PrincipalCoordinates(mean, feature_scale, (rows.T @ left) / np.sqrt(values), values)


def symmetric_eig(matrix: Float) -> tuple[Float, Float]:
    """Eigenvalues, smallest first, and eigenvectors of a symmetric matrix.

    Raises
    ------
    NumericsError
        When the decomposition does not converge, which numbers beyond float64's range cause.
    """
    try:
        values, vectors = np.linalg.eigh(matrix)
        if not np.isfinite(values).all():
            raise np.linalg.LinAlgError("its numbers are not finite")
    except np.linalg.LinAlgError as error:
        raise NumericsError(
            f"The {matrix.shape[0]} × {matrix.shape[1]} scatter of the features cannot be decomposed ({error}). "
            'Rescale the features, e.g. scale="standard".'
        ) from error
    return values, vectors
