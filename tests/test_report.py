"""report(): one file that opens anywhere, with everything in it; the figures' numbers."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

import headstart as hs
from headstart.errors import DataError, OptionError, StoreError
from headstart.reporting import figure
from headstart.reporting.figures import is_drawable
from headstart.reporting.render import number
from headstart.result import ClassRow, Confusion, Fusion, Proof, Ranking, Result, Row


@functools.cache
def plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


EVIL = '<script>alert("x")</script>&'


def made(name: str = "net", n: int = 3) -> Ranking:
    rows = [
        Row(name, "f", f"l{i}", depth=i / n, accuracy=0.9 - i / 10, low=0.8 - i / 10, high=0.95 - i / 10,
            difference=-i / 10, tied=i < 1, group=i + 1, logme=-0.1 * i)
        for i in range(n)
    ]  # fmt: skip
    labels = [{"source": name, "layer": f"l{i}"} for i in range(n)]
    cka = {"labels": labels, "values": [[1 - abs(i - j) / n for j in range(n)] for i in range(n)]}
    return Ranking(
        rows, verdict=f"Use l0 of {name}.", transfers=True, baseline=0.25, cost={"items": 120},
        fused=Fusion(((name, "l0"), (name, "l1")), accuracy=0.93, low=0.9, high=0.96, difference=0.03,
                     difference_low=0.0, difference_high=0.05, wins=True, fingerprints=("f", "f")),
        shared={"cka": cka, "words": [f"{name} shares much."]}, notes=["a note"],
    )  # fmt: skip


def test_everything_is_in_one_file(tmp_path):
    result = Result({"accuracy": hs.Metric(0.9, 0.8, 0.95)}, task="classification")
    path = hs.report([made(), result, Proof([], verdict="It helps.")], tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    for words in ("Use l0 of net.", "Side by side, l0 + l1 reach", "net shares much.", "a note", "0.900 [0.800, 0.950]",
                  "It helps.", "LogME"):  # fmt: skip
        assert words in text, words
    assert text.count("Plotly.newPlot(") == 2 + plotly_js().count("Plotly.newPlot(")
    assert text.count(plotly_js()) == 1, "the script is there once, whatever the number of figures"
    assert not re.findall(r"(?:src|href)=|url\(|@import", text.replace(plotly_js(), "")), "nothing is fetched"
    assert len(text) < 8e6
    assert "NCE" not in text.replace(plotly_js(), ""), "what nobody measured is no column"


def test_names_are_shown_and_never_obeyed(tmp_path):
    text = hs.report(made(EVIL), tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.replace(plotly_js(), "").count("<script") == 2 and "&lt;script&gt;" in text


def test_a_long_ranking_is_folded(tmp_path):
    text = hs.report(made(n=40), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<details><summary>all 40 rows" in text


@pytest.mark.parametrize("kind", ["depth", "similarity"])
@pytest.mark.parametrize("n", [2, 30])
def test_figures_hold_every_point_and_are_json(kind, n):
    spec = figure(made(EVIL, n), kind)
    assert "<" not in json.dumps(spec, allow_nan=False).replace("<b>", "").replace("</b>", "").replace(
        "<extra></extra>", ""
    )
    if kind == "depth":
        assert len(spec["data"][-1]["x"]) == n
    else:
        assert len(spec["data"][0]["z"]) == n and all(len(row) == n for row in spec["data"][0]["z"])


def test_a_figure_is_one_that_plotly_takes():
    from plotly.graph_objects import Figure

    for spec in (figure(made()), figure(made(n=1)), figure(made(), "similarity")):
        assert Figure(spec).to_plotly_json()["data"]


def test_a_figure_of_nothing_is_none():
    assert figure(Ranking([])) is None and figure(Ranking([]), "similarity") is None
    with pytest.raises(OptionError, match="similarity"):
        figure(made(), "pie")


def test_without_plotly_the_page_says_the_pip_line(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("headstart._base.extras.find_spec", lambda name: None if name == "plotly" else find(name))
    text = hs.report(made(), tmp_path / "r.html").read_text(encoding="utf-8")
    assert "pip install" in text and "Plotly" not in text
    assert "Use l0 of net." in text and "0.800 – 0.950" in text, "verdict and tables are there all the same"


@pytest.mark.parametrize("given", [[], 3, [made(), "text"]])
def test_what_is_no_record_is_refused(given, tmp_path):
    with pytest.raises(DataError, match=r"report\(\) takes"):
        hs.report(given, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_points_are_the_numbers_and_the_best_is_pointed_out():
    spec = figure(made(n=3))
    line = spec["data"][-1]
    assert line["x"] == pytest.approx([0, 1 / 3, 2 / 3]) and line["y"] == pytest.approx([0.9, 0.8, 0.7])
    (best,) = spec["layout"]["annotations"]
    assert (best["x"], best["y"], best["text"]) == (0.0, 0.9, "<b>l0</b>"), "l0 is the best, and the first by depth"
    assert line["hovertext"][0] == "l0: 0.900"


class Reader(HTMLParser):
    """The page as a browser reads it: its tables as lists of rows, its words, and that every tag is closed."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.tinted: list[str] = []
        self.figures: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)
        if ("class", "figure") in attrs:
            self.figures.append(dict(attrs)["id"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.tinted += ["tinted"] * (("class", "tinted") in attrs)
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def read(results, folder) -> Reader:
    return Reader(hs.report(results, folder / "r.html").read_text(encoding="utf-8"))


def test_the_table_holds_the_numbers_where_they_belong(tmp_path):
    page = read(made(n=3), tmp_path)
    head, *rows = page.tables[0]
    assert head[:7] == ["", "source", "layer", "depth", "accuracy", "95 % interval", "to the best"]
    assert rows[0][:7] == ["1", "net", "l0", "0.00", "0.900", "0.800 – 0.950", ""]
    assert rows[2][:7] == ["3", "net", "l2", "0.67", "0.700", "0.600 – 0.750", "-0.200"]
    assert rows[2][head.index("LogME")] == "-0.2"
    assert all(len(row) == len(head) for row in rows)


def test_ties_are_tinted_and_explained(tmp_path):
    alone = read(made(n=3), tmp_path)
    assert not alone.tinted and not any("cannot be told apart" in words for words in alone.words)
    ranking = made(n=3)
    rows = [replace(row, tied=row.layer != "l2") for row in ranking.rows]
    tied = read(Ranking(rows), tmp_path)
    assert len(tied.tinted) == 2
    assert any("cannot be told apart" in words for words in tied.words)


def test_a_whole_result(tmp_path):
    score = hs.Metric(0.75, 0.6, 0.85)
    never = hs.Metric(math.nan)
    result = Result(
        {"accuracy": score, "nll": hs.Metric(0.4, better="lower")},
        task="classification",
        per_class=[ClassRow("cat", 8, score, score, score), ClassRow("dog", 0, never, never, never, column="pet")],
        confusion=Confusion(("cat", "dog"), [[5, 3], [0, 4]]),
        skipped=[SimpleNamespace(item="a.png", reason="cut short")],
        cost={"seconds": 1.5, "rows": 12},
        provenance={"seed": 7, "versions": {"numpy": "2.1"}},
        notes=["Seen twice."],
    )
    page = read(result, tmp_path)
    metrics, classes, options = page.tables
    assert metrics[1:] == [["accuracy", "0.750 [0.600, 0.850]"], ["nll", "0.400"]]
    assert classes[1][:2] == ["cat", "8"] and classes[1][-1] == "0.750"
    assert classes[2][:2] == ["pet: dog", "0"] and classes[2][-1] == "–"
    assert ["cost · seconds", "1.5"] in options and ["provenance · seed", "7"] in options
    assert ["provenance · versions · numpy", "2.1"] in options
    for words in ("cat taken for dog: 3", "a.png: cut short", "1 items left out", "Seen twice."):
        assert words in page.words
    assert "dog taken for cat: 0" not in page.words


def test_several_columns_name_theirs(tmp_path):
    counts = Confusion(("a", "b"), [[1, 2], [0, 1]])
    page = read(Result({"x.accuracy": hs.Metric(0.5)}, confusion={"x": counts, "y": counts}), tmp_path)
    assert {"x: a taken for b: 2", "y: a taken for b: 2"} <= set(page.words)


def test_several_records_keep_their_order(tmp_path):
    text = hs.report([Proof([]), made("second"), Result({}), made("fourth")], tmp_path / "r.html").read_text("utf-8")
    places = [text.index(words) for words in ("<h2>Proof", "Use l0 of second", "<h2>Result", "Use l0 of fourth")]
    assert places == sorted(places)
    assert text.count("<section>") == 4


@pytest.mark.parametrize("record", [Ranking([]), Result({}), Proof([])], ids=lambda one: type(one).__name__)
def test_an_empty_record_is_a_whole_page(record, tmp_path):
    page = read(record, tmp_path)
    assert not page.figures and "ul" not in page.tags and "script" not in page.tags
    assert "nan" not in " ".join(page.words) and "None" not in " ".join(page.words)


def test_every_name_is_escaped_everywhere(tmp_path):
    """Sources, layers, classes, items, notes and facts come from files that anyone may have written."""
    ranking = made(EVIL)
    rows = [replace(row, layer=EVIL) for row in ranking.rows]
    cka = {"labels": [{"source": EVIL, "layer": EVIL}] * 2, "values": [[1.0, 0.2], [0.2, 1.0]]}
    evil = Ranking(
        rows,
        verdict=EVIL,
        metric=EVIL,
        fused=ranking.fused,
        shared={"cka": cka, "words": [EVIL]},
        notes=[EVIL],
        skipped=[SimpleNamespace(item=EVIL, reason=EVIL)],
        provenance={EVIL: {EVIL: EVIL}},
    )
    share = hs.Metric(0.5)
    result = Result(
        {EVIL: share},
        task=EVIL,
        per_class=[ClassRow(EVIL, 1, share, share, share)],
        confusion=Confusion((EVIL, "b"), [[0, 1], [1, 0]]),
    )
    page = read([evil, result], tmp_path)
    assert page.tags.count("script") == 2, "plotly and the call that draws: no name adds one"
    assert figure(evil)["data"][-1]["hovertext"][0].startswith("&lt;script&gt;"), "what hovers is escaped"
    assert figure(evil, "similarity")["data"][0]["text"][0][0].startswith("&lt;script&gt;")


@pytest.mark.parametrize("name", ["\ud800caf\udce9", "a\x00b\x1b[31m", "\u202egpj.exe", "夏" * 300])
def test_odd_names_are_written(name, tmp_path):
    path = hs.report(made(name), tmp_path / "r.html")
    text = path.read_text(encoding="utf-8")
    Reader(text)
    assert not set(text.replace(plotly_js(), "")) & {"\x00", "\x1b", "\u202e"}


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, 1e300, "high"])
def test_what_is_no_number_has_no_place(value, tmp_path):
    ranking = made(n=3)
    best, second, third = ranking.rows
    broken = [replace(best, low=value), replace(second, accuracy=value), third]
    spec = figure(Ranking(broken, baseline=value))
    (line,) = spec["data"]
    assert len(line["x"]) == 2, "the row without a score is left out; a band with a gap is no band"
    assert [end is None for end in line["error_y"]["array"]] == [False, False]
    assert [end is None for end in line["error_y"]["arrayminus"]] == [True, False], "the end that is known is drawn"
    assert "shapes" not in spec["layout"]
    json.dumps(spec, allow_nan=False)
    page = read(Ranking(broken, shared={"cka": {"labels": [{"source": "a", "layer": "b"}] * 2,
                                                "values": [[1.0, value], [value, 1.0]]}}), tmp_path)  # fmt: skip
    assert page.tables[0][2][4] == ("1e+300" if value == 1e300 else number(value, ".3f"))


