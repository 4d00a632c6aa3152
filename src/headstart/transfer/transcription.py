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
from headstart.dataset.dataset import Dataset
from headstart.dataset.targets import Target
from headstart.errors import DataError, OptionError, UnknownName
from headstart.extraction.features import ExtractOptions, FeatureSet, FeatureSpec, LayerKey, extract_all, take_rows
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
from headstart.transfer.tasks import FitConfig, FitResult, TaskFitter, check_any_left

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

    def at(self, key: LayerKey, index: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        """Frames and texts of some items."""
        return [self.frames[key][i] for i in index.tolist()], [self.texts[i] for i in index.tolist()]


@dataclass(frozen=True)
class _SpeechTrial:
    """A head on a layer, and its character error rate on what was held out (None where nothing was)."""

    key: LayerKey
    head: CtcHead
    cer: Metric | None = None


def _check(config: FitConfig, columns: Sequence[Target]) -> None:
    if isinstance(config.head, CtcHead):
        config.head.check()
    elif config.head != "auto" and config.head not in CTC:
        raise UnknownName(unknown_name("heads for transcription", config.head, ["auto", *CTC]))
    if config.pooling not in ("auto", "frames"):
        raise OptionError(f"Transcription needs frames in time: pooling='frames' (or 'auto'); got {config.pooling!r}.")
    wrong = [s.address for s in config.sources if s.modality not in ("audio", "any")]
    if wrong:
        raise OptionError(f"Transcription is of audio; {', '.join(wrong)} takes none.")
    for column in columns:
        if not any(column.values):
            raise DataError(f"No item has a transcript in {column.name!r}.")


def _fit(config: FitConfig, columns: Sequence[Target]) -> FitResult:
    start = time.perf_counter()
    features = main_first(lambda: _extract(config))
    data, frames = features.data, features.rows
    extracted_at = time.perf_counter()
    models: list[TargetModel] = []
    tables: dict[str, Any] = {}
    histories: dict[str, Any] = {}
    for column in (c for c in data.columns if c.name in {c.name for c in columns}):
        speech = _speech_data(config, data, frames, column)
        alphabet = alphabet_of(speech.texts, config.head.units if isinstance(config.head, CtcHead) else "auto")
        trials = _search_heads(config, speech, alphabet)
        best = trials[0]
        everything = np.arange(len(speech.texts))
        checkpoint = config.checkpoint if len(columns) == 1 else None
        recogniser, history = _train_head(
            best, speech, everything, alphabet=alphabet, config=config, checkpoint=checkpoint
        )
        spec = FeatureSpec(best.key[0], best.key[1], "frames")
        models.append(Transcription(column.name, (spec,), recogniser))
        tables[column.name] = _table(speech, trials, alphabet)
        histories = {**history.to_dict()} if len(columns) == 1 else {**histories, column.name: history.to_dict()}
    seconds = {"extract": round(extracted_at - start, 3), "heads": round(time.perf_counter() - extracted_at, 3)}
    return FitResult(tuple(models), tables, data, features.runtimes, seconds, history=histories)


def _extract(config: FitConfig) -> FeatureSet:
    """Extract frames of every candidate layer of every source, for the items that all of them can read whole."""
    options = [
        ExtractOptions(_layers(source, config.layers), "frames", **config.extract_options(number))
        for number, source in enumerate(config.sources)
    ]
    features = extract_all(config.sources, config.data, options, store=config.store)
    check_any_left(features, len(config.data))
    return features


def _layers(source: Source, layers: str | tuple[str, ...]) -> tuple[str, ...]:
    """Select the requested layers; with ``"auto"`` a few of the candidates, spread over the depth."""
    names = source.select(layers)
    if layers != "auto":
        return names
    layers_found = [source.layer(name) for name in names]
    narrow_layers = [
        layer.name for layer in layers_found if width("frames", axes=layer.axes, shape=layer.shape) <= _WIDEST
    ] or list(names)
    count = min(_MOST_LAYERS, len(narrow_layers))
    index = np.unique(np.linspace(0, len(narrow_layers) - 1, count).round().astype(int))
    return tuple(narrow_layers[i] for i in index)


def _speech_data(
    config: FitConfig, data: Dataset, frames: Mapping[LayerKey, list[np.ndarray]], column: Target
) -> SpeechData:
    index = np.array([i for i, text in enumerate(column.values) if text is not None], dtype=np.int64)
    if len(index) < len(data):
        note(f"{len(data) - len(index)} of {len(data)} items have no transcript in {column.name!r} and are left out.")
    texts = [column.values[i] for i in index.tolist()]

    def label(key: LayerKey) -> str:
        return key[1] if len(config.sources) == 1 else f"{config.sources[key[0]].name}/{key[1]}"

    frames_used = {key: take_rows(values, index) for key, values in frames.items()}
    return SpeechData(data.take(index).with_targets(texts, task="transcription"), frames_used, texts, label)


def _search_heads(config: FitConfig, speech: SpeechData, alphabet: Alphabet) -> list[_SpeechTrial]:
    """Score heads on held-out items, the best first: the linear head on every layer, the other on the best few."""
    keys = _long_enough(speech, alphabet)
    if isinstance(config.head, CtcHead):
        heads = [config.head]
    elif config.head == "auto":
        heads = [ctc("linear"), ctc("bilstm")]
    else:
        heads = [ctc(str(config.head))]
    if len(keys) == len(heads) == 1 or len(speech.texts) < _FOLDS:
        return [_SpeechTrial(keys[0], heads[-1])]
    folds = _folds(speech.data, config.seed)
    split = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    trials = [
        _cross_validate(_SpeechTrial(key, heads[0]), speech, split, alphabet=alphabet, config=config) for key in keys
    ]
    trials.sort(key=_cost)
    for other in heads[1:]:
        finalists = [trial.key for trial in trials[:_FINALISTS]]
        trials += [
            _cross_validate(_SpeechTrial(key, other), speech, split, alphabet=alphabet, config=config)
            for key in finalists
        ]
    return sorted(trials, key=_cost)


def _folds(data: Dataset, seed: int) -> np.ndarray:
    """Fold 0 is held out: whole speakers where groups are known."""
    groups = _FOLDS if data.group_ids is None else len(np.unique(data.group_ids))
    if groups < 2:
        return np.random.default_rng(seed).permutation(len(data)) % _FOLDS
    return data.fold_ids(min(_FOLDS, groups), random_state=seed)


def _cost(trial: _SpeechTrial) -> float:
    return float("inf") if trial.cer is None or np.isnan(trial.cer) else float(trial.cer)


def _long_enough(speech: SpeechData, alphabet: Alphabet) -> list[LayerKey]:
    """The places with at least as many frames as there are symbols to write, the deepest first."""
    required = [_least_frames(alphabet.numbers(text)) for text in speech.texts]
    share = {
        key: float(np.mean([len(X) < n for X, n in zip(values, required)])) for key, values in speech.frames.items()
    }
    long_enough = [key for key in reversed(list(speech.frames)) if share[key] <= _TOO_FEW_FRAMES]
    if not long_enough:
        best = min(share, key=lambda key: share[key])
        raise DataError(
            f"Too few frames: at {speech.label(best)}, the best of the layers tried, {share[best]:.0%} of the "
            f"transcripts have more {alphabet.units} than there are frames. Take an earlier layer, or load the source "
            "with a smaller step between its patches, input={'patch_hop_frames': 12}."
        )
    if len(long_enough) < len(share):
        dropped = ", ".join(speech.label(key) for key in share if key not in long_enough)
        note(f"Too few frames for the transcripts at {dropped}.")
    return long_enough


def _least_frames(numbers: list[int]) -> int:
    """One per symbol, and a blank between equal ones."""
    return len(numbers) + sum(a == b for a, b in pairwise(numbers))


def _cross_validate(
    trial: _SpeechTrial,
    speech: SpeechData,
    split: tuple[np.ndarray, np.ndarray],
    *,
    alphabet: Alphabet,
    config: FitConfig,
) -> _SpeechTrial:
    fitting, held_out = split
    recogniser, _ = _train_head(trial, speech, fitting, alphabet=alphabet, config=config)
    frames, truth = speech.at(trial.key, held_out)
    if not any(text.strip() for text in truth):
        return trial
    cer = evaluate("transcription", truth, recogniser.texts(frames), only=["cer"])["cer"]
    return _SpeechTrial(trial.key, trial.head, cer)


def _train_head(
    trial: _SpeechTrial,
    speech: SpeechData,
    index: np.ndarray,
    *,
    alphabet: Alphabet,
    config: FitConfig,
    checkpoint: Path | None = None,
) -> tuple[Recogniser, History]:
    frames, texts = speech.at(trial.key, index)
    recogniser = Recogniser.fresh(trial.head, alphabet, frames, seed=config.seed)
    network, head = recogniser.network, trial.head
    numbers = [torch.tensor(alphabet.numbers(text), dtype=torch.long) for text in texts]

    def loss(indices: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        indices = local_shard(indices)
        batch, lengths = recogniser.padded([frames[i] for i in indices.tolist()])
        required = [numbers[i] for i in indices.tolist()]
        sizes = torch.tensor([len(required_frames) for required_frames in required])
        scores = network.train()(batch, lengths).log_softmax(2).transpose(0, 1)
        return functional.ctc_loss(scores, torch.cat(required), lengths, sizes, zero_infinity=True)

    training = head.training.resolve()
    training = dataclasses.replace(
        training,
        batch_size=min(training.batch_size, max(1, len(texts) // _STEPS)),
        budget=config.budget if checkpoint is not None else None,
        seed=config.seed,
    )
    identity = fingerprint([recogniser.config(), texts, config.sources[trial.key[0]].fingerprint, trial.key[1]])
    history = train(
        [ParameterGroup(dict(network.named_parameters()))], loss, len(texts), config=training, checkpoint=checkpoint,
        identity=identity, label=f"{head.name} on {speech.label(trial.key)}",
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return recogniser, history


def _table(speech: SpeechData, trials: Sequence[_SpeechTrial], alphabet: Alphabet) -> dict[str, Any]:
    """What was chosen, and from what, as plain data."""

    def row(trial: _SpeechTrial) -> dict[str, Any]:
        cer = trial.cer
        numbers = [None if x is None else round(float(x), 4) for x in (cer, cer and cer.low, cer and cer.high)]
        return {
            "layers": speech.label(trial.key), "head": trial.head.name,
            **dict(zip(("score", "low", "high"), numbers)),
        }  # fmt: skip

    best = trials[0]
    rows = [row(trial) for trial in trials]
    reason = "the only one tried; nothing was held out" if best.cer is None else "fewest character errors held out"
    return {
        **rows[0], "fields": best.head.config(), "metric": "cer", "reason": reason,
        "alphabet": {"units": alphabet.units, "symbols": len(alphabet.symbols)}, "table": rows,
    }  # fmt: skip


TRANSCRIPTION = TaskFitter(_check, _fit)
