"""Folders as they lie around: class folders, parts, nested and linked ones, droppings, and files of other kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headstart._base.progress import listening
from headstart.dataset import Dataset
from headstart.dataset.folders import SUFFIXES, canonical_part, count_by_suffix, modality_from_suffix, scan_folder
from headstart.errors import DataError, UnknownName
from listeners import Notes


def lay(root: Path, *names: str) -> Path:
    """Make a file for each name, with content of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    return root


def names(data: Dataset) -> list[str]:
    return [item.relative_to(data.root).as_posix() for item in data.items]


# ---- layouts ------------------------------------------------------------------------------------------------------


def test_class_folders(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "dog/2.jpg", "cat/1.PNG", "dog/1.jpeg"))
    assert names(data) == ["cat/1.PNG", "dog/1.jpeg", "dog/2.jpg"]
    assert data.targets == ("cat", "dog", "dog") and data.classes == ("cat", "dog") and data.task == "classification"
    assert data.modality == "image" and data.root == tmp_path and data.target_names == ("class",)
    assert data.parts is None and data.groups is None and data.ignored == ()
    assert all(isinstance(item, Path) for item in data.items)


def test_a_string_a_path_and_home(tmp_path, monkeypatch):
    lay(tmp_path, "photos/cat/1.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("photos", Path("photos"), "~/photos", tmp_path / "photos"):
        assert Dataset.from_folder(path).targets == ("cat",)


@pytest.mark.parametrize(
    ("suffix", "modality"), [("jpg", "image"), ("TIFF", "image"), ("avif", "image"), ("ogg", "audio"), ("md", "text")]
)
def test_the_modality_comes_from_the_files(tmp_path, suffix, modality):
    assert Dataset.from_folder(lay(tmp_path, f"a/1.{suffix}", f"b/1.{suffix}")).modality == modality


def test_nested_folders_belong_to_their_class(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "cat/a/b/1.jpg", "cat/2.jpg", "dog/x/1.jpg"))
    assert list(zip(names(data), data.targets)) == [
        ("cat/2.jpg", "cat"),
        ("cat/a/b/1.jpg", "cat"),
        ("dog/x/1.jpg", "dog"),
    ]


def test_a_flat_folder_has_no_targets(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "2.wav", "1.wav"))
    assert names(data) == ["1.wav", "2.wav"] and data.targets is None and data.columns == () and data.task is None


def test_a_flat_folder_with_folders_of_other_things(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "1.jpg", "scripts/run.py", "empty/x.docx"))
    assert names(data) == ["1.jpg"] and data.targets is None
    assert sorted(p.name for p in data.ignored) == ["run.py", "x.docx"]


def test_train_and_test(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "Test/cat/3.jpg", "labels.csv"))
    assert data.parts == ("test", "train", "train") and data.targets == ("cat", "cat", "dog")
    train, test = data.part("train"), data.part("test")
    assert names(train) == ["train/cat/1.jpg", "train/dog/2.jpg"] and names(test) == ["Test/cat/3.jpg"]
    assert train.classes == test.classes == ("cat", "dog") and (train.role, test.role) == ("train", "test")
    assert [p.name for p in data.ignored] == ["labels.csv"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "VAL"])
def test_validation_has_many_names(tmp_path, name):
    data = Dataset.from_folder(lay(tmp_path, "training/a/1.jpg", f"{name}/a/2.jpg"))
    assert set(data.parts) == {"train", "val"}
    assert len(data.part("validation")) == len(data.part("dev")) == 1


def test_a_test_part_without_labels(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg", "test/4.jpg"))
    assert data.part("test").targets == (None, None) and data.part("train").targets == ("cat", "dog")


def test_parts_without_classes(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "train/1.jpg", "test/2.jpg"))
    assert data.targets is None and data.parts == ("test", "train")


def test_a_class_may_be_called_train(tmp_path):
    assert Dataset.from_folder(lay(tmp_path, "train/1.jpg", "plane/2.jpg")).targets == ("plane", "train")
    assert Dataset.from_folder(lay(tmp_path / "b", "train/1.jpg")).targets == ("train",)


