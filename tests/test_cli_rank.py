"""``headstart rank`` as a user runs it, inside this process: what it prints where, and its exit codes."""

from __future__ import annotations

import json

import pytest

from commands import in_process
from headstart.result import Ranking, read_record
from test_cli_commands import SOURCE, photos  # noqa: F401  (a fixture)

OTHER = "fake:nothing"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """headstart WORDS… → CompletedProcess, all with one cache."""
    with in_process(tmp_path_factory.getbasetemp() / "rank-cache") as call:
        yield call


def test_the_document_is_the_ranking(run, photos, tmp_path):  # noqa: F811
    path = tmp_path / "ranking.json"
    messages = run("rank", photos, "-s", SOURCE, "-s", OTHER, "--validate", 1, "-o", path, "--json")
    document = json.loads(messages.stdout)
    validation = document.pop("validation")
    result = read_record(document)
    assert isinstance(result, Ranking)
    assert result.transfers and result.best.accuracy > 0.9
    assert result.fused is not None and result.shared["cka"]["values"]
    assert set(validation) == {"rows", "tau", "regret", "metric"}
    assert json.loads(path.read_text(encoding="utf-8")) == document
    assert any(OTHER in note for note in document["notes"])


@pytest.mark.parametrize("columns", [80, 120])
def test_the_page_fits_the_terminal(run, photos, columns, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", str(columns))
    out = run("rank", photos, "--source", SOURCE, "--quiet").stdout
    lines = out.splitlines()
    assert max(map(len, lines[:-2])) <= columns
    for words in ("accuracy", "95 % interval", "cannot be told apart", "Side by side", "shares with the sources"):
        assert words in out
    assert lines[-1].startswith("Next  headstart fit") and SOURCE in lines[-1]
    assert ("MMACs" in out) == (columns == 120)


def test_fine_tuning_is_handed_down(run, photos):  # noqa: F811
    words = ("--layers", "last", "--validate", 1, "--policy", "full:epochs=1", "--json", "--quiet")
    messages = run("rank", photos, "-s", SOURCE, *words)
    ((_, layer, score),) = json.loads(messages.stdout)["validation"]["rows"]
    assert layer and 0 <= score <= 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--source", OTHER), 1, "nothing"),
        ((), 2, "--source"),
        (("--source", SOURCE, "--policy", "full"), 1, "--validate"),
        (("--source", SOURCE, "--validate", 0), 2, "validate"),
        (("--source", SOURCE, "-o", "."), 1, "is a folder"),
        (("--source", SOURCE, "--source", SOURCE, "--weights", "w"), 1, "one --weights per --source"),
    ],
)
def test_what_is_wrong_is_said(run, photos, words, code, said):  # noqa: F811
    messages = run("rank", photos, *words, code=code)
    assert said in messages.stderr and "Traceback" not in messages.stderr
    assert messages.stdout == ""


def test_every_source_gets_its_weights():
    from pathlib import Path

    from headstart.cli.options import sources_of
    from headstart.errors import OptionError

    assert sources_of(["a:b", "c:d"], None) == [("a:b", None), ("c:d", None)]
    files = [Path("one"), Path("two")]
    assert sources_of(["a:b", "c:d"], files) == [("a:b", files[0]), ("c:d", files[1])]
    with pytest.raises(OptionError, match="there are 2 and 1"):
        sources_of(["a:b", "c:d"], files[:1])


def test_all_rows_are_shown_when_asked(run, photos, monkeypatch):  # noqa: F811
    monkeypatch.setattr("headstart.cli.rank._ROWS", 2)
    short = run("rank", photos, "-s", SOURCE, "--quiet").stdout
    assert "The first 2 of" in short and "--all shows them all" in short
    long = run("rank", photos, "-s", SOURCE, "--quiet", "--all").stdout
    assert "--all" not in long and len(long.splitlines()) > len(short.splitlines())


def test_a_head_that_selects_says_what_it_keeps(run, photos, tmp_path):  # noqa: F811
    small = "-s", SOURCE, "--layers", "last", "--head", "group_lasso:refit=2.0"
    ranked = json.loads(run("rank", photos, *small, "--json").stdout)
    assert ranked["rows"]
    result = json.loads(run("fit", photos, *small, "-o", tmp_path / "few.headstart", "--json").stdout)
    assert result["head"]["name"] == "group_lasso" and result["head"]["refit"] == 2.0
    (selection,) = result["selection"].values()
    assert {item["layer"] for item in selection["kept"]} == set(result["layers"])
    assert all(0 < item["kept"] <= item["features"] for item in selection["kept"])
