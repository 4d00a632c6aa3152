"""Summarization: a summary per document is some of its sentences, chosen by a head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from headstart._base.constraints import check_saved
from headstart._base.typing import Array, Ints
from headstart.dataset.dataset import Dataset
from headstart.errors import UnreadableItem
from headstart.extraction.features import FeatureSet, FeatureSpec, LayerKey, Segments
from headstart.heads.base import Head
from headstart.metrics.evaluate import assess
from headstart.predictor.predictions import TargetPredictions
from headstart.predictor.target_model import HeadRecord, TextModel, gives_numbers
from headstart.readers.base import reader
from headstart.result.result import Result
from headstart.summarization.document import Document
from headstart.summarization.features import SETS, features
from headstart.summarization.length import UNITS, Length, best_first, join_sentences

SEPARATORS = ("\n", " ")


class _LengthRecord(BaseModel):
    """A :class:`Length` as it is saved."""

    model_config = ConfigDict(strict=True, extra="forbid")

    unit: str
    amount: float = Field(gt=0, lt=math.inf)


class _SummarizationRecord(BaseModel):
    """Config of a :class:`Summarization`, as version 0.1 writes it."""

    model_config = ConfigDict(strict=True)

    head: HeadRecord
    seen: str  # the feature set
    length: _LengthRecord
    blocking: bool
    joint: Literal["\n", " "]  # the separator


def split_documents(data: Dataset) -> Segments:
    """Cut every document into its sentences."""
    read = reader("text").read
    sentences: list[str] = []
    owner: list[int] = []
    unreadable: dict[int, str] = {}
    for index, item in enumerate(data.items):
        try:
            document = Document.from_text(read(item))
        except UnreadableItem as error:
            unreadable[index] = error.reason
            continue
        sentences += document.sentences
        owner += [index] * len(document)
    return Segments(Dataset(tuple(sentences), modality="text"), np.array(owner, dtype=np.int64), unreadable)


def sentence_vectors(rows: Mapping[LayerKey, Array], specs: Sequence[FeatureSpec]) -> Array | None:
    """Concatenate the layers' rows of the sentences (m, d); None without specs."""
    if not specs:
        return None
    return np.concatenate([rows[spec.source, spec.layer] for spec in specs], axis=1)


def join_documents(segments: Segments, count: int) -> list[tuple[Document, slice]]:
    """Put sentences together to documents, each with the slice that its sentences are among all."""
    ends = np.searchsorted(segments.item_index, np.arange(count + 1))
    sentences = segments.data.items
    return [(Document(tuple(sentences[a:b])), slice(int(a), int(b))) for a, b in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Summarization(TextModel):
    """The sentences that the head scores highest, in the order of the document.

    Attributes
    ----------
    head : Head
        Its classes are "left out" and "in the summary".
    feature_set : str
        Features of a sentence: one of ``headstart.summarization.SETS``. Without specs no source is run.
    length : Length
    blocking : bool
        True leaves out a sentence that repeats three words in a row of one taken before.
    separator : {"\\n", " "}
        Stands between sentences, as in the references of the training data.
    """

    task = "summarization"
    expected = "reference summaries, one text per document"
    divide: ClassVar[Callable[[Dataset], Segments] | None] = staticmethod(split_documents)

    head: Head
    feature_set: str
    length: Length
    blocking: bool
    separator: str

    def infer(self, features: FeatureSet) -> TargetPredictions:
        """Return the summaries."""
        documents = self._documents(features)
        return TargetPredictions([self._join(document, self._select(document, v)) for document, v in documents])

    def evaluate(self, labels: list[Any], features: FeatureSet) -> Result:
        """ROUGE, and that of the leading sentences and of TextRank, each as long as the summary in words."""
        texts: dict[str, list[str]] = {"": [], "lead.": [], "textrank.": []}
        for document, vectors in self._documents(features):
            selected = self._select(document, vectors)
            same_length = Length("words", float(document.lengths[selected].sum()))
            texts[""].append(self._join(document, selected))
            baselines = {"lead.": np.arange(len(document)), "textrank.": best_first(document.textrank)}
            for name, order in baselines.items():
                texts[name].append(self._join(document, same_length.fill(order, document)))
        results = {prefix: assess("summarization", labels, summaries) for prefix, summaries in texts.items()}
        metrics: dict[str, Any] = {}
        row_scores: dict[str, Any] = {}
        for prefix, result in results.items():
            metrics |= {prefix + name: metric for name, metric in result.metrics.items()}
            row_scores |= {prefix + name: scores for name, scores in result.row_scores.items()}
        return dataclasses.replace(results[""], metrics=metrics, row_scores=row_scores)

    def state(self) -> dict[str, Array]:
        """Arrays of the head."""
        return self.head.state()

    def _task_config(self) -> dict[str, Any]:
        return {
            "head": {"name": self.head.name, "fields": self.head.config()},
            "seen": self.feature_set,
            "length": dataclasses.asdict(self.length),
            "blocking": self.blocking,
            "joint": self.separator,
        }

    @classmethod
    def _from_task_config(
        cls, config: Mapping[str, Any], state: Mapping[str, Array], *, target: str, specs: tuple[FeatureSpec, ...]
    ) -> Self:
        record = _SummarizationRecord.model_validate(config)
        head = record.head.build(state)
        check_saved(record.length.unit in UNITS, "a length")
        check_saved(record.seen in SETS and (record.seen == SETS[0]) == (not specs), "the features of sentences")
        check_saved(head.task_ == "classification" and gives_numbers(head, 2), "a head")
        length = Length(record.length.unit, record.length.amount)
        return cls(target, specs, head, record.seen, length, record.blocking, record.joint)

    def _documents(self, features: FeatureSet) -> list[tuple[Document, Array | None]]:
        """Documents with the vectors of their sentences."""
        assert features.segments is not None
        vectors = sentence_vectors(features.rows, self.specs)
        documents = join_documents(features.segments, len(features.data))
        return [(document, None if vectors is None else vectors[rows]) for document, rows in documents]

    def _select(self, document: Document, vectors: Array | None) -> Ints:
        """Numbers of the sentences that the summary takes, in the order of the document."""
        decision = self.head.decision(features(document, vectors, self.feature_set))
        return self.length.fill(best_first(decision[:, 1] - decision[:, 0]), document, blocking=self.blocking)

    def _join(self, document: Document, selected: Ints) -> str:
        return join_sentences(document, selected, self.separator)
