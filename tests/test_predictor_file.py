"""Predictors on disk: what comes back is the same bits, and nothing that was tampered with is believed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart._base import files
from headstart._base.hashing import fingerprint, key_of_file
from headstart.dataset import Dataset
from headstart.errors import HeadstartError, OptionError, SourceError, StoreError
from headstart.heads.base import HEADS
from headstart.predictor import load, storage
from headstart.sources.base import load_source
from networks import separable
from predictors import LABELS, fitted, kinds, labelled, module_source, two_sources

FILES = ("predictor.json", "arrays.safetensors", "sources/0/source.json", "sources/0/weights.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return fitted().save(tmp_path_factory.mktemp("saved") / "a.headstart")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def numbers(predictor, data) -> list[np.ndarray]:
    """Decisions of every target."""
    result = predictor.decision_function(data.items)
    return list(result.values()) if isinstance(result, dict) else [result]


def same(one, other, data) -> bool:
    pairs = zip(numbers(one, data), numbers(other, data), strict=True)
    return one.predict(data.items) == other.predict(data.items) and all(np.array_equal(a, b) for a, b in pairs)


def reseal(folder: Path, change) -> None:
    """Change the record and its check sum, as someone would who knows how it is made."""
    record = json.loads((folder / "predictor.json").read_text())
    record.pop("checksum")
    record = change(record) or record
    record["checksum"] = fingerprint(record, 64)
    (folder / "predictor.json").write_text(json.dumps(record))


class TestRoundTrip:
    @pytest.mark.parametrize("kind", list(LABELS))
    def test_classes_of_every_plain_type(self, kind, tmp_path):
        data = labelled(LABELS[kind])
        predictor = fitted(data)
        back = load(predictor.save(tmp_path / "p"))
        assert back.classes == predictor.classes
        assert [type(c) for c in back.classes] == [type(c) for c in predictor.classes]
        assert back.targets[0].counts == predictor.targets[0].counts
        assert same(predictor, back, data)
        assert np.array_equal(predictor.predict_proba(data.items), back.predict_proba(data.items))

    @pytest.mark.parametrize("kind", list(kinds()))
    def test_every_kind_of_target(self, kind, tmp_path):
        data = kinds()[kind]
        predictor = fitted(data)
        back = load(predictor.save(tmp_path / "p"))
        assert same(predictor, back, data)
        assert back.evaluate(data).metrics == predictor.evaluate(data).metrics

    @pytest.mark.parametrize("name", list(HEADS))
    def test_every_head(self, name, tmp_path):
        data = labelled(["b", "a", "c"])
        predictor = fitted(data, head=name)
        back = load(predictor.save(tmp_path / "p"))
        assert type(back.head) is type(predictor.head) and back.head.config() == predictor.head.config()
        assert np.array_equal(predictor.predict_proba(data.items), back.predict_proba(data.items))

    def test_several_sources_and_layers_side_by_side(self, tmp_path):
        predictor = fitted(source=two_sources(), layers="auto", head="auto")
        back = load(predictor.save(tmp_path / "p"))
        assert back.targets[0].specs == predictor.targets[0].specs
        assert same(predictor, back, labelled(["b", "a", "c"]))

    def test_what_is_known_about_it_comes_back_too(self, tmp_path):
        predictor = fitted(balance="logit")
        back = load(predictor.save(tmp_path / "p"))
        assert (back.chosen, back.provenance, back.history) == (predictor.chosen, predictor.provenance, {})
        assert back.choices == predictor.choices and back.trained_on == predictor.trained_on
        assert np.array_equal(back.targets[0].log_ratio, predictor.targets[0].log_ratio)
        assert back.source.fingerprint == predictor.source.fingerprint

    def test_saving_what_was_loaded_gives_the_same_predictor(self, saved, tmp_path):
        once = load(saved)
        twice = load(once.save(tmp_path / "again"))
        assert same(once, twice, labelled(["b", "a", "c"]))

    def test_same_fit_gives_the_same_arrays(self, saved, tmp_path):
        again = fitted().save(tmp_path / "b")
        for name in ("arrays.safetensors", "sources/0/weights.safetensors"):
            assert (again / name).read_bytes() == (saved / name).read_bytes()

    def test_numbers_of_other_libraries_and_odd_keys_are_saved_as_plain_data(self, tmp_path):
        predictor = fitted()
        predictor.history.update({2: np.float32(1.5), 10: np.int64(3), "nan": float("nan"), "t": (1, {"x"})})
        back = load(predictor.save(tmp_path / "p"))
        assert back.history == {"2": 1.5, "10": 3, "nan": None, "t": [1, ["x"]]}

    def test_another_process_predicts_the_same(self, saved):
        X, _ = separable(6)
        code = (
            "import sys, json, numpy as np; from networks import separable; from headstart.predictor import load;"
            "print(json.dumps(load(sys.argv[1]).predict_proba(separable(6)[0]).tolist()))"
        )
        run = [sys.executable, "-c", code, str(saved)]
        done = subprocess.run(run, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        assert np.array_equal(np.array(json.loads(done.stdout)), load(saved).predict_proba(X))


class TestPlaces:
    def test_relative_home_and_nested_places(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        predictor = fitted()
        for path in ("p", "deep/er/p", "~/q", Path("r"), "ünï ☕"):
            assert load(predictor.save(path)).classes == predictor.classes
        assert (tmp_path / "q" / "predictor.json").is_file()

    def test_an_empty_folder_may_be_filled(self, tmp_path):
        (tmp_path / "p").mkdir()
        assert load(fitted().save(tmp_path / "p"))

    @pytest.mark.parametrize("content", [{"notes.txt": "x"}, {"predictor.json": "{}"}, {"predictor.json": "not json"}])
    def test_what_is_not_ours_is_left_alone(self, content, tmp_path):
        path = tmp_path / "p"
        path.mkdir()
        for name, text in content.items():
            (path / name).write_text(text)
        with pytest.raises(StoreError, match="is not overwritten"):
            fitted().save(path)
        assert {p.name: p.read_text() for p in path.iterdir()} == content
        assert [p.name for p in tmp_path.iterdir()] == ["p"]

    def test_a_file_is_left_alone(self, tmp_path):
        (tmp_path / "p").write_text("mine")
        with pytest.raises(StoreError):
            fitted().save(tmp_path / "p")
        assert (tmp_path / "p").read_text() == "mine"

    def test_no_place_at_all(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file" / "p", "a\0b"):
            with pytest.raises(StoreError, match="Cannot save"):
                fitted().save(path)

    def test_nothing_or_something_else_to_load(self, tmp_path):
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_text("x")
        for path in (tmp_path / "none", tmp_path / "folder", tmp_path / "file", tmp_path / "none" / "a\0b"):
            with pytest.raises(StoreError):
                load(path)


class Killed(BaseException):
    """What a kill looks like from inside: nobody catches it, nothing is tidied up."""


def save_until(monkeypatch, predictor, place, step: int) -> bool:
    """Save, but die at the ``step``-th rename; whether it got to the end."""
    steps = iter(range(100))

    def dying(source, target):
        if next(steps) == step:
            raise Killed
        return real(source, target)

    real = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(storage, "_remove", lambda *_: None)
        try:
            predictor.save(place)
        except Killed:
            return False
    return True


class TestOverwriting:
    def test_the_new_one_replaces_the_old_one(self, tmp_path):
        data, other = labelled(["b", "a", "c"]), labelled(["u", "v", "w"])
        path = fitted(data).save(tmp_path / "p")
        for number in range(2, 5):
            new = fitted(other if number % 2 else data)
            assert same(load(new.save(path)), new, data)
            assert {p.name for p in path.iterdir()} == {"predictor.json", *storage.file_names(number)}
        assert [p.name for p in tmp_path.iterdir()] == ["p"]

    def test_a_predictor_saves_over_itself(self, copy):
        predictor = load(copy)
        assert same(load(predictor.save(copy)), predictor, labelled(["b", "a", "c"]))

    def test_notes_of_the_user_stay(self, copy):
        (copy / "README.md").write_text("mine")
        fitted().save(copy)
        assert (copy / "README.md").read_text() == "mine"

    def test_killed_at_any_moment_there_is_the_old_one_or_the_new_one(self, tmp_path, monkeypatch):
        old, new = fitted(labelled(["b", "a", "c"])), fitted(labelled(["u", "v", "w"]))
        seen = set()
        for step in range(20):
            path = old.save(tmp_path / str(step))
            finished = save_until(monkeypatch, new, path, step)
            seen.add(load(path).classes)
            assert finished == (load(path).classes == new.classes)
            assert load(new.save(path)).classes == new.classes  # what was left behind is in nobody's way
            assert len(list(path.iterdir())) == 3
            if finished:
                break
        assert finished and seen == {old.classes, new.classes} and step >= 4

    def test_killed_the_first_time_there_is_nothing(self, tmp_path, monkeypatch):
        for step in range(20):
            path = tmp_path / str(step) / "p"
            if save_until(monkeypatch, fitted(), path, step):
                break
            assert not path.exists()
            assert load(fitted().save(path))
        assert step >= 4

    def test_a_full_disk_leaves_the_old_one(self, copy, monkeypatch):
        def full(path, write):
            raise StoreError("the disk is full")

        monkeypatch.setattr(storage, "write_atomic", full)
        before = sorted(p.name for p in copy.rglob("*"))
        with pytest.raises(StoreError, match="disk is full"):
            fitted().save(copy)
        assert sorted(p.name for p in copy.rglob("*")) == before and load(copy)


class TestTampering:
    @pytest.mark.parametrize("name", FILES)
    @settings(max_examples=25)
    @given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
    def test_a_flipped_bit_is_noticed(self, saved, tmp_path_factory, name, where, flip):
        path = tmp_path_factory.mktemp("flipped") / "p"
        shutil.copytree(saved, path)
        content = bytearray((path / name).read_bytes())
        content[int(where * len(content))] ^= flip
        (path / name).write_bytes(content)
        if name.endswith(".json") and _means_the_same(saved / name, path / name):
            return
        with pytest.raises(StoreError):
            load(path)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_a_cut_file_is_noticed(self, copy, name, share):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(StoreError):
            load(copy)

    @pytest.mark.parametrize("name", [*FILES, "sources/0", "sources"])
    def test_what_is_missing_is_noticed(self, copy, name):
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(StoreError):
            load(copy)

    @pytest.mark.parametrize("name", FILES)
    def test_another_kind_of_thing_in_its_place(self, copy, name):
        (copy / name).unlink()
        (copy / name).mkdir()
        with pytest.raises(StoreError):
            load(copy)

    @pytest.mark.parametrize(
        "text",
        ["", "null", "[]", "1", '"x"', "{}", "[" * 100_000, '{"a":' * 50_000, "\ufeff{}", "9" * 5000, '{"format": 1}'],
        ids=lambda text: text[:12] or "empty",
    )
    def test_any_other_document(self, copy, text):
        (copy / "predictor.json").write_text(text)
        with pytest.raises(StoreError):
            load(copy)

    def test_a_deep_document_with_the_right_check_sum(self, copy):
        def deepen(record):
            record["history"] = deep = {}
            for _ in range(400):
                deep["a"] = deep = {}

        reseal(copy, deepen)
        assert load(copy).classes  # deep, but plain data

    def test_bytes_that_are_no_text(self, copy):
        (copy / "predictor.json").write_bytes(b"\xff\xfe\x00{")
        with pytest.raises(StoreError):
            load(copy)

    @pytest.mark.parametrize(
        "folder", ["..", "../other", "/etc", "sources/../..", "", ".", "sources/0/../../../x", 3, []]
    )
    def test_a_source_outside_the_folder(self, copy, saved, folder):
        shutil.copytree(saved / "sources" / "0", copy.parent / "other")

        def point_away(record):
            record["sources"][0]["folder"] = folder

        reseal(copy, point_away)
        with pytest.raises(StoreError):
            load(copy)

    def test_a_link_out_of_the_folder(self, copy, saved):
        shutil.rmtree(copy / "sources" / "0")
        (copy / "sources" / "0").symlink_to(saved / "sources" / "0")
        with pytest.raises(StoreError, match="outside"):
            load(copy)

    def test_another_whole_source_in_its_place(self, copy):
        shutil.rmtree(copy / "sources" / "0")
        load_source("fake:vector", seed=1).save(copy / "sources" / "0")
        with pytest.raises(StoreError, match="another one"):
            load(copy)

    def test_other_arrays_in_their_place(self, copy, tmp_path):
        other = fitted(balance="weights", head="lda").save(tmp_path / "other")
        shutil.copy(other / "arrays.safetensors", copy / "arrays.safetensors")
        with pytest.raises(StoreError, match="not the file that was saved"):
            load(copy)

    def test_nothing_is_unpickled(self, copy, tmp_path):
        import pickle

        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "exploded"),)

        for name in FILES:
            content = (copy / name).read_bytes()
            (copy / name).write_bytes(pickle.dumps(Bomb()))

            def seal(record, name=name):
                record["arrays"] = key_of_file(copy / "arrays.safetensors").hex()

            if name != "predictor.json":
                reseal(copy, seal)
            with pytest.raises(StoreError):
                load(copy)
            (copy / name).write_bytes(content)
        assert not (tmp_path / "exploded").exists()


def _means_the_same(one: Path, other: Path) -> bool:
    """Space for tab is no change of a document."""
    try:
        return json.loads(one.read_text()) == json.loads(other.read_text())
    except ValueError:
        return False


def _places(value, path=()):
    """Every place in a document."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


