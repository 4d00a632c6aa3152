"""A proof on the page: the learning curves drawn where the numbers are, and everything that the proof says."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

import headstart as hs
from headstart.errors import DataError
from headstart.reporting.figures import curves
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
    """Three contenders, with intervals of 0.05 to either side."""
    rows = [
        ProofRow(
            name,
            one,
            accuracy=SCORES[name][place],
            low=SCORES[name][place] - 0.05,
            high=SCORES[name][place] + 0.05,
            seconds=2.5,
            scores=(SCORES[name][place],) * 2,
            description=WHAT[name],
            transfer=name == "frozen",
        )
        for place, one in enumerate(shots)
        for name in SCORES
    ]
    saved = LabelsSaved(
        4, "raw", equals=None, low=60.0, high=None, least=4, most=64, reached=False, description="raw pixels"
    )  # fmt: skip
    whole = {
        "verdict": "Transfer helps here.",
        "helps": True,
        "gains": [Gain("raw", one, value=0.25, low=0.2, high=0.3) for one in shots],
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
    return Proof(rows, **{**whole, **fields})


def drawn(proof: Proof) -> ElementTree.Element:
    return ElementTree.fromstring(curves(proof))


def every(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if e.tag.endswith(f"}}{tag}")]


def points(line: ElementTree.Element) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_everything_a_proof_says_is_on_the_page(tmp_path):
    proof = made()
    page = read(proof, tmp_path)
    said = "\n".join(page.words)
    for words in (
        "Transfer helps here.",
        f"{proof.labels_saved}.",
        f"{proof.time_saved}.",
        f"{proof.forgetting}.",
        "The largest number of labels was left out.",
        "guessing",
        "transfer: frozen features",
    ):
        assert words in said, words
    assert page.tags.count("svg") == 1


def test_the_table_has_every_point_and_the_gains(tmp_path):
    page = read(made(), tmp_path)
    head, *rows = page.tables[0]
    assert head == ["labels per class", "how", "accuracy, 95 %", "epochs", "time"]
    assert len(rows) == 9 + 3
    assert rows[0] == ["4", "raw pixels", "0.300 [0.250, 0.350]", "", "2.5 s"]
    assert [row[1] for row in rows if row[1].startswith("→")] == ["→ gain over raw pixels"] * 3
    assert len(page.tinted) == 3, "the gains are pointed out, and nothing else"


def test_one_line_per_contender_with_its_band():
    root = drawn(made())
    lines, bands = every(root, "polyline"), every(root, "polygon")
    assert len(lines) == len(bands) == 3
    assert [e.get("stroke") for e in lines] == [e.get("fill") for e in bands]
    assert {*WHAT.values()} - {"frozen features"} <= {e.text for e in every(root, "text")}
    heavy = [float(e.get("stroke-width")) for e in lines]
    assert heavy[2] > heavy[0] == heavy[1], "transfer is the line to look for"


def test_doublings_are_equally_far_apart():
    root = drawn(made())
    for line in every(root, "polyline"):
        (a, _), (b, _), (c, _) = points(line)
        assert b - a == pytest.approx(c - b, abs=0.2), "4, 16 and 64 are two doublings each"
    at = {e.text: float(e.get("x")) for e in every(root, "text") if e.text in {"4", "16", "64"}}
    assert [at[str(one)] for one in SHOTS] == pytest.approx([x for x, _ in points(every(root, "polyline")[0])], abs=0.2)


def test_scores_and_bands_share_one_scale():
    root = drawn(made())
    level = [e for e in every(root, "line") if e.get("stroke-dasharray")]
    chance = float(level[0].get("y1"))
    up = [points(e) for e in every(root, "polyline")]
    per_point = (up[0][0][1] - up[2][0][1]) / (0.55 - 0.30)
    assert (chance - up[0][0][1]) / per_point == pytest.approx(0.05, abs=0.002), "guessing is 0.05 below 0.30"
    for line, band in zip(up, every(root, "polygon"), strict=True):
        corners = points(band)
        highs, lows = corners[:3], corners[3:][::-1]
        for (x, y), (left, high), (right, low) in zip(line, highs, lows, strict=True):
            assert x == left == right
            assert ((y - high) / per_point, (low - y) / per_point) == pytest.approx((0.05, 0.05), abs=0.002)


def test_with_one_number_of_labels_intervals_stand_side_by_side():
    root = drawn(made(shots=(16,)))
    edges = [e.get("d") for e in root.iter() if e.get("class") == "interval"]
    assert len(edges) == 3 and not every(root, "polygon")
    places = [float(re.match(r"M([\d.]+) ", edge).group(1)) for edge in edges]
    assert places == sorted(set(places)), "none hides another"
    (words,) = [e for e in every(root, "text") if e.text == "16"]
    assert float(words.get("x")) == pytest.approx(sum(places) / 3, abs=0.2)


def test_a_contender_that_stopped_early_has_a_shorter_line():
    proof = made()
    rows = [row for row in proof.rows if not (row.name == "scratch" and row.shots == 64)]
    lengths = [len(points(e)) for e in every(drawn(Proof(rows)), "polyline")]
    assert lengths == [3, 2, 3]


def test_unknown_intervals_leave_no_band():
    rows = [replace(row, low=None, high=None) if row.name == "raw" else row for row in made().rows]
    root = drawn(Proof(rows))
    assert len(every(root, "polyline")) == 3 and len(every(root, "polygon")) == 2
    assert not [e for e in every(root, "line") if e.get("stroke-dasharray")], "no level without chance"


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, None])
def test_scores_that_are_none_have_no_place(value):
    first, *others = made().rows
    root = drawn(Proof([replace(first, accuracy=value), *others]))
    assert len(every(root, "circle")) == 8
    assert curves(Proof([replace(first, accuracy=value)])) == ""


def test_points_say_what_they_are():
    hints = [e[0].text for e in every(drawn(made()), "circle")]
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
    assert "script" not in page.tags
    assert any(EVIL in words for words in page.words)
    assert EVIL in {e.text for e in every(drawn(Proof(rows, metric=EVIL)), "text")}


def test_a_proof_from_a_file_gives_the_same_page(tmp_path):
    again = read_record(json.loads(json.dumps(made().to_dict())))
    pages = [hs.report(one, tmp_path / "r.html").read_bytes() for one in (made(), again)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("shots", ["4", None, -(10**400)])
def test_nonsense_is_refused(shots, tmp_path):
    proof = Proof([replace(made().rows[0], shots=shots), *made().rows[1:]])
    if shots is None or isinstance(shots, str):
        with pytest.raises(DataError, match="Record 1 is no Proof"):
            hs.report(proof, tmp_path / "r.html")
    else:
        assert len(every(drawn(proof), "circle")) == 8, "fewer than one label has no place on the axis"
