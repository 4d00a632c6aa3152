"""Held-out ridge predictions from the n × n side: features enter only as the products of the rows. Floor 1.

Putting feature sets side by side adds their products, so every union of layers is one sum and one inverse away, and
any number of target columns (permuted ones, say) share it. With A = K + αI and the unpenalised intercept,

.. math:: M = A^{-1} - A^{-1} 1 1^T A^{-1} / (1^T A^{-1} 1), \\qquad e_f = M_{ff}^{-1} (M T)_f,

are **exactly** the residuals of rows f under the fit without them.

References
----------
Cook & Weisberg (1982), Residuals and Influence in Regression; An, Liu & Venkatesh (2007), Fast cross-validation
algorithms for least squares support vector machine and kernel ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart._typing import Array, Float, Ints
from headstart.errors import NumericsError


def products(X: Array, *, standard: bool) -> Float:
    """Products (n, n) of the centred rows; ``standard`` divides features by their standard deviation first."""
    away = np.asarray(X, dtype=np.float64)
    away = away - away.mean(axis=0)
    if standard:
        spread = away.std(axis=0)
        away /= np.where(spread > 1e-9 * max(float(spread.max(initial=0.0)), 1e-300), spread, np.inf)
    return np.asarray(away @ away.T)


def left_out(K: Float, T: Float, members: Sequence[Ints], penalty: float) -> Float:
    """Predictions (n, t) of every row by the ridge that was fitted without its fold.

    Parameters
    ----------
    K : (n, n) array
        Products of the rows.
    T : (n, t) array
    members : sequence of (m,) arrays
        The rows of each fold.
    penalty : float
        Positive.

    Notes
    -----
    Cost: one n × n inverse, n²·t, and m³ + m²·t per fold.
    """
    n = len(K)
    matrix = K.copy()
    matrix[np.diag_indices(n)] += penalty
    try:
        inverse = np.linalg.inv(matrix)
        pulled = inverse.sum(axis=0)
        inverse -= np.outer(pulled, pulled) / pulled.sum()
        duals = inverse @ T
        scores = np.empty_like(duals)
        for fold in members:
            scores[fold] = T[fold] - np.linalg.solve(inverse[np.ix_(fold, fold)], duals[fold])
    except np.linalg.LinAlgError as error:
        raise NumericsError("The penalty is too small for these features. Raise it.") from error
    return scores
