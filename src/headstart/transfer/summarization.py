"""Summarization: the head learns which sentences a greedy oracle would take, and is chosen by held-out ROUGE."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart._base.typing import Array, Float
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.engines.base import RuntimeConfig
from headstart.errors import DataError, UnreadableItem
from headstart.extraction.extract import extract
from headstart.extraction.features import FeatureSpec, is_passthrough
from headstart.extraction.loading import item_label
from headstart.heads.base import HEADS
from headstart.heads.problem import Problem
from headstart.predictor.summarization import SEPARATORS, Summarization, join_documents, split_documents
from headstart.selection.search import Selection, select_head
from headstart.summarization.document import Document
from headstart.summarization.features import SETS, features
from headstart.summarization.length import Length, best_first, join_sentences
from headstart.summarization.oracle import oracle, rouge
from headstart.training.distributed import main_first
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter

_MOST_SENTENCES = 20_000  # choices are made on documents that have about so many; the chosen head is fitted on all
_USUAL = SETS[1]


@dataclass(frozen=True, eq=False)
class SummaryData:
    """Documents with references: their sentences, vectors, and which of them the oracle takes."""

    documents: tuple[Document, ...]
    vectors: tuple[Array, ...]
    references: tuple[str, ...]
    wanted: tuple[Array, ...]

    def take(self, places: Sequence[int]) -> SummaryData:
        return SummaryData(*(tuple(values[i] for i in places) for values in vars(self).values()))

    def features(self, name: str) -> Array:
        return np.concatenate([features(d, v, name) for d, v in zip(self.documents, self.vectors)])

    @property
    def targets(self) -> Float:
        """One-hot (m, 2): left out, in the summary."""
        return np.eye(2)[np.concatenate(self.wanted).astype(np.int64)]

    @property
    def owner(self) -> Array:
        return np.repeat(np.arange(len(self.documents)), [len(document) for document in self.documents])


@dataclass(frozen=True, eq=False)
class _SummaryTrial:
    """One set of features with its head: ROUGE-1 of held-out documents (n,), without and with trigram blocking."""

    seen: str
    choice: Selection
    scores: Float | None

    @property
    def blocking(self) -> bool:
        return self.scores is None or bool(self.scores[1].mean() >= self.scores[0].mean())

    @property
    def score(self) -> Float:
        return np.zeros(0) if self.scores is None else self.scores[int(self.blocking)]


def _check(job: FitConfig, columns: Sequence[Target]) -> None:
    if job.length is not None:
        Length.parse(job.length)
    if job.data.modality != "text":
        raise DataError(f"Summaries are of texts; these items are of modality {job.data.modality!r}.")
    if isinstance(job.head, str) and job.head != "auto":
        HEADS[job.head]
    for column in columns:
        if not any(value and value.strip() for value in column.values if value is not None):
            raise DataError(f"No document has a summary in {column.name!r}.")


def _fit(job: FitConfig, columns: Sequence[Target]) -> FitResult:
    begun = time.perf_counter()
    data, division, vectors, parts, running = main_first(lambda: _read(job))
    places = join_documents(division, len(data))
    read = time.perf_counter()
    answers, tables = [], {}
    for column in (c for c in data.columns if c.name in {column.name for column in columns}):
        material = _material(column, places, vectors)
        answer, tables[column.name] = _answer(job, column.name, material, parts)
        answers.append(answer)
    seconds = {"extract": round(read - begun, 3), "heads": round(time.perf_counter() - read, 3)}
    return FitResult(tuple(answers), tables, data, running, seconds)


def _read(job: FitConfig) -> tuple[Dataset, Any, Array, tuple[FeatureSpec, ...], tuple[RuntimeConfig, ...]]:
    """The documents that can be read, their sentences, and the vectors (m, d) of these."""
    whole = split_documents(job.data)
    lost = sorted(set(range(len(job.data))) - set(whole.item_index.tolist()))
    for index in lost:
        problem = UnreadableItem(item_label(job.data, index), whole.unreadable.get(index, "there is no sentence in it"))
        if job.extract_options["on_error"] == "raise":
            raise problem
        note(f"Left out of training: {problem}.")
    if len(lost) == len(job.data):
        raise DataError("None of the documents can be read.")
    kept = np.setdiff1d(np.arange(len(job.data)), lost)
    data = job.data.take(kept) if lost else job.data
    division = whole if not lost else type(whole)(whole.data, np.searchsorted(kept, whole.item_index))
    asked: dict[str, Any] = {"layers": "last" if job.layers == "auto" else job.layers, "pooling": job.pooling}
    how = {**asked, **job.extract_options, "on_error": "raise"}
    banks = [extract(one, whole.data, store=False if is_passthrough(one) else job.store, **how) for one in job.sources]
    parts = tuple(
        FeatureSpec(i, layer, bank.recipe[layer]["pooling"]) for i, bank in enumerate(banks) for layer in bank.layers
    )
    rows = [banks[part.source].rows(part.layer, whole.data) for part in parts]
    return data, division, np.concatenate(rows, axis=1), parts, tuple(bank.choice for bank in banks)


def _material(column: Target, places: Sequence[tuple[Document, slice]], vectors: Array) -> SummaryData:
    known = [i for i, value in enumerate(column.values) if value is not None and value.strip()]
    if len(known) < len(places):
        note(f"{len(places) - len(known)} of {len(places)} documents have no summary in {column.name!r}.")
    if not known:
        raise DataError(f"No document that can be read has a summary in {column.name!r}.")
    references = tuple(column.values[i] for i in known)
    wanted = tuple(oracle(places[i][0].sentences, reference) for i, reference in zip(known, references))
    taken = np.concatenate(wanted)
    if not taken.any():
        raise DataError(
            f"The summaries in {column.name!r} share no words with their documents: nothing can be learned."
        )
    if taken.all():
        raise DataError(f"The summaries in {column.name!r} take every sentence of their documents: nothing to choose.")
    documents = tuple(places[i][0] for i in known)
    return SummaryData(documents, tuple(vectors[places[i][1]] for i in known), references, wanted)


def _answer(
    job: FitConfig, target: str, material: SummaryData, parts: tuple[FeatureSpec, ...]
) -> tuple[Summarization, Any]:
    learned = Length.learned(material.documents, [Document.from_text(text) for text in material.references])
    length = learned if job.length is None else Length.parse(job.length)
    trials = _trials(job, _thinned(material, job.seed), length)
    won = max(trials, key=lambda trial: trial.score.mean() if trial.scores is not None else trial.seen == _USUAL)
    head = won.choice.fit({won.seen: material.features(won.seen)}, material.targets)
    used = () if won.seen == SETS[0] else parts
    joint = SEPARATORS[sum("\n" in text.strip() for text in material.references) * 2 < len(material.references)]
    answer = Summarization(target, used, head, won.seen, length, won.blocking, joint)
    return answer, _table(trials, won, length, learned=job.length is None)


def _thinned(material: SummaryData, seed: int) -> SummaryData:
    order = np.random.default_rng(seed).permutation(len(material.documents))
    ends = np.cumsum([len(material.documents[i]) for i in order])
    count = max(2, int(np.searchsorted(ends, _MOST_SENTENCES, side="right")))
    return material if count >= len(order) else material.take(sorted(order[:count].tolist()))


def _trials(job: FitConfig, material: SummaryData, length: Length) -> list[_SummaryTrial]:
    """Every set of features with its best head, judged by the summaries of held-out documents."""
    T, owner = material.targets, material.owner
    folds = None
    trials = []
    for name in SETS:
        X = material.features(name)
        choice = select_head(
            {name: X}, T, groups=owner, fold_ids=folds, heads=None if job.head == "auto" else job.head,
            balance=job.balance, random_state=job.seed,
        )  # fmt: skip
        folds = choice.folds
        trials.append(_SummaryTrial(name, choice, None if folds is None else _held_out(choice, X, material, length)))
    return trials


def _held_out(choice: Selection, X: Array, material: SummaryData, length: Length) -> Float:
    """ROUGE-1 (2, n) of each document's summary by heads that were fitted without it; the second with blocking."""
    fields = dict(choice.fields)
    problem = Problem("classification", fields.pop("scale", "none"), X, material.targets)
    assert choice.folds is not None
    decisions = type(choice.head).out_of_fold(problem, choice.folds, [fields])[0].mean(axis=0)
    scores = decisions[:, 1] - decisions[:, 0]
    ends = np.cumsum([0, *(len(document) for document in material.documents)])
    found = np.empty((2, len(material.documents)))
    for place, (document, reference) in enumerate(zip(material.documents, material.references)):
        order = best_first(scores[ends[place] : ends[place + 1]])
        for blocking in (False, True):
            text = join_sentences(document, length.fill(order, document, blocking=blocking), "\n")
            found[int(blocking), place] = rouge(reference, text)
    return found


