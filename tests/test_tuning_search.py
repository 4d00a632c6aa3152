"""Which starts fine-tuning tries, on which held-out items, and when it stops: with scripted runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

import networks
from headstart import Dataset, fit, policy
from headstart.finetuning import FineTuneResult
from headstart.training.checkpoint import History
from headstart.transfer import starting_points as preparing
from headstart.transfer.acceptance import PairedPredictions
from headstart.transfer.finetune_search import FineTuneRun, _folds, _searched

FOLDS = [(np.arange(10, 50), np.arange(10)), (np.r_[0:10, 20:50], np.arange(10, 20))]


@dataclass
class Scripted:
    """Runs whose scores, gains and verdicts are given."""

    scores: dict[str, float]
    verdicts: list[bool]
    gains: float = 1.0
    costs: float = 1.0
    runs: list[tuple[str, int, str]] = field(default_factory=list)
    choices: list[tuple[int, int]] = field(default_factory=list)

    def run(self, ground, fitting, held, *, budget, name=""):
        self.runs.append((ground, int(held[0]), name))
        remaining = "tuned" if self.scores[ground] > 0 else "start"
        scores = {"start": 0.0, "tuned": self.scores[ground]}
        return FineTuneRun(
            ground, held, FineTuneResult(None, None, None, History(), remaining, scores, (), np.zeros((10, 2)))
        )

    def compare(self, one):
        return PairedPredictions(np.zeros((10, 2)), one.outcome.held_out_decisions, np.zeros((10, 2)))

    def is_better(self, one, seen, choices):
        self.choices.append((len(seen), choices))
        return one.outcome.selected != "start" and self.verdicts.pop(0)

    def mean_improvement(self, seen):
        return self.gains

    def scorer(self, held):
        return lambda decision: 0.5

    def fits_budget(self, like, budget, *, more):
        return budget >= self.costs * len(self.runs)


def searched(work, budget=100.0, further=("wide",)):
    return _searched(work, "deep", iter(further), FOLDS, budget=budget)


def test_what_is_clear_at_once_ends_the_search():
    work = Scripted({"deep": 1.0}, [True])
    won = searched(work)
    assert work.runs == [("deep", 0, "")] and won.outcome.selected == "tuned" and work.choices == [(1, 2)]
    assert won.outcome.scores == {"frozen": 0.5, "start": 0.0, "tuned": 1.0}


def test_a_second_start_is_tried_and_the_better_one_judged_more_strictly():
    work = Scripted({"deep": 1.0, "wide": 2.0}, [False, True])
    won = searched(work)
    assert [run[0] for run in work.runs] == ["deep", "wide"] and won.ground == "wide"
    assert work.choices == [(1, 2), (1, 4)]
    equal = searched(Scripted({"deep": 1.0, "wide": 1.0}, [False, True]))
    assert equal.ground == "deep"  # the first of equals


def test_what_is_better_but_not_clearly_is_asked_about_other_items():
    work = Scripted({"deep": 2.0, "wide": 1.0}, [False, False, True])
    won = searched(work)
    assert work.runs == [("deep", 0, ""), ("wide", 0, "wide"), ("deep", 10, "second")]
    assert won.outcome.selected == "tuned" and won.held_out[0] == 0 and work.choices[-1] == (2, 4)


def test_what_is_never_clear_stays_frozen():
    won = searched(Scripted({"deep": 2.0, "wide": 1.0}, [False, False, False]))
    assert won.outcome.selected == "start" and won.outcome.scores["tuned"] == 2.0


def test_without_a_gain_no_other_items_are_asked():
    work = Scripted({"deep": 2.0, "wide": 1.0}, [False, False], gains=0.0)
    assert searched(work).outcome.selected == "start" and len(work.runs) == 2
    lost = Scripted({"deep": 0.0, "wide": -1.0}, [])
    assert searched(lost).outcome.selected == "start" and len(lost.runs) == 2


@pytest.mark.parametrize(("budget", "runs"), [(None, 1), (0.5, 1), (1.5, 2), (2.5, 3)])
def test_only_what_fits_the_budget_is_tried(budget, runs):
    work = Scripted({"deep": 2.0, "wide": 1.0}, [False] * 3)
    assert searched(work, budget=budget).outcome.selected == "start" and len(work.runs) == runs


def test_the_folds_share_no_item_and_too_few_items_have_none():
    X = np.random.default_rng(0).normal(size=(50, 3))
    data = Dataset.from_arrays(X, [f"c{i % 2}" for i in range(50)])
    T = data.columns[0].matrix()
    (fit_a, held_a), (fit_b, held_b) = _folds(data, T, "classification", seed=0)
    assert not set(held_a) & set(held_b) and not set(fit_a) & set(held_a) and not set(fit_b) & set(held_b)
    assert len(fit_a) + len(held_a) == 50 == len(fit_b) + len(held_b)
    assert _folds(data.take(np.arange(4)), T[:4], "classification", seed=0) == []


@pytest.mark.parametrize("many", [2, 3, 4, 7])
def test_whole_groups_are_held_out_however_few(many):
    """Three speakers stopped the fine-tuning with an error: five parts were wanted of them."""
    X = np.random.default_rng(0).normal(size=(56, 3))
    data = Dataset.from_arrays(X, [f"c{i % 2}" for i in range(56)], groups=[i // 2 % many for i in range(56)])
    who = np.array(data.groups)
    for fitting, held_out in _folds(data, data.columns[0].matrix(), "classification", seed=0):
        assert not set(who[fitting]) & set(who[held_out]) and len(fitting) + len(held_out) == 56


def test_a_single_group_cannot_be_held_out():
    data = Dataset.from_arrays(np.zeros((20, 3)), ["a", "b"] * 10, groups=["one"] * 20)
    assert _folds(data, data.columns[0].matrix(), "classification", seed=0) == []


def test_the_second_ground_adds_the_deepest_layer_to_those_of_the_frozen_predictor(monkeypatch):
    seen = {}
    real = preparing.starting_points

    def watched(answer, labelled, T, **how):
        seen["own"], seen["all"] = answer.specs, list(real(answer, labelled, T, **how))
        return iter(seen["all"])

    monkeypatch.setattr(preparing, "starting_points", watched)
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pictures = (rng.integers(0, 160, (60, 16, 16, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)
    data = Dataset.from_arrays(pictures, labels.tolist())
    source = networks.image_source(networks.Normed, classifier="classifier")
    how = {"policy": "full", "guard": False, "budget": 0.01, "store": False, "precision": "fp32"}
    fit(source, data, head="auto", **how)
    own_values, (first, *more) = seen["own"], seen["all"]
    assert len(first.specs) == 1 and first.head.name == "logistic"
    assert first.specs == own_values or [set(ground.specs) for ground in more] == [{*own_values, *first.specs}]
    fit(source, data, layers=[part.layer for part in own_values], head="ridge", **how)
    assert len(seen["all"]) == 1 and seen["all"][0].specs == seen["own"]


def test_fine_tuning_with_three_groups():
    """Five folds need five groups; nobody asked for five."""
    X, y = networks.separable(60)
    data = Dataset.from_arrays(X, y, groups=[i // 3 % 3 for i in range(60)])
    result = fit(
        networks.vector_source(networks.Dense), data, policy=policy("full", epochs=1), store=False, precision="fp32"
    )
    assert result.history["scores"], "it was tried on held-out groups"