def test_bands_are_where_the_intervals_are():
    band, line = figure(made(n=3))["data"]
    assert band["y"] == pytest.approx([0.95, 0.85, 0.75, 0.6, 0.7, 0.8])
    assert band["x"] == line["x"] + line["x"][::-1]


def test_a_single_point_shows_its_interval():
    (line,) = figure(made(n=1))["data"]
    assert line["error_y"]["array"] == pytest.approx([0.05]) and line["error_y"]["arrayminus"] == pytest.approx([0.1])


def test_every_source_has_its_line_and_its_name():
    rows = [row for name in ("one", "two") for row in made(name).rows]
    spec = figure(Ranking(rows, baseline=0.25))
    lines = [trace for trace in spec["data"] if trace["mode"] != "none"]
    assert [line["name"] for line in lines] == ["one", "two"] and len({line["line"]["color"] for line in lines}) == 2
    assert spec["layout"]["annotations"][0]["text"] == "<b>l0 of one</b>"
    assert spec["layout"]["shapes"][0]["y0"] == 0.25 and spec["layout"]["shapes"][0]["label"]["text"] == "chance level"


def test_same_names_of_other_weights_are_two_lines():
    rows = [*made("net").rows, *(replace(row, fingerprint="g") for row in made("net").rows)]
    assert len([trace for trace in figure(Ranking(rows))["data"] if trace["mode"] != "none"]) == 2


