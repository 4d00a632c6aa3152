"""What is shared, in sentences that a practitioner understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.result import Row

_ALIKE = 0.9
_MUCH, _SOME = 0.15, 0.08  # of what is left beyond chance


def in_words(found: Mapping[str, Any], best: Row) -> list[str]:
    """At most a handful of sentences."""
    several = len({one["source"] for one in found["cka"]["labels"]}) > 1
    return [
        *(_directions(one, several) for one in found["subspace"]),
        *_distances(found["distance"], several),
        *_likeness(found["cka"], best),
    ]


def _directions(one: Mapping[str, Any], several: bool) -> str:
    whose = "its own classifier relies on" if one["against"] == "classifier" else "tell its own training classes apart"
    where = f"{one['source']}, {one['layer']}" if several else one["layer"]
    gain = (one["share"] - one["chance"]) / max(1 - one["chance"], 1e-9)
    if gain > _MUCH:
        meaning = "it was taught to look at much of what you need"
    elif gain > _SOME:
        meaning = "it was taught to look at some of what you need"
    else:
        meaning = "its own task hardly points at yours; what may help you lies beside it"
    return (
        f"{where}: {one['share']:.0%} of the differences between your classes lies along the directions that {whose} "
        f"(meaningless labels: {one['chance']:.0%}): {meaning}."
    )


def _distances(found: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
    words = []
    for source in dict.fromkeys(one["source"] for one in found):
        mine = [one for one in found if one["source"] == source and one["relative"] is not None]
        if not mine:
            continue
        near, far = min(mine, key=lambda one: one["relative"]), max(mine, key=lambda one: one["relative"])
        name = source if several else "the source"
        words.append(
            f"Your data lies {near['relative']:.1f} times the spread of {name}'s training data away from it at "
            f"{near['layer']} (nearest) and {far['relative']:.1f} times at {far['layer']} (farthest); "
            "below 1 the two overlap."
        )
    return words


def _likeness(cka: Mapping[str, Any], best: Row) -> list[str]:
    labels, values = cka["labels"], cka["values"]
    at = next((i for i, one in enumerate(labels) if (one["source"], one["layer"]) == (best.source, best.layer)), None)
    if at is None:
        return []
    words = []
    same = [i for i, one in enumerate(labels) if one["source"] == best.source and i != at]
    twins = [labels[i]["layer"] for i in same if values[at][i] >= _ALIKE]
    if twins:
        shown = ", ".join(twins[:4]) + (f" and {len(twins) - 4} more" if len(twins) > 4 else "")
        words.append(f"Layers that see your data much as {best.layer} does (CKA ≥ {_ALIKE}): {shown}.")
    others: dict[str, tuple[float, str]] = {}
    for i, one in enumerate(labels):
        if one["source"] != best.source:
            others[one["source"]] = max(others.get(one["source"], (-1.0, "")), (values[at][i], one["layer"]))
    if others:
        told = [f"{name} (at {layer}) {value:.2f}" for name, (value, layer) in sorted(others.items())]
        words.append(
            f"How alike other sources see your data, compared with {best.layer} of {best.source}, 1 being the same: "
            f"{', '.join(told)}. The lower, the more the two can add to each other."
        )
    return words
