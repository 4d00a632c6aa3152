"""Summarization: a head is trained to select the sentences of a greedy oracle, and is chosen by held-out ROUGE."""

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
from headstart.extraction.features import ExtractOptions, FeatureSpec, extract_all
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
    in_summary: tuple[Array, ...]

    def take(self, index: Sequence[int]) -> SummaryData:
        """Return some of the documents."""
        return SummaryData(*(tuple(values[i] for i in index) for values in vars(self).values()))

    def features(self, name: str) -> Array:
        """Return features (m, d) of all sentences; ``name`` is one of the sets of features."""
        return np.concatenate([features(d, v, name) for d, v in zip(self.documents, self.vectors)])

    @property
    def targets(self) -> Float:
        """One-hot (m, 2): left out, in the summary."""
        return np.eye(2)[np.concatenate(self.in_summary).astype(np.int64)]

    @property
    def owner(self) -> Array:
        """The document of each sentence, (m,)."""
        return np.repeat(np.arange(len(self.documents)), [len(document) for document in self.documents])


@dataclass(frozen=True, eq=False)
class _SummaryTrial:
    """One set of features with its head: ROUGE-1 of held-out documents (n,), without and with trigram blocking."""

    feature_set: str
    choice: Selection
    scores: Float | None

    @property
    def blocking(self) -> bool:
        return self.scores is None or bool(self.scores[1].mean() >= self.scores[0].mean())

    @property
    def score(self) -> Float:
        return np.zeros(0) if self.scores is None else self.scores[int(self.blocking)]


def _check(config: FitConfig, columns: Sequence[Target]) -> None:
    if config.length is not None:
        Length.parse(config.length)
    if config.data.modality != "text":
        raise DataError(f"Summaries are of texts; these items are of modality {config.data.modality!r}.")
    if isinstance(config.head, str) and config.head != "auto":
        HEADS[config.head]
    for column in columns:
        if not any(value and value.strip() for value in column.values if value is not None):
            raise DataError(f"No document has a summary in {column.name!r}.")


def _fit(config: FitConfig, columns: Sequence[Target]) -> FitResult:
    start = time.perf_counter()
    data, document_segments, vectors, specs, runtimes = main_first(lambda: _extract(config))
    documents = join_documents(document_segments, len(data))
    extracted_at = time.perf_counter()
    models, tables = [], {}
    for column in (c for c in data.columns if c.name in {column.name for column in columns}):
        summary_data = _summary_data(column, documents, vectors)
        model, tables[column.name] = _fit_target(config, column.name, summary_data, specs)
        models.append(model)
    seconds = {"extract": round(extracted_at - start, 3), "heads": round(time.perf_counter() - extracted_at, 3)}
    return FitResult(tuple(models), tables, data, runtimes, seconds)


def _extract(config: FitConfig) -> tuple[Dataset, Any, Array, tuple[FeatureSpec, ...], tuple[RuntimeConfig, ...]]:
    """Extract sentence vectors (m, d) of the documents that can be read."""
    segments = split_documents(config.data)
    unreadable = sorted(set(range(len(config.data))) - set(segments.item_index.tolist()))
    for index in unreadable:
        problem = UnreadableItem(
            item_label(config.data, index), segments.unreadable.get(index, "there is no sentence in it")
        )
        if config.on_error == "raise":
            raise problem
        note(f"Left out of training: {problem}.")
    if len(unreadable) == len(config.data):
        raise DataError("None of the documents can be read.")
    readable = np.setdiff1d(np.arange(len(config.data)), unreadable)
    data = config.data.take(readable) if unreadable else config.data
    document_segments = (
        segments if not unreadable else type(segments)(segments.data, np.searchsorted(readable, segments.item_index))
    )
    layers = "last" if config.layers == "auto" else config.layers
    options = [  # a sentence is a text: it can be read
        ExtractOptions(layers, config.pooling, **{**config.extract_options(number), "on_error": "raise"})
        for number in range(len(config.sources))
    ]
    features = extract_all(config.sources, segments.data, options, store=config.store, pooled=True)
    vectors = features.concatenate(list(features.specs))
    return data, document_segments, vectors, tuple(features.specs.values()), features.runtimes


def _summary_data(column: Target, documents: Sequence[tuple[Document, slice]], vectors: Array) -> SummaryData:
    labelled = [i for i, value in enumerate(column.values) if value is not None and value.strip()]
    if len(labelled) < len(documents):
        note(f"{len(documents) - len(labelled)} of {len(documents)} documents have no summary in {column.name!r}.")
    if not labelled:
        raise DataError(f"No document that can be read has a summary in {column.name!r}.")
    references = tuple(column.values[i] for i in labelled)
    selected = tuple(oracle(documents[i][0].sentences, reference) for i, reference in zip(labelled, references))
    taken = np.concatenate(selected)
    if not taken.any():
        raise DataError(
            f"The summaries in {column.name!r} share no words with their documents: nothing can be learned."
        )
    if taken.all():
        raise DataError(f"The summaries in {column.name!r} take every sentence of their documents: nothing to choose.")
    return SummaryData(
        tuple(documents[i][0] for i in labelled),
        tuple(vectors[documents[i][1]] for i in labelled),
        references,
        selected,
    )


