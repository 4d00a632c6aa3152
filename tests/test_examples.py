"""Every example runs as it stands, from an empty folder, and is short."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SAYS = {
    "digits.py": "should be",
    "own_network.py": "computed 80 rows, then 0",
    "scikit_learn.py": "best head",
    "texts.py": "unwell",
}


def test_all_are_known():
    assert [path.name for path in EXAMPLES] == sorted(SAYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_it_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.name] in capsys.readouterr().out
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