def test_only_a_train_folder_with_classes(tmp_path):
    data = Dataset.from_folder(lay(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg"))
    assert data.classes == ("cat", "dog") and len(data.part("train")) == 2


@pytest.mark.parametrize(("name", "part"), [("Train", "train"), (" dev", "val"), ("testing", "test"), ("cat", None)])
def test_names_of_parts(name, part):
    assert canonical_part(name) == part


# ---- what is left out, and what is not ----------------------------------------------------------------------------


def test_files_left_out_are_counted_and_named(tmp_path):
    lay(tmp_path, "cat/1.jpg", "cat/clip.mp4", "dog/2.jpg", "dog/x.mp4", "dog/Makefile", "readme.txt", "beside.jpg")
    notes = Notes()
    with listening(notes):
        data = Dataset.from_folder(tmp_path)
    assert names(data) == ["cat/1.jpg", "dog/2.jpg"]
    assert [p.name for p in data.ignored] == ["beside.jpg", "clip.mp4", "Makefile", "x.mp4", "readme.txt"]
    assert "left out 5 files (.mp4 2, " in notes[0] and "beside.jpg" in notes[0]
    assert data.meta["notes"] == tuple(notes)


def test_hidden_files_and_droppings_are_not_worth_a_word(tmp_path):
    lay(tmp_path, "cat/1.jpg", "cat/.2.jpg", ".git/x.jpg", "cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/cat/1.jpg")
    data = Dataset.from_folder(tmp_path)
    assert names(data) == ["cat/1.jpg"] and data.ignored == ()


def test_an_empty_class_is_told(tmp_path):
    lay(tmp_path, "cat/1.jpg", "dog/x.pdf")
    (tmp_path / "bird").mkdir()
    data = Dataset.from_folder(tmp_path)
    assert data.classes == ("cat",) and "no image file is in bird, dog" in data.meta["notes"][-1]


def test_broken_files_stay(tmp_path):
    lay(tmp_path, "cat/1.jpg")
    (tmp_path / "cat/empty.jpg").write_bytes(b"")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "cat/link.jpg")
    data = Dataset.from_folder(tmp_path)
    assert names(data) == ["cat/1.jpg", "cat/empty.jpg", "cat/link.jpg"]
    result = data.keys()
    assert [key is None for key in result] == [False, False, True]


def test_pipes_are_left_alone(tmp_path):
    lay(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    assert names(Dataset.from_folder(tmp_path)) == ["cat/1.jpg"]


def test_mixed_modalities_need_a_word(tmp_path):
    lay(tmp_path, "a/1.jpg", "a/2.jpg", "a/1.wav", "b/notes.txt")
    with pytest.raises(DataError, match=r"several modalities \(2 image, 1 audio, 1 text\); say which") as caught:
        Dataset.from_folder(tmp_path)
    assert "modality=" in str(caught.value)
    data = Dataset.from_folder(tmp_path, "image")
    assert names(data) == ["a/1.jpg", "a/2.jpg"] and len(data.ignored) == 2
    assert Dataset.from_folder(tmp_path, modality="text").targets == ("b",)


# ---- links --------------------------------------------------------------------------------------------------------


def test_loops_of_links_end(tmp_path):
    lay(tmp_path, "a/1.jpg", "b/2.jpg")
    os.symlink(tmp_path / "a", tmp_path / "a/again")
    os.symlink(tmp_path, tmp_path / "a/up")
    os.symlink(tmp_path / "b", tmp_path / "a/other")
    os.symlink(tmp_path / "a", tmp_path / "b/other")
    data = Dataset.from_folder(tmp_path)
    assert names(data) == ["a/1.jpg", "a/other/2.jpg", "b/2.jpg", "b/other/1.jpg"]


def test_a_way_back_up_is_not_taken(tmp_path):
    lay(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg")
    os.symlink(tmp_path, tmp_path / "train/a/root")
    os.symlink(tmp_path / "train", tmp_path / "train/a/part")
    assert len(Dataset.from_folder(tmp_path)) == 3


def test_many_crossing_links_stay_cheap(tmp_path):
    folders = [tmp_path / f"c/{i:02}" for i in range(14)]
    for folder in folders:
        lay(folder, "x.jpg")
    for here in folders:
        for folder in folders:
            os.symlink(folder, here / f"to-{folder.name}")
    assert len(Dataset.from_folder(tmp_path)) == 14


def test_a_class_may_be_a_link(tmp_path):
    lay(tmp_path / "elsewhere", "1.jpg")
    root = lay(tmp_path / "photos", "dog/1.jpg")
    os.symlink(tmp_path / "elsewhere", root / "cat")
    assert Dataset.from_folder(root).classes == ("cat", "dog")


# ---- refused ------------------------------------------------------------------------------------------------------


def test_missing_empty_and_not_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*gone"):
        Dataset.from_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"No image, audio or text file is in .*It is empty.*jpg"):
        Dataset.from_folder(tmp_path)
    lay(tmp_path, "x/a.docx", "x/b.docx")
    with pytest.raises(DataError, match=r"Left out: 2 files \(\.docx 2\)"):
        Dataset.from_folder(tmp_path)
    with pytest.raises(DataError, match=r"is a file, not a folder.*from_table"):
        Dataset.from_folder(tmp_path / "x/a.docx")
    with pytest.raises(DataError, match=r"There is no folder"):
        Dataset.from_folder("x" * 5000)
    with pytest.raises(UnknownName, match=r"did you mean 'image'"):
        Dataset.from_folder(tmp_path, modality="images")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    lay(tmp_path, "a/1.jpg")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"Cannot list the folder .*Permission denied"):
        Dataset.from_folder(tmp_path)


# ---- small things -------------------------------------------------------------------------------------------------


def test_the_order_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    root = lay(tmp_path / "photos", *(f"{c}/{i}.jpg" for c in "cab" for i in range(12)))
    lay(tmp_path / "elsewhere", "1.jpg")
    for name in "zyx":  # three ways to one folder, of which the first by name counts
        os.symlink(tmp_path / "elsewhere", root / "a" / name)
    first = Dataset.from_folder(root).items
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: list(reversed(list(real(path)))))
    assert Dataset.from_folder(root).items == first
    assert list(first) == sorted(first, key=lambda p: p.relative_to(root).parts)


