"""rank(): order, ties, intervals, verdicts, what is left out, budgets, repetition."""

from __future__ import annotations

import json
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

from headstart import extraction
from headstart._base.intervals import paired_difference
from headstart.dataset import Dataset
from headstart.errors import DataError, OptionError
from headstart.extraction import extract
from headstart.heads.base import HEADS
from headstart.ranking import rank, verdict
from headstart.ranking.table import Pairing, describe_ties, subsample
from headstart.result import Ranking, Row
from headstart.selection import search
from headstart.selection.search import select_head
from headstart.sources import load_source
from headstart.sources.base import display_names
from networks import Dense, image_source, picture_data, pictures, separable, vector_source, vectors

_rank = import_module("headstart.ranking.rank")  # the package gives the function of that name


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names_of(y) -> list[str]:
    return [f"class {int(i)}" for i in y]


def good_data(n: int = 90, *, seed: int = 0, **kind) -> Dataset:
    X, y = separable(n, seed=seed)
    return Dataset.from_arrays(X, names_of(y), **kind)


def noise_data(n: int = 90, seed: int = 0) -> Dataset:
    """Separable rows whose labels are shuffled."""
    X, y = separable(n, seed=seed)
    return Dataset.from_arrays(X, names_of(np.random.default_rng(seed).permutation(y)))


