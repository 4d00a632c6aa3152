"""The scikit-learn face: TransferClassifier, TransferRegressor, FeatureExtractor. Floor 7.

They follow scikit-learn's contract (the constructor stores, ``fit`` works, learned things end with ``_``), pass its own
``check_estimator`` on vectors, and work in ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``. Features come from the
same bank as everywhere, so a grid search over heads extracts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from headstart.dataset import Dataset
from headstart.extraction import extract
from headstart.sources.base import Source, load_source
from headstart.transfer import fit

_IDENTITY = "identity:vector"


class _Transfer(BaseEstimator):
    """What classifier and regressor share: parameters are stored, items become datasets."""

    def __init__(
        self,
        source: Source | str = _IDENTITY,
        *,
        layers: str | Sequence[str] = "auto",
        head: Any = "auto",
        policy: Any = "frozen",
        balance: str = "auto",
        pooling: str = "auto",
        budget: float | None = None,
        random_state: int | None = 0,
    ) -> None:
        self.source = source
        self.layers = layers
        self.head = head
        self.policy = policy
        self.balance = balance
        self.pooling = pooling
        self.budget = budget
        self.random_state = random_state

    def _fit(self, X: Any, y: Any, task: str) -> None:
        data = Dataset.from_arrays(X, y, task=task) if isinstance(X, np.ndarray) else _items(self.source, X, y, task)
        self.predictor_ = fit(
            self.source,
            data,
            layers=self.layers,
            head=self.head,
            policy=self.policy,
            balance=self.balance,
            pooling=self.pooling,
            budget=self.budget,
            store=False if data.modality == "vector" else None,
            random_state=_seed(self.random_state),
        )

    def _given(self, X: Any) -> Any:
        return _checked(self, X, reset=False) if _vectors(self.source) else X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.string = not _vectors(self.source)
        return tags


class TransferClassifier(ClassifierMixin, _Transfer):
    """Classification on a source's features.

    Parameters
    ----------
    source : Source or str
        ``"identity:vector"`` takes vectors as they are.
    layers, head, policy, balance, pooling, budget
        As for :func:`headstart.fit`.
    random_state : int or None
        None is 0: results never depend on chance that was not asked for.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    predictor_ : Predictor

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> bool(TransferClassifier(head="lda").fit(X, y).score(X, y) > 0.95)
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on items X (paths, texts, arrays, or (n, d) vectors) and labels y (n,)."""
        if _vectors(self.source):
            X, y = _checked(self, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes; y has 1 class: {self.classes_[0]!r}.")
        self._fit(X, codes.tolist(), "classification")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,)."""
        check_is_fitted(self)
        X = self._given(X)
        codes = self.predictor_.predict(_listed(X))
        return self.classes_[np.asarray(codes, dtype=np.int64)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, n_classes)."""
        check_is_fitted(self)
        return np.asarray(self.predictor_.predict_proba(_listed(self._given(X))))

    def decision_function(self, X: Any) -> np.ndarray:
        """Decision values (n, n_classes); (n,) for two classes."""
        check_is_fitted(self)
        values = np.asarray(self.predictor_.decision_function(_listed(self._given(X))))
        return values[:, 1] - values[:, 0] if values.shape[1] == 2 else values


class TransferRegressor(RegressorMixin, _Transfer):
    """Regression on a source's features; parameters as for :class:`TransferClassifier`.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> y = X @ [1.0, -2.0, 0.5]
    >>> bool(TransferRegressor().fit(X, y).score(X, y) > 0.99)
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on items X and values y (n,)."""
        if _vectors(self.source):
            X, y = _checked(self, X, y, y_numeric=True)
        self._fit(X, np.asarray(y, dtype=np.float64), "regression")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values (n,)."""
        check_is_fitted(self)
        return np.asarray(self.predictor_.predict(_listed(self._given(X))), dtype=np.float64)


class FeatureExtractor(TransformerMixin, BaseEstimator):
    """Items → features of one layer (or several side by side), as a step of a Pipeline.

    Parameters
    ----------
    source : Source or str
    layers : str or sequence of str
    pooling : str
    """

    def __init__(
        self, source: Source | str = _IDENTITY, *, layers: str | Sequence[str] = "last", pooling: str = "auto"
    ) -> None:
        self.source = source
        self.layers = layers
        self.pooling = pooling

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing is learned; the source is loaded and the number of features noted."""
        if _vectors(self.source):
            X = _checked(self, X)
        self.source_ = load_source(self.source)
        self.layers_ = self.source_.select(self.layers)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """(n, d) float32."""
        check_is_fitted(self)
        if _vectors(self.source):
            X = _checked(self, X, reset=False)
        data = Dataset.from_items(_listed(X), self.source_.modality)
        store = False if data.modality == "vector" else None
        bank = extract(self.source_, data, layers=self.layers_, pooling=self.pooling, store=store, on_error="raise")
        return np.concatenate([bank.rows(layer, data) for layer in bank.layers], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.requires_fit = True
        return tags


def _vectors(source: Source | str) -> bool:
    return source == _IDENTITY or (isinstance(source, Source) and source.modality == "vector")


def _checked(estimator: Any, X: Any, y: Any = "no_validation", **how: Any) -> Any:
    if isinstance(y, str) and y == "no_validation":
        return validate_data(estimator, X, dtype=np.float32, **how)
    return validate_data(estimator, X, y, dtype=np.float32, **how)


def _items(source: Source | str, X: Any, y: Any, task: str) -> Dataset:
    data = Dataset.from_items(list(X), load_source(source).modality)
    return data.with_targets(list(y)) if task == "classification" else data.with_targets([float(v) for v in y])


def _listed(X: Any) -> Any:
    return X if isinstance(X, np.ndarray) else list(X)


def _seed(random_state: Any) -> int:
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    return int(random_state)
