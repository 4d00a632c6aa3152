"""The parts of the command line: words to values, finding sources, tables, bars, what the machine is."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import save_file

from commands import dark_and_light
from headstart.cli import (
    doctor as doctor,
)
from headstart.cli import (
    finding,
    fit,
    predict,
    run,
    sources,
)
from headstart.cli.listener import ConsoleListener
from headstart.cli.options import LIBRARY, Columns, count, dataset, is_table, load_source, parse_named, parse_pairs
from headstart.cli.output import Page, big, interval, shell_line, short, show, show_json, size_of, table
from headstart.engines.base import ENGINES
from headstart.errors import DataError, HeadstartError, OptionError, SourceError, UnknownName

PLAIN = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of twelve tiny pictures, one dark, one light."""
    return dark_and_light(tmp_path_factory.mktemp("фото 写真"), 12)


@pytest.fixture(scope="module")
def fitted(photos, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fitted") / "light dark.headstart"
    assert run(["fit", str(photos), "-s", "fake:image", "-o", str(path), "-q"]) == 0
    return path


def document(capsys, *words: object, code: int = 0):
    """The JSON document of a command."""
    assert run([*map(str, words), "--json", "-q"]) == code
    return json.loads(capsys.readouterr().out)


def drawn(block, width: int = 100) -> str:
    """A block as it looks on a screen of so many columns."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(block)
    return out.getvalue()


# ---- words → values --------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), PLAIN))
def test_options_read_what_json_writes(options):
    assert parse_pairs([f"{name}={json.dumps(value)}" for name, value in options.items()]) == options


@given(st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True).filter(lambda t: t not in ("true", "false", "none", "null")))
def test_words_stay_words(word):
    assert parse_pairs([f"pad_type={word}"]) == {"pad_type": word}


def test_a_value_may_hold_an_equals_sign():
    assert parse_pairs(["a=b=c", "path= x "]) == {"a": "b=c", "path": "x"}


@pytest.mark.parametrize("word", ["no-value", "=x", " = x", ""])
def test_an_option_without_key_or_value_is_refused(word):
    with pytest.raises(OptionError, match="KEY=VALUE"):
        parse_pairs([word])


def test_a_head_or_policy_with_fields():
    assert parse_named("head", "ridge") == "ridge"
    assert parse_named("head", "ridge:alpha=2.0").alpha == 2.0
    policy = parse_named("policy", "full:epochs=5,lr=3e-4")
    assert (policy.training.epochs, policy.training.lr) == (5, 3e-4)


@pytest.mark.parametrize("text", ["rigde:alpha=1", "ridge:alhpa=1"])
def test_a_misspelt_head_or_field_is_named(text):
    with pytest.raises(OptionError, match="not one of"):
        parse_named("head", text)


def test_options_of_a_source():
    assert load_source("fake:image", None, ["size=20"]).input.size == (20, 20)
    with pytest.raises(OptionError, match=r"did you mean 'size'\?.*\n?"):
        load_source("fake:image", None, ["sise=20"])
    with pytest.raises(OptionError, match="weights"):
        load_source("fake:image", Path("w.safetensors"), None)
    with pytest.raises(UnknownName, match="fake"):
        load_source("fakes:image", None, ["size=20"])


def test_a_folder_is_a_source_without_its_family(fitted):
    source = load_source(str(fitted / "sources" / "0"), None, None)
    assert source.address.startswith("saved:")
    with pytest.raises(SourceError, match=r"saved predictor, not a source.*sources"):
        load_source(str(fitted), None, None)


def test_data_is_a_folder_or_a_table(photos, tmp_path):
    assert len(dataset(str(photos), Columns())) == 24
    lines = "".join(f"a text number {i},{'ab'[i % 2]},{'train' if i < 8 else 'test'}\n" for i in range(12))
    (tmp_path / "t.csv").write_text("text,label,part\n" + lines, encoding="utf-8")
    data = dataset(str(tmp_path / "t.csv"), Columns("text", ["label"], split="part"))
    assert data.modality == "text" and data.classes == ("a", "b") and len(data.part("test")) == 4
    with pytest.raises(OptionError, match=r"--input, --split is for tables"):
        dataset(str(photos), Columns(input="text", split="part"))


def test_a_folder_may_be_called_like_a_table(tmp_path):
    (tmp_path / "photos.csv").mkdir()
    assert not is_table(str(tmp_path / "photos.csv"))
    assert is_table("calls.CSV") and is_table("calls.ndjson") and is_table("calls.pq") and not is_table("calls.txt")


@given(st.integers(0, 10**7))
def test_counts_agree_with_their_number(n):
    assert count(n, "image").endswith("image" if n == 1 else "images")
    assert int(count(n, "class").split()[0].replace(",", "")) == n


# ---- finding sources -------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> Path:
    folder = tmp_path / "модель"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    save_file({"x": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def test_folders_are_searched_two_levels_deep(weights, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "net.onnx").write_bytes(b"1234")
    (tmp_path / "a" / "b" / "c").mkdir()
    (tmp_path / "a" / "b" / "c" / "deep.onnx").write_bytes(b"1")
    (tmp_path / "a" / "old.h5").write_bytes(b"12")
    result = {item.address: item for item in finding.in_folder(tmp_path)}
    assert set(result) == {f"timm:{weights}", f"onnx:{tmp_path / 'a/b/net.onnx'}", f"keras:{tmp_path / 'a/old.h5'}"}
    assert result[f"timm:{weights}"].what == "resnet18" and result[f"timm:{weights}"].bytes > 0


def test_a_transformers_folder_and_a_sound_network_are_told_apart(weights):
    (weights / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert finding.in_folder(weights)[0].address == f"hf:{weights}"
    (weights / "config.json").write_text(json.dumps({"architecture": "mobilenet", "audio_frontend": {"rate": 1}}))
    assert finding.in_folder(weights)[0].modality == "audio"


def test_what_files_say_about_a_network(weights):
    config = {"architecture": "x", "pretrained_cfg": {"input_size": [3, 96, 64], "license": "apache-2.0"}}
    (weights / "config.json").write_text(json.dumps(config))
    (item,) = finding.in_folder(weights)
    assert (item.modality, item.input, item.licence) == ("image", "3 × 96 × 64", "apache-2.0")
    (weights / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    (weights / "README.md").write_text("---\ntags: [a]\nlicense: mit\n---\n# HuBERT\n")
    (item,) = finding.in_folder(weights)
    assert (item.modality, item.input, item.licence) == ("audio", "", "mit")


@pytest.mark.parametrize("content", ["{", "[1]", "null", '"text"', '{"architecture": 3}'])
def test_a_damaged_config_is_no_crash(weights, content):
    (weights / "config.json").write_text(content)
    assert all(item.address.startswith("hf:") for item in finding.in_folder(weights))


def test_a_predictors_source_is_listed_once_and_loads(fitted):
    (item,) = finding.in_folder(fitted)
    assert item.address == f"saved:{fitted / 'sources' / '0'}"
    assert load_source(item.address, None, None).modality == "image"


def test_a_file_is_a_source_and_a_missing_folder_an_error(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"1")
    assert finding.in_folder(tmp_path / "net.keras")[0].address.startswith("keras:")
    with pytest.raises(DataError, match="no folder"):
        finding.in_folder(tmp_path / "missing")


def test_what_the_hub_fetched_before_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("models--timm--resnet18.a1", "models--owner--encoder", "models--bare", "models--timm--empty"):
        folder = tmp_path / name / "snapshots" / "abc"
        folder.mkdir(parents=True)
        if "empty" not in name:
            save_file({"x": np.zeros(2, np.float32)}, folder / "model.safetensors")
    assert [item.address for item in finding.in_hub_cache()] == ["hf:bare", "hf:owner/encoder", "timm:resnet18.a1"]
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "missing"))
    assert finding.in_hub_cache() == []


def test_packages_that_carry_a_model_are_found(monkeypatch, tmp_path):
    record = "p/model/config.json,sha256=x,12\np/model/model.safetensors,sha256=y,9000\n"
    (tmp_path / "p" / "model").mkdir(parents=True)
    config = {"model_type": "bert", "max_position_embeddings": 512}
    (tmp_path / "p" / "model" / "config.json").write_text(json.dumps(config))

    def package(text, **facts):
        messages = Message()
        for name, value in facts.items():
            messages[name] = value
        return SimpleNamespace(read_text=lambda _: text, metadata=messages, locate_file=lambda name: tmp_path / name)

    packages = [package(record, Name="with-model", License="MIT"), package(None, Name="bare")]
    packages.append(package("p/config.json,,\n", Name="other"))
    monkeypatch.setattr(finding, "distributions", lambda: packages)
    result = finding.FoundSource("hf:with-model", "an installed package", 9000, "text", "512 tokens", "MIT")
    assert finding.in_packages() == [result]


def test_every_family_is_described():
    assert set(LIBRARY["SOURCES"]) <= set(sources._ABOUT)


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch, capsys):
    monkeypatch.setattr(sources, "is_installed", lambda name: name != "timm")
    messages = document(capsys, "sources")
    timm = next(item for item in messages["families"] if item["family"] == "timm")
    assert timm["ready"] is False and timm["install"] == 'pip install "headstart[image]"'
    monkeypatch.setenv("COLUMNS", "120")
    run(["sources"])
    assert 'pip install "headstart[image]"' in capsys.readouterr().out


def test_sources_in_a_folder_end_with_a_command_that_works(weights, capsys):
    assert run(["sources", str(weights.parent)]) == 0
    assert f"timm:{weights}" in capsys.readouterr().out.replace("\n", "")
    assert document(capsys, "sources", weights.parent)["found"][0]["what"] == "resnet18"


# ---- answers ---------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1e15))
def test_big_numbers_are_short(number):
    assert len(big(number)) <= 7
    assert size_of(number).endswith("B")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_suggested_command_is_what_was_meant(words):
    import shlex

    assert shlex.split(shell_line(*words))[1:] == words


def test_paths_are_short_where_they_lie_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "a" / "b") == os.path.join("a", "b")
    assert short(tmp_path.parent) == str(tmp_path.parent)


def test_intervals():
    assert interval(0.5, 0.75) == "0.500 – 0.750"
    assert interval(None, 0.5) == interval(0.5, None) == ""


@pytest.mark.parametrize("width", [60, 100])
def test_names_to_be_copied_are_whole(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "timm:" + "x" * (width - 12)
    text = drawn(table(["source", "what"], [[name, "a long description that has to go somewhere else"]]), width)
    assert name in text
    longer = "timm:" + "y" * (2 * width)
    folded = drawn(table(["source", "what"], [[longer, "a description"]]), width)
    assert folded.count("y") == 2 * width


def test_nothing_is_too_wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [["layer" * 3, 0.5, "word " * 30] for _ in range(3)]
    assert all(len(line) <= 60 for line in drawn(table(["a", "b", "c"], rows, align="lrl"), 60).splitlines())


def test_a_page_ends_with_what_to_do_next(capsys):
    show(Page({}, ["said"], ["headstart first", "headstart second"]))
    assert capsys.readouterr().out.splitlines() == ["said", "", "Next  headstart first", "      headstart second"]


def test_json_has_no_nan_and_keeps_unicode(capsys):
    show_json({"a": float("nan"), "b": np.float32(0.5), "c": ("写", Path("x"))})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": None, "b": 0.5, "c": ["写", "x"]} and "写" in text


# ---- bars and notes --------------------------------------------------------------------------------------------------


def listener(*, terminal: bool, quiet: bool = False):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80, color_system=None, legacy_windows=False)
    return ConsoleListener(console, quiet=quiet), out


def test_bars_on_a_terminal_go_away_when_done():
    heard, out = listener(terminal=True)
    heard.start("photos", 10)
    heard.start("more", 5)
    heard.advance("photos", 4)
    assert heard._bars is not None
    heard.finish("photos")
    assert heard._bars is not None
    heard.finish("more")
    assert heard._bars is None
    assert "photos" in out.getvalue()


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (True, True)])
def test_no_bars_elsewhere(terminal, quiet):
    heard, out = listener(terminal=terminal, quiet=quiet)
    heard.start("photos", 10)
    heard.advance("photos", 10)
    heard.finish("photos")
    assert heard._bars is None and out.getvalue() == ""


def test_long_work_is_a_line_without_a_terminal(monkeypatch):
    heard, out = listener(terminal=False)
    clock = iter([100.0, 175.0])
    monkeypatch.setattr("headstart.cli.listener.time.monotonic", lambda: next(clock))
    heard.start("photos", 10)
    heard.advance("photos", 8)
    heard.finish("photos")
    assert out.getvalue() == "photos: 8 of 10 in 1 min 15 s\n"


def test_unknown_work_is_ignored():
    heard, out = listener(terminal=True)
    heard.advance("never begun", 1)
    heard.finish("never begun")
    heard.close()
    assert out.getvalue() == ""


def test_names_of_files_are_not_obeyed():
    heard, out = listener(terminal=False)
    heard.note("a\x1b[2Jb [red]c[/red]")
    assert out.getvalue() == "a·[2Jb [red]c[/red]\n"


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_BASE", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "torchvision_state", lambda: {"state": "repaired", "problem": "a mismatch"})
    monkeypatch.setattr(doctor, "_writable", lambda _: False)
    messages = document(capsys, "doctor")
    assert messages["ok"] is False and len(messages["problems"]) == 3
    run(["doctor"])
    text = capsys.readouterr().out
    assert "pip install no-such-package" in text and "a mismatch" in text and "HEADSTART_CACHE" in text


def test_nothing_wrong_is_said_too(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_problems", lambda _: [])
    run(["doctor"])
    assert "Nothing is wrong." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "state"), [("native", "native"), ("repaired", "repaired"), (RuntimeError("no kernels\nx"), "broken")]
)
def test_torch_and_torchvision(answer, state, monkeypatch):
    def repair():
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(doctor, "LIBRARY", {"repair_torchvision": repair})
    monkeypatch.setattr(doctor, "is_installed", lambda _: True)
    result = doctor.torchvision_state()
    assert result["state"] == state
    assert ("problem" in result) == (state != "native")
    assert "--force-reinstall torch torchvision" in result.get("problem", "--force-reinstall torch torchvision")


def test_a_torch_that_does_not_load_is_a_problem_not_a_crash(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "does not load" in doctor.torch_state()["problem"]


def test_the_cache_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "new" / "cache"))
    assert doctor.cache()["bytes"] == 0 and doctor.cache()["writable"]
    (tmp_path / "new" / "cache" / "choices").mkdir(parents=True)
    (tmp_path / "new" / "cache" / "choices" / "a.json").write_bytes(b"{}")
    assert (doctor.cache()["bytes"], doctor.cache()["files"], doctor.cache()["choices"]) == (2, 1, 1)


def test_missing_extras_have_their_pip_line(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "timm" else "1.0")
    image = doctor.packages()["extras"]["image"]
    assert image["missing"] == ["timm"] and image["install"] == 'pip install "headstart[image]"'


# ---- fit, predict, evaluate, extract ---------------------------------------------------------------------------------


def test_fit_tells_what_it_chose_and_measures_when_asked(photos, tmp_path, capsys):
    words = (
        "fit",
        photos,
        "-s",
        "fake:image",
        "-o",
        tmp_path / "p",
        "--test-size",
        "0.25",
        "--head",
        "ridge:alpha=1.0",
    )
    messages = document(capsys, *words)
    assert messages["head"]["name"] == "ridge" and messages["head"]["alpha"] == 1.0
    assert messages["items"] == 18 and messages["test"]["metrics"]["accuracy"]["value"] == 1.0
    run([*map(str, words), "-q"])
    text = capsys.readouterr().out
    assert "ridge" in text and "Measured on 6 items" in text and "What was tried" in text
    assert "headstart predict" in text.splitlines()[-1]


def test_parts_of_a_folder_are_respected(photos, tmp_path, capsys):
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "data" / part)
    messages = document(capsys, "fit", tmp_path / "data", "-s", "fake:image", "-o", tmp_path / "p")
    assert messages["items"] == 24 and messages["test"]["cost"]["items"] == 24
    assert any("copies of training items" in text for text in messages["test"]["notes"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--test-size", "0.2", "--test", "x"], "not both"),
        (["--weights", "a", "--weights", "b"], "one --weights per --source"),
    ],
)
def test_contradictions_are_refused(photos, tmp_path, words, says, capsys):
    messages = document(capsys, "fit", photos, "-s", "fake:image", "-o", tmp_path / "p", *words, code=1)
    assert says in messages["error"]["message"]


@pytest.mark.parametrize("command", ["fit", "pretrain"])
def test_nothing_of_yours_is_overwritten_and_that_is_said_first(command, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    words = ["fit", "no-data", "-s", "fake:image"] if command == "fit" else ["pretrain", "cnn", "no-data"]
    messages = document(capsys, *words, "-o", tmp_path / "mine", code=1)
    assert "not overwritten" in messages["error"]["message"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_predictions_as_a_table_a_document_and_a_file(fitted, photos, tmp_path, capsys):
    out = tmp_path / "out.csv"
    words = ("predict", fitted, photos / "dark", photos / "light" / "3.png", "-o", out)
    messages = document(capsys, *words)
    assert [row["label"] for row in messages["predictions"]] == ["dark"] * 12 + ["light"]
    assert all(0.5 <= row["probability"] <= 1 for row in messages["predictions"])
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-9 for row in messages["predictions"])
    lines = out.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "item,label,probability,p(dark),p(light)" and len(lines) == 14
    run([*map(str, words), "--proba", "-q"])
    assert "dark" in capsys.readouterr().out


def test_a_table_of_paths(fitted, photos, capsys):
    (photos.parent / "list.csv").write_text(
        f"file,n\n{photos.name}/dark/0.png,1\n{photos.name}/light/0.png,2\n", "utf-8"
    )
    messages = document(capsys, "predict", fitted, photos.parent / "list.csv", "--input", "file")
    assert [row["label"] for row in messages["predictions"]] == ["dark", "light"]


def test_an_unreadable_item_among_others_is_named_with_its_reason(fitted, photos, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    words = ("predict", fitted, photos / "dark" / "0.png", tmp_path / "bad.png", tmp_path / "gone.png")
    messages = document(capsys, *words)
    good, bad, gone = messages["predictions"]
    assert good["label"] == "dark" and bad["label"] is None and gone["label"] is None
    assert "not an image" in bad["error"] and "no such file" in gone["error"]
    run([*map(str, words), "-q"])
    assert "2 of 3 items could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("item", "says"), [("nope.jpg", "no file nope.jpg"), ("a\x00b", "no file"), ("x" * 5000, "no file")]
)
def test_items_that_are_not_there(fitted, item, says, capsys):
    assert says in document(capsys, "predict", fitted, item, code=1)["error"]["message"]


def test_input_needs_a_table(fitted, capsys):
    messages = document(capsys, "predict", fitted, "a.png", "b.png", "--input", "file", code=1)
    assert "--input goes with one table" in messages["error"]["message"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("latin.csv", "text,label\nna\xefve,a\n".encode("latin-1"), "UTF-8"),
        ("empty.csv", b"", "empty.csv"),
        ("headers.csv", b"text,label\n", "headers.csv"),
        ("ragged.csv", b"text,label\na,b,c\n", "ragged.csv"),
    ],
)
def test_broken_tables_are_one_sentence(name, content, says, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    words = ("fit", tmp_path / name, "--input", "text", "--target", "label", "-s", "fake:image", "-o", tmp_path / "p")
    assert says in document(capsys, *words, code=1)["error"]["message"]


def test_an_empty_folder_is_one_sentence(tmp_path, capsys):
    messages = document(capsys, "extract", tmp_path, "-s", "fake:image", code=1)
    assert messages["error"]["type"] == "DataError" and "empty" in messages["error"]["message"]


def test_features_as_a_numpy_file(photos, tmp_path, capsys):
    out = tmp_path / "features.npz"
    messages = document(
        capsys, "extract", photos, "-s", "fake:image", "-l", "5", "-l", "7", "-o", out, "--store", tmp_path
    )
    assert [item["name"] for item in messages["layers"]] == ["5", "7"] and messages["store"] == str(tmp_path)
    with np.load(out, allow_pickle=False) as arrays:
        assert set(arrays) == {"5", "7", "items", "target:class"}
        assert arrays["7"].shape == (24, 24) and arrays["items"][0].endswith("0.png")
        assert list(np.unique(arrays["target:class"])) == ["dark", "light"]
    assert "npz" in document(capsys, "extract", photos, "-s", "fake:image", "-o", "x.csv", code=1)["error"]["message"]


def test_evaluate_takes_a_part(fitted, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "test")
    shutil.copytree(photos / "dark", tmp_path / "train" / "dark")
    assert document(capsys, "evaluate", fitted, tmp_path)["cost"]["items"] == 24
    assert document(capsys, "evaluate", fitted, tmp_path, "--part", "train")["cost"]["items"] == 12
    assert "part" in document(capsys, "evaluate", fitted, tmp_path, "--part", "nope", code=1)["error"]["message"]


# ---- rows of predictions, whatever the task --------------------------------------------------------------------------


def test_rows_of_every_task_have_a_cell():
    item = {"item": "x", "label": "a", "probability": 0.75, "probabilities": {"a": 0.75, "b": 0.25}}
    assert (predict._label(item), predict._probability_text(item, False)) == ("a", "0.750")
    assert predict._probability_text(item, True) == "a 0.75  b 0.25"
    assert predict._label({"label": ["a", "b"]}) == "a, b" and predict._label({"label": []}) == "none"
    assert predict._label({"label": 3.14159}) == "3.142" and predict._label({"label": None}) is None
    assert predict._probability_text({"label": 3.0}, True) is None


def test_several_targets_are_flattened_for_a_file():
    row = {"item": "x", "targets": {"digit": {"label": 3, "probability": 0.5}, "tags": {"label": ["a", "b"]}}}
    assert predict._flat(row) == {"item": "x", "digit.label": 3, "digit.probability": 0.5, "tags.label": "a|b"}
    text = drawn(predict._prediction_table([row], ["digit", "tags"], proba=False))
    assert "digit" in text and "a, b" in text


def test_a_choice_without_a_score_is_shown():
    picked = {
        "layers": "last",
        "metric": "accuracy",
        "table": [{"layers": "last", "head": "ridge", "score": None, "low": None, "high": None}],
    }
    text = drawn(fit._tried(picked, "digit"))
    assert "digit: what was tried" in text and "→" in text and "–" in text


def test_a_choice_far_down_the_table_is_still_shown():
    rows = [{"layers": f"l{i}", "head": "lda", "score": 0.5, "low": 0.4, "high": 0.6} for i in range(30)]
    text = drawn(fit._tried({"layers": "l20", "table": rows}, ""))
    assert "l20" in text and "l0 " in text and "l8" not in text and "the first 8 of 30" in text


def test_errors_of_the_library_are_errors_of_ours():
    assert issubclass(OptionError, HeadstartError)
    with pytest.raises(HeadstartError):
        LIBRARY["not there"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, None),
        ({"torch": "2.15", "onnxruntime": "1.32"}, "torch, onnxruntime"),
        ({"torch": "2.15", "openvino": None}, "torch (not installed: openvino)"),
    ],
)
def test_the_doctor_names_engines(found, said):
    assert doctor._engines(found) == said


def test_engines_are_those_of_the_family(capsys):
    assert set(doctor.engines()) == set(ENGINES)
    assert document(capsys, "doctor")["engines"]["torch"]