def dense(seed: int = 0, **options):
    return vector_source(Dense, seed=seed, name=f"dense{seed}", **options)


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    """Two sources on one separable dataset, for everything that only looks."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("ranked")))
    sources, data = [dense(0), dense(1)], good_data()
    result = rank(sources, data)
    patch.undo()
    return SimpleNamespace(it=result, sources=sources, data=data)


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_and_intervals_hold_their_score(ranking):
    scores = [row.accuracy for row in ranking.it.rows]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    for row in ranking.it.rows:
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert row.low < row.high
    assert ranking.it.best is ranking.it.rows[0]
    assert ranking.it.best.tied


def test_every_candidate_layer_of_every_source_is_a_row(ranking):
    expected = {(s.fingerprint, name) for s in ranking.sources for name in s.select("auto")}
    assert len(expected) == 6
    assert {(row.fingerprint, row.layer) for row in ranking.it.rows} == expected
    assert len(ranking.it.rows) == len(expected)


def test_depth_grows_along_a_source(ranking):
    for source in ranking.sources:
        mine = {row.layer: row for row in ranking.it.rows if row.fingerprint == source.fingerprint}
        inorder = [mine[layer] for layer in source.select("auto")]
        assert all(a.depth < b.depth and a.macs < b.macs for a, b in pairwise(inorder))
        assert inorder[-1].depth == pytest.approx(1)
        assert {row.source for row in inorder} == {source.name}


def test_layers_limits_the_rows():
    result = rank(dense(), good_data(), layers=["a", "b"])
    assert {row.layer for row in result.rows} == {"a", "b"}


def test_record_says_what_was_ranked(ranking):
    assert ranking.it.provenance["data"] == ranking.data.fingerprint
    assert ranking.it.provenance["random_state"] == 0
    assert ranking.it.cost["items"] == len(ranking.data)
    assert ranking.it.metric == "accuracy"
    assert ranking.it.baseline == pytest.approx(1 / 3)


def test_accuracy_is_the_cross_validated_score_of_the_setting_reported(ranking, monkeypatch):
    selections = []
    monkeypatch.setattr(_rank, "select_head", lambda *a, **k: selections.append(select_head(*a, **k)) or selections[-1])
    result = rank(ranking.sources[0], ranking.data, store=False)
    bank = extract(ranking.sources[0], ranking.data, store=False)
    T = ranking.data.columns[0].matrix()
    labels = T.argmax(1)
    for row in result.rows:
        trials = [t for t in selections[0].trials if [c.split(" ")[1] for c in t.candidates] == [row.layer]]
        best = min(trials, key=lambda t: t.losses.mean())
        X = bank.rows(row.layer, ranking.data)
        right = []
        for folds in selections[0].folds:
            for fold in np.unique(folds):
                test_rows = folds == fold
                head = HEADS[best.head](**best.fields).fit(X[~test_rows], T[~test_rows])
                right.append((head.decision(X[test_rows]).argmax(1) == labels[test_rows]).sum())
        assert row.accuracy == pytest.approx(sum(right) / len(selections[0].folds) / len(labels), abs=0.012)


def test_a_ranking_by_a_head_that_selects_says_how_many_features_it_keeps(ranking):
    result = rank(ranking.sources, ranking.data, head="group_lasso", store=False)
    assert len(result.fused.parts) == len(result.fused.features) == len(result.fused.n_selected) >= 2
    assert all(
        0 <= n_selected <= n for n_selected, n in zip(result.fused.n_selected, result.fused.features, strict=True)
    )
    assert 0 < sum(result.fused.n_selected) < sum(result.fused.features)
    assert f"Kept are {result.fused.n_selected[0]:,} of {result.fused.features[0]:,} features" in result.fusion_summary
    assert ranking.it.fused.n_selected is None and len(ranking.it.fused.features) == len(ranking.it.fused.parts)
    assert len(result.validate(1).rows) >= 1


def test_the_head_that_is_asked_for_is_the_one_that_is_ranked(ranking, monkeypatch):
    selections = []
    monkeypatch.setattr(_rank, "select_head", lambda *a, **k: selections.append(select_head(*a, **k)) or selections[-1])
    rank(ranking.sources[0], ranking.data, head="knn", store=False)
    assert {trial.head for trial in selections[0].trials} == {"knn"}


# ---- ties -----------------------------------------------------------------------------------------------------------


def trial(rows) -> SimpleNamespace:
    rows = np.asarray(rows, dtype=float)
    return SimpleNamespace(row_scores=rows, losses=1 - rows, score=rows.mean())


PLAIN = Pairing("classification")


@pytest.mark.parametrize("worse", [0, 1, 3, 4, 5, 8, 20])
def test_ties_are_paired_differences(worse):
    n = 60
    top = np.ones(n)
    other = np.ones(n)
    other[:worse] = 0
    assert PLAIN.tied(trial(other), trial(top)) == (paired_difference(other, top)[2] >= 0)


def test_few_errors_are_a_tie_and_many_are_not():
    top, close, far = np.ones(60), np.ones(60), np.ones(60)
    close[:2], far[:20] = 0, 0
    assert PLAIN.tied(trial(close), trial(top))
    assert not PLAIN.tied(trial(far), trial(top))
    mean, low, high = PLAIN.difference(trial(far), trial(top))
    assert mean == pytest.approx(-1 / 3)
    assert low < mean < high < 0


def test_differences_weigh_rows_as_the_metric_does():
    weights = np.r_[np.full(30, 0.2), np.full(10, 3.4)]
    top, rare = np.ones(40), np.ones(40)
    rare[30:34] = 0
    mean, *_ = paired_difference(rare * weights, top * weights)
    even = Pairing("classification", weights).difference(SimpleNamespace(row_scores=rare, score=0.8), trial(top))
    assert even[0] == pytest.approx(-0.2)
    assert even[1] - even[0] == pytest.approx(paired_difference(rare * weights, top * weights)[1] - mean)


def test_values_are_compared_by_their_squared_errors():
    a = SimpleNamespace(row_scores=np.zeros(9), losses=np.arange(9.0), score=0.5)
    b = SimpleNamespace(row_scores=np.zeros(9), losses=np.arange(9.0) + 1 + np.arange(9) % 2, score=-1.0)
    mean, low, high = Pairing("regression").difference(b, a)
    assert mean == -1.5
    assert low < mean < high < 0


def test_groups_of_ties(ranking):
    rows = ranking.it.rows
    assert rows[0].group == 1 and rows[0].difference == 0
    assert all((row.group == 1) == row.tied for row in rows)
    assert all(row.difference_low <= row.difference <= row.difference_high for row in rows)
    for row in rows:
        assert row.difference == pytest.approx(row.accuracy - rows[0].accuracy)
        assert row.tied == (row.difference_high >= 0)
    firsts = [row.group for row in rows]
    assert [g for i, g in enumerate(firsts) if g not in firsts[:i]] == sorted(set(firsts))


def test_ties_in_words():
    rows = [Row("s", "f", name, accuracy=0.5, tied=tied, macs=macs) for name, tied, macs in
            (("c", True, 9.0), ("b", True, 3.0), ("a", False, 1.0))]  # fmt: skip
    text = describe_ties(rows, 240)
    assert text.startswith("These 2 rows cannot be told apart on 240 examples: c, b.")
    assert "The cheapest of them is b, at 33%" in text
    assert "clearly better than all others" in describe_ties([rows[0], rows[2]], 240)
    assert describe_ties(rows[:1], 240) == ""


def test_pairing_matters():
    """The same two scores: errors on the same rows tell more than errors anywhere."""
    top, nested, apart = np.ones(100), np.ones(100), np.ones(100)
    top[:20] = 0
    nested[:30] = 0
    apart[70:] = 0
    assert not PLAIN.tied(trial(nested), trial(top))
    assert PLAIN.tied(trial(apart), trial(top))


def test_a_bad_layer_is_not_tied():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.out = nn.Linear(8, 16), nn.Linear(16, 1), nn.Linear(1, 2)

        def forward(self, x):
            return self.out(self.narrow(self.wide(x).tanh()))

    result = rank(vector_source(Narrow), good_data(120))
    assert {row.layer: row.tied for row in result.rows}["wide"]
    assert not {row.layer: row.tied for row in result.rows}["narrow"]


# ---- verdict --------------------------------------------------------------------------------------------------------


def test_separable_data_transfers(ranking):
    assert ranking.it.transfers
    assert ranking.it.verdict.startswith(f"Use {ranking.it.best.layer} of {ranking.it.best.source}")


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_do_not_transfer(seed):
    result = rank([dense(0), dense(1)], noise_data(seed=seed), random_state=seed)
    assert not result.transfers
    assert result.verdict.startswith("Nothing transfers")


def test_noise_images_do_not_transfer():
    """The test's level is one in a hundred: of six draws one may pass."""
    source = load_source("fake:image")
    assert sum(rank(source, picture_data(60, seed=seed), store=False).transfers for seed in range(6)) <= 1


