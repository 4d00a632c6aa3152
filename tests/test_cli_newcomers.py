"""What newcomers run into: wrong files, empty ones, typing errors. Every answer says what was given and what to do."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from commands import dark_and_light, in_process
from headstart import fit, load, load_source, prove
from headstart._base import extras
from headstart.cli import fit as _fit
from headstart.dataset import Dataset
from headstart.errors import DataError, MissingPackage, OptionError, SourceError
from headstart.transfer import task_heads
from test_cli_parts import drawn


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """headstart WORDS… → CompletedProcess, in this process."""
    with in_process(tmp_path_factory.mktemp("cache")) as run:
        yield run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return dark_and_light(tmp_path_factory.mktemp("photos"), 8)


@pytest.fixture(scope="module")
def predictor(call, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "light.headstart"
    call("fit", photos, "-s", "fake:image", "-o", path, "-q")
    return path


@pytest.fixture
def broken(tmp_path):
    """Two pictures that are none."""
    for name, content in (("a.png", b""), ("b.png", b"GIF89a, or so")):
        (tmp_path / name).write_bytes(content)
    return [tmp_path / "a.png", tmp_path / "b.png"]


class TestUnreadable:
    def test_what_could_not_be_read_is_said_once(self, call, predictor, photos, broken):
        done = call("predict", predictor, photos / "dark" / "0.png", *broken)
        assert (done.stdout + done.stderr).count("could not be read") == 1
        assert "2 of 3 items" in done.stdout and "dark" in done.stdout

    @pytest.mark.parametrize("command", ["extract", "evaluate"])
    def test_once_by_the_other_commands_that_list_it(self, call, predictor, photos, tmp_path, command):
        for label in ("dark", "light"):
            (tmp_path / label).mkdir()
            (tmp_path / label / "good.png").write_bytes((photos / label / "0.png").read_bytes())
        (tmp_path / "dark" / "bad.png").write_bytes(b"")
        words = (predictor, tmp_path) if command == "evaluate" else (tmp_path, "-s", "fake:image")
        done = call(command, *words)
        assert (done.stdout + done.stderr).count("could not be read") == 1 and "bad.png" in done.stdout

    def test_fit_has_no_list_and_keeps_its_note(self, call, photos, tmp_path):
        for label in ("dark", "light"):
            (tmp_path / "d" / label).mkdir(parents=True)
            for number in range(4):
                content = (photos / label / f"{number}.png").read_bytes()
                (tmp_path / "d" / label / f"{number}.png").write_bytes(content if number else b"")
        done = call("fit", tmp_path / "d", "-s", "fake:image", "-o", tmp_path / "p")
        assert "2 of 8 items could not be read" in done.stderr

    def test_nothing_readable_is_an_error(self, call, predictor, broken):
        done = call("predict", predictor, *broken, code=1)
        assert not done.stdout and "Nothing that was given could be read" in done.stderr
        assert "a.png: empty file" in done.stderr and "b.png: " in done.stderr
        messages = json.loads(call("predict", predictor, broken[0], "--json", code=1).stdout)
        assert messages["error"]["type"] == "DataError" and "a.png" in messages["error"]["message"]

    def test_many_are_not_all_listed(self, call, predictor, tmp_path):
        for number in range(9):
            (tmp_path / f"{number}.png").write_bytes(b"")
        message = call("predict", predictor, tmp_path, code=1).stderr
        assert message.count(".png: ") == 5 and "…" in message

    def test_no_table_is_left_behind(self, call, predictor, broken, tmp_path):
        call("predict", predictor, *broken, "-o", tmp_path / "answers.csv", code=1)
        assert not (tmp_path / "answers.csv").exists()


class TestWrongKind:
    def test_a_folder_of_sounds_for_a_predictor_of_pictures(self, call, predictor, tmp_path):
        for number in range(3):
            (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
        message = call("predict", predictor, tmp_path, code=1).stderr
        assert "The predictor takes files of kind image." in message and "3 files (.wav 3)" in message
        assert ".jpg" in message and ".flac" not in message, "only what it can take"

    @pytest.mark.parametrize(("wanted", "name"), [("audio", "audio"), ("text", "text"), ("image", "image")])
    def test_the_folder_says_what_it_lacks(self, tmp_path, wanted, name):
        (tmp_path / "a.xyz").write_bytes(b"1")
        with pytest.raises(DataError, match=rf"^No {name} file is in .* 1 file \(\.xyz 1\)"):
            Dataset.from_folder(tmp_path, modality=wanted)


class TestTried:
    def picked(self, *scores, chosen, metric="accuracy"):
        rows = [{"layers": f"l{i}", "head": "lda", "score": s, "low": 0.1, "high": 0.9} for i, s in enumerate(scores)]
        return drawn(_fit._tried({"layers": f"l{chosen}", "metric": metric, "table": rows}, ""), 140)

    def test_the_highest_score_needs_no_words(self):
        assert "highest" not in self.picked(0.9, 0.8, chosen=0) + self.picked(0.9, 0.9, chosen=1)

    def test_the_rule_that_took_another(self):
        assert "not the highest score: error + log-loss decides" in self.picked(0.8, 0.9, chosen=0)
        assert "no row above is clearly better in error + log-loss" in self.picked(0.9, 0.8, chosen=1)
        assert "squared error" in self.picked(0.9, 0.8, chosen=1, metric="r2")

    def test_where_less_is_better_nothing_is_claimed(self):
        assert "highest" not in self.picked(0.2, 0.1, chosen=0, metric="cer")

    def test_the_chosen_row_is_the_setting_that_was_chosen(self):
        """Not the cheapest one on the same layers, which a rule may have passed over."""
        trials = [
            SimpleNamespace(
                candidates=("a",), head=head, fields={"C": c}, score=s, low=s, high=s, mean_loss=1 - s, n_repeats=1
            )
            for head, c, s in (("logistic", 1.0, 0.8), ("lda", 2.0, 0.9))
        ]
        balance = SimpleNamespace(kind="none", metric="accuracy", reason="")
        choice = SimpleNamespace(candidates=("a",), name="logistic", fields={"C": 1.0}, metric="accuracy", score=0.8,
                                 low=0.8, high=0.8, reason="", balance=balance, trials=trials)  # fmt: skip
        (row,) = task_heads._table(choice)["table"]
        assert (row["head"], row["score"]) == ("logistic", 0.8)


class TestExtras:
    def test_old_metadata_of_an_editable_install(self, monkeypatch):
        """The metadata is of the day of the install; what the checkout declares is what there is."""
        monkeypatch.setattr(extras, "requires", lambda _name: ['timm; extra == "image"'])
        monkeypatch.setattr(extras, "is_installed", lambda _name: False)
        with pytest.raises(MissingPackage, match=re.escape('pip install "headstart[launch]"')):
            extras.require_package("accelerate", "here")

    def test_an_ordinary_install_reads_its_metadata(self, monkeypatch, tmp_path):
        monkeypatch.setattr(extras, "requires", lambda _name: ['timm>=1; extra == "image"', "numpy"])
        assert extras._declared_extras(tmp_path / "pyproject.toml") is None
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n[project.optional-dependencies]\na = []\n')
        assert extras._declared_extras(tmp_path / "pyproject.toml") is None
        (tmp_path / "pyproject.toml").write_text("broken = [")
        assert extras._declared_extras(tmp_path / "pyproject.toml") is None
        monkeypatch.setattr(extras, "_declared_extras", lambda _path: None)
        assert extras.extras() == {"image": ["timm>=1"]}


class TestTypingErrors:
    def test_the_folder_next_to_it(self, call, photos, tmp_path):
        (tmp_path / "photos" / "cat").mkdir(parents=True)
        message = call("fit", tmp_path / "fotos", "-s", "fake:image", "-o", tmp_path / "p", code=1).stderr
        assert f"There is no folder {tmp_path / 'fotos'}. Did you mean {tmp_path / 'photos'}?" in message

    def test_the_table_next_to_it(self, call, tmp_path):
        (tmp_path / "reviews.csv").write_text("text,label\na,b\n")
        words = (tmp_path / "review.csv", "-s", "lstm:lstm", "--target", "label", "-o", tmp_path / "p")
        assert f"Did you mean {tmp_path / 'reviews.csv'}?" in call("fit", *words, code=1).stderr

    def test_the_picture_next_to_it(self, call, predictor, photos):
        message = call("predict", predictor, photos / "dark" / "0.pngg", code=1).stderr
        assert f"Did you mean {photos / 'dark' / '0.png'}?" in message

    def test_nothing_like_it(self, call, predictor, tmp_path):
        assert "Did you mean" not in call("predict", predictor, tmp_path / "0.png", code=1).stderr
        assert "Did you mean" not in call("predict", predictor, "no/such/folder/0.png", code=1).stderr

    def test_pictures_without_classes(self, call, photos, tmp_path):
        message = call("fit", photos / "dark", "-s", "fake:image", "-o", tmp_path / "p", code=1).stderr
        assert "a folder of their own (cat/1.jpg)" in message

    def test_a_file_that_is_neither_folder_nor_table(self, call, tmp_path):
        for name, says in (("sheet.xlsx", "known formats: csv, tsv"), ("one.jpg", "a file, not a folder")):
            (tmp_path / name).write_bytes(b"PK")
            message = call("fit", tmp_path / name, "-s", "fake:image", "-o", tmp_path / "p", code=1).stderr
            assert says in message

    def test_other_names_of_tables(self, call, photos, tmp_path):
        rows = [f"{photos}/{c}/{i}.png\t{c}" for c in ("dark", "light") for i in range(8)]
        (tmp_path / "list.tab").write_text("\n".join(["path\tclass", *rows]))
        messages = call(
            "fit", tmp_path / "list.tab", "--target", "class", "-s", "fake:image", "-o", tmp_path / "p", "--json"
        )
        assert json.loads(messages.stdout)["items"] == 16

    def test_two_tables(self, call, predictor, tmp_path):
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text("path\nx.png\n")
        message = call("predict", predictor, tmp_path / "a.csv", tmp_path / "b.csv", code=1).stderr
        assert "a table alone, and one at a time" in message

    @pytest.mark.parametrize("words", [("predict", "0.png"), ("evaluate", "."), ("export", "-o", "x.onnx")])
    def test_the_predictor_next_to_it(self, call, predictor, words):
        command, *more = words
        wrong = predictor.with_name("ligth.headstart")
        message = call(command, wrong, *more, code=1).stderr
        assert f"There is no saved predictor {wrong}. Did you mean {predictor}?" in message

    def test_the_source_next_to_it(self, call, photos, tmp_path):
        (tmp_path / "mobilenet").mkdir()
        words = ("fit", photos, "-s", tmp_path / "mobilnet", "-o", tmp_path / "p")
        message = call(*words, code=1).stderr
        assert f"There is no folder {tmp_path / 'mobilnet'}. Did you mean {tmp_path / 'mobilenet'}?" in message
        assert "FAMILY:NAME" in message

    def test_a_report_of_a_predictor(self, call, predictor, tmp_path):
        words = ("report", predictor, "-o", tmp_path / "page.html")
        assert "is a folder; report takes the files that rank -o" in call(*words, code=1).stderr
        (tmp_path / "proof.json").write_text("{}")
        message = call("report", tmp_path / "prof.json", "-o", tmp_path / "page.html", code=1).stderr
        assert f"Did you mean {tmp_path / 'proof.json'}?" in message

    def test_of_several_kinds_the_usual_one_is_offered(self, call, tmp_path):
        (tmp_path / "d" / "a").mkdir(parents=True)
        for name in ("1.txt", "1.png", "2.png", "3.png", "1.wav"):
            (tmp_path / "d" / "a" / name).write_bytes(b"1")
        message = call("fit", tmp_path / "d", "-s", "fake:image", "-o", tmp_path / "p", code=1).stderr
        assert "modality='image' (--modality)" in message

    def test_a_class_without_items_has_no_recall(self, call, predictor, photos, tmp_path):
        (tmp_path / "dark").mkdir()
        (tmp_path / "dark" / "0.png").write_bytes((photos / "dark" / "0.png").read_bytes())
        shown = call("evaluate", predictor, tmp_path).stdout
        assert "nan" not in shown and re.search(r"light +0 +– ", shown)

    def test_the_target_that_a_predictor_was_fitted_on(self, call, photos, tmp_path):
        rows = [f"{photos}/{c}/{i}.png,{c},{i}" for c in ("dark", "light") for i in range(8)]
        (tmp_path / "list.csv").write_text("\n".join(["path,kind,number", *rows]))
        (tmp_path / "other.csv").write_text("\n".join(["path,sort,number", *rows]))
        result = call("fit", tmp_path / "list.csv", "-s", "fake:image", "-o", tmp_path / "p", code=1).stderr
        assert "'path'; others: kind, number." in result, "the columns that --target may name"
        call("fit", tmp_path / "list.csv", "--target", "kind", "-s", "fake:image", "-o", tmp_path / "p")
        assert (
            json.loads(call("evaluate", tmp_path / "p", tmp_path / "list.csv", "--json").stdout)["cost"]["items"] == 16
        )
        message = call("evaluate", tmp_path / "p", tmp_path / "other.csv", code=1).stderr
        assert "'kind' is not one of the columns of other.csv" in message and "sort" in message
        messages = call("evaluate", tmp_path / "p", tmp_path / "other.csv", "--target", "sort", "--json").stdout
        assert json.loads(messages)["cost"]["items"] == 16


class TestInPython:
    @pytest.mark.parametrize("budget", [-3, 0, "5 minutes", float("nan"), True])
    def test_a_budget_is_seconds(self, photos, budget):
        """One below 0 was taken, and words ended in a TypeError."""
        data = Dataset.from_folder(photos)
        for call in (lambda: fit("fake:image", data, budget=budget), lambda: prove("fake:image", data, budget=budget)):
            with pytest.raises(OptionError, match="budget must be seconds > 0, or None"):
                call()

    @pytest.mark.parametrize("item", [None, 3, 0.5])
    def test_nothing_to_predict_for(self, predictor, item):
        with pytest.raises(DataError, match=f"Items are paths.*got {type(item).__name__}"):
            load(predictor).predict(item)

    def test_a_folder_without_its_family(self, tmp_path):
        with pytest.raises(OptionError, match=re.escape(f"'timm:{tmp_path}', 'hf:{tmp_path}' or 'saved:{tmp_path}'")):
            load_source(str(tmp_path))
        with pytest.raises(OptionError) as refused:
            load_source("mobilenetv2_100")
        assert "folder" not in str(refused.value)

    def test_the_folder_next_to_it_is_named(self, tmp_path):
        pytest.importorskip("timm")
        (tmp_path / "mobilenet").mkdir()
        with pytest.raises(SourceError, match=re.escape(f"Did you mean {tmp_path / 'mobilenet'}?")):
            load_source(f"timm:{tmp_path / 'mobilnet'}")

    def test_the_source_of_a_predictor_has_its_name(self, predictor):
        """It was called 0, after its folder inside."""
        assert load(predictor).source.name == "light.headstart"
