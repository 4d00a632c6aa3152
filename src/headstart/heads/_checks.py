"""What a fit must be given: shapes, kinds and numbers, each refused with what to do about it."""

from __future__ import annotations

import numpy as np

from headstart._solve.principal import blocks
from headstart._typing import Array, Float
from headstart.errors import DataError, NumericsError, OptionError


def checked(X: Array, T: Array, task: str) -> tuple[Array, Float]:
    """Features and targets whose shapes, kinds and numbers suit the task; targets as float64."""
    X, T = np.asanyarray(X), np.asarray(T)
    problems = [
        f"{name} must be {wish}; got shape {array.shape}, dtype {array.dtype}."
        for name, array, wish in (("X", X, "(n, d) real features"), ("T", T, "(n, t) real targets"))
        if array.ndim != 2 or array.dtype.kind not in "fiub"
    ]
    if T.ndim == 1:
        problems.append("For classes give T = np.eye(number_of_classes)[labels]; for one column of values, T[:, None].")
    if not problems and (len(X) != len(T) or not X.size or not T.size):
        problems.append(f"X is {X.shape} and T {T.shape}; they need one row per item, and at least one.")
    if problems:
        raise DataError("\n".join(problems))
    _need_finite(X, T)
    targets = T.astype(np.float64)
    _need_kind(targets, task)
    return X, targets


def _need_finite(X: Array, T: Array) -> None:
    bad = sum(int((~np.isfinite(X[part]).all(axis=1)).sum()) for part in blocks(*X.shape))
    if bad:
        raise NumericsError(
            f"{bad:,} of {len(X):,} rows of features are not finite (NaN or inf). "
            "Leave them out, with their targets: keep = np.isfinite(X).all(axis=1)."
        )
    bad = int((~np.isfinite(T).all(axis=1)).sum())
    if bad:
        raise NumericsError(
            f"{bad:,} of {len(T):,} rows of targets are missing or not finite. "
            "Leave them out, with their features: keep = np.isfinite(T).all(axis=1)."
        )


def _need_kind(T: Float, task: str) -> None:
    if task == "regression":
        return
    if not ((T == 0) | (T == 1)).all():
        raise DataError(f"Targets of {task} must be 0 or 1; use task='regression' for values.")
    if task == "classification" and not (T.sum(axis=1) == 1).all():
        raise DataError("Each row must be of exactly one class (one-hot); use task='multilabel' for several labels.")


def checked_weights(weights: Array | None, rows: int) -> Float | None:
    """Row weights as float64: finite, not negative, not all 0."""
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (rows,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise OptionError(f"sample_weight must be {rows:,} finite numbers ≥ 0, not all 0; got shape {weights.shape}.")
    return weights


def need_two_classes(counts: Float) -> None:
    """Refuse rows that are all of one class."""
    if np.count_nonzero(counts > 0) < 2:
        raise NumericsError(
            "All rows are of one class: there is nothing to tell apart. Give rows of at least two classes."
        )


def checked_prior(prior: Array | None, task: str, columns: int) -> Float | None:
    """Shares of the classes to predict for: positive, of classification; they sum to 1 afterwards."""
    if prior is None:
        return None
    if task != "classification":
        raise OptionError(f"prior= is for classification; this task is {task!r}.")
    shares = np.asarray(prior, dtype=np.float64)
    if shares.shape != (columns,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise OptionError(f"prior must be {columns} positive numbers, one per class; got {prior!r}.")
    return np.asarray(shares / shares.sum())