# ---- p-values -------------------------------------------------------------------------------------------------------


def p_value(X, T, *, groups=None, task="classification", metric="accuracy") -> float:
    folds = (np.random.default_rng(1).permutation(len(T)) % 5)[None]
    if groups is not None:
        folds = (np.asarray(groups) % 5)[None]
    selections = SimpleNamespace(folds=folds, task=task, metric=metric)
    return verdict.permutation_p_value({f"l{i}": item for i, item in enumerate(X)}, T, choice=selections, groups=groups)


def test_p_value_keeps_its_level():
    """p-values of noise are uniform: among 60 about 6 are below a tenth, and of 60 hardly 4 below one in a hundred."""
    result = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        X = [rng.normal(size=(40, 30)) for _ in range(3)]
        result.append(p_value(X, np.eye(2)[rng.permutation(40) % 2]))
    assert min(result) >= 1 / 200
    assert sum(p <= 0.1 for p in result) <= 14
    assert sum(p <= 0.01 for p in result) <= 3
    assert 12 <= sum(p <= 0.5 for p in result) <= 48


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_p_value_sees_what_is_there(metric):
    X, y = separable(30)
    assert p_value([vectors(30), X], np.eye(3)[y], metric=metric) <= 0.01


def test_p_value_of_labels_and_values():
    X = vectors(60)
    noise = vectors(60, d=3, seed=5)
    for task, T in (("multilabel", (X[:, :3] > 0).astype(float)), ("regression", X[:, :2] * 2.0)):
        assert p_value([X], T, task=task) <= 0.01
        assert p_value([noise], T, task=task) > 0.01


