"""Every file gives its rows, or says which of them cannot be read."""

from __future__ import annotations

import json
import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_core.data import loading
from finetune_core.data.loading import find_files, read_blocks, read_rows
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError

ROWS = [{"prompt": "a, b", "completion": "1"}, {"prompt": 'say "hä"\nnow', "completion": "2"}]
CSV = 'prompt,completion\n"a, b",1\n"say ""hä""\nnow",2\n'


def write(path, content):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(content)
        with pa.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table)
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
    ("a.arrow", ROWS),
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


def test_a_limit_goes_on_from_file_to_file(tmp_path):
    for name, numbers in (("a", (1, 2)), ("b", (3, 4)), ("c", (5, 6))):
        write(tmp_path / f"{name}.jsonl", "".join(f'{{"a": {n}}}\n' for n in numbers))
    for limit in range(1, 8):
        expected = [(n, {"a": n}) for n in range(1, min(limit, 6) + 1)]
        assert list(read_rows(tmp_path, limit)) == expected


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


def test_a_csv_field_may_be_as_long_as_a_book(tmp_path):
    text = "long, longer\n" * 100_000
    (row,) = read_rows(write(tmp_path / "a.csv", f'text\n"{text}"\n'))
    assert row.values == {"text": text}


def test_an_empty_csv_field_is_empty_text(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,completion\n1,\n")
    assert [row.values for row in read_rows(path)] == [{"prompt": "1", "completion": ""}]


def test_a_quote_that_is_never_closed_is_refused(tmp_path):
    assert ", line " in refusal(tmp_path / "a.csv", 'prompt,completion\n1,"2\n3,4\n')


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", '"a"', "is not JSON"),
        ("a.json", "prompt,completion", "is not JSON"),
        ("a.json", b"[\xff]", ", line 1: is not UTF-8 text"),
        ("a.parquet.gz", "a", "the ending .gz is not known"),
        ("a.parquet.jsonl", b"PAR1\x00\xff\xfe", ", line 1: is not UTF-8 text"),
        ("a.csv", b"a,b\n\xff,1\n", ", line 2: is not UTF-8 text"),
        ("a.txt", "a", "the ending .txt is not known"),
        ("a", "a", "the ending (none) is not known"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path, name, content, problem):
    message = refusal(tmp_path / name, content)
    assert message.startswith(problem if problem.startswith(",") else f": {problem}")


@pytest.mark.parametrize(("ending", "name"), [("parquet", "Parquet"), ("arrow", "Arrow")])
def test_a_binary_file_that_is_none_is_refused(tmp_path, ending, name):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DatasetFormatError, match=f"is not {name}"):
        list(read_rows(path))


def test_a_parquet_file_that_ends_too_early_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetFormatError, match="is not Parquet"):
        list(read_rows(path))


def test_values_of_a_parquet_file_come_as_python_has_them(tmp_path):
    row = {"text": None, "label": 3, "turns": [{"role": "user", "content": None}]}
    write(tmp_path / "a.parquet", [row, row | {"text": "a"}])
    assert next(read_rows(tmp_path / "a.parquet")).values == row
    pq.write_table(pa.table({"a": pa.array([math.nan])}), tmp_path / "b.parquet")
    assert math.isnan(next(read_rows(tmp_path / "b.parquet")).values["a"])


def test_more_rows_than_a_batch_of_parquet_are_all_read(tmp_path):
    count = 2 * loading.BLOCK_ROWS + 1
    path = write(tmp_path / "a.parquet", [{"a": n} for n in range(count)])
    assert [row.values["a"] for row in read_rows(path)] == list(range(count))


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


def items(path):
    """What blocks hold of a list: values that need not be rows."""
    return [item for block in read_blocks([path]) for item in block.items]


LIST = """
[ {"a": 1, "b": "x\\u00e9\\ud83d\\ude00\\"]}[{,"}
,{}, {"n": [-12.5e+3, 0, 1E5, true, false, null, 123456789012345678901234567890, 1.0]},
  {"deep": [[{"a": {"b": [[], {}, "", "\\\\"]}}]]},\t{"\u00e4\U0001f600": "\u2028"}\r\n]

"""


