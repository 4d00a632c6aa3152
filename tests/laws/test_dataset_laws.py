"""What holds for every Dataset, whatever is in it: splits are partitions, strata stay even, groups stay whole,
duplicates are found, and tables give back what was written."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headstart.dataset import Dataset, Target
from headstart.dataset.targets import make_target
from headstart.errors import HeadstartWarning

pytestmark = pytest.mark.filterwarnings("ignore::headstart.errors.HeadstartWarning")

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=2, max_size=80).filter(any)
GROUPS = st.integers(1, 12)


def labelled(labels, groups=None) -> Dataset:
    """Texts that are all different, with these labels."""
    return Dataset.from_arrays([f"text {i}" for i in range(len(labels))], labels, groups=groups)


@st.composite
def targets(draw, n):
    """A target column of any task for n items."""
    word = st.one_of(st.none(), st.sampled_from("abcde"))
    kinds = {
        "classification": st.lists(word, min_size=n, max_size=n),
        "multilabel": st.lists(st.one_of(st.none(), st.sets(st.sampled_from("abcde"))), min_size=n, max_size=n),
        "regression": st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=n, max_size=n),
        "summarization": st.lists(st.one_of(st.none(), st.text()), min_size=n, max_size=n),
    }
    task = draw(st.sampled_from(sorted(kinds)))
    return make_target(task, draw(kinds[task]), task)


@st.composite
def datasets(draw, least=2):
    """A Dataset with any targets, one or several columns or none, with or without groups."""
    n = draw(st.integers(least, 50))
    columns = [draw(targets(n)) for _ in range(draw(st.integers(0, 2)))]
    columns = [Target(f"{c.name} {i}", c.task, c.values, c.classes) for i, c in enumerate(columns)]
    groups = None
    if n > 1 and draw(st.booleans()):
        groups = [0, 1, *draw(st.lists(st.one_of(st.none(), GROUPS), min_size=n - 2, max_size=n - 2))]
    return Dataset([f"text {i}" for i in range(n)], columns, modality="text", groups=groups)


def numbers(data: Dataset) -> list[int]:
    return [int(item.split()[1]) for item in data.items]


def assert_rows_belong_together(piece: Dataset, data: Dataset) -> None:
    """Each item of a piece still has the targets and the group that it had."""
    for row, i in enumerate(numbers(piece)):
        for mine, its in zip(piece.columns, data.columns):
            assert mine.values[row] == its.values[i] and mine.classes == its.classes
        if data.groups is not None:
            assert piece.groups[row] == data.groups[i]


# ---- splits -------------------------------------------------------------------------------------------------------


@given(data=datasets(), share=st.floats(0.01, 0.99), seed=SEEDS)
def test_a_split_is_a_partition_and_labels_stay_with_their_items(data, share, seed):
    train, test = data.split(test_size=share, random_state=seed)
    assert sorted(numbers(train) + numbers(test)) == list(range(len(data)))
    assert len(train) and len(test)
    assert_rows_belong_together(train, data)
    assert_rows_belong_together(test, data)


@given(data=datasets(), share=st.floats(0.01, 0.99), seed=SEEDS)
def test_groups_are_disjoint(data, share, seed):
    assume(data.groups is not None)
    train, test = data.split(test_size=share, random_state=seed)
    assert not (set(train.groups) & set(test.groups)) - {None}


@given(labels=CLASSES, share=st.floats(0.01, 0.99), seed=SEEDS)
def test_stratification_is_exact_to_one_item(labels, share, seed):
    train, test = labelled(labels).split(test_size=share, random_state=seed)
    used = min(max(share, 1 / len(labels)), 1 - 1 / len(labels))
    counts, held_out, train_counts = Counter(labels), Counter(test.targets), Counter(train.targets)
    if not any(count > 1 for label, count in counts.items() if label is not None) and counts[None] < 2:
        return  # one item of each class: there is nothing to stratify
    for label, count in counts.items():
        assert abs(held_out[label] - count * used) < 1 + 1e-9
        if label is not None and count > 1:
            assert held_out[label] and train_counts[label], f"{label} is on both sides"
        if label is not None and count == 1 and len([c for c in counts if c is not None]) > 1:
            assert train_counts[label] == 1 or sum(held_out.values()) == 1


@given(labels=st.lists(st.integers(0, 3), min_size=20, max_size=200), share=st.floats(0.1, 0.9), seed=SEEDS)
def test_the_size_is_as_asked_when_classes_allow(labels, share, seed):
    assume(min(Counter(labels).values()) * min(share, 1 - share) >= 1)
    _, test = labelled([f"class {i}" for i in labels]).split(test_size=share, random_state=seed)
    assert len(test) == math.floor(len(labels) * share + 0.5)


@given(data=datasets(), share=st.floats(0.05, 0.95), seed=SEEDS, k=st.integers(2, 5))
def test_the_same_seed_gives_the_same_answer(data, share, seed, k):
    again = Dataset(data.items, data.columns, modality="text", groups=data.groups)
    assert [numbers(p) for p in data.split(share, seed)] == [numbers(p) for p in again.split(share, seed)]
    assert [numbers(c) for c in data.dirichlet(3, 0.5, seed)] == [numbers(c) for c in again.dirichlet(3, 0.5, seed)]
    assert numbers(data.sample(n=2, random_state=seed)) == numbers(again.sample(n=2, random_state=seed))
    if k <= len(data) and data.groups is None:
        np.testing.assert_array_equal(data.fold_ids(k, seed), again.fold_ids(k, seed))


@given(labels=CLASSES, seed=SEEDS, share=st.floats(0.1, 0.9))
def test_names_of_classes_do_not_matter(labels, seed, share):
    other = {"a": "zebra", "b": "ape", "c": "cow", "d": "bee", None: None}
    order = {name: i for i, name in enumerate(sorted({x for x in labels if x is not None}))}
    same_order = [None if x is None else f"{order[x]}{other[x]}" for x in labels]
    assert numbers(labelled(labels).split(share, seed)[1]) == numbers(labelled(same_order).split(share, seed)[1])


# ---- folds --------------------------------------------------------------------------------------------------------


@given(data=datasets(), k=st.integers(2, 8), seed=SEEDS)
def test_folds_cover_every_item_once(data, k, seed):
    units = len(data) if data.groups is None else len(set(data.groups) - {None}) + data.groups.count(None)
    assume(k <= units)
    ids = data.fold_ids(k, seed)
    assert ids.shape == (len(data),) and set(ids.tolist()) == set(range(k)), "no fold is empty"
    if data.groups is not None:
        folds_of = {}
        for group, fold in zip(data.groups, ids.tolist()):
            assert group is None or folds_of.setdefault(group, fold) == fold
    folds = data.folds(k, seed)
    assert sorted(i for _, held_out in folds for i in numbers(held_out)) == list(range(len(data)))
    for train, held_out in folds:
        assert sorted(numbers(train) + numbers(held_out)) == list(range(len(data)))
        assert_rows_belong_together(held_out, data)


@given(labels=CLASSES, k=st.integers(2, 8), seed=SEEDS)
def test_folds_are_stratified_to_one_item(labels, k, seed):
    assume(k <= len(labels))
    ids = labelled(labels).fold_ids(k, seed)
    assert np.ptp(np.bincount(ids, minlength=k)) <= 1
    for label in set(labels):
        assert np.ptp(np.bincount(ids[[x == label for x in labels]], minlength=k)) <= 1


# ---- samples and clients ------------------------------------------------------------------------------------------


@given(labels=CLASSES, each=st.integers(1, 30), seed=SEEDS)
def test_a_sample_has_so_many_of_each_class(labels, each, seed):
    sample = labelled(labels).sample(per_class=each, random_state=seed)
    expected = {label: min(count, each) for label, count in Counter(labels).items() if label is not None}
    assert Counter(sample.targets) == expected
    assert len(set(numbers(sample))) == len(sample)
    assert_rows_belong_together(sample, labelled(labels))


@given(labels=CLASSES, n=st.integers(1, 90), seed=SEEDS)
def test_a_sample_of_n_is_in_proportion(labels, n, seed):
    sample = labelled(labels).sample(n=n, random_state=seed)
    assert len(sample) == min(n, len(labels)) == len(set(numbers(sample)))
    for label, count in Counter(labels).items():
        assert abs(sample.targets.count(label) - count * len(sample) / len(labels)) < 1 + 1e-9


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=40),
    each=st.integers(1, 6),
    seed=SEEDS,
)
def test_a_sample_of_several_labels_has_enough_of_each(rows, each, seed):
    y = np.array(rows, int)
    assume(y.any())
    sample = labelled(y).sample(per_class=each, random_state=seed)
    got = sample.columns[0].matrix().sum(axis=0)
    assert (got >= np.minimum(y.sum(axis=0), each)).all() and len(sample) <= 4 * each


@given(data=datasets(), clients=st.integers(1, 12), alpha=st.floats(0.01, 100), seed=SEEDS)
def test_clients_are_a_partition(data, clients, alpha, seed):
    pieces = data.dirichlet(clients=clients, alpha=alpha, random_state=seed)
    assert len(pieces) == clients
    assert sorted(i for piece in pieces for i in numbers(piece)) == list(range(len(data)))
    assert clients > len(data) or all(len(piece) for piece in pieces), "no client is empty if that can be"
    for piece in pieces:
        assert_rows_belong_together(piece, data)


# ---- pieces and duplicates ----------------------------------------------------------------------------------------

TEXTS = st.lists(st.text(max_size=6), max_size=20)


@given(mine=TEXTS, theirs=TEXTS)
def test_overlap_and_without_agree_with_sets(mine, theirs):
    first, second = (Dataset(t, modality="text") for t in (mine, theirs))
    pairs = first.overlap(second)
    assert all(a == b for a, b in pairs) and [a for a, _ in pairs] == [t for t in mine if t in set(theirs)]
    assert list(first.without(second).items) == [t for t in mine if t not in set(theirs)]
    assert not first.without(second).overlap(second)
    assert len(first.overlap(first)) == len(mine)


@given(contents=st.lists(st.binary(max_size=8), min_size=2, max_size=12), cut=st.integers(1, 11), hashed=st.booleans())
@settings(max_examples=30)
def test_duplicate_files_are_found_by_content(tmp_path_factory, contents, cut, hashed):
    assume(cut < len(contents))
    folder = tmp_path_factory.mktemp("files")
    for i, content in enumerate(contents):
        (folder / f"{i:02}.jpg").write_bytes(content)
    data = Dataset.from_folder(folder)
    if hashed:
        data.keys()
    first, second = data.take(range(cut)), data.take(range(cut, len(data)))
    assert [a.read_bytes() for a, _ in first.overlap(second)] == [c for c in contents[:cut] if c in contents[cut:]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in first.overlap(second))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = data.split(test_size=0.5)
    shared = {p.read_bytes() for p in train.items} & {p.read_bytes() for p in test.items}
    assert bool(shared) == any(issubclass(w.category, HeadstartWarning) for w in caught)


@given(data=datasets(least=1), seed=SEEDS)
def test_taking_twice_is_taking_once(data, seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(data), 10)
    second = rng.integers(0, 10, 5)
    twice, once = data.take(first).take(second), data.take(first[second])
    assert twice.items == once.items and twice.fingerprint == once.fingerprint
    assert twice.keys() == [data.keys()[i] for i in first[second]]
    assert_rows_belong_together(once, data)


@given(data=datasets(least=1))
def test_one_line_and_a_fingerprint_for_all(data):
    assert "\n" not in repr(data) and repr(data).startswith(f"Dataset: {len(data)} text")
    assert len(data.fingerprint) == 16
    renamed = Dataset(data.items, data.columns, modality="text")
    assert renamed.fingerprint == data.fingerprint


@given(st.integers(1, 20).flatmap(targets))
def test_matrices_say_what_the_labels_say(target):
    if target.task == "summarization":
        return
    matrix = target.matrix()
    for row, value in zip(matrix, target.values):
        if value is None:
            assert np.isnan(row).all()
        elif target.task == "classification":
            assert row.sum() == 1 and target.classes[int(row.argmax())] == value
        elif target.task == "multilabel":
            assert tuple(c for c, on in zip(target.classes, row) if on) == value
        else:
            assert row.tolist() == [value]
    codes = np.zeros_like(matrix)
    codes[target.pairs()] = 1
    if target.classes is not None:
        np.testing.assert_array_equal(codes, np.nan_to_num(matrix))


# ---- tables give back what was written ----------------------------------------------------------------------------

# Anything that UTF-8 can carry, NUL excepted (which is refused, with its line).
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
HOSTILE = st.one_of(
    CELLS,
    st.sampled_from(['"', '""', ",", ";", "\t", "\n", "\r", "\r\n", "'", "\\", "\ufeff", "\u2028", "\x1a", "=1+1"]),
)
LABELS = st.one_of(HOSTILE, st.sampled_from(["0", "1", "-1", "007", "1.5", "NA", "nan", "[]", "true", " a", "a "]))
ROWS = st.lists(st.tuples(HOSTILE, LABELS), min_size=1, max_size=8)


def written(rows, delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([("text", "label"), *rows])
    return out.getvalue().encode()


@given(rows=ROWS, suffix=st.sampled_from(["csv", "tsv"]), mark=st.booleans())
@settings(max_examples=150)
def test_csv_gives_back_hostile_strings(tmp_path_factory, rows, suffix, mark):
    # A cell with a tab and a line break is where a tsv's quotes may be plain characters; see test_tables.py.
    assume(suffix == "csv" or not any("\t" in cell and "\n" in cell for row in rows for cell in row))
    path = tmp_path_factory.mktemp("tables") / f"t.{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" * mark + written(rows, "," if suffix == "csv" else "\t"))
    data = Dataset.from_table(path, input="text", target="label", task="summarization", modality="text")
    assert list(data.items) == [text for text, _ in rows]
    assert list(data.targets) == [label if label.strip() else None for _, label in rows]


@given(rows=ROWS)
@settings(max_examples=100)
def test_classes_of_a_csv_are_its_labels(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    path.write_bytes(written(rows, ","))
    data = Dataset.from_table(path, input="text", target="label", task="classification", modality="text")
    given_labels = [label if label.strip() else None for _, label in rows]
    if all(isinstance(v, int) for v in data.targets if v is not None):
        assert [None if v is None else str(v) for v in data.targets] == [v and v.strip() for v in given_labels]
    else:
        assert list(data.targets) == given_labels
    assert set(data.classes) == {v for v in data.targets if v is not None}


JSON_TEXT = st.text(max_size=20)  # lone surrogates and NUL included
JSON_LABELS = st.one_of(
    st.lists(st.one_of(st.none(), JSON_TEXT), min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), st.floats(-1e150, 1e150)), min_size=4, max_size=4),  # squares are finite
    st.lists(st.lists(JSON_TEXT, max_size=3), min_size=4, max_size=4),
    st.lists(st.one_of(st.none(), st.booleans()), min_size=4, max_size=4),
)


@given(texts=st.lists(JSON_TEXT, min_size=4, max_size=4), labels=JSON_LABELS)
@settings(max_examples=100)
def test_jsonl_gives_back_what_was_written(tmp_path_factory, texts, labels):
    assume(any(v is not None for v in labels))
    path = tmp_path_factory.mktemp("tables") / "t.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "label": v}) for t, v in zip(texts, labels)) + "\n")
    data = Dataset.from_table(path, input="text", target="label", modality="text")
    assert list(data.items) == texts
    expected = [tuple(sorted(set(v))) if isinstance(v, list) else v for v in labels]
    assert list(data.targets) == expected


@given(rows=st.lists(st.tuples(JSON_TEXT.filter(lambda t: t.isprintable()), st.integers(0, 3)), min_size=1, max_size=8))
@settings(max_examples=20)
def test_parquet_gives_back_what_was_written(tmp_path_factory, rows):
    files, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("tables") / "t.parquet"
    files.write_table(arrow.table({"text": [t for t, _ in rows], "label": [n for _, n in rows]}), path)
    data = Dataset.from_table(path, input="text", target="label", task="classification", modality="text")
    assert list(zip(data.items, data.targets)) == rows