def test_p_value_of_groups():
    """Rows are copies within a group: what is one label per group changes places as a whole."""
    groups = np.arange(60) // 6
    rng = np.random.default_rng(0)
    X = vectors(10, d=40)[groups] + rng.normal(size=(60, 40)) * 0.01
    T = np.eye(2)[(rng.permutation(10) % 2)[groups]]
    orders = verdict._label_permutations(T, groups)
    assert all((T[order] == T[order][np.unique(groups, return_index=True)[1]][groups]).all() for order in orders)
    assert p_value([X], T, groups=groups) > 0.01
    inside = verdict._label_permutations(np.eye(2)[np.arange(60) % 2], groups)
    assert all((groups[order] == groups).all() for order in inside)
    assert (inside[0] == np.arange(60)).all() and len(np.unique(inside, axis=0)) > 100


def test_images_that_differ_transfer():
    X = pictures(60) // 2
    X[::2] += 100
    result = rank(load_source("fake:image"), Dataset.from_arrays(X, names_of(np.arange(60) % 2)))
    assert result.transfers


def test_uneven_classes_are_held_against_the_largest_share():
    y = (np.arange(120) % 10 == 0).astype(int)
    data = Dataset.from_arrays(vectors(120), names_of(y))
    result = rank(dense(), data, balance="none")
    assert result.metric == "accuracy"
    assert result.baseline == pytest.approx(0.9)
    assert result.best.accuracy > 0.8
    assert not result.transfers


def test_balanced_scores_are_held_against_an_even_share():
    y = (np.arange(200) % 10 == 0).astype(int)
    X = vectors(200)
    noise = rank(dense(), Dataset.from_arrays(X, names_of(y)), balance="logit")
    assert noise.metric == "balanced_accuracy"
    assert noise.baseline == pytest.approx(0.5)
    assert not noise.transfers
    X[y == 1] += 3
    assert rank(dense(), Dataset.from_arrays(X, names_of(y)), balance="logit").transfers


def test_regression():
    X = vectors(120)
    true = rank(dense(), Dataset.from_arrays(X, X @ np.arange(8.0), task="regression"))
    assert (true.metric, true.baseline, true.transfers) == ("r2", 0.0, True)
    assert true.best.h_score is None
    assert true.best.logme is not None
    noise = np.random.default_rng(1).normal(size=120)
    assert not rank(dense(), Dataset.from_arrays(X, noise, task="regression")).transfers


@pytest.mark.parametrize("seed", range(3))
def test_multilabel(seed):
    X = vectors(120, seed=seed)
    labels = (X[:, :3] > 0.8).astype(int)
    true = rank(dense(), Dataset.from_arrays(X, labels))
    assert (true.metric, true.transfers) == ("mean_average_precision", True)
    shuffled = np.random.default_rng(seed).permutation(labels)
    assert not rank(dense(), Dataset.from_arrays(X, shuffled)).transfers


def test_chance_of_labels_is_that_of_random_orders():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    T = np.zeros((12, 4))
    T[:2, 0], T[:7, 1], T[:, 3] = 1, 1, 1  # the last two have no contrast and do not count
    drawn = [np.mean([average_precision_score(T[:, j], rng.random(12)) for j in (0, 1)]) for _ in range(700)]
    expected, spread = verdict._chance_precision(T[:, [0, 2, 3]])
    alone = [average_precision_score(T[:, 0], rng.random(12)) for _ in range(1500)]
    assert spread == pytest.approx(np.std(alone), rel=0.35)
    assert expected == pytest.approx(np.mean(alone), abs=0.02)
    assert verdict._chance_precision(T)[0] == pytest.approx(np.mean(drawn), abs=0.015)
    assert verdict._chance_precision(np.ones((3, 2))) == (0.0, 0.0)