def test_odd_names(tmp_path):
    odd = ["ünïcode 日本/ä b.jpg", "a,b;c/'quoted\".jpg", "new\nline/1.jpg", "-dash/--x.jpg", "50%/{x}.jpg"]
    data = Dataset.from_folder(lay(tmp_path, *odd))
    assert sorted(names(data)) == sorted(odd) and len(data.classes) == 5
    assert "5 images" in repr(data) and data.fingerprint


def test_names_that_are_no_unicode(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "1.jpg").write_bytes(b"x")
    data = Dataset.from_folder(tmp_path)
    assert len(data) == 1 and data.keys()[0] is not None and data.fingerprint


def test_suffixes():
    assert modality_from_suffix("a/b.c/photo.JPeG") == "image" and modality_from_suffix(Path("x.flac")) == "audio"
    assert (
        modality_from_suffix("x") is None
        and modality_from_suffix(".jpg") is None
        and modality_from_suffix("x.mp4") is None
    )
    promised = ".jpg .jpeg .png .gif .bmp .webp .tif .tiff .ppm .avif .wav .flac .ogg .oga .opus .mp3 .aiff .txt .md"
    assert set(promised.split(" ")) <= set(SUFFIXES)


def test_tally_is_short():
    paths = [Path(f"x.{s}") for s in "abcdefgh"] + [Path("Makefile"), Path("y.a")]
    assert count_by_suffix(paths) == "10 files (.a 2, .b 1, .c 1, .d 1, .e 1, .f 1, …)"
    assert count_by_suffix([Path("Makefile")]) == "1 file (Makefile 1)"


# ---- real folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "classes", "modality"),
    [
        ("images/trashnet", 600, 6, "image"),
        ("images/sign_digits", 1000, 10, "image"),
        ("audio/esc10", 200, 10, "audio"),
    ],
)
def test_real_folders(shared, name, n, classes, modality):
    data = Dataset.from_folder(shared / name)
    assert (len(data), len(data.classes), data.modality) == (n, classes, modality)
    assert [item.parent.name for item in data.items] == list(data.targets)
    assert [p.name for p in data.ignored] == ["labels.csv"]


def test_a_real_flat_folder(shared):
    data = Dataset.from_folder(shared / "audio/fsdd")
    assert len(data) == 1200 and data.targets is None and data.modality == "audio"


def test_scan_is_what_from_folder_uses(shared):
    result = scan_folder(shared / "images/trashnet")
    assert len(result.files) == 600 and result.empty == [] and result.files[0].part is None
