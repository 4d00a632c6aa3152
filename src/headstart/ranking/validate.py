"""ranking.validate(k): fit the top rows and some others, and compare every score with the test scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import weightedtau

from headstart._base.printing import blocks, paragraph, table
from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.heads.base import Head
from headstart.metrics.kernels import mean_average_precision, r_squared, r_squared_parts
from headstart.ranking.table import Names, best_result, transferability_scores
from headstart.result.ranking import Row
from headstart.selection.cross_validation import draw_folds
from headstart.selection.search import Selection, select_head
from headstart.sources.base import Source

_SCORES = ("accuracy", "logme", "h_score", "knn", "nce", "leep", "static")
_N_OTHERS = 4


@dataclass(frozen=True)
class Validation:
    """Test scores of some fitted rows, and how well every score predicts them.

    Attributes
    ----------
    rows : tuple of (source, layer, test score)
        In the order of the ranking.
    tau : mapping
        Weighted Kendall τ of every score against the test scores; 1 is the same order.
    regret : mapping
        How much is lost by taking the row that the score puts first.
    metric : str
        Name of the test score.
    items : int
        Number of test items.
    """

    rows: tuple[tuple[str, str, float], ...]
    tau: Mapping[str, float] = field(default_factory=dict)
    regret: Mapping[str, float] = field(default_factory=dict)
    metric: str = "accuracy"
    items: int = 0

    def __str__(self) -> str:
        fitted = table(["source", "layer", self.metric], [[s, layer, f"{v:.3f}"] for s, layer, v in self.rows], "llr")
        order = sorted(self.tau, key=lambda name: (self.regret[name], -self.tau[name]))
        body = [[name, f"{self.tau[name]:.2f}", f"{self.regret[name]:.3f}"] for name in order]
        judged = table(["score", "weighted tau", "regret"], body, "lrr") if body else ""
        return blocks(paragraph(f"Validation · {len(self.rows)} rows, {self.items} test items"), fitted, judged)


def validate(
    k: int, *, rows: Mapping[str, np.ndarray], T: np.ndarray, names: Names, task: str,
    ranked: Sequence[Row], seed: int, groups: np.ndarray | None = None, data: Dataset | None = None,
    column: str | None = None, head: str | Head = "auto", fit: Callable[..., Any] | None = None, **options: Any,
) -> Validation:  # fmt: skip
    """Fit the first ``k`` rows and up to four others on three fifths of the data and score them on the rest.

    Scores are computed again on those three fifths, so that none has seen the test part. Without ``fit`` heads
    are solved on the features; ``fit=hs.fit`` runs the whole job, and passes on ``policy=``, ``budget=`` and whatever
    else it takes: ``ranking.validate(3, fit=hs.fit, policy="full")`` fine-tunes every row.

    Raises
    ------
    OptionError
        When ``k`` is not positive, or options are given without ``fit``.
    DataError
        When nothing can be held out.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise OptionError(f"k must be a whole number ≥ 1; got {k!r}.")
    if options and fit is None:
        raise OptionError(f"{', '.join(options)} is for fitting in full: give fit=hs.fit as well.")
    chosen = _select_rows(int(k), ranked)
    folds = draw_folds(T, task, groups=groups, repeats=1, random_state=seed + 1)
    if folds is None:
        raise DataError("There is nothing to hold out: every class has one example, or all are one group.")
    test = folds[0] % 2 == 1
    names_by_key = {(source.fingerprint, layer): name for name, (source, layer) in names.items()}
    picked = {names_by_key[row.fingerprint, row.layer]: row for row in chosen}
    train = {name: rows[name][~test] for name in picked}
    select_options: dict[str, Any] = {"task": task, "heads": head, "random_state": seed}
    choices = {name: select_head({name: X}, T[~test], **select_options) for name, X in train.items()}
    scores = [_scores_on_training_part(row, train[name], T[~test], choices[name]) for name, row in picked.items()]
    fit_options: dict[str, Any] = {"random_state": seed, **options}
    if head != "auto":
        fit_options.setdefault("head", head)
    test_scores = []
    for name in picked:
        if fit is None or data is None:
            test_scores.append(_test_score_of_head(choices[name], rows[name], T, test))
        else:
            parts = data.take(np.flatnonzero(~test)), data.take(np.flatnonzero(test))
            test_scores.append(_test_score_of_fit(fit, names[name], parts, column, **fit_options))
    tau, regret = _rank_agreement(scores, test_scores)
    metric = {"classification": "accuracy", "multilabel": "mean_average_precision", "regression": "r2"}[task]
    shown = tuple((row.source, row.layer, value) for row, value in zip(chosen, test_scores, strict=True))
    return Validation(shown, tau, regret, metric, int(test.sum()))


def _select_rows(k: int, ranked: Sequence[Row]) -> list[Row]:
    """Return the first k rows, and up to four spread over the others."""
    spread = np.linspace(k, len(ranked) - 1, _N_OTHERS).astype(int) if len(ranked) > k else np.zeros(0, int)
    return [ranked[i] for i in dict.fromkeys([*range(min(k, len(ranked))), *spread.tolist()])]


def _scores_on_training_part(row: Row, X: np.ndarray, T: np.ndarray, choice: Selection) -> dict[str, float | None]:
    """Return every score of a row from training rows alone (NCE, LEEP and size are not fitted to anything)."""
    best = best_result(choice.trials, choice.candidates)
    recomputed = {"accuracy": None if best is None else best.score, **transferability_scores(X, T, task=choice.task)}
    return {name: recomputed.get(name, getattr(row, name)) for name in _SCORES}


def _rank_agreement(
    scores: Sequence[Mapping[str, float | None]], test_scores: Sequence[float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return weighted τ and regret of every score that all rows have."""
    tau, regret = {}, {}
    for score in _SCORES:
        values = [row_scores[score] for row_scores in scores]
        if any(v is None for v in values) or len(values) < 2:
            continue
        orders = len(set(values)) > 1 and len(set(test_scores)) > 1
        tau[score] = float(weightedtau(values, test_scores).statistic) if orders else 0.0
        array = np.asarray(values, dtype=float)
        regret[score] = float(
            max(test_scores) - np.mean(np.asarray(test_scores)[array == array.max()])
        )  # of equals: any of them
    return tau, regret


def _test_score_of_head(choice: Selection, X: np.ndarray, T: np.ndarray, test: np.ndarray) -> float:
    """Return the test score of the selected head, fitted on the training rows."""
    (name,) = choice.candidates
    decision = choice.fit({name: X[~test]}, T[~test]).decision(X[test])
    if choice.task == "classification":
        return float((decision.argmax(1) == T[test].argmax(1)).mean())
    if choice.task == "multilabel":
        return float(mean_average_precision(decision, T[test])[0])
    return float(r_squared(r_squared_parts(decision, T[test]))[0])


def _test_score_of_fit(
    fit: Callable[..., Any], key: tuple[Source, str], parts: tuple[Dataset, Dataset], column: str | None, **options: Any
) -> float:
    """Return the test score of ``fit`` on one source and layer."""
    (source, layer), (train, test) = key, parts
    metrics = fit(source, train, layers=[layer], **options).evaluate(test).metrics
    prefix = f"{column}." if len(train.columns) > 1 else ""
    return float(next(value for name, value in metrics.items() if name.startswith(prefix)))