def test_a_map_of_many_layers_is_thinned():
    spec = figure(made(n=200), "similarity")
    assert len(spec["data"][0]["z"]) == 67
    assert "one layer in 3" in spec["layout"]["title"]["text"]


def test_a_map_says_which_cell_is_which():
    cka = {"labels": [{"source": "g", "layer": "a"}, {"source": "g", "layer": "b"}], "values": [[1, 0.25], [None, 1]]}
    spec = figure(Ranking(made().rows, shared={"cka": cka}), "similarity")
    (heatmap,) = spec["data"]
    assert heatmap["z"] == [[1, 0.25], [None, 1]] and heatmap["text"][0][1] == "a of g and b of g"
    assert spec["layout"]["xaxis"]["ticktext"] == ["a", "b"]
    assert (heatmap["zmin"], heatmap["zmax"]) == (0, 1)


def test_records_with_nonsense_are_refused(tmp_path):
    """Dataclasses check nothing; a record that was read from a file holds whatever the file held."""
    for wrong in (
        Ranking([made().rows[0], "a row"]),
        Ranking(made().rows, cost={"items": "many"}),
        Ranking(made().rows, shared={"cka": {"labels": [{}, {}], "values": [[1, 1], [1, 1]]}}),
        Ranking(made().rows, shared={"cka": {"labels": [{"source": "a", "layer": "b"}] * 2, "values": [[1] * 3] * 3}}),
        Ranking([replace(made().rows[0], accuracy=10**400)]),
    ):
        with pytest.raises(DataError, match="Record 2 is no Ranking that can be shown"):
            hs.report([made(), wrong], tmp_path / "r.html")
        assert not list(tmp_path.iterdir())


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = hs.report(made("old"), tmp_path / "new folder" / "r.html")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart._base.files.os.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        hs.report(made("new"), path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["r.html"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StoreError, match="Cannot write"):
        hs.report(made(), tmp_path / "file" / "r.html")
    with pytest.raises(StoreError, match="Cannot write"):
        hs.report(made(), tmp_path)


def test_the_same_records_give_the_same_page(tmp_path):
    pages = [hs.report([made(), Result({})], tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_numbers_have_a_dash_where_there_is_none():
    assert is_drawable(0) and is_drawable(-3.5)
    assert not is_drawable(1e13) and not is_drawable(None) and not is_drawable("1")
    assert [number(v, ".2f") for v in (0.126, None, math.nan, "x", 3e9)] == ["0.13", "–", "–", "–", "3e+09"]


@pytest.mark.parametrize("y", [(0.5, 0.5), (0.5, 0.5 + 1e-16), (-1e11, 1e11), (0.0, 1e-300)])
def test_any_range_is_drawn(y):
    rows = [replace(row, accuracy=value) for row, value in zip(made(n=2).rows, y, strict=True)]
    assert figure(Ranking(rows))["data"][-1]["y"] == list(y)
