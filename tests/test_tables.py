"""csv, tsv, jsonl and parquet as they lie around: encodings, quotes, ragged rows, huge cells, damaged files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from headstart.dataset import Dataset
from headstart.dataset.tables import read_table
from headstart.errors import DataError, HeadstartError, MissingPackage, OptionError, UnknownName


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def text_table(folder: Path, name: str, content: str | bytes, **options) -> Dataset:
    return Dataset.from_table(write(folder, name, content), **{"input": "text", "target": "label", **options})


# ---- formats ------------------------------------------------------------------------------------------------------

SAME = {
    "a.csv": "text,label\nhello,x\nworld,y\n",
    "b.csv": "text;label\nhello;x\nworld;y\n",
    "c.csv": "\ufefftext,label\r\nhello,x\r\nworld,y",
    "d.csv": 'label,"text"\r"x","hello"\ry,world\r',
    "e.csv": "\n\ntext , label\n\nhello,x\n\nworld,y\n\n",
    "f.CSV": "text\tlabel\nhello\tx\nworld\ty\n",
    "g.tsv": "text\tlabel\nhello\tx\nworld\ty\n",
    "h.tab": "text|label\nhello|x\nworld|y\n",
    "i.jsonl": '{"text": "hello", "label": "x"}\n\n{"label": "y", "text": "world", "more": 1}\n',
    "j.ndjson": '\ufeff{"text": "hello", "label": "x"}\n{"text": "world", "label": "y"}',
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_reads_alike(tmp_path, name):
    data = text_table(tmp_path, name, SAME[name])
    assert data.items == ("hello", "world") and data.targets == ("x", "y")
    assert data.classes == ("x", "y") and data.modality == "text" and data.task == "classification"


def test_quotes_and_newlines_inside(tmp_path):
    data = text_table(tmp_path, "a.csv", 'text,label\n"two\nlines, one ""cell""",x\nplain,y\n')
    assert data.items == ('two\nlines, one "cell"', "plain")


def test_columns_that_are_not_asked_for_are_not_kept(tmp_path):
    table = read_table(write(tmp_path, "a.csv", "a,b,c\n1,2,3\n"), lambda names: ["b"])
    assert table.names == ("a", "b", "c") and table.columns == {"b": ["2"]} and table.lines == [2]


def test_lines_are_those_on_which_rows_start(tmp_path):
    path = write(tmp_path, "a.csv", '\na\n"x\ny"\nz\n')
    assert read_table(path, lambda names: names).lines == [3, 5]
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert read_table(path, lambda names: names).lines == [1, 3]


def test_large_cells(tmp_path):
    big = "x" * 1_000_000
    data = text_table(tmp_path, "a.csv", f'text,label\n{big},a\n"{big}\n",b\n')
    assert [len(t) for t in data.items] == [1_000_000, 1_000_001]


def test_many_rows(tmp_path):
    rows = "".join(f"some text number {i},{i % 3}\n" for i in range(50_000))
    data = text_table(tmp_path, "a.csv", "text,label\n" + rows)
    assert len(data) == 50_000 and data.classes == (0, 1, 2) and data.items[-1].endswith("49999")


# ---- tab-separated with loose quotes ------------------------------------------------------------------------------


def test_tsv_with_plain_quotes_inside(tmp_path):
    data = text_table(tmp_path, "a.tsv", 'text\tlabel\n"Hello" he said\tx\nshe "left\ty\n')
    assert data.items == ('"Hello" he said', 'she "left')


def test_tsv_with_an_unpaired_quote_at_the_start(tmp_path):
    data = text_table(tmp_path, "a.tsv", 'text\tlabel\n"Hello\tx\nbye\ty\n')
    assert data.items == ('"Hello', "bye")


def test_tsv_with_quotes_that_pair_over_rows(tmp_path):
    data = text_table(tmp_path, "a.tsv", 'text\tlabel\n"Hello\tx\nmiddle\ty\nbye"\tz\n')
    assert data.targets == ("x", "y", "z")


def test_tsv_with_proper_quotes(tmp_path):
    data = text_table(tmp_path, "a.tsv", 'text\tlabel\n"a\tb"\tx\n"c\nd"\ty\n')
    assert data.items == ("a\tb", "c\nd")


def test_tsv_that_is_wrong_either_way_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.tsv, line 2"):
        text_table(tmp_path, "a.tsv", 'text\tlabel\n"x\n')


# ---- what is refused, with its line -------------------------------------------------------------------------------

