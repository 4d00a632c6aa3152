"""Taking items out of a predictor: their moments are subtracted and the head is solved again."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from headstart.dataset.dataset import Dataset
from headstart.errors import DataError, OptionError, UnreadableItem
from headstart.extraction.autotune import device_name
from headstart.extraction.extract import recipe, store_of
from headstart.extraction.features import is_passthrough, items_of
from headstart.extraction.loading import label
from headstart.heads.base import HEADS
from headstart.moments.exact_sums import SHORT, ExactSums
from headstart.predictor.target_model import first_few

SOLVED_AGAIN = ("weights", "class counts", "logit adjustment")
UNCHANGED = ("layers", "head", "strength", "balance", "temperature", "scores of the choice")


def forget(predictor: Any, x: Any, store: Any) -> Any:
    """See :meth:`headstart.predictor.Predictor.forget`."""
    _need_ledgers(predictor)
    data, _ = items_of(x, predictor.source.modality)
    keys = _known(predictor, data)
    rows = predictor._extract(data, "raise", _home(predictor, data, store))
    answers = []
    for answer in predictor.targets:
        left = answer.exact_sums.without(answer.features(rows[answer.target].at), keys)
        _need_left(answer, left)
        answers.append(answer.solve(left))
    done = {"items": len(set(keys)), "solved_again": list(SOLVED_AGAIN), "unchanged": list(UNCHANGED)}
    provenance = {**predictor.provenance, "forgotten": [*predictor.provenance.get("forgotten", ()), done]}
    kept = predictor.trained_on.difference(keys)
    return dataclasses.replace(predictor, targets=tuple(answers), trained_on=kept, provenance=provenance)


def _need_ledgers(predictor: Any) -> None:
    """Why nothing can be subtracted, where that is so."""
    without = [answer for answer in predictor.targets if getattr(answer, "ledger", None) is None]
    if not without:
        return
    if predictor.chosen.get("policy", "frozen") != "frozen":
        why = "its network was fine-tuned, so that every weight of it has seen them"
    elif not getattr(without[0].head, "from_moments", False):
        why = f"its head, {getattr(without[0].head, 'name', without[0].task)}, is no function of sums over items"
    else:
        why = "no sums to subtract from were kept when it was fitted"
    able = ", ".join(name for name in HEADS if HEADS[name].from_moments)
    raise OptionError(
        f"Items cannot be taken out of this predictor: {why}. Fit again on a dataset without them; with exact=True, "
        f"frozen features and one of the heads {able}, later ones can be forgotten."
    )


def _known(predictor: Any, data: Dataset) -> list[bytes]:
    """Short content keys of items, all of which were trained on."""
    if not len(data):
        raise DataError("No items were given, so there is nothing to forget.")
    found = data.keys()
    for index in (i for i, key in enumerate(found) if key is None):
        raise UnreadableItem(
            label(data, index), "cannot be read, and items are known by their content: forget them before deleting them"
        )
    keys = [(key or b"")[:SHORT] for key in found]
    strange = [str(label(data, i)) for i, key in enumerate(keys) if key not in predictor.trained_on]
    if strange:
        raise DataError(
            f"{len(strange)} of {len(keys)} items are none that this predictor has learned from, or were forgotten "
            f"already: {first_few(strange)}. Items are known by their content, to the byte. Leave these out."
        )
    return keys


def _home(predictor: Any, data: Dataset, store: Any) -> Any:
    """The store, where it has the features; False where they must be computed: nothing new is kept of these items."""
    if store is False:
        return False
    places = {(p.source, p.layer, p.pooling) for answer in predictor.targets for p in answer.specs}
    for number, layer, pooling in places:
        source = predictor.sources[number]
        choice = dataclasses.replace(predictor.running[number], device=device_name("auto"))
        if not is_passthrough(source):
            table = store_of(store).table(recipe(source, layer, pooling, choice, data=data))
            if not table.has(data.keys()).all():
                return False
    return store


def _need_left(answer: Any, left: ExactSums) -> None:
    """Two items that differ, and of every class one."""
    if len(left.keys) < 2:
        raise DataError(
            f"{len(left.keys) or 'No'} item would be left to predict {answer.target!r} from, and it takes 2. Delete "
            "this predictor, and fit one on other data."
        )
    before, after = answer.exact_sums.targets.sum(axis=0), left.targets.sum(axis=0)
    lost = [] if answer.classes is None else [answer.classes[i] for i in np.flatnonzero((before > 0) & (after == 0))]
    if lost:
        raise DataError(
            f"No item of {first_few(lost)} would be left, and a predictor keeps its classes, names included. "
            "Fit again on a dataset without these items."
        )
    if not left.moments.scatter.any():
        raise DataError(
            f"The {len(left.keys)} items that would be left for {answer.target!r} would all have the same features: "
            "there is nothing to learn from. Fit on other data."
        )
