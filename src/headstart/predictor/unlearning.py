"""Unlearning: the exact sums of forgotten items are subtracted, and the heads are solved again.

Only heads that are functions of sums over items can forget to the last bit; see
:class:`headstart.moments.exact_sums.ExactSums` for why the result is that of a fit without the items.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, OptionError, UnreadableItem
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import open_store, recipe
from headstart.extraction.features import as_dataset, is_passthrough
from headstart.extraction.loading import item_label
from headstart.heads.base import HEADS
from headstart.moments.exact_sums import SHORT, ExactSums
from headstart.predictor.target_model import HeadModel, first_few

if TYPE_CHECKING:
    from headstart.predictor.predictor import Predictor

SOLVED_AGAIN = ("weights", "class counts", "logit adjustment")
UNCHANGED = ("layers", "head", "strength", "balance", "temperature", "scores of the choice")


def forget(predictor: Predictor, x: Any, store: str | Path | None) -> Predictor:
    """See :meth:`headstart.predictor.Predictor.forget`."""
    models = _models_with_sums(predictor)
    data, _ = as_dataset(x, predictor.source.modality)
    keys = _trained_keys(predictor, data)
    features = predictor._extract(data, "raise", _store_with_features(predictor, data, store))
    targets = []
    for model, exact_sums in models:
        remaining = exact_sums.without(model.features(features[model.target].rows), keys)
        _check_remaining(model, exact_sums, remaining)
        targets.append(model.solve(remaining))
    record = {"items": len(set(keys)), "solved_again": list(SOLVED_AGAIN), "unchanged": list(UNCHANGED)}
    provenance = {**predictor.provenance, "forgotten": [*predictor.provenance.get("forgotten", ()), record]}
    trained_on = predictor.trained_on.difference(keys)
    return dataclasses.replace(predictor, targets=tuple(targets), trained_on=trained_on, provenance=provenance)


def _models_with_sums(predictor: Predictor) -> list[tuple[HeadModel, ExactSums]]:
    """All target models with their exact sums; where some have none, an error says why."""
    models: list[tuple[HeadModel, ExactSums]] = []
    for model in predictor.targets:
        if not isinstance(model, HeadModel) or model.exact_sums is None:
            break
        models.append((model, model.exact_sums))
    else:
        return models
    if predictor.chosen.get("policy", "frozen") != "frozen":
        reason = "its network was fine-tuned, so that every weight of it has seen them"
    elif not getattr(model.head, "from_moments", False):  # heads for transcription have no such attribute
        reason = f"its head, {model.head.name}, is no function of sums over items"
    else:
        reason = "no sums to subtract from were kept when it was fitted"
    able = ", ".join(name for name in HEADS if HEADS[name].from_moments)
    raise OptionError(
        f"Items cannot be taken out of this predictor: {reason}. Fit again on a dataset without them; with exact=True, "
        f"frozen features and one of the heads {able}, later ones can be forgotten."
    )


def _trained_keys(predictor: Predictor, data: Dataset) -> list[bytes]:
    """Short content keys of items, all of which were trained on."""
    if not len(data):
        raise DataError("No items were given, so there is nothing to forget.")
    keys = []
    for index, key in enumerate(data.keys()):
        if key is None:
            reason = "cannot be read, and items are known by their content: forget them before deleting them"
            raise UnreadableItem(item_label(data, index), reason)
        keys.append(key[:SHORT])
    unknown = [str(item_label(data, i)) for i, key in enumerate(keys) if key not in predictor.trained_on]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(keys)} items are none that this predictor has learned from, or were forgotten "
            f"already: {first_few(unknown)}. Items are known by their content, to the byte. Leave these out."
        )
    return keys


def _store_with_features(predictor: Predictor, data: Dataset, store: str | Path | bool | None) -> Any:
    """The store, where it has the features; False where they must be computed: nothing new of these items is stored."""
    if store is False:
        return False
    specs = {spec for model in predictor.targets for spec in model.specs}
    for spec in specs:
        source = predictor.sources[spec.source]
        if is_passthrough(source):
            continue
        runtime = dataclasses.replace(predictor.running[spec.source], device=device_name("auto"))
        table = open_store(store).table(recipe(source, spec.layer, spec.pooling, runtime, data=data))
        if not table.has(data.keys()).all():
            return False
    return store


def _check_remaining(model: HeadModel, before: ExactSums, remaining: ExactSums) -> None:
    """Refuse to leave fewer than two items that differ, or none of a class."""
    count = len(remaining.keys)
    if count < 2:
        raise DataError(
            f"{count or 'No'} item would be left to predict {model.target!r} from, and it takes 2. Delete "
            "this predictor, and fit one on other data."
        )
    had, has = before.targets.sum(axis=0) > 0, remaining.targets.sum(axis=0) > 0
    lost = [] if model.classes is None else [model.classes[i] for i in np.flatnonzero(had & ~has)]
    if lost:
        raise DataError(
            f"No item of {first_few(lost)} would be left, and a predictor keeps its classes, names included. "
            "Fit again on a dataset without these items."
        )
    if not remaining.moments.scatter.any():
        raise DataError(
            f"The {count} items that would be left for {model.target!r} would all have the same features: "
            "there is nothing to learn from. Fit on other data."
        )
