"""Reads files row by row: JSON, JSONL, CSV, Parquet and Arrow, packed or not, one or several."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from finetune_core.data.opening import PACKED, open_text
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError

UNPACKED_LIMIT = 4 * 2**30
BLOCK_ROWS, BLOCK_CHARACTERS = 2000, 2**20
CSV_SAMPLE = 64 * 2**10  # characters from which a CSV file's dialect is told
JSON_CHUNK, LONGEST_ITEM = 2**20, 2**28  # characters
BEHIND = {",", "]", " ", "\t", "\n", "\r"}  # what may stand behind an item
BLANKS = re.compile(r"[ \t\n\r]*")


class SourceRow(NamedTuple):
    """A row and its number in the dataset, counted from 1."""

    number: int
    values: dict[str, Any]


class Line(NamedTuple):
    """A line of JSON that is parsed only where its block is worked on, and its number."""

    number: int
    text: str


class Block(NamedTuple):
    """Some rows of a file.

    Attributes:
        file: The file.
        first: The first row's number in the dataset, counted from 1.
        before: The rows of the files before this one.
        items: The rows, as lines of JSON or as values.
    """

    file: Path
    first: int
    items: list[Any]
    before: int = 0

    def rows(self) -> Iterator[SourceRow]:
        """The rows, parsed.

        Raises:
            DatasetFormatError: One of them cannot be; it is named by its number.
        """
        return (self.row(place) for place in range(len(self.items)))

    def where(self, number: int) -> str:
        """Where a row of the dataset stands, for messages: its file, and its number there."""
        return f"{self.file}, row {number - self.before}"

    def row(self, place: int) -> SourceRow:
        """One of the rows, parsed.

        Args:
            place: Which of them, counted from 0.
        """
        item, number = self.items[place], self.first + place
        values = _parse(self.file, item) if isinstance(item, Line) else item
        if not isinstance(values, dict):
            raise DatasetFormatError(
                f"{self.where(number)}: should be an object, found {type(values).__name__}",
                hint='Each row is like {"prompt": "...", "completion": "..."}.',
            )
        return SourceRow(number, values)


def read_rows(
    path: Path, limit: int | None = None, unpacked_limit: int = UNPACKED_LIMIT
) -> Iterator[SourceRow]:
    """Reads the rows of a file, or of a folder's files one after the other.

    Args:
        path: What `find_files` takes.
        limit: Stop after so many rows.
        unpacked_limit: The bytes that one file may unpack to.

    Raises:
        DatasetNotFoundError: There is no such file.
        EmptyDatasetError: There is no row.
        DatasetFormatError: A line or a row cannot be read; it is named by its number.
    """
    for block in read_blocks(find_files(path), limit, unpacked_limit):
        yield from block.rows()


def read_blocks(
    files: Sequence[Path], limit: int | None = None, unpacked_limit: int = UNPACKED_LIMIT
) -> Iterator[Block]:
    """As `read_rows`, some rows at a time, and of files that were found before."""
    first = 1
    for file in files:
        reader = _reader(file)
        assert reader is not None, "find_files gives only what has a reader"  # noqa: S101
        left = None if limit is None else limit - first + 1
        before = first - 1
        for items in _grouped(islice(reader(file, unpacked_limit), left)):
            yield Block(file, first, items, before)
            first += len(items)
    if first == 1:
        raise EmptyDatasetError(
            f"{files[0] if len(files) == 1 else files[0].parent} has no rows",
            hint="A dataset needs at least two rows.",
        )


def _grouped(items: Iterator[Any]) -> Iterator[list[Any]]:
    """Groups items so that a group is neither too many of them nor too much text."""
    group: list[Any] = []
    characters = 0
    for item in items:
        group.append(item)
        characters += len(item.text) if isinstance(item, Line) else 0
        if len(group) == BLOCK_ROWS or characters >= BLOCK_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def find_files(path: Path) -> list[Path]:
    """The files of a dataset: the one that the path names, or the known ones of a folder, sorted.

    Args:
        path: A .json, .jsonl, .csv or .parquet file, the first three also as .gz or .zst, or a
            folder of these.

    Raises:
        DatasetNotFoundError: There is no such file, or none in the folder.
        DatasetFormatError: The ending is not known, or a link leads out of the folder.
    """
    try:
        return _find_files(path)
    except OSError as error:
        raise DatasetNotFoundError(f"{path}: cannot be read ({error.strerror})") from None


def _find_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if (file.is_file() or file.is_symlink()) and _reader(file)
        )
        for file in files:
            if not file.exists():
                raise DatasetNotFoundError(f"{file}: is a link that leads to nothing")
            if not file.resolve().is_relative_to(path.resolve()):
                raise DatasetFormatError(f"{file}: is a link that leads out of the folder")
        if files:
            return files
    elif path.is_file():
        if _reader(path):
            path.open("rb").close()
            return [path]
        raise DatasetFormatError(
            f"{path}: the ending {path.suffix or '(none)'} is not known",
            hint=f"Known are: {', '.join(READERS)}; but for .parquet also with .gz or .zst.",
        )
    raise DatasetNotFoundError(
        f"there is no dataset file {path}{'/*' if path.is_dir() else ''}",
        hint="Give a JSON, JSONL, CSV or Parquet file, or a folder of these.",
    )


def _reader(file: Path) -> Callable[[Path, int], Iterator[Any]] | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        return None if suffixes[-2:-1] == [".parquet"] else READERS.get("".join(suffixes[-2:-1]))
    return READERS.get("".join(suffixes[-1:]))


def _jsonl(path: Path, limit: int) -> Iterator[Line]:
    with open_text(path, limit) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield Line(number, line)


def _parse(file: Path, line: Line) -> Any:
    try:
        if line.text.startswith("\ufeff"):
            raise ValueError("it begins with a byte order mark, which may only begin the file")
        return DECODER.decode(line.text)
    except (ValueError, RecursionError) as error:
        raise DatasetFormatError(
            f"{file}, line {line.number}: is not JSON ({error})",
            hint="Each line of a .jsonl file is one JSON object; a .json file may also be a list.",
        ) from None


def _json(path: Path, limit: int) -> Iterator[Any]:
    with open_text(path, limit) as file:
        text = file.read(JSON_CHUNK)
        while text.isspace():
            text = file.read(JSON_CHUNK)
        if text and text.lstrip()[0] not in "[{":
            raise DatasetFormatError(
                f"{path}: is not JSON (it begins with {text.lstrip()[:20]!r})",
                hint="A .json file holds one list of objects.",
            )
        if text.lstrip().startswith("["):
            yield from _items(path, text, file)
            return
    yield from _jsonl(path, limit)  # one object a line, under the other ending


def _items(path: Path, text: str, file: Any) -> Iterator[Any]:
    """The items of a list that is read a chunk at a time, and never held whole.

    Args:
        path: The file, for errors.
        text: Its first chunk.
        file: Gives the rest.
    """
    place, before, count, ended = text.index("[") + 1, "[", 0, False

    def refuse(problem: object) -> DatasetFormatError:
        where = f"after row {count}" if count else "at its first row"
        return DatasetFormatError(
            f"{path}, {where}: is not JSON ({problem})",
            hint="A .json file holds one list of objects.",
        )

    while True:
        place = _behind_blanks(text, place)
        sign = text[place : place + 1]
        try:
            if not sign:
                raise IndexError
            if sign == "]" and before != ",":
                break
            if sign == "," and before == "item":
                before, place = ",", place + 1
                continue
            if before == "item":
                raise refuse(f"expecting ',' or ']', found {text[place : place + 20]!r}")
            value, end = DECODER.raw_decode(text, place)
            if text[end : end + 1] not in BEHIND and not ended:
                raise IndexError  # a number may go on in the next chunk
        except (IndexError, ValueError, RecursionError) as error:
            if ended or len(text) - place > LONGEST_ITEM:
                raise refuse(str(error) or "it ends within the list") from None
            more = file.read(max(JSON_CHUNK, len(text) - place))  # twice as much: it may be long
            ended = not more
            text, place = text[place:] + more, 0
            continue
        before, place, count = "item", end, count + 1
        yield value
    rest = text[place + 1 :] + file.read(JSON_CHUNK)
    if rest.strip():
        raise refuse(f"more follows its list: {rest.strip()[:20]!r}")


def _behind_blanks(text: str, place: int) -> int:
    found = BLANKS.match(text, place)
    return found.end() if found else place


def _csv(path: Path, limit: int) -> Iterator[Any]:
    with open_text(path, limit, newline="") as file:
        sample = file.read(CSV_SAMPLE)
    with open_text(path, limit, newline="") as file:
        reader = csv.DictReader(file, dialect=_dialect(sample), strict=True)
        try:
            _check_header(path, reader.fieldnames or [])
            for row in reader:
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or [])
                    raise DatasetFormatError(
                        f"{path}, line {reader.line_num}: has not the {expected} fields "
                        "that the header names"
                    )
                yield row
        except csv.Error as error:
            # The reader counts lines that it is done with.
            raise DatasetFormatError(f"{path}, line {reader.line_num + 1}: {error}") from None


def _check_header(path: Path, names: Sequence[str]) -> None:
    if not any(name.strip() for name in names):
        raise EmptyDatasetError(f"{path} has no rows", hint="Its first line should name columns.")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DatasetFormatError(f"{path}: names the column {twice[0]!r} more than once")


def _dialect(sample: str) -> type[csv.Dialect]:
    """The usual dialect, with the delimiter that the header has most of.

    `csv.Sniffer` guesses from all of the text, and takes letters for delimiters where answers
    are prose.
    """
    header = sample.partition("\n")[0]

    class Found(csv.excel):
        delimiter = max(",;\t|", key=header.count)

    return Found


def _parquet(path: Path, limit: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(BLOCK_ROWS):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetFormatError(f"{path}: is not Parquet ({str(error)!r})") from None


def _arrow(path: Path, limit: int) -> Iterator[Any]:
    """What `datasets` keeps of a hub's dataset."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            for batch in pa.ipc.open_stream(source):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetFormatError(f"{path}: is not Arrow ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} more than once")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


csv.field_size_limit(LONGEST_ITEM)
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
READERS = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
