"""Transcription: frames of the candidate layers, a CTC head trained on each, the best by held-out character errors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from headstart._base.hashing import fingerprint
from headstart._base.intervals import Metric
from headstart._base.processes import local_shard
from headstart._base.progress import note
from headstart._base.registry import unknown_name
from headstart._base.typing import SkippedItem
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError, OptionError, UnknownName
from headstart.extraction.extract import extract
from headstart.extraction.features import FeatureSpec, LayerKey, has_frames, take_rows
from headstart.metrics.evaluate import evaluate
from headstart.pooling import width
from headstart.predictor.target_model import TargetModel
from headstart.predictor.transcription import Transcription
from headstart.sources.base import Source
from headstart.speech_heads.base import CTC, CtcHead, ctc
from headstart.speech_heads.decoding import Alphabet, alphabet_of
from headstart.speech_heads.recogniser import Recogniser
from headstart.training.checkpoint import History, ParameterGroup
from headstart.training.distributed import main_first
from headstart.training.loop import train
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter

_FOLDS = 5  # one of them is held out
_MOST_LAYERS = 6  # of a source that are tried when nobody says which
_WIDEST = 4096  # numbers per frame of a layer that is tried unasked
_FINALISTS = 2  # layers that the dearer head is tried on
_STEPS = 12  # per epoch at least, where there are that many items: too few steps, and a head says only blanks
_TOO_FEW_FRAMES = 0.1  # share of transcripts with more symbols than frames from which on a layer is not tried


@dataclass(frozen=True)
class SpeechData:
    """Items with a transcript: their frames at every candidate place, and what is said."""

    data: Dataset
    frames: Mapping[LayerKey, list[np.ndarray]]
    texts: list[str]
    label: Any

    def at(self, place: LayerKey, which: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        """Frames and texts of some items."""
        return [self.frames[place][i] for i in which.tolist()], [self.texts[i] for i in which.tolist()]


@dataclass(frozen=True)
class _SpeechTrial:
    """A head on a layer, and its character error rate on what was held out (None where nothing was)."""

    place: LayerKey
    head: CtcHead
    cer: Metric | None = None


def _check(job: FitConfig, columns: Sequence[Target]) -> None:
    if isinstance(job.head, CtcHead):
        job.head.check()
    elif job.head != "auto" and job.head not in CTC:
        raise UnknownName(unknown_name("heads for transcription", job.head, ["auto", *CTC]))
    if job.pooling not in ("auto", "frames"):
        raise OptionError(f"Transcription needs frames in time: pooling='frames' (or 'auto'); got {job.pooling!r}.")
    wrong = [s.address for s in job.sources if s.modality not in ("audio", "any")]
    if wrong:
        raise OptionError(f"Transcription is of sounds; {', '.join(wrong)} does not listen.")
    for column in columns:
        if not any(column.values):
            raise DataError(f"No item has a transcript in {column.name!r}.")


def _fit(job: FitConfig, columns: Sequence[Target]) -> FitResult:
    begun = time.perf_counter()
    data, frames, choices, _ = main_first(lambda: _extracted(job))
    read = time.perf_counter()
    answers: list[TargetModel] = []
    tables: dict[str, Any] = {}
    histories: dict[str, Any] = {}
    for column in (c for c in data.columns if c.name in {c.name for c in columns}):
        heard = _heard(job, data, frames, column)
        alphabet = alphabet_of(heard.texts, job.head.units if isinstance(job.head, CtcHead) else "auto")
        trials = _trials(job, heard, alphabet)
        best = trials[0]
        everything = np.arange(len(heard.texts))
        checkpoint = job.checkpoint if len(columns) == 1 else None
        recogniser, history = _trained(best, heard, everything, alphabet=alphabet, job=job, checkpoint=checkpoint)
        part = FeatureSpec(best.place[0], best.place[1], "frames")
        answers.append(Transcription(column.name, (part,), recogniser))
        tables[column.name] = _table(heard, trials, alphabet)
        histories = {**history.to_dict()} if len(columns) == 1 else {**histories, column.name: history.to_dict()}
    seconds = {"extract": round(read - begun, 3), "heads": round(time.perf_counter() - read, 3)}
    return FitResult(tuple(answers), tables, data, choices, seconds, history=histories)


def _extracted(
    job: FitConfig,
) -> tuple[Dataset, dict[LayerKey, list[np.ndarray]], tuple[Any, ...], tuple[SkippedItem, ...]]:
    """Frames of every candidate layer of every source, for the items that all of them can read whole."""
    data = job.data
    banks = [
        extract(one, data, layers=_layers(one, job.layers), pooling="frames", store=job.store, **job.extract_options)
        for one in job.sources
    ]
    there = np.ones(len(data), dtype=bool)
    for bank in banks:
        there &= bank.keep(data)
    kept = data.take(np.flatnonzero(there))
    frames = {(i, layer): bank.sequences(layer, kept) for i, bank in enumerate(banks) for layer in bank.layers}
    whole = np.flatnonzero(has_frames(frames, len(kept)))
    if not len(whole):
        raise DataError("None of the items can be read whole." if len(kept) else "None of the items can be read.")
    if len(whole) < len(data):
        note(f"{len(data) - len(whole)} of {len(data)} items are left out of training.")
    skipped = {one.index: one for bank in banks for one in bank.skipped}
    frames = {place: take_rows(values, whole) for place, values in frames.items()}
    return kept.take(whole), frames, tuple(bank.choice for bank in banks), tuple(skipped.values())


def _layers(source: Source, layers: str | tuple[str, ...]) -> tuple[str, ...]:
    """What was asked for; unasked, a few of the candidates, spread over the depth."""
    names = source.select(layers)
    if layers != "auto":
        return names
    found = [source.layer(name) for name in names]
    narrow = [one.name for one in found if width("frames", axes=one.axes, shape=one.shape) <= _WIDEST] or list(names)
    places = np.unique(np.linspace(0, len(narrow) - 1, min(_MOST_LAYERS, len(narrow))).round().astype(int))
    return tuple(narrow[i] for i in places)


def _heard(job: FitConfig, data: Dataset, frames: Mapping[LayerKey, list[np.ndarray]], column: Target) -> SpeechData:
    index = np.array([i for i, text in enumerate(column.values) if text is not None], dtype=np.int64)
    if len(index) < len(data):
        note(f"{len(data) - len(index)} of {len(data)} items have no transcript in {column.name!r} and are left out.")
    texts = [column.values[i] for i in index.tolist()]

    def label(place: LayerKey) -> str:
        return place[1] if len(job.sources) == 1 else f"{job.sources[place[0]].name}/{place[1]}"

    kept = {place: take_rows(values, index) for place, values in frames.items()}
    return SpeechData(data.take(index).with_targets(texts, task="transcription"), kept, texts, label)


def _trials(job: FitConfig, heard: SpeechData, alphabet: Alphabet) -> list[_SpeechTrial]:
    """What was tried, the best first: the linear head on every layer, the other on the best few."""
    places = _long_enough(heard, alphabet)
    fixed = job.head if isinstance(job.head, CtcHead) else None if job.head == "auto" else ctc(str(job.head))
    heads = [fixed] if fixed is not None else [ctc("linear"), ctc("bilstm")]
    if len(places) == len(heads) == 1 or len(heard.texts) < _FOLDS:
        return [_SpeechTrial(places[0], heads[-1])]
    folds = _folds(heard.data, job.seed)
    halves = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    trials = [_tried(_SpeechTrial(place, heads[0]), heard, halves, alphabet=alphabet, job=job) for place in places]
    trials.sort(key=_cost)
    for other in heads[1:]:
        first = [trial.place for trial in trials[:_FINALISTS]]
        trials += [_tried(_SpeechTrial(place, other), heard, halves, alphabet=alphabet, job=job) for place in first]
    return sorted(trials, key=_cost)


def _folds(data: Dataset, seed: int) -> np.ndarray:
    """Fold 0 is held out: whole speakers where groups are known."""
    groups = _FOLDS if data.group_ids is None else len(np.unique(data.group_ids))
    if groups < 2:
        return np.random.default_rng(seed).permutation(len(data)) % _FOLDS
    return data.fold_ids(min(_FOLDS, groups), random_state=seed)


def _cost(trial: _SpeechTrial) -> float:
    return float("inf") if trial.cer is None or np.isnan(trial.cer) else float(trial.cer)


def _long_enough(heard: SpeechData, alphabet: Alphabet) -> list[LayerKey]:
    """The places with at least as many frames as there are symbols to write, the deepest first."""
    wanted = [_least_frames(alphabet.numbers(text)) for text in heard.texts]
    share = {
        place: float(np.mean([len(X) < n for X, n in zip(values, wanted)])) for place, values in heard.frames.items()
    }
    good = [place for place in reversed(list(heard.frames)) if share[place] <= _TOO_FEW_FRAMES]
    if not good:
        best = min(share, key=lambda place: share[place])
        raise DataError(
            f"Too few frames: at {heard.label(best)}, the best of the layers tried, {share[best]:.0%} of the "
            f"transcripts have more {alphabet.units} than there are frames. Take an earlier layer, or load the source "
            "with a smaller step between its patches, input={'patch_hop_frames': 12}."
        )
    if len(good) < len(share):
        note(f"Too few frames for the transcripts at {', '.join(heard.label(p) for p in share if p not in good)}.")
    return good


def _least_frames(numbers: list[int]) -> int:
    """One per symbol, and a blank between equal ones."""
    return len(numbers) + sum(a == b for a, b in pairwise(numbers))


def _tried(
    trial: _SpeechTrial, heard: SpeechData, halves: tuple[np.ndarray, np.ndarray], *, alphabet: Alphabet, job: FitConfig
) -> _SpeechTrial:
    fitting, held = halves
    recogniser, _ = _trained(trial, heard, fitting, alphabet=alphabet, job=job)
    frames, truth = heard.at(trial.place, held)
    if not any(text.strip() for text in truth):
        return trial
    cer = evaluate("transcription", truth, recogniser.texts(frames), only=["cer"])["cer"]
    return _SpeechTrial(trial.place, trial.head, cer)


def _trained(
    trial: _SpeechTrial,
    heard: SpeechData,
    which: np.ndarray,
    *,
    alphabet: Alphabet,
    job: FitConfig,
    checkpoint: Path | None = None,
) -> tuple[Recogniser, History]:
    frames, texts = heard.at(trial.place, which)
    recogniser = Recogniser.fresh(trial.head, alphabet, frames, seed=job.seed)
    network, head = recogniser.network, trial.head
    numbers = [torch.tensor(alphabet.numbers(text), dtype=torch.long) for text in texts]

    def loss(indices: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        indices = local_shard(indices)
        batch, lengths = recogniser.padded([frames[i] for i in indices.tolist()])
        wanted = [numbers[i] for i in indices.tolist()]
        sizes = torch.tensor([len(one) for one in wanted])
        scores = network.train()(batch, lengths).log_softmax(2).transpose(0, 1)
        return functional.ctc_loss(scores, torch.cat(wanted), lengths, sizes, zero_infinity=True)

    training = head.training.resolve()
    config = dataclasses.replace(
        training,
        batch_size=min(training.batch_size, max(1, len(texts) // _STEPS)),
        budget=job.budget if checkpoint is not None else None,
        seed=job.seed,
    )
    identity = fingerprint([recogniser.config(), texts, job.sources[trial.place[0]].fingerprint, trial.place[1]])
    history = train(
        [ParameterGroup(dict(network.named_parameters()))], loss, len(texts), config=config, checkpoint=checkpoint,
        identity=identity, label=f"{head.name} on {heard.label(trial.place)}",
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return recogniser, history


def _table(heard: SpeechData, trials: Sequence[_SpeechTrial], alphabet: Alphabet) -> dict[str, Any]:
    """What was chosen, and from what, as plain data."""

    def row(trial: _SpeechTrial) -> dict[str, Any]:
        cer = trial.cer
        numbers = [None if x is None else round(float(x), 4) for x in (cer, cer and cer.low, cer and cer.high)]
        return {
            "layers": heard.label(trial.place), "head": trial.head.name,
            **dict(zip(("score", "low", "high"), numbers)),
        }  # fmt: skip

    best = trials[0]
    rows = [row(trial) for trial in trials]
    alone = "the only one tried; nothing was held out" if best.cer is None else "fewest character errors held out"
    return {
        **rows[0], "fields": best.head.config(), "metric": "cer", "reason": alone,
        "alphabet": {"units": alphabet.units, "symbols": len(alphabet.symbols)}, "table": rows,
    }  # fmt: skip


FITTER = TaskFitter(_check, _fit)