WRONG = st.sampled_from(
    [None, True, 0, -1, 7, 2.5, 1e308, float("nan"), "", "x", "../x", [], [1], ["a"], {}, {"a": 1}, [[]], 10**40]
)


class TestCraftedRecords:
    """Records with a right check sum that headstart never wrote."""

    @settings(max_examples=150)
    @given(data=st.data())
    def test_wrong_values_are_store_errors_or_harmless(self, saved, tmp_path_factory, data):
        record = json.loads((saved / "predictor.json").read_text())
        remaining = [p for p in _places(record) if p and p[0] not in ("provenance", "chosen", "history", "checksum")]
        path = data.draw(st.sampled_from(remaining))
        wrong = data.draw(WRONG)
        delete = data.draw(st.booleans())
        position = tmp_path_factory.mktemp("crafted") / "p"
        shutil.copytree(saved, position)

        def change(record):
            inner = record
            for key in path[:-1]:
                inner = inner[key]
            if delete:
                del inner[path[-1]]
            else:
                inner[path[-1]] = wrong

        reseal(position, change)
        X, _ = separable(4)
        try:
            result = load(position)
        except StoreError:
            return
        with suppress(HeadstartError):
            assert result.predict_proba(X).shape == (4, 3) and len(result.predict(X)) == 4

    @pytest.mark.parametrize(
        "field",
        ["format", "number", "answers", "sources", "arrays", "history", "chosen", "provenance"],
    )
    @pytest.mark.parametrize("wrong", [None, 0, "x", [], {}, [None], {"a": {}}])
    def test_top_fields(self, copy, field, wrong):
        def change(record):
            record[field] = wrong

        reseal(copy, change)
        harmless = field in ("history", "chosen", "provenance") and isinstance(wrong, dict)
        if harmless:
            assert load(copy)
        else:
            with pytest.raises(StoreError):
                load(copy)

    def test_another_format_says_which_is_read(self, copy):
        reseal(copy, lambda record: {**record, "format": 99})
        with pytest.raises(StoreError, match=r"99.*format 1"):
            load(copy)

    def test_arrays_of_another_shape(self, copy):
        from safetensors.numpy import load_file, save_file

        arrays = load_file(copy / "arrays.safetensors")
        arrays["0/coef"] = arrays["0/coef"][:, :2].copy()
        save_file(arrays, copy / "arrays.safetensors")
        reseal(copy, lambda record: {**record, "arrays": key_of_file(copy / "arrays.safetensors").hex()})
        with pytest.raises(StoreError):
            load(copy)

    def test_a_huge_file_is_not_read(self, copy, monkeypatch):
        monkeypatch.setattr(files, "_MAX_JSON", 100)
        with pytest.raises(StoreError, match="too many"):
            load(copy)


