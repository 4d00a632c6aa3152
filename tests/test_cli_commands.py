"""The command line as a user runs it: one JSON document with --json, exit codes, clear sentences, a light --help."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from commands import dark_and_light, in_process, on_its_own
from headstart._base.typing import TASKS
from headstart.cli.app import _ORDER
from headstart.engines.base import ENGINES, PRECISIONS
from headstart.heads import HEADS
from headstart.imbalance import BALANCES
from headstart.policies.base import POLICIES
from headstart.pretraining.base import ARCHITECTURES, OBJECTIVES
from headstart.speech_heads import CTC

SOURCE = "fake:image"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of tiny pictures that differ in brightness, in a folder with a blank and an umlaut in its name."""
    return dark_and_light(tmp_path_factory.mktemp("cli") / "meine Fötos", 12, side=24)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all commands of this file."""
    return tmp_path_factory.mktemp("cli-cache")


@pytest.fixture(scope="module")
def run(cache):
    """headstart WORDS… → CompletedProcess, in this process."""
    with in_process(cache) as call:
        yield call


@pytest.fixture(scope="module")
def shell(cache):
    """The same in a process of its own, where that is what is tested: the streams, the exit, what is loaded."""
    return partial(on_its_own, cache)


@pytest.fixture(scope="module")
def predictor(run, photos, tmp_path_factory):
    """A predictor made on the command line."""
    path = tmp_path_factory.mktemp("cli-out") / "light.headstart"
    done = run("fit", photos, "--source", SOURCE, "-o", path, "--json")
    messages = json.loads(done.stdout)
    assert path.is_dir(), messages
    return path


def test_help_names_the_commands_and_loads_nothing_heavy(run):
    text = run("--help").stdout
    assert all(command in text for command in _ORDER)
    code = (
        "import sys; sys.argv = ['headstart', '--help']\n"
        "from headstart.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "bad = {'torch', 'timm', 'sklearn', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_lists_every_name_that_an_option_takes(run):
    fit, pretrain = run("fit", "--help").stdout, run("pretrain", "--help").stdout
    for names in (POLICIES, HEADS, CTC, ENGINES, PRECISIONS, BALANCES.names, TASKS):
        assert all(re.search(rf"\b{name}\b", fit) for name in names), names
    assert all(name in pretrain for name in (*OBJECTIVES, *ARCHITECTURES))
    assert all(name in run("prove", "--help").stdout for name in POLICIES)


@pytest.mark.parametrize("words", [("doctor",), ("sources",), ("layers", SOURCE)], ids=lambda w: w[0])
def test_one_json_document_and_nothing_else(shell, words):
    assert isinstance(json.loads(shell(*words, "--json").stdout), dict)


def test_tables_for_people(run):
    assert "conv2d" in run("layers", SOURCE, "--all").stdout
    assert "torch" in run("doctor").stdout
    assert "timm" in run("sources").stdout


def test_completion_is_offered(run, shell):
    assert "--install-completion" in run("--help").stdout
    assert "headstart" in shell("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout


def test_version(run):
    assert run("--version").stdout.strip().endswith("0.1.0")


def test_extract_computes_once(run, photos, tmp_path):
    words = ("extract", photos, "--source", SOURCE, "--layers", "5", "--store", tmp_path / "bank", "--json")
    first, second = (json.loads(run(*words).stdout) for _ in range(2))
    assert first["computed"] == 24
    assert second["computed"] == 0


def test_fit_evaluate_predict(run, photos, predictor):
    result = json.loads(run("evaluate", predictor, photos, "--json").stdout)
    assert "accuracy" in json.dumps(result)
    messages = json.loads(run("predict", predictor, photos / "light" / "0.png", "--json").stdout)
    assert "light" in json.dumps(messages["predictions"])
    text = run("predict", predictor, photos / "dark").stdout
    assert text.count("dark") >= 12


def test_broken_items_are_named(run, predictor, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    good = tmp_path / "good.png"
    Image.fromarray(np.full((24, 24, 3), 200, np.uint8)).save(good)
    done = run("predict", predictor, broken, good)
    assert "broken.png" in done.stdout + done.stderr
    assert "light" in done.stdout


def test_export_leaves_one_file(run, predictor, tmp_path):
    pytest.importorskip("onnxscript")
    messages = json.loads(run("export", predictor, "-o", tmp_path / "light.onnx", "--json").stdout)
    assert messages["bytes"] == (tmp_path / "light.onnx").stat().st_size
    assert sorted(messages["targets"][0]["classes"]) == ["dark", "light"]


def test_forget_takes_items_out(run, photos, tmp_path):
    old, new, subset = (
        tmp_path / "old.headstart",
        tmp_path / "new.headstart",
        shutil.copytree(photos, tmp_path / "some"),
    )
    run("fit", photos, "--source", SOURCE, "-o", old, "--exact", "--head", "lda", "--layers", "5")
    words = ("forget", old, subset / "dark" / "0.png", subset / "light" / "3.png", "-o", new)
    messages = json.loads(run(*words, "--json").stdout)
    assert (messages["items"], messages["left"], messages["output"]) == (2, 22, str(new))
    assert "temperature" in run(*words).stdout
    assert json.loads(run("forget", new, subset / "dark" / "1.png", "-o", new, "--json").stdout)["left"] == 21
    assert "forgotten already" in run("forget", new, subset / "dark" / "1.png", "-o", new, code=1).stderr
    (subset / "dark" / "2.png").write_bytes(b"")
    assert "none that this predictor" in run("forget", new, subset / "dark" / "2.png", "-o", new, code=1).stderr
    gone = ("forget", new, subset / "dark" / "3.png", subset / "no.png", "-o", new)
    assert "before deleting" in run(*gone, code=1).stderr
    assert "No item of 'dark'" in run("forget", old, photos / "dark", "-o", new, code=1).stderr
    assert "no saved predictor" in run("forget", old, subset / "dark" / "0.png", "-o", photos, code=1).stderr


def test_a_predictor_that_kept_nothing_says_so(run, photos, predictor, tmp_path):
    words = ("forget", predictor, photos / "dark" / "0.png", "-o", tmp_path / "new")
    assert "exact=True" in run(*words, code=1).stderr


def test_pretrain_leaves_a_source(run, photos, tmp_path):
    run("pretrain", "cnn", photos, "-o", tmp_path / "source", "--epochs", "1", "--json")
    assert isinstance(json.loads(run("layers", f"saved:{tmp_path / 'source'}", "--json").stdout), dict)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("layers", "timn:resnet18"), "timm"),
        (("layers", "no-colon"), "FAMILY:NAME"),
        (("extract", "/no/such/folder", "--source", SOURCE), "/no/such/folder"),
        (("evaluate", "/no/such/predictor", "/no/such/folder"), "/no/such"),
    ],
    ids=["family", "address", "folder", "predictor"],
)
def test_errors_are_one_sentence_and_exit_1(run, words, says):
    done = run(*words, code=1)
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    messages = json.loads(run(*words, "--json", code=1).stdout)
    assert says in messages["error"]["message"] and messages["error"]["type"].isidentifier()


def test_wrong_usage_exits_2(run, shell):
    assert shell("extract", code=2).stdout == ""
    assert "No such option" in run("doctor", "--no-such-option", code=2).stderr


def test_a_damaged_predictor_is_refused(run, predictor, photos, tmp_path):
    copy = tmp_path / "copy.headstart"
    shutil.copytree(predictor, copy)
    record = copy / "predictor.json"
    record.write_text(record.read_text(encoding="utf-8").replace("light", "night"), encoding="utf-8")
    messages = json.loads(run("predict", copy, photos / "light" / "0.png", "--json", code=1).stdout)
    assert messages["error"]["type"] == "StoreError"


class TestProve:
    WORDS = ("--source", SOURCE, "--shots", "2,4", "--repeats", "2", "--budget", "90", "--policy", "frozen")

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        """Time for everybody on a busy machine, too, and few steps."""
        monkeypatch.setattr("headstart.proof.budget._MOST_STEPS", 4)

    def test_one_json_document_and_a_file(self, run, photos, tmp_path):
        done = run("prove", photos, *self.WORDS, "-o", tmp_path / "proof.json", "--json")
        messages = json.loads(done.stdout)
        assert messages["kind"] == "Proof" and messages["helps"] in (True, False, None)
        assert {row["name"] for row in messages["rows"]} == {"raw", "random", "scratch", "frozen"}
        assert json.loads((tmp_path / "proof.json").read_text(encoding="utf-8")) == messages
        assert "Plan: 2 repeats with 2, 4 labels per class" in done.stderr

    def test_for_people(self, run, photos):
        text = run("prove", photos, *self.WORDS).stdout
        for words in ("transfer: frozen features", "labels per class", "→ gain over", "Next  headstart "):
            assert words in text
        assert max(len(line) for line in text.splitlines() if not line.startswith("Next")) <= 100

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("--shots", "few"), 1, "whole numbers, as 4,16,64"),
            (("--repeats", "1"), 2, "--repeats"),
            (("--shots", "99"), 1, "fewer than the 99 labels per class"),
            (("--policy", "frosen"), 1, "frozen"),
        ],
    )
    def test_what_is_refused(self, run, photos, words, code, said):
        assert said in run("prove", photos, "--source", SOURCE, *words, code=code).stderr
