"""Heads: features → predictions, f(x) = W·x + b for the linear ones. The family's table and what all members share.

A head is a dataclass: its fields are hyper-parameters with declared constraints, the constructor only stores them, and
``fit`` solves. What is learned ends with an underscore and lives in the *original* feature space: whatever centring or
scaling a solver likes is folded into ``coef_`` and ``intercept_``.

Adding a head is one file and one line in ``HEADS``; the line enrols it in the laws and, unless it declares otherwise
(``in_auto``), in ``head="auto"``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from scipy.special import expit, softmax

from headstart._base.constraints import Options, validate
from headstart._base.registry import Family, check_fields
from headstart._base.typing import TASKS, Array, Float, Ints
from headstart.errors import DataError, NotFitted, NumericsError, OptionError, StoreError
from headstart.heads.problem import Problem, check_prior, make_problem
from headstart.linalg.pca import row_blocks
from headstart.moments.moments import Moments

# --- shared by all heads: decisions, folds and costs ---


ABSENT_CLASS_SCORE = -1e6  # decision of a class that training never saw: finite, and its probability is exactly 0


def expand_intercept(intercept: Float, present: Array) -> Float:
    """Intercepts of all classes; those without rows are never predicted."""
    out = np.full(len(present), ABSENT_CLASS_SCORE)
    out[present] = intercept
    return out


def probabilities(decision: Float, task: str, temperature: float = 1.0) -> Float:
    """Probabilities (n, t) of decisions (n, t)."""
    if task == "regression":
        raise OptionError("Values have no probabilities; use predict, or a classification task.")
    scaled = decision / temperature
    return np.asarray(softmax(scaled, axis=-1) if task == "classification" else expit(scaled))


def decomposition_flops(problem: Problem, *, per_side: float, per_value: float) -> float:
    """``per_side``·min(n, d)³ and ``per_value`` operations for each of the n·min(n, d)·t products."""
    n, d = problem.rows.shape
    side = min(n, d)
    return float(per_side * side**3 + per_value * n * side * len(problem.target_mean))


def rows_by_fold(folds: Ints) -> list[list[Ints]]:
    """Rows of every fold, for each of R fold assignments (R, n)."""
    return [[np.flatnonzero(row == fold) for fold in np.unique(row)] for row in folds]


HEADS = Family(
    "heads",
    {
        "group_lasso": "headstart.heads.group_lasso:GroupLasso",
        "knn": "headstart.heads.knn:Knn",
        "lda": "headstart.heads.lda:Lda",
        "logistic": "headstart.heads.logistic:Logistic",
        "nearest_centroid": "headstart.heads.nearest_centroid:NearestCentroid",
        "ridge": "headstart.heads.ridge:Ridge",
    },
)
SCALES = Options("none", "standard")

Self = TypeVar("Self", bound="Head")
Setting: TypeAlias = dict[str, Any]  # hyper-parameters by name, as a head's constructor takes them


def head(name: str, **fields: Any) -> Head:
    """Make a head by name: ``head("ridge", alpha=1.0)``.

    Raises
    ------
    UnknownName
        When there is no such head, or it has no such field; the message names the nearest. Values are checked by
        ``fit``.

    Examples
    --------
    >>> head("ridge", alpha=2.0)
    Ridge(alpha=2.0, scale='none', select='gcv')
    """
    kind = HEADS[name]
    check_fields(f"fields of {name}", fields, kind)
    result: Head = kind(**fields)
    return result


class Head(ABC):
    """Features (n, d) → decisions (n, t).

    **Shapes**: X (n, d); T (n, t) one-hot (classification), 0 and 1 (multilabel) or values (regression); ``decision``
    (n, t) float64. **Decisions** grow with the class's probability; temperature turns them into log-odds.

    Attributes
    ----------
    tasks : frozenset of str
        What the head can do.
    linear : bool
        Whether it has ``coef_ (d, t)``.
    from_moments : bool
        Whether ``fit`` takes Moments as well as rows, with the same result.
    few_shot_tasks : frozenset of str
        Tasks for which ``head="auto"`` tries it even on few rows, where choosing among much is choosing noise.
    in_auto : bool
        Whether ``head="auto"`` tries it at all; one that does not is used when it is asked for.
    rotation_invariant : bool
        Whether rotated features give the same decisions; a head that chooses single features cannot.
    selects_features : bool
        Whether it chooses features: ``selected_features_`` has the indices of those with weights.
    learns_prior : bool
        Whether decisions carry the class frequencies of the training data, so that logit adjustment is due.
    intercept_ : (t,) array
        Added to every decision.
    temperature_ : float
        Decisions are divided by it before they become probabilities; 1 until calibrated.
    """

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    linear: ClassVar[bool]
    from_moments: ClassVar[bool]
    few_shot_tasks: ClassVar[frozenset[str]]
    in_auto: ClassVar[bool] = True
    rotation_invariant: ClassVar[bool] = True
    selects_features: ClassVar[bool] = False
    learns_prior: ClassVar[bool] = True

    intercept_: Float
    temperature_: float = 1.0
    task_: str

    def fit(
        self: Self,
        X: Array | Moments,
        T: Array | None = None,
        *,
        task: str = "classification",
        prior: Array | None = None,
        sample_weight: Array | None = None,
    ) -> Self:
        """Solve for the weights.

        Parameters
        ----------
        X : (n, d) array or Moments
            Features; moments where ``from_moments``.
        T : (n, t) array
            Targets; None with moments, which hold them.
        task : {"classification", "multilabel", "regression"}
        prior : (t,) array, optional
            Class shares to predict for; None is those of the training data (nearest centroids: equal ones).
        sample_weight : (n,) array, optional
            Of the rows.

        Raises
        ------
        OptionError, DataError, NumericsError
            When a field, the task, the shapes or the numbers do not allow it; each message says what to do.
        """
        validate(self)
        self._need_task(task)
        if isinstance(X, Moments) and not self.from_moments:
            raise OptionError(f"{self.name} is no function of moments: it needs rows. Use fit(X, T), or ridge or lda.")
        scale = getattr(self, "scale", "none")
        problem = make_problem(X, T, task=task, scale=scale, sample_weight=sample_weight)
        n_targets = len(problem.target_mean)
        checked_prior = check_prior(prior, task, n_targets)
        present = problem.counts > 0 if task == "classification" else np.ones(n_targets, dtype=bool)
        self.task_, self.temperature_ = task, 1.0
        self._solve(
            problem.select_targets(present),
            None if checked_prior is None else checked_prior[present] / checked_prior[present].sum(),
        )
        if not present.all():
            self._expand_classes(present)
        return self

    def decision(self, X: Array) -> Float:
        """Decisions (n, t): scores of classes or labels, or predicted values."""
        X = self._checked_rows(X)
        out = np.empty((len(X), len(self.intercept_)))
        for block in row_blocks(*X.shape):
            if not np.isfinite(X[block]).all():
                raise NumericsError("Some rows of features are not finite (NaN or inf). Leave them out.")
            out[block] = self._scores(X[block]) + self.intercept_
        return out

    def proba(self, X: Array) -> Float:
        """Probabilities (n, t): softmax (classification) or sigmoid (multilabel) of decision / temperature_."""
        return probabilities(self.decision(X), self.task_, self.temperature_)

    def predict(self, X: Array) -> Ints | Float:
        """Class numbers (n,), a 0-1 matrix (n, t) of labels, or values (n, t)."""
        decision = self.decision(X)
        if self.task_ == "classification":
            return np.asarray(decision.argmax(axis=1))
        return (decision > 0).astype(np.int64) if self.task_ == "multilabel" else decision

    def adjust(self: Self, log_ratio: Array) -> Self:
        """Move the log-odds of the classes by (t,): log(wished prior / training prior) is logit adjustment."""
        self._need_fit()
        self.intercept_ = self.intercept_ + self.temperature_ * np.asarray(log_ratio, dtype=np.float64)
        return self

    def config(self) -> dict[str, Any]:
        """The hyper-parameters, as plain data."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}  # type: ignore[arg-type]

    def state(self) -> dict[str, Array]:
        """Everything learned, as arrays; with :meth:`config` it rebuilds the head without pickling."""
        self._need_fit()
        numbers = {"intercept": self.intercept_, "temperature": np.array(self.temperature_)}
        task = [str(name) for name in TASKS].index(self.task_)
        return {**self._learned(), **numbers, "task": np.array(task, dtype=np.uint8)}

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """Rebuild a fitted head from :meth:`config` and :meth:`state`; it predicts the same bits."""
        try:
            restored = cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})
            restored.task_ = TASKS[int(arrays["task"])]
            restored.intercept_ = np.asarray(arrays["intercept"])
            restored.temperature_ = float(arrays["temperature"])
            restored._restore(arrays)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise StoreError(f"These arrays are no saved {cls.__name__}: {type(error).__name__} {error}.") from error
        validate(restored)
        return restored

    @classmethod
    @abstractmethod
    def grid(cls, problem: Problem) -> list[dict[str, Any]]:
        """Settings (without ``scale``) worth trying on a problem, the simplest or strongest penalised first."""

    @classmethod
    @abstractmethod
    def out_of_fold(cls, problem: Problem, folds: Ints, grid: list[dict[str, Any]]) -> Float:
        """Decisions (g, R, n, t) for rows left out of the fit: each setting, each of R fold assignments (R, n)."""

    @classmethod
    @abstractmethod
    def flops(cls, problem: Problem, folds: Ints) -> float:
        """About how many floating-point operations :meth:`out_of_fold` takes for the whole grid."""

    @abstractmethod
    def _solve(self, problem: Problem, prior: Float | None) -> None:
        """Learn; every class of the problem has rows, and ``prior`` sums to 1."""

    @abstractmethod
    def _scores(self, X: Array) -> Float:
        """Decisions of finite rows, before the intercept."""

    @abstractmethod
    def _learned(self) -> dict[str, Array]:
        """The learned arrays but for intercept, temperature and task."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, Array]) -> None:
        """Take them back."""

    @abstractmethod
    def _expand_classes(self, present: Array) -> None:
        """Put back columns for classes without rows."""

    @property
    @abstractmethod
    def _features(self) -> int:
        """Number of features d of the fit."""

    def _need_task(self, task: str) -> None:
        if task not in self.tasks:
            raise OptionError(f"{self.name} cannot do {task!r}; it does {', '.join(sorted(self.tasks))}.")

    def _need_fit(self) -> None:
        if not hasattr(self, "intercept_"):
            raise NotFitted(f"This {type(self).__name__} has not been fitted. Call fit(X, T) first.")

    def _checked_rows(self, X: Array) -> Array:
        self._need_fit()
        X = np.asanyarray(X)
        if X.ndim != 2 or X.shape[1] != self._features or X.dtype.kind not in "fiub":
            raise DataError(
                f"This {type(self).__name__} was fitted on {self._features} features; got {X.dtype} {X.shape}. "
                f"Give an array (n, {self._features}) from the same layer."
            )
        return X


class LinearHead(Head):
    """A head whose decisions are X·coef_ + intercept_."""

    linear = True
    coef_: Float

    @property
    def selected_features_(self) -> Ints:
        """Indices of the features with weights, in rising order; all that vary, but for heads that select."""
        self._need_fit()
        return np.flatnonzero(self.coef_.any(axis=1))

    def _scores(self, X: Array) -> Float:
        return np.asarray(X, dtype=np.float64) @ self.coef_

    def _learned(self) -> dict[str, Array]:
        return {"coef": self.coef_}

    def _restore(self, arrays: Mapping[str, Array]) -> None:
        self.coef_ = np.asarray(arrays["coef"])

    def _expand_classes(self, present: Array) -> None:
        coef = np.zeros((len(self.coef_), len(present)))
        coef[:, present] = self.coef_
        self.coef_, self.intercept_ = coef, expand_intercept(self.intercept_, present)

    @property
    def _features(self) -> int:
        return len(self.coef_)