class TestPythonObjects:
    def test_are_saved_by_fingerprint_and_must_be_given(self, tmp_path):
        predictor = fitted(source=module_source())
        path = predictor.save(tmp_path / "p")
        with pytest.raises(SourceError, match=r"sources=\[source\]") as caught:
            load(path)
        assert predictor.source.fingerprint[:12] in str(caught.value)
        for given_ in (module_source(), [module_source()], (module_source(1), module_source())):
            assert same(load(path, sources=given_), predictor, labelled(["b", "a", "c"]))

    def test_another_object_is_refused(self, tmp_path):
        path = fitted(source=module_source()).save(tmp_path / "p")
        with pytest.raises(SourceError, match="Given: "):
            load(path, sources=[module_source(1)])

    def test_something_else_is_refused(self, saved):
        with pytest.raises(OptionError, match="takes Source objects; got str"):
            load(saved, sources=["fake:vector"])

    def test_with_a_source_that_can_be_saved(self, tmp_path):
        predictor = fitted(source=[load_source("fake:vector"), module_source()], layers="last", head="auto")
        path = predictor.save(tmp_path / "p")
        back = load(path, sources=module_source())
        assert same(predictor, back, labelled(["b", "a", "c"]))


def test_pictures_come_back_too(tmp_path):
    from networks import pictures

    data = Dataset.from_arrays(pictures(8), ["a", "b"] * 4)
    predictor = fitted(data, "fake:image")
    assert same(predictor, load(predictor.save(tmp_path / "p")), data)