@pytest.mark.parametrize("chunk", [*range(1, 30), 50, 100, len(LIST)])
def test_a_list_is_read_alike_wherever_its_chunks_end(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(loading, "JSON_CHUNK", chunk)
    path = write(tmp_path / "a.json", LIST)
    assert [row.values for row in read_rows(path)] == json.loads(LIST)


@pytest.mark.parametrize("numbers", [[1234567, -89, 0, 55], [1.5, 20.25], [1e5, -2.5e-7]])
def test_a_number_that_goes_on_in_the_next_chunk_is_one_number(tmp_path, monkeypatch, numbers):
    text = json.dumps(numbers)
    path = write(tmp_path / "a.json", text)
    for chunk in range(1, len(text) + 1):
        monkeypatch.setattr(loading, "JSON_CHUNK", chunk)
        assert items(path) == numbers


def make_value(random_, depth=0):
    kind = random_.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [make_value(random_, depth + 1) for _ in range(random_.randrange(4))]
    if kind == 6:
        return make_row(random_, depth + 1)
    return [
        random_.choice([None, True, False]),
        random_.randint(-(10**20), 10**20),
        random_.uniform(-1e9, 1e9) * 10 ** random_.randint(-200, 200),
        "".join(random_.choices('ab"\\/[]{},: \n\t\x00\x7f\u00e9\u2028\ud83d\U0001f600', k=9)),
        "",
    ][kind]


def make_row(random_, depth=0):
    return {f"{n}\u00e9": make_value(random_, depth) for n in range(random_.randrange(4))}


@pytest.mark.parametrize("seed", range(40))
def test_any_list_gives_what_json_gives(tmp_path, monkeypatch, seed):
    random_ = random.Random(seed)
    rows = [make_row(random_) for _ in range(random_.randrange(1, 20))]
    options = {
        "indent": random_.choice([None, 1]),
        "separators": random_.choice([None, (",", ":")]),
    }
    text = json.dumps(rows, **options)
    monkeypatch.setattr(loading, "JSON_CHUNK", random_.choice([1, 2, 3, 7, 64, 2**20]))
    path = write(tmp_path / "a.json", text)
    read = list(read_rows(path))
    assert [row.values for row in read] == json.loads(text) == rows
    assert [row.number for row in read] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize("chunk", [1, 2, 5, 2**20])
@pytest.mark.parametrize(
    ("text", "after"),
    [
        ('[{"a": 1},]', 1),
        ("[,{}]", 0),
        ("[{},,{}]", 1),
        ('[{"a": 1} {"a": 2}]', 1),
        ("[{}{}]", 1),
        ('[{"a": 1}, {"a" 2}, {}]', 1),
        ('[{"a": 1}, {"a": 2}', 2),
        ('[{"a": 1}, {"a": 2', 1),
        ('[{"a": 1},', 1),
        ('[{"a": "1', 0),
        ("[", 0),
        ('[{"a": NaN}]', 0),
        ('[{"a": -Infinity}]', 0),
        ("[{}][{}]", 1),
        ("[{}]}", 1),
        ("[{}] x", 1),
        ("[{}, nul]", 1),
        ("[{'a': 1}]", 0),
        ('[{"a": "\n"}]', 0),
        ('[{"a": "\\x"}]', 0),
        ("[[}]", 0),
    ],
)
def test_a_list_that_is_broken_is_refused_with_the_row_before(
    tmp_path, monkeypatch, text, after, chunk
):
    with pytest.raises(ValueError):  # noqa: PT011 - as json has it, whatever it says
        json.loads(text, parse_constant=int)
    monkeypatch.setattr(loading, "JSON_CHUNK", chunk)
    place = f", after row {after}" if after else ", at its first row"
    assert refusal(tmp_path / "a.json", text).startswith(f"{place}: is not JSON")


@pytest.mark.parametrize("text", ["[1]", "[{}, 2.5]", "[[]]", '["a"]', "[null]"])
def test_what_is_no_object_in_a_list_is_named_by_its_row(tmp_path, monkeypatch, text):
    monkeypatch.setattr(loading, "JSON_CHUNK", 1)
    row = len(json.loads(text))
    assert refusal(tmp_path / "a.json", text).startswith(f", row {row}: should be an object")


def test_a_list_nested_without_end_is_refused(tmp_path):
    assert "is not JSON" in refusal(tmp_path / "a.json", "[" * 300_000)
    assert "line 1: is not JSON" in refusal(tmp_path / "a.jsonl", "[" * 300_000)


def test_a_row_of_many_chunks_is_read_whole(tmp_path):
    long = "x\u00e9\n" * 3_500_000
    rows = [{"a": 1}, {"a": long}, {"a": 3}]
    path = write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False))
    assert path.stat().st_size > 15 * loading.JSON_CHUNK
    assert [row.values for row in read_rows(path)] == rows


