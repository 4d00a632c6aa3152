"""A summary per document: some of its sentences, chosen by a head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np

from headstart._base.constraints import check_saved
from headstart.dataset.dataset import Dataset
from headstart.errors import UnreadableItem
from headstart.extraction.features import FeatureSet, FeatureSpec, LayerKey, Segments
from headstart.heads.base import HEADS, Head
from headstart.metrics.evaluate import assess
from headstart.predictor.text_models import TextModel
from headstart.readers.base import reader
from headstart.result.result import Result
from headstart.summarization.document import Document
from headstart.summarization.features import SETS, features
from headstart.summarization.length import UNITS, Length, best_first, written

JOINTS = ("\n", " ")


def in_sentences(data: Dataset) -> Segments:
    """Every document as its sentences."""
    read = reader("text").read
    pieces: list[str] = []
    owner: list[int] = []
    unreadable: dict[int, str] = {}
    for index, item in enumerate(data.items):
        try:
            found = Document.of(read(item)).sentences
        except UnreadableItem as error:
            unreadable[index] = error.reason
            continue
        pieces += found
        owner += [index] * len(found)
    return Segments(Dataset(tuple(pieces), modality="text"), np.array(owner, dtype=np.int64), unreadable)


def vectors_of(at: Mapping[LayerKey, np.ndarray], parts: Sequence[FeatureSpec]) -> np.ndarray | None:
    """The sentences' vectors (m, d), parts side by side; None without parts."""
    return np.concatenate([at[part.source, part.layer] for part in parts], axis=1) if parts else None


def documents_of(division: Segments, count: int) -> list[tuple[Document, slice]]:
    """Each document with the place of its sentences among all."""
    ends = np.searchsorted(division.owner, np.arange(count + 1))
    items = division.pieces.items
    return [(Document(tuple(items[a:b])), slice(int(a), int(b))) for a, b in pairwise(ends)]


@dataclass(frozen=True, eq=False)
class Summarization(TextModel):
    """The sentences that the head scores highest, in the order of the document.

    Attributes
    ----------
    head : Head
        Classes "left out" and "in the summary".
    seen : str
        What it sees of a sentence: one of ``headstart.summarization.SETS``. Without parts no source is run.
    length : Length
    blocking : bool
        Whether a sentence that repeats three words in a row of one taken before is left out.
    joint : {"\\n", " "}
        What stands between sentences, as in the references of the training data.
    """

    task = "summarization"
    wanted = "reference summaries, one text per document"
    divide: ClassVar[Callable[[Any], Segments] | None] = staticmethod(in_sentences)

    head: Head
    seen: str
    length: Length
    blocking: bool
    joint: str

    @property
    def solver(self) -> Any:
        """The head."""
        return self.head

    def labels(self, rows: FeatureSet) -> Sequence[str]:
        """The summaries."""
        return [self._text(document, self._chosen(document, vectors)) for document, vectors in self._each(rows)]

    def assessed(self, truth: list[Any], rows: FeatureSet) -> Result:
        """ROUGE, and that of the leading sentences and of TextRank, each as long as the summary in words."""
        texts: dict[str, list[str]] = {"": [], "lead.": [], "textrank.": []}
        for document, vectors in self._each(rows):
            chosen = self._chosen(document, vectors)
            same = Length("words", float(document.lengths[chosen].sum()))
            texts[""].append(self._text(document, chosen))
            for name, order in (("lead.", np.arange(len(document))), ("textrank.", best_first(document.textrank))):
                texts[name].append(self._text(document, same.fill(order, document)))
        found = {name: assess("summarization", truth, said) for name, said in texts.items()}
        gathered: dict[str, Any] = {
            field: {
                prefix + name: value for prefix, one in found.items() for name, value in getattr(one, field).items()
            }
            for field in ("metrics", "row_scores")
        }
        return dataclasses.replace(found[""], **gathered)

    def record(self) -> dict[str, Any]:
        """Everything but arrays."""
        return {
            "head": {"name": self.head.name, "fields": self.head.config()},
            "seen": self.seen,
            "length": dataclasses.asdict(self.length),
            "blocking": self.blocking,
            "joint": self.joint,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The head's state."""
        return self.head.state()

    @classmethod
    def rebuilt(
        cls, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, target: str, parts: tuple[FeatureSpec, ...]
    ) -> Self:
        """From what was saved; the head is tried on one row."""
        saved, length = record["head"], Length(**record["length"])
        head = HEADS[saved["name"]].from_config(saved["fields"], arrays)
        amount = length.amount
        check_saved(length.unit in UNITS and type(amount) is float and 0 < amount < math.inf, "a length")
        check_saved(record["seen"] in SETS and (record["seen"] == SETS[0]) == (not parts), "what the head sees")
        check_saved(isinstance(record["blocking"], bool) and record["joint"] in JOINTS, "how summaries are written")
        found = head.decision(np.zeros((1, head._features), dtype=np.float32))
        check_saved(head.task_ == "classification" and found.shape == (1, 2) and not np.isnan(found).any(), "a head")
        return cls(target, parts, head, record["seen"], length, record["blocking"], record["joint"])

    def _each(self, rows: FeatureSet) -> list[tuple[Document, np.ndarray | None]]:
        assert rows.division is not None
        vectors = vectors_of(rows.at, self.parts)
        places = documents_of(rows.division, len(rows.data))
        return [(document, None if vectors is None else vectors[place]) for document, place in places]

    def _chosen(self, document: Document, vectors: np.ndarray | None) -> np.ndarray:
        decision = self.head.decision(features(document, vectors, self.seen))
        return self.length.fill(best_first(decision[:, 1] - decision[:, 0]), document, blocking=self.blocking)

    def _text(self, document: Document, chosen: np.ndarray) -> str:
        return written(document, chosen, self.joint)
