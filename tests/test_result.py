"""Records: numbers with intervals, comparison, plain data and back, and text that fits a terminal."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from headstart._base import intervals
from headstart._base.intervals import bootstrap, format_number, mover_difference, mover_mean, paired_difference, wilson
from headstart._base.printing import WIDTH, clean, listing, paragraph, seconds, shorten, table, width
from headstart.errors import DataError, OptionError
from headstart.result import (
    ClassRow,
    Confusion,
    Forgetting,
    Fusion,
    Gain,
    LabelsSaved,
    Metric,
    Proof,
    ProofRow,
    Ranking,
    Result,
    Row,
    SkippedItem,
    TimeSaved,
    plain,
    read_record,
)

finite = st.floats(-1e6, 1e6)
texts = st.text(max_size=60)


# ---- Metric --------------------------------------------------------------------------------------------------------


def test_a_metric_is_a_float_with_an_interval():
    metric = Metric(0.873, 0.841, 0.901)
    assert isinstance(metric, float) and metric == 0.873 and metric > 0.5
    assert (metric.low, metric.high, metric.better) == (0.841, 0.901, "higher")
    assert repr(metric) == str(metric) == f"{metric}" == "0.873 [0.841, 0.901]"
    assert f"{metric:.1f}" == "0.9" and f"{float(metric):.3f}" == "0.873"
    assert json.dumps(metric) == "0.873"
    assert repr(Metric(0.5)) == "0.500" and Metric(0.5).low is None
    assert Metric(1, float("nan"), float("nan")).high is None


def test_a_metric_is_frozen_and_travels():
    metric = Metric(0.5, 0.25, 0.75, "lower")
    for name in ("low", "better", "other"):
        with pytest.raises(AttributeError):
            setattr(metric, name, 1)
    for twin in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), Metric.from_plain(plain(metric))):
        assert (twin, twin.low, twin.high, twin.better) == (0.5, 0.25, 0.75, "lower")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.5, "0.500"), (-0.25, "-0.250"), (0.0012, "0.0012"), (1e-9, "1e-09"), (999.5, "999.500"),
     (123456, "1.235e+05"), (math.inf, "inf"), (math.nan, "nan")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert format_number(value) == text


# ---- intervals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_newcombe_printed_it(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


@given(
    st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99])
)
def test_wilson_equals_scipy(kn, level):
    k, n = kn
    want = scipy.stats.binomtest(k, n).proportion_ci(level, method="wilson")
    low, high = wilson(k, n, level)
    assert (low, high) == pytest.approx((want.low, want.high), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1
    assert (k > 0 or low == 0) and (k < n or high == 1)


def test_wilson_of_arrays_and_of_nothing():
    low, high = wilson([0, 1, 0], [0, 2, 5])
    assert low.shape == (3,) and (low[0], high[0]) == (0, 1)
    assert (low[1], high[1]) == wilson(1, 2)
    assert wilson(0, 0) == (0.0, 1.0)


def test_mover_difference_as_newcombe_printed_it():
    """56/70 against 48/80: his method 10 gives 0.0524 to 0.3339."""
    a, b = (Metric(k / n, *wilson(k, n)) for k, n in ((56, 70), (48, 80)))
    assert mover_difference(a, b) == pytest.approx((0.0524, 0.3339), abs=6e-5)
    assert mover_difference(a, Metric(0.5)) == (None, None)


def test_mover_mean_of_one_is_itself_and_of_many_is_narrower():
    item = mover_mean(np.array([0.5]), np.array([0.3]), np.array([0.9]))
    assert item == pytest.approx((0.3, 0.9))
    four = mover_mean(np.full(4, 0.5), np.full(4, 0.3), np.full(4, 0.9))
    assert four == pytest.approx((0.4, 0.7))


@pytest.mark.parametrize(("p12", "p21"), [(0.1, 0.1), (0.3, 0.05), (0.02, 0.2), (0.4, 0.4)])
def test_paired_shares_cover(p12, p21):
    """Exact: over every outcome of 30 pairs, the interval holds the true difference at least 93 times in 100."""
    n, covered = 30, 0.0
    for up in range(n + 1):
        for down in range(n + 1 - up):
            a = np.array([1] * up + [0] * (n - up))
            b = np.array([0] * up + [1] * down + [0] * (n - up - down))
            _, low, high = paired_difference(a, b)
            chance = scipy.stats.multinomial.pmf([up, down, n - up - down], n, [p12, p21, 1 - p12 - p21])
            covered += chance * (low <= p12 - p21 <= high)
    assert covered >= 0.93


def test_paired_scores_have_students_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 20), rng.normal(0, 1, 20)
    want = scipy.stats.ttest_rel(a, b).confidence_interval()
    assert paired_difference(a, b)[1:] == pytest.approx((want.low, want.high))
    assert paired_difference(np.array([0.5]), np.array([0.25])) == (0.25, -math.inf, math.inf)


def _mean(parts, weights):
    return weights @ parts / weights.sum(1)


def _spread(parts, weights):
    m = _mean(parts, weights)
    return np.sqrt(np.maximum(weights @ parts**2 / weights.sum(1) - m**2, 0))


@pytest.mark.parametrize(("statistic", "plain_one"), [(_mean, np.mean), (_spread, np.std)])
def test_bootstrap_equals_scipys_bca(statistic, plain_one):
    parts = np.random.default_rng(0).lognormal(0, 1, 60)
    want = scipy.stats.bootstrap((parts,), plain_one, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    value, low, high = bootstrap(statistic, parts, resamples=20_000)
    assert value == pytest.approx(plain_one(parts))
    assert (low, high) == pytest.approx((want.low, want.high), rel=0.03)


def test_bootstrap_of_many_rows_thins_them_and_scales(monkeypatch):
    parts = np.random.default_rng(0).exponential(1, 5000)
    full = bootstrap(_mean, parts)
    monkeypatch.setattr(intervals, "MAX_ROWS", 500)
    thin = bootstrap(_mean, parts)
    assert thin[0] == full[0] == pytest.approx(parts.mean())
    assert thin[2] - thin[1] == pytest.approx(full[2] - full[1], rel=0.25)


def test_bootstrap_in_blocks_is_the_same(monkeypatch):
    parts = np.random.default_rng(0).exponential(1, 50)
    full = bootstrap(_mean, parts)
    monkeypatch.setattr(intervals, "_CELLS", 50 * 7)
    assert bootstrap(_mean, parts) == pytest.approx(full, rel=0.1)


def test_no_mistake_seen_is_not_certainty():
    """Twenty rows without a mistake: up to 1 - 0.025^(1/20) of the rest may be wrong."""
    value, low, high = bootstrap(_mean, np.ones(20), bounds=(0, 1))
    assert (value, high) == (1, 1)
    assert low == pytest.approx(0.025 ** (1 / 20))
    assert low == pytest.approx(scipy.stats.binomtest(20, 20).proportion_ci(0.95, method="exact").low)
    assert bootstrap(_mean, np.zeros(4)) == (0, 0, 0), "without bounds there is nothing to add"


def test_a_statistic_that_is_not_a_number_has_no_interval():
    value, low, high = bootstrap(lambda parts, weights: np.full(len(weights), np.nan), np.ones(5))
    assert math.isnan(value) and math.isnan(low) and math.isnan(high)


# ---- text ----------------------------------------------------------------------------------------------------------

wide_text = st.text(alphabet="aé日本x·\t\x1b", max_size=80)


@given(wide_text, st.integers(1, 40))
def test_shortened_text_fits_and_keeps_its_ends(text, cells):
    text = clean(text)
    short = shorten(text, cells)
    assert width(short) <= cells
    assert short == text or "…" in short


rows_of_text = st.lists(st.lists(wide_text, min_size=4, max_size=4), max_size=6)


@given(rows_of_text, st.sampled_from(["lr", "llrr", "r", "l"]))
def test_tables_fit_and_obey_no_control_character(rows, align):
    lines = table(["first", "second", "a third one", "x"], rows, align).split("\n")
    assert len(lines) >= len(rows) + 1
    assert all(width(line) <= WIDTH for line in lines)
    assert not any(ord(c) < 32 or c == "\x1b" for line in lines for c in line)


@given(rows_of_text, st.sampled_from([80, WIDTH]))
def test_long_cells_go_on_in_the_next_line_and_lose_nothing(rows, limit):
    text = table(["one", "two", "three", "four"], rows, "l", limit)
    for letter in "é日本·":
        assert text.count(letter) == sum(clean(cell).count(letter) for row in rows for cell in row)
    assert all(width(line) <= limit for line in text.splitlines())


def test_text_has_no_colour_whatever_the_environment_says(monkeypatch):
    plain_text = table(["name", "n"], [["[bold]a[/bold]", 1]])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "10")
    assert table(["name", "n"], [["[bold]a[/bold]", 1]]) == plain_text == "name            n\n[bold]a[/bold]  1"


def test_a_table_to_look_at():
    text = table(["name", "n"], [["日本", 1], ["ab", None], ["abcdef", 1234]])
    assert text == "name       n\n日本       1\nab         -\nabcdef  1234"


def test_numbers_are_never_cut_but_left_out_from_the_right():
    text = table(["name", *"abcdef"], [["x" * 40, *["0.123456789 [0.1, 0.2]"] * 6]], "lr")
    assert all(width(line) <= WIDTH for line in text.splitlines())
    assert text.splitlines()[1].split("  ")[-1].endswith("0.2]")
    assert "".join(table(["a"], [["12" * 80]], "r", limit=20).split()[1:]) == "12" * 80, "one column is all there is"


@given(wide_text.map(lambda text: text.replace("x", " ")), st.sampled_from(["", "  ", "- "]), st.integers(4, 30))
def test_paragraphs_fit_and_lose_only_what_no_line_can_hold(text, indent, limit):
    lines = paragraph(text, indent, limit).split("\n")
    assert all(width(line) <= limit for line in lines)
    words = [shorten(word, limit - len(indent)) for word in clean(text).split()]
    assert " ".join(" ".join(lines).removeprefix(indent).split()) == " ".join(words)


def test_listings_say_how_many_are_left():
    assert listing("Title", []) == ""
    assert listing("Title", range(7), limit=2) == "Title\n  0\n  1\n  … and 5 more"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.5, "500 ms"), (59, "59.0 s"), (61, "1 min 1 s"), (7261, "2 h 1 min")]
)
def test_durations(value, text):
    assert seconds(value) == text


# ---- plain data ----------------------------------------------------------------------------------------------------


def test_plain_is_json():
    value = {
        "path": Path("a/b"),
        "set": {3, 1},
        "array": np.array([[1.5, np.nan]]),
        "numpy": (np.int64(3), np.bool_(True), np.float32(0.5), np.str_("x")),
        "metric": Metric(0.5, 0.25, 0.75),
        "record": SkippedItem("a", "b"),
        5: None,
        "inf": math.inf,
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "path": str(Path("a/b")),
        "set": [1, 3],
        "array": [[1.5, None]],
        "numpy": [3, True, 0.5, "x"],
        "metric": {"value": 0.5, "low": 0.25, "high": 0.75, "better": "higher"},
        "record": {"item": "a", "reason": "b", "index": None},
        "5": None,
        "inf": None,
    }


def result(seed: int = 0, right: float = 0.8, n: int = 200, **fields) -> Result:
    rng = np.random.default_rng(seed)
    rows = (rng.random(n) < right).astype(float)
    metrics = {"accuracy": Metric(rows.mean(), *wilson(rows.sum(), n)), "log_loss": Metric(0.5, 0.4, 0.6, "lower")}
    defaults = {
        "task": "classification",
        "per_class": [ClassRow("ant", 5, Metric(0.5, 0.25, 0.75), Metric(np.nan, 0, 1), Metric(0.5), 7)],
        "skipped": [SimpleNamespace(item=Path("photos/empty.jpg"), reason="empty file", index=3)],
        "cost": {"extract_seconds": 12.5, "rows": 200, "stages": {"head": 0.25}},
        "provenance": {"seed": 0, "data": "d1", "versions": {"numpy": "2"}, "test_reads": 1},
        "notes": ["one note"],
        "confusion": Confusion(("ant", "bee"), [[5, 1], [0, 4]]),
        "row_scores": {"accuracy": rows},
    }
    return Result(metrics, **{**defaults, **fields})


ranking = Ranking(
    [
        Row(
            "timm:net",
            "f1",
            "blocks.4",
            depth=0.5,
            accuracy=0.9,
            low=0.85,
            high=0.94,
            tied=True,
            logme=1.25,
            seconds=3.5,
        ),
        Row("timm:net", "f1", "blocks.6", depth=1.0, accuracy=0.8, low=0.74, high=0.86, h_score=4.0),
    ],
    verdict="blocks.4 transfers.",
    transfers=True,
    baseline=0.25,
    notes=["a note"],
    cost={"seconds": 5.0},
    provenance={"seed": 3},
)
saved = LabelsSaved(
    4, "scratch", equals=32.0, low=20.0, high=None, least=4, most=64, reached=True, description="from scratch"
)
proof = Proof(
    [
        ProofRow("scratch", 4, accuracy=0.3, low=0.2, high=0.4, seconds=9.0, scores=(0.2, 0.4), epochs=12.0),
        ProofRow(
            "frozen",
            4,
            accuracy=0.7,
            low=0.6,
            high=0.8,
            seconds=2.0,
            scores=(0.6, 0.8),
            description="frozen features",
            transfer=True,
        ),
        ProofRow("frozen", 16, accuracy=0.9),
    ],
    verdict="Transfer helps.",
    helps=True,
    gains=[Gain("scratch", None, value=0.4, low=0.3, high=0.5), Gain("scratch", 4, value=0.4, low=0.2, high=0.6)],
    labels_saved=saved,
    labels=[saved],
    time_saved=TimeSaved(
        4, "scratch", seconds=2.0, accuracy=0.7, baseline_seconds=9.0, baseline_accuracy=0.3, reached=False
    ),
    forgetting=Forgetting(0.9, 0.8, change=-0.1, low=-0.2, high=0.0, items=50, n_kept=2),
    chance=0.25,
)


@pytest.mark.parametrize(
    "record", [result(), ranking, proof, Result({}), Ranking([]), Proof([])], ids=lambda r: type(r).__name__
)
def test_records_come_back_from_json(record):
    text = json.dumps(record.to_dict(), allow_nan=False)
    for back in (read_record(json.loads(text)), type(record).from_dict(json.loads(text))):
        assert back == record and type(back) is type(record)
        assert str(back) == str(record)
        assert back.to_dict() == record.to_dict()


@pytest.mark.parametrize("record", [result(), ranking, proof], ids=lambda r: type(r).__name__)
def test_records_are_frozen_and_can_be_copied(record):
    field = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, None)
    with pytest.raises(TypeError):
        record.provenance["seed"] = 9
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
    changed = dataclasses.replace(record, notes=["other"])
    assert changed != record and changed.notes == ("other",)
    assert record != "something else"
    with pytest.raises(TypeError, match="unhashable"):
        hash(record)


def test_arrays_inside_cannot_be_changed():
    results = result()
    with pytest.raises(ValueError, match="read-only"):
        results.row_scores["accuracy"][0] = 5
    with pytest.raises(ValueError, match="read-only"):
        results.confusion.counts[0, 0] = 5
    with pytest.raises(TypeError):
        results.metrics["accuracy"] = 1


def test_the_arrays_given_stay_as_they_were():
    rows = np.ones(3)
    Result({"accuracy": 1.0}, row_scores={"accuracy": rows})
    rows[0] = 0


@given(st.dictionaries(texts, st.one_of(finite, st.just(math.nan)), max_size=4), st.lists(texts, max_size=3))
def test_any_names_survive_the_journey(metrics, notes):
    result = Result(metrics, notes=notes, cost=dict.fromkeys(notes, 1.0))
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize(
    ("data", "message"),
    [({}, "kind is None"), ({"kind": "Recipe"}, "kind is 'Recipe'"), ([], "kind is None")],
)
def test_other_data_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        read_record(data)


def test_a_record_of_another_kind_or_with_strange_fields_is_refused():
    with pytest.raises(DataError, match=r"its kind is 'Proof'.*fields that Result has not: rows"):
        Result.from_dict({"kind": "Proof", "rows": []})


def test_single_rows_can_be_left_out_of_the_data():
    assert "row_scores" not in result().to_dict(rows=False)
    assert read_record(result().to_dict(rows=False)).metrics == result().metrics


# ---- comparison ----------------------------------------------------------------------------------------------------


def test_a_paired_comparison_is_sharper():
    """Twelve rows of 200 more are right and none less: clear row by row, unclear from the two intervals."""
    base = np.arange(200) < 150
    a, b = (result(row_scores={"accuracy": rows}, provenance={"data": "d"}) for rows in (np.arange(200) < 162, base))
    paired = a.compare(b)["accuracy"]
    assert paired.paired and paired.verdict == "better"
    assert float(paired.difference) == pytest.approx(0.06)
    metrics = [{"accuracy": Metric(k / 200, *wilson(k, 200))} for k in (162, 150)]
    loose = Result(metrics[0]).compare(Result(metrics[1]))["accuracy"]
    assert not loose.paired and loose.verdict == "no clear difference"
    assert b.compare(a)["accuracy"].verdict == "worse"


def test_lower_is_better_where_it_is():
    good, bad = (Result({"rmse": Metric(v, v - 0.1, v + 0.1, "lower")}) for v in (1.0, 2.0))
    assert good.compare(bad)["rmse"].verdict == "better"
    assert bad.compare(good)["rmse"].verdict == "worse"


def test_without_intervals_nothing_is_claimed():
    assert Result({"a": 0.9}).compare(Result({"a": 0.1}))["a"].verdict == "unknown"


@pytest.mark.parametrize("provenance", [{}, {"data": None}, {"data": "other"}])
def test_other_or_unknown_data_is_never_paired(provenance):
    assert not result().compare(result(provenance=provenance))["accuracy"].paired
    assert not result(provenance=provenance).compare(result())["accuracy"].paired
    if "other" not in provenance.values():
        assert not result(provenance=provenance).compare(result(provenance=provenance))["accuracy"].paired


def test_other_numbers_of_rows_are_never_paired():
    assert not result(n=200).compare(result(n=199))["accuracy"].paired


def test_only_shared_metrics_are_compared():
    results = Result({"a": 1.0, "b": 2.0}).compare(Result({"b": 1.0, "c": 1.0}))
    assert [row.metric for row in results] == ["b"] and len(results) == 1
    with pytest.raises(KeyError, match="shared: b"):
        results["a"]
    text = str(result().compare(result(seed=1)))
    assert "accuracy" in text and "paired" in text
    assert all(width(line) <= WIDTH for line in text.splitlines())


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_comparison_turns_its_sign(seed, other):
    a, b = result(seed), result(other)
    present, back = a.compare(b)["accuracy"].difference, b.compare(a)["accuracy"].difference
    assert (present, present.low, present.high) == pytest.approx((-back, -back.high, -back.low))
    assert a.compare(a)["accuracy"].verdict == "no clear difference"


# ---- Result --------------------------------------------------------------------------------------------------------


def test_the_headline_is_the_first():
    assert result().headline == "accuracy"
    assert Result({}).headline == ""
    assert isinstance(Result({"a": 1}).metrics["a"], Metric), "plain numbers become metrics"


def test_columns_come_together():
    parts = {"digit": result(), "speaker": result(seed=1, notes=[])}
    full = Result.of_columns(parts, notes=["whole"], cost={"seconds": 1.0})
    assert list(full.metrics) == ["digit.accuracy", "digit.log_loss", "speaker.accuracy", "speaker.log_loss"]
    assert full.metrics["speaker.accuracy"] == parts["speaker"].metrics["accuracy"]
    assert [row.column for row in full.per_class] == ["digit", "speaker"]
    assert set(full.confusion) == {"digit", "speaker"}
    assert set(full.row_scores) == {"digit.accuracy", "speaker.accuracy"}
    assert full.notes == ("digit: one note", "whole")
    assert full.cost == {"seconds": 1.0} and full.task is None
    assert Result.from_dict(json.loads(json.dumps(full.to_dict()))) == full
    assert pickle.loads(pickle.dumps(full)) == full
    assert "digit.accuracy" in str(full) and "column" in str(full)


def test_a_column_may_be_called_counts():
    full = Result.of_columns({"counts": result(), "labels": result()})
    assert set(Result.from_dict(full.to_dict()).confusion) == {"counts", "labels"}


def test_text_of_a_result_says_what_matters():
    text = str(result())
    first = text.splitlines()[0]
    assert first.startswith("Result · classification · accuracy 0.") and "[" in first
    for word in ("log_loss", "lower", "ant", "empty.jpg: empty file", "one note", "12.5 s", "test_reads", "numpy 2"):
        assert word in text, word
    assert Result({}).headline not in ("None", None) and str(Result({})).startswith("Result")


@given(st.lists(texts, min_size=1, max_size=40, unique=True))
def test_any_result_fits_a_terminal(names):
    share = Metric(0.5, 0.25, 0.75)
    rows = [ClassRow(name, 5, share, share, share, 3, column=name) for name in names]
    costs = dict.fromkeys(names, "x" * 200)
    skipped = [SkippedItem(name * 9, name) for name in names]
    text = str(Result(dict.fromkeys(names, share), per_class=rows, notes=names, cost=costs, skipped=skipped))
    assert all(width(line) <= WIDTH for line in text.splitlines())
    assert "\x1b" not in text


def test_of_many_classes_the_worst_are_shown():
    rows = [ClassRow(f"c{i:03}", 10, Metric(0.5), Metric(i / 100), Metric(0.5)) for i in range(100)]
    text = str(result(per_class=rows[::-1]))
    assert "c000" in text and "c099" not in text and "of 100" in text


def test_confusion_prints_and_names_the_mistakes():
    confusion = Confusion(("ant", "bee", "cat"), [[5, 3, 0], [1, 4, 0], [0, 0, 2]])
    assert confusion.mistakes() == [("ant", "bee", 3), ("bee", "ant", 1)]
    assert confusion.mistakes(1) == [("ant", "bee", 3)]
    assert str(confusion).splitlines()[1].split() == ["ant", "5", "3", "0"]


# ---- Ranking and Proof ---------------------------------------------------------------------------------------------


def test_the_best_is_the_first_row():
    assert ranking.best.layer == "blocks.4"
    with pytest.raises(DataError, match="empty"):
        Ranking([]).best


def test_validate_is_lent_by_who_ranked():
    calls = []
    able = dataclasses.replace(ranking, _validate=lambda k: calls.append(k) or "table")
    assert able.validate(2) == "table" and able.validate() == "table" and calls == [2, 3]
    assert able == ranking, "it is no part of what was found"
    for lost in (ranking, pickle.loads(pickle.dumps(able)), Ranking.from_dict(able.to_dict())):
        with pytest.raises(OptionError, match=r"hs\.rank"):
            lost.validate()


def test_text_of_a_ranking():
    text = str(ranking)
    assert "chance level 0.250" in text and "blocks.4 transfers." in text and "a note" in text
    first = next(line for line in text.splitlines() if "blocks.4" in line)
    assert first.split()[0] == "1=" and "0.900 [0.850, 0.940]" in text and "3.5 s" in text
    assert "leep" not in text, "what nobody measured is no column"


def fused(**fields) -> Fusion:
    reference = {"accuracy": 0.93, "low": 0.9, "high": 0.95, "difference": 0.03, "difference_low": 0.01}
    parts = (("net", "blocks.4"), ("net", "blocks.6"))
    return Fusion(
        **{"parts": parts, **reference, "difference_high": 0.05, "wins": True, "fingerprints": ("f1", "f1"), **fields}
    )


def test_layers_side_by_side_are_told_and_come_back():
    both = dataclasses.replace(ranking, fused=fused())
    assert both.fusion_summary == (
        "Side by side, blocks.4 + blocks.6 reach 0.930 [0.900, 0.950], +0.030 [+0.010, +0.050] to the best row: "
        "fit() takes them together."
    )
    assert "Side by side" in str(both) and "Side by side" not in str(ranking)
    back = Ranking.from_dict(json.loads(json.dumps(both.to_dict())))
    assert back == both and back.fused == both.fused and back.fusion_summary == both.fusion_summary
    lost = dataclasses.replace(ranking, fused=fused(wins=False, difference=None))
    assert lost.fusion_summary.endswith("0.950]: fit() takes the best row alone.")
    small = fused(features=(1280, 64), n_selected=(120, 5))
    assert small.n_selected == (120, 5) and dataclasses.replace(ranking, fused=small).fusion_summary.endswith(
        "fit() takes them together. Kept are 120 of 1,280 features of blocks.4, 5 of 64 of blocks.6."
    )
    assert Ranking.from_dict(json.loads(json.dumps(dataclasses.replace(ranking, fused=small).to_dict()))).fused == small
    across = fused(parts=(("a", "l"), ("b", "l")), fingerprints=("f", "g"))
    assert str(across) == "a/l + b/l"


def test_a_long_ranking_is_cut_and_says_so():
    rows = [Row("s", "f", f"layer{i}", accuracy=0.9 - i / 100, low=0.1, high=0.9) for i in range(30)]
    text = str(Ranking(rows))
    assert "layer19" in text and "layer20" not in text
    assert "… and 10 more rows: see .rows" in text


def test_what_is_shared_is_told_in_words():
    messages = dataclasses.replace(ranking, shared={"words": ["much is shared."], "cka": {}})
    assert "What is shared:\n  much is shared." in str(messages)
    assert "What is shared" not in str(ranking)


SCORES = ("logme", "h_score", "nce", "leep", "knn", "static", "seconds", "macs", "mbytes")


@given(texts, st.booleans())
def test_any_ranking_fits_a_terminal(name, everything):
    numbers = dict.fromkeys(SCORES, -1234567.891)
    row = Row(
        name * 3, "f", name * 2, depth=0.5, accuracy=0.123456, low=0.1, high=0.2, **(numbers if everything else {})
    )
    text = str(Ranking([row, row], verdict="v"))
    assert all(width(line) <= WIDTH for line in text.splitlines())
    assert "0.123 [0.100, 0.200]" in text


def test_names_in_a_ranking_stay_readable():
    name = "timm:a_rather_long_name_of_a_network.with_a_tag"
    row = Row(name, "f", "stages.3.blocks.1.mlp.fc2", accuracy=0.5, low=0.4, high=0.6, **dict.fromkeys(SCORES, 1.5))
    line = str(Ranking([row])).splitlines()[3]
    assert "stages.3" in line and "timm:a_r" in line


def test_a_ranking_of_rows_that_failed():
    text = str(Ranking([Row("s", "f", "l")]))
    assert "1 row by accuracy" in text and "-" in text


def test_the_table_of_a_proof():
    lines = proof.table.splitlines()
    assert lines[0].split() == ["labels", "per", "class", "how", "accuracy,", "95", "%", "epochs", "time"]
    assert lines[1].split() == ["4", "scratch", "0.300", "[0.200,", "0.400]", "12", "9.0", "s"]
    assert lines[2].split()[:3] == ["transfer:", "frozen", "features"] and lines[2].endswith("2.0 s")
    assert lines[3].split() == ["→", "gain", "over", "scratch", "+0.400", "[+0.200,", "+0.600]"]
    assert lines[4] == "" and lines[5].split() == ["16", "frozen", "0.900", "-"]


def test_text_of_a_proof():
    assert str(proof).startswith("Proof · Transfer helps.\n\n")
    text = " ".join(str(proof).split())
    assert "transfer with 4 labels per class equals from scratch with about 32 [20, more than 64]: 8.0 times" in text
    assert "for 0.700, scratch 9.0 s for 0.300: more than 4.5 times faster" in text
    assert "On the source task: 0.900 before fine-tuning, 0.800 after: -0.100 [-0.200, +0.000] on 50 items." in text
    assert "Guessing gives 0.250." in text
    assert float(proof.labels_saved) == 8.0 and float(proof.time_saved) == 4.5 and bool(proof.labels_saved)
    assert str(Proof([])) == "Proof"


def test_labels_are_saved_against_the_headline_and_against_scratch():
    raw = dataclasses.replace(saved, baseline="raw", description="raw pixels", equals=16.0)
    shown = dataclasses.replace(proof, labels_saved=raw, labels=[saved, raw]).summary
    assert shown == [raw, saved]
    no_more = dataclasses.replace(raw, shots=64, most=64, equals=None, high=None, reached=False)  # nothing follows
    assert dataclasses.replace(proof, labels_saved=raw, labels=[no_more, raw]).summary == [raw]
    assert dataclasses.replace(proof, labels_saved=no_more, labels=[no_more]).summary == [no_more], "what there is"
    assert dataclasses.replace(proof, labels_saved=None).summary == []


def test_a_slow_transfer_saves_no_time():
    slow = dataclasses.replace(proof.time_saved, seconds=90.0)
    assert str(slow).endswith("no time is saved")