BROKEN = {
    "empty": ("a.csv", "", r"is empty"),
    "only blank lines": ("a.csv", "\n\n", r"is empty"),
    "header only": ("a.csv", "text,label\n", r"columns \(text, label\) but no rows"),
    "too many cells": ("a.csv", "text,label\na,b\nhello, you,x\n", r"line 3: 3 cells, but the header has 2"),
    "too few cells": ("a.csv", 'text,label\n"a\nb",x\nonly\n', r"line 4: 1 cells"),
    "unclosed quote": ("a.csv", 'text,label\na,x\n"hello,y\nworld,z\n', r"line 3: .*quote"),
    "text after a quote": ("a.csv", 'text,label\n"a" b,x\n', r"line 2: .*quote"),
    "latin-1": ("a.csv", "text,label\nok,x\ncaf\xe9,y\n".encode("latin-1"), r"line 3: the byte 0xe9 is not UTF-8"),
    "utf-16": ("a.csv", "text,label\na,b\n".encode("utf-16"), r"UTF-16; save it as UTF-8"),
    "NUL": ("a.csv", b"text,label\na\x00b,x\n", r"line 2: a NUL byte"),
    "binary": ("a.csv", b"PK\x03\x04\x00\x00\xff\xfe" * 20, r"NUL|UTF-8"),
    "empty jsonl": ("a.jsonl", "\n", r"is empty"),
    "no JSON": ("a.jsonl", '{"text": "a", "label": "x"}\n{text}\n', r"line 2 is no JSON"),
    "a JSON list": ("a.jsonl", "[1, 2]\n", r"line 1 is a JSON list"),
    "a JSON number": ("a.jsonl", "5\n", r"line 1 is a JSON int"),
    "deep JSON": ("a.jsonl", '{"a": ' * 100_000, r"line 1 is no JSON"),
    "huge number": ("a.jsonl", f'{{"text": {"9" * 5000}}}', r"line 1 is no JSON"),
    "jsonl in latin-1": ("a.jsonl", b'{"text": "\xe9", "label": "x"}', r"line 1: the byte 0xe9"),
    "no input": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"label": 2}\n',
        r"line 2: the input column 'text' holds nothing",
    ),
    "a number as input": ("a.jsonl", '{"text": 5, "label": 1}', r"holds a int, not a text or a path"),
    "a list as input": ("a.jsonl", '{"text": [1.5], "label": 1}', r"Vectors go to Dataset.from_arrays"),
    "an object as label": ("a.jsonl", '{"text": "a", "label": {"x": 1}}', r"'label' holds a dict"),
    "spreadsheet": ("a.xlsx", b"PK\x03\x04", r"known formats: csv, tsv, jsonl, parquet"),
    "no suffix": ("table", "text,label\na,b\n", r"known formats"),
    "not parquet": ("a.parquet", b"PAR1 but not really", r"cannot be read as parquet"),
    "empty parquet": ("a.parquet", b"", r"cannot be read as parquet"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tables_are_refused_in_a_sentence(tmp_path, case):
    name, content, message = BROKEN[case]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=message) as caught:
        text_table(tmp_path, name, content)
    assert name in str(caught.value) or "'label'" in str(caught.value)


def test_several_ragged_rows_come_together(tmp_path):
    with pytest.raises(DataError) as caught:
        text_table(tmp_path, "a.csv", "text,label\na\nb\nok,x\nc,d,e\nf\n")
    message = str(caught.value)
    assert all(f"line {n}:" in message for n in (2, 3, 5)) and "line 6" not in message


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"There is no table .*gone\.csv"):
        Dataset.from_table(tmp_path / "gone.csv", input="text")
    with pytest.raises(DataError, match=r"from_folder"):
        Dataset.from_table(tmp_path, input="text")
    with pytest.raises(DataError, match=r"There is no table"):
        Dataset.from_table("x" * 5000 + ".csv", input="text")


def test_unknown_columns_name_the_nearest(tmp_path):
    content = "text,label\na,x\n"
    with pytest.raises(
        UnknownName, match=r"'txt' is not one of the columns of a.csv; did you mean 'text'\? Known: text, l"
    ):
        text_table(tmp_path, "a.csv", content, input="txt")
    with pytest.raises(UnknownName, match=r"did you mean 'label'"):
        text_table(tmp_path, "a.csv", content, target=["labels"])
    for option in ("groups", "split"):
        with pytest.raises(UnknownName, match=r"'speaker' is not one"):
            text_table(tmp_path, "a.csv", content, **{option: "speaker"})
    with pytest.raises(UnknownName, match=r"did you mean 'label'"):
        text_table(tmp_path, "a.jsonl", '{"text": "a", "label": 1}', target="labl")


