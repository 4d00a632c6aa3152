"""A proof on the page: the learning curves drawn where the numbers are, and everything that the proof says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

import headstart as hs
from headstart.errors import DataError
from headstart.reporting.figures import curves_figure
from headstart.result import Forgetting, Gain, LabelsSaved, Proof, ProofRow, TimeSaved, read_record
from test_report import EVIL, read

SCORES = {
    "raw": (0.30, 0.39, 0.52),
    "scratch": (0.29, 0.26, 0.31),
    "frozen": (0.55, 0.66, 0.75),
}
WHAT = {"raw": "raw pixels", "scratch": "training from scratch", "frozen": "frozen features"}
SHOTS = (4, 16, 64)


def made(shots=SHOTS, **fields) -> Proof:
    """Three methods, with intervals of 0.05 to either side."""
    rows = [
        ProofRow(
            name,
            item,
            accuracy=SCORES[name][path],
            low=SCORES[name][path] - 0.05,
            high=SCORES[name][path] + 0.05,
            seconds=2.5,
            scores=(SCORES[name][path],) * 2,
            description=WHAT[name],
            transfer=name == "frozen",
        )
        for path, item in enumerate(shots)
        for name in SCORES
    ]
    saved = LabelsSaved(
        4, "raw", equals=None, low=60.0, high=None, least=4, most=64, reached=False, description="raw pixels"
    )  # fmt: skip
    full = {
        "verdict": "Transfer helps here.",
        "helps": True,
        "gains": [Gain("raw", item, value=0.25, low=0.2, high=0.3) for item in shots],
        "labels_saved": saved,
        "labels": [saved],
        "time_saved": TimeSaved(
            16, "scratch", seconds=2.0, accuracy=0.66, baseline_seconds=30.0, baseline_accuracy=0.26, reached=False
        ),
        "forgetting": Forgetting(0.9, 0.8, change=-0.1, low=-0.15, high=-0.05, items=200),
        "chance": 0.25,
        "notes": ["The largest number of labels was left out."],
        "cost": {"seconds": 12.0},
        "provenance": {"seed": 3},
    }
    return Proof(rows, **{**full, **fields})


def lines_of(proof: Proof) -> list[dict]:
    return [trace for trace in curves_figure(proof)["data"] if trace["mode"] == "lines+markers"]


def bands_of(proof: Proof) -> list[dict]:
    return [trace for trace in curves_figure(proof)["data"] if trace["mode"] == "none"]


def test_everything_a_proof_says_is_on_the_page(tmp_path):
    proof = made()
    page = read(proof, tmp_path)
    message = "\n".join(page.words)
    for words in (
        "Transfer helps here.",
        f"{proof.labels_saved}.",
        f"{proof.time_saved}.",
        f"{proof.forgetting}.",
        "The largest number of labels was left out.",
        "chance level",
        "transfer: frozen features",
    ):
        assert words in message, words
    assert page.figures == ["figure-1-curves"]


def test_the_table_has_every_point_and_the_gains(tmp_path):
    page = read(made(), tmp_path)
    head, *rows = page.tables[0]
    assert head == ["labels per class", "how", "accuracy, 95 %", "epochs", "time"]
    assert len(rows) == 9 + 3
    assert rows[0] == ["4", "raw pixels", "0.300 [0.250, 0.350]", "", "2.5 s"]
    assert [row[1] for row in rows if row[1].startswith("→")] == ["→ gain over raw pixels"] * 3
    assert len(page.tinted) == 3, "the gains are pointed out, and nothing else"


def test_one_line_per_method_with_its_band():
    lines, bands = lines_of(made()), bands_of(made())
    assert len(lines) == len(bands) == 3
    assert [line["line"]["color"] for line in lines] == [band["fillcolor"] for band in bands]
    assert [line["name"] for line in lines] == ["raw pixels", "training from scratch", "transfer: frozen features"]
    widths = [line["line"]["width"] for line in lines]
    assert widths[2] > widths[0] == widths[1], "transfer is the line to look for"


def test_doublings_are_equally_far_apart():
    axis = curves_figure(made())["layout"]["xaxis"]
    assert axis["tickvals"] == [2, 4, 6] and axis["ticktext"] == ["4", "16", "64"]
    assert all(line["x"] == [2, 4, 6] for line in lines_of(made()))


def test_scores_and_bands_are_the_numbers_of_the_proof():
    for name, line, band in zip(SCORES, lines_of(made()), bands_of(made()), strict=True):
        assert line["y"] == list(SCORES[name])
        assert band["y"][:3] == pytest.approx([score + 0.05 for score in SCORES[name]])
        assert band["y"][3:] == pytest.approx([score - 0.05 for score in SCORES[name][::-1]])
        assert band["x"] == [2, 4, 6, 6, 4, 2]
    (level,) = curves_figure(made())["layout"]["shapes"]
    assert level["y0"] == level["y1"] == 0.25 and level["label"]["text"] == "chance level"


def test_with_one_number_of_labels_intervals_stand_side_by_side():
    proof = made(shots=(16,))
    lines = lines_of(proof)
    assert len(lines) == 3 and not bands_of(proof)
    assert all(line["error_y"]["array"] == pytest.approx([0.05]) for line in lines)
    assert all(line["error_y"]["arrayminus"] == pytest.approx([0.05]) for line in lines)
    places = [line["x"][0] for line in lines]
    assert places == sorted(set(places)), "none hides another"
    assert sum(places) / 3 == pytest.approx(4) and curves_figure(proof)["layout"]["xaxis"]["ticktext"] == ["16"]


def test_a_method_that_stopped_early_has_a_shorter_line():
    rows = [row for row in made().rows if not (row.name == "scratch" and row.shots == 64)]
    assert [len(line["x"]) for line in lines_of(Proof(rows))] == [3, 2, 3]


def test_unknown_intervals_leave_no_band():
    proof = Proof([replace(row, low=None, high=None) if row.name == "raw" else row for row in made().rows])
    assert len(lines_of(proof)) == 3 and len(bands_of(proof)) == 2
    assert lines_of(proof)[0]["error_y"]["array"] == [None] * 3
    assert "shapes" not in curves_figure(proof)["layout"], "no level without chance"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, None])
def test_scores_that_are_none_have_no_place(value):
    first, *others = made().rows
    proof = Proof([replace(first, accuracy=value), *others])
    assert sum(len(line["x"]) for line in lines_of(proof)) == 8
    json.dumps(curves_figure(proof), allow_nan=False)
    assert curves_figure(Proof([replace(first, accuracy=value)])) is None


def test_points_say_what_they_are():
    hints = [hint for line in lines_of(made()) for hint in line["hovertext"]]
    assert hints[0] == "raw pixels, 4 labels per class: 0.300"
    assert hints[-1] == "frozen features, 64 labels per class: 0.750"


def test_what_was_not_found_has_no_heading(tmp_path):
    page = read(made(labels_saved=None, labels=(), time_saved=None, forgetting=None, notes=()), tmp_path)
    for heading in ("Labels saved", "Time saved", "On the source task", "Notes"):
        assert heading not in page.words


def test_names_are_shown_and_never_obeyed(tmp_path):
    rows = [replace(row, description=EVIL, name=EVIL) for row in made().rows]
    saved = replace(made().labels_saved, description=EVIL)
    page = read(made(verdict=EVIL, notes=[EVIL], labels_saved=saved, labels=[saved], metric=EVIL), tmp_path)
    assert page.tags.count("script") == 2, "plotly and the call that draws: no name adds one"
    assert any(EVIL in words for words in page.words)
    drawn = json.dumps(curves_figure(Proof(rows, metric=EVIL)))
    assert "<" not in drawn and "&lt;script&gt;" in drawn, "plotly reads tags in its texts"


def test_a_proof_from_a_file_gives_the_same_page(tmp_path):
    again = read_record(json.loads(json.dumps(made().to_dict())))
    pages = [hs.report(item, tmp_path / "r.html").read_bytes() for item in (made(), again)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("shots", ["4", None, -(10**400)])
def test_nonsense_is_refused(shots, tmp_path):
    proof = Proof([replace(made().rows[0], shots=shots), *made().rows[1:]])
    if shots is None or isinstance(shots, str):
        with pytest.raises(DataError, match="Record 1 is no Proof"):
            hs.report(proof, tmp_path / "r.html")
    else:
        points = sum(len(line["x"]) for line in lines_of(proof))
        assert points == 8, "fewer than one label has no place on the axis"