def _table(trials: Sequence[_SummaryTrial], won: _SummaryTrial, length: Length, *, learned: bool) -> dict[str, Any]:
    shown = sorted((trial for trial in trials if trial.scores is not None), key=lambda t: -t.score.mean())
    rows = [{"layers": t.seen, "head": t.choice.name, "blocking": t.blocking, **_interval(t.score)} for t in shown]
    balance = won.choice.balance
    count = len(won.score)
    how = f"of the references of the training data: {length}" if learned else f"asked for: {length}"
    return {
        "layers": won.seen,
        "head": won.choice.name,
        "fields": dict(won.choice.fields),
        "metric": "rouge1",
        **(_interval(won.score) if count else dict.fromkeys(("score", "low", "high"))),
        "reason": f"best of {len(trials)} sets of features by ROUGE-1 on {count} held-out documents"
        if count
        else "one document: nothing could be held out, so nothing was compared",
        "balance": {"kind": balance.kind, "metric": balance.metric, "reason": balance.reason},
        "length": how,
        "trigram_blocking": won.blocking,
        "table": rows,
    }


def _interval(scores: Float) -> dict[str, float]:
    """Mean over documents with its 95 % interval."""
    mean = float(scores.mean())
    half = 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return {"score": round(mean, 4), "low": round(max(mean - half, 0.0), 4), "high": round(min(mean + half, 1.0), 4)}


FITTER = TaskFitter(_check, _fit)
