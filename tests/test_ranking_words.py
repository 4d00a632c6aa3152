"""Words and rows of a ranking: what is said follows from the numbers, one case after another."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from headstart.cli.rank import distinct
from headstart.ranking.table import Pairing, _group_ties, best_result, describe_ties, fusion
from headstart.ranking.verdict import describe_similarity
from headstart.result import Row

NOTHING = {"subspace": [], "distance": [], "cka": {"labels": [], "values": []}}


def places(*names: str) -> list[dict[str, str]]:
    """``"a/l1"`` → {"source": "a", "layer": "l1"}."""
    return [dict(zip(("source", "layer"), name.split("/"), strict=True)) for name in names]


def far(source: str, layer: str, relative: float | None) -> dict:
    return {"source": source, "layer": layer, "relative": relative}


# ---- what is shared -------------------------------------------------------------------------------------------------


def test_nothing_measured_is_nothing_said():
    assert describe_similarity(NOTHING, Row("a", "f", "l1")) == []


def test_distances_name_the_nearest_and_the_farthest_layer():
    result = {**NOTHING, "distance": [far("a", "l1", 0.5), far("a", "l2", 2.25), far("a", "l3", 1.0)]}
    (sentence,) = describe_similarity(result, Row("a", "f", "l1"))
    assert "0.5 times the spread of the source's training data" in sentence
    assert "at l1 (nearest)" in sentence
    assert "2.2 times at l2 (farthest)" in sentence


def test_distances_of_several_sources_name_them():
    result = {
        "subspace": [],
        "distance": [far("a", "l1", 0.5), far("b", "l1", 3.0)],
        "cka": {"labels": places("a/l1", "b/l1"), "values": [[1.0, 0.2], [0.2, 1.0]]},
    }
    words = describe_similarity(result, Row("a", "f", "l1"))
    assert any("spread of a's training data" in word for word in words)
    assert any("spread of b's training data" in word for word in words)


def test_layers_without_any_spread_have_no_distance():
    assert describe_similarity({**NOTHING, "distance": [far("a", "l1", None)]}, Row("a", "f", "l1")) == []


def test_similar_layers_of_the_best_layer_are_named():
    values = [[1.0, 0.95, 0.2], [0.95, 1.0, 0.3], [0.2, 0.3, 1.0]]
    cka = {"labels": places("a/l1", "a/l2", "a/l3"), "values": values}
    (sentence,) = describe_similarity({**NOTHING, "cka": cka}, Row("a", "f", "l1"))
    assert sentence.endswith(": l2.")
    assert "l3" not in sentence


def test_many_similar_layers_are_counted():
    n = 9
    cka = {"labels": places(*(f"a/l{i}" for i in range(n))), "values": np.ones((n, n)).tolist()}
    (sentence,) = describe_similarity({**NOTHING, "cka": cka}, Row("a", "f", "l0"))
    assert "l1, l2, l3, l4 and 4 more" in sentence


def test_other_sources_are_compared_at_their_most_alike_layer():
    labels = places("a/l1", "b/x", "b/y", "c/z")
    values = np.eye(4)
    values[0, 1:] = values[1:, 0] = 0.3, 0.7, 0.1
    words = describe_similarity({**NOTHING, "cka": {"labels": labels, "values": values.tolist()}}, Row("a", "f", "l1"))
    (sentence,) = words
    assert "b (at y) 0.70, c (at z) 0.10" in sentence


def test_a_best_row_that_was_thinned_away_says_nothing():
    cka = {"labels": places("a/l1", "a/l2"), "values": np.ones((2, 2)).tolist()}
    assert describe_similarity({**NOTHING, "cka": cka}, Row("a", "f", "elsewhere")) == []


@pytest.mark.parametrize(
    ("against", "message"), [("classifier", "its own classifier"), ("classes", "training classes")]
)
def test_directions_say_whose_they_are(against, message):
    item = {"source": "a", "layer": "l1", "against": against, "share": 0.4, "chance": 0.1}
    (sentence,) = describe_similarity({**NOTHING, "subspace": [item]}, Row("a", "f", "l1"))
    assert message in sentence
    assert "40%" in sentence
    assert "10%" in sentence


# ---- rows -----------------------------------------------------------------------------------------------------------


def trial(name: str, wrong: int, n: int = 100, **more) -> SimpleNamespace:
    rows = np.ones(n)
    rows[:wrong] = 0
    score = float(rows.mean())
    shown = {"low": score - 0.05, "high": score + 0.05, "losses": 1 - rows, "mean_loss": 1 - score, "n_repeats": 3}
    return SimpleNamespace(head="ridge", candidates=(name,), row_scores=rows, score=score, **{**shown, **more})


def test_groups_start_anew_where_a_row_is_clearly_worse():
    wrongs = {"a": 5, "b": 6, "c": 30, "d": 32, "e": 70}
    pairs = [(Row("s", "f", name), trial(name, wrong)) for name, wrong in wrongs.items()]
    result = _group_ties(pairs, Pairing("classification"))
    assert [row.group for row in result] == [1, 1, 2, 2, 3]
    assert [row.tied for row in result] == [True, True, False, False, False]
    assert [round(row.difference, 2) for row in result] == [0.0, -0.01, -0.25, -0.27, -0.65]
    assert result[0].difference_low == result[0].difference_high == 0


def test_a_row_without_a_score_has_no_group():
    result = _group_ties([(Row("s", "f", "a"), trial("a", 5)), (Row("s", "f", "b"), None)], Pairing("classification"))
    assert (result[1].group, result[1].accuracy, result[1].tied) == (None, None, False)


def test_best_result_is_the_cheapest_trial_of_these_features():
    cheap, dear, other = trial("a", 10), trial("a", 20), trial("b", 1)
    assert best_result([dear, cheap, other], ("a",)) is cheap
    assert best_result([dear, cheap, other], ("c",)) is None
    assert best_result([cheap, trial("a", 0, n_repeats=1)], ("a",)) is cheap  # one draw may have been lucky


def fused(*choice):
    rows, T = {"a": np.zeros((40, 3)), "b": np.zeros((40, 5))}, np.eye(2)[np.arange(40) % 2]
    return fusion(chosen(*choice), NAMES, Pairing("classification"), rows=rows, T=T)


def chosen(trials, candidates=("a",), metric="accuracy", task="classification") -> SimpleNamespace:
    return SimpleNamespace(trials=trials, candidates=candidates, metric=metric, task=task)


@dataclass(frozen=True)
class Named:
    """As much of a source as a fusion looks at."""

    name: str
    fingerprint: str
    address: str = ""


NAMES = {"a": (Named("net", "f1"), "l1"), "b": (Named("other", "f2"), "l7")}


def test_fusion_is_told_against_the_best_single_row():
    together = trial("a", 5)
    together.candidates = ("a", "b")
    result = fused([trial("a", 15), trial("b", 40), together], ("a", "b"))
    assert result.parts == (("net", "l1"), ("other", "l7"))
    assert result.fingerprints == ("f1", "f2")
    assert result.difference == pytest.approx(0.10)
    assert 0 < result.difference_low < result.difference < result.difference_high
    assert result.wins
    assert result.features == (3, 5) and result.n_selected is None
    assert str(result) == "net/l1 + other/l7"


def test_fusion_that_was_not_chosen_does_not_win():
    together = trial("a", 14)
    together.candidates = ("a", "b")
    result = fused([trial("a", 15), together])
    assert not result.wins
    assert result.difference == pytest.approx(0.01)


def test_without_anything_together_there_is_no_fusion():
    assert fused([trial("a", 15), trial("b", 40)]) is None


def test_pairing_knows_the_metric():
    T = np.eye(2)[np.r_[np.zeros(30, int), np.ones(10, int)]]
    assert Pairing.of(chosen([], metric="accuracy"), T).weights is None
    weights = Pairing.of(chosen([], metric="balanced_accuracy"), T).weights
    assert weights.mean() == pytest.approx(1)
    assert weights[-1] / weights[0] == pytest.approx(3)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (["a"], "clearly better than all others on 50 examples"),
        (["a", "b"], "These 2 rows cannot be told apart on 50 examples: a, b."),
        (["a", "b", "c", "d", "e", "g"], "a, b, c, d and 2 more."),
    ],
)
def test_ties_are_counted_and_named(first, message):
    rows = [Row("s", "f", name, tied=True, macs=1.0) for name in first]
    assert message in describe_ties([*rows, Row("s", "f", "z", macs=1.0)], 50)


def test_ties_across_sources_name_them():
    rows = [Row("s", "f", "l", tied=True, macs=1.0), Row("t", "g", "l", tied=True, macs=1.0)]
    assert "s/l, t/l." in describe_ties(rows, 50)


# ---- names in the table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["one"], ["one"]),
        (["mobilenetv2_100.imagenet", "mobilenetv2_100.inat"], ["…imagenet", "…inat"]),
        (["net.a", "net.b"], ["net.a", "net.b"]),
        (["models/a", "models/b"], ["…a", "…b"]),
        (["wide_resnet50", "wide_resnet101"], ["wide_resnet50", "wide_resnet101"]),
        (["same.name.x", "same.name.y", "other"], ["same.name.x", "same.name.y", "other"]),
        (["resnet18", "mobilenet"], ["resnet18", "mobilenet"]),
        (["mobilenetv2_100", "mobilenetv2_100.inat"], ["mobilenetv2_100", "mobilenetv2_100.inat"]),
        (["x" * 60, "y"], ["x" * 12 + "…" + "x" * 11, "y"]),
        ([], []),
    ],
)
def test_names_lose_what_all_of_them_share(names, shown):
    result = distinct(names) if names else {}
    assert list(result) == names
    assert list(result.values()) == shown
    assert len(set(shown)) == len(names), "and stay apart"
