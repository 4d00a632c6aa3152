"""Dataset: arrays in, what it says of itself, pieces, keys, duplicates, parts, reads."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from headstart._base.hashing import key_of_array, key_of_bytes, key_of_file, key_of_text
from headstart.dataset import Dataset, Target
from headstart.errors import DataError, HeadstartWarning, OptionError, UnknownName
from headstart.proof import prove
from headstart.ranking import rank
from headstart.transfer import fit

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def files(root: Path, **contents: bytes) -> dict[str, Path]:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / f"{name}.jpg").write_bytes(content)
    return {name: root / f"{name}.jpg" for name in contents}


def images(paths, labels=None) -> Dataset:
    data = Dataset(tuple(paths), modality="image")
    return data if labels is None else data.with_targets(labels)


# ---- arrays -------------------------------------------------------------------------------------------------------

ARRAYS = {
    "vectors": (np.zeros((3, 4)), None, "vector", False),
    "whole vectors": (np.zeros((3, 4), int), None, "vector", False),
    "byte vectors": (np.zeros((3, 4), np.uint8), None, "vector", False),
    "grey images": (np.zeros((3, 8, 8), np.uint8), None, "image", False),
    "colour images": (np.zeros((3, 8, 8, 3), np.uint8), None, "image", False),
    "one channel": (np.zeros((3, 8, 8, 1), np.uint8), None, "image", False),
    "float images": (np.zeros((3, 28, 28, 1), np.float32), None, "image", True),
    "channels first": (np.zeros((3, 3, 28, 28), np.float32), None, "image", True),
    "float grey images": (np.zeros((3, 28, 28)), None, "image", True),
    "sounds": (np.zeros((3, 1000), np.float32), "audio", "audio", False),
    "texts": (["a", "b", "c"], None, "text", False),
    "text array": (np.array(["a", "b", "c"]), None, "text", False),
    "list of rows": ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], None, "vector", False),
    "list of arrays": ([np.zeros((8, 8), np.uint8)] * 3, None, "image", False),
    "different images": ([np.zeros((8, n, 3), np.uint8) for n in (4, 5, 6)], None, "image", False),
    "different sounds": ([np.zeros(n, np.float32) for n in (4, 5, 6)], "audio", "audio", False),
    "different float images": ([np.zeros((3, 8, n), np.float32) for n in (8, 9, 10)], "image", "image", True),
    "vectors by name": (np.zeros((3, 4)), "vector", "vector", False),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(case):
    X, requested, modality, preprocessed = ARRAYS[case]
    data = Dataset.from_arrays(X, ["a", "b", "a"], modality=requested)
    assert len(data) == 3 and data.modality == modality and data.targets == ("a", "b", "a")
    assert data.meta.get("preprocessed", False) is preprocessed
    for item, value in zip(data.items, X):
        np.testing.assert_array_equal(item, value)
        assert isinstance(item, str if modality == "text" else np.ndarray)


REFUSED = {
    "nothing": ([], None, r"no items"),
    "no rows": (np.zeros((0, 4)), None, r"no items \(shape \(0, 4\)\)"),
    "one number each": (np.zeros(5), None, r"reshape\(-1, 1\)"),
    "five axes": (np.zeros((2, 2, 2, 2, 2)), None, r"images"),
    "wide integers": (np.zeros((3, 8, 8), int), None, r"X\.astype\(np\.uint8\)"),
    "channels first in bytes": (np.zeros((3, 3, 8, 8), np.uint8), None, r"X\.transpose\(0, 2, 3, 1\)"),
    "seven channels": (np.zeros((3, 8, 8, 7), np.uint8), None, r"1, 3 or 4 channels"),
    "no pixels": (np.zeros((3, 0, 8), np.uint8), None, r"no pixels"),
    "NaN": (np.array([[0.0], [np.nan], [1.0]]), None, r"not finite in row 1"),
    "infinity": (np.full((2, 3, 3), np.inf), None, r"not finite in row 0"),
    "complex": (np.zeros((3, 4), complex), None, r"dtype complex128"),
    "dates": (np.zeros((3, 4), "datetime64[s]"), None, r"dtype datetime64"),
    "mixed": (["a", np.zeros(3)], None, r"it holds ndarray, str"),
    "None inside": (["a", None], None, r"NoneType"),
    "different vectors": ([np.zeros(3), np.zeros(4)], None, r"different shapes \(\(3,\), \(4,\)\)"),
    "images of two kinds": ([np.zeros((8, 8), np.uint8), np.zeros((9, 9))], None, r"mixes uint8"),
    "vectors as images": (np.zeros((3, 4)), "image", r"which is vector, not image"),
    "texts as images": (["a.jpg"], "image", r"from_folder or from_table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_stand_for_nothing(case):
    X, modality, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        Dataset.from_arrays(X, modality=modality)


@pytest.mark.parametrize("X", ["photos/", 5, None, {"a": 1}, b"x", Path("x")])
def test_not_an_array(X):
    with pytest.raises(OptionError, match=r"X must be an array or a list"):
        Dataset.from_arrays(X)


def test_sparse_matrices_are_told_how():
    from scipy.sparse import csr_matrix

    with pytest.raises(DataError, match=r"X\.toarray\(\)"):
        Dataset.from_arrays(csr_matrix(np.eye(3)))


def test_unknown_modality():
    with pytest.raises(UnknownName, match=r"did you mean 'image'"):
        Dataset.from_arrays(PIXELS, modality="images")
    with pytest.raises(UnknownName, match=r"modalities"):
        Dataset((), modality="smell")


@pytest.mark.parametrize("verb", [fit, rank, prove], ids=lambda verb: verb.__name__)
def test_what_is_learned_from_is_a_dataset_with_targets(verb):
    with pytest.raises(DataError, match=rf"{verb.__name__}\(\) takes a Dataset; got str\..*from_folder"):
        verb("fake:image", "photos/")
    with pytest.raises(DataError, match=rf"{verb.__name__}\(\) needs targets.*--target.*with_targets"):
        verb("fake:image", Dataset.from_arrays(PIXELS))


def test_labels_must_be_as_many():
    with pytest.raises(DataError, match=r"6 items but 5 labels"):
        Dataset.from_arrays(PIXELS, list("abcde"))
    with pytest.raises(DataError, match=r"6 items but 2 values in groups"):
        Dataset.from_arrays(PIXELS, groups=["a", "b"])
    with pytest.raises(OptionError, match=r"one group per item"):
        Dataset.from_arrays(PIXELS, groups="speaker")


def test_facts_and_groups():
    data = Dataset.from_arrays(np.zeros((3, 9)), groups=np.array([1, 1, 2]), modality="audio", sample_rate=8000)
    assert data.meta == {"sample_rate": 8000} and data.groups == (1, 1, 2)
    assert [type(g) for g in data.groups] == [int] * 3


def test_a_writable_array_is_copied_a_sealed_one_is_not(tmp_path):
    X = np.zeros((3, 4))
    data = Dataset.from_arrays(X)
    before = data.keys()
    X[0, 0] = 1
    assert data.items[0][0] == 0 and data.take([0, 1, 2]).keys() == before
    with pytest.raises(ValueError, match="read-only"):
        data.items[0][0] = 1
    view = X[:]
    view.flags.writeable = False
    assert not np.shares_memory(Dataset.from_arrays(view).items[0], X), "somebody can still write to it"
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(Dataset.from_arrays(mapped).items[0], mapped)


def test_tensors(request):
    torch = pytest.importorskip("torch")
    data = Dataset.from_arrays(torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 0]))
    assert data.modality == "image" and data.meta["preprocessed"] and data.targets == (0, 1, 0)


def test_several_target_columns():
    data = Dataset.from_arrays(PIXELS, {"kind": list("ababab"), "size": RNG.random(6)}, task={"size": "regression"})
    assert data.target_names == ("kind", "size") and data.task == {"kind": "classification", "size": "regression"}
    assert list(data.targets) == ["kind", "size"] and data.classes == {"kind": ("a", "b"), "size": None}
    with pytest.raises(DataError, match=r"same name: t, t"):
        Dataset((), [Target("t", "regression", ()), Target("t", "regression", ())], modality="text")


# ---- items to predict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        (None, "NoneType"),
        (7, "int"),
        ([None], "NoneType"),
        (["a.png", np.zeros((4, 4, 3), np.uint8)], "ndarray and str"),
    ],
)
def test_what_is_no_item_of_a_prediction(value, kinds):
    with pytest.raises(DataError, match=f"or they are arrays; got {kinds}"):
        Dataset.from_items(value, "image")


def test_items_of_a_prediction(tmp_path):
    path = files(tmp_path, a=b"x")["a"]
    for value in (str(path), path, [str(path)], (path,), [path]):
        data = Dataset.from_items(value, "image")
        assert data.items == (path,) and data.modality == "image" and data.targets is None
    assert Dataset.from_items([str(path)]).modality == "image"
    assert Dataset.from_items(["new.jpg", "gone.jpg"], "image").items == (Path("new.jpg"), Path("gone.jpg"))
    assert Dataset.from_items("a.txt", "text").items == ("a.txt",)
    assert Dataset.from_items(Path("a.txt"), "text").items == (Path("a.txt"),)
    assert Dataset.from_items(["hello", np.str_("you")]).items == ("hello", "you")
    assert Dataset.from_items(b"\xff\xd8", "image").items == (b"\xff\xd8",)
    assert Dataset.from_items("x" * 100_000, None).modality == "text"
    data = Dataset.from_arrays(PIXELS)
    assert Dataset.from_items(data) is data


def test_arrays_of_a_prediction():
    assert len(Dataset.from_items(PIXELS)) == 6 and len(Dataset.from_items(PIXELS[0], "image")) == 1
    assert len(Dataset.from_items(PIXELS[0, :, :, 0], "image")) == 1
    assert len(Dataset.from_items(np.zeros(9), "audio")) == 1 and len(Dataset.from_items(np.zeros(9))) == 1
    assert len(Dataset.from_items(np.zeros((4, 9)), "vector")) == 4
    assert len(Dataset.from_items([PIXELS[0], PIXELS[1]], "image")) == 2
    assert Dataset.from_items(np.zeros((2, 3, 8, 8), np.float32)).meta["preprocessed"]


def test_a_folder_of_a_prediction(tmp_path):
    paths = files(tmp_path / "new", a=b"x", b=b"y")
    assert Dataset.from_items(str(tmp_path / "new"), "image").items == (paths["a"], paths["b"])
    data = Dataset.from_items(tmp_path)
    assert len(data) == 2 and data.targets is None


@pytest.mark.parametrize(
    ("value", "modality", "message"),
    [
        ([], None, r"nothing to predict"),
        ([5], "image", r"got int"),
        ([None, "x"], "text", r"got NoneType"),
        (["a.jpg", "b.wav"], None, r"say modality="),
        (["a.jpg", "hello"], None, r"say modality="),
        ([b"x"], None, r"say modality="),
        (["x"], "vector", r"Vectors are given as arrays"),
        (["x"], "smell", r"'smell' is not one"),
    ],
)
def test_items_that_cannot_be_predicted(value, modality, message):
    with pytest.raises((DataError, UnknownName), match=message):
        Dataset.from_items(value, modality)


# ---- what it says of itself ---------------------------------------------------------------------------------------

SAID = {
    "Dataset: 6 images of 5 × 4 × 3, 2 classes (a 3, b 3)": Dataset.from_arrays(PIXELS, list("ababab")),
    "Dataset: 1 vector of 4, no targets": Dataset.from_arrays(np.zeros((1, 4))),
    "Dataset: 3 texts, 1 class (a 2), 1 without a label": Dataset.from_arrays(list("xyz"), ["a", "a", None]),
    "Dataset: 3 texts, target: 0.5 to 2 (regression)": Dataset.from_arrays(list("xyz"), [0.5, 2, 1]),
    "Dataset: 2 texts, target: 0.5 to 4.5 in 2 outputs (regression)": Dataset.from_arrays(
        ["x", "y"], np.array([[0.5, 2], [3, 4.5]])
    ),
    "Dataset: 2 texts, 3 labels (0 2, 1 0, 2 1)": Dataset.from_arrays(["x", "y"], np.array([[1, 0, 0], [1, 0, 1]])),
    "Dataset: 2 texts, summaries": Dataset.from_arrays(["x", "y"], ["s", "t"], task="summarization"),
    "Dataset: 2 clips of 9, transcripts, 1 without a label": Dataset.from_arrays(
        np.zeros((2, 9)), ["hello", None], task="transcription", modality="audio"
    ),
    "Dataset: 2 texts, kind: 2 classes (a 1, b 1), size: 1 to 2 (regression), 2 groups": Dataset.from_arrays(
        ["x", "y"], {"kind": ["a", "b"], "size": [1.0, 2.0]}, groups=["g", None]
    ),
    "Dataset: 2 texts, no targets, train 1, test 1": Dataset(("x", "y"), modality="text", parts=("train", "test")),
    "Dataset: 3 texts of 1 to 7 characters (median 2), no targets": Dataset(("x", "你好", "seven …"), modality="text"),
    "Dataset: 0 texts, no targets": Dataset((), modality="text"),
    "Dataset: 2 texts, target: no values (regression, 2 without a label)": Dataset.from_arrays(
        ["x", "y"], [None, None], task="regression"
    ),
}


@pytest.mark.parametrize("described", SAID)
def test_one_line(described):
    assert repr(SAID[described]) == described


def test_one_line_for_many_classes():
    data = Dataset.from_arrays(np.zeros((3000, 2)), [f"c{i % 20:02}" for i in range(3000)])
    assert repr(data) == (
        "Dataset: 3,000 vectors of 2, 20 classes (c00 150, c01 150, c02 150, c03 150, c04 150, c05 150, …)"
    )


def test_it_does_not_change():
    data = Dataset.from_arrays(PIXELS, list("ababab"))
    for name in ("items", "columns", "modality", "groups", "targets", "classes", "new"):
        with pytest.raises(AttributeError):
            setattr(data, name, None)
    assert isinstance(data.items, tuple) and isinstance(data.targets, tuple)


def test_lists_become_tuples():
    data = Dataset(["x"], [Target("t", "regression", (1.0,))], modality="text", groups=["g"], parts=["train"])
    assert data.items == ("x",) and data.groups == ("g",) and data.parts == ("train",)


def test_it_can_be_sent_to_another_process():
    data = Dataset.from_arrays(PIXELS, list("ababab"), groups=list("uvwxyz")).split()[0]
    again = pickle.loads(pickle.dumps(data))
    assert again.targets == data.targets and again.fingerprint == data.fingerprint and again.role == "train"


def test_importing_it_is_light():
    heavy = ["torch", "sklearn", "scipy", "pandas", "pyarrow", "PIL"]
    code = f"import sys, headstart.dataset; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- pieces -------------------------------------------------------------------------------------------------------


def test_take():
    data = Dataset.from_arrays(PIXELS, list("abcabc"), groups=list("uvwxyz"))
    piece = data.take([4, 0])
    assert piece.targets == ("b", "a") and piece.groups == ("y", "u") and piece.classes == ("a", "b", "c")
    np.testing.assert_array_equal(piece.items[0], PIXELS[4])
    assert data.take(np.array([True] + [False] * 5)).targets == ("a",)
    assert data.take(np.flatnonzero(np.array(data.targets) == "c")).targets == ("c", "c")
    assert len(data.take([])) == 0 and data.take(range(6)).fingerprint == data.fingerprint
    assert data.take([0, 0]).targets == ("a", "a")


@pytest.mark.parametrize("wrong", [[6], [-1], [0.5], [[0]], 3, ["a"], [True], [True] * 7])
def test_take_what_is_not_there(wrong):
    with pytest.raises(OptionError, match=r"positions from 0 to 5 or a mask of 6"):
        Dataset.from_arrays(PIXELS).take(wrong)


def test_other_targets():
    data = Dataset.from_arrays(PIXELS, list("abcabc"))
    shuffled = data.with_targets(list(np.random.default_rng(0).permutation(list(data.targets))))
    assert sorted(shuffled.targets) == sorted(data.targets) and shuffled.classes == data.classes
    assert {type(t) for t in shuffled.targets} == {str} and data.targets == tuple("abcabc")
    assert data.with_targets(np.arange(6) / 7).task == "regression"
    assert data.with_targets([0, 1] * 3, task="regression").targets == (0.0, 1.0) * 3
    both = data.with_targets({"x": list("aabbcc"), "y": [0.5] * 6})
    assert both.task == {"x": "classification", "y": "regression"}
    assert both.with_targets(list("aabbcc")).target_names == ("target",)
    assert data.without_targets().targets is None and data.without_targets().with_targets([0, 1] * 3).classes == (0, 1)
    with pytest.raises(DataError, match=r"6 items but 2 labels"):
        data.with_targets(["a", "b"])


# ---- keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_those_of_the_contents(tmp_path):
    path = files(tmp_path, a=b"some bytes")["a"]
    data = Dataset((path, "text", b"some bytes", PIXELS[0]), modality="image")
    assert data.keys() == [key_of_file(path), key_of_text("text"), key_of_bytes(b"some bytes"), key_of_array(PIXELS[0])]
    assert data.keys()[0] == data.keys()[2], "a file and its bytes are the same content"


def test_what_cannot_be_read_has_no_key(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    data = Dataset((tmp_path / "gone.jpg", tmp_path / "folder.jpg", Path("/dev/zero"), Path("a\0b")), modality="image")
    assert data.keys() == [None] * 4
    assert len(data.fingerprint) == 16


def test_keys_of_many_files_come_in_order(tmp_path):
    paths = files(tmp_path, **{f"n{i}": str(i).encode() for i in range(200)})
    assert images(paths.values()).keys() == [key_of_bytes(str(i).encode()) for i in range(200)]


class Memory:
    """A key table in memory."""

    def __init__(self, stored=()):
        self.stored = dict(stored)
        self.recorded = {}

    def lookup(self, path):
        return self.stored.get(path)

    def record(self, path, key):
        self.recorded[path] = key


def test_a_key_table_saves_reading(tmp_path):
    paths = files(tmp_path, a=b"1", b=b"2")
    gone = tmp_path / "gone.jpg"
    table = Memory({paths["a"]: b"k" * 16})
    data = images([*paths.values(), gone])
    assert data.keys(table) == [b"k" * 16, key_of_bytes(b"2"), None]
    assert table.recorded == {paths["b"]: key_of_bytes(b"2")}


def test_keys_are_found_once(tmp_path):
    path = files(tmp_path, a=b"1", b=b"2")
    data = images(path.values(), ["x", "y"])
    before = data.keys()
    for p in path.values():
        p.unlink()
    assert data.keys() == before == data.take([0, 1]).keys() == data.with_targets(["y", "x"]).keys()
    data.keys().clear()
    assert data.keys() == before


def test_the_fingerprint_follows_contents_and_targets(tmp_path):
    a, b = files(tmp_path / "x", a=b"1", b=b"2"), files(tmp_path / "y", c=b"1", d=b"2")
    base = images(a.values(), ["u", "v"]).fingerprint
    assert images(b.values(), ["u", "v"]).fingerprint == base
    assert images(reversed(b.values()), ["u", "v"]).fingerprint != base
    assert images(b.values(), ["v", "u"]).fingerprint != base
    assert images(b.values()).fingerprint != base
    b["c"].write_bytes(b"3")
    assert images(b.values(), ["u", "v"]).fingerprint != base


# ---- duplicates ---------------------------------------------------------------------------------------------------


def test_overlap_of_files(tmp_path):
    mine = files(tmp_path / "mine", a=b"same", b=b"lone", c=b"other", d=b"same")
    theirs = files(tmp_path / "theirs", p=b"same", q=b"size", r=b"other", s=b"same")
    first, second = images(mine.values()), images(theirs.values())
    assert first.overlap(second) == [(mine["a"], theirs["p"]), (mine["c"], theirs["r"]), (mine["d"], theirs["p"])]
    assert first.without(second).items == (mine["b"],)
    assert second.without(first).items == (theirs["q"],)
    first.keys()
    assert len(first.overlap(second)) == 3, "with keys known on one side"


def test_files_that_agree_in_size_and_middle_but_not_whole(tmp_path):
    middle = bytes(20_000)
    mine = files(tmp_path / "mine", a=b"1" + middle + b"1", b=b"2" + middle + b"2")
    theirs = files(tmp_path / "theirs", p=b"1" + middle + b"2", q=b"2" + middle + b"2")
    assert images(mine.values()).overlap(images(theirs.values())) == [(mine["b"], theirs["q"])]


def test_the_same_path_is_the_same_item_even_when_unreadable(tmp_path, monkeypatch):
    gone = tmp_path / "gone.jpg"
    assert images([gone]).overlap(images([tmp_path / "x.jpg", gone])) == [(gone, gone)]
    assert images([gone]).overlap(images([tmp_path / "x.jpg"])) == []
    monkeypatch.chdir(tmp_path)
    assert images([gone]).overlap(images([Path("gone.jpg")])) == [(gone, Path("gone.jpg"))]


def test_only_likely_duplicates_are_read(tmp_path, monkeypatch):
    mine = files(tmp_path / "mine", a=b"12345", b=b"123")
    theirs = files(tmp_path / "theirs", p=b"12345", q=b"1")
    read = []

    def remember(path):
        read.append(path.name)
        return key_of_file(path)

    monkeypatch.setattr("headstart.dataset.duplicates.key_of_file", remember)
    assert images(mine.values()).overlap(images(theirs.values())) == [(mine["a"], theirs["p"])]
    assert sorted(read) == ["a.jpg", "p.jpg"]


def test_overlap_of_texts_and_arrays():
    first, second = Dataset.from_arrays(["a", "b", "c"]), Dataset.from_arrays(["c", "d", "a"])
    assert first.overlap(second) == [("a", "a"), ("c", "c")] and second.without(first).items == ("d",)
    same = Dataset.from_arrays(PIXELS[:4]).overlap(Dataset.from_arrays(PIXELS[3:]))
    assert len(same) == 1 and (same[0][0] == PIXELS[3]).all()
    changed = PIXELS.copy()
    changed[:, 0, 0, 0] ^= 1
    assert not Dataset.from_arrays(PIXELS).overlap(Dataset.from_arrays(changed))
    assert not Dataset.from_arrays(np.zeros((1, 4))).overlap(Dataset.from_arrays(np.zeros((1, 4), np.float32)))
    assert not Dataset.from_arrays(["a"]).overlap(Dataset.from_arrays(np.zeros((1, 4))))


def test_overlap_with_nothing():
    data, nothing = Dataset.from_arrays(["a"]), Dataset((), modality="text")
    assert data.overlap(nothing) == nothing.overlap(data) == []
    assert data.without(nothing).items == ("a",) and len(nothing.without(data)) == 0
    assert len(data.without(data)) == 0


def test_a_split_with_duplicates_warns_and_says_what_to_do(tmp_path):
    paths = files(tmp_path / "cat", **{f"n{i}": b"the same" for i in range(8)})
    with pytest.warns(HeadstartWarning, match=r"2 items of the test part are also in the training part") as caught:
        train, test = images(paths.values(), ["cat"] * 8).split()
    message = str(caught[0].message)
    assert "cat/n" in message and "train = train.without(test)" in message and caught[0].filename == __file__
    assert len(train) == 6 and len(train.without(test)) == 0


def test_a_split_without_duplicates_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.from_arrays(PIXELS, list("ababab")).split()


def test_one_duplicate_text_and_array():
    with pytest.warns(HeadstartWarning, match=r"1 item of the test part is also .* exactly \(e\.g\. 'x{39}…' = "):
        Dataset.from_arrays(["x" * 100] * 2).split(test_size=0.5)
    with pytest.warns(HeadstartWarning, match=r"an array of 4 = an array of 4"):
        Dataset.from_arrays(np.zeros((2, 4))).split(test_size=0.5)


def test_real_duplicates(shared):
    options = {"input": "text", "target": "label"}
    train, test = (Dataset.from_table(shared / f"text/thucnews_zh/{n}.csv", **options) for n in ("train", "test"))
    assert len({a for a, _ in train.overlap(test)}) == 8
    cleaned = train.without(test)
    assert not cleaned.overlap(test) and len(cleaned) >= len(train) - 16


def test_real_photos_have_none(shared):
    data = Dataset.from_folder(shared / "images/trashnet")
    assert len(set(data.keys())) == len(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = data.split(test_size=0.3, random_state=0)
    assert (len(train), len(test)) == (420, 180)
    assert all(test.targets.count(c) == 30 for c in data.classes)


# ---- parts and reads ----------------------------------------------------------------------------------------------


def with_parts(*parts, texts=None) -> Dataset:
    texts = texts or [f"text {i}" for i in range(len(parts))]
    return Dataset(texts, [Target("t", "classification", ("a",) * len(parts), ("a",))], modality="text", parts=parts)


def test_parts():
    data = with_parts("train", "Dev", "test", None)
    assert data.part("train").items == ("text 0",) and data.part("val").items == ("text 1",)
    assert data.part("Dev") is data.part("validation") and data.part("test").parts is None
    assert [data.part(n).role for n in ("train", "dev", "test")] == ["train", None, "test"]
    assert with_parts("fold 1", "fold 2").part("fold 2").items == ("text 1",)


def test_parts_that_are_not_there():
    with pytest.raises(UnknownName, match=r"'tset' is not one of the parts; did you mean 'test'\? Known: test, train"):
        with_parts("train", "test").part("tset")
    with pytest.raises(DataError, match=r"no parts: name its split column .* data\.split\(\)"):
        Dataset.from_arrays(["a"]).part("train")


def test_an_exact_name_goes_before_a_synonym():
    data = with_parts("dev", "val")
    assert data.part("dev").items == ("text 0",) and data.part("val").items == ("text 1",)


def test_parts_that_share_items_warn_once():
    data = with_parts("train", "train", "test", texts=["same", "lone", "same"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.part("train")
    with pytest.warns(HeadstartWarning, match=r"1 item of the 'test' part is also in the 'train' part"):
        data.part("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.part("test")


def test_reads_are_counted():
    train, test = Dataset.from_arrays(PIXELS, list("ababab")).split()
    assert test.reads == 0 and test.read() is test and test.reads == 1
    test.take([0]).read()
    test.with_targets(["a"] * len(test)).read()
    test.without(train).read()
    assert test.reads == 4 and train.reads == 0, "a piece of the test part counts for it"


def test_reads_of_a_named_part_add_up():
    data = with_parts("train", "test")
    data.part("test").read()
    data.part("test").read()
    assert data.part("test").reads == 2 and data.part("train").reads == 0 and data.reads == 0


def test_reads_of_two_splits_are_their_own():
    data = Dataset.from_arrays(PIXELS)
    first, second = data.split(random_state=0)[1], data.split(random_state=1)[1]
    first.read()
    assert (first.reads, second.reads) == (1, 0)


def test_groups_are_numbered_and_loners_are_their_own():
    numbers = Dataset.from_arrays(PIXELS, groups=["x", None, "x", None, "y", "x"]).group_ids
    assert numbers.tolist() == [0, 1, 0, 2, 3, 0]
    assert Dataset.from_arrays(PIXELS).group_ids is None
    mixed = Dataset.from_arrays(PIXELS, groups=[None, 0, None, (2,), None, ("", 4)])
    assert len(set(mixed.group_ids.tolist())) == 6, "whatever a group is called, it is no loner"
    assert "6 groups" in repr(mixed)
