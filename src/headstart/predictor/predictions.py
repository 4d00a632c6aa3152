"""Records of one pass over items: what :meth:`Predictor.infer` returns, and what one target model adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headstart._base.typing import Float, SkippedItem


@dataclass(frozen=True, eq=False)
class TargetPredictions:
    """Predictions of one target column for the n items that could be read.

    Attributes
    ----------
    labels : sequence of length n
    probabilities, decisions : (n, t) float64 or None
        None where the task has no such numbers.
    """

    labels: Sequence[Any]
    probabilities: Float | None = None
    decisions: Float | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """Everything that one pass over the items says about them.

    ``labels``, ``probabilities`` and ``decisions`` have the shape in which :meth:`Predictor.predict`,
    :meth:`~Predictor.predict_proba` and :meth:`~Predictor.decision_function` return them: one entry per item in the
    order asked for; the entry alone when one item was asked for; and with several targets a dict by target name.

    Attributes
    ----------
    labels : list, one label, or dict
        None for an item that could not be read.
    probabilities : (n, t) float64, (t,) for one item, dict, or None
        In the order of ``Predictor.classes``; rows of NaN for items that could not be read. None where the task has
        no probabilities; a dict leaves out the targets that have none.
    decisions : as ``probabilities``
        Decision values; for regression the predicted values.
    skipped : tuple of SkippedItem
        The items that could not be read, each once, with the reason, in the order of the items.
    seconds : float
        Wall time of the pass.
    """

    labels: Any
    probabilities: Float | Mapping[str, Float] | None
    decisions: Float | Mapping[str, Float] | None
    skipped: tuple[SkippedItem, ...]
    seconds: float
