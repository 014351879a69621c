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


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize(("name", "content"), [each for each in CONTENTS if each[1] is not ROWS])
def test_a_packed_file_gives_the_same_rows(tmp_path, name, content, ending):
    path = tmp_path / f"{name}{ending}"
    with pa.output_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[ending]) as file:
        file.write(content.encode())
    assert [row.values for row in read_rows(path)] == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_known_by_its_mark(tmp_path, encoding):
    mark = "" if encoding == "utf-16" else "\ufeff"
    path = write(tmp_path / "a.csv", (mark + CSV).encode(encoding))
    assert [row.values for row in read_rows(path)] == ROWS


def test_a_json_file_with_an_object_a_line_is_read_as_such(tmp_path):
    path = write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n')
    assert list(read_rows(path)) == [(1, {"a": 1}), (2, {"a": 2})]
    assert refusal(path, '{"a": 1}\n{"a"\n').startswith(", line 2: is not JSON")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_delimiter_is_told_from_the_header(tmp_path, delimiter):
    content = f'prompt{delimiter}completion\n"1, 2; 3|4\t5"{delimiter}6\n'
    (row,) = read_rows(write(tmp_path / "a.csv", content))
    assert row.values == {"prompt": "1, 2; 3|4\t5", "completion": "6"}


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path):
    path = tmp_path / "bomb.jsonl.gz"
    with pa.output_stream(str(path), compression="gzip") as file:
        for _ in range(64):
            file.write(b" " * 2**20)
    assert path.stat().st_size < 2**17
    with pytest.raises(DatasetFormatError, match="unpacks to more than 8 MiB"):
        list(read_rows(path, unpacked_limit=8 * 2**20))


def test_a_file_that_is_not_packed_as_its_ending_says_is_refused(tmp_path):
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert refusal(tmp_path / name, '{"a": 1}').startswith(": cannot be read")


def test_a_number_that_json_does_not_know_is_refused(tmp_path):
    assert ", line 2: is not JSON (NaN" in refusal(tmp_path / "a.jsonl", '{"a": 1}\n{"a": NaN}\n')


def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.jsonl", '{"a": 3}\n')
    write(tmp_path / "a.csv", "a\n1\n2\n")
    write(tmp_path / "notes.txt", "not data")
    assert list(read_rows(tmp_path)) == [(1, {"a": "1"}), (2, {"a": "2"}), (3, {"a": 3})]


def test_a_fault_in_a_folder_is_named_by_its_file_and_line(tmp_path):
    write(tmp_path / "a.jsonl", '{"a": 1}\n')
    write(tmp_path / "b.jsonl", '{"a": 1}\noops\n')
    with pytest.raises(DatasetFormatError, match=r"b\.jsonl, line 2"):
        list(read_rows(tmp_path))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    outside = write(tmp_path / "secret.jsonl", '{"a": 1}\n')
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").symlink_to(outside)
    with pytest.raises(DatasetFormatError, match="a link that leads out of the folder"):
        list(read_rows(folder))


def test_a_folder_without_data_is_no_dataset(tmp_path):
    with pytest.raises(DatasetNotFoundError):
        list(read_rows(tmp_path))