def settings(T: np.ndarray, n: int, seed: int, right: float | None) -> list[SimpleNamespace]:
    """Settings that are right by chance, or with some probability."""
    rng = np.random.default_rng(seed)
    return [trial(rng.random(len(T)) < (1 / T.shape[1] if right is None else right)) for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_split_half_score_has_no_selection_bias(seed):
    T = np.eye(2)[np.arange(80) % 2]
    trials = settings(T, 300, seed, None)
    assert max(t.row_scores.mean() for t in trials) > 0.62
    assert verdict.split_half_score(trials, T, "accuracy") == pytest.approx(0.5, abs=0.08)
    better = [*trials, *settings(T, 1, seed, 0.95)]
    assert verdict.split_half_score(better, T, "accuracy") > 0.85


def test_split_half_score_weighs_classes_where_the_metric_does():
    T = np.eye(2)[(np.arange(100) < 10).astype(int)]
    lazy = [trial(T[:, 0])]  # always the large class
    assert verdict.split_half_score(lazy, T, "accuracy") == pytest.approx(0.9, abs=0.02)
    assert verdict.split_half_score(lazy, T, "balanced_accuracy") == pytest.approx(0.5, abs=0.1)


def test_more_rows_than_choosing_looks_at(monkeypatch):
    monkeypatch.setattr(_rank, "MOST_ROWS", 60)
    monkeypatch.setattr(search, "MOST_ROWS", 60)
    result = rank(dense(), good_data(150))
    assert result.transfers
    assert result.cost["items"] == 150
    assert result.best.mbytes == pytest.approx(150 * 4 * {"a": 16, "b": 12, "c": 6}[result.best.layer] / 1e6)
    T = np.eye(3)[np.arange(150) % 3]
    usable = subsample(T, "classification", 0, 60)
    assert (len(usable), len(set(usable))) == (60, 60)
    assert np.ptp(T[usable].sum(0)) <= 1
    assert subsample(T[:60], "classification", 0, 60) == slice(None)


def test_one_example_per_class_says_nothing():
    result = rank(dense(), Dataset.from_arrays(vectors(4), ["a", "b", "c", "d"]))
    assert not result.transfers
    assert all(row.accuracy is None for row in result.rows)
    assert "too few" in result.verdict
    assert "too few" in str(result)
    with pytest.raises(DataError, match="hold out"):
        result.validate(2)


# ---- what is left out -----------------------------------------------------------------------------------------------


def test_missing_labels_are_left_out_and_rows_stay_aligned():
    X, y = separable(90)
    y = np.asarray(names_of(y), dtype=object)
    gone = np.arange(90) % 4 == 1
    holes = np.where(gone, None, y)
    result = rank(dense(), Dataset.from_arrays(X, list(holes)))
    full = rank(dense(), Dataset.from_arrays(X[~gone], list(y[~gone])))
    assert result.cost["items"] == (~gone).sum()
    assert [(r.layer, r.accuracy, r.logme) for r in result.rows] == [(r.layer, r.accuracy, r.logme) for r in full.rows]


def test_unreadable_files_are_left_out_and_named(tmp_path):
    from PIL import Image

    X = pictures(41) // 2
    X[::2] += 100
    for i, picture in enumerate(X):
        folder = tmp_path / "data" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:02}.png")
    (tmp_path / "data" / "class0" / "06.png").write_bytes(b"not a picture")
    result = rank(load_source("fake:image"), Dataset.from_folder(tmp_path / "data"))
    assert result.cost["items"] == 40
    assert [item.item for item in result.skipped] and "06.png" in str(result.skipped[0].item)
    assert result.best.accuracy > 0.9


def test_sources_that_cannot_be_used_are_left_out_and_named():
    result = rank(["fake:nothing", "fake:image", "fake:vector"], good_data())
    assert {row.source for row in result.rows} == {load_source("fake:vector").name}
    assert any("fake:nothing" in note for note in result.notes)
    assert any("fake:image" in note and "image data" in note for note in result.notes)
    assert "fake:nothing" in str(result)


@pytest.mark.parametrize("sources", [["fake:nothing"], ["fake:image"], []])
def test_no_source_left(sources):
    with pytest.raises(DataError, match="source"):
        rank(sources, good_data())


def test_no_targets():
    with pytest.raises(DataError, match="targets"):
        rank(dense(), Dataset.from_arrays(vectors(20)))