def test_a_column_twice(tmp_path):
    content = "text,label,label\na,x,y\n"
    with pytest.raises(DataError, match=r"2 columns called 'label'"):
        text_table(tmp_path, "a.csv", content)
    assert text_table(tmp_path, "a.csv", content, target=None).items == ("a",)


# ---- the input column ---------------------------------------------------------------------------------------------


def test_the_input_column_may_be_obvious(tmp_path):
    path = write(tmp_path, "a.csv", "id,Sentence\n1,hello\n")
    assert Dataset.from_table(path).items == ("hello",)
    with pytest.raises(OptionError, match=r"'path' and 'text' both could be.*Columns: path, text"):
        Dataset.from_table(write(tmp_path, "b.csv", "path,text\na,b\n"))
    with pytest.raises(OptionError, match=r"no column has an obvious name"):
        Dataset.from_table(write(tmp_path, "c.csv", "x,y\na,b\n"))


def test_paths_are_relative_to_the_table(tmp_path, monkeypatch):
    write(tmp_path, "data/clips/a.wav", b"x")
    path = write(tmp_path, "data/t.csv", "path,label\nclips/a.wav,x\nclips/gone.wav,y\n")
    monkeypatch.chdir(tmp_path)
    data = Dataset.from_table("data/t.csv", input="path", target="label")
    assert data.modality == "audio" and data.root == Path("data")
    assert [item.resolve() for item in data.items] == [path.parent / "clips/a.wav", path.parent / "clips/gone.wav"]


def test_absolute_paths(tmp_path):
    photo = write(tmp_path, "elsewhere/a.JPG", b"x")
    data = text_table(tmp_path, "t.csv", f"text,label\n{photo},x\n")
    assert data.items == (photo,) and data.modality == "image"


def test_no_file_there_names_where_it_would_be(tmp_path):
    with pytest.raises(DataError) as caught:
        text_table(tmp_path, "t.csv", "text,label\na/1.jpg,x\na/2.jpg,y\n")
    assert str(tmp_path / "a/1.jpg") in str(caught.value) and "relative to the table's folder" in str(caught.value)


def test_texts_that_end_like_files_are_texts(tmp_path):
    content = "text,label\nWhat is the full form of .com ?,x\nRead notes.txt,y\nplain,z\n"
    data = text_table(tmp_path, "t.csv", content)
    assert data.modality == "text" and data.items[1] == "Read notes.txt"


def test_modality_says_what_the_column_holds(tmp_path):
    content = "text,label\na.txt,x\nb.txt,y\n"
    assert text_table(tmp_path, "t.csv", content, modality="text").items == ("a.txt", "b.txt")
    write(tmp_path, "a.txt", "hello")
    assert text_table(tmp_path, "t.csv", content).items == (tmp_path / "a.txt", tmp_path / "b.txt")
    write(tmp_path, "scan", b"x")
    data = text_table(tmp_path, "u.csv", "text,label\nscan,x\n", modality="image")
    assert data.items == (tmp_path / "scan",) and data.modality == "image"
    with pytest.raises(UnknownName, match=r"modalities of a table's input"):
        text_table(tmp_path, "t.csv", content, modality="vector")


def test_several_modalities_need_a_word(tmp_path):
    write(tmp_path, "a.jpg", b"x")
    content = "text,label\na.jpg,x\nb.wav,y\n"
    with pytest.raises(DataError, match=r"several modalities \(1 image, 1 audio\); say modality="):
        text_table(tmp_path, "t.csv", content)
    assert len(text_table(tmp_path, "t.csv", content, modality="image")) == 2