def test_an_item_longer_than_any_row_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "JSON_CHUNK", 10)
    monkeypatch.setattr(loading, "LONGEST_ITEM", 100)
    path = write(tmp_path / "a.json", json.dumps([{"a": "x" * 60}, {"a": "x" * 1000}]))
    with pytest.raises(DatasetFormatError, match="after row 1"):
        list(read_rows(path))


def test_a_list_is_not_read_further_than_is_asked(tmp_path):
    rows = json.dumps([{"a": n} for n in range(3 * loading.BLOCK_ROWS)])
    path = write(tmp_path / "a.json", rows.removesuffix("]") + " broken")
    blocks = read_blocks([path])
    assert next(blocks).row(0) == (1, {"a": 0})
    assert [row.number for row in read_rows(path, 5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("lead", ["\n", " " * 100, "\ufeff", "\ufeff \r\n\t"])
@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}\n'])
def test_blanks_before_a_json_file_are_passed_over(tmp_path, monkeypatch, lead, text):
    monkeypatch.setattr(loading, "JSON_CHUNK", 4)
    path = write(tmp_path / "a.json", lead + text)
    assert [row.values["a"] for row in read_rows(path)] == [1, 2]


@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7])
def test_blocks_have_the_rows_in_order_and_never_too_many(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(loading, "BLOCK_ROWS", 3)
    write(tmp_path / "a.jsonl", "".join(f'{{"a": {n}}}\n' for n in range(1, rows + 1)))
    write(tmp_path / "b.csv", f"a\n{rows + 1}\n")
    blocks = list(read_blocks(find_files(tmp_path)))
    assert all(1 <= len(block.items) <= 3 for block in blocks)
    assert [block.file.name for block in blocks] == ["a.jsonl"] * -(-rows // 3) + ["b.csv"]
    found = [(row.number, int(row.values["a"])) for block in blocks for row in block.rows()]
    assert found == [(n, n) for n in range(1, rows + 2)]
    assert [block.row(0).number for block in blocks] == [block.first for block in blocks]


def test_long_lines_make_blocks_of_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BLOCK_CHARACTERS", 100)
    path = write(tmp_path / "a.jsonl", "".join(f'{{"a": "{"x" * 60}"}}\n' for _ in range(6)))
    assert [len(block.items) for block in read_blocks([path])] == [2, 2, 2]


def test_a_broken_line_is_found_only_where_its_row_is_asked_for(tmp_path):
    (block,) = read_blocks([write(tmp_path / "a.jsonl", '{"a": 1}\n\noops\n{"a": 3}\n')])
    assert (block.row(0), block.row(2)) == ((1, {"a": 1}), (3, {"a": 3}))
    with pytest.raises(DatasetFormatError, match="line 3: is not JSON"):
        block.row(1)


def test_a_folder_with_an_empty_file_is_read_past_it(tmp_path):
    write(tmp_path / "a.jsonl", "")
    write(tmp_path / "b.jsonl", '{"a": 1}\n')
    assert list(read_rows(tmp_path)) == [(1, {"a": 1})]
    write(tmp_path / "b.jsonl", "\n")
    with pytest.raises(EmptyDatasetError, match=str(tmp_path)):
        list(read_rows(tmp_path))
