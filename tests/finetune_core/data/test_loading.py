"""Every file gives its rows, or says which of them cannot be read."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_core.data.loading import read_rows
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError

ROWS = [{"prompt": "a, b", "completion": "1"}, {"prompt": 'say "hä"\nnow', "completion": "2"}]
CSV = 'prompt,completion\n"a, b",1\n"say ""hä""\nnow",2\n'


def write(path, content):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def refusal(path, content, kind=DatasetFormatError):
    with pytest.raises(kind) as caught:
        list(read_rows(write(path, content)))
    assert str(path) in caught.value.message
    return caught.value.message.removeprefix(str(path))


CONTENTS = [
    ("a.json", json.dumps(ROWS)),
    ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS)),
    ("a.csv", CSV),
    ("a.parquet", ROWS),
    ("A.JSONL", "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)),
]


@pytest.mark.parametrize(("name", "content"), CONTENTS)
def test_each_kind_of_file_gives_the_same_rows(tmp_path, name, content):
    assert list(read_rows(write(tmp_path / name, content))) == [(1, ROWS[0]), (2, ROWS[1])]


@pytest.mark.parametrize(("name", "content"), [each for each in CONTENTS if each[1] is not ROWS])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, name, content):
    path = write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    assert [row.values for row in read_rows(path)] == ROWS


@pytest.mark.parametrize(("name", "content"), CONTENTS)
def test_a_limit_reads_the_first_rows(tmp_path, name, content):
    assert list(read_rows(write(tmp_path / name, content), 1)) == [(1, ROWS[0])]


def test_a_limit_stops_before_a_broken_line(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}\nbroken\n')
    assert [row.values["a"] for row in read_rows(path, 2)] == [1, 2]


def test_empty_lines_are_passed_over(tmp_path):
    path = write(tmp_path / "a.jsonl", '\n{"a": 1}\n  \n{"a": 2}')
    assert [row.values["a"] for row in read_rows(path)] == [1, 2]


def test_a_separator_inside_of_text_ends_no_line(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": "x\u2028y\u0085z"}\n')
    assert [row.values["a"] for row in read_rows(path)] == ["x\u2028y\u0085z"]


def test_a_broken_line_is_named_by_its_number(tmp_path):
    message = refusal(tmp_path / "a.jsonl", '{"a": 1}\n\n{"a": 2\n{"a": 3}\n')
    assert message.startswith(", line 3: is not JSON")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "{}\n[1]\n"), ("a.json", "[{}, [1]]")])
def test_a_row_that_is_no_object_is_named_by_its_number(tmp_path, name, content):
    assert refusal(tmp_path / name, content) == ", row 2: should be an object, found list"


@pytest.mark.parametrize("row", ["a", "a,b,c"])
def test_a_csv_row_with_other_fields_than_the_header_is_named(tmp_path, row):
    message = refusal(tmp_path / "a.csv", f"prompt,completion\n1,2\n{row}\n")
    assert message == ", line 3: has not the 2 fields that the header names"


def test_an_empty_csv_field_is_empty_text(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,completion\n1,\n")
    assert [row.values for row in read_rows(path)] == [{"prompt": "1", "completion": ""}]


def test_a_quote_that_is_never_closed_is_refused(tmp_path):
    assert ", line " in refusal(tmp_path / "a.csv", 'prompt,completion\n1,"2\n3,4\n')


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", '{"a": 1}', "should hold a list of objects, found dict"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "is not JSON"),
        ("a.parquet.jsonl", b"PAR1\x00\xff\xfe", "is not UTF-8 text"),
        ("a.csv", b"a,b\n\xff,1\n", "is not UTF-8 text"),
        ("a.txt", "a", "the ending .txt is not known"),
        ("a", "a", "the ending (none) is not known"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path, name, content, problem):
    assert refusal(tmp_path / name, content).startswith(f": {problem}")


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DatasetFormatError, match="is not Parquet"):
        list(read_rows(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", ""),
        ("a.json", "[]"),
        ("a.jsonl", ""),
        ("a.jsonl", "\n\n"),
        ("a.csv", ""),
        ("a.csv", "prompt,completion\n"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    assert refusal(tmp_path / name, content, EmptyDatasetError) == " has no rows"


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(EmptyDatasetError):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_path_to_nothing_or_to_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "nope.jsonl", tmp_path):
        with pytest.raises(DatasetNotFoundError, match=str(path)):
            list(read_rows(path))
