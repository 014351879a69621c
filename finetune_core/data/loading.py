"""Reads files row by row: JSON, JSONL, CSV and Parquet, packed or not, one or a folder of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from finetune_core.data.opening import PACKED, open_text
from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError

UNPACKED_LIMIT = 4 * 2**30
CSV_SAMPLE = 64 * 2**10  # characters from which a CSV file's dialect is told


class SourceRow(NamedTuple):
    """A row and its number in the dataset, counted from 1."""

    number: int
    values: dict[str, Any]


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
    count = 0
    rows = chain.from_iterable(_read(file, unpacked_limit) for file in find_files(path))
    for count, (file, number, values) in enumerate(islice(rows, limit), start=1):
        if not isinstance(values, dict):
            raise DatasetFormatError(
                f"{file}, row {number}: should be an object, found {type(values).__name__}",
                hint='Each row is like {"prompt": "...", "completion": "..."}.',
            )
        yield SourceRow(count, values)
    if count == 0:
        raise EmptyDatasetError(f"{path} has no rows", hint="A dataset needs at least two rows.")


def find_files(path: Path) -> list[Path]:
    """The files of a dataset: the one that the path names, or the known ones of a folder, sorted.

    Args:
        path: A .json, .jsonl, .csv or .parquet file, the first three also as .gz or .zst, or a
            folder of these.

    Raises:
        DatasetNotFoundError: There is no such file, or none in the folder.
        DatasetFormatError: The ending is not known, or a link leads out of the folder.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and _reader(file))
        for file in files:
            if not file.resolve().is_relative_to(path.resolve()):
                raise DatasetFormatError(f"{file}: is a link that leads out of the folder")
        if files:
            return files
    elif path.is_file():
        if _reader(path):
            return [path]
        raise DatasetFormatError(
            f"{path}: the ending {path.suffix or '(none)'} is not known",
            hint=f"Known are: {', '.join(READERS)}; but for .parquet also with .gz or .zst.",
        )
    raise DatasetNotFoundError(
        f"there is no dataset file {path}{'/*' if path.is_dir() else ''}",
        hint="Give a JSON, JSONL, CSV or Parquet file, or a folder of these.",
    )


def _read(file: Path, limit: int) -> Iterator[tuple[Path, int, Any]]:
    reader = _reader(file)
    assert reader is not None, "find_files gives only what has a reader"  # noqa: S101
    for number, values in enumerate(reader(file, limit), start=1):
        yield file, number, values


def _reader(file: Path) -> Callable[[Path, int], Iterator[Any]] | None:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        return None if suffixes[-2:-1] == [".parquet"] else READERS.get("".join(suffixes[-2:-1]))
    return READERS.get("".join(suffixes[-1:]))


def _jsonl(path: Path, limit: int) -> Iterator[Any]:
    with open_text(path, limit) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line, parse_constant=_refuse_constant)
                except (ValueError, RecursionError) as error:
                    raise DatasetFormatError(
                        f"{path}, line {number}: is not JSON ({error})",
                        hint="Each line of a .jsonl file is one JSON object.",
                    ) from None


def _json(path: Path, limit: int) -> Iterator[Any]:
    with open_text(path, limit) as file:
        content = file.read()
    if not content.strip():
        return
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith("{") and "\n" in content.strip():
            yield from _jsonl(path, limit)  # one object a line, under the other ending
            return
        raise DatasetFormatError(
            f"{path}: is not JSON ({error})", hint="A .json file holds one list of objects."
        ) from None
    if not isinstance(value, list):
        raise DatasetFormatError(
            f"{path}: should hold a list of objects, found {type(value).__name__}"
        )
    yield from value


def _csv(path: Path, limit: int) -> Iterator[Any]:
    with open_text(path, limit, newline="") as file:
        sample = file.read(CSV_SAMPLE)
    with open_text(path, limit, newline="") as file:
        reader = csv.DictReader(file, dialect=_dialect(sample), strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or [])
                    raise DatasetFormatError(
                        f"{path}, line {reader.line_num}: has not the {expected} fields "
                        "that the header names"
                    )
                yield row
        except csv.Error as error:
            raise DatasetFormatError(f"{path}, line {reader.line_num}: {error}") from None


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
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetFormatError(f"{path}: is not Parquet ({error})") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