def test_several_targets_need_a_name():
    X, y = separable(60)
    other = np.random.default_rng(0).permutation(y)
    data = Dataset.from_arrays(X, {"kind": names_of(y), "luck": names_of(other)})
    for wrong in (None, "colour"):
        with pytest.raises(OptionError, match="'kind', 'luck'"):
            rank(dense(), data, target=wrong)
    assert rank(dense(), data, target="kind").transfers
    assert not rank(dense(), data, target="luck").transfers


def test_groups_stay_in_one_fold(monkeypatch):
    """Rows are copies within a group, and labels are the groups' luck: only torn groups could be told."""
    rng = np.random.default_rng(0)
    groups = np.arange(120) // 4
    X = (vectors(30)[groups] + rng.normal(size=(120, 8)) * 1e-3).astype(np.float32)
    y = names_of(rng.permutation(30)[groups] % 2)
    selections = []
    monkeypatch.setattr(_rank, "select_head", lambda *a, **k: selections.append(select_head(*a, **k)) or selections[-1])
    together = rank(dense(), Dataset.from_arrays(X, y, groups=groups.tolist()))
    for folds in selections[0].folds:
        assert all(len(set(folds[groups == g])) == 1 for g in range(30))
    assert together.best.accuracy < 0.75
    assert rank(dense(), Dataset.from_arrays(X, y)).best.accuracy > together.best.accuracy + 0.1


# ---- budget ---------------------------------------------------------------------------------------------------------


def slowed(monkeypatch, speed: float) -> list[int]:
    """Every extraction claims this many items per second; gives the sizes of what was extracted."""
    sizes: list[int] = []

    def slow(source, data, **options):
        from dataclasses import replace

        bank = extract(source, data, **options)
        bank.runtime = replace(bank.runtime, speed=speed)
        sizes.append(len(data))
        return bank

    monkeypatch.setattr(_rank, "extract", slow)
    return sizes