def test_hostile_cells_in_a_path_column(tmp_path):
    write(tmp_path, "a.jpg", b"x")
    rows = [{"text": t, "label": 1} for t in ("a.jpg", "", "x\u0000.jpg", "y" * 5000 + ".jpg", "z\n.jpg")]
    data = text_table(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert data.modality == "image" and len(data) == 5
    result = data.keys()
    assert [key is not None for key in result] == [True, False, False, False, False]


# ---- targets, groups, parts ---------------------------------------------------------------------------------------


def test_targets_one_several_none(tmp_path):
    content = "text,kind,size\na,x,0.5\nb,,\n"
    data = text_table(tmp_path, "t.csv", content, target=["kind", "size"])
    assert data.targets == {"kind": ("x", None), "size": (0.5, None)}
    assert data.task == {"kind": "classification", "size": "regression"}
    assert data.classes == {"kind": ("x",), "size": None} and data.target_names == ("kind", "size")
    assert text_table(tmp_path, "t.csv", content, target=None).targets is None
    assert text_table(tmp_path, "t.csv", content, target=["kind", "kind"]).targets == ("x", None)


def test_tasks_by_column(tmp_path):
    content = "text,tags,year\na,x;y,1999\nb,z,2001\n"
    data = text_table(tmp_path, "t.csv", content, target=["tags", "year"], task={"tags": "multilabel"})
    assert data.targets == {"tags": (("x", "y"), ("z",)), "year": (1999, 2001)}
    assert data.task == {"tags": "multilabel", "year": "classification"}
    with pytest.raises(UnknownName, match=r"target columns"):
        text_table(tmp_path, "t.csv", content, target="tags", task={"tag": "multilabel"})


def test_a_bad_label_is_named_by_its_line(tmp_path):
    with pytest.raises(DataError, match=r"line 4 of t\.csv, e\.g\. 'tall'"):
        text_table(tmp_path, "t.csv", 'text,label\n"a\nb",1.5\nc,tall\n', task="regression")


def test_groups_and_parts(tmp_path):
    content = "text,label,who,part\na,x,ann,train\nb,y,,test\nc,x,7,\n"
    data = text_table(tmp_path, "t.csv", content, groups="who", split="part")
    assert data.groups == ("ann", None, "7") and data.parts == ("train", "test", None)
    assert data.part("train").items == ("a",) and data.part("testing").items == ("b",)


def test_json_values_keep_their_kind(tmp_path):
    rows = [{"text": "a", "label": ["x", "y"], "g": 3}, {"text": "b", "label": [], "g": None}, {"text": "c", "g": "q"}]
    data = text_table(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)), groups="g")
    assert data.targets == (("x", "y"), (), None) and data.groups == (3, None, "q")
    numbers = text_table(tmp_path, "n.jsonl", '{"text": "a", "label": 0.5}\n{"text": "b", "label": NaN}\n')
    assert numbers.targets == (0.5, None) and numbers.task == "regression"


def test_lone_surrogates_survive(tmp_path):
    data = text_table(tmp_path, "t.jsonl", '{"text": "\\ud800", "label": "\\udfff"}\n')
    assert data.items == ("\ud800",) and data.keys()[0] is not None and data.fingerprint


# ---- parquet ------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")


def test_parquet(tmp_path, parquet):
    files, arrow = parquet
    table = arrow.table({"text": ["a", "b"] * 10_000, "label": [1, None] * 10_000, "a.b": [True, False] * 10_000})
    files.write_table(table, tmp_path / "t.parquet", row_group_size=3000)
    data = Dataset.from_table(tmp_path / "t.parquet", input="text", target=["label", "a.b"])
    assert len(data) == 20_000 and data.targets["label"][:2] == (1, None) and data.targets["a.b"][:2] == (True, False)
    with pytest.raises(UnknownName, match=r"did you mean 'label'"):
        Dataset.from_table(tmp_path / "t.parquet", input="text", target="labels")


def test_parquet_types(tmp_path, parquet):
    import datetime
    import decimal

    files, arrow = parquet
    table = arrow.table(
        {
            "text": arrow.array(["a", "b"]).dictionary_encode(),
            "price": [decimal.Decimal("1.5"), None],
            "day": [datetime.date(2024, 1, 2), None],
            "tags": [["x"], []],
            "rows": [[0.5, 1.0], [2.0, 3.0]],
        }
    )
    files.write_table(table, tmp_path / "t.pq")
    data = Dataset.from_table(tmp_path / "t.pq", input="text", target=["price", "day", "tags", "rows"])
    assert data.targets["price"] == (1.5, None) and data.targets["day"] == ("2024-01-02", None)
    assert data.targets["tags"] == (("x",), ()) and data.targets["rows"] == ((0.5, 1.0), (2.0, 3.0))