def _fit_target(
    config: FitConfig, target: str, summary_data: SummaryData, specs: tuple[FeatureSpec, ...]
) -> tuple[Summarization, Any]:
    from_references = Length.learned(
        summary_data.documents, [Document.from_text(text) for text in summary_data.references]
    )
    length = from_references if config.length is None else Length.parse(config.length)
    trials = _try_feature_sets(config, _subsample(summary_data, config.seed), length)
    best = max(
        trials, key=lambda trial: trial.score.mean() if trial.scores is not None else trial.feature_set == _USUAL
    )
    head = best.choice.fit({best.feature_set: summary_data.features(best.feature_set)}, summary_data.targets)
    specs_used = () if best.feature_set == SETS[0] else specs
    n_multiline = sum("\n" in text.strip() for text in summary_data.references)
    separator = SEPARATORS[n_multiline * 2 < len(summary_data.references)]  # as most references are written
    model = Summarization(target, specs_used, head, best.feature_set, length, best.blocking, separator)
    return model, _table(trials, best, length, from_references=config.length is None)


def _subsample(summary_data: SummaryData, seed: int) -> SummaryData:
    order = np.random.default_rng(seed).permutation(len(summary_data.documents))
    ends = np.cumsum([len(summary_data.documents[i]) for i in order])
    count = max(2, int(np.searchsorted(ends, _MOST_SENTENCES, side="right")))
    return summary_data if count >= len(order) else summary_data.take(sorted(order[:count].tolist()))


def _try_feature_sets(config: FitConfig, summary_data: SummaryData, length: Length) -> list[_SummaryTrial]:
    """Choose a head for every set of features, and score each by the summaries of held-out documents."""
    T, owner = summary_data.targets, summary_data.owner
    folds = None
    trials = []
    for name in SETS:
        X = summary_data.features(name)
        choice = select_head(
            {name: X},
            T,
            groups=owner,
            fold_ids=folds,
            heads=None if config.head == "auto" else config.head,  # type: ignore[arg-type]  # refuses CTC heads
            balance=config.balance,
            random_state=config.seed,
        )
        folds = choice.folds
        trials.append(
            _SummaryTrial(name, choice, None if folds is None else _score_held_out(choice, X, summary_data, length))
        )
    return trials


def _score_held_out(choice: Selection, X: Array, summary_data: SummaryData, length: Length) -> Float:
    """Return ROUGE-1 (2, n) of summaries by heads fitted without the document; the second row with trigram blocking."""
    fields = dict(choice.fields)
    problem = Problem("classification", fields.pop("scale", "none"), X, summary_data.targets)
    assert choice.folds is not None
    decisions = type(choice.head).out_of_fold(problem, choice.folds, [fields])[0].mean(axis=0)
    scores = decisions[:, 1] - decisions[:, 0]
    ends = np.cumsum([0, *(len(document) for document in summary_data.documents)])
    rouge_scores = np.empty((2, len(summary_data.documents)))
    for index, (document, reference) in enumerate(zip(summary_data.documents, summary_data.references)):
        order = best_first(scores[ends[index] : ends[index + 1]])
        for blocking in (False, True):
            text = join_sentences(document, length.fill(order, document, blocking=blocking), "\n")
            rouge_scores[int(blocking), index] = rouge(reference, text)
    return rouge_scores


def _table(
    trials: Sequence[_SummaryTrial], best: _SummaryTrial, length: Length, *, from_references: bool
) -> dict[str, Any]:
    scored = sorted((trial for trial in trials if trial.scores is not None), key=lambda t: -t.score.mean())
    rows = [
        {"layers": t.feature_set, "head": t.choice.name, "blocking": t.blocking, **_interval(t.score)} for t in scored
    ]
    balance = best.choice.balance
    count = len(best.score)
    length_text = f"of the references of the training data: {length}" if from_references else f"asked for: {length}"
    return {
        "layers": best.feature_set,
        "head": best.choice.name,
        "fields": dict(best.choice.fields),
        "metric": "rouge1",
        **(_interval(best.score) if count else dict.fromkeys(("score", "low", "high"))),
        "reason": f"best of {len(trials)} sets of features by ROUGE-1 on {count} held-out documents"
        if count
        else "one document: nothing could be held out, so nothing was compared",
        "balance": {"kind": balance.kind, "metric": balance.metric, "reason": balance.reason},
        "length": length_text,
        "trigram_blocking": best.blocking,
        "table": rows,
    }


def _interval(scores: Float) -> dict[str, float]:
    """Mean over documents with its 95 % interval."""
    mean = float(scores.mean())
    half = 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return {"score": round(mean, 4), "low": round(max(mean - half, 0.0), 4), "high": round(min(mean + half, 1.0), 4)}


SUMMARIZATION = TaskFitter(_check, _fit)
