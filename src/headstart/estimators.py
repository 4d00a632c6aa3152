"""The scikit-learn face: TransferClassifier, TransferRegressor, FeatureExtractor. Floor 7.

They follow scikit-learn's contract (the constructor stores, ``fit`` works, learned things end with ``_``), pass its
own ``check_estimator`` on vectors, and work in ``Pipeline``, ``GridSearchCV`` and ``cross_val_score``. Features come
from the same bank as everywhere, so a grid search over heads extracts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from headstart.dataset.dataset import Dataset
from headstart.extraction.extract import extract
from headstart.extraction.features import is_passthrough
from headstart.sources.base import Source, load_source
from headstart.transfer.fit import fit

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
        source = load_source(self.source)
        self.predictor_ = fit(
            source,
            _dataset(source, X).with_targets(y, task=task),
            layers=self.layers,
            head=self.head,
            policy=self.policy,
            balance=self.balance,
            pooling=self.pooling,
            budget=self.budget,
            random_state=_seed(self.random_state),
        )

    def _required(self, verb: str, X: Any) -> np.ndarray:
        """What the fitted predictor answers about items."""
        check_is_fitted(self)
        if _vectors(self.source):
            X = _checked(self, X, reset=False)
        return np.asarray(getattr(self.predictor_, verb)(_dataset(self.predictor_.source, X)))

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
            raise ValueError(
                f"{type(self).__name__} needs at least two classes; y has 1 class: {self.classes_.tolist()[0]!r}."
            )
        self._fit(X, codes, "classification")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels (n,)."""
        codes = self._required("predict", X).astype(np.int64)
        return self.classes_[codes]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, n_classes)."""
        return self._required("predict_proba", X)

    def decision_function(self, X: Any) -> np.ndarray:
        """Decision values (n, n_classes); (n,) for two classes."""
        values = self._required("decision_function", X)
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
        return self._required("predict", X).astype(np.float64)


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
        data = _dataset(self.source_, X)
        store = False if is_passthrough(self.source_) else None
        bank = extract(self.source_, data, layers=self.layers_, pooling=self.pooling, store=store, on_error="raise")
        return np.concatenate([bank.rows(layer, data) for layer in bank.layers], axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.string = not _vectors(self.source)
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _vectors(source: Source | str) -> bool:
    return source == _IDENTITY or (isinstance(source, Source) and source.modality == "vector")


def _checked(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
    if isinstance(y, str) and y == "no_validation":
        return validate_data(estimator, X, dtype=np.float32, **options)
    return validate_data(estimator, X, y, dtype=np.float32, **options)


def _dataset(source: Source, X: Any) -> Dataset:
    """Arrays as they are; anything else (lists and columns of paths or texts) item by item."""
    if isinstance(X, np.ndarray) and X.dtype.kind not in "OUS":
        return Dataset.from_arrays(X, modality=source.modality if source.modality == "audio" else None)
    return Dataset.from_items(list(X), source.modality)


def _seed(random_state: Any) -> int:
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    return int(random_state)
