"""Items taken out of a predictor: every bit is that of a fit that never saw them, also after saving and loading."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.dataset import Dataset
from headstart.errors import DataError, NumericsError, OptionError, StoreError
from headstart.heads import head
from headstart.heads.base import HEADS
from headstart.moments import Moments
from headstart.policies.base import policy
from headstart.predictor import ExactSums, load
from headstart.transfer import fit
from test_predictor_file import reseal

pytestmark = pytest.mark.usefixtures("own_cache")

RNG = np.random.default_rng(0)
Y = np.repeat([0, 1, 2], [30, 20, 6])  # uneven enough for logit adjustment
X = (RNG.normal(size=(56, 8)) + 2 * np.eye(8)[Y]).astype(np.float32)
X[5] *= 1000  # the largest number of all, on a grid of its own
TARGETS = {
    "classification": np.array(["ant", "bee", "cow"])[Y],
    "multilabel": [[name for name, on in zip("ab", x > 1) if on] for x in X],
    "regression": X[:, :2] @ np.array([[1.0, 2e-5], [0.5, -1e-5]]) + [1e6, 0] + RNG.normal(size=(56, 2)) * [0.1, 1e-6],
}
GONE = [5, 0, 33, 50]
REST = np.setdiff1d(np.arange(56), GONE)
HOW = {"source": "fake:vector", "layers": ["1"], "exact": True}  # its features lie in the store
MEMBERS = [name for name in HEADS if HEADS[name].from_moments]
CASES = [
    (task, name)
    for name in MEMBERS
    for task in TARGETS
    if task in HEADS[name].tasks and not HEADS[name].selects_features
]


def data_of(task="classification", rows=slice(None)) -> Dataset:
    return Dataset.from_arrays(X, TARGETS[task], task=task).take(np.arange(56)[rows])


def fitted(data, name="lda", **how):
    return fit(data=data, head=head(name, **({"alpha": 3.0} if name == "ridge" else {})), **{**HOW, **how})


def same(one, other) -> bool:
    """To the last bit; temperatures, which were chosen, are made equal before intercepts are compared."""
    for a, b in zip(one.targets, other.targets, strict=True):
        b.head.temperature_ = a.head.temperature_
        b = b.solve(b.exact_sums)
        arrays = [(a.head.coef_, b.head.coef_), (a.head.intercept_, b.head.intercept_), (a.log_ratio, b.log_ratio)]
        if a.exact_sums.moments != b.exact_sums.moments or a.counts != b.counts or a.classes != b.classes:
            return False
        if not all((p is None and q is None) or np.array_equal(p, q) for p, q in arrays):
            return False
    return one.trained_on == other.trained_on


@pytest.fixture(scope="module")
def lda():
    return fitted(data_of())


class TestExact:
    @pytest.mark.parametrize(("task", "name"), [*CASES, ("classification", "group_lasso")])
    def test_every_bit_is_that_of_a_fit_without_the_items(self, task, name, tmp_path):
        full, expected = fitted(data_of(task), name), fitted(data_of(task, REST), name)
        assert not same(full, expected)
        for start in (full, load(full.save(tmp_path / "p"))):
            left = start.forget(X[GONE])  # no labels
            assert same(left, expected)
            assert same(load(left.save(tmp_path / "left")), expected)
        assert same(left.forget(X[1]), fitted(data_of(task, REST[1:]), name))
        assert len(full.trained_on) == 56 and len(full.targets[0].exact_sums.keys) == 56  # as it was

    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_any_items_in_any_order(self, data, tmp_path_factory):
        name = data.draw(st.sampled_from(["lda", "nearest_centroid", "ridge", "regression"]))
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        y = np.repeat([0, 1, 2], data.draw(st.lists(st.integers(2, 6), min_size=3, max_size=3)))
        scales = data.draw(st.lists(st.integers(-6, 6), min_size=len(y), max_size=len(y)))
        Z = ((rng.normal(size=(len(y), 5)) + y[:, None]) * 2.0 ** np.array(scales)[:, None]).astype(np.float32)
        task = "regression" if name == "regression" else "classification"
        labels = Z @ rng.normal(size=5) + 10.0 ** rng.integers(-3, 6) if task == "regression" else y
        items = Dataset.from_arrays(Z, labels, task=task)
        remaining = [data.draw(st.sampled_from(np.flatnonzero(y == c).tolist())) for c in range(3)]
        gone = data.draw(st.permutations([i for i in range(len(y)) if i not in remaining]))[
            : data.draw(st.integers(1, 9))
        ]
        rest = np.setdiff1d(np.arange(len(y)), gone)
        options = {"source": "identity:vector", "balance": "none", "head": head(name.replace("regression", "ridge"))}
        left, expected = (fit(data=item, exact=True, **options) for item in (items, items.take(rest)))
        cuts = sorted(data.draw(st.sets(st.integers(0, len(gone)), max_size=3)))
        for part in filter(len, np.split(np.array(gone, dtype=int), cuts)):
            left = left.forget(Z[part])
            if data.draw(st.booleans()):
                left = load(left.save(tmp_path_factory.mktemp("p") / "p"))
        assert same(left, expected)
        assert np.array_equal(left.decision_function(Z), expected.decision_function(Z))

    def test_every_copy_goes(self, lda):
        twice = Dataset.from_arrays(np.concatenate([X, X[:3]]), [*TARGETS["classification"], "ant", "bee", "cow"])
        assert same(fitted(twice).forget([X[0], X[1], X[2], X[0]]), fitted(data_of(rows=slice(3, None))))

    def test_several_columns_some_of_them_unlabelled(self):
        kinds = [None if i in (0, 7) else str(label) for i, label in enumerate(TARGETS["classification"])]
        values = [None if i in (7, 9) else float(x[0]) for i, x in enumerate(X)]
        data = Dataset.from_arrays(X, {"kind": kinds, "value": values})
        expected = fit(data=data.take(np.setdiff1d(np.arange(56), [0, 7, 9])), head=head("ridge", alpha=1.0), **HOW)
        full = fit(data=data, head=head("ridge", alpha=1.0), **HOW)
        assert [len(answer.exact_sums.keys) for answer in full.targets] == [54, 54]
        assert same(full.forget(X[7]).forget(X[[0, 9]]), expected)

    def test_layers_and_sources_side_by_side(self, tmp_path):
        options = {"source": ["fake:vector", "identity:vector"], "head": head("ridge", alpha=2.0, scale="standard")}
        full, expected = (fit(data=item, exact=True, **options) for item in (data_of(), data_of(rows=REST)))
        left = load(full.save(tmp_path / "p")).forget(data_of(rows=GONE))
        if left.targets[0].specs == expected.targets[0].specs:  # a choice
            assert same(left, expected)
        assert len(left.trained_on) == 52

    def test_the_record_says_what_is_forgotten_and_what_is_not(self, lda, tmp_path):
        left = load(lda.forget(X[:3]).forget(X[5]).save(tmp_path / "p"))
        assert [item["items"] for item in left.provenance["forgotten"]] == [3, 1]
        assert {"layers", "temperature"} <= set(left.provenance["forgotten"][0]["unchanged"])
        assert left.head.temperature_ == lda.head.temperature_ and left.chosen == lda.chosen
        messages = json.dumps(left.provenance)
        assert not any(key.hex() in messages for key in lda.trained_on - left.trained_on)
        assert "forgotten" not in lda.provenance


class TestSolvedFromMoments:
    @pytest.mark.parametrize(("task", "name"), CASES)
    def test_it_predicts_what_rows_would(self, task, name):
        others = np.delete(np.arange(56), 5)
        plain, exact = (fitted(data_of(task, others), name, exact=flag) for flag in (False, True))
        a, b = (item.decision_function(X[others]) for item in (plain, exact))
        assert np.allclose(a, b, rtol=0, atol=2e-3 * np.abs(a - a.mean(axis=0)).max())
        assert plain.targets[0].exact_sums is None and plain.head.config() == exact.head.config()

    def test_only_heads_that_can_compete(self):
        predictor = fit("fake:vector", data_of(), exact=True)
        assert predictor.head.from_moments and predictor.head.in_auto
        assert {row["head"] for row in predictor.chosen["selection"]["target"]["table"]} <= set(MEMBERS)
        assert predictor.forget(list(X[GONE])).head.from_moments

    def test_numbers_are_held_whatever_their_size(self):
        values = np.array([[1e20, 1e-12], [-3.25, 0.0], [1e-20, 2.5e-12], [7.0, -1e-12]])
        ledger = ExactSums.from_rows(X[:4], values, [bytes([i]) * 16 for i in range(4)], regression=True)
        expected = Moments.from_rows(X[:4], values)
        assert np.allclose(ledger.moments.target_mean, expected.target_mean, rtol=1e-9, atol=0)
        assert np.allclose(ledger.moments.target_scatter, expected.target_scatter, rtol=1e-9, atol=0)
        assert np.allclose(ledger.moments.cross, expected.cross, rtol=0, atol=1e-3 * np.abs(expected.cross).max(axis=0))

    @pytest.mark.parametrize("size", [1e-30, 1e25])
    def test_numbers_that_cannot_be_held_are_refused(self, size):
        data = Dataset.from_arrays(X, (X[:, 0] * size).astype(np.float64), task="regression")
        with pytest.raises(NumericsError, match="Rescale"):
            fitted(data, "ridge")

    def test_rows_of_zeros_have_a_place(self):
        Z = X.copy()
        Z[[0, 31]] = 0
        data = Dataset.from_arrays(Z, TARGETS["classification"])
        assert same(fitted(data).forget(Z[0]), fitted(data.take(np.setdiff1d(np.arange(56), [0, 31]))))


class TestRefused:
    def test_items_that_were_never_learned(self, lda):
        with pytest.raises(DataError, match=r"1 of 2 items are none that .* 'item 1'\. "):
            lda.forget(np.stack([X[0], X[0] + 1]))
        with pytest.raises(DataError, match="forgotten already"):
            lda.forget(X[0]).forget(X[0])
        with pytest.raises(DataError, match="to the byte"):
            lda.forget(X[0].astype(np.float64))

    @pytest.mark.parametrize("nothing", [[], np.zeros((0, 8), np.float32), None, 7, {"a": 1}])
    def test_what_is_no_item(self, lda, nothing):
        with pytest.raises((DataError, OptionError)):
            lda.forget(nothing)

    def test_everything_or_a_whole_class(self, lda):
        with pytest.raises(DataError, match="No item of 'cow' would be left"):
            lda.forget(X[Y == 2])
        with pytest.raises(DataError, match="No item would be left"):
            lda.forget(data_of())
        values = fitted(data_of("regression"), "ridge")
        with pytest.raises(DataError, match="1 item would be left"):
            values.forget(X[1:])
        twice = Dataset.from_arrays(np.concatenate([X[:3], X[:1]]), np.arange(4.0), task="regression")
        with pytest.raises(DataError, match="would all have the same features"):
            fitted(twice, "ridge").forget(X[1:3])

    def test_predictors_without_what_is_needed(self, lda, tmp_path):
        with pytest.raises(OptionError, match=r"no sums to subtract from were kept.*exact=True"):
            fitted(data_of(), exact=False).forget(X[0])
        with pytest.raises(OptionError, match="its head, knn, is no function of sums"):
            fitted(data_of(), "knn", exact=False).forget(X[0])
        tuned = dataclasses.replace(fitted(data_of(), exact=False), chosen={"policy": "full"})
        with pytest.raises(OptionError, match="fine-tuned"):
            tuned.forget(X[0])
        old = lda.save(tmp_path / "old")  # as it was saved before there were ledgers
        reseal(old, lambda record: [answer.pop("ledger") for answer in record["answers"]] and None)
        with pytest.raises(OptionError, match="no sums"):
            load(old).forget(X[0])

    @pytest.mark.parametrize(
        "how",
        [
            {"head": "knn"}, {"head": "logistic"}, {"head": head("knn")}, {"balance": "weights"},
            {"policy": policy("full", epochs=1)}, {"budget": 5.0}, {"head": head("ridge", select="loo")},
        ],
    )  # fmt: skip
    def test_a_fit_that_cannot_be_exact(self, how):
        with pytest.raises(OptionError, match="exact=True"):
            fit(data=data_of(), **{**HOW, **how})

    def test_features_that_are_no_longer_those_of_the_fit(self, lda, tmp_path, monkeypatch):
        other = dataclasses.replace(lda, sources=fit("fake:vector", data_of(), layers=["1"]).sources)
        changed = X[:2] + np.float32(1e-3)
        monkeypatch.setattr(type(lda), "_extract", lambda self, data, *how: {"target": Rows(changed)})
        with pytest.raises(DataError, match="2 of 2 items are not to the last bit"):
            other.forget(X[:2])

    def test_nothing_new_is_kept_of_the_items(self, lda, tmp_path):
        try:
            lda.forget(X[:3], store=tmp_path / "empty")
        except DataError as error:
            assert "store" in str(error)
        assert not list(tmp_path.rglob("*.safetensors"))


class Rows:
    """What a predictor reads, with one layer."""

    def __init__(self, X):
        self.rows = {(0, "1"): X}


class TestFile:
    def test_what_was_not_written_by_us_is_not_believed(self, lda, tmp_path):
        path = lda.save(tmp_path / "p")
        grids = lambda record: record["answers"][0]["ledger"]["grids"]  # noqa: E731
        changes = [
            lambda r: grids(r).pop(),
            lambda r: grids(r).append(grids(r)[0]),
            lambda r: grids(r)[0].__setitem__(0, 40),
            lambda r: grids(r)[0].__setitem__(0, "4"),
            lambda r: grids(r)[0][1]["exact"].__setitem__("scale", 3.0),
            lambda r: grids(r)[0][1].__setitem__("exact", None),
            lambda r: grids(r)[0][1].__setitem__("features", 7),
            lambda r: r["answers"][0]["ledger"].__setitem__("pieces", grids(r)[0][1]),
            lambda r: r["answers"][0].__setitem__("ledger", []),
            lambda r: r["answers"][0].__setitem__("ledger", {}),
        ]
        for number, change in enumerate(changes):
            copy = shutil.copytree(path, tmp_path / str(number))
            reseal(copy, lambda record, change=change: change(record) and None)
            with pytest.raises(StoreError):
                load(copy)

    def test_arrays_of_another_shape_or_kind(self, lda, tmp_path):
        ledger = lda.targets[0].exact_sums
        wrong = [
            {name: cut} for name in ("keys", "row_hashes") for cut in (getattr(ledger, name)[:-1], np.zeros((56, 7)))
        ]
        wrong += [{"targets": cut} for cut in (ledger.targets[:-1], ledger.targets[:, :-1], 2 * ledger.targets)]
        wrong += [{"targets": ledger.targets[::-1] * [1, 1, 0]}, {"keys": ledger.keys.astype(np.int16)}]
        for change in wrong:
            broken = dataclasses.replace(lda.targets[0], exact_sums=dataclasses.replace(ledger, **change))
            path = dataclasses.replace(lda, targets=(broken,)).save(tmp_path / "p")
            with pytest.raises(StoreError):
                load(path)

    def test_only_those_that_ask_for_it_pay(self, lda, tmp_path):
        names = [lda.save(tmp_path / "a"), fitted(data_of(), exact=False).save(tmp_path / "b")]
        sizes = [(path / "arrays.safetensors").stat().st_size for path in names]
        assert sizes[0] > sizes[1]
