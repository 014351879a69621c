"""Reads files row by row: JSON, JSONL, CSV and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from finetune_core.exceptions import DatasetFormatError, DatasetNotFoundError, EmptyDatasetError


class SourceRow(NamedTuple):
    """A row and its number in the file, counted from 1."""

    number: int
    values: dict[str, Any]


def read_rows(path: Path, limit: int | None = None) -> Iterator[SourceRow]:
    """Reads the rows of a file.

    Args:
        path: A .json (a list of objects), .jsonl, .csv or .parquet file.
        limit: Stop after so many rows.

    Raises:
        DatasetNotFoundError: There is no such file.
        EmptyDatasetError: The file has no row.
        DatasetFormatError: A line or a row cannot be read; it is named by its number.
    """
    reader = find_reader(path)
    count = 0
    for count, values in enumerate(islice(reader(path), limit), start=1):
        if not isinstance(values, dict):
            raise DatasetFormatError(
                f"{path}, row {count}: should be an object, found {type(values).__name__}",
                hint='Each row is like {"prompt": "...", "completion": "..."}.',
            )
        yield SourceRow(count, values)
    if count == 0:
        raise EmptyDatasetError(f"{path} has no rows", hint="A dataset needs at least two rows.")


def find_reader(path: Path) -> Callable[[Path], Iterator[Any]]:
    """The reader of a file, by its ending.

    Raises:
        DatasetNotFoundError: There is no such file.
        DatasetFormatError: The ending is not known.
    """
    if not path.is_file():
        raise DatasetNotFoundError(
            f"there is no dataset file {path}",
            hint="Give a JSON, JSONL, CSV or Parquet file.",
        )
    if path.suffix.lower() not in READERS:
        raise DatasetFormatError(
            f"{path}: the ending {path.suffix or '(none)'} is not known",
            hint=f"Known are: {', '.join(READERS)}.",
        )
    return READERS[path.suffix.lower()]


def _jsonl(path: Path) -> Iterator[Any]:
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DatasetFormatError(
                        f"{path}, line {number}: is not JSON ({error})",
                        hint="Each line of a .jsonl file is one JSON object.",
                    ) from None


def _json(path: Path) -> Iterator[Any]:
    with _open(path) as file:
        content = file.read()
    if not content.strip():
        return
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetFormatError(
            f"{path}: is not JSON ({error})",
            hint="A .json file holds one list of objects; for one object a line name it .jsonl.",
        ) from None
    if not isinstance(value, list):
        raise DatasetFormatError(
            f"{path}: should hold a list of objects, found {type(value).__name__}"
        )
    yield from value


def _csv(path: Path) -> Iterator[Any]:
    with _open(path, newline="") as file:
        reader = csv.DictReader(file, strict=True)
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


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise DatasetFormatError(f"{path}: is not Parquet ({error})") from None


READERS = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}


@contextmanager
def _open(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Opens text in UTF-8, with or without its mark."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise DatasetFormatError(
            f"{path}: is not UTF-8 text ({error.reason})", hint="Save the file as UTF-8."
        ) from None