def test_parquet_without_rows_or_damaged(tmp_path, parquet):
    files, arrow = parquet
    files.write_table(arrow.table({"text": arrow.array([], "string")}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"no rows"):
        Dataset.from_table(tmp_path / "e.parquet", input="text")
    files.write_table(arrow.table({"text": ["abc" * 1000] * 50}), tmp_path / "t.parquet", compression="none")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet cannot be read as parquet"):
        Dataset.from_table(tmp_path / "cut.parquet", input="text")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setattr("headstart._base.extras.is_installed", lambda module: False)
    with pytest.raises(MissingPackage, match=r"pyarrow.*needed to read parquet tables"):
        Dataset.from_table(write(tmp_path, "t.parquet", b"PAR1"), input="text")


# ---- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_random_bytes_give_only_our_errors(tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    seeds = [b"text,label\n", b'{"text": "a"', b"PAR1", b"", b'text\tlabel\n"', "\ufefftext,label\n".encode()]
    for i in range(120):
        letters = rng.integers(0, 256, 60) if i % 2 else rng.choice(list(b'abc,;\t\n\r"{}[]:0.\\'), 60)
        path = write(tmp_path, f"{i}.{suffix}", seeds[i % len(seeds)] + bytes(letters.tolist()))
        try:
            data = Dataset.from_table(path, input="text", target="label")
        except HeadstartError as error:
            assert len(str(error)) > 20
        else:
            assert len(data) == len(data.targets)


def test_the_csv_limit_of_others_is_not_lowered(tmp_path):
    csv.field_size_limit(1 << 30)
    text_table(tmp_path, "a.csv", "text,label\na,x\n")
    assert csv.field_size_limit() >= 1 << 30


# ---- real tables --------------------------------------------------------------------------------------------------

REAL = {
    "text/trec6/train.csv": ({"input": "text", "target": "label"}, 5452, 6, int),
    "text/trec6/test.csv": ({"input": "text", "target": "label"}, 500, 6, int),
    "text/sst2/train.csv": ({"input": "text", "target": "label"}, 6920, 2, str),
    "text/sst2/dev.csv": ({"input": "text", "target": "label"}, 872, 2, str),
    "text/sst2/test.csv": ({"input": "text", "target": "label"}, 1821, 2, str),
    "text/cr/all.csv": ({"input": "text", "target": "label"}, 3775, 2, str),
    "text/thucnews_zh/train.csv": ({"input": "text", "target": "label"}, 10_000, 10, str),
    "text/thucnews_zh/test.csv": ({"input": "text", "target": "label"}, 10_000, 10, str),
    "audio/fsdd.csv": ({"input": "path", "target": "digit", "groups": "speaker", "split": "split"}, 1200, 10, int),
    "audio/esc10.csv": ({"input": "path", "target": "label", "groups": "fold"}, 200, 10, str),
    "audio/esc10/labels.csv": ({"input": "path", "target": "label", "split": "split"}, 200, 10, str),
    "images/trashnet/labels.csv": ({"input": "path", "target": "label", "split": "split"}, 600, 6, str),
    "images/sign_digits/labels.csv": ({"input": "path", "target": "label", "split": "split"}, 1000, 10, int),
    "summarization/bbc100.jsonl": ({"input": "document", "target": "topic"}, 100, None, str),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables(shared, name):
    options, n, classes, kind = REAL[name]
    data = Dataset.from_table(shared / name, **options)
    assert len(data) == n and data.task == "classification"
    assert classes is None or len(data.classes) == classes
    assert {type(v) for v in data.targets} == {kind}
    if data.modality == "text":
        assert all(isinstance(item, str) for item in data.items)
    else:
        assert data.modality == name.split("/")[0].rstrip("s") and all(item.is_file() for item in data.items)
    with open(shared / name, encoding="utf-8", newline="") as file:
        if name.endswith("csv"):
            plain = [row[options["input"]] for row in csv.DictReader(file)]
            assert plain == [str(i) if data.root is None else str(i.relative_to(data.root)) for i in data.items]


def test_real_summaries(shared):
    path = shared / "summarization/bbc100.jsonl"
    data = Dataset.from_table(path, input="document", target="summary", task="summarization")
    assert data.task == "summarization" and data.classes is None and data.modality == "text"
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert (data.items[0], data.targets[0]) == (first["document"], first["summary"])
    train, test = data.split(test_size=0.4, random_state=0)
    assert (len(train), len(test)) == (60, 40)


def test_real_speakers_stay_apart(shared):
    data = Dataset.from_table(shared / "audio/fsdd.csv", input="path", target="digit", groups="speaker", split="split")
    train, test = data.part("train"), data.part("test")
    assert len(train) + len(test) == 1200 and not set(train.groups) & set(test.groups)
    assert set(train.targets) == set(test.targets) == set(range(10))
