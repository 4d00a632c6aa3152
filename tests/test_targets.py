"""Labels as people write them → targets: kinds, tasks, missing ones, matrices, and the sentences for what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from headstart._base.progress import listening
from headstart.dataset.targets import (
    Target,
    looks_like_classes,
    make_target,
    make_targets,
    parse_cells,
    parse_target,
    relabel,
)
from headstart.errors import DataError, OptionError, UnknownName
from listeners import Notes


def noted(work):
    """What a piece of work says while it runs."""
    notes = Notes()
    with listening(notes):
        work()
    return " | ".join(notes)


# ---- which task ---------------------------------------------------------------------------------------------------

INFERRED = {
    "strings": (["a", "b", "a"], "classification", ("a", "b")),
    "one class": (["a", "a"], "classification", ("a",)),
    "booleans": ([True, False], "classification", (False, True)),
    "0 and 1": ([0, 1, 1, 0], "classification", (0, 1)),
    "one-based": ([1, 2, 3, 1, 2, 3], "classification", (1, 2, 3)),
    "each once, from 0": ([0, 1, 2], "classification", (0, 1, 2)),
    "plus and minus one": ([-1, 1, -1], "classification", (-1, 1)),
    "few that repeat": ([10, 20, 10, 20, 30, 30], "classification", (10, 20, 30)),
    "ages": ([31, 64, 19, 47, 22], "regression", None),
    "counts": (list(range(0, 300, 3)) * 3, "regression", None),
    "positions": (list(range(100)), "regression", None),
    "fractions": ([0.5, 1.5], "regression", None),
    "whole floats": ([0.0, 1.0, 1.0], "regression", None),
    "numbers and fractions": ([1, 2.5], "regression", None),
    "numbers and names": ([1, "a"], "classification", ("1", "a")),
    "lists of names": ([["a"], ["b", "a"], []], "multilabel", ("a", "b")),
    "sets of numbers": ([{2, 1}, {3}], "multilabel", (1, 2, 3)),
    "rows of fractions": ([[0.5, 1.0], [2.0, 3.0]], "regression", None),
    "rows of mixed numbers": ([[0.5, 1], [2, 3]], "regression", None),
    "with holes": (["a", None, "b"], "classification", ("a", "b")),
}


@pytest.mark.parametrize("case", INFERRED)
def test_the_task_is_seen_from_the_labels(case):
    values, task, classes = INFERRED[case]
    target = make_target("t", values)
    assert (target.task, target.classes) == (task, classes)
    assert len(target.values) == len(values)


def test_a_hundred_classes_of_ten_are_classes():
    assert make_target("t", list(range(100)) * 10).task == "classification"


def test_many_repeated_numbers_that_are_no_codes_are_a_quantity():
    ages = np.random.default_rng(0).integers(18, 90, 1000).tolist()
    assert make_target("age", ages).task == "regression"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([0], True), ([5, 5], True), ([1, 2], True), ([0, 2], True), ([0, 5, 9], False), (list(range(21)), False)],
)
def test_like_classes(numbers, expected):
    assert looks_like_classes(numbers) is expected


def test_the_choice_for_whole_numbers_is_told_with_the_way_to_change_it():
    notes = noted(lambda: make_target("grade", [0.0, 1.0, None, 1.0]))
    assert "written as 0.0: taken as regression" in notes and "task='classification'" in notes
    assert "taken as" not in noted(lambda: make_target("grade", [31.0, 64.0, 19.0])) + noted(
        lambda: make_target("grade", [0.0, 0.5])
    )
    notes = noted(lambda: make_target("grade", [0, 1, 0, 1]))
    assert "'grade'" in notes and "classification" in notes and "task='regression'" in notes
    assert make_target("grade", [0, 1, 0, 1], "regression").values == (0.0, 1.0, 0.0, 1.0)


def test_free_text_as_a_class_is_pointed_out():
    notes = noted(lambda: make_target("notes", [f"sentence {i}" for i in range(80)]))
    assert "80 different values" in notes and "summarization" in notes
    texts = [f"{i} " + "word " * 20 for i in range(3)]
    assert "summarization" in noted(lambda: make_target("notes", texts))
    assert "summarization" not in noted(lambda: make_target("notes", texts + texts[:1]))
    assert "summarization" not in noted(lambda: make_target("kind", ["cat", "dog", "bird"]))
    assert not noted(lambda: make_target("kind", ["a", "b"] * 40))


def test_classes_that_differ_by_case_or_space_are_pointed_out_not_merged():
    target = make_target("t", ["cat", "Cat", "dog "])
    assert target.classes == ("Cat", "cat", "dog ")
    assert "'Cat' and 'cat'" in noted(lambda: make_target("t", ["cat", "Cat"]))


# ---- plain Python -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array(["b", "a"]), ["b", "a"]),
        (np.array([1, 0, 1]), [1, 0, 1]),
        ([np.str_("x"), np.str_("y")], ["x", "y"]),
        ([np.int64(1), np.int8(0)], [1, 0]),
        ([np.bool_(True), False], [True, False]),
        (np.array([1.5, np.nan]), [1.5, None]),
        ([np.float32(0.5), 2], [0.5, 2.0]),
        (np.array([["a"], ["b"]]), ["a", "b"]),
        (np.array([[0], [1]]), [0, 1]),
        (np.array(["a", None, "b"], object), ["a", None, "b"]),
        (("a", "b"), ["a", "b"]),
    ],
)
def test_numpy_becomes_plain_python(values, expected):
    values = make_target("t", values).values
    assert list(values) == expected
    assert [type(v) for v in values] == [type(v) for v in expected]


def test_an_object_that_behaves_like_a_column_is_taken():
    class Series:
        def __init__(self, values):
            self.values = values

        def __len__(self):
            return len(self.values)

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

        def to_numpy(self):
            return np.asarray(self.values)

    assert make_target("t", Series(["a", "b"])).values == ("a", "b")


def test_pandas_na_is_missing():
    class NAType:
        pass

    assert make_target("t", ["a", NAType()]).values == ("a", None)


@pytest.mark.parametrize("strange", [[b"bytes"], [{"a": 1}], [object()], [1 + 2j]])
def test_strange_labels_are_refused(strange):
    with pytest.raises(DataError, match=r"'t' holds a .*allowed are texts, numbers"):
        make_target("t", strange)


def test_all_missing_needs_a_task():
    with pytest.raises(DataError, match=r"no value in any of its 2 rows"):
        make_target("t", [None, float("nan")])
    assert make_target("t", [None, None], "classification").classes == ()
    assert make_target("t", [None, None], "regression").values == (None, None)


# ---- forced tasks -------------------------------------------------------------------------------------------------


def test_unknown_task_names_the_nearest():
    with pytest.raises(UnknownName, match=r"did you mean 'classification'"):
        make_target("t", ["a"], "clasification")


WRONG = {
    "fractions as classes": ([0.5, 1.0], "classification", r"fractions \(item 0\).*task='regression'"),
    "lists as classes": ([["a"], ["b"]], "classification", r"lists of labels.*multilabel"),
    "names as numbers": (["1", "x", "y", "2"], "regression", r"no finite number is in item 1, item 2, e.g. 'x'"),
    "infinity": ([1.0, float("inf")], "regression", r"item 1"),
    "too large": ([10**400], "regression", r"item 0"),
    "unequal rows": ([[1.0, 2.0], [1.0]], "regression", r"different lengths: \[1, 2\]"),
    "rows and numbers": ([[1.0, 2.0], 1.0], "regression", r"different lengths"),
    "numbers as texts": ([1, 2], "summarization", r"its values are texts; item 0, item 1"),
    "fractions as labels": ([[0.5], [1.5, 2.5]], "multilabel", r"list of names; item 0, item 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_values_that_do_not_fit_the_task(case):
    values, task, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        make_target("t", values, task)


def test_only_the_first_bad_ones_are_named():
    with pytest.raises(DataError, match=r"item 0, item 1, item 2 and 7 more"):
        make_target("t", ["x"] * 10, "regression")


def test_an_empty_summary_is_none_and_an_empty_transcript_is_silence():
    values = ["a b", "", " \n", None]
    assert make_target("t", values, "summarization").values == ("a b", None, None, None)
    assert make_target("t", values, "transcription").values == tuple(values)


def test_whole_floats_can_be_classes():
    assert make_target("t", [0.0, 1.0, None], "classification").values == (0, 1, None)


def test_written_numbers_are_numbers_for_regression():
    assert make_target("t", ["1.5", " 2 ", "1e3"], "regression").values == (1.5, 2.0, 1000.0)


def test_single_labels_may_be_multilabel():
    assert make_target("t", ["a", ["b", "a", "b"], None], "multilabel").values == (("a",), ("a", "b"), None)


def test_texts_stay_as_they_are():
    values = [" two\nlines ", None]
    assert make_target("t", values, "summarization") == Target("t", "summarization", tuple(values), None)


# ---- matrices in --------------------------------------------------------------------------------------------------


def test_a_zero_one_matrix_is_multilabel_and_keeps_empty_columns():
    target = make_target("t", np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]]))
    assert target == Target("t", "multilabel", ((0,), (0, 1), ()), (0, 1, 2))
    assert make_target("t", np.array([[1.0, 0.0]]), "multilabel").classes == (0, 1)
    assert make_target("t", np.array([[True], [False]]), "multilabel").values == ((0,), ())


def test_a_matrix_of_fractions_is_regression_with_several_outputs():
    target = make_target("t", np.array([[0.5, 1], [np.nan, np.nan], [2, 3]]))
    assert target == Target("t", "regression", ((0.5, 1.0), None, (2.0, 3.0)), None)
    assert make_target("t", np.array([[1, 2], [3, 4]])).task == "regression"


def test_matrices_that_do_not_fit():
    with pytest.raises(DataError, match=r"argmax"):
        make_target("t", np.eye(3), "classification")
    with pytest.raises(DataError, match=r"other values than 0 and 1"):
        make_target("t", np.full((2, 2), 2), "multilabel")
    with pytest.raises(DataError, match=r"shape \(2, 2, 2\)"):
        make_target("t", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"no finite number is in item 0"):
        make_target("t", np.array([[1.0, np.nan]]))


# ---- matrices out -------------------------------------------------------------------------------------------------


def test_one_hot():
    target = make_target("t", ["b", None, "a"])
    np.testing.assert_array_equal(target.codes(), [1, -1, 0])
    np.testing.assert_array_equal(target.matrix(), [[0, 1], [np.nan, np.nan], [1, 0]])
    assert target.matrix().dtype == np.float64


def test_indicators():
    target = make_target("t", [["b", "a"], [], None, ["b"]])
    np.testing.assert_array_equal(target.matrix(), [[1, 1], [0, 0], [np.nan, np.nan], [0, 1]])
    items, classes = target.pairs()
    assert list(zip(items.tolist(), classes.tolist())) == [(0, 0), (0, 1), (3, 1)]


def test_values():
    np.testing.assert_array_equal(make_target("t", [1.5, None]).matrix(), [[1.5], [np.nan]])
    several = make_target("t", [[1.0, 2.5], None, [3.0, 4.5]])
    np.testing.assert_array_equal(several.matrix(), [[1, 2.5], [np.nan, np.nan], [3, 4.5]])
    assert make_target("t", [], "regression").matrix().shape == (0, 1)


def test_a_piece_keeps_the_classes_of_the_whole():
    piece = make_target("t", ["a", "b", "c", "a"]).take(np.array([3, 0]))
    assert piece.values == ("a", "a") and piece.classes == ("a", "b", "c")
    np.testing.assert_array_equal(piece.matrix(), [[1, 0, 0], [1, 0, 0]])


def test_texts_have_no_matrix_and_regression_no_codes():
    with pytest.raises(DataError, match=r"texts and have no matrix"):
        make_target("t", ["x"], "transcription").matrix()
    with pytest.raises(DataError, match=r"only classification"):
        make_target("t", [0.5]).codes()
    assert [len(a) for a in make_target("t", [0.5]).pairs()] == [0, 0]


# ---- table cells --------------------------------------------------------------------------------------------------

CELLS = {
    "whole numbers": (["0", "1", "", "1"], None, "classification", (0, 1, None, 1)),
    "with spaces": ([" 0", "1 ", "1"], None, "classification", (0, 1, 1)),
    "codes keep their zeros": (["007", "012", "007"], None, "classification", ("007", "012", "007")),
    "fractions": (["1.5", "2", ""], None, "regression", (1.5, 2.0, None)),
    "exponents": (["1e3", "-2.5E-1"], None, "regression", (1000.0, -0.25)),
    "missing words among numbers": (["1.5", "NA", "nan", "null"], None, "regression", (1.5, None, None, None)),
    "NA may be a class": (["NA", "EU", "NA"], None, "classification", ("NA", "EU", "NA")),
    "names": (["a", "1"], None, "classification", ("a", "1")),
    "names keep their spaces": ([" a", "a"], None, "classification", (" a", "a")),
    "spaces are nothing": (["a", "  "], None, "classification", ("a", None)),
    "JSON lists": (['["a", "b"]', "[]", ""], None, "multilabel", (("a", "b"), (), None)),
    "JSON rows": (["[0.5, 1]", "[2, 3]"], None, "regression", ((0.5, 1.0), (2.0, 3.0))),
    "a bracket is not a list": (["[sic]", "[ok]"], None, "classification", ("[sic]", "[ok]")),
    "half a list": (['["a"]', "b"], None, "classification", ('["a"]', "b")),
    "semicolons": (["a; b", "b", ""], "multilabel", "multilabel", (("a", "b"), ("b",), None)),
    "bars": (["a|b", "c"], "multilabel", "multilabel", (("a", "b"), ("c",))),
    "forced lists": (['["a"]', "[]"], "multilabel", "multilabel", (("a",), ())),
    "forced classes": (["1", "2"], "classification", "classification", (1, 2)),
    "forced classes, fractions are names": (["1.5", "2"], "classification", "classification", ("1.5", "2")),
    "forced classes, NA is a name": (["1", "NA"], "classification", "classification", ("1", "NA")),
    "forced numbers": (["1", "", "NaN"], "regression", "regression", (1.0, None, None)),
    "summaries": (["12", "", "[1]"], "summarization", "summarization", ("12", None, "[1]")),
    "underscores are no digits": (["1_0", "2_0"], None, "classification", ("1_0", "2_0")),
    "very long numbers": (["9" * 30, "1" * 30], None, "classification", ("9" * 30, "1" * 30)),
    "minus zero": (["-0", "0"], None, "classification", ("-0", "0")),
    "infinity is a word": (["inf", "1.5"], None, "classification", ("inf", "1.5")),
}


@pytest.mark.parametrize("case", CELLS)
def test_cells(case):
    cells, requested, task, values = CELLS[case]
    target = parse_target("t", cells, requested)
    assert (target.task, target.values) == (task, values)
    assert [type(v) for v in target.values] == [type(v) for v in values]


def test_a_bad_cell_is_named_by_its_place():
    with pytest.raises(DataError, match=r"line 3, e.g. 'tall'"):
        parse_target("t", ["1", "tall"], "regression", where=lambda i: f"line {i + 2}")


def test_from_cells_is_plain():
    assert parse_cells(["1", "2"], None) == [1, 2]
    assert parse_cells(["[" * 100_000], None) == ["[" * 100_000]


# ---- several columns, other labels --------------------------------------------------------------------------------


def test_columns_from_a_mapping_and_tasks_by_name():
    columns = make_targets({"kind": ["a", "b"], "size": [1, 2]}, 2, task={"size": "regression"})
    assert [(c.name, c.task) for c in columns] == [("kind", "classification"), ("size", "regression")]
    with pytest.raises(UnknownName, match=r"did you mean 'size'"):
        make_targets({"size": [1, 2]}, 2, task={"sise": "regression"})


def test_columns_must_be_as_long_as_the_items():
    with pytest.raises(DataError, match=r"3 items but 2 labels in 'target'; give one per item"):
        make_targets(["a", "b"], 3, task=None)


@pytest.mark.parametrize("values", ["label", 5, None, b"x"])
def test_a_column_is_a_sequence(values):
    with pytest.raises(OptionError, match=r"must be a list or an array"):
        make_targets(values, 1, task=None)


def test_relabel_keeps_classes_and_task_where_the_labels_are_alike():
    old = make_target("kind", ["a", "b", "c"])
    assert relabel(old, np.array(["a", "a", "b"])) == Target("kind", "classification", ("a", "a", "b"), ("a", "b", "c"))
    assert relabel(old, ["x", "a", "b"]).classes == ("a", "b", "x")
    assert relabel(old, [0.5, 1.5, 2.5]).task == "regression"
    assert relabel(old, [["a"], ["b"], []]).task == "multilabel"


def test_relabel_keeps_regression_of_whole_numbers():
    old = make_target("age", [3, 4, 5], "regression")
    assert relabel(old, [5, 4, 3]) == Target("age", "regression", (5.0, 4.0, 3.0), None)
    assert relabel(old, ["old", "young", "old"]).task == "classification"


def test_relabel_keeps_texts_texts():
    old = make_target("summary", ["x", "y"], "summarization")
    assert relabel(old, ["y", "x"]).task == "summarization"


def test_numbers_whose_squares_overflow_are_no_targets():
    """Every loss and every metric squares errors."""
    with pytest.raises(DataError, match=r"no finite number is in item 1, .*up to 1e\+150"):
        make_target("y", [1.0, 1e200], "regression")
