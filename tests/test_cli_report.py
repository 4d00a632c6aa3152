"""``headstart report`` as a user runs it: what other commands wrote becomes one page; what is broken is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from headstart import Metric
from headstart.result import Confusion, Proof, ProofRow, Ranking, Result, Row
from test_cli_commands import SOURCE, photos  # noqa: F401  (a fixture)
from test_cli_rank import run  # noqa: F401  (a fixture)
from test_report import EVIL, Reader

RANKING = Ranking([Row("net", "f", "l0", depth=0.5, accuracy=0.8, low=0.7, high=0.9)], verdict="Use l0.")
PROOF = Proof([ProofRow("raw", 4, accuracy=0.5, low=0.4, high=0.6)], verdict="Nobody knows.")
RESULT = Result(
    {"accuracy": Metric(0.9, 0.8, 0.95)},
    task="classification",
    confusion=Confusion(("a", "b"), np.eye(2)),
    row_scores={"accuracy": np.ones(3)},
)


def saved(path, record, **more):
    """A record as a command writes it."""
    path.write_text(json.dumps({**more, **record.to_dict()}), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    """One file of each kind, with what rank --json and evaluate --json add."""
    return [
        saved(tmp_path / "ranking.json", RANKING, validation={"rows": [], "tau": 1.0}),
        saved(tmp_path / "proof.json", PROOF),
        saved(tmp_path / "result.json", RESULT, predictor="my.headstart"),
    ]


def page_of(path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_rank_writes_what_report_shows(run, photos, tmp_path):  # noqa: F811
    record, target = tmp_path / "ranking.json", tmp_path / "report.html"
    run("rank", photos, "--source", SOURCE, "-o", record, "--quiet")
    ranking = json.loads(record.read_text(encoding="utf-8"))
    run("report", record, "-o", target)
    page = page_of(target)
    assert ranking["verdict"] in page.words
    rows = page.tables[0][1:]
    assert [row[2] for row in rows] == [row["layer"] for row in ranking["rows"]][: len(rows)]
    assert rows[0][4] == f"{ranking['rows'][0]['accuracy']:.3f}"
    assert len(page.figures) == 2, "scores by depth, and how similar layers are"


def test_proof_and_evaluation_on_one_page(run, photos, tmp_path, monkeypatch):  # noqa: F811
    words = ("--source", SOURCE, "--shots", "2", "--repeats", "2", "--budget", "90", "--policy", "frozen")
    monkeypatch.setattr("headstart.proof.budget._MOST_STEPS", 4)
    run("prove", photos, *words, "-o", tmp_path / "proof.json", "--quiet")
    run("fit", photos, "--source", SOURCE, "-o", tmp_path / "p.headstart", "--quiet")
    messages = run("evaluate", tmp_path / "p.headstart", photos, "--json").stdout
    (tmp_path / "result.json").write_text(messages, encoding="utf-8")
    target = tmp_path / "report.html"
    run("report", tmp_path / "proof.json", tmp_path / "result.json", "-o", target)
    page = page_of(target)
    proof = json.loads((tmp_path / "proof.json").read_text(encoding="utf-8"))
    assert proof["verdict"] in page.words
    assert page.tags.count("section") == 2 and len(page.figures) == 1
    metrics = next(table for table in page.tables if table[0] == ["metric", "value, 95 %"])
    value = json.loads(messages)["metrics"]["accuracy"]["value"]
    assert metrics[1][0] == "accuracy" and metrics[1][1].startswith(f"{value:.3f} [")


def test_one_json_document(run, files, tmp_path):  # noqa: F811
    target = tmp_path / "report.html"
    document = json.loads(run("report", *files, "-o", target, "--json").stdout)
    assert document["output"] == str(target) and document["bytes"] == target.stat().st_size
    assert [item["kind"] for item in document["records"]] == ["Ranking", "Proof", "Result"]
    assert [item["file"] for item in document["records"]] == [str(file) for file in files]


def test_the_order_is_that_of_the_words(run, files, tmp_path):  # noqa: F811
    target = tmp_path / "report.html"
    run("report", files[1], files[0], "-o", target)
    text = target.read_text(encoding="utf-8")
    assert text.index("Nobody knows.") < text.index("Use l0.")


def test_for_people(run, files, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    messages = run("report", *(file.name for file in files), "-o", "report.html")
    assert "report.html" in messages.stdout and "ranking.json" in messages.stdout and "Proof" in messages.stdout
    assert (tmp_path / "report.html").is_file()


def test_hostile_names_reach_no_tag(run, tmp_path):  # noqa: F811
    evil = Ranking([Row(EVIL, "f", EVIL, depth=0.5, accuracy=0.8)], verdict=EVIL, notes=[EVIL])
    target = tmp_path / "report.html"
    run("report", saved(tmp_path / "evil.json", evil), "-o", target)
    page = page_of(target)
    assert page.tags.count("script") == 2 and EVIL in page.words, "plotly and the call that draws, no more"


BROKEN = {
    "empty": ("", "is damaged"),
    "half": ('{"kind": "Rank', "is damaged"),
    "bytes": (b"\xff\xfe\x00\x01", "is damaged"),
    "deep": ("[" * 100_000, "is damaged"),
    "list": ("[]", "not a saved record"),
    "number": ("3", "not a saved record"),
    "other": ('{"kind": "Predictor"}', "known kinds are Result, Ranking, Proof"),
    "unhashable": ('{"kind": ["Ranking"]}', "is no ['Ranking'] that can be read"),
    "error": ('{"error": {"type": "DataError", "message": "m"}}', "not a saved record"),
    "no rows": ('{"kind": "Ranking"}', "is no Ranking that can be read"),
    "null rows": ('{"kind": "Proof", "rows": null}', "is no Proof that can be read"),
    "odd rows": ('{"kind": "Ranking", "rows": [{"shape": 3}]}', "is no Ranking that can be read"),
    "other fields": ('{"kind": "Result", "metrics": {}, "evil": 1}', "evil"),
    "odd metric": ('{"kind": "Result", "metrics": {"accuracy": "high"}}', "is no Result that can be read"),
    "text for a count": (
        '{"kind": "Ranking", "rows": [], "cost": {"items": "many"}}',
        "Record 1 is no Ranking that can be shown",
    ),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_what_is_broken_is_named(run, case, tmp_path):  # noqa: F811
    content, says = BROKEN[case]
    path, target = tmp_path / "broken.json", tmp_path / "report.html"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    messages = json.loads(run("report", path, "-o", target, "--json", code=1).stdout)
    assert says in messages["error"]["message"] and messages["error"]["type"] in ("DataError", "StoreError")
    assert "broken.json" in messages["error"]["message"] or "Record 1" in messages["error"]["message"]
    assert not target.exists()


def test_a_good_record_beside_a_broken_one_is_not_half_shown(run, files, tmp_path):  # noqa: F811
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    target = tmp_path / "report.html"
    target.write_text("what was there", encoding="utf-8")
    assert "broken.json" in run("report", files[0], tmp_path / "broken.json", "-o", target, code=1).stderr
    assert target.read_text(encoding="utf-8") == "what was there"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("gone.json", "-o", "r.html"), 1, "There is no record at"),
        (("ranking.json", "-o", "."), 1, "is a folder"),
        (("ranking.json", "-o", "ranking.json"), 1, "one of the records"),
        (("ranking.json", "-o", "proof.json/r.html"), 1, "Cannot write"),
        ((".", "-o", "r.html"), 1, "is a folder; report takes the files"),
        (("ranking.json",), 2, "--output"),
        (("-o", "r.html"), 2, "FILE.json"),
    ],
)
def test_what_is_refused(run, files, tmp_path, monkeypatch, words, code, says):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    before = files[0].read_bytes()
    assert says in run("report", *words, code=code).stderr
    assert files[0].read_bytes() == before and not (tmp_path / "r.html").exists()
