"""What fine-tuning is given: samples with their keys and random views, and where the frozen part's rows are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headstart._base.progress import note
from headstart.bank.table import MemoryStore
from headstart.dataset.dataset import Dataset
from headstart.engines.base import RuntimeConfig
from headstart.extraction.extract import open_store, recipe
from headstart.extraction.features import FeatureSet, FeatureSpec, is_passthrough
from headstart.extraction.loading import sample_loader
from headstart.finetuning.budget import estimate
from headstart.finetuning.cache import ActivationStore
from headstart.finetuning.finetune import decisions
from headstart.finetuning.model import FineTuneModel, HeadInit
from headstart.heads.base import HEADS, Head
from headstart.policies.base import Policy
from headstart.predictor.target_model import HeadModel
from headstart.selection.search import select_head
from headstart.sources.base import Source
from headstart.training.augment import image_views, mirrored
from headstart.training.batches import Samples, Views

_GOOD_ENOUGH = 0.995
_FEWEST_EPOCHS = 5


def starting_points(
    answer: HeadModel,
    labelled: FeatureSet,
    T: np.ndarray,
    *,
    layers: str | tuple[str, ...],
    head: str | Head,
    balance: str,
    seed: int,
) -> Iterator[HeadModel]:
    """What tuning may start from, the best guess first: layers and a linear head, unless they were asked for by name.

    A frozen predictor likes layers in the middle, side by side, and heads that use every small direction of them. The
    first ground is the deepest layer alone, so that everything above the boundary has to work; the second adds it to
    the layers that the frozen predictor likes, which holds more of what is known where items are few. (Hand signs, 600
    photos: 0.988 from the first, 0.973 from the second; TrashNet, 360 photos: 0.792 and 0.854.) The head is logistic,
    which is smooth: from an LDA a few steps cost 30 points (10 classes, 600 photos).
    """
    options: dict[str, Any] = {"head": head, "balance": balance, "seed": seed}
    first = (answer.specs[0].source, answer.specs[0].layer)
    deepest = next(key for key in labelled.deepest_first() if key[0] == first[0])
    if layers != "auto" or not np.ptp(labelled.rows[deepest], axis=0).any():
        yield _starting_point(answer, answer.specs, labelled, T, **options)
        return
    spec = labelled.specs[deepest]
    yield _starting_point(answer, (spec,), labelled, T, **options)
    if answer.specs != (spec,):
        wide = (*answer.specs, *(() if spec in answer.specs else (spec,)))
        yield _starting_point(answer, wide, labelled, T, **options)


def _starting_point(
    answer: HeadModel,
    parts: tuple[FeatureSpec, ...],
    labelled: FeatureSet,
    T: np.ndarray,
    *,
    head: str | Head,
    balance: str,
    seed: int,
) -> HeadModel:
    if parts == answer.specs and (head != "auto" or answer.head.name == "logistic"):
        return answer
    name = "logistic" if answer.task in HEADS["logistic"].tasks else "ridge"
    if head != "auto" and answer.head.linear:
        name = answer.head.name
    rows = {"ground": dataclasses.replace(answer, specs=parts).features(labelled.rows)}
    choice = select_head(rows, T, task=answer.task, heads=name, balance=balance, fuse=False, random_state=seed)
    return dataclasses.replace(answer, specs=parts, head=choice.fit(rows, T))


def samples(source: Source, data: Dataset, indices: np.ndarray, *, views: Views | None = None) -> Samples:
    """Some items of a dataset, with their content keys."""
    places, keys = indices.tolist(), data.keys()
    read = sample_loader(source, data)
    content_keys = [key for i in places if (key := keys[i]) is not None]
    item_views = None if views is None else Views(lambda i, view: views.read(places[i], view), views.recipe)
    return Samples(
        lambda i: read(places[i]),
        source.input.collate,
        len(places),
        keys=content_keys if len(content_keys) == len(places) else None,
        views=item_views,
    )


def activation_store(
    source: Source, data: Dataset, choice: RuntimeConfig, policy: Policy, *, store: str | Path | bool | None
) -> ActivationStore:
    """Where the frozen part's rows are kept: in the store, as extraction keeps its own."""
    precision = policy.training.precision
    precision = choice.precision if precision == "auto" else precision
    runtime = dataclasses.replace(choice, precision=precision)
    home = MemoryStore() if store is False or is_passthrough(source) else open_store(store)
    return ActivationStore(home, lambda layer, pooling, c: recipe(source, layer, pooling, c, data=data), runtime)


def views(
    source: Source,
    data: Dataset,
    held_out: np.ndarray,
    *,
    policy: Policy,
    features: Sequence[FeatureSpec],
    start: HeadInit,
    score: Callable[[np.ndarray], float] | None,
    device: str,
) -> Views | None:
    """Random views of pictures; mirrored ones only where the frozen predictor knows held-out items in the mirror, too.

    A mirror destroys what a letter or a sign says, and nobody has to tell which data is of that kind: it shows.
    """
    if policy.augment.views == 1 or image_views(source, data, mirror=False) is None:
        return None
    if score is None or not len(held_out):
        return image_views(source, data, mirror=False)
    model = FineTuneModel(source, features, start, device=device)
    before, after = (
        score(decisions(model, _read(read, source, held_out)))
        for read in (sample_loader(source, data), mirrored(source, data))
    )
    standard_error = (max(before * (1 - before), 0.01) / len(held_out)) ** 0.5 if 0 <= before <= 1 else 0.0
    harmless = after >= before - standard_error
    so = "mirrored, too" if harmless else "not mirrored"
    note(f"Held-out items score {before:.3f}, in the mirror {after:.3f}: views are {so}.")
    return image_views(source, data, mirror=harmless)


def skip_reason(
    source: Source,
    layers: Sequence[str],
    policy: Policy,
    *,
    count: int,
    choice: RuntimeConfig,
    budget: float | None,
    shown: float | None,
) -> str | None:
    """Why fine-tuning is not worth starting: nothing is left to gain, or a few epochs do not fit into the budget."""
    if shown is not None and shown >= _GOOD_ENOUGH:
        return f"the frozen predictor is right in {shown:.1%} of cross-validation"
    epoch = estimate(source, list(layers), policy, count=count, speed=choice.speed)
    if budget is None or epoch is None:
        return None
    least = _FEWEST_EPOCHS * epoch + count / choice.speed
    if least > budget:
        return f"{_FEWEST_EPOCHS} epochs take about {least:.0f} s, more than the budget of {budget:.0f} s"
    return None


def _read(read: Callable[[int], Any], source: Source, indices: np.ndarray) -> Samples:
    return Samples(lambda i: read(int(indices[i])), source.input.collate, len(indices))