class Blind(nn.Module):
    """Looks at one number only, which says next to nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 5)
        nn.init.zeros_(self.a.weight)
        nn.init.ones_(self.a.weight[:, :1])

    def forward(self, x):
        return self.b(self.a(x).tanh())


def test_a_short_budget_drops_the_worse_sources_and_names_them(monkeypatch):
    blind = [vector_source(Blind, seed=i, name=f"blind{i}") for i in range(2)]
    sizes = slowed(monkeypatch, 1.0)
    result = rank([blind[0], dense(0), blind[1], dense(1)], good_data(300), budget=300.0)
    assert {row.source for row in result.rows} == {"dense0", "dense1"}
    note = next(note for note in result.notes if note.startswith("Dropped after 75"))
    assert all(source.name in note for source in blind)
    assert "dense" not in note
    assert sizes == [75] * 4 + [150] * 2 + [300] * 2


def test_a_source_that_fails_on_the_sample_is_left_out_and_named(monkeypatch):
    class Constant(Blind):
        def forward(self, x):
            return super().forward(x * 0)

    slowed(monkeypatch, 1e6)
    result = rank([vector_source(Constant, name="constant"), dense(0), dense(1)], good_data(300), budget=1e5)
    assert {row.source for row in result.rows} == {"dense0", "dense1"}
    assert any("constant was left out" in note for note in result.notes)


def test_a_long_budget_keeps_all(monkeypatch):
    slowed(monkeypatch, 1e6)
    result = rank([dense(i) for i in range(3)], good_data(200), budget=1e5)
    assert len({row.fingerprint for row in result.rows}) == 3
    assert not any("Dropped" in note for note in result.notes)


def test_samples_land_in_the_store_that_was_given(tmp_path, cache):
    rank([dense(i) for i in range(3)], good_data(200), budget=1e-9, store=tmp_path / "bank", layers=["a"])
    assert (tmp_path / "bank").is_dir()
    assert not (cache / "bank").exists()


def test_without_a_budget_nothing_is_sampled():
    sources = [dense(i) for i in range(3)]
    data = good_data(20)
    assert _rank.successive_halving(sources, data, None, column="target", seed=0, notes=[], extract=None) is sources


# ---- again ----------------------------------------------------------------------------------------------------------


def strip(result: Ranking) -> list[dict]:
    return [{k: v for k, v in vars(row).items() if k != "seconds"} for row in result.rows]


def test_the_same_seed_gives_the_same_bits(ranking):
    first = rank(ranking.sources, ranking.data, store=False)  # in one cache folder, so in batches of one size
    again = rank(ranking.sources, ranking.data, store=False)
    assert strip(again) == strip(first)
    assert again.verdict == first.verdict
    other = rank(ranking.sources, ranking.data, store=False, random_state=7)
    assert other.provenance["random_state"] == 7
    assert strip(other) != strip(again)


def test_the_second_time_nothing_is_extracted(monkeypatch):
    source, data = dense(), good_data()
    first = rank(source, data)

    def never(*_, **__):
        raise AssertionError("everything is in the bank already")

    monkeypatch.setattr(extraction.pipeline, "drop_unreadable", lambda *a, **k: never())
    assert strip(rank(source, data)) == strip(first)


def test_order_of_the_data_does_not_matter(ranking):
    shuffled = ranking.data.take(np.random.default_rng(3).permutation(len(ranking.data)))
    other = {(r.fingerprint, r.layer): r for r in rank(ranking.sources, shuffled, store=False).rows}
    rows = rank(ranking.sources, ranking.data, store=False).rows  # in one cache folder, so in one precision
    assert len(other) == len(rows)
    for row in rows:
        twin = other[row.fingerprint, row.layer]
        assert twin.logme == pytest.approx(row.logme, rel=1e-6)
        assert twin.h_score == pytest.approx(row.h_score, rel=1e-6)
        assert twin.knn == pytest.approx(row.knn)
        assert (twin.depth, twin.static, twin.mbytes) == (row.depth, row.static, row.mbytes)
        assert row.low <= twin.accuracy <= row.high


def test_printing_and_saving(ranking):
    assert max(len(line) for line in str(ranking.it).splitlines()) <= 100
    written = json.loads(json.dumps(ranking.it.to_dict()))
    back = Ranking.from_dict(written)
    assert back.rows == ranking.it.rows
    assert str(back) == str(ranking.it)
    with pytest.raises(OptionError, match="read from a file"):
        back.validate(1)


def test_long_names_still_fit():
    source = image_source(lambda: load_source("fake:image").module, name="a" * 90)
    result = rank([source, "fake:image"], picture_data(24))
    assert max(len(line) for line in str(result).splitlines()) <= 100


@pytest.mark.parametrize("random_state", [None, np.random.default_rng(3)])
def test_the_seed_that_was_drawn_is_recorded(random_state):
    ranking = rank(dense(), good_data(30), random_state=random_state)
    seed = ranking.provenance["random_state"]
    assert type(seed) is int
    assert [row.accuracy for row in rank(dense(), good_data(30), random_state=seed).rows] == [
        row.accuracy for row in ranking.rows
    ]
    assert ranking.validate(1).rows


@pytest.mark.parametrize("budget", [0, -1.0, float("nan")])
def test_a_budget_that_is_no_time(budget):
    with pytest.raises(OptionError, match="seconds > 0"):
        rank(dense(), good_data(30), budget=budget)


def test_namesakes_are_told_apart():
    """Checkpoints in folders of one name, networks of one class: their rows must not look like one source's."""
    pictured = Dataset.from_arrays(pictures(20, side=16), ["a", "b"] * 10)
    result = rank(["fake:image", "identity:image"], pictured, store=False)
    assert {row.source for row in result.rows} == {"fake:image", "identity:image"}
    assert {item["source"] for item in result.shared["cka"]["labels"]} == {"fake:image", "identity:image"}
    twins = [vector_source(Dense, seed=seed, name="dense") for seed in range(3)]
    assert display_names([*twins, dense(7)]) == ["dense#1", "dense#2", "dense#3", "dense7"]
    numbered = rank(twins, good_data(), store=False)
    assert {row.source for row in numbered.rows} == {"dense#1", "dense#2", "dense#3"}
    assert {source for source, _ in numbered.fused.parts} <= {row.source for row in numbered.rows}
